#include "cuda/gpu.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "host/core/check.h"

namespace lockstep {
namespace {

constexpr int64_t kStagingAlignment = 256;

int64_t aligned(int64_t bytes) {
  return (bytes + kStagingAlignment - 1) / kStagingAlignment * kStagingAlignment;
}

Result<MemoryHandle> allocate_on_device(int64_t bytes) {
  void* memory = nullptr;
  LOCKSTEP_CUDA_CHECK(cudaMalloc(&memory, static_cast<size_t>(bytes)));
  return MemoryHandle(memory);
}

// Where the parts of a staged batch lie in a block of memory at `base`; null to learn its size.
StagedBatch parts_of(std::byte* base, const HostBatch& sizes, int64_t* bytes) {
  const int64_t rows = sizes.rows;
  int64_t offset = 0;
  const auto take = [&](int64_t size) {
    std::byte* part = base == nullptr ? nullptr : base + offset;
    offset += aligned(size);
    return part;
  };
  const auto take_floats = [&](int64_t count) {
    return reinterpret_cast<const float*>(take(count * int64_t{sizeof(float)}));
  };
  StagedBatch batch;
  batch.features = sizes.features;
  batch.target_features = sizes.target_features;
  batch.parameters = reinterpret_cast<const RunParameters*>(take(sizeof(RunParameters)));
  batch.labels = reinterpret_cast<const int32_t*>(take(rows * int64_t{sizeof(int32_t)}));
  batch.positions = reinterpret_cast<const uint32_t*>(take(rows * int64_t{sizeof(uint32_t)}));
  batch.inputs = take_floats(rows * batch.features);
  batch.targets = take_floats(rows * batch.target_features);
  batch.weight_columns = sizes.weight_columns;
  batch.weights = take_floats(rows * batch.weight_columns);
  *bytes = offset;
  return batch;
}

}  // namespace

Result<std::unique_ptr<Gpu>> Gpu::create(const GpuInfo& info, bool tf32) {
  std::unique_ptr<Gpu> gpu(new Gpu(info, tf32));
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
  cudaEvent_t fork = nullptr;
  LOCKSTEP_CUDA_CHECK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
  events_.emplace_back(fork);
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
  cudaEvent_t joined = nullptr;
  LOCKSTEP_CUDA_CHECK(cudaEventCreateWithFlags(&joined, cudaEventDisableTiming));
  events_.emplace_back(joined);
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

Result<std::unique_ptr<Staging>> Staging::create(const HostBatch& batch) {
  std::unique_ptr<Staging> staging(new Staging());
  staging->rows_ = batch.rows;
  parts_of(nullptr, batch, &staging->bytes_);
  void* host = nullptr;
  LOCKSTEP_CUDA_CHECK(cudaMallocHost(&host, static_cast<size_t>(staging->bytes_)));
  staging->host_ = HostMemoryHandle(host);
  LOCKSTEP_ASSIGN(staging->device_, allocate_on_device(staging->bytes_));
  cudaEvent_t copied = nullptr;
  LOCKSTEP_CUDA_CHECK(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
  staging->copied_ = EventHandle(copied);
  int64_t bytes = 0;
  staging->on_host_ = parts_of(static_cast<std::byte*>(host), batch, &bytes);
  staging->on_device_ = parts_of(static_cast<std::byte*>(staging->device_.get()), batch, &bytes);
  return staging;
}

Status Staging::stage(const RunContext& context, cudaStream_t stream) {
  const HostBatch& batch = *context.batch;
  LOCKSTEP_CHECK(batch.rows == rows_ && batch.features == on_host_.features);
  LOCKSTEP_CHECK(batch.target_features == on_host_.target_features);
  LOCKSTEP_CUDA_CHECK(cudaEventSynchronize(copied_.get()));
  const auto copy = [](const auto* to, const auto& from) {
    if (from.empty()) return;
    std::memcpy(const_cast<void*>(static_cast<const void*>(to)), from.data(),
                from.size() * sizeof(from[0]));
  };
  LOCKSTEP_CHECK(batch.inputs.size() == static_cast<size_t>(rows_ * batch.features));
  LOCKSTEP_CHECK(batch.targets.size() == static_cast<size_t>(rows_ * batch.target_features));
  const auto weights = static_cast<size_t>(rows_ * batch.weight_columns);
  LOCKSTEP_CHECK(batch.weight_columns == on_host_.weight_columns);
  LOCKSTEP_CHECK(batch.weights.empty() || batch.weights.size() == weights);
  LOCKSTEP_CHECK(batch.labels.size() <= static_cast<size_t>(rows_));
  LOCKSTEP_CHECK(batch.positions.size() <= static_cast<size_t>(rows_));
  const RunParameters parameters{context.seed, context.epoch, context.loss_scale};
  copy(on_host_.parameters, std::span(&parameters, 1));
  copy(on_host_.labels, batch.labels);
  copy(on_host_.positions, batch.positions);
  copy(on_host_.inputs, batch.inputs);
  copy(on_host_.targets, batch.targets);
  if (batch.weights.empty()) {
    std::fill_n(const_cast<float*>(on_host_.weights), weights, 1.0f);
  } else {
    copy(on_host_.weights, batch.weights);
  }
  LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(device_.get(), host_.get(), static_cast<size_t>(bytes_),
                                      cudaMemcpyHostToDevice, stream));
  return LOCKSTEP_CUDA_STATUS(cudaEventRecord(copied_.get(), stream));
}

}  // namespace lockstep
