// Conv2D: layers of few channels run in our own kernels; else cuDNN does the convolution and our
// kernels what its plan leaves.
#include <fmt/format.h>

#include "cuda/conv_plan.h"
#include "cuda/kernels_conv.h"
#include "cuda/operands.h"
#include "cuda/prepared_ops.h"
#include "host/core/check.h"

namespace lockstep::cuda {
namespace {

class Conv : public PreparedOp {
 public:
  Conv(const OpSetting& setting, const Conv2dOp& op, std::shared_ptr<const ConvPlan> plan)
      : setting_(setting),
        op_(op),
        plan_(std::move(plan)),
        operands_(setting.gpu->math(), operand_counts(op, setting.rows)) {}

  void run(const RunContext& context, std::span<float* const> values) override {
    switch (op_.pass) {
      case Pass::forward:
        setting_.gpu->note(forward(context, values));
        break;
      case Pass::data_gradient:
        setting_.gpu->note(data_gradient(context, values));
        break;
      case Pass::weight_gradient:
        setting_.gpu->note(weight_gradient(context, values));
        break;
    }
  }

 private:
  int64_t window() const { return op_.kernel_size() / op_.out_channels; }
  int64_t pixels() const { return int64_t{setting_.rows} * op_.out_height * op_.out_width; }
  int64_t inputs() const {
    return int64_t{setting_.rows} * op_.in_height * op_.in_width * op_.in_channels;
  }
  const float* bias(const RunContext& context) const {
    return op_.bias_offset < 0 ? nullptr : context.weights + op_.bias_offset;
  }
  // From Keras' HWIO to KRSC, by way of the branch's scratch.
  Result<const void*> kernel(const RunContext& context, const Branch& branch) const {
    LOCKSTEP_RETURN_IF_ERROR(launch_transpose(context.weights + op_.kernel_offset, window(),
                                              op_.out_channels, branch.scratch, branch.stream));
    return operands_.read(Operand::kernel, branch.scratch, context.work, branch.stream);
  }

  Status forward(const RunContext& context, std::span<float* const> values) const {
    const Branch& branch = setting_.gpu->branch();
    float* y = setting_.output(values);
    LOCKSTEP_ASSIGN(const void* const factor, kernel(context, branch));
    LOCKSTEP_ASSIGN(const void* const x, operands_.read(Operand::x, setting_.input(0, values),
                                                        context.work, branch.stream));
    void* const out = operands_.write(Operand::y, y, context.work);
    LOCKSTEP_RETURN_IF_ERROR(
        plan_->run(branch.cudnn, {.x = x, .kernel = factor, .bias = bias(context), .out = out},
                   branch.workspace));
    LOCKSTEP_RETURN_IF_ERROR(operands_.finish(Operand::y, y, context.work, branch.stream));
    const float* bias_left = plan_->fuses_bias() ? nullptr : bias(context);
    const Activation activation_left =
        plan_->fuses_activation() ? Activation::linear : op_.activation;
    if (bias_left == nullptr && activation_left == Activation::linear) return {};
    return launch_bias_activation(y, bias_left, activation_left, pixels(), op_.out_channels, y,
                                  branch.stream);
  }

  Status data_gradient(const RunContext& context, std::span<float* const> values) const {
    const Branch& branch = setting_.gpu->branch();
    float* dx = setting_.output(values);
    LOCKSTEP_ASSIGN(const void* const factor, kernel(context, branch));
    LOCKSTEP_ASSIGN(const void* const dy, operands_.read(Operand::y, setting_.input(0, values),
                                                         context.work, branch.stream));
    void* const out = operands_.write(Operand::x, dx, context.work);
    LOCKSTEP_RETURN_IF_ERROR(
        plan_->run(branch.cudnn, {.kernel = factor, .dy = dy, .out = out}, branch.workspace));
    LOCKSTEP_RETURN_IF_ERROR(operands_.finish(Operand::x, dx, context.work, branch.stream));
    const float* mask = setting_.relu_mask(values);
    if (mask == nullptr) return {};
    return launch_mask(mask, inputs(), dx, branch.stream);
  }

  Status weight_gradient(const RunContext& context, std::span<float* const> values) const {
    const Branch& branch = setting_.gpu->branch();
    const float* dy = setting_.input(1, values);
    float* gradient = context.roots[0];
    void* const work = context.work;
    LOCKSTEP_ASSIGN(const void* const x,
                    operands_.read(Operand::x, setting_.input(0, values), work, branch.stream));
    LOCKSTEP_ASSIGN(const void* const factor, operands_.read(Operand::y, dy, work, branch.stream));
    void* const out = operands_.write(Operand::kernel, branch.scratch, work);
    LOCKSTEP_RETURN_IF_ERROR(
        plan_->run(branch.cudnn, {.x = x, .dy = factor, .out = out}, branch.workspace));
    LOCKSTEP_RETURN_IF_ERROR(
        operands_.finish(Operand::kernel, branch.scratch, work, branch.stream));
    LOCKSTEP_RETURN_IF_ERROR(launch_transpose(branch.scratch, op_.out_channels, window(),
                                              gradient + op_.kernel_offset, branch.stream));
    if (op_.bias_offset < 0) return {};
    return launch_column_sums(dy, pixels(), op_.out_channels, branch.scratch,
                              gradient + op_.bias_offset, branch.stream);
  }

