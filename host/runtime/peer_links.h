// The tensor streams between this node and the other members: one a pair, dialled by the later
// session. Each has a thread that reads and one that writes; reading never waits for writing.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "host/runtime/exchange.h"
#include "host/runtime/stream.h"

namespace lockstep {

class PeerLinks {
 public:
  // `recipe` is a hash that both ends must have. `network` outlives the links.
  PeerLinks(Network& network, uint64_t recipe);
  ~PeerLinks();
  PeerLinks(const PeerLinks&) = delete;
  PeerLinks& operator=(const PeerLinks&) = delete;

  // Opens the data port; the session comes later. Returns the port.
  Result<int> listen(const Address& address);
  void set_session(SessionId self);

  // Waits until there is a stream to every other member of the view, then lets frames flow to and
  // from `exchange`, which outlives the links' next connect() or shut_down().
  Status connect(const View& view, Exchange* exchange, int timeout_ms);
  // Queues a frame; never blocks.
  void send(int member, const Frame& frame);
  // Closes all streams and ends all threads. What is queued is not sent any more.
  void shut_down();

 private:
  struct Link {
    SessionId peer = 0;
    int member = -1;
    std::shared_ptr<ByteStream> stream;
    std::deque<Frame> queue;
    std::condition_variable queued;
    bool broken = false;
    std::thread writer;
    std::thread reader;  // of a dialled stream; an accepted one is read on the listener's thread
  };

  void accepted(std::shared_ptr<ByteStream> stream);
  Status dial(const Member& member, int timeout_ms);
  std::shared_ptr<Link> add_link(SessionId peer, std::shared_ptr<ByteStream> stream);
  void read_frames(const std::shared_ptr<Link>& link);
  Status read_frame(Link& link);
  void write_frames(const std::shared_ptr<Link>& link);
  void lost(Link& link, const std::string& why);

  Network& network_;
  const uint64_t recipe_;
  std::mutex mutex_;
  std::condition_variable changed_;
  SessionId self_ = 0;
  Exchange* exchange_ = nullptr;
  std::map<SessionId, std::shared_ptr<Link>> links_;
  std::vector<Link*> by_member_;
  bool stopping_ = false;
  std::unique_ptr<StreamListener> listener_;
};

}  // namespace lockstep
