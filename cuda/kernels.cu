#include "cuda/check.h"
#include "cuda/kernels.h"
#include "host/core/check.h"

namespace lockstep {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 4096;  // fills any GPU; the loop takes what is left

int block_count(int64_t count) {
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  return static_cast<int>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

__device__ int64_t first_element() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

__device__ int64_t element_stride() { return static_cast<int64_t>(gridDim.x) * kThreads; }

__global__ void add_kernel(const float* a, const float* b, float* out, int64_t count) {
  for (int64_t i = first_element(); i < count; i += element_stride()) out[i] = a[i] + b[i];
}

__global__ void adam_kernel(AdamUpdate adam, const float* gradient, float* weights, float* m,
                            float* v, int64_t count) {
  for (int64_t i = first_element(); i < count; i += element_stride()) {
    const float g = gradient[i];
    m[i] = fmaf(g - m[i], adam.one_minus_beta_1, m[i]);
    v[i] = fmaf(g * g - v[i], adam.one_minus_beta_2, v[i]);
    weights[i] -= m[i] * adam.alpha / (sqrtf(v[i]) + adam.epsilon);
  }
}

__global__ void sgd_kernel(float learning_rate, const float* gradient, float* weights,
                           int64_t count) {
  for (int64_t i = first_element(); i < count; i += element_stride()) {
    weights[i] -= learning_rate * gradient[i];
  }
}

__global__ void momentum_kernel(SgdUpdate sgd, const float* gradient, float* weights, float* m,
                                int64_t count) {
  for (int64_t i = first_element(); i < count; i += element_stride()) {
    const float change = sgd.learning_rate * gradient[i];
    m[i] = sgd.momentum * m[i] - change;
    weights[i] += sgd.nesterov ? sgd.momentum * m[i] - change : m[i];
  }
}

}  // namespace

Status launch_add(const float* a, const float* b, float* out, int64_t count, cudaStream_t stream) {
  if (count == 0) return {};
  add_kernel<<<block_count(count), kThreads, 0, stream>>>(a, b, out, count);
  return cuda_status(cudaGetLastError(), "add_kernel<<<>>>");
}

Status launch_update(const UpdateDesc& desc, const float* gradient, float* weights,
                     std::span<float* const> slots, int64_t count, cudaStream_t stream) {
  if (count == 0) return {};
  const int blocks = block_count(count);
  if (const auto* adam = std::get_if<AdamUpdate>(&desc)) {
    LOCKSTEP_CHECK(slots.size() == 2);
    adam_kernel<<<blocks, kThreads, 0, stream>>>(*adam, gradient, weights, slots[0], slots[1],
                                                 count);
    return cuda_status(cudaGetLastError(), "adam_kernel<<<>>>");
  }
  const SgdUpdate& sgd = std::get<SgdUpdate>(desc);
  if (slots.empty()) {
    LOCKSTEP_CHECK(sgd.momentum == 0);
    sgd_kernel<<<blocks, kThreads, 0, stream>>>(sgd.learning_rate, gradient, weights, count);
    return cuda_status(cudaGetLastError(), "sgd_kernel<<<>>>");
  }
  LOCKSTEP_CHECK(slots.size() == 1);
  momentum_kernel<<<blocks, kThreads, 0, stream>>>(sgd, gradient, weights, slots[0], count);
  return cuda_status(cudaGetLastError(), "momentum_kernel<<<>>>");
}

}  // namespace lockstep
