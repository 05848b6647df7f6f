#include "cuda/matmul.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace lockstep {
namespace {

constexpr int kMaxCandidates = 32;

// "dense forward of 32x5808 by 5808x256, bias and relu"
std::string describe_matmul(const DenseOp& op, int64_t rows) {
  const int64_t in = op.in_features, out = op.out_features;
  switch (op.pass) {
    case Pass::forward: {
      const bool bias = op.bias_offset >= 0, relu = op.activation == Activation::relu;
      const char* epilogue = bias ? (relu ? ", bias and relu" : ", bias") : (relu ? ", relu" : "");
      return fmt::format("dense forward of {}x{} by {}x{}{}", rows, in, in, out, epilogue);
    }
    case Pass::data_gradient:
      return fmt::format("dense data gradient of {}x{} by {}x{} transposed", rows, out, in, out);
    case Pass::weight_gradient:
      return fmt::format("dense weight gradient of {}x{} transposed by {}x{}", rows, in, rows, out);
  }
  return "";
}

// One candidate of the heuristic.
struct Algorithm {
  int32_t id = -1, split_k = -1;
  uint32_t tile = 0, stages = 0, reduction = 0;
  uint64_t numerics = 0;  // CUBLASLT_NUMERICAL_IMPL_FLAGS_*
  bool known = false;     // whether it says what decides bits: reduction and numerics
};

template <class T>
bool read_config(const CublasLtApi& api, const cublasLtMatmulAlgo_t& algorithm,
                 cublasLtMatmulAlgoConfigAttributes_t attribute, T& value) {
  size_t written = 0;
  T found{};
  if (api.matmul_algo_config_get_attribute(&algorithm, attribute, &found, sizeof found, &written) ==
      CUBLAS_STATUS_SUCCESS) {
    value = found;
    return true;
  }
  return false;
}

Algorithm read_algorithm(const CublasLtApi& api, const cublasLtMatmulAlgo_t& source) {
  Algorithm algorithm;
  read_config(api, source, CUBLASLT_ALGO_CONFIG_ID, algorithm.id);
  read_config(api, source, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, algorithm.split_k);
  read_config(api, source, CUBLASLT_ALGO_CONFIG_TILE_ID, algorithm.tile);
  read_config(api, source, CUBLASLT_ALGO_CONFIG_STAGES_ID, algorithm.stages);
  const bool reduction_known =
      read_config(api, source, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, algorithm.reduction);
  size_t written = 0;
  const bool numerics_known =
      api.matmul_algo_cap_get_attribute(&source, CUBLASLT_ALGO_CAP_NUMERICAL_IMPL_FLAGS,
                                        &algorithm.numerics, sizeof algorithm.numerics,
                                        &written) == CUBLAS_STATUS_SUCCESS;
  algorithm.known = reduction_known && numerics_known;
  return algorithm;
}

// Parts of a sum that end in a fixed place each, and are added in a fixed order. "In place" adds
// them in turn too, but the turns are given out at run time.
constexpr uint32_t kReductions =
    CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

// Why a candidate is refused; "" if it isn't. The preference asks for all of this already.
const char* refusal(const cublasLtMatmulHeuristicResult_t& result, const Algorithm& algorithm,
                    const MatmulOptions& options) {
  if (result.state != CUBLAS_STATUS_SUCCESS) return "not supported";
  if (result.workspaceSize > static_cast<size_t>(options.workspace_limit_bytes)) {
    return "workspace over the limit";
  }
  if (!algorithm.known) return "does not say how it adds";
  if ((algorithm.reduction & ~kReductions) != 0) return "reduction scheme";
  const bool tensor_cores =
      (algorithm.numerics & CUBLASLT_NUMERICAL_IMPL_FLAGS_TENSOR_OP_MASK) != 0;
  if (tensor_cores && options.math == CudaMath::fp32) return "tensor cores";
  return "";
}

}  // namespace

// yT = kernelT xT; dxT = kernel dyT; the kernel's gradient, transposed, = dyT x.
MatmulShape matmul_shape(const DenseOp& op, int64_t rows) {
  const int64_t in = op.in_features, out = op.out_features;
  MatmulShape shape;
  switch (op.pass) {
    case Pass::forward: {
      shape = {false, false, out, in, in, rows, out, rows, CUBLASLT_EPILOGUE_DEFAULT};
      const bool bias = op.bias_offset >= 0;
      if (op.activation == Activation::relu) {
        shape.epilogue = bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
      } else if (bias) {
        shape.epilogue = CUBLASLT_EPILOGUE_BIAS;
      }
      break;
    }
    case Pass::data_gradient:
      shape = {true, false, out, in, out, rows, in, rows, CUBLASLT_EPILOGUE_DEFAULT};
      break;
    case Pass::weight_gradient:
      shape = {false, true, out, rows, in, rows, out, in, CUBLASLT_EPILOGUE_DEFAULT};
      break;
  }
  return shape;
}

