#include "cuda/conv_graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace lockstep {
namespace {

using Dims = std::array<int64_t, 4>;

// cuDNN's order of dimensions, whatever the order in memory: N, C, H, W or K, C, R, S.
struct TensorShape {
  Dims dims{};
  Dims strides{};
};

// Images (or kernels) end to end, channels innermost.
TensorShape channels_last(int64_t count, int64_t channels, int64_t height, int64_t width) {
  return {{count, channels, height, width},
          {height * width * channels, 1, width * channels, channels}};
}

TensorShape x_shape(const Conv2dOp& op, int64_t rows) {
  return channels_last(rows, op.in_channels, op.in_height, op.in_width);
}
TensorShape y_shape(const Conv2dOp& op, int64_t rows) {
  return channels_last(rows, op.out_channels, op.out_height, op.out_width);
}
// cuDNN sees groups where the kernel has fewer channels than the image.
TensorShape kernel_shape(const Conv2dOp& op) {
  return channels_last(op.out_channels, op.group_inputs(), op.kernel_height, op.kernel_width);
}

// The zeros behind an image's last row (or column): as many as the last window reaches. Where
// windows end before the image does, none: the count of windows is rounded down.
int64_t post_padding(int in, int out, int64_t window, int stride, int pre) {
  return std::max<int64_t>(0, int64_t{out - 1} * stride + window - in - pre);
}

// What a window covers: height, width.
std::array<int64_t, 2> windows_of(const Conv2dOp& op) {
  return {int64_t{op.kernel_height - 1} * op.dilation_height + 1,
          int64_t{op.kernel_width - 1} * op.dilation_width + 1};
}

// Height, width.
std::array<int64_t, 2> post_paddings(const Conv2dOp& op) {
  const auto [height, width] = windows_of(op);
  return {post_padding(op.in_height, op.out_height, height, op.stride_height, op.pad_top),
          post_padding(op.in_width, op.out_width, width, op.stride_width, op.pad_left)};
}

const char* pass_name(Pass pass) {
  switch (pass) {
    case Pass::forward:
      return "forward";
    case Pass::data_gradient:
      return "data gradient";
    case Pass::weight_gradient:
      return "weight gradient";
  }
  return "";
}

// The operation graph of one pass and the descriptors that it consists of.
class GraphBuilder {
 public:
  GraphBuilder(const CudnnTarget& target, const Conv2dOp& op, int64_t rows,
               const ConvPlanOptions& options)
      : target_(target), op_(op), rows_(rows), options_(options) {}

