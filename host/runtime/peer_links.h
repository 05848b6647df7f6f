// The tensor streams between this node and the other members: one a pair, dialled by the later
// session, and dialled again when it breaks. Each has a thread that reads and one that writes;
// reading never waits for writing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "host/runtime/exchange.h"
#include "host/runtime/node_gauges.h"
#include "host/runtime/stream.h"

namespace lockstep {

struct PeerLinksOptions {
  uint64_t recipe = 0;  // a hash that both ends must have
  // A member that has been out of reach for `unreachable_ms`; told again each time that passes.
  std::function<void(SessionId peer, const std::string& why)> unreachable;
  int unreachable_ms = 2000;
  std::shared_ptr<NodeGauges> gauges = std::make_shared<NodeGauges>();
};

class PeerLinks {
 public:
  // `network` outlives the links.
  PeerLinks(Network& network, PeerLinksOptions options);
  ~PeerLinks();
  PeerLinks(const PeerLinks&) = delete;
  PeerLinks& operator=(const PeerLinks&) = delete;

  // Opens the data port; the session comes later. Returns the port.
  Result<int> listen(const Address& address);
  void set_session(SessionId self);

  // A view in two moves, so that what frames lead to can be made ready in between. Closes the
  // streams to those who are no members of it, or were of another era; their readers are done when
  // this returns.
  void close_others(const View& view);
  // Keeps streams to all other members from now on. Frames go to `sink`, which outlives the links
  // or their shut_down(). Never waits for a peer.
  void connect(const View& view, FrameSink* sink);
  // Queues a frame; never blocks. Dropped where there is no stream (whoever connects asks anew),
  // and where the same is in the queue.
  void send(SessionId to, Frame frame);
  // Closes all streams and ends all threads. What is queued is not sent any more.
  void shut_down();

 private:
  struct Peer {
    SessionId session = 0;
    Address address;
    int era = 0;
    bool gone = false;  // not a member any more
    std::shared_ptr<ByteStream> stream;
    bool reading = false;
    std::string why_down = "it has not connected yet";
    int64_t down_since_ms = 0;
    std::deque<Frame> queue;
    std::condition_variable changed;
    std::thread writer;
    std::thread dialler;          // of the later session
    std::atomic<int> threads{0};  // of these that still run
  };
  using PeerPtr = std::shared_ptr<Peer>;

  void accepted(std::shared_ptr<ByteStream> stream);
  PeerPtr wait_for_peer(SessionId session, int era);
  void keep_dialled(const PeerPtr& peer);
  Result<std::shared_ptr<ByteStream>> dial(const Peer& peer);
  void serve(const PeerPtr& peer, std::shared_ptr<ByteStream> stream);
  Status read_frame(const Peer& peer, ByteStream& stream);
  Status read_hashed(ByteStream& stream, const FrameKey& key, float* values, size_t bytes,
                     uint64_t expected);
  void write_frames(const PeerPtr& peer);
  void broken(Peer& peer, const std::shared_ptr<ByteStream>& stream, const std::string& why);
  void join_threads(Peer& peer);
  void drop_queue(Peer& peer);
  NodeGauges::Path& path_of(const ByteStream& stream) const;

  Network& network_;
  const PeerLinksOptions options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  SessionId self_ = 0;
  FrameSink* sink_ = nullptr;
  std::map<SessionId, PeerPtr> peers_;
  std::vector<PeerPtr> former_;  // their threads may still have to end
  bool stopping_ = false;
  std::unique_ptr<StreamListener> listener_;
};

}  // namespace lockstep
