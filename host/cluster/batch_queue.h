// A coordinator that measures or predicts, as a state machine: the batches of a data set, of which
// nodes take some, compute them whole and deliver the results. What a batch gives depends on it
// alone: where a node dies, another computes its batches, and no bit changes. No sockets, no
// threads, no clock. One owner, one thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "host/cluster/joining.h"
#include "host/cluster/messages.h"
#include "host/core/result.h"

namespace lockstep {

struct ByteRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// Results that all batches make together, one after another.
struct ResultArray {
  int64_t bytes = 0;
  int64_t bytes_of_batch = 0;  // the last one's are what is left
  ByteRange bytes_of(const BatchRange& batches) const;
};

// What the machine must know of the work.
struct BatchFacts {
  std::string task;  // JSON, handed to every node
  JoinTerms terms;
  int64_t batches = 0;
  std::vector<ResultArray> arrays;
  int max_nodes = 1;
  int lease_ms = 5000;
};

// What has happened, for people.
struct WorkerJoined {
  SessionId session = 0;
  std::string name;
  std::string device;
  int devices = 0;
};
struct WorkerLeft {
  SessionId session = 0;
  std::string name;
  std::string why;
  BatchRange given_back;  // for others
};
struct BatchesDone {
  SessionId session = 0;
  std::string name;
  BatchRange batches;
};
using BatchEvent = std::variant<WorkerJoined, WorkerLeft, BatchesDone>;

class BatchQueue {
 public:
  explicit BatchQueue(BatchFacts facts) : facts_(std::move(facts)) {}

  Result<Welcome> hello(const Hello& hello, int64_t now_ms);
  Status join(const JoinRequest& request, int64_t now_ms);
  // A sign of life.
  Status renew(SessionId session, int64_t now_ms);
  // The node's next batches; the same again until it says that they are done. Refuses batches as
  // done whose results are not all there.
  Result<WorkReply> next(const WorkRequest& request, int64_t now_ms);
  // Whether these bytes may be written where they say; then accepted() is called.
  Status check(const ResultPart& part, int64_t now_ms);
  void accepted(const ResultPart& part);
  // A node has gone, or is given up. Nothing where it is not known.
  void leave(SessionId session, const std::string& why);
  void connection_lost(SessionId session, int64_t now_ms);
  // Gives up nodes whose lease is over.
  void tick(int64_t now_ms);

  bool done() const { return batches_done_ == facts_.batches; }
  int64_t batches_done() const { return batches_done_; }
  const BatchFacts& facts() const { return facts_; }
  // Those that have joined and are there.
  struct Worker {
    SessionId session = 0;
    std::string name;
    std::string address;
    BatchRange batches;
  };
  std::vector<Worker> workers() const;
  // Since the last call, in order.
  std::vector<BatchEvent> take_events() { return std::exchange(events_, {}); }

 private:
  struct Node {
    Hello hello;
    JoinRequest join;
    bool joined = false;
    bool left = false;
    int64_t lease_ends_ms = 0;       // once it has joined: data may take any time to load
    BatchRange batches;              // that it computes
    int64_t begun_ms = 0;            // when it was given them
    int64_t at_once = 1;             // how many it is given
    std::vector<int64_t> delivered;  // of each array: bytes of them, as far as they are there
    bool live() const { return joined && !left; }
  };
  Result<Node*> member(SessionId session);
  Status check_place(const Node& node, const ResultPart& part) const;
  Status finish(Node& node, int64_t now_ms);
  BatchRange take(int64_t at_once);
  int64_t first_unfinished() const;
  int live_count() const;

  const BatchFacts facts_;
  int64_t sessions_ = 0;
  std::map<SessionId, Node> nodes_;
  std::vector<OpDigest> canary_;      // of the first that joined
  std::vector<BatchRange> returned_;  // by those that are gone; the lowest last
  int64_t fresh_ = 0;                 // from here on nobody was given any
  int64_t batches_done_ = 0;
  std::vector<BatchEvent> events_;
};

}  // namespace lockstep
