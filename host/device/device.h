// The seam between model and hardware.
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <memory_resource>
#include <optional>
#include <span>
#include <string>

#include "host/core/result.h"
#include "host/device/batch.h"
#include "host/device/device_link.h"
#include "host/device/flat_sums.h"
#include "host/device/ops.h"
#include "host/device/state_digest.h"
#include "host/device/sum_terms.h"

namespace lockstep {

// What changes from run to run of a prepared op. All pointers are to memory of the device but
// `batch`, which is on the host.
struct RunContext {
  const float* weights = nullptr;  // the flat parameters
  std::span<float* const> roots;   // for each root of the group a flat vector: gradients, metrics
  void* work = nullptr;            // Device::work_bytes of it, for the op under way alone
  const HostBatch* batch = nullptr;
  int first_row = 0;  // of the batch: where the op's rows begin
  uint64_t seed = 0;
  uint32_t epoch = 0;
  float loss_scale = 1;  // 1 / rows of the global batch
};

// An op with its kernel and workspace chosen. Runs on the thread that prepared it.
class PreparedOp {
 public:
  virtual ~PreparedOp() = default;
  // `values[v]` is the memory of value v; only the op's inputs and outputs are touched, and
  // `context.work`.
  virtual void run(const RunContext& context, std::span<float* const> values) = 0;
};

// Memory on a device; freed with it. Aligned to 64 bytes.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual float* data() = 0;
  virtual int64_t bytes() const = 0;  // that it really takes
};

// What a device keeps of a Program's first run, to play it again without its host.
class Recording {
 public:
  virtual ~Recording() = default;
};

// The ops of a Program as a device runs them. Its parts do not touch each other's memory; each has
// the same segments, which run one after the other.
struct PartRuns {
  int parts = 1;
  int segments = 1;
  std::function<void(int part, int segment)> run;  // gives the device the ops of a part's segment
  // The device has been given a segment of all parts. May be empty.
  std::function<Status(int segment)> given;
};

// One GPU, or one CPU worker. Owned and used by one thread, but for `allocate`d memory, which
// other devices of a node may share where `shares_host_memory`, and for `batch_memory` and
// `prefetch`, which are any thread's. Work may still be under way when a call returns; calls that
// read or write the host's memory return when that is done.
class Device {
 public:
  virtual ~Device() = default;
  virtual std::string numerics() const = 0;
  virtual std::string description() const = 0;  // hardware and library versions, for people
  virtual bool shares_host_memory() const = 0;
  // Whether a Program computes each partition by itself: where the bits of a row may depend on how
  // many rows there are. Else all rows of a group run through each op together.
  virtual bool separates_partitions() const = 0;
  // Sets what a thread needs for this device's bits (rounding mode, one thread a kernel). Call
  // first in each thread that runs ops.
  virtual void attach_thread() = 0;

