// Dense: cublasLt with bias and activation in its epilogue.
#include <fmt/format.h>

#include "cuda/conv_plan.h"
#include "cuda/matmul.h"
#include "cuda/operands.h"
#include "cuda/prepared_ops.h"

namespace lockstep::cuda {
namespace {

class Dense : public PreparedOp {
 public:
  Dense(const OpSetting& setting, const DenseOp& op, std::shared_ptr<Matmul> matmul)
      : setting_(setting),
        op_(op),
        matmul_(std::move(matmul)),
        operands_(setting.gpu->math(), operand_counts(op, setting.rows)) {}

  void run(const RunContext& context, std::span<float* const> values) override {
    setting_.gpu->note(launch(context, values));
  }

 private:
  Status launch(const RunContext& context, std::span<float* const> values) const {
    const Branch& branch = setting_.gpu->branch();
    const auto read = [&](Operand operand, const float* factor) {
      return operands_.read(operand, factor, context.work, branch.stream);
    };
    MatmulBuffers buffers;
    if (op_.pass == Pass::weight_gradient) {
      const float* dy = setting_.input(1, values);
      LOCKSTEP_ASSIGN(buffers.x, read(Operand::x, setting_.input(0, values)));
      LOCKSTEP_ASSIGN(buffers.dy, read(Operand::y, dy));
      buffers.out = context.roots[0] + op_.kernel_offset;
      LOCKSTEP_RETURN_IF_ERROR(matmul_->run(buffers, branch.workspace, branch.stream));
      if (op_.bias_offset < 0) return {};
      return launch_column_sums(dy, setting_.rows, op_.out_features, branch.scratch,
                                context.roots[0] + op_.bias_offset, branch.stream);
    }
    LOCKSTEP_ASSIGN(buffers.kernel, read(Operand::kernel, context.weights + op_.kernel_offset));
    buffers.out = setting_.output(values);
    if (op_.pass == Pass::forward) {
      LOCKSTEP_ASSIGN(buffers.x, read(Operand::x, setting_.input(0, values)));
      if (op_.bias_offset >= 0) buffers.bias = context.weights + op_.bias_offset;
      return matmul_->run(buffers, branch.workspace, branch.stream);
    }
    LOCKSTEP_ASSIGN(buffers.dy, read(Operand::y, setting_.input(0, values)));
    LOCKSTEP_RETURN_IF_ERROR(matmul_->run(buffers, branch.workspace, branch.stream));
    const float* mask = setting_.relu_mask(values);
    if (mask == nullptr) return {};
    return launch_mask(mask, setting_.rows * op_.in_features, buffers.out, branch.stream);
  }

  const OpSetting setting_;
  const DenseOp op_;
  const std::shared_ptr<Matmul> matmul_;
  const Operands operands_;
};

}  // namespace

Prepared prepare_dense(const OpSetting& setting, const DenseOp& op) {
  Gpu& gpu = *setting.gpu;
  MatmulOptions options;
  options.math = gpu.math();
  options.workspace_limit_bytes = cuda_pins::kVendorWorkspace;
  options.x_alignment_bytes = kValueAlignment;
  options.y_alignment_bytes = kValueAlignment;
  const bool reads_copy = gpu.math() == CudaMath::bf16 && op.pass != Pass::weight_gradient;
  options.kernel_alignment_bytes =
      reads_copy ? kValueAlignment : alignment_of(op.kernel_offset, kValueAlignment);
  options.bias_alignment_bytes =
      op.bias_offset < 0 ? kValueAlignment : alignment_of(op.bias_offset, kValueAlignment);
  if (column_sums_scratch(setting.rows, op.out_features) * int64_t{sizeof(float)} > kScratchBytes) {
    return Error{fmt::format("{} features of {} rows are too many to sum up on a GPU",
                             op.out_features, setting.rows)};
  }
  const std::string key = fmt::format("dense {} {} {}x{} {} {} {} {}", static_cast<int>(op.pass),
                                      setting.rows, op.in_features, op.out_features,
                                      static_cast<int>(op.activation), op.bias_offset >= 0,
                                      options.kernel_alignment_bytes, options.bias_alignment_bytes);
  LOCKSTEP_ASSIGN(auto matmul, gpu.matmuls().find_or_make(key, [&] {
    return Matmul::create(gpu.cublaslt(), op, setting.rows, options);
  }));
  return std::unique_ptr<PreparedOp>(std::make_unique<Dense>(setting, op, std::move(matmul)));
}

}  // namespace lockstep::cuda
