// Convolutions through cuDNN's graph API. A plan is chosen once, by cuDNN's heuristics and never by
// measuring: among the engines that are deterministic the first that keeps to the numerics and to
// the workspace limit. The choice is a function of the op, the rows, the options, the device and
// the version of cuDNN.
//
// Layouts: activations NHWC, kernels KRSC ([out][height][width][in]; Keras' HWIO is
// transposed by the caller). All tensors are float32, or, in bf16, all bfloat16: cuDNN has no plan
// for a float32 gradient of a kernel by bfloat16 factors.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/numerics.h"
#include "cuda/plan_store.h"
#include "cuda/vendor.h"
#include "host/core/result.h"
#include "host/device/ops.h"

namespace lockstep {

// What plans are made for: the device of a handle, or one that is only described (tests). Cheap to
// copy.
class CudnnTarget {
 public:
  // The handle outlives the target and the making of plans.
  static CudnnTarget device(std::shared_ptr<const CudnnApi> api, cudnnHandle_t handle) {
    return CudnnTarget(std::move(api), handle, nullptr);
  }
  // `json` holds a device's properties as device_json() tells them.
  static Result<CudnnTarget> description(std::shared_ptr<const CudnnApi> api,
                                         const std::string& json);

  const std::shared_ptr<const CudnnApi>& api() const { return api_; }
  cudnnHandle_t handle() const { return handle_; }  // nullptr: a description
  // Of a description, else nullptr.
  const CudnnDescriptor* properties() const { return properties_.get(); }
  // The properties of the target's device, from which description() makes the same target.
  Result<std::string> device_json() const;

 private:
  CudnnTarget(std::shared_ptr<const CudnnApi> api, cudnnHandle_t handle,
              std::shared_ptr<const CudnnDescriptor> properties)
      : api_(std::move(api)), handle_(handle), properties_(std::move(properties)) {}
  std::shared_ptr<const CudnnApi> api_;
  cudnnHandle_t handle_ = nullptr;
  std::shared_ptr<const CudnnDescriptor> properties_;
};

inline constexpr int64_t kMaxAlignmentBytes = 16;  // no kernel of cuDNN loads more at once

// The alignment in bytes, at most `limit`, of float number `offset` of a buffer that is itself
// aligned to `limit` bytes (a power of two).
int64_t alignment_of(int64_t offset, int64_t limit = kMaxAlignmentBytes);

struct ConvPlanOptions {
  CudaMath math = CudaMath::fp32;
  int64_t workspace_limit_bytes = int64_t{64} << 20;
  // True of every pointer that run() gets; powers of two from 4.
  int64_t x_alignment_bytes = kMaxAlignmentBytes;       // and dx
  int64_t y_alignment_bytes = kMaxAlignmentBytes;       // and dy
  int64_t kernel_alignment_bytes = kMaxAlignmentBytes;  // of the KRSC buffer, and of its gradient
  int64_t bias_alignment_bytes = 4;
};

// Device pointers of one run.
//   forward: x, kernel (and bias where fuses_bias()) -> out = y
//   data_gradient: dy, kernel -> out = dx     weight_gradient: x, dy -> out = the kernel's gradient
struct ConvBuffers {
  const void* x = nullptr;
  const void* kernel = nullptr;
  const void* bias = nullptr;
  const void* dy = nullptr;
  void* out = nullptr;
};

class ConvPlan {
 public:
  // op.pass of `op` for `rows` rows. Fails, naming the graph and why each candidate was refused,
  // where no plan qualifies. With a `store` the same plan, of the choice that is kept there if one
  // is: then the heuristics aren't asked.
  static Result<ConvPlan> create(const CudnnTarget& target, const Conv2dOp& op, int64_t rows,
                                 const ConvPlanOptions& options, PlanStore* store = nullptr);

  // Whether the forward pass adds the bias, and applies op.activation (relu): the caller does what
  // is left. In bf16 all is left: cuDNN would compile such graphs at run time.
  bool fuses_bias() const { return choice_.fuses_bias; }
  bool fuses_activation() const { return choice_.fuses_activation; }
  int64_t workspace_bytes() const { return choice_.workspace_bytes; }
  // "forward of 32x28x28x1 by 4x3x3x1: bias and relu fused, engine 0 (heuristic A, 2 of 5; knobs
  // 2=13 27=1; no notes), workspace 0 bytes"
  const std::string& description() const { return description_; }
  const PlanChoice& choice() const { return choice_; }
  // The plan as cuDNN writes it down, its graph included.
  Result<std::string> json() const;

  // Enqueues on the stream of `handle`, which is of the device that the plan was made for.
  // `workspace` holds workspace_bytes() and is aligned to 256 bytes. Allocates nothing on the
  // device and doesn't wait: it can be captured into a CUDA graph. Overwrites `out`.
  Status run(cudnnHandle_t handle, const ConvBuffers& buffers, void* workspace) const;

 private:
  ConvPlan() = default;
  friend class ConvPlanSearch;

  Pass pass_ = Pass::forward;
  std::string description_;
  PlanChoice choice_;
  std::shared_ptr<const CudnnApi> api_;
  // Older than what refers to them, so destroyed after it: tensors, operations, graph.
  std::vector<CudnnDescriptor> graph_;
  CudnnDescriptor config_;
  CudnnDescriptor plan_;
};

}  // namespace lockstep
