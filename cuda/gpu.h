// What a CUDA device and its prepared ops share: streams, vendor handles, the run under way.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cuda/batch_feed.h"
#include "cuda/conv_plan.h"
#include "cuda/device_info.h"
#include "cuda/handle.h"
#include "cuda/kernels.h"
#include "cuda/kernels_general.h"
#include "cuda/matmul.h"
#include "cuda/numerics.h"
#include "cuda/vendor.h"
#include "host/core/result.h"
#include "host/device/device.h"

namespace lockstep {

// Everything that decides bits on a GPU beside the kernels themselves.
namespace cuda_pins {
inline constexpr int64_t kVendorWorkspace = 32 << 20;  // bytes: part of what a heuristic chooses by
}  // namespace cuda_pins

// Partitions run side by side on so many streams; each has its own workspace.
inline constexpr int kBranches = 8;

// Of every value that ops read and write (host/graph/memory_plan.cc), of parameters at offset 0.
inline constexpr int64_t kValueAlignment = 64;  // bytes

// Own scratch of an op, beside the vendor's workspace.
inline constexpr int64_t kScratchBytes = 32 << 20;

// Plans by the key of what they compute: partitions and layers of the same shape share one.
template <class Plan>
class PlanCache {
 public:
  // `make` returns a Result<Plan>.
  template <class Make>
  Result<std::shared_ptr<Plan>> find_or_make(const std::string& key, const Make& make) {
    const auto found = plans_.find(key);
    if (found != plans_.end()) return found->second;
    LOCKSTEP_ASSIGN(auto plan, make());
    return plans_[key] = std::make_shared<Plan>(std::move(plan));
  }

 private:
  std::map<std::string, std::shared_ptr<Plan>> plans_;
};

// Index lists on the device: shared by all ops that have the same ones, freed with the last of
// them.
class ListCache {
 public:
  using Lists = std::shared_ptr<const DeviceLists>;
  Result<Lists> find_or_upload(const std::shared_ptr<const IndexLists>& lists, ListForm form,
                               cudaStream_t stream);

 private:
  std::map<std::pair<const IndexLists*, ListForm>, std::weak_ptr<const DeviceLists>> lists_;
};

// A stream with what the ops on it use one after the other.
struct Branch {
  cudaStream_t stream = nullptr;
  float* scratch = nullptr;       // kScratchBytes
  void* workspace = nullptr;      // cuda_pins::kVendorWorkspace
  cudnnHandle_t cudnn = nullptr;  // its stream is `stream`
};

// One GPU: its streams and handles. Used by one thread.
class Gpu {
 public:
  static Result<std::unique_ptr<Gpu>> create(const GpuInfo& info, CudaMath math);
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  const GpuInfo& info() const { return info_; }
  CudaMath math() const { return math_; }
  const std::shared_ptr<const CudnnApi>& cudnn() const { return cudnn_; }
  const CublasLtHandle& cublaslt() const { return *cublaslt_; }
  PlanCache<ConvPlan>& conv_plans() { return conv_plans_; }
  PlanStore& plan_store() { return plan_store_; }
  PlanCache<Matmul>& matmuls() { return matmuls_; }
  ListCache& lists() { return lists_; }
  BatchFeed& feed() { return *feed_; }
  // Makes this GPU the calling thread's current one.
  Status make_current() const;

  // Where all that is no part of a Program runs, in order: branch 0's or, in an aside, its own.
  cudaStream_t stream() const { return in_aside_ ? aside_.get() : branches_[0].stream; }
  const Branch& branch(int index) const { return branches_[static_cast<size_t>(index)]; }
  // The branches wait for the first one; the first one waits for the others.
  Status fork(int branches);
  Status join(int branches);
  // Waits for all that was launched on stream().
  Status finish();

  // See Device::aside.
  Status aside(const std::function<Status()>& work);
  // That the aside's work is done.
  cudaEvent_t aside_event(int index) const;
  Status rejoin();
  // Waits for everything.
  Status finish_all();

  // The run under way, for the ops.
  void begin_run(const StagedBatch& batch) { batch_ = batch; }
  void use_branch(int index) { current_ = index; }
  const Branch& branch() const { return branches_[static_cast<size_t>(current_)]; }
  const StagedBatch& batch() const { return batch_; }
  // Ops cannot return what failed: the first failure is kept until it is taken.
  void note(const Status& status) {
    if (failure_.ok() && !status.ok()) failure_ = status;
  }
  Status take_failure() { return std::exchange(failure_, {}); }

 private:
  Gpu(const GpuInfo& info, CudaMath math) : info_(info), math_(math) {}
  Status open();
  Status open_branch();

  const GpuInfo info_;
  const CudaMath math_;
  std::shared_ptr<const CudnnApi> cudnn_;
  std::optional<CublasLtHandle> cublaslt_;
  std::unique_ptr<BatchFeed> feed_;
  std::vector<StreamHandle> streams_;
  std::vector<CudnnHandle> cudnn_handles_;
  std::vector<MemoryHandle> workspaces_;
  std::vector<EventHandle> events_;  // one a branch, then the fork's
  StreamHandle aside_;
  EventHandle aside_begins_;
  std::vector<EventHandle> aside_ends_;
  size_t asides_ = 0;  // since the last rejoin()
  bool in_aside_ = false;
  std::vector<Branch> branches_;
  PlanCache<ConvPlan> conv_plans_;
  PlanStore plan_store_ = PlanStore::from_environment();
  PlanCache<Matmul> matmuls_;
  ListCache lists_;
  StagedBatch batch_;
  int current_ = 0;
  Status failure_;
};

}  // namespace lockstep
