#include "cuda/cuda_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "cuda/gpu.h"
#include "cuda/kernels_general.h"
#include "cuda/nccl_link.h"
#include "cuda/operands.h"
#include "cuda/prepared_ops.h"
#include "host/core/check.h"
#include "host/device/flat_sums.h"

namespace lockstep {
namespace {

constexpr int kLeastCompute = 75;      // Turing: the oldest that CUDA 13 has
constexpr int kLeastBf16Compute = 80;  // Ampere: the oldest whose tensor cores take bfloat16

}  // namespace

namespace cuda {
namespace {

constexpr int64_t kAllocationUnit = 512;  // bytes: what the allocator rounds up to
// Elements whose squares are summed at a time: results lie in memory between two kernels.
constexpr int64_t kSquaresPiece = 128 * kSquaresBlock;

// Of the device's memory, or of the host's.
template <class OwnedMemory>
class CudaBuffer : public Buffer {
 public:
  CudaBuffer(void* memory, int64_t bytes) : memory_(memory), bytes_(bytes) {}
  float* data() override { return static_cast<float*>(memory_.get()); }
  int64_t bytes() const override { return bytes_; }

 private:
  OwnedMemory memory_;
  int64_t bytes_;
};

// A Program's input and, from its second run on, the launches of each segment as a CUDA graph. The
// first run is plain: it loads the kernels, which a capture must not do.
struct CudaRecording : Recording {
  std::unique_ptr<Staging> staging;
  bool has_run = false;
  std::vector<GraphHandle> graphs;
};

struct Visitor {
  const OpSetting& s;
  Prepared operator()(const InputOp& op) { return prepare_input(s, op); }
  Prepared operator()(const Conv2dOp& op) { return prepare_conv(s, op); }
  Prepared operator()(const DenseOp& op) { return prepare_dense(s, op); }
  Prepared operator()(const MaxPool2dOp& op) { return prepare_pool(s, op); }
  Prepared operator()(const DropoutOp& op) { return prepare_dropout(s, op); }
  Prepared operator()(const ReluOp& op) { return prepare_relu(s, op); }
  Prepared operator()(const SoftmaxOp& op) { return prepare_softmax(s, op); }
  Prepared operator()(const SoftmaxCrossEntropyOp& op) { return prepare_loss(s, op); }
  Prepared operator()(const MapOp& op) { return prepare_map(s, op); }
  Prepared operator()(const ParameterSumOp& op) { return prepare_parameter_sum(s, op); }
  Prepared operator()(const GatherOp& op) { return prepare_gather(s, op); }
  Prepared operator()(const GatherMaximumGradientOp& op) { return prepare_gather_gradient(s, op); }
  Prepared operator()(const MatmulOp& op) { return prepare_matmul(s, op); }
  Prepared operator()(const EmbeddingOp& op) { return prepare_embedding(s, op); }
  Prepared operator()(const BatchNormOp& op) { return prepare_batch_norm(s, op); }
  Prepared operator()(const RowSumOp& op) { return prepare_row_sum(s, op); }
};

Prepared prepare_op(const OpSetting& s) { return std::visit(Visitor{s}, s.op.attributes); }

class CudaDevice : public Device {
 public:
  CudaDevice(std::unique_ptr<Gpu> gpu, std::string_view numerics, const CudaOptions& options)
      : gpu_(std::move(gpu)), numerics_(numerics), options_(options) {}
  ~CudaDevice() override { log_failure(gpu_->finish_all()); }

  std::string numerics() const override { return numerics_; }
  std::string description() const override {
    return fmt::format("{}, {}, {}", describe_gpu(gpu_->info()), gpu_->cudnn()->version,
                       gpu_->cublaslt().api()->version);
  }
  bool shares_host_memory() const override { return false; }
  bool separates_partitions() const override { return true; }
  void attach_thread() override { gpu_->note(gpu_->make_current()); }

