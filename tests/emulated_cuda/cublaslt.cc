#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "cuda/bf16.h"
#include "host/core/rng.h"
#include "tests/emulated_cuda/state.h"
#include "tests/emulated_cuda/vendor.h"

namespace lockstep::emulated {
namespace {

constexpr uint64_t kMagic = 0x656d756c61746564u;
constexpr size_t kWorkspaceAlignment = 256;

struct CublasLtHandle {
  int device = 0;
};
struct MatmulDesc {
  cublasComputeType_t compute{};
  int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
};
struct Layout {
  uint64_t rows = 0, columns = 0;
  int64_t leading = 0;
  bool is_bf16 = false;

  size_t bytes() const { return elements() * (is_bf16 ? sizeof(Bf16) : sizeof(float)); }
  size_t elements() const { return (columns - 1) * static_cast<size_t>(leading) + rows; }
  bool operator==(const Layout&) const = default;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  uint32_t alignment_a = 256, alignment_b = 256, alignment_c = 256, alignment_d = 256;
};

// What the heuristic says to the matmul, in the algorithm's bytes.
struct Algorithm {
  uint64_t magic = kMagic;
  uint64_t problem = 0;  // hash of shapes and epilogue
  uint32_t workspace = 0;
  uint32_t chains = 1;  // sums side by side
  uint32_t bias_alignment = 0;
  uint32_t alignment_a = 0, alignment_b = 0, alignment_c = 0, alignment_d = 0;
  uint32_t splits = 1;  // of the inner dimension, added by a second piece of work
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

Algorithm read_algorithm(const cublasLtMatmulAlgo_t* opaque) {
  Algorithm algorithm;
  std::memcpy(static_cast<void*>(&algorithm), opaque, sizeof algorithm);
  return algorithm;
}

// A matmul as it was called.
struct Problem {
  MatmulDesc desc;
  Layout a, b, c, d;

