// NCCL's communicators, sends, receives, gathers and sums among the GPUs of the emulated machine. A
// transfer runs when both ends have reached it in the order of their streams; whoever waits for a
// stream whose peer has not called yet, other than by asking now and then, waits for ever.
#include <algorithm>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "host/core/rng.h"
#include "tests/emulated_cuda/state.h"
#include "tests/emulated_cuda/vendor.h"

namespace lockstep::emulated {
namespace {

// One end of a transfer, or one rank of a collective.
struct End {
  enum class Kind { send, receive, gather, reduce } kind = Kind::send;
  int rank = 0;
  std::byte* memory = nullptr;
  size_t bytes = 0;
  NodePtr reached;  // the stream has come to it
  NodePtr over;     // the stream goes on after it
};

using Pair = std::pair<int, int>;  // from, to

constexpr size_t kRingPiece = 64;  // floats that a rank begins with

// A transfer or a collective whose ends have all been called.
struct Move {
  NodePtr node;
  std::vector<End> ends;
};

// The ranks of one id.
struct Clique {
  int ranks = 0;
  int members = 0;                                  // that have come and not gone
  bool is_whole = false;                            // all have come
  std::map<Pair, std::deque<End>> sends, receives;  // that have no other end yet
  std::vector<std::vector<End>> collectives;        // by number, then rank
  std::vector<Move> moves;
  std::vector<End> stalled;  // for ever
  // How many transfers of a pair each end had called when it called its n-th collective.
  std::map<std::pair<size_t, Pair>, int64_t> sent_before, received_before;
  std::map<Pair, int64_t> sent, received;
};

// An operation that waits for the end of its group.
struct Operation {
  using Kind = End::Kind;
  Kind kind = Kind::send;
  ncclComm_t comm = nullptr;
  int peer = 0;
  std::byte* memory = nullptr;  // of a gather: all shares
  size_t bytes = 0;             // of a gather: a share
  cudaStream_t stream = nullptr;
};

bool is_collective(const Operation& operation) {
  return operation.kind == End::Kind::gather || operation.kind == End::Kind::reduce;
}

struct Communicator {
  std::string id;
  int rank = 0;
  int device = 0;
  size_t collectives = 0;
};

// The communicators of the machine under test; a Machine ends with none left.
std::map<std::string, Clique> cliques;
uint64_t ids = 0;
thread_local int group_depth = 0;
thread_local std::vector<Operation> group;

Communicator& communicator(ncclComm_t comm) {
  if (comm == nullptr) violation("NCCL: no communicator");
  return *reinterpret_cast<Communicator*>(comm);
}

// A node that is done when `release` says so.
NodePtr open_end(uint64_t lane) {
  auto node = std::make_shared<Node>();
  node->lane = lane;
  node->missing = 1;
  return node;
}

void release(const NodePtr& node) {
  if (--node->missing == 0) state().ready.push_back(node);
}

// Moves when all ends are reached; then all streams go on.
void connect(Clique& clique, const std::vector<End>& ends, const std::vector<int>& devices,
             const char* name, std::function<void()> move) {
  State& s = state();
  if (s.shows(Bug::stalled_transfer)) {
    clique.stalled.insert(clique.stalled.end(), ends.begin(), ends.end());
    return;
  }
  std::vector<NodePtr> before;
  for (const End& end : ends) before.push_back(end.reached);
  const bool eager = std::exchange(s.eager, false);
  const NodePtr moved = s.enqueue({name, devices, std::move(move)}, ends[0].over->lane, before);
  s.eager = eager;
  for (const End& end : ends) {
    moved->after.push_back(end.over);
    end.over->before.push_back(moved);
  }
  std::erase_if(clique.moves, [](const Move& each) { return each.node->done; });
  clique.moves.push_back({moved, ends});
}

// The rank is gone: what it has not moved never moves, and the others wait for it.
void cancel_moves(Clique& clique, int rank) {
  for (Move& move : clique.moves) {
    const bool has_part = std::any_of(move.ends.begin(), move.ends.end(),
                                      [&](const End& end) { return end.rank == rank; });
    if (move.node->done || !has_part) continue;
    std::erase(state().ready, move.node);
    move.node->missing = std::numeric_limits<int>::max();
    move.node->after.clear();
    clique.stalled.insert(clique.stalled.end(), move.ends.begin(), move.ends.end());
    move.ends.clear();
  }
}

void match(Clique& clique, const Pair& pair) {
  auto& sends = clique.sends[pair];
  auto& receives = clique.receives[pair];
  while (!sends.empty() && !receives.empty()) {
    const End from = sends.front();
    const End to = receives.front();
    sends.pop_front();
    receives.pop_front();
    if (from.bytes != to.bytes) {
      violation("NCCL: rank " + std::to_string(pair.first) + " sends " +
                std::to_string(from.bytes) + " bytes, rank " + std::to_string(pair.second) +
                " receives " + std::to_string(to.bytes));
    }
    connect(clique, {from, to}, {state().device_of(from.memory), state().device_of(to.memory)},
            "ncclSend and ncclRecv",
            [from, to] { std::memcpy(to.memory, from.memory, from.bytes); });
  }
}

// Collectives are numbered on each rank; between two ranks they stand between the same transfers.
void check_order(const Clique& clique, size_t number) {
  for (int from = 0; from < clique.ranks; ++from) {
    for (int to = 0; to < clique.ranks; ++to) {
      const auto of = [&](const auto& counts) {
        const auto found = counts.find({number, Pair{from, to}});
        return found == counts.end() ? 0 : found->second;
      };
      if (of(clique.sent_before) == of(clique.received_before)) continue;
      violation("NCCL: ranks " + std::to_string(from) + " and " + std::to_string(to) +
                " call in different order");
    }
  }
}

void gather(const std::vector<End>& ends) {
  for (const End& from : ends) {
    const size_t offset = static_cast<size_t>(from.rank) * from.bytes;
    for (const End& to : ends) {
      if (to.rank != from.rank) {
        std::memcpy(to.memory + offset, from.memory + offset, from.bytes);
      }
    }
  }
}

// As around a ring: the rank whose value comes first changes along the vector.
void reduce(const std::vector<End>& ends, size_t first) {
  const auto values = [&](size_t at) { return reinterpret_cast<float*>(ends[at].memory); };
  for (size_t i = 0; i < ends[0].bytes / sizeof(float); ++i) {
    const size_t begin = (first + i / kRingPiece) % ends.size();
    float sum = values(begin)[i];
    for (size_t k = 1; k < ends.size(); ++k) sum += values((begin + k) % ends.size())[i];
    for (size_t k = 0; k < ends.size(); ++k) values(k)[i] = sum;
  }
}

void collect(Clique& clique, Communicator& comm, const End& end) {
  const size_t number = comm.collectives++;
  if (clique.collectives.size() <= number) clique.collectives.resize(number + 1);
  for (int peer = 0; peer < clique.ranks; ++peer) {
    clique.sent_before[{number, {comm.rank, peer}}] = clique.sent[{comm.rank, peer}];
    clique.received_before[{number, {peer, comm.rank}}] = clique.received[{peer, comm.rank}];
  }
  std::vector<End>& ends = clique.collectives[number];
  if (!ends.empty() && ends[0].kind != end.kind) violation("NCCL: a gather here, a sum there");
  if (!ends.empty() && ends[0].bytes != end.bytes) {
    violation("NCCL: collectives of different sizes");
  }
  ends.push_back(end);
  if (static_cast<int>(ends.size()) < clique.ranks) return;
  check_order(clique, number);
  std::sort(ends.begin(), ends.end(),
            [](const End& left, const End& right) { return left.rank < right.rank; });
  std::vector<int> devices;
  for (const End& each : ends) devices.push_back(state().device_of(each.memory));
  if (end.kind == End::Kind::gather) {
    connect(clique, ends, devices, "ncclAllGather", [ends] { gather(ends); });
  } else {
    // As a topology does it: the same order each time.
    const auto first = static_cast<size_t>(mix64(state().options.seed ^ end.bytes) % ends.size());
    connect(clique, ends, devices, "ncclAllReduce", [ends, first] { reduce(ends, first); });
  }
}

// Puts the group's operations of one communicator into its stream.
void start(const std::vector<Operation>& operations) {
  State& s = state();
  Communicator& comm = communicator(operations[0].comm);
  Clique& clique = cliques.at(comm.id);
  Stream& stream = stream_of(operations[0].stream, "NCCL");
  if (stream.device != comm.device) violation("NCCL: a stream of another GPU");
  if (stream.capture != nullptr) violation("NCCL in a capture: not emulated");
  const NodePtr reached = s.enqueue({"NCCL begins", {}, {}}, stream.number, {stream.tail});
  std::vector<NodePtr> ends = {reached};
  for (size_t i = 0; i < operations.size(); ++i) ends.push_back(open_end(stream.number));
  stream.tail = s.enqueue({"NCCL ends", {}, {}}, stream.number, ends);
  for (size_t i = 0; i < operations.size(); ++i) {
    const Operation& operation = operations[i];
    const int shares = operation.kind == Operation::Kind::gather ? clique.ranks : 1;
    check_device_memory(operation.memory, operation.bytes * static_cast<size_t>(shares),
                        comm.device, "NCCL");
    if (s.arenas[static_cast<size_t>(comm.device)]->find(operation.memory)->pool != nullptr) {
      violation("NCCL: memory of a pool, which the other GPUs can't read");
    }
    const End end{operation.kind,  comm.rank, operation.memory,
                  operation.bytes, reached,   ends[i + 1]};
    if (is_collective(operation)) {
      collect(clique, comm, end);
      continue;
    }
    const bool sends = operation.kind == Operation::Kind::send;
    const Pair pair = sends ? Pair{comm.rank, operation.peer} : Pair{operation.peer, comm.rank};
    (sends ? clique.sends : clique.receives)[pair].push_back(end);
    ++(sends ? clique.sent : clique.received)[pair];
    match(clique, pair);
  }
}

ncclResult_t add(const char* name, Operation operation, ncclDataType_t type) {
  const Call call(name);
  if (call.fails()) return ncclInternalError;
  if (type != ncclFloat32) violation("NCCL: only float32 is emulated");
  if (group_depth == 0) violation("NCCL: a call outside of a group");
  const Communicator& comm = communicator(operation.comm);
  const Clique& clique = cliques.at(comm.id);
  if (!is_collective(operation) &&
      (operation.peer < 0 || operation.peer >= clique.ranks || operation.peer == comm.rank)) {
    return ncclInvalidArgument;
  }
  group.push_back(operation);
  return ncclSuccess;
}

ncclResult_t end_group() {
  const Call call("ncclGroupEnd");
  if (group_depth == 0) return ncclInvalidUsage;
  if (--group_depth > 0) return ncclSuccess;
  const std::vector<Operation> operations = std::exchange(group, {});
  if (call.fails()) return ncclInternalError;
  if (operations.empty()) return ncclSuccess;
  for (const Operation& operation : operations) {
    if (operation.comm != operations[0].comm || operation.stream != operations[0].stream) {
      violation("NCCL: a group over several communicators or streams is not emulated");
    }
  }
  start(operations);
  return ncclInProgress;  // as a communicator that does not block may say
}

ncclResult_t init(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  const Call call("ncclCommInitRankConfig");
  *comm = nullptr;
  if (call.fails()) return ncclInternalError;
  if (config == nullptr || config->blocking != 0) violation("NCCL: a communicator that blocks");
  const std::string name(id.internal, sizeof(id.internal));
  Clique& clique = cliques[name];
  if (rank < 0 || rank >= ranks || (clique.members > 0 && clique.ranks != ranks)) {
    return ncclInvalidArgument;
  }
  clique.ranks = ranks;
  ++clique.members;
  clique.is_whole |= clique.members == ranks;
  ++state().vendor_objects["communicators of NCCL"];
  *comm = reinterpret_cast<ncclComm_t>(new Communicator{name, rank, current_device(), 0});
  return ncclInProgress;
}

// What this rank has open ends here; its peers' ends stay open.
ncclResult_t abort_communicator(ncclComm_t handle) {
  const Call call("ncclCommAbort");
  Communicator& comm = communicator(handle);
  Clique& clique = cliques.at(comm.id);
  const auto drop = [&](auto& ends) {
    std::erase_if(ends, [&](const End& end) {
      if (end.rank == comm.rank) release(end.over);
      return end.rank == comm.rank;
    });
  };
  cancel_moves(clique, comm.rank);
  for (auto& [pair, ends] : clique.sends) drop(ends);
  for (auto& [pair, ends] : clique.receives) drop(ends);
  for (std::vector<End>& ends : clique.collectives) {
    if (static_cast<int>(ends.size()) < clique.ranks) drop(ends);
  }
  drop(clique.stalled);
  const std::string id = comm.id;
  delete &comm;
  --state().vendor_objects["communicators of NCCL"];
  if (--clique.members == 0) cliques.erase(id);
  return call.chosen() ? ncclInternalError : ncclSuccess;
}

ncclResult_t async_error(ncclComm_t handle, ncclResult_t* result) {
  const Call call("ncclCommGetAsyncError");
  if (call.fails()) return ncclInternalError;
  const Clique& clique = cliques.at(communicator(handle).id);
  *result = clique.is_whole ? ncclSuccess : ncclInProgress;
  if (state().shows(Bug::lost_peer)) *result = ncclRemoteError;
  return ncclSuccess;
}

const char* error_string(ncclResult_t result) {
  switch (result) {
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    default:
      return "internal error";
  }
}

}  // namespace

std::shared_ptr<const NcclApi> nccl_api() {
  auto api = std::make_shared<NcclApi>();
  api->get_version = [](int* version) {
    *version = 22809;
    return ncclSuccess;
  };
  api->get_error_string = &error_string;
  api->get_last_error = [](ncclComm_t) { return ""; };
  api->get_unique_id = [](ncclUniqueId* id) {
    const Call call("ncclGetUniqueId");
    if (call.fails()) return ncclInternalError;
    *id = {};
    ++ids;
    std::memcpy(id->internal, &ids, sizeof(ids));
    return ncclSuccess;
  };
  api->comm_init_rank_config = &init;
  api->comm_get_async_error = &async_error;
  api->comm_abort = &abort_communicator;
  api->group_start = [] {
    const Call call("ncclGroupStart");
    if (call.fails()) return ncclInternalError;
    ++group_depth;
    return ncclSuccess;
  };
  api->group_end = &end_group;
  api->send = [](const void* memory, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                 cudaStream_t stream) {
    auto* bytes = static_cast<std::byte*>(const_cast<void*>(memory));
    return add("ncclSend", {Operation::Kind::send, comm, peer, bytes, count * 4, stream}, type);
  };
  api->recv = [](void* memory, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                 cudaStream_t stream) {
    auto* bytes = static_cast<std::byte*>(memory);
    return add("ncclRecv", {Operation::Kind::receive, comm, peer, bytes, count * 4, stream}, type);
  };
  api->all_gather = [](const void* own, void* all, size_t count, ncclDataType_t type,
                       ncclComm_t comm, cudaStream_t stream) {
    auto* bytes = static_cast<std::byte*>(all);
    const auto rank = static_cast<size_t>(communicator(comm).rank);
    if (own != bytes + rank * count * 4) violation("ncclAllGather that is not in place");
    return add("ncclAllGather", {Operation::Kind::gather, comm, 0, bytes, count * 4, stream}, type);
  };
  api->all_reduce = [](const void* own, void* sums, size_t count, ncclDataType_t type,
                       ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
    auto* bytes = static_cast<std::byte*>(sums);
    if (own != sums) violation("ncclAllReduce that is not in place");
    if (operation != ncclSum) violation("ncclAllReduce that is no sum");
    return add("ncclAllReduce", {Operation::Kind::reduce, comm, 0, bytes, count * 4, stream}, type);
  };
  api->version = "emulated NCCL";
  return api;
}

}  // namespace lockstep::emulated