  // The graph is the last of the descriptors.
  Result<std::vector<CudnnDescriptor>> build(const ConvFusion& fusion) {
    parts_.clear();
    operations_.clear();
    LOCKSTEP_RETURN_IF_ERROR(add_convolution(fusion));
    LOCKSTEP_RETURN_IF_ERROR(add_epilogue(fusion));
    LOCKSTEP_ASSIGN(CudnnDescriptor graph, create(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR));
    if (cudnnHandle_t handle = target_.handle(); handle != nullptr) {
      LOCKSTEP_CUDNN_SET(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    }
    LOCKSTEP_CUDNN_SET(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                       static_cast<int64_t>(operations_.size()), operations_.data());
    LOCKSTEP_RETURN_IF_ERROR(graph.finalize("operation graph"));
    parts_.push_back(std::move(graph));
    return std::move(parts_);
  }

 private:
  Result<CudnnDescriptor> create(cudnnBackendDescriptorType_t type) const {
    return CudnnDescriptor::create(target_.api(), type);
  }

  cudnnBackendDescriptor_t keep(CudnnDescriptor part) {
    parts_.push_back(std::move(part));
    return parts_.back().get();
  }

  Result<cudnnBackendDescriptor_t> tensor(ConvUid uid, const TensorShape& shape, int64_t alignment,
                                          bool is_virtual) {
    LOCKSTEP_ASSIGN(CudnnDescriptor tensor, create(CUDNN_BACKEND_TENSOR_DESCRIPTOR));
    const cudnnDataType_t type =
        options_.math == CudaMath::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
    const int64_t id = uid;
    LOCKSTEP_CUDNN_SET(tensor, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    LOCKSTEP_CUDNN_SET(tensor, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4,
                       shape.dims.data());
    LOCKSTEP_CUDNN_SET(tensor, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4,
                       shape.strides.data());
    LOCKSTEP_CUDNN_SET(tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
    LOCKSTEP_CUDNN_SET(tensor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    LOCKSTEP_CUDNN_SET(tensor, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    LOCKSTEP_RETURN_IF_ERROR(tensor.finalize("tensor"));
    return keep(std::move(tensor));
  }

  Result<cudnnBackendDescriptor_t> convolution() {
    LOCKSTEP_ASSIGN(CudnnDescriptor part, create(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR));
    const int64_t spatial = 2;
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const std::array<int64_t, 2> dilations = {op_.dilation_height, op_.dilation_width};
    const std::array<int64_t, 2> strides = {op_.stride_height, op_.stride_width};
    const std::array<int64_t, 2> pre = {op_.pad_top, op_.pad_left};
    const std::array<int64_t, 2> post = post_paddings(op_);
    LOCKSTEP_CUDNN_SET(part, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &spatial);
    LOCKSTEP_CUDNN_SET(part, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    LOCKSTEP_CUDNN_SET(part, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1,
                       &mode);
    LOCKSTEP_CUDNN_SET(part, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, spatial,
                       dilations.data());
    LOCKSTEP_CUDNN_SET(part, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, spatial,
                       strides.data());
    LOCKSTEP_CUDNN_SET(part, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, spatial,
                       pre.data());
    LOCKSTEP_CUDNN_SET(part, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, spatial,
                       post.data());
    LOCKSTEP_RETURN_IF_ERROR(part.finalize("convolution"));
    return keep(std::move(part));
  }

  Status add_convolution(const ConvFusion& fusion) {
    const bool fused = fusion.bias || fusion.relu;
    LOCKSTEP_ASSIGN(cudnnBackendDescriptor_t x,
                    tensor(kX, x_shape(op_, rows_), options_.x_alignment_bytes, false));
    LOCKSTEP_ASSIGN(cudnnBackendDescriptor_t kernel,
                    tensor(kKernel, kernel_shape(op_), options_.kernel_alignment_bytes, false));
    LOCKSTEP_ASSIGN(cudnnBackendDescriptor_t y, tensor(fused ? kConvolved : kY, y_shape(op_, rows_),
                                                       options_.y_alignment_bytes, fused));
    LOCKSTEP_ASSIGN(cudnnBackendDescriptor_t convolution_part, convolution());
    last_ = y;
    switch (op_.pass) {
      case Pass::forward:
        return forward_operation(convolution_part, x, kernel, y);
      case Pass::data_gradient:
        return data_gradient_operation(convolution_part, x, kernel, y);
      case Pass::weight_gradient:
        return weight_gradient_operation(convolution_part, x, kernel, y);
    }
    return {};
  }

// The three operations are alike but for the names of their attributes.
#define LOCKSTEP_CONVOLUTION_OPERATION(type, prefix, x_name, kernel_name, y_name)         \
  LOCKSTEP_ASSIGN(CudnnDescriptor operation, create(type));                               \
  LOCKSTEP_CUDNN_SET(operation, prefix##_CONV_DESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,     \
                     &convolution_part);                                                  \
  LOCKSTEP_CUDNN_SET(operation, prefix##_##x_name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &x); \
  LOCKSTEP_CUDNN_SET(operation, prefix##_##kernel_name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, \
                     &kernel);                                                            \
  LOCKSTEP_CUDNN_SET(operation, prefix##_##y_name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &y); \
  LOCKSTEP_CUDNN_SET(operation, prefix##_ALPHA, CUDNN_TYPE_FLOAT, 1, &kAlpha);            \
  LOCKSTEP_CUDNN_SET(operation, prefix##_BETA, CUDNN_TYPE_FLOAT, 1, &kBeta);              \
  LOCKSTEP_RETURN_IF_ERROR(operation.finalize(pass_name(op_.pass)));                      \
  operations_.push_back(keep(std::move(operation)));                                      \
  return {}

  Status forward_operation(cudnnBackendDescriptor_t convolution_part, cudnnBackendDescriptor_t x,
                           cudnnBackendDescriptor_t kernel, cudnnBackendDescriptor_t y) {
    LOCKSTEP_CONVOLUTION_OPERATION(CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                                   CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD, X, W, Y);
  }
  Status data_gradient_operation(cudnnBackendDescriptor_t convolution_part,
                                 cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t kernel,
                                 cudnnBackendDescriptor_t y) {
    LOCKSTEP_CONVOLUTION_OPERATION(CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA, DX, W, DY);
  }
  Status weight_gradient_operation(cudnnBackendDescriptor_t convolution_part,
                                   cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t kernel,
                                   cudnnBackendDescriptor_t y) {
    LOCKSTEP_CONVOLUTION_OPERATION(CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER, X, DW, DY);
  }
#undef LOCKSTEP_CONVOLUTION_OPERATION

  Status add_epilogue(const ConvFusion& fusion) {
    if (fusion.bias) {
      const TensorShape shape = channels_last(1, op_.out_channels, 1, 1);
      LOCKSTEP_ASSIGN(cudnnBackendDescriptor_t bias,
                      tensor(kBias, shape, options_.bias_alignment_bytes, false));
      LOCKSTEP_RETURN_IF_ERROR(
          add_pointwise(CUDNN_POINTWISE_ADD, bias, fusion.relu ? kBiased : kY, fusion.relu));
    }
    if (fusion.relu) {
      LOCKSTEP_RETURN_IF_ERROR(add_pointwise(CUDNN_POINTWISE_RELU_FWD, nullptr, kY, false));
    }
    return {};
  }

  // From the tensor that came last to a new one of the same shape.
  Status add_pointwise(cudnnPointwiseMode_t mode, cudnnBackendDescriptor_t bias, ConvUid result_uid,
                       bool is_virtual) {
    LOCKSTEP_ASSIGN(CudnnDescriptor part, create(CUDNN_BACKEND_POINTWISE_DESCRIPTOR));
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    LOCKSTEP_CUDNN_SET(part, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    LOCKSTEP_CUDNN_SET(part, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type);
    LOCKSTEP_RETURN_IF_ERROR(part.finalize("pointwise"));
    cudnnBackendDescriptor_t pointwise = keep(std::move(part));
    LOCKSTEP_ASSIGN(
        cudnnBackendDescriptor_t result,
        tensor(result_uid, y_shape(op_, rows_), options_.y_alignment_bytes, is_virtual));
    LOCKSTEP_ASSIGN(CudnnDescriptor operation,
                    create(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR));
    LOCKSTEP_CUDNN_SET(operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR,
                       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &pointwise);
    LOCKSTEP_CUDNN_SET(operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
                       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &last_);
    if (bias != nullptr) {
      LOCKSTEP_CUDNN_SET(operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
                         CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &bias);
    }
    LOCKSTEP_CUDNN_SET(operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC,
                       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &result);
    LOCKSTEP_RETURN_IF_ERROR(operation.finalize("pointwise operation"));
    operations_.push_back(keep(std::move(operation)));
    last_ = result;
    return {};
  }

  static constexpr float kAlpha = 1, kBeta = 0;
  const CudnnTarget& target_;
  const Conv2dOp& op_;
  const int64_t rows_;
  const ConvPlanOptions& options_;
  std::vector<CudnnDescriptor> parts_;
  std::vector<cudnnBackendDescriptor_t> operations_;
  cudnnBackendDescriptor_t last_ = nullptr;
};

}  // namespace

std::string describe_conv_graph(const Conv2dOp& op, int64_t rows) {
  return fmt::format(
      "{} of {}x{}x{}x{} by {}x{}x{}x{} to {}x{}x{}x{}, strides {}x{}, padding {}x{}{}",
      pass_name(op.pass), rows, op.in_height, op.in_width, op.in_channels, op.out_channels,
      op.kernel_height, op.kernel_width, op.group_inputs(), rows, op.out_height, op.out_width,
      op.out_channels, op.stride_height, op.stride_width, op.pad_top, op.pad_left,
      op.is_plain() ? ""
                    : fmt::format(", dilation {}x{}, {} groups", op.dilation_height,
                                  op.dilation_width, op.groups));
}

Status check_conv_shapes(const Conv2dOp& op, int64_t rows) {
  const std::array<int64_t, 2> post = post_paddings(op);
  const auto [height, width] = windows_of(op);
  const bool fits =
      rows > 0 && post[0] < height && post[1] < width && op.pad_top < height && op.pad_left < width;
  if (fits) return {};
  return Error{describe_conv_graph(op, rows) + ": the shapes don't fit each other"};
}

Result<std::vector<CudnnDescriptor>> build_conv_graph(const CudnnTarget& target, const Conv2dOp& op,
                                                      int64_t rows, const ConvPlanOptions& options,
                                                      const ConvFusion& fusion) {
  return GraphBuilder(target, op, rows, options).build(fusion);
}

}  // namespace lockstep
