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
  operands_.emplace_back();
  operand_bytes_.push_back(0);
  LOCKSTEP_ASSIGN(EventHandle joined, make_event());
  events_.push_back(std::move(joined));
  return {};
}

Status Gpu::make_current() const { return LOCKSTEP_CUDA_STATUS(cudaSetDevice(info_.index)); }

Result<std::byte*> Gpu::operand_memory(int64_t bytes) {
  const auto at = static_cast<size_t>(current_);
  int64_t& held = operand_bytes_[at];
  if (bytes > held) {
    const int64_t wanted = std::max(bytes, 2 * held);  // soon large enough for all ops
    auto memory = allocate_on_device(wanted);
    if (!memory.ok()) {
      return Error{fmt::format("no {} MiB for operands in bfloat16: use a smaller batch, or more "
                               "GPUs ({})",
                               (wanted >> 20) + 1, memory.error().message),
                   memory.error().kind};
    }
    operands_[at].push_back(std::move(memory).value());
    held = wanted;
  }
  return static_cast<std::byte*>(operands_[at].back().get());
}

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