  int64_t rows() const { return static_cast<int64_t>(d.rows); }
  int64_t columns() const { return static_cast<int64_t>(d.columns); }
  bool transposed_a() const { return desc.transpose_a == CUBLAS_OP_T; }
  bool transposed_b() const { return desc.transpose_b == CUBLAS_OP_T; }
  int64_t inner() const { return static_cast<int64_t>(transposed_a() ? a.rows : a.columns); }
  bool sound() const {
    const uint64_t a_outer = transposed_a() ? a.columns : a.rows;
    const uint64_t b_inner = transposed_b() ? b.columns : b.rows;
    const uint64_t b_outer = transposed_b() ? b.rows : b.columns;
    const bool leading = a.leading >= static_cast<int64_t>(a.rows) &&
                         b.leading >= static_cast<int64_t>(b.rows) &&
                         d.leading >= static_cast<int64_t>(d.rows);
    return leading && c == d && !d.is_bf16 && a.is_bf16 == b.is_bf16 &&
           (!a.is_bf16 || desc.compute == CUBLAS_COMPUTE_32F) && a_outer == d.rows &&
           b_outer == d.columns && b_inner == static_cast<uint64_t>(inner()) && inner() > 0;
  }
  bool known_epilogue() const {
    return desc.epilogue == CUBLASLT_EPILOGUE_DEFAULT || desc.epilogue == CUBLASLT_EPILOGUE_BIAS ||
           desc.epilogue == CUBLASLT_EPILOGUE_RELU || desc.epilogue == CUBLASLT_EPILOGUE_RELU_BIAS;
  }
  bool has_bias() const { return (desc.epilogue & CUBLASLT_EPILOGUE_BIAS) != 0; }
  bool has_relu() const { return (desc.epilogue & CUBLASLT_EPILOGUE_RELU) != 0; }
  uint64_t hash() const {
    uint64_t h = desc.epilogue;
    for (const Layout& layout : {a, b, d}) {
      h = mix64(h ^ layout.rows);
      h = mix64(h ^ layout.columns);
      h = mix64(h ^ static_cast<uint64_t>(layout.leading) ^ uint64_t{layout.is_bf16} << 40);
    }
    return mix64(h ^ static_cast<uint64_t>(desc.transpose_a * 2 + desc.transpose_b));
  }
};

// The arrays of one run.
struct Arrays {
  const void* a;
  const void* b;
  float* d;
  float* workspace;
};

float element(const Layout& layout, const void* matrix, int64_t at) {
  return layout.is_bf16 ? to_float(static_cast<const Bf16*>(matrix)[at])
                        : static_cast<const float*>(matrix)[at];
}

// Inner indices [begin, end) of one element, `chains` sums in turn, then these in order.
float dot(const Problem& p, const Arrays& m, int64_t row, int64_t column, int64_t begin,
          int64_t end, uint32_t chains) {
  float sums[4] = {};
  for (int64_t k = begin; k < end; ++k) {
    const int64_t a = p.transposed_a() ? row * p.a.leading + k : k * p.a.leading + row;
    const int64_t b = p.transposed_b() ? k * p.b.leading + column : column * p.b.leading + k;
    sums[k % chains] += element(p.a, m.a, a) * element(p.b, m.b, b);
  }
  float sum = sums[0];
  for (uint32_t i = 1; i < chains; ++i) sum += sums[i];
  return sum;
}

void finish(const Problem& p, float value, int64_t row, float* out) {
  if (p.has_bias()) value += static_cast<const float*>(p.desc.bias)[row];
  if (p.has_relu()) value = 0.0f > value ? 0.0f : value;
  *out = value;
}

void multiply(const Problem& p, const Arrays& m, const Algorithm& algorithm) {
  for (int64_t column = 0; column < p.columns(); ++column) {
    for (int64_t row = 0; row < p.rows(); ++row) {
      finish(p, dot(p, m, row, column, 0, p.inner(), algorithm.chains), row,
             &m.d[column * p.d.leading + row]);
    }
  }
}

void multiply_halves(const Problem& p, const Arrays& m, const Algorithm& algorithm) {
  const int64_t half = p.inner() / 2;
  for (int64_t i = 0; i < p.rows() * p.columns(); ++i) {
    const int64_t row = i % p.rows(), column = i / p.rows();
    m.workspace[2 * i] = dot(p, m, row, column, 0, half, algorithm.chains);
    m.workspace[2 * i + 1] = dot(p, m, row, column, half, p.inner(), algorithm.chains);
  }
}

void add_halves(const Problem& p, const Arrays& m) {
  for (int64_t i = 0; i < p.rows() * p.columns(); ++i) {
    const int64_t row = i % p.rows(), column = i / p.rows();
    finish(p, m.workspace[2 * i] + m.workspace[2 * i + 1], row, &m.d[column * p.d.leading + row]);
  }
}

void check_alignment(const void* pointer, uint32_t alignment, const char* what) {
  if (alignment == 0 || reinterpret_cast<uintptr_t>(pointer) % alignment == 0) return;
  violation(std::string("cublasLtMatmul: ") + what + " is not aligned to the " +
            std::to_string(alignment) + " bytes that were declared");
}

void check_arrays(const Problem& p, const Arrays& m, const Algorithm& algorithm, int device) {
  const auto check = [&](const void* pointer, size_t bytes, const char* what) {
    check_device_memory(pointer, bytes, device, std::string("cublasLtMatmul, ") + what);
  };
  check(m.a, p.a.bytes(), "A");
  check(m.b, p.b.bytes(), "B");
  check(m.d, p.d.bytes(), "D");
  if (p.has_bias()) check(p.desc.bias, p.d.rows * sizeof(float), "bias");
  if (algorithm.workspace > 0) check(m.workspace, algorithm.workspace, "workspace");
  check_alignment(m.a, algorithm.alignment_a, "A");
  check_alignment(m.b, algorithm.alignment_b, "B");
  check_alignment(m.d, algorithm.alignment_d, "D");
  check_alignment(m.d, algorithm.alignment_c, "C");
  if (p.has_bias()) check_alignment(p.desc.bias, algorithm.bias_alignment, "the bias");
  if (algorithm.workspace > 0) {
    check_alignment(m.workspace, kWorkspaceAlignment, "the workspace");
  }
  const auto overlaps = [&](const void* factor, size_t bytes) {
    const auto* begin = static_cast<const std::byte*>(factor);
    const auto* out = reinterpret_cast<const std::byte*>(m.d);
    return begin < out + p.d.bytes() && out < begin + bytes;
  };
  if (overlaps(m.a, p.a.bytes()) || overlaps(m.b, p.b.bytes())) {
    violation("cublasLtMatmul: D overlaps a factor");
  }
}

template <class T>
T* as(void* opaque) {
  return static_cast<T*>(opaque);
}

template <class T, class Opaque>
cublasStatus_t create(const char* call_name, const char* kind, Opaque* object, T value) {
  const Call call(call_name);
  if (call.chosen()) return CUBLAS_STATUS_ALLOC_FAILED;
  *object = reinterpret_cast<Opaque>(new T(std::move(value)));
  ++state().vendor_objects[kind];
  return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t destroy(const char* call_name, const char* kind, void* object) {
  const Call call(call_name);
  delete as<T>(object);
  --state().vendor_objects[kind];
  return call.chosen() ? CUBLAS_STATUS_INTERNAL_ERROR : CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t take(const void* buffer, size_t size, T* value) {
  if (size != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(value, buffer, size);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t set_desc(cublasLtMatmulDesc_t opaque, cublasLtMatmulDescAttributes_t attribute,
                        const void* buffer, size_t size) {
  const Call call("cublasLtMatmulDescSetAttribute");
  if (call.chosen()) return CUBLAS_STATUS_INTERNAL_ERROR;
  auto* desc = as<MatmulDesc>(opaque);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return take(buffer, size, &desc->transpose_a);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return take(buffer, size, &desc->transpose_b);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return take(buffer, size, &desc->epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return take(buffer, size, &desc->bias);
    default:
      violation("cublasLtMatmulDescSetAttribute: an attribute that is not emulated");
  }
}

cublasStatus_t set_preference(cublasLtMatmulPreference_t opaque,
                              cublasLtMatmulPreferenceAttributes_t attribute, const void* buffer,
                              size_t size) {
  const Call call("cublasLtMatmulPreferenceSetAttribute");
  if (call.chosen()) return CUBLAS_STATUS_INTERNAL_ERROR;
  auto* preference = as<Preference>(opaque);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return take(buffer, size, &preference->workspace);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return take(buffer, size, &preference->reductions);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return take(buffer, size, &preference->alignment_a);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return take(buffer, size, &preference->alignment_b);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return take(buffer, size, &preference->alignment_c);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return take(buffer, size, &preference->alignment_d);
    default:
      violation("cublasLtMatmulPreferenceSetAttribute: an attribute that is not emulated");
  }
}

cublasStatus_t create_layout(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                             uint64_t columns, int64_t leading) {
  const bool known = type == CUDA_R_32F || type == CUDA_R_16BF;
  if (!known || rows == 0 || columns == 0) return CUBLAS_STATUS_INVALID_VALUE;
  if (state().shows(Bug::wrong_leading)) ++leading;
  return create("cublasLtMatrixLayoutCreate", "layouts of cublasLt", layout,
                Layout{rows, columns, leading, type == CUDA_R_16BF});
}

// The largest power of two that divides the address, at most 256.
uint32_t alignment_of_pointer(const void* pointer) {
  uint32_t alignment = 1;
  while (alignment < 256 && reinterpret_cast<uintptr_t>(pointer) % (2 * alignment) == 0) {
    alignment *= 2;
  }
  return alignment;
}

cublasStatus_t heuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                         cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                         cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t wanted, int most,
                         cublasLtMatmulHeuristicResult_t results[], int* count) {
  const Call call("cublasLtMatmulAlgoGetHeuristic");
  *count = 0;
  if (call.chosen()) return CUBLAS_STATUS_INTERNAL_ERROR;
  const auto& preference = *as<Preference>(wanted);
  const Problem problem{*as<MatmulDesc>(desc), *as<Layout>(a), *as<Layout>(b), *as<Layout>(c),
                        *as<Layout>(d)};
  if (!problem.sound() || most < 1) return CUBLAS_STATUS_INVALID_VALUE;
  if (!problem.known_epilogue()) return CUBLAS_STATUS_NOT_SUPPORTED;
  Algorithm algorithm;
  algorithm.problem = problem.hash();
  algorithm.alignment_a = preference.alignment_a;
  algorithm.alignment_b = preference.alignment_b;
  algorithm.alignment_c = preference.alignment_c;
  algorithm.alignment_d = preference.alignment_d;
  if (problem.has_bias()) algorithm.bias_alignment = alignment_of_pointer(problem.desc.bias);
  const uint64_t choice =
      mix64(algorithm.problem ^ preference.alignment_a ^ preference.alignment_b << 10 ^
            uint64_t{preference.alignment_d} << 20);
  algorithm.chains = static_cast<uint32_t>(1 + choice % 4);
  const uint64_t bytes = 2 * sizeof(float) * problem.d.rows * problem.d.columns;
  const bool may_split = (preference.reductions & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) != 0;
  if (may_split && choice / 4 % 2 == 0 && problem.inner() > 1 && bytes <= preference.workspace) {
    algorithm.splits = 2;
    algorithm.workspace = static_cast<uint32_t>(bytes);
  }
  results[0] = {};
  std::memcpy(&results[0].algo, &algorithm, sizeof algorithm);
  results[0].workspaceSize = algorithm.workspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t give(void* buffer, size_t size, size_t* written, T value) {
  if (size != sizeof value) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(buffer, &value, size);
  if (written != nullptr) *written = size;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t get_config(const cublasLtMatmulAlgo_t* opaque,
                          cublasLtMatmulAlgoConfigAttributes_t attribute, void* buffer, size_t size,
                          size_t* written) {
  const Call call("cublasLtMatmulAlgoConfigGetAttribute");
  if (call.chosen()) return CUBLAS_STATUS_INTERNAL_ERROR;
  const Algorithm algorithm = read_algorithm(opaque);
  switch (attribute) {
    case CUBLASLT_ALGO_CONFIG_ID:
      return give(buffer, size, written, int32_t{1});
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM:
      return give(buffer, size, written, static_cast<int32_t>(algorithm.splits));
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME:
      return give(
          buffer, size, written,
          static_cast<uint32_t>(algorithm.splits == 1 ? CUBLASLT_REDUCTION_SCHEME_NONE
                                                      : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    default:
      return give(buffer, size, written, uint32_t{0});
  }
}

cublasStatus_t get_capability(const cublasLtMatmulAlgo_t*,
                              cublasLtMatmulAlgoCapAttributes_t attribute, void* buffer,
                              size_t size, size_t* written) {
  const Call call("cublasLtMatmulAlgoCapGetAttribute");
  if (call.chosen()) return CUBLAS_STATUS_INTERNAL_ERROR;
  if (attribute != CUBLASLT_ALGO_CAP_NUMERICAL_IMPL_FLAGS) return CUBLAS_STATUS_INVALID_VALUE;
  return give(buffer, size, written, uint64_t{CUBLASLT_NUMERICAL_IMPL_FLAGS_FMA});
}

cublasStatus_t matmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha,
                      const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                      cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                      cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                      const cublasLtMatmulAlgo_t* chosen, void* workspace, size_t workspace_bytes,
                      cudaStream_t stream_handle) {
  const Call call("cublasLtMatmul");
  if (call.fails()) return CUBLAS_STATUS_EXECUTION_FAILED;
  const int device = stream_of(stream_handle, "cublasLtMatmul").device;
  if (reinterpret_cast<CublasLtHandle*>(handle)->device != device || current_device() != device) {
    violation("cublasLtMatmul: handle, stream and current device differ");
  }
  const Problem problem{*as<MatmulDesc>(desc), *as<Layout>(a_layout), *as<Layout>(b_layout),
                        *as<Layout>(c_layout), *as<Layout>(d_layout)};
  const Algorithm algorithm = read_algorithm(chosen);
  if (algorithm.magic != kMagic || algorithm.problem != problem.hash() || !problem.sound()) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (*static_cast<const float*>(alpha) != 1 || *static_cast<const float*>(beta) != 0 || c != d) {
    violation("cublasLtMatmul: alpha, beta or C that are not emulated");
  }
  if (workspace_bytes < algorithm.workspace) return CUBLAS_STATUS_INVALID_VALUE;
  const Arrays arrays{a, b, static_cast<float*>(d), static_cast<float*>(workspace)};
  check_arrays(problem, arrays, algorithm, device);
  const auto enqueue = [&](const char* name, std::function<void()> run) {
    return submit(stream_handle, {name, {device}, [=] {
                                    check_arrays(problem, arrays, algorithm, device);
                                    run();
                                  }});
  };
  cudaError_t error = cudaSuccess;
  if (algorithm.splits == 1) {
    error = enqueue("cublasLtMatmul", [=] { multiply(problem, arrays, algorithm); });
  } else {
    error =
        enqueue("cublasLtMatmul, first part", [=] { multiply_halves(problem, arrays, algorithm); });
    if (error == cudaSuccess) {
      error = enqueue("cublasLtMatmul, last part", [=] { add_halves(problem, arrays); });
    }
  }
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

const char* status_name(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    default:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
  }
}

void fill_objects(CublasLtApi& api) {
  api.create = [](cublasLtHandle_t* handle) {
    return create("cublasLtCreate", "handles of cublasLt", handle,
                  CublasLtHandle{current_device()});
  };
  api.destroy = [](cublasLtHandle_t handle) {
    return destroy<CublasLtHandle>("cublasLtDestroy", "handles of cublasLt", handle);
  };
  api.matmul_desc_create = [](cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                              cudaDataType_t) {
    return create("cublasLtMatmulDescCreate", "matmuls of cublasLt", desc,
                  MatmulDesc{.compute = compute});
  };
  api.matmul_desc_destroy = [](cublasLtMatmulDesc_t desc) {
    return destroy<MatmulDesc>("cublasLtMatmulDescDestroy", "matmuls of cublasLt", desc);
  };
  api.matrix_layout_create = &create_layout;
  api.matrix_layout_destroy = [](cublasLtMatrixLayout_t layout) {
    return destroy<Layout>("cublasLtMatrixLayoutDestroy", "layouts of cublasLt", layout);
  };
  api.matmul_preference_create = [](cublasLtMatmulPreference_t* preference) {
    return create("cublasLtMatmulPreferenceCreate", "preferences of cublasLt", preference,
                  Preference{});
  };
  api.matmul_preference_destroy = [](cublasLtMatmulPreference_t preference) {
    return destroy<Preference>("cublasLtMatmulPreferenceDestroy", "preferences of cublasLt",
                               preference);
  };
}

}  // namespace

std::shared_ptr<const CublasLtApi> cublaslt_api() {
  auto api = std::make_shared<CublasLtApi>();
  fill_objects(*api);
  api->get_version = [] { return size_t{130000}; };
  api->get_status_name = &status_name;
  api->get_status_string = [](cublasStatus_t) { return "emulated"; };
  api->matmul_desc_set_attribute = &set_desc;
  api->matmul_preference_set_attribute = &set_preference;
  api->matmul_algo_get_heuristic = &heuristic;
  api->matmul_algo_config_get_attribute = &get_config;
  api->matmul_algo_cap_get_attribute = &get_capability;
  api->matmul = &matmul;
  api->version = "emulated cublasLt";
  return api;
}

}  // namespace lockstep::emulated
