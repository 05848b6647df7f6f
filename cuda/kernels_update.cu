// One pass over flat memory: the sum of partial gradients, the optimizer's step, the digest of the
// state. Formulas and roundings: host/cpu/kernels_update.h.
#include <math.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "cuda/grid.h"
#include "cuda/kernels.h"
#include "host/device/state_digest.h"

namespace lockstep {

namespace {

struct SumTerms {  // a kernel's arguments end at 4 KB
  SumTerm terms[kMaxSumTerms];
  int count = 0;
};
static_assert(sizeof(SumTerms) < 4000);

// The stack of partial sums. Entries move instead of an index to the top: registers have none.
template <int kDepth, int kWidth>
struct SumStack {
  Floats<kWidth> entries[kDepth];  // the top first

  __device__ void push(const Floats<kWidth>& value) {
    for (int k = kDepth - 1; k > 0; --k) entries[k] = entries[k - 1];
    entries[0] = value;
  }

  __device__ void merge() {
    for (int j = 0; j < kWidth; ++j) entries[0].at[j] = entries[1].at[j] + entries[0].at[j];
    for (int k = 1; k + 1 < kDepth; ++k) entries[k] = entries[k + 1];
  }
};

constexpr int kTermsAhead = 4;  // loaded before the first of them is added

template <int kDepth, int kWidth>
__device__ inline void sum_piece(const SumTerms& list, int64_t i, float* out) {
  SumStack<kDepth, kWidth> stack = {};
  for (int first = 0; first < list.count; first += kTermsAhead) {
    Floats<kWidth> values[kTermsAhead] = {};
    for (int k = 0; k < kTermsAhead; ++k) {
      if (first + k < list.count) values[k] = load<kWidth>(list.terms[first + k].values + i);
    }
    for (int k = 0; k < kTermsAhead; ++k) {
      if (first + k >= list.count) break;
      stack.push(values[k]);
      for (int m = 0; m < list.terms[first + k].merges; ++m) stack.merge();
    }
  }
  store(out + i, stack.entries[0]);
}

// As map_kernel; in the constant memory of arguments, terms can be indexed.
template <int kDepth>
__global__ void sum_kernel(const __grid_constant__ SumTerms list, float* out, int64_t vectors,
                           int64_t count) {
  for (int64_t i = thread_index(); i < vectors; i += thread_count()) {
    sum_piece<kDepth, kVector>(list, kVector * i, out);
  }
  for (int64_t i = kVector * vectors + thread_index(); i < count; i += thread_count()) {
    sum_piece<kDepth, 1>(list, i, out);
  }
}

struct AdamMap {
  AdamUpdate adam;
  const float* gradient;
  float* weights;
  float* first_moment;
  float* second_moment;
  template <int kWidth>
  __device__ void apply(int64_t i) const {
    const Floats<kWidth> g = load<kWidth>(gradient + i);
    Floats<kWidth> w = load<kWidth>(weights + i);
    Floats<kWidth> m = load<kWidth>(first_moment + i);
    Floats<kWidth> v = load<kWidth>(second_moment + i);
    for (int j = 0; j < kWidth; ++j) {
      m.at[j] = fmaf(g.at[j] - m.at[j], adam.one_minus_beta_1, m.at[j]);
      v.at[j] = fmaf(g.at[j] * g.at[j] - v.at[j], adam.one_minus_beta_2, v.at[j]);
      w.at[j] -= m.at[j] * adam.alpha / (sqrtf(v.at[j]) + adam.epsilon);
    }
    store(weights + i, w);
    store(first_moment + i, m);
    store(second_moment + i, v);
  }
};

struct SgdMap {
  float learning_rate;
  const float* gradient;
  float* weights;
  template <int kWidth>
  __device__ void apply(int64_t i) const {
    const Floats<kWidth> g = load<kWidth>(gradient + i);
    Floats<kWidth> w = load<kWidth>(weights + i);
    for (int j = 0; j < kWidth; ++j) w.at[j] -= g.at[j] * learning_rate;
    store(weights + i, w);
  }
};

struct MovingAverageMap {
  MovingAverageUpdate average;
  const float* gradient;
  float* weights;
  template <int kWidth>
  __device__ void apply(int64_t i) const {
    const Floats<kWidth> g = load<kWidth>(gradient + i);
    Floats<kWidth> w = load<kWidth>(weights + i);
    for (int j = 0; j < kWidth; ++j) {
      w.at[j] = w.at[j] * average.momentum + g.at[j] * average.scale * average.one_minus_momentum;
    }
    store(weights + i, w);
  }
};

struct MomentumMap {
  SgdUpdate sgd;
  const float* gradient;
  float* weights;
  float* momentum;
  template <int kWidth>
  __device__ void apply(int64_t i) const {
    const Floats<kWidth> g = load<kWidth>(gradient + i);
    Floats<kWidth> w = load<kWidth>(weights + i);
    Floats<kWidth> m = load<kWidth>(momentum + i);
    for (int j = 0; j < kWidth; ++j) {
      const float step = g.at[j] * sgd.learning_rate;
      m.at[j] = sgd.momentum * m.at[j] - step;
      w.at[j] += sgd.nesterov ? sgd.momentum * m.at[j] - step : m.at[j];
    }
    store(weights + i, w);
    store(momentum + i, m);
  }
};

template <int kWidth>
struct alignas(kWidth * sizeof(uint32_t)) Words {
  uint32_t at[kWidth];
};

// A parameter's words in the order in which they are mixed: last slot first, the weight last.
template <int kWords>
struct DigestWords {
  const float* memory[kWords];