  const OpSetting setting_;
  const Conv2dOp op_;
  const std::shared_ptr<const ConvPlan> plan_;
  const Operands operands_;
};

// All in our own kernels.
class SmallConv : public PreparedOp {
 public:
  SmallConv(const OpSetting& setting, const Conv2dOp& op)
      : setting_(setting),
        op_(op),
        tile_(conv_tile(op, setting.rows)),
        gradient_plan_(plan_conv_gradient(op, setting.rows)) {}

  void run(const RunContext& context, std::span<float* const> values) override {
    setting_.gpu->note(op_.pass == Pass::weight_gradient ? weight_gradient(context, values)
                                                         : correlation(context, values));
  }

  int64_t scratch() const {
    return op_.pass == Pass::weight_gradient ? conv_gradient_scratch(op_, gradient_plan_) : 0;
  }

 private:
  Status correlation(const RunContext& context, std::span<float* const> values) const {
    const Branch& branch = setting_.gpu->branch();
    const float* in = setting_.input(0, values);
    const float* kernel = context.weights + op_.kernel_offset;
    float* out = setting_.output(values);
    if (op_.pass == Pass::data_gradient) {
      return launch_conv_data_gradient(op_, tile_, setting_.rows, in, kernel,
                                       setting_.relu_mask(values), out, branch.stream);
    }
    const float* bias = op_.bias_offset < 0 ? nullptr : context.weights + op_.bias_offset;
    return launch_conv(op_, tile_, setting_.rows, in, kernel, bias, out, branch.stream);
  }

  Status weight_gradient(const RunContext& context, std::span<float* const> values) const {
    const Branch& branch = setting_.gpu->branch();
    float* gradient = context.roots[0];
    float* bias_gradient = op_.bias_offset < 0 ? nullptr : gradient + op_.bias_offset;
    return launch_conv_weight_gradient(
        op_, gradient_plan_, setting_.rows, setting_.input(0, values), setting_.input(1, values),
        branch.scratch, gradient + op_.kernel_offset, bias_gradient, branch.stream);
  }

  const OpSetting setting_;
  const Conv2dOp op_;
  const ConvTile tile_;
  const ConvGradientPlan gradient_plan_;
};

// Two ops of the same key have the same plan.
std::string plan_key(const Conv2dOp& op, int rows, int64_t bias_alignment) {
  return fmt::format("conv {} {} {}x{}x{} {}x{}x{} {}x{} {}x{} {},{} {}x{} {} {} {}",
                     static_cast<int>(op.pass), rows, op.in_height, op.in_width, op.in_channels,
                     op.out_height, op.out_width, op.out_channels, op.kernel_height,
                     op.kernel_width, op.stride_height, op.stride_width, op.pad_top, op.pad_left,
                     op.dilation_height, op.dilation_width, op.groups,
                     static_cast<int>(op.activation), bias_alignment);
}

}  // namespace

Prepared prepare_conv(const OpSetting& setting, const Conv2dOp& op) {
  if (small_conv_suits(op, setting.rows)) {
    auto small = std::make_unique<SmallConv>(setting, op);
    LOCKSTEP_CHECK(small->scratch() * int64_t{sizeof(float)} <= kScratchBytes);
    return std::unique_ptr<PreparedOp>(std::move(small));
  }
  Gpu& gpu = *setting.gpu;
  ConvPlanOptions options;
  options.math = gpu.math();
  options.workspace_limit_bytes = cuda_pins::kVendorWorkspace;
  options.bias_alignment_bytes = op.bias_offset < 0 ? 0 : alignment_of(op.bias_offset);
  const int64_t pixels = int64_t{setting.rows} * op.out_height * op.out_width;
  const int64_t scratch = std::max(op.kernel_size(), column_sums_scratch(pixels, op.out_channels));
  if (scratch * int64_t{sizeof(float)} > kScratchBytes) {
    return Error{
        fmt::format("its kernel of {}x{}x{}x{} is larger than the {} MiB that a kernel "
                    "may take on a GPU",
                    op.kernel_height, op.kernel_width, op.group_inputs(), op.out_channels,
                    kScratchBytes >> 20)};
  }
  LOCKSTEP_ASSIGN(
      auto plan,
      gpu.conv_plans().find_or_make(plan_key(op, setting.rows, options.bias_alignment_bytes), [&] {
        return ConvPlan::create(CudnnTarget::device(gpu.cudnn(), gpu.branch(0).cudnn), op,
                                setting.rows, options, &gpu.plan_store());
      }));
  return std::unique_ptr<PreparedOp>(std::make_unique<Conv>(setting, op, std::move(plan)));
}

}  // namespace lockstep::cuda
