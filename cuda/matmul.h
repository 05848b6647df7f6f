// Dense layers through cublasLt. The algorithm is taken from the heuristic once and never measured:
// a function of the shapes, the alignments, the options, the device and the version of cublasLt.
//
// Row-major, float32: x (rows, in), kernel (in, out), y (rows, out); in bf16 the two factors are
// bfloat16, what comes out and the bias are float32. cublasLt sees the transposes
// of all of them, column-major, which are the same memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "cuda/numerics.h"
#include "cuda/vendor.h"
#include "host/core/result.h"
#include "host/device/ops.h"

namespace lockstep {

struct MatmulOptions {
  CudaMath math = CudaMath::fp32;
  int64_t workspace_limit_bytes = int64_t{32} << 20;
  // True of every pointer that run() gets; powers of two from 4 to 256. For the kernel and the bias
  // see alignment_of (conv_plan.h).
  int64_t x_alignment_bytes = 256;  // and dx
  int64_t y_alignment_bytes = 256;  // and dy
  int64_t kernel_alignment_bytes = 4;
  int64_t bias_alignment_bytes = 4;
};

// Device pointers of one run.
//   forward: x, kernel (and bias where the op has one) -> out = y, activation applied
//   data_gradient: dy, kernel -> out = dx     weight_gradient: x, dy -> out = the kernel's gradient
struct MatmulBuffers {
  const void* x = nullptr;
  const void* kernel = nullptr;
  const float* bias = nullptr;
  const void* dy = nullptr;
  float* out = nullptr;
};

// What cublasLt is told of a pass: out = a b, both column-major, perhaps transposed. Pure; tests
// read it.
struct MatmulShape {
  bool transpose_a = false, transpose_b = false;
  int64_t a_rows = 0, a_columns = 0;  // as they lie in memory; the leading dimension is the rows
  int64_t b_rows = 0, b_columns = 0;
  int64_t out_rows = 0, out_columns = 0;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
};
MatmulShape matmul_shape(const DenseOp& op, int64_t rows);

// The descriptors of one matmul: all that can be made without a device.
class MatmulDescriptors {
 public:
  static Result<MatmulDescriptors> create(std::shared_ptr<const CublasLtApi> api, const DenseOp& op,
                                          int64_t rows, const MatmulOptions& options);
  MatmulDescriptors(MatmulDescriptors&& other) noexcept { swap(other); }
  MatmulDescriptors& operator=(MatmulDescriptors&& other) noexcept {
    swap(other);
    return *this;
  }
  ~MatmulDescriptors();

 private:
  friend class Matmul;
  MatmulDescriptors() = default;
  void swap(MatmulDescriptors& other) noexcept;
  Status make_operation(const MatmulShape& shape, const MatmulOptions& options);
  Status make_layouts(const MatmulShape& shape, const MatmulOptions& options);
  Status make_preference(const DenseOp& op, const MatmulOptions& options);

  std::shared_ptr<const CublasLtApi> api_;
  cublasLtMatmulDesc_t operation_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, out_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
};

// One stream at a time uses it: the bias pointer is part of its descriptor.
class Matmul {
 public:
  // op.pass of `op` for `rows` rows. Fails, naming the shapes and why each candidate was refused,
  // where no algorithm qualifies. `handle` outlives the result.
  static Result<Matmul> create(const CublasLtHandle& handle, const DenseOp& op, int64_t rows,
                               const MatmulOptions& options);

  int64_t workspace_bytes() const { return workspace_bytes_; }
  // "dense forward of 32x5808 by 5808x256, bias and relu: algorithm 21 (tile 15, stages 13, split k
  // 1, reduction 0; 1 of 8), workspace 0 bytes"
  const std::string& description() const { return description_; }

  // Enqueues on `stream`. `workspace` holds workspace_bytes() and is aligned to 256 bytes.
  // Allocates nothing on the device and doesn't wait: it can be captured into a CUDA graph.
  // Overwrites `out`.
  Status run(const MatmulBuffers& buffers, void* workspace, cudaStream_t stream);

 private:
  Matmul(cublasLtHandle_t handle, MatmulDescriptors descriptors)
      : handle_(handle), descriptors_(std::move(descriptors)) {}

  cublasLtHandle_t handle_ = nullptr;
  MatmulDescriptors descriptors_;
  Pass pass_ = Pass::forward;
  bool has_bias_ = false;
  cublasLtMatmulAlgo_t algorithm_{};
  int64_t workspace_bytes_ = 0;
  std::string description_;
};

}  // namespace lockstep