// Names the call in the message.
#define LOCKSTEP_CUBLASLT_CHECK(call, name) \
  LOCKSTEP_RETURN_IF_ERROR(cublaslt_status(*api_, api_->call, name))
#define LOCKSTEP_CUBLASLT_SET(function, object, attribute, value) \
  LOCKSTEP_RETURN_IF_ERROR(                                       \
      cublaslt_status(*api_, api_->function(object, attribute, &value, sizeof value), #attribute))

Result<MatmulDescriptors> MatmulDescriptors::create(std::shared_ptr<const CublasLtApi> api,
                                                    const DenseOp& op, int64_t rows,
                                                    const MatmulOptions& options) {
  MatmulDescriptors made;
  made.api_ = std::move(api);
  const MatmulShape shape = matmul_shape(op, rows);
  Status status = made.make_operation(shape, options);
  if (status) status = made.make_layouts(shape, options);
  if (status) status = made.make_preference(op, options);
  if (!status) return Error{describe_matmul(op, rows) + ": " + status.error().message};
  return made;
}

Status MatmulDescriptors::make_operation(const MatmulShape& shape, const MatmulOptions& options) {
  const cublasComputeType_t compute =
      options.math == CudaMath::tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  LOCKSTEP_CUBLASLT_CHECK(matmul_desc_create(&operation_, compute, CUDA_R_32F),
                          "cublasLtMatmulDescCreate");
  const int32_t a = shape.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  const int32_t b = shape.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const uint32_t epilogue = shape.epilogue;
  LOCKSTEP_CUBLASLT_SET(matmul_desc_set_attribute, operation_, CUBLASLT_MATMUL_DESC_TRANSA, a);
  LOCKSTEP_CUBLASLT_SET(matmul_desc_set_attribute, operation_, CUBLASLT_MATMUL_DESC_TRANSB, b);
  LOCKSTEP_CUBLASLT_SET(matmul_desc_set_attribute, operation_, CUBLASLT_MATMUL_DESC_EPILOGUE,
                        epilogue);
  if ((epilogue & CUBLASLT_EPILOGUE_BIAS) != 0) {
    // The heuristic wants to see a pointer, perhaps its alignment; it doesn't follow it. Aligned to
    // what is said and to no more.
    const auto bias = reinterpret_cast<const void*>(
        static_cast<uintptr_t>(0x10000 + options.bias_alignment_bytes));
    LOCKSTEP_CUBLASLT_SET(matmul_desc_set_attribute, operation_, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                          bias);
  }
  return {};
}

Status MatmulDescriptors::make_layouts(const MatmulShape& shape, const MatmulOptions& options) {
  const cudaDataType factor = options.math == CudaMath::bf16 ? CUDA_R_16BF : CUDA_R_32F;
  const auto make = [this](cublasLtMatrixLayout_t& layout, cudaDataType type, int64_t rows,
                           int64_t columns) {
    return cublaslt_status(
        *api_,
        api_->matrix_layout_create(&layout, type, static_cast<uint64_t>(rows),
                                   static_cast<uint64_t>(columns), rows),
        fmt::format("cublasLtMatrixLayoutCreate({} rows, {} columns)", rows, columns));
  };
  LOCKSTEP_RETURN_IF_ERROR(make(a_, factor, shape.a_rows, shape.a_columns));
  LOCKSTEP_RETURN_IF_ERROR(make(b_, factor, shape.b_rows, shape.b_columns));
  return make(out_, CUDA_R_32F, shape.out_rows, shape.out_columns);
}

Status MatmulDescriptors::make_preference(const DenseOp& op, const MatmulOptions& options) {
  LOCKSTEP_CUBLASLT_CHECK(matmul_preference_create(&preference_), "cublasLtMatmulPreferenceCreate");
  const auto x = static_cast<uint32_t>(options.x_alignment_bytes);
  const auto y = static_cast<uint32_t>(options.y_alignment_bytes);
  const auto kernel = static_cast<uint32_t>(options.kernel_alignment_bytes);
  const auto workspace = static_cast<uint64_t>(options.workspace_limit_bytes);
  const uint32_t reductions = kReductions;
  uint32_t a = kernel, b = x, out = y;
  if (op.pass == Pass::data_gradient) a = kernel, b = y, out = x;
  if (op.pass == Pass::weight_gradient) a = y, b = x, out = kernel;
  // There is no preference for the bias: kernels load it as they store the result.
  if (op.pass == Pass::forward && op.bias_offset >= 0) {
    out = std::min(out, static_cast<uint32_t>(options.bias_alignment_bytes));
  }
  LOCKSTEP_CUBLASLT_SET(matmul_preference_set_attribute, preference_,
                        CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
  LOCKSTEP_CUBLASLT_SET(matmul_preference_set_attribute, preference_,
                        CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions);
  LOCKSTEP_CUBLASLT_SET(matmul_preference_set_attribute, preference_,
                        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a);
  LOCKSTEP_CUBLASLT_SET(matmul_preference_set_attribute, preference_,
                        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b);
  LOCKSTEP_CUBLASLT_SET(matmul_preference_set_attribute, preference_,
                        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out);
  LOCKSTEP_CUBLASLT_SET(matmul_preference_set_attribute, preference_,
                        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out);
  return {};
}

MatmulDescriptors::~MatmulDescriptors() {
  // They hold no device's memory; their release fails for a bad pointer only.
  if (preference_ != nullptr) api_->matmul_preference_destroy(preference_);
  for (cublasLtMatrixLayout_t layout : {a_, b_, out_}) {
    if (layout != nullptr) api_->matrix_layout_destroy(layout);
  }
  if (operation_ != nullptr) api_->matmul_desc_destroy(operation_);
}

void MatmulDescriptors::swap(MatmulDescriptors& other) noexcept {
  std::swap(api_, other.api_);
  std::swap(operation_, other.operation_);
  std::swap(a_, other.a_);
  std::swap(b_, other.b_);
  std::swap(out_, other.out_);
  std::swap(preference_, other.preference_);
}

Result<Matmul> Matmul::create(const CublasLtHandle& handle, const DenseOp& op, int64_t rows,
                              const MatmulOptions& options) {
  const std::shared_ptr<const CublasLtApi>& api = handle.api();
  const std::string name = describe_matmul(op, rows);
  LOCKSTEP_ASSIGN(MatmulDescriptors made, MatmulDescriptors::create(api, op, rows, options));
  std::vector<cublasLtMatmulHeuristicResult_t> results(kMaxCandidates);
  int count = 0;
  LOCKSTEP_RETURN_IF_ERROR(cublaslt_status(
      *api,
      api->matmul_algo_get_heuristic(handle.get(), made.operation_, made.a_, made.b_, made.out_,
                                     made.out_, made.preference_, kMaxCandidates, results.data(),
                                     &count),
      "cublasLtMatmulAlgoGetHeuristic(" + name + ")"));
  std::string refused;
  for (int i = 0; i < count; ++i) {
    const cublasLtMatmulHeuristicResult_t& result = results[static_cast<size_t>(i)];
    const Algorithm algorithm = read_algorithm(*api, result.algo);
    if (const char* reason = refusal(result, algorithm, options); *reason != '\0') {
      refused +=
          fmt::format("{}algorithm {}: {}", refused.empty() ? "" : "; ", algorithm.id, reason);
      continue;
    }
    Matmul matmul(handle.get(), std::move(made));
    matmul.pass_ = op.pass;
    matmul.has_bias_ = op.pass == Pass::forward && op.bias_offset >= 0;
    matmul.algorithm_ = result.algo;
    matmul.workspace_bytes_ = static_cast<int64_t>(result.workspaceSize);
    matmul.description_ = fmt::format(
        "{}: algorithm {} (tile {}, stages {}, split k {}, reduction {}, numerics {:#x}; {} of "
        "{}), "
        "workspace {} bytes",
        name, algorithm.id, algorithm.tile, algorithm.stages, algorithm.split_k,
        algorithm.reduction, algorithm.numerics, i + 1, count, result.workspaceSize);
    return matmul;
  }
  return Error{
      fmt::format("{} has no algorithm for the {} with a workspace of at most {} bytes ({}): {}",
                  api->version, name, options.workspace_limit_bytes, math_name(options.math),
                  refused.empty() ? "no candidates" : refused)};
}

Status Matmul::run(const MatmulBuffers& buffers, void* workspace, cudaStream_t stream) {
  const auto& api_ = descriptors_.api_;
  if (has_bias_) {
    LOCKSTEP_CUBLASLT_SET(matmul_desc_set_attribute, descriptors_.operation_,
                          CUBLASLT_MATMUL_DESC_BIAS_POINTER, buffers.bias);
  }
  const void* a = pass_ == Pass::weight_gradient ? buffers.dy : buffers.kernel;
  const void* b = pass_ == Pass::data_gradient ? buffers.dy : buffers.x;
  const float one = 1, zero = 0;
  const cublasStatus_t status =
      api_->matmul(handle_, descriptors_.operation_, &one, a, descriptors_.a_, b, descriptors_.b_,
                   &zero, buffers.out, descriptors_.out_, buffers.out, descriptors_.out_,
                   &algorithm_, workspace, static_cast<size_t>(workspace_bytes_), stream);
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  return cublaslt_status(*api_, status, "cublasLtMatmul(" + description_ + ")");
}

#undef LOCKSTEP_CUBLASLT_CHECK
#undef LOCKSTEP_CUBLASLT_SET

}  // namespace lockstep
