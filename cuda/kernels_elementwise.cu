// Each output element from the same element of the inputs. What NaN and -0 become is what the
// CPU's masks and maxima make of them (host/cpu/kernels_elementwise.h).
#include <array>

#include "cuda/grid.h"
#include "cuda/kernels.h"
#include "host/core/rng.h"

namespace lockstep {

namespace {

// NaN and -0 pass.
__device__ inline float relu(float x) { return 0.0f > x ? 0.0f : x; }

struct AddMap {
  const float* a;
  const float* b;
  float* out;
  template <int kWidth>
  __device__ void apply(int64_t i) const {
    Floats<kWidth> sum = load<kWidth>(a + i);
    const Floats<kWidth> other = load<kWidth>(b + i);
    for (int j = 0; j < kWidth; ++j) sum.at[j] += other.at[j];
    store(out + i, sum);
  }
};

struct MaskMap {
  const float* mask;
  float* values;
  template <int kWidth>
  __device__ void apply(int64_t i) const {
    const Floats<kWidth> gate = load<kWidth>(mask + i);
    Floats<kWidth> value = load<kWidth>(values + i);
    for (int j = 0; j < kWidth; ++j) value.at[j] = keep(gate.at[j] > 0.0f, value.at[j]);
    store(values + i, value);
  }
};

struct ReluMap {
  const float* x;
  float* y;
  template <int kWidth>
  __device__ void apply(int64_t i) const {
    Floats<kWidth> value = load<kWidth>(x + i);
    for (int j = 0; j < kWidth; ++j) value.at[j] = relu(value.at[j]);
    store(y + i, value);
  }
};

struct ReluGradientMap {
  const float* y;
  const float* dy;
  const float* mask;  // or none
  float* dx;
  template <int kWidth>
  __device__ void apply(int64_t i) const {
    Floats<kWidth> gate = load<kWidth>(y + i);
    Floats<kWidth> value = load<kWidth>(dy + i);
    for (int j = 0; j < kWidth; ++j) value.at[j] = keep(gate.at[j] > 0.0f, value.at[j]);
    if (mask != nullptr) {
      gate = load<kWidth>(mask + i);
      for (int j = 0; j < kWidth; ++j) value.at[j] = keep(gate.at[j] > 0.0f, value.at[j]);
    }
    store(dx + i, value);
  }
};

template <bool kRelu>
struct BiasMap {
  const float* x;
  const float* bias;
  float* y;
  uint32_t channels;
  bool bias_vectors;  // the biases of a vector lie side by side, aligned
  template <int kWidth>
  __device__ void apply(int64_t i) const {
    Floats<kWidth> value = load<kWidth>(x + i);
    Floats<kWidth> added;
    uint32_t c = static_cast<uint32_t>(i) % channels;
    if (bias_vectors) {
      added = load<kWidth>(bias + c);
    } else {
      for (int j = 0; j < kWidth; ++j) {
        added.at[j] = bias[c];
        c = c + 1 == channels ? 0 : c + 1;
      }
    }
    for (int j = 0; j < kWidth; ++j) {
      value.at[j] += added.at[j];
      if constexpr (kRelu) value.at[j] = relu(value.at[j]);
    }
    store(y + i, value);
  }
};

template <bool kRelu>
Status launch_bias(const BiasMap<kRelu>& whole, int64_t rows, int64_t channels,
                   cudaStream_t stream) {
  return for_row_pieces(rows, channels, [&](int64_t first, int64_t count) {
    BiasMap<kRelu> map = whole;
    map.x += first * channels;
    map.y += first * channels;
    const bool aligned = vector_aligned({map.x, map.y});
    map.bias_vectors = aligned && channels % kVector == 0 && vector_aligned({map.bias});
    return launch_map("bias_kernel", map, count * channels, aligned, stream);
  });
}

struct DropoutArgs {
  const RunParameters* parameters;
  const uint32_t* positions;
  const float* in;
  const float* mask;  // or none
  float* out;
  uint32_t features, quads, count;  // quads: draws of four features, a row and in all
  uint32_t layer, call;
  float rate, scale;
};

// One draw gives the words of four features. kWidth: floats that a load takes, kVector or 1.
template <int kWidth>
__global__ void dropout_kernel(DropoutArgs args) {
  const uint64_t key = derive_key(args.parameters->seed, kDropoutPurpose, args.call);
  const uint32_t epoch = args.parameters->epoch;
  for (int64_t i = thread_index(); i < args.count; i += thread_count()) {
    const uint32_t row = static_cast<uint32_t>(i) / args.quads;
    const uint32_t quad = static_cast<uint32_t>(i) % args.quads;
    const std::array<uint32_t, 4> words =
        philox4x32({quad, args.positions[row], epoch, args.layer}, key);
    const int64_t at = static_cast<int64_t>(row) * args.features + 4 * quad;
    for (uint32_t j = 0; j < 4; j += kWidth) {
      if (4 * quad + j >= args.features) break;
      Floats<kWidth> value = load<kWidth>(args.in + at + j);
      for (uint32_t k = 0; k < kWidth; ++k) {
        const bool kept = uniform_from_bits(words[j + k]) >= args.rate;
        value.at[k] = keep(kept, value.at[k] * args.scale);
      }
      if (args.mask != nullptr) {
        const Floats<kWidth> gate = load<kWidth>(args.mask + at + j);
        for (int k = 0; k < kWidth; ++k) value.at[k] = keep(gate.at[k] > 0.0f, value.at[k]);
      }
      store(args.out + at + j, value);
    }
  }
}

}  // namespace

Status launch_add(const float* a, const float* b, float* out, int64_t count, cudaStream_t stream) {
  return launch_map("add_kernel", AddMap{a, b, out}, count, vector_aligned({a, b, out}), stream);
}

Status launch_bias_activation(const float* x, const float* bias, Activation activation,
                              int64_t rows, int64_t channels, float* y, cudaStream_t stream) {
  const bool is_relu = activation == Activation::relu;
  if (bias == nullptr) {
    // Not even +0 is added: it would change -0.
    if (is_relu) return launch_relu(x, rows * channels, y, stream);
    if (x == y || rows * channels == 0) return {};
    return LOCKSTEP_CUDA_STATUS(
        cudaMemcpyAsync(y, x, rows * channels * sizeof(float), cudaMemcpyDeviceToDevice, stream));
  }
  const uint32_t width = static_cast<uint32_t>(channels);
  if (is_relu) return launch_bias(BiasMap<true>{x, bias, y, width, false}, rows, channels, stream);
  return launch_bias(BiasMap<false>{x, bias, y, width, false}, rows, channels, stream);
}

Status launch_mask(const float* mask, int64_t count, float* values, cudaStream_t stream) {
  return launch_map("mask_kernel", MaskMap{mask, values}, count, vector_aligned({mask, values}),
                    stream);
}

Status launch_dropout(const DropoutOp& op, const RunParameters* parameters,
                      const uint32_t* positions, const float* in, const float* mask, int rows,
                      float* out, cudaStream_t stream) {
  LOCKSTEP_CHECK(op.rate >= 0 && op.rate < 1);
  return for_row_pieces(rows, op.features, [&](int64_t first, int64_t count) {
    DropoutArgs args;
    args.parameters = parameters;
    args.positions = positions + first;
    args.in = in + first * op.features;
    args.mask = mask == nullptr ? nullptr : mask + first * op.features;
    args.out = out + first * op.features;
    args.features = static_cast<uint32_t>(op.features);
    args.quads = (args.features + 3) / 4;
    args.count = args.quads * static_cast<uint32_t>(count);
    args.layer = op.layer;
    args.call = op.call;
    args.rate = op.rate;
    args.scale = 1.0f / (1.0f - op.rate);
    const bool vectors =
        op.features % kVector == 0 && vector_aligned({args.in, args.mask, args.out});
    return launch("dropout_kernel", vectors ? dropout_kernel<kVector> : dropout_kernel<1>,
                  loop_shape(args.count), stream, args);
  });
}

Status launch_relu(const float* x, int64_t count, float* y, cudaStream_t stream) {
  return launch_map("relu_kernel", ReluMap{x, y}, count, vector_aligned({x, y}), stream);
}

Status launch_relu_gradient(const float* y, const float* dy, const float* mask, int64_t count,
                            float* dx, cudaStream_t stream) {
  return launch_map("relu_gradient_kernel", ReluGradientMap{y, dy, mask, dx}, count,
                    vector_aligned({y, dy, mask, dx}), stream);
}

}  // namespace lockstep
