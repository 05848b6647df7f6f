// Rows of a table by number, and the sums of what belongs to each of them. No atomics: the places
// of each word are sorted together, in the order in which they stand.
#include "cuda/divisor.h"
#include "cuda/grid.h"
#include "cuda/kernels_general.h"

namespace lockstep {

namespace {

// The number of the word, or `vocabulary` where it has none.
__device__ inline uint32_t word_of(float x, uint32_t vocabulary) {
  const bool known = x >= 0.0f && x < static_cast<float>(vocabulary);
  return known ? static_cast<uint32_t>(x) : vocabulary;
}

struct EmbeddingArgs {
  const float* x;
  const float* kernel;
  float* y;
  uint32_t count, units, vocabulary;
  Divisor by_units;
};

template <int kWidth>
__global__ void embedding_kernel(EmbeddingArgs args) {
  for (int64_t i = thread_index(); i * kWidth < args.count; i += thread_count()) {
    const auto at = static_cast<uint32_t>(i * kWidth);
    const uint32_t place = args.by_units.quotient(at);
    const uint32_t unit = at - place * args.units;
    const uint32_t word = word_of(args.x[place], args.vocabulary);
    Floats<kWidth> found;
    if (word < args.vocabulary) {
      found = load<kWidth>(args.kernel + static_cast<int64_t>(word) * args.units + unit);
    } else {
      for (int j = 0; j < kWidth; ++j) found.at[j] = __builtin_nanf("");
    }
    store(args.y + at, found);
  }
}

constexpr unsigned kSortThreads = 512;
constexpr unsigned kDigitBits = 4;
constexpr unsigned kDigits = 1 << kDigitBits;
// A word's places up to here are added in order by one thread a unit.
constexpr uint32_t kOrderedPlaces = 64;

struct SortedPlaces {
  uint32_t* words;
  uint32_t* places;
};

struct SortArgs {
  const float* x;
  SortedPlaces buffers[2];  // the passes write the first, the second, the first …
  uint32_t count, vocabulary;
  unsigned passes;
  uint32_t* long_count;  // words with more than kOrderedPlaces places
  uint32_t* long_begin;  // where each of these begins in the sorted order
};

// What stands before each thread's number, in sum; `total` is that of all. For all threads.
__device__ inline uint32_t sum_before(uint32_t own, uint32_t* totals, uint32_t* total) {
  totals[threadIdx.x] = own;
  __syncthreads();
  for (unsigned distance = 1; distance < kSortThreads; distance *= 2) {
    const uint32_t left = threadIdx.x >= distance ? totals[threadIdx.x - distance] : 0;
    __syncthreads();
    totals[threadIdx.x] += left;
    __syncthreads();
  }
  *total = totals[kSortThreads - 1];
  return totals[threadIdx.x] - own;
}

__device__ inline bool begins_word(const uint32_t* words, uint32_t i) {
  return i == 0 || words[i - 1] != words[i];
}

__device__ inline bool is_long(const uint32_t* words, uint32_t begin, uint32_t count) {
  return begin + kOrderedPlaces < count && words[begin + kOrderedPlaces] == words[begin];
}

// A stable radix sort by one block, digits of 4 bits from the lowest up; each thread keeps its own
// counters for the places from `begin` to `end`. Then the list of the words that occur often.
__global__ void sort_places_kernel(const __grid_constant__ SortArgs args) {
  __shared__ uint32_t counters[kDigits][kSortThreads];
  __shared__ uint32_t totals[kSortThreads];
  const uint32_t share = (args.count + kSortThreads - 1) / kSortThreads;
  const uint32_t begin = lesser(threadIdx.x * share, args.count);
  const uint32_t end = lesser(begin + share, args.count);
  uint32_t total = 0;
  for (unsigned pass = 0; pass < args.passes; ++pass) {
    const SortedPlaces to = pass % 2 == 0 ? args.buffers[0] : args.buffers[1];
    const SortedPlaces from = pass % 2 == 0 ? args.buffers[1] : args.buffers[0];
    const auto word_at = [&](uint32_t i) {
      return pass == 0 ? word_of(args.x[i], args.vocabulary) : from.words[i];
    };
    const auto digit_of = [&](uint32_t word) {
      return word >> (kDigitBits * pass) & (kDigits - 1);
    };
    for (unsigned d = 0; d < kDigits; ++d) counters[d][threadIdx.x] = 0;
    LOCKSTEP_UNROLL(4)
    for (uint32_t i = begin; i < end; ++i) ++counters[digit_of(word_at(i))][threadIdx.x];
    __syncthreads();
    uint32_t* own = &counters[0][0] + threadIdx.x * kDigits;  // all counters, cut into equal parts
    uint32_t sum = 0;
    for (unsigned d = 0; d < kDigits; ++d) sum += own[d];
    uint32_t before = sum_before(sum, totals, &total);
    for (unsigned d = 0; d < kDigits; ++d) {
      const uint32_t counted = own[d];
      own[d] = before;
      before += counted;
    }
    __syncthreads();
    LOCKSTEP_UNROLL(1)
    for (uint32_t i = begin; i < end; ++i) {
      const uint32_t word = word_at(i);
      const uint32_t at = counters[digit_of(word)][threadIdx.x]++;
      to.words[at] = word;
      to.places[at] = pass == 0 ? i : from.places[i];
    }
    __syncthreads();
  }
  const uint32_t* words = args.buffers[(args.passes - 1) % 2].words;
  const auto is_listed = [&](uint32_t i) {
    return words[i] < args.vocabulary && begins_word(words, i) && is_long(words, i, args.count);
  };
  uint32_t found = 0;
  for (uint32_t i = begin; i < end; ++i) found += is_listed(i) ? 1 : 0;
  uint32_t at = sum_before(found, totals, &total);
  for (uint32_t i = begin; i < end; ++i) {
    if (is_listed(i)) args.long_begin[at++] = i;
  }
  if (threadIdx.x == 0) *args.long_count = total;
}

struct GradientArgs {
  SortedPlaces sorted;
  const float* dy;
  float* gradient;
  uint32_t count, units, vocabulary;
  Divisor by_units;
  const uint32_t* long_count;
  const uint32_t* long_begin;
  uint32_t unit_tiles;
};

// A thread for each place and unit; that of a word's first place adds up all of them.
__global__ void rare_words_kernel(GradientArgs args) {
  const uint32_t* words = args.sorted.words;
  for (int64_t i = thread_index(); i < args.count * args.units; i += thread_count()) {
    const uint32_t begin = args.by_units.quotient(static_cast<uint32_t>(i));
    const uint32_t unit = static_cast<uint32_t>(i) - begin * args.units;
    const uint32_t word = words[begin];
    if (word >= args.vocabulary || !begins_word(words, begin)) continue;
    if (is_long(words, begin, args.count)) continue;
    float sum = -0.0f;
    for (uint32_t k = begin; k < args.count && words[k] == word; ++k) {
      sum += args.dy[args.sorted.places[k] * args.units + unit];
    }
    args.gradient[static_cast<int64_t>(word) * args.units + unit] = sum;
  }
}

constexpr unsigned kUnitTile = 32;
constexpr unsigned kLanes = 8;

// A block for each word of the list and kUnitTile units: kLanes threads a unit add the eighths of
// the word's places in order, then one of them these sums.
__global__ void frequent_words_kernel(GradientArgs args) {
  __shared__ float sums[kLanes][kUnitTile];
  const uint32_t number = blockIdx.x / args.unit_tiles;
  if (number >= *args.long_count) return;
  const uint32_t* words = args.sorted.words;
  const uint32_t begin = args.long_begin[number];
  const uint32_t word = words[begin];
  uint32_t end = begin + 1;  // the first of another word lies in [end, behind]
  uint32_t behind = args.count;
  while (end < behind) {
    const uint32_t middle = end + (behind - end) / 2;
    if (words[middle] == word) {
      end = middle + 1;
    } else {
      behind = middle;
    }
  }
  const uint32_t lane = threadIdx.x / kUnitTile, at = threadIdx.x % kUnitTile;
  const uint32_t unit = blockIdx.x % args.unit_tiles * kUnitTile + at;
  const uint32_t share = (end - begin + kLanes - 1) / kLanes;
  const uint32_t first = lesser(begin + lane * share, end);
  const uint32_t last = lesser(first + share, end);
  float sum = -0.0f;
  if (unit < args.units) {
    LOCKSTEP_UNROLL(8)
    for (uint32_t k = first; k < last; ++k) {
      sum += args.dy[args.sorted.places[k] * args.units + unit];
    }
  }
  sums[lane][at] = sum;
  __syncthreads();
  if (lane != 0 || unit >= args.units) return;
  for (unsigned other = 1; other < kLanes; ++other) sum += sums[other][at];
  args.gradient[static_cast<int64_t>(word) * args.units + unit] = sum;
}

int64_t most_long_words(int64_t places) { return places / (kOrderedPlaces + 1) + 1; }

}  // namespace

Status launch_embedding(const EmbeddingOp& op, const float* x, const float* kernel, int rows,
                        float* y, cudaStream_t stream) {
  LOCKSTEP_CHECK(op.vocabulary > 0 && op.vocabulary <= kMaxIndexed && op.units > 0);
  const int64_t features = op.length * op.units;
  return for_row_pieces(rows, features, [&](int64_t first, int64_t count) {
    EmbeddingArgs args;
    args.x = x + first * op.length;
    args.kernel = kernel;
    args.y = y + first * features;
    args.count = static_cast<uint32_t>(count * features);
    args.units = static_cast<uint32_t>(op.units);
    args.vocabulary = static_cast<uint32_t>(op.vocabulary);
    args.by_units = Divisor(op.units);
    const bool vectors = op.units % kVector == 0 && vector_aligned({kernel, args.y});
    return launch("embedding_kernel", vectors ? embedding_kernel<kVector> : embedding_kernel<1>,
                  loop_shape(args.count / (vectors ? kVector : 1)), stream, args);
  });
}

int64_t embedding_scratch(const EmbeddingOp& op, int rows) {
  const int64_t places = rows * op.length;
  return 4 * places + most_long_words(places) + 1;
}

Status launch_embedding_gradient(const EmbeddingOp& op, const float* x, const float* dy, int rows,
                                 float* scratch, float* gradient, cudaStream_t stream) {
  LOCKSTEP_CHECK(op.vocabulary > 0 && op.vocabulary <= kMaxIndexed && op.units > 0);
  LOCKSTEP_CUDA_CHECK(cudaMemsetAsync(
      gradient, 0, static_cast<size_t>(op.vocabulary * op.units) * sizeof(float), stream));
  const int64_t places = rows * op.length;
  LOCKSTEP_CHECK(places * op.units <= kMaxIndexed);
  if (places == 0) return {};
  SortArgs sort;
  sort.x = x;
  sort.count = static_cast<uint32_t>(places);
  sort.vocabulary = static_cast<uint32_t>(op.vocabulary);
  sort.passes = 1;
  while (sort.vocabulary >> (kDigitBits * sort.passes) != 0) ++sort.passes;
  auto* memory = reinterpret_cast<uint32_t*>(scratch);
  for (SortedPlaces& buffer : sort.buffers) {
    buffer = {memory, memory + places};
    memory += 2 * places;
  }
  sort.long_count = memory;
  sort.long_begin = memory + 1;
  LOCKSTEP_RETURN_IF_ERROR(
      launch("sort_places_kernel", sort_places_kernel, {1, kSortThreads}, stream, sort));
  GradientArgs args;
  args.sorted = sort.buffers[(sort.passes - 1) % 2];
  args.dy = dy;
  args.gradient = gradient;
  args.count = sort.count;
  args.units = static_cast<uint32_t>(op.units);
  args.vocabulary = sort.vocabulary;
  args.by_units = Divisor(op.units);
  args.long_count = sort.long_count;
  args.long_begin = sort.long_begin;
  args.unit_tiles = (args.units + kUnitTile - 1) / kUnitTile;
  LOCKSTEP_RETURN_IF_ERROR(
      launch("rare_words_kernel", rare_words_kernel, loop_shape(places * op.units), stream, args));
  if (places <= kOrderedPlaces) return {};
  const int64_t blocks = most_long_words(places) * args.unit_tiles;
  return launch("frequent_words_kernel", frequent_words_kernel,
                {static_cast<unsigned>(blocks), kLanes * kUnitTile}, stream, args);
}

}  // namespace lockstep