  virtual Result<std::unique_ptr<Buffer>> allocate(int64_t bytes) = 0;
  // Of the device's own memory what nobody has taken; nothing where it is the host's.
  virtual std::optional<int64_t> free_bytes() const { return std::nullopt; }
  // Memory of the host, made for copies to and from this device and for `add`.
  virtual Result<std::unique_ptr<Buffer>> allocate_host(int64_t bytes) { return allocate(bytes); }
  // Memory for the rows of batches that this device will get. It goes with the device, which
  // outlives them.
  virtual std::pmr::memory_resource* batch_memory() { return std::pmr::get_default_resource(); }
  // Begins to copy a batch, so that `play` needn't: to be kept in batch.copy, and the rows as they
  // are. nullptr where there is no need to or it can't be done now.
  virtual std::unique_ptr<BatchCopy> prefetch(const HostBatch&) { return nullptr; }
  // Plain copies between the memories.
  virtual Status copy_to_host(const float* from, int64_t count, float* to) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
    return {};
  }
  virtual Status copy_to_device(const float* from, int64_t count, float* to) {
    return copy_to_host(from, count, to);
  }
  // As copy_to_host, but may be under way when it returns. `to` is of allocate_host.
  virtual Status start_copy_to_host(const float* from, int64_t count, float* to) {
    return copy_to_host(from, count, to);
  }
  // A second queue of work. The sums, moves of the link and copies that `work` starts wait for all
  // that the device was given before, and for earlier asides; what it is given after that does not
  // wait for them until rejoin(). `work` waits for nothing.
  virtual Status aside(const std::function<Status()>& work) { return work(); }
  // Returns when aside number `index` since the last rejoin(), from 0 on, is done. Where it moves
  // something by a link: DeviceLink::finish_aside.
  virtual Status finish_aside(int index) {
    static_cast<void>(index);
    return {};
  }
  // What the device is given from now on waits for all asides.
  virtual Status rejoin() { return {}; }
  // Gradients of fewer bytes are not worth an aside of their own.
  virtual int64_t bucket_bytes() const { return 0; }
  // Direct ways to the other devices of a node, which need not exist: one device makes an id, then
  // each calls `link` from its own thread, and returns when all have.
  virtual Result<std::string> link_id() { return Error{"this device has no links"}; }
  virtual Result<std::unique_ptr<DeviceLink>> link(const LinkOptions&) {
    return Error{"this device has no links"};
  }
  // What a buffer of this size will take.
  virtual int64_t buffer_bytes(int64_t bytes) const = 0;
  // Bytes of a value of `rows` rows: the device chooses the layout.
  virtual int64_t value_bytes(int rows, int64_t features) const = 0;
  // What an op of such a group needs beside its values while it runs.
  virtual int64_t work_bytes(const OpDesc& op, const PartitionGroup& group) const = 0;
  // How many parts of a Program may run side by side: part i and part i + n never do.
  virtual int parts_at_once() const { return 1; }
  // Copies a value's rows to `row_major` (rows x features, on the host).
  virtual Status download(const float* value, int rows, int64_t features, float* row_major) = 0;

  virtual Result<std::unique_ptr<PreparedOp>> prepare(const OpDesc& op,
                                                      const PartitionGroup& group) = 0;
  // Runs a Program. A device may run parts side by side, and may call runs.run once for each part
  // and segment, keep what the ops did in `recording` and play that from then on; the ops' memory
  // and the segments are then the same each time. nullptr: nothing is kept. Returns what failed in
  // any op.
  virtual Status play(std::unique_ptr<Recording>* recording, const RunContext& context,
                      const PartRuns& runs) {
    static_cast<void>(recording);
    static_cast<void>(context);
    for (int segment = 0; segment < runs.segments; ++segment) {
      for (int part = 0; part < runs.parts; ++part) runs.run(part, segment);
      if (runs.given) LOCKSTEP_RETURN_IF_ERROR(runs.given(segment));
    }
    return {};
  }

  // out[i] = a[i] + b[i] in the host's memory; out may be a. Any thread may call it.
  virtual void add(const float* a, const float* b, float* out, int64_t count) = 0;
  // The sum of the terms, `count` elements each, in the device's memory.
  virtual Status sum(std::span<const SumTerm> terms, int64_t count, float* out) = 0;
  // outputs[k][i] = output k of the expression at operands[...][i], for i < count: flat memory of
  // the device; an output may be an operand. The same expression is the same object time after
  // time.
  virtual Status evaluate(const ExpressionUpdate& expression,
                          std::span<const float* const> operands, std::span<float* const> outputs,
                          int64_t count) = 0;
  // sums[block * outputs + k] = the sum of the squares of output k over a block of the elements, as
  // host/device/flat_sums.h says. All memory is the device's.
  virtual Status squares(const ExpressionUpdate& expression, std::span<const float* const> operands,
                         int64_t count, double* sums) = 0;
  // out[i] = output i of a sum along an axis of x, for i in [first, first + count): see
  // host/device/flat_sums.h. `out` has room for all outputs.
  virtual Status sum_axis(const float* x, const AxisSum& sum, int64_t first, int64_t count,
                          float* out) = 0;
  // A matrix product over flat memory; one chain of fma for each element, by rising k, from +0.
  // The columns of `out` lie side by side.
  virtual Status multiply(const MatmulOp& op, const float* x, const float* z, float* out) = 0;
  // One optimizer step over `count` parameters. `slots[k]` is the k-th state vector. `lanes`, where
  // not nullptr, gets those of the new state, for each block of kDigestBlock parameters.
  virtual Status update(const UpdateDesc& desc, const float* gradient, float* weights,
                        std::span<float* const> slots, int64_t count, DigestLanes* lanes) = 0;
  // The same lanes of a state as it lies in memory.
  virtual Status digest(const float* weights, std::span<const float* const> slots, int64_t count,
                        DigestLanes* lanes) = 0;
};

}  // namespace lockstep
