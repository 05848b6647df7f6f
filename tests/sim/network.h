// Streams between nodes: ordered, with delay, and breakable at any point of a frame.
#pragma once

#include <array>
#include <deque>
#include <memory>

#include "host/cluster/exchange_machine.h"
#include "tests/sim/world.h"

namespace lockstep::sim {

struct Stream {
  struct Side {
    SessionId session = 0;
    std::deque<FrameKey> queue;  // to be sent by this side
    bool sending = false;
    int64_t last_arrival_us = 0;      // of what it sent, at the other side
    std::optional<FrameKey> partial;  // being received by this side
    bool closed = false;
  };
  int64_t id = 0;
  int era = 0;
  std::array<Side, 2> sides;
  int side_of(SessionId session) const { return sides[0].session == session ? 0 : 1; }
};

class Network {
 public:
  explicit Network(World* world) : world_(*world) {}

  // The caller wants a stream to `to`; on_done hears of it, or nullptr.
  void dial(const std::shared_ptr<SimNode>& from, SessionId to);
  void send(const std::shared_ptr<Stream>& stream, SessionId from, const FrameKey& key);
  // One side closes; the other hears of it, if its machine lives.
  void close(const std::shared_ptr<Stream>& stream, SessionId by);

  // Faults.
  void cut(SessionId a, SessionId b, int64_t until_us);
  void silence(SessionId from, SessionId to, int64_t until_us);
  void heal() {
    cuts_.clear();
    silences_.clear();
  }
  bool is_cut(SessionId a, SessionId b) const;
  void forget_stream(int64_t id) { streams_.erase(id); }

 private:
  using Pair = std::pair<SessionId, SessionId>;
  static Pair unordered(SessionId a, SessionId b) { return {std::min(a, b), std::max(a, b)}; }
  int64_t delay();
  int64_t silent_for(SessionId from, SessionId to) const;
  void pump(const std::shared_ptr<Stream>& stream, int side);
  void deliver(const std::shared_ptr<Stream>& stream, int side, const FrameKey& key,
               std::vector<float> values);

  World& world_;
  int64_t ids_ = 0;
  std::map<int64_t, std::weak_ptr<Stream>> streams_;
  std::map<Pair, int64_t> cuts_;
  std::map<Pair, int64_t> silences_;
};

}  // namespace lockstep::sim