  template <int kWidth>
  __device__ void mix(int64_t at, uint32_t* out) const {
    Words<kWidth> mixed;
    for (int k = 0; k < kWords; ++k) {
      const Floats<kWidth> word = load<kWidth>(memory[k] + at);
      for (int j = 0; j < kWidth; ++j) {
        const uint32_t bits = std::bit_cast<uint32_t>(word.at[j]);
        mixed.at[j] = digest_word(k == 0 ? 0 : mixed.at[j], bits);
      }
    }
    *reinterpret_cast<Words<kWidth>*>(out) = mixed;
  }
};

// One block of threads a block of the digest. All threads mix words, at the speed of memory, then
// 16 of them run their lanes, where each step waits for the one before.
template <int kWords, int kWidth>
__global__ void digest_kernel(DigestWords<kWords> words, int64_t count, uint32_t* lanes) {
  alignas(kVector * sizeof(uint32_t)) __shared__ uint32_t mixed[kDigestBlock];
  const int64_t begin = blockIdx.x * kDigestBlock;
  const unsigned size = static_cast<unsigned>(lesser<int64_t>(kDigestBlock, count - begin));
  const unsigned whole = size / kWidth * kWidth;
  LOCKSTEP_UNROLL(4)
  for (unsigned i = kWidth * threadIdx.x; i < whole; i += kWidth * kThreads) {
    words.template mix<kWidth>(begin + i, mixed + i);
  }
  if (whole + threadIdx.x < size) {  // fewer than kWidth are left
    words.template mix<1>(begin + whole + threadIdx.x, mixed + whole + threadIdx.x);
  }
  __syncthreads();
  if (threadIdx.x >= DigestLanes::kCount) return;
  uint32_t lane = 0;
  LOCKSTEP_UNROLL(8)
  for (unsigned i = threadIdx.x; i < size; i += DigestLanes::kCount) {
    lane = digest_parameter(lane, mixed[i]);
  }
  lanes[static_cast<int64_t>(blockIdx.x) * DigestLanes::kCount + threadIdx.x] = lane;
}

template <int kWords>
Status launch_digest_words(const float* weights, std::span<const float* const> slots, int64_t count,
                           uint32_t* lanes, cudaStream_t stream) {
  DigestWords<kWords> words;
  std::copy(slots.rbegin(), slots.rend(), words.memory);
  words.memory[kWords - 1] = weights;
  const bool aligned = std::all_of(std::begin(words.memory), std::end(words.memory),
                                   [](const float* memory) { return vector_aligned({memory}); });
  const int64_t blocks = (count + kDigestBlock - 1) / kDigestBlock;
  return launch("digest_kernel",
                aligned ? digest_kernel<kWords, kVector> : digest_kernel<kWords, 1>,
                {static_cast<unsigned>(blocks), kThreads}, stream, words, count, lanes);
}

}  // namespace

Status launch_sum(std::span<const SumTerm> terms, int64_t count, float* out, cudaStream_t stream) {
  LOCKSTEP_CHECK(!terms.empty() && terms.size() <= kMaxSumTerms);
  SumTerms list;
  int depth = 0, deepest = 0;
  bool aligned = vector_aligned({out});
  for (const SumTerm& term : terms) {
    list.terms[list.count++] = term;
    aligned = aligned && vector_aligned({term.values});
    deepest = std::max(deepest, ++depth);
    LOCKSTEP_CHECK(term.merges >= 0 && term.merges < depth);
    depth -= term.merges;
  }
  LOCKSTEP_CHECK(depth == 1 && deepest <= kMaxSumDepth);
  if (count == 0) return {};
  const int64_t vectors = aligned ? count / kVector : 0;
  constexpr int kShallow = 4;  // of up to 8 partitions; saves registers
  return launch("sum_kernel", deepest <= kShallow ? sum_kernel<kShallow> : sum_kernel<kMaxSumDepth>,
                loop_shape(std::max(vectors, count - kVector * vectors)), stream, list, out,
                vectors, count);
}

Status launch_update(const UpdateDesc& desc, const float* gradient, float* weights,
                     std::span<float* const> slots, int64_t count, cudaStream_t stream) {
  const bool aligned = vector_aligned({gradient, weights}) &&
                       std::all_of(slots.begin(), slots.end(),
                                   [](const float* slot) { return vector_aligned({slot}); });
  if (const auto* adam = std::get_if<AdamUpdate>(&desc)) {
    LOCKSTEP_CHECK(slots.size() == 2);
    return launch_map("adam_kernel", AdamMap{*adam, gradient, weights, slots[0], slots[1]}, count,
                      aligned, stream);
  }
  if (const auto* average = std::get_if<MovingAverageUpdate>(&desc)) {
    return launch_map("moving_average_kernel", MovingAverageMap{*average, gradient, weights}, count,
                      aligned, stream);
  }
  const SgdUpdate& sgd = std::get<SgdUpdate>(desc);
  LOCKSTEP_CHECK(slots.size() == (sgd.momentum == 0 ? 0u : 1u));
  if (slots.empty()) {
    return launch_map("sgd_kernel", SgdMap{sgd.learning_rate, gradient, weights}, count, aligned,
                      stream);
  }
  return launch_map("momentum_kernel", MomentumMap{sgd, gradient, weights, slots[0]}, count,
                    aligned, stream);
}

Status launch_digest(const float* weights, std::span<const float* const> slots, int64_t count,
                     uint32_t* lanes, cudaStream_t stream) {
  LOCKSTEP_CHECK(slots.size() <= kMaxSlots && count >= 0);
  if (count == 0) return {};
  const auto launch_of = [&]<size_t... kSlots>(std::index_sequence<kSlots...>) {
    Status status;
    ((slots.size() == kSlots
          ? void(status = launch_digest_words<1 + kSlots>(weights, slots, count, lanes, stream))
          : void()),
     ...);
    return status;
  };
  return launch_of(std::make_index_sequence<1 + kMaxSlots>());
}

}  // namespace lockstep
