// Between float32 and bfloat16.
#include "cuda/grid.h"
#include "cuda/kernels.h"

namespace lockstep {

namespace {

// kWidth of them that are loaded and stored as one.
template <int kWidth>
struct alignas(kWidth * sizeof(Bf16)) Halves {
  Bf16 at[kWidth];
};

struct Round {
  const float* in;
  Bf16* out;
  template <int kWidth>
  __device__ void apply(int64_t i) const {
    const Floats<kWidth> values = load<kWidth>(in + i);
    Halves<kWidth> rounded;
    for (int j = 0; j < kWidth; ++j) rounded.at[j] = to_bf16(values.at[j]);
    *reinterpret_cast<Halves<kWidth>*>(out + i) = rounded;
  }
};

struct Widen {
  const Bf16* in;
  float* out;
  template <int kWidth>
  __device__ void apply(int64_t i) const {
    const auto values = *reinterpret_cast<const Halves<kWidth>*>(in + i);
    Floats<kWidth> widened;
    for (int j = 0; j < kWidth; ++j) widened.at[j] = to_float(values.at[j]);
    store(out + i, widened);
  }
};

}  // namespace

Status launch_to_bf16(const float* in, int64_t count, Bf16* out, cudaStream_t stream) {
  return launch_map("to_bf16", Round{in, out}, count, vector_aligned({in, out}), stream);
}

Status launch_from_bf16(const Bf16* in, int64_t count, float* out, cudaStream_t stream) {
  return launch_map("from_bf16", Widen{in, out}, count, vector_aligned({in, out}), stream);
}

}  // namespace lockstep
