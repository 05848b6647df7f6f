#include "cuda/gpu.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "host/core/check.h"

namespace lockstep {
namespace {

Result<MemoryHandle> allocate_on_device(int64_t bytes) {
  void* memory = nullptr;
  LOCKSTEP_CUDA_CHECK(cudaMalloc(&memory, static_cast<size_t>(bytes)));
  return MemoryHandle(memory);
}

}  // namespace

Result<std::unique_ptr<Gpu>> Gpu::create(const GpuInfo& info, CudaMath math) {
  std::unique_ptr<Gpu> gpu(new Gpu(info, math));
  LOCKSTEP_RETURN_IF_ERROR(gpu->open());
  return gpu;
}

Status Gpu::open() {
  LOCKSTEP_ASSIGN(cudnn_, load_cudnn());
  LOCKSTEP_ASSIGN(auto cublaslt, load_cublaslt());
  LOCKSTEP_RETURN_IF_ERROR(make_current());
  LOCKSTEP_ASSIGN(auto handle, CublasLtHandle::create(std::move(cublaslt)));
  cublaslt_.emplace(std::move(handle));
  for (int i = 0; i < kBranches; ++i) LOCKSTEP_RETURN_IF_ERROR(open_branch());
  LOCKSTEP_ASSIGN(EventHandle fork, make_event());
  events_.push_back(std::move(fork));
  cudaStream_t aside = nullptr;
  LOCKSTEP_CUDA_CHECK(cudaStreamCreateWithFlags(&aside, cudaStreamNonBlocking));
  aside_ = StreamHandle(aside);
  LOCKSTEP_ASSIGN(aside_begins_, make_event());
  LOCKSTEP_ASSIGN(feed_, BatchFeed::create(info_));
  return {};
}

Status Gpu::open_branch() {
  Branch branch;
  LOCKSTEP_CUDA_CHECK(cudaStreamCreateWithFlags(&branch.stream, cudaStreamNonBlocking));
  streams_.emplace_back(branch.stream);
  LOCKSTEP_ASSIGN(auto memory, allocate_on_device(kScratchBytes + cuda_pins::kVendorWorkspace));
  branch.scratch = static_cast<float*>(memory.get());
  branch.workspace = static_cast<std::byte*>(memory.get()) + kScratchBytes;
  workspaces_.push_back(std::move(memory));
  LOCKSTEP_ASSIGN(auto cudnn, CudnnHandle::create(cudnn_));
  LOCKSTEP_RETURN_IF_ERROR(cudnn.set_stream(branch.stream));
  branch.cudnn = cudnn.get();
  cudnn_handles_.push_back(std::move(cudnn));
  branches_.push_back(branch);
  LOCKSTEP_ASSIGN(EventHandle joined, make_event());
  events_.push_back(std::move(joined));
  return {};
}

Status Gpu::make_current() const { return LOCKSTEP_CUDA_STATUS(cudaSetDevice(info_.index)); }

Status Gpu::fork(int branches) {
  const cudaEvent_t event = events_.back().get();
  LOCKSTEP_CUDA_CHECK(cudaEventRecord(event, stream()));
  for (int i = 1; i < branches; ++i) {
    LOCKSTEP_CUDA_CHECK(cudaStreamWaitEvent(branch(i).stream, event, 0));
  }
  return {};
}

Status Gpu::join(int branches) {
  for (int i = 1; i < branches; ++i) {
    const cudaEvent_t event = events_[static_cast<size_t>(i)].get();
    LOCKSTEP_CUDA_CHECK(cudaEventRecord(event, branch(i).stream));
    LOCKSTEP_CUDA_CHECK(cudaStreamWaitEvent(stream(), event, 0));
  }
  return {};
}

Status Gpu::finish() { return LOCKSTEP_CUDA_STATUS(cudaStreamSynchronize(stream())); }

Status Gpu::aside(const std::function<Status()>& work) {
  LOCKSTEP_CHECK(!in_aside_);
  if (asides_ == aside_ends_.size()) {
    LOCKSTEP_ASSIGN(EventHandle end, make_event());
    aside_ends_.push_back(std::move(end));
  }
  LOCKSTEP_CUDA_CHECK(cudaEventRecord(aside_begins_.get(), stream()));
  LOCKSTEP_CUDA_CHECK(cudaStreamWaitEvent(aside_.get(), aside_begins_.get(), 0));
  in_aside_ = true;
  const Status worked = work();
  in_aside_ = false;
  LOCKSTEP_RETURN_IF_ERROR(worked);
  LOCKSTEP_CUDA_CHECK(cudaEventRecord(aside_ends_[asides_].get(), aside_.get()));
  ++asides_;
  return {};
}

cudaEvent_t Gpu::aside_event(int index) const {
  LOCKSTEP_CHECK(index >= 0 && static_cast<size_t>(index) < asides_);
  return aside_ends_[static_cast<size_t>(index)].get();
}

Status Gpu::rejoin() {
  if (asides_ == 0) return {};
  const cudaEvent_t last = aside_ends_[std::exchange(asides_, 0) - 1].get();
  return LOCKSTEP_CUDA_STATUS(cudaStreamWaitEvent(stream(), last, 0));
}

Status Gpu::finish_all() {
  const Status finished = finish();
  const Status aside = LOCKSTEP_CUDA_STATUS(cudaStreamSynchronize(aside_.get()));
  return finished.ok() ? aside : finished;
}

Result<ListCache::Lists> ListCache::find_or_upload(const std::shared_ptr<const IndexLists>& lists,
                                                   ListForm form, cudaStream_t stream) {
  LOCKSTEP_CHECK(lists != nullptr);
  // While it lives, no other lists can have their address.
  if (Lists found = lists_[{lists.get(), form}].lock()) return found;
  std::erase_if(lists_, [](const auto& entry) { return entry.second.expired(); });
  LOCKSTEP_ASSIGN(auto uploaded, upload_lists(lists, form, stream));
  Lists result = std::make_shared<const DeviceLists>(std::move(uploaded));
  lists_[{lists.get(), form}] = result;
  return result;
}

}  // namespace lockstep