  int64_t buffer_bytes(int64_t bytes) const override {
    return (bytes + kAllocationUnit - 1) / kAllocationUnit * kAllocationUnit;
  }
  int64_t value_bytes(int rows, int64_t features) const override {
    return rows * features * static_cast<int64_t>(sizeof(float));
  }
  Result<std::unique_ptr<Buffer>> allocate(int64_t bytes) override;
  std::optional<int64_t> free_bytes() const override;
  Result<std::unique_ptr<Buffer>> allocate_host(int64_t bytes) override;
  Status copy_to_host(const float* from, int64_t count, float* to) override {
    LOCKSTEP_RETURN_IF_ERROR(start_copy(from, count, to, cudaMemcpyDeviceToHost));
    return gpu_->finish();
  }
  Status start_copy_to_host(const float* from, int64_t count, float* to) override {
    return start_copy(from, count, to, cudaMemcpyDeviceToHost);
  }
  Status copy_to_device(const float* from, int64_t count, float* to) override {
    LOCKSTEP_RETURN_IF_ERROR(start_copy(from, count, to, cudaMemcpyHostToDevice));
    return gpu_->finish();
  }
  Status aside(const std::function<Status()>& work) override {
    LOCKSTEP_RETURN_IF_ERROR(gpu_->make_current());
    return gpu_->aside(work);
  }
  Status finish_aside(int index) override {
    return LOCKSTEP_CUDA_STATUS(cudaEventSynchronize(gpu_->aside_event(index)));
  }
  Status rejoin() override { return gpu_->rejoin(); }
  int64_t bucket_bytes() const override { return options_.bucket_bytes; }
  int64_t work_bytes(const OpDesc& op, const PartitionGroup& group) const override {
    return gpu_->math() == CudaMath::bf16 ? operand_bytes(op, group.total_rows()) : 0;
  }
  int parts_at_once() const override { return kBranches; }
  std::pmr::memory_resource* batch_memory() override { return gpu_->feed().pinned(); }
  std::unique_ptr<BatchCopy> prefetch(const HostBatch& batch) override {
    auto started = gpu_->feed().start(batch);
    // What is wrong is said where the rows are needed: by `play`, which sends them then.
    return started.ok() ? std::move(started).value() : nullptr;
  }
  Result<std::string> link_id() override { return nccl_link_id(); }
  Result<std::unique_ptr<DeviceLink>> link(const LinkOptions& options) override {
    return make_nccl_link(*gpu_, options);
  }
  Status download(const float* value, int rows, int64_t features, float* row_major) override {
    return copy_to_host(value, rows * features, row_major);
  }

  Result<std::unique_ptr<PreparedOp>> prepare(const OpDesc& op,
                                              const PartitionGroup& group) override {
    LOCKSTEP_CHECK(group.rows.size() == 1);
    LOCKSTEP_RETURN_IF_ERROR(gpu_->make_current());
    return prepare_op({{op}, gpu_.get(), group.total_rows()});
  }
  Status play(std::unique_ptr<Recording>* recording, const RunContext& context,
              const PartRuns& runs) override;

  void add(const float* a, const float* b, float* out, int64_t count) override {
    for (int64_t i = 0; i < count; ++i) out[i] = a[i] + b[i];
  }
  Status sum(std::span<const SumTerm> terms, int64_t count, float* out) override {
    LOCKSTEP_RETURN_IF_ERROR(gpu_->make_current());
    return launch_sum(terms, count, out, gpu_->stream());
  }
  Status evaluate(const ExpressionUpdate& expression, std::span<const float* const> operands,
                  std::span<float* const> outputs, int64_t count) override;
  Status squares(const ExpressionUpdate& expression, std::span<const float* const> operands,
                 int64_t count, double* sums) override;
  Status sum_axis(const float* x, const AxisSum& sum, int64_t first, int64_t count,
                  float* out) override {
    LOCKSTEP_CHECK(first == 0 && count == sum.outputs());  // nobody shares a GPU's work
    LOCKSTEP_RETURN_IF_ERROR(gpu_->make_current());
    return launch_sum_axis(x, sum, out, gpu_->stream());
  }
  Status multiply(const MatmulOp& op, const float* x, const float* z, float* out) override {
    LOCKSTEP_CHECK(op.out.column == 1);
    LOCKSTEP_RETURN_IF_ERROR(gpu_->make_current());
    return launch_matmul(op, x, z, nullptr, 1, out, gpu_->stream());
  }
  Status update(const UpdateDesc& desc, const float* gradient, float* weights,
                std::span<float* const> slots, int64_t count, DigestLanes* lanes) override;
  Status digest(const float* weights, std::span<const float* const> slots, int64_t count,
                DigestLanes* lanes) override;

 private:
  static void log_failure(const Status& status) {
    if (!status.ok()) std::fprintf(stderr, "lockstep: %s\n", status.error().message.c_str());
  }
  Status start_copy(const float* from, int64_t count, float* to, cudaMemcpyKind kind);
  Status run_segment(const PartRuns& runs, int segment);
  Status play_segment(CudaRecording* played, const PartRuns& runs, int segment);
  Status play_staged(CudaRecording* played, const PartRuns& runs);
  Result<GraphHandle> record(const PartRuns& runs, int segment);

