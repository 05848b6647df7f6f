#include "cuda/batch_feed.h"

#include <algorithm>
#include <cstdio>
#include <new>
#include <utility>

#include "host/core/check.h"

namespace lockstep {
namespace {

constexpr int64_t kPartAlignment = 256;
constexpr size_t kBlockUnit = 4096;  // bytes: batches that differ by few rows share blocks

// Where the parts of a batch lie in a block of memory at `base`; null to learn its size. The
// parameters come first, in kPartAlignment bytes.
StagedBatch parts_of(std::byte* base, const HostBatch& sizes, int64_t* bytes) {
  const int64_t rows = sizes.rows;
  int64_t offset = 0;
  const auto take = [&](int64_t size) {
    std::byte* part = base == nullptr ? nullptr : base + offset;
    offset += (size + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
    return part;
  };
  const auto take_floats = [&](int64_t count) {
    return reinterpret_cast<const float*>(take(count * int64_t{sizeof(float)}));
  };
  StagedBatch batch;
  batch.features = sizes.features;
  batch.target_features = sizes.target_features;
  batch.weight_columns = sizes.weight_columns;
  batch.parameters = reinterpret_cast<const RunParameters*>(take(sizeof(RunParameters)));
  batch.labels = reinterpret_cast<const int32_t*>(take(rows * int64_t{sizeof(int32_t)}));
  batch.positions = reinterpret_cast<const uint32_t*>(take(rows * int64_t{sizeof(uint32_t)}));
  batch.inputs = take_floats(rows * batch.features);
  batch.targets = take_floats(rows * batch.target_features);
  batch.weights = take_floats(rows * batch.weight_columns);
  *bytes = offset;
  return batch;
}
static_assert(sizeof(RunParameters) <= kPartAlignment);

void check_sizes(const HostBatch& batch) {
  const auto rows = static_cast<size_t>(batch.rows);
  LOCKSTEP_CHECK(batch.inputs.size() == rows * static_cast<size_t>(batch.features));
  LOCKSTEP_CHECK(batch.targets.size() == rows * static_cast<size_t>(batch.target_features));
  LOCKSTEP_CHECK(batch.weights.empty() ||
                 batch.weights.size() == rows * static_cast<size_t>(batch.weight_columns));
  LOCKSTEP_CHECK(batch.labels.size() <= rows && batch.positions.size() <= rows);
}

}  // namespace

bool PinnedBlocks::holds(const void* address) const {
  const std::lock_guard lock(mutex_);
  auto found = blocks_.upper_bound(static_cast<const std::byte*>(address));
  if (found == blocks_.begin()) return false;
  --found;
  return static_cast<const std::byte*>(address) < found->first + found->second.bytes;
}

PinnedBlocks::Block PinnedBlocks::make(size_t bytes) const {
  Block block;
  block.bytes = bytes;
  void* memory = nullptr;
  Status status = LOCKSTEP_CUDA_STATUS(cudaSetDevice(device_));
  if (status.ok()) status = LOCKSTEP_CUDA_STATUS(cudaMallocHost(&memory, bytes));
  if (status.ok()) {
    block.pinned = HostMemoryHandle(memory);
  } else {
    std::fprintf(stderr, "lockstep: batches cross from memory that is not pinned: %s\n",
                 status.error().message.c_str());
    block.plain = std::make_unique<std::byte[]>(bytes);
  }
  return block;
}

void* PinnedBlocks::do_allocate(size_t bytes, size_t alignment) {
  LOCKSTEP_CHECK(alignment <= __STDCPP_DEFAULT_NEW_ALIGNMENT__);
  const std::lock_guard lock(mutex_);
  const auto kept = free_.lower_bound(bytes);
  if (kept != free_.end() && kept->first <= std::max(2 * bytes, kBlockUnit)) {
    std::byte* memory = kept->second;
    free_.erase(kept);
    return memory;
  }
  Block block = make((bytes + kBlockUnit - 1) / kBlockUnit * kBlockUnit);
  std::byte* memory =
      block.pinned ? static_cast<std::byte*>(block.pinned.get()) : block.plain.get();
  blocks_.emplace(memory, std::move(block));
  return memory;
}

void PinnedBlocks::do_deallocate(void* memory, size_t, size_t) {
  const std::lock_guard lock(mutex_);
  auto* block = static_cast<std::byte*>(memory);
  free_.emplace(blocks_.at(block).bytes, block);
}

template <class T>
Status FedBatch::send(const T* to, const T* from, size_t count, PinnedBlocks* pinned) {
  if (count == 0) return {};
  if (!pinned->holds(from)) {
    const auto* bytes = reinterpret_cast<const std::byte*>(from);
    loose_.emplace_back(bytes, bytes + count * sizeof(T), pinned);
    from = reinterpret_cast<const T*>(loose_.back().data());
  }
  return LOCKSTEP_CUDA_STATUS(cudaMemcpyAsync(const_cast<T*>(to), from, count * sizeof(T),
                                              cudaMemcpyHostToDevice, stream_));
}

Status FedBatch::send(const HostBatch& batch, PinnedBlocks* pinned) {
  int64_t bytes = 0;
  const StagedBatch to = parts_of(static_cast<std::byte*>(memory_.get()), batch, &bytes);
  const auto send_all = [&](const auto* part, const auto& from) {
    return send(part, from.data(), from.size(), pinned);
  };
  LOCKSTEP_RETURN_IF_ERROR(send_all(to.labels, batch.labels));
  LOCKSTEP_RETURN_IF_ERROR(send_all(to.positions, batch.positions));
  LOCKSTEP_RETURN_IF_ERROR(send_all(to.inputs, batch.inputs));
  LOCKSTEP_RETURN_IF_ERROR(send_all(to.targets, batch.targets));
  if (!batch.weights.empty()) return send_all(to.weights, batch.weights);
  const auto count = static_cast<size_t>(batch.rows * batch.weight_columns);
  return send_all(to.weights, std::vector<float>(count, 1.0f));
}

Status FedBatch::finish() {
  if (std::exchange(is_finished_, true)) return {};
  const Status crossed = was_sent_ ? LOCKSTEP_CUDA_STATUS(cudaEventSynchronize(crossed_.get()))
                                   : LOCKSTEP_CUDA_STATUS(cudaStreamSynchronize(stream_));
  if (taker_ == nullptr) return crossed;
  Status ordered;
  if (was_taken_) ordered = LOCKSTEP_CUDA_STATUS(cudaStreamWaitEvent(stream_, taken_.get(), 0));
  if (!was_taken_ || !ordered.ok()) {  // no event keeps the order: the host does
    const Status waited = LOCKSTEP_CUDA_STATUS(cudaStreamSynchronize(taker_));
    if (ordered.ok()) ordered = waited;
  }
  return crossed.ok() ? ordered : crossed;
}

FedBatch::~FedBatch() {
  const Status status = finish();
  if (!status.ok()) std::fprintf(stderr, "lockstep: %s\n", status.error().message.c_str());
}

Result<std::unique_ptr<BatchFeed>> BatchFeed::create(const GpuInfo& gpu) {
  LOCKSTEP_ASSIGN(auto pool, MemoryPool::create(gpu));
  std::unique_ptr<BatchFeed> feed(new BatchFeed(gpu, std::move(pool)));
  cudaStream_t stream = nullptr;
  LOCKSTEP_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  feed->stream_ = StreamHandle(stream);
  return feed;
}

BatchFeed::~BatchFeed() {
  if (!stream_) return;
  log_cuda_failure(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize(stream)");
}

Status BatchFeed::give_back() const {
  LOCKSTEP_CUDA_CHECK(cudaStreamSynchronize(stream_.get()));
  return pool_.trim();
}

Result<std::unique_ptr<FedBatch>> BatchFeed::start(const HostBatch& batch) {
  check_sizes(batch);
  LOCKSTEP_CUDA_CHECK(cudaSetDevice(gpu_.index));
  auto fed = std::make_unique<FedBatch>(stream_.get());
  LOCKSTEP_ASSIGN(fed->crossed_, make_event());
  LOCKSTEP_ASSIGN(fed->taken_, make_event());
  parts_of(nullptr, batch, &fed->bytes_);
  LOCKSTEP_ASSIGN(fed->memory_, pool_.allocate(fed->bytes_, stream_.get()));
  LOCKSTEP_RETURN_IF_ERROR(fed->send(batch, &pinned_));
  LOCKSTEP_CUDA_CHECK(cudaEventRecord(fed->crossed_.get(), stream_.get()));
  fed->was_sent_ = true;
  return fed;
}

Result<std::unique_ptr<Staging>> Staging::create(const GpuInfo& gpu, const HostBatch& batch) {
  std::unique_ptr<Staging> staging(new Staging());
  staging->rows_ = batch.rows;
  parts_of(nullptr, batch, &staging->bytes_);
  void* memory = nullptr;
  LOCKSTEP_CUDA_CHECK(cudaMallocHost(&memory, sizeof(RunParameters)));
  staging->parameters_ = HostMemoryHandle(memory);
  memory = nullptr;
  const Status status =
      LOCKSTEP_CUDA_STATUS(cudaMalloc(&memory, static_cast<size_t>(staging->bytes_)));
  if (!status.ok()) return out_of_memory(gpu, staging->bytes_, 0, status.error());
  staging->device_ = MemoryHandle(memory);
  LOCKSTEP_ASSIGN(staging->sent_, make_event());
  int64_t bytes = 0;
  staging->on_device_ = parts_of(static_cast<std::byte*>(memory), batch, &bytes);
  return staging;
}

Status Staging::take(const RunContext& context, FedBatch* fed, cudaStream_t stream) {
  const HostBatch& batch = *context.batch;
  LOCKSTEP_CHECK(batch.rows == rows_ && batch.features == on_device_.features);
  LOCKSTEP_CHECK(batch.target_features == on_device_.target_features);
  LOCKSTEP_CHECK(batch.weight_columns == on_device_.weight_columns && fed->bytes_ == bytes_);
  LOCKSTEP_CUDA_CHECK(cudaEventSynchronize(sent_.get()));
  auto* parameters = static_cast<RunParameters*>(parameters_.get());
  *parameters = {context.seed, context.epoch, context.loss_scale};
  LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(device_.get(), parameters, sizeof(RunParameters),
                                      cudaMemcpyHostToDevice, stream));
  LOCKSTEP_CUDA_CHECK(cudaEventRecord(sent_.get(), stream));
  LOCKSTEP_CUDA_CHECK(cudaStreamWaitEvent(stream, fed->crossed_.get(), 0));
  fed->taker_ = stream;
  fed->was_taken_ = false;
  const auto at = [](void* memory) { return static_cast<std::byte*>(memory) + kPartAlignment; };
  LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(at(device_.get()), at(fed->memory_.get()),
                                      static_cast<size_t>(bytes_ - kPartAlignment),
                                      cudaMemcpyDeviceToDevice, stream));
  LOCKSTEP_CUDA_CHECK(cudaEventRecord(fed->taken_.get(), stream));
  fed->was_taken_ = true;
  return {};
}

}  // namespace lockstep