  std::unique_ptr<Gpu> gpu_;
  const std::string numerics_;
  const CudaOptions options_;
  std::unique_ptr<Buffer> lanes_;
  std::unique_ptr<Buffer> block_;  // results of an expression
  // Over flat memory, planned when first seen.
  std::map<std::shared_ptr<const Expression>, ExpressionPlan> formulas_;
};

Result<std::unique_ptr<Buffer>> CudaDevice::allocate(int64_t bytes) {
  LOCKSTEP_RETURN_IF_ERROR(gpu_->make_current());
  void* memory = nullptr;
  const int64_t size = buffer_bytes(std::max<int64_t>(bytes, 1));
  Status status = LOCKSTEP_CUDA_STATUS(cudaMalloc(&memory, static_cast<size_t>(size)));
  if (!status.ok() && gpu_->feed().pool().unused_bytes() > 0) {  // it may be what is missing
    LOCKSTEP_RETURN_IF_ERROR(gpu_->feed().give_back());
    status = LOCKSTEP_CUDA_STATUS(cudaMalloc(&memory, static_cast<size_t>(size)));
  }
  if (!status.ok()) return out_of_memory(gpu_->info(), size, 0, status.error());
  return std::unique_ptr<Buffer>(std::make_unique<CudaBuffer<MemoryHandle>>(memory, size));
}

std::optional<int64_t> CudaDevice::free_bytes() const {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  if (!LOCKSTEP_CUDA_STATUS(cudaMemGetInfo(&free_bytes, &total_bytes)).ok()) return std::nullopt;
  return static_cast<int64_t>(free_bytes) + gpu_->feed().pool().unused_bytes();
}

Result<std::unique_ptr<Buffer>> CudaDevice::allocate_host(int64_t bytes) {
  LOCKSTEP_RETURN_IF_ERROR(gpu_->make_current());
  void* memory = nullptr;
  const int64_t size = buffer_bytes(std::max<int64_t>(bytes, 1));
  LOCKSTEP_CUDA_CHECK(cudaMallocHost(&memory, static_cast<size_t>(size)));
  return std::unique_ptr<Buffer>(std::make_unique<CudaBuffer<HostMemoryHandle>>(memory, size));
}

Status CudaDevice::start_copy(const float* from, int64_t count, float* to, cudaMemcpyKind kind) {
  LOCKSTEP_RETURN_IF_ERROR(gpu_->make_current());
  return LOCKSTEP_CUDA_STATUS(
      cudaMemcpyAsync(to, from, static_cast<size_t>(count) * sizeof(float), kind, gpu_->stream()));
}

Status CudaDevice::run_segment(const PartRuns& runs, int segment) {
  const int branches = std::min(runs.parts, kBranches);
  LOCKSTEP_RETURN_IF_ERROR(gpu_->fork(branches));
  for (int part = 0; part < runs.parts; ++part) {
    gpu_->use_branch(part % kBranches);
    runs.run(part, segment);
  }
  LOCKSTEP_RETURN_IF_ERROR(gpu_->take_failure());
  return gpu_->join(branches);
}

Result<GraphHandle> CudaDevice::record(const PartRuns& runs, int segment) {
  LOCKSTEP_CUDA_CHECK(cudaStreamBeginCapture(gpu_->stream(), cudaStreamCaptureModeRelaxed));
  const Status ran = run_segment(runs, segment);
  cudaGraph_t graph = nullptr;
  const Status ended = LOCKSTEP_CUDA_STATUS(cudaStreamEndCapture(gpu_->stream(), &graph));
  const GraphTemplateHandle captured(graph);
  LOCKSTEP_RETURN_IF_ERROR(ran);
  LOCKSTEP_RETURN_IF_ERROR(ended);
  cudaGraphExec_t exec = nullptr;
  LOCKSTEP_CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
  return GraphHandle(exec);
}

// The first time plain, the second time recorded, from then on played; plain each time where the
// options say so.
Status CudaDevice::play_segment(CudaRecording* played, const PartRuns& runs, int segment) {
  if (!played->has_run || !options_.replays) return run_segment(runs, segment);
  GraphHandle& graph = played->graphs[static_cast<size_t>(segment)];
  if (!graph) {
    LOCKSTEP_ASSIGN(graph, record(runs, segment));
  }
  return LOCKSTEP_CUDA_STATUS(cudaGraphLaunch(graph.get(), gpu_->stream()));
}

Status CudaDevice::play_staged(CudaRecording* played, const PartRuns& runs) {
  played->graphs.resize(static_cast<size_t>(runs.segments));
  const auto tell = [&](int segment) { return runs.given ? runs.given(segment) : Status{}; };
  const bool is_first = !played->has_run;
  for (int segment = 0; segment < runs.segments; ++segment) {
    LOCKSTEP_RETURN_IF_ERROR(play_segment(played, runs, segment));
    if (!is_first) LOCKSTEP_RETURN_IF_ERROR(tell(segment));
  }
  played->has_run = true;
  // Loading a kernel may wait for all that the GPU does: nothing that waits for other GPUs may be
  // under way meanwhile.
  for (int segment = 0; segment < runs.segments && is_first; ++segment) {
    LOCKSTEP_RETURN_IF_ERROR(tell(segment));
  }
  return {};
}

Status CudaDevice::play(std::unique_ptr<Recording>* recording, const RunContext& context,
                        const PartRuns& runs) {
  LOCKSTEP_RETURN_IF_ERROR(gpu_->make_current());
  LOCKSTEP_RETURN_IF_ERROR(gpu_->take_failure());
  std::unique_ptr<Recording> own;
  std::unique_ptr<Recording>& kept = recording == nullptr ? own : *recording;
  if (kept == nullptr) {
    auto made = std::make_unique<CudaRecording>();
    LOCKSTEP_ASSIGN(made->staging, Staging::create(gpu_->info(), *context.batch));
    kept = std::move(made);
  }
  auto& played = static_cast<CudaRecording&>(*kept);
  std::unique_ptr<FedBatch> sent_now;  // where nobody has sent it ahead
  auto* fed = static_cast<FedBatch*>(context.batch->copy.get());
  if (fed == nullptr) {
    LOCKSTEP_ASSIGN(sent_now, gpu_->feed().start(*context.batch));
    fed = sent_now.get();
  }
  LOCKSTEP_RETURN_IF_ERROR(played.staging->take(context, fed, gpu_->stream()));
  gpu_->begin_run(played.staging->on_device());
  LOCKSTEP_RETURN_IF_ERROR(play_staged(&played, runs));
  if (sent_now != nullptr) LOCKSTEP_RETURN_IF_ERROR(sent_now->finish());
  return recording == nullptr ? gpu_->finish() : Status{};
}

Status CudaDevice::evaluate(const ExpressionUpdate& expression,
                            std::span<const float* const> operands, std::span<float* const> outputs,
                            int64_t count) {
  LOCKSTEP_RETURN_IF_ERROR(gpu_->make_current());
  auto found = formulas_.find(expression.expression);
  if (found == formulas_.end()) {
    LOCKSTEP_ASSIGN(auto plan, plan_expression(*expression.expression));
    found = formulas_.emplace(expression.expression, std::move(plan)).first;
  }
  return launch_expression(found->second, operands, expression.used_scalars(), outputs, count,
                           gpu_->stream());
}

Status CudaDevice::squares(const ExpressionUpdate& expression,
                           std::span<const float* const> operands, int64_t count, double* sums) {
  const auto results = std::ssize(expression.expression->outputs);
  const int64_t most = std::min(count, kSquaresPiece);
  if (block_ == nullptr || block_->bytes() < results * most * 4) {
    LOCKSTEP_ASSIGN(block_, allocate(results * most * 4));
  }
  std::vector<float*> outputs;
  for (int64_t k = 0; k < results; ++k) outputs.push_back(block_->data() + k * most);
  std::vector<const float*> at(operands.begin(), operands.end());
  for (int64_t begin = 0; begin < count; begin += kSquaresPiece) {
    const int64_t size = std::min(kSquaresPiece, count - begin);
    LOCKSTEP_RETURN_IF_ERROR(evaluate(expression, at, outputs, size));
    for (int64_t k = 0; k < results; ++k) {
      LOCKSTEP_RETURN_IF_ERROR(launch_squares(outputs[static_cast<size_t>(k)], size, results,
                                              sums + begin / kSquaresBlock * results + k,
                                              gpu_->stream()));
    }
    for (const float*& operand : at) operand += kSquaresPiece;
  }
  return {};
}

Status CudaDevice::update(const UpdateDesc& desc, const float* gradient, float* weights,
                          std::span<float* const> slots, int64_t count, DigestLanes* lanes) {
  LOCKSTEP_RETURN_IF_ERROR(gpu_->make_current());
  if (const auto* formula = std::get_if<ExpressionUpdate>(&desc)) {
    const ExpressionMemory memory(gradient, weights, slots);
    LOCKSTEP_RETURN_IF_ERROR(evaluate(*formula, memory.inputs(), memory.results(), count));
  } else {
    LOCKSTEP_RETURN_IF_ERROR(launch_update(desc, gradient, weights, slots, count, gpu_->stream()));
  }
  if (lanes == nullptr) return {};
  return digest(weights, std::vector<const float*>(slots.begin(), slots.end()), count, lanes);
}

Status CudaDevice::digest(const float* weights, std::span<const float* const> slots, int64_t count,
                          DigestLanes* lanes) {
  LOCKSTEP_RETURN_IF_ERROR(gpu_->make_current());
  const auto words = static_cast<int64_t>(digest_blocks(count) * DigestLanes::kCount);
  static_assert(sizeof(DigestLanes) == DigestLanes::kCount * sizeof(float));
  if (lanes_ == nullptr || lanes_->bytes() < words * 4) {
    LOCKSTEP_ASSIGN(lanes_, allocate(words * 4));
  }
  auto* memory = reinterpret_cast<uint32_t*>(lanes_->data());
  LOCKSTEP_RETURN_IF_ERROR(launch_digest(weights, slots, count, memory, gpu_->stream()));
  return copy_to_host(lanes_->data(), words, reinterpret_cast<float*>(lanes));
}

}  // namespace

}  // namespace cuda

namespace {

Result<GpuInfo> usable_gpu(int index, CudaMath math) {
  const auto gpus = list_gpus();
  if (!gpus.ok()) {
    return refused_error(
        fmt::format("no GPU can be used: {}; use --device cpu", gpus.error().message));
  }
  if (index < 0 || index >= static_cast<int>(gpus->size())) {
    return refused_error(fmt::format("there is no GPU {}: this machine has {}; use --device cpu{}",
                                     index, gpus->size(),
                                     gpus->empty() ? "" : ", or fewer --devices"));
  }
  const GpuInfo& gpu = (*gpus)[static_cast<size_t>(index)];
  const int compute = 10 * gpu.compute_major + gpu.compute_minor;
  if (compute < kLeastCompute) {
    return refused_error(
        fmt::format("{} is too old: compute {}.{} or later is needed; use "
                    "--device cpu",
                    describe_gpu(gpu), kLeastCompute / 10, kLeastCompute % 10));
  }
  if (math == CudaMath::bf16 && compute < kLeastBf16Compute) {
    return refused_error(
        fmt::format("{} is too old for cuda-bf16: compute {}.{} or later is needed; use "
                    "--numerics cuda-fp32",
                    describe_gpu(gpu), kLeastBf16Compute / 10, kLeastBf16Compute % 10));
  }
  return gpu;
}

}  // namespace

int cuda_device_count() {
  const auto gpus = list_gpus();
  return gpus.ok() ? static_cast<int>(gpus->size()) : 0;
}

GpuMemory cuda_memory(int index) {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  const bool asked = LOCKSTEP_CUDA_STATUS(cudaSetDevice(index)).ok() &&
                     LOCKSTEP_CUDA_STATUS(cudaMemGetInfo(&free_bytes, &total_bytes)).ok();
  if (!asked) return {};
  return {static_cast<int64_t>(total_bytes - free_bytes), static_cast<int64_t>(total_bytes)};
}

Status check_cuda_device(std::string_view numerics) {
  LOCKSTEP_ASSIGN(const CudaMath math, math_of(numerics));
  LOCKSTEP_RETURN_IF_ERROR(usable_gpu(0, math));
  LOCKSTEP_RETURN_IF_ERROR(load_cudnn());
  LOCKSTEP_RETURN_IF_ERROR(load_cublaslt());
  return {};
}

Result<std::unique_ptr<Device>> make_cuda_device(int index, std::string_view numerics,
                                                 const CudaOptions& options) {
  LOCKSTEP_ASSIGN(const CudaMath math, math_of(numerics));
  LOCKSTEP_ASSIGN(const GpuInfo info, usable_gpu(index, math));
  LOCKSTEP_ASSIGN(auto gpu, Gpu::create(info, math));
  return std::unique_ptr<Device>(
      std::make_unique<cuda::CudaDevice>(std::move(gpu), numerics, options));
}

}  // namespace lockstep
