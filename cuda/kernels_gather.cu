// Sums, maxima and copies over lists of indices. A list's elements are combined in its order,
// whoever loads them.
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "cuda/divisor.h"
#include "cuda/grid.h"
#include "cuda/kernels_general.h"

namespace lockstep {

namespace {

enum class Combine { copy, sum, maximum };

struct GatherInputs {
  const float* data[kMaxGatherInputs];   // the first row that is computed
  uint32_t begin[kMaxGatherInputs + 1];  // the first index of each; then the end
  int count = 0;
};

struct GatherArgs {
  GatherInputs inputs;
  const int32_t* begin;
  const int32_t* index;
  const float* factor;    // or none
  const int32_t* source;  // of copies
  const float* mask;      // or none
  float* out;
  float fill;
  uint32_t rows, outputs;
  uint32_t longest, tiles, tile_outputs;  // of long lists
  Divisor by_outputs;
  bool runs;
};

// One element of each row: that of row r is data[r * stride].
struct Column {
  const float* data;
  uint32_t stride;
};

__device__ inline Column column_of(const GatherInputs& inputs, uint32_t index) {
  int n = 0;
  while (n + 1 < inputs.count && index >= inputs.begin[n + 1]) ++n;
  return {inputs.data[n] + (index - inputs.begin[n]), inputs.begin[n + 1] - inputs.begin[n]};
}

template <Combine kCombine>
__device__ inline float combined(float result, float x) {
  if constexpr (kCombine == Combine::maximum) return result < x ? x : result;
  return result + x;
}

__device__ inline void store_masked(const GatherArgs& args, uint32_t row, uint32_t output,
                                    float value) {
  const uint32_t at = row * args.outputs + output;
  args.out[at] = keep(args.mask == nullptr || args.mask[at] > 0.0f, value);
}

// A thread computes one output of kRows rows: the lists are read once for them.
template <Combine kCombine, int kRows>
__global__ void short_lists_kernel(const __grid_constant__ GatherArgs args) {
  const uint32_t count = (args.rows + kRows - 1) / kRows * args.outputs;
  for (int64_t i = thread_index(); i < count; i += thread_count()) {
    const uint32_t chunk = args.by_outputs.quotient(static_cast<uint32_t>(i));
    const uint32_t output = static_cast<uint32_t>(i) - chunk * args.outputs;
    const uint32_t first_row = chunk * kRows;
    float results[kRows];
    for (int r = 0; r < kRows; ++r) results[r] = args.fill;
    const auto take = [&](uint32_t index, float factor, bool scaled, bool first) {
      const Column column = column_of(args.inputs, index);
      for (int r = 0; r < kRows; ++r) {
        const uint32_t row = first_row + static_cast<uint32_t>(r);
        if (row >= args.rows) break;
        float x = column.data[row * column.stride];
        if (scaled) x *= factor;
        results[r] = first ? x : combined<kCombine>(results[r], x);
      }
    };
    if constexpr (kCombine == Combine::copy) {
      const int32_t source = args.source[output];
      if (source >= 0) take(static_cast<uint32_t>(source), 1.0f, false, true);
    } else {
      const int32_t begin = args.begin[output], end = args.begin[output + 1];
      const bool scaled = args.factor != nullptr;
      LOCKSTEP_UNROLL(4)
      for (int32_t k = begin; k < end; ++k) {
        take(static_cast<uint32_t>(args.index[k]), scaled ? args.factor[k] : 1.0f, scaled,
             k == begin);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      const uint32_t row = first_row + static_cast<uint32_t>(r);
      if (row < args.rows) store_masked(args, row, output, results[r]);
    }
  }
}

constexpr unsigned kTeamThreads = 256;
constexpr unsigned kTermsAThread = 8;  // that it loads before the terms are added
constexpr unsigned kMaxTileOutputs = 32;

// A block computes `tile_outputs` outputs of one row. All threads load terms into shared memory,
// then one thread an output combines these in order.
template <Combine kCombine>
__global__ void long_lists_kernel(const __grid_constant__ GatherArgs args) {
  __shared__ float tile[kTeamThreads * kTermsAThread + kMaxTileOutputs];
  const uint32_t row = blockIdx.x / args.tiles;
  const uint32_t lanes = kTeamThreads / args.tile_outputs;
  // Where the elements of a list lie side by side, so do the threads that load them; else those of
  // neighboring outputs probably do.
  const uint32_t place = args.runs ? threadIdx.x / lanes : threadIdx.x % args.tile_outputs;
  const uint32_t lane = args.runs ? threadIdx.x % lanes : threadIdx.x / args.tile_outputs;
  const uint32_t output = blockIdx.x % args.tiles * args.tile_outputs + place;
  const bool active = output < args.outputs;
  const int32_t begin = active ? args.begin[output] : 0;
  const uint32_t length = active ? static_cast<uint32_t>(args.begin[output + 1] - begin) : 0;
  const uint32_t tile_terms = lanes * kTermsAThread;
  float* terms = tile + place * (tile_terms + 1);  // so much apart that banks differ
  float result = args.fill;
  for (uint32_t base = 0; base < args.longest; base += tile_terms) {
    __syncthreads();
    for (uint32_t n = 0; n < kTermsAThread; ++n) {
      const uint32_t k = n * lanes + lane;
      if (base + k >= length) break;
      const int32_t at = begin + static_cast<int32_t>(base + k);
      const Column column = column_of(args.inputs, static_cast<uint32_t>(args.index[at]));
      float x = column.data[row * column.stride];
      if (args.factor != nullptr) x *= args.factor[at];
      terms[k] = x;
    }
    __syncthreads();
    if (lane != 0 || base >= length) continue;
    const uint32_t count = lesser(tile_terms, length - base);
    if (base == 0) result = terms[0];
    LOCKSTEP_UNROLL(8)
    for (uint32_t k = base == 0 ? 1 : 0; k < count; ++k) {
      result = combined<kCombine>(result, terms[k]);
    }
  }
  if (lane == 0 && active) store_masked(args, row, output, result);
}

struct MaximumGradientArgs {
  const int32_t* begin;  // of each output: its elements
  const int32_t* index;
  const int32_t* readers_begin;  // of each input: the outputs that read it
  const int32_t* readers;
  const float* x;
  const float* y;
  const float* dy;
  const float* mask;  // or none
  float* dx;
  uint32_t count, inputs, outputs;
  Divisor by_inputs;
};

// How much of dy[output] goes to element `input`, which equals the largest.
template <bool kSplit>
__device__ inline float share_of(const MaximumGradientArgs& args, const float* x, float largest,
                                 uint32_t input, int32_t output, float dy) {
  const int32_t begin = args.begin[output], end = args.begin[output + 1];
  if constexpr (kSplit) {
    int ties = 0;
    LOCKSTEP_UNROLL(4)
    for (int32_t k = begin; k < end; ++k) ties += x[args.index[k]] == largest ? 1 : 0;
    return dy / static_cast<float>(ties);
  } else {
    for (int32_t k = begin; k < end; ++k) {
      const int32_t other = args.index[k];
      if (x[other] == largest) return static_cast<uint32_t>(other) == input ? dy : 0.0f;
    }
    return 0.0f;
  }
}

template <bool kSplit>
__global__ void maximum_gradient_kernel(const __grid_constant__ MaximumGradientArgs args) {
  for (int64_t i = thread_index(); i < args.count; i += thread_count()) {
    const uint32_t row = args.by_inputs.quotient(static_cast<uint32_t>(i));
    const uint32_t input = static_cast<uint32_t>(i) - row * args.inputs;
    const float* x = args.x + row * args.inputs;
    const float own = x[input];
    float sum = 0;
    const int32_t end = args.readers_begin[input + 1];
    int32_t last = -1;
    for (int32_t k = args.readers_begin[input]; k < end; ++k) {
      const int32_t output = args.readers[k];
      // An element that stands in a list twice is one place for what isn't split.
      const bool again = !kSplit && output == last;
      last = output;
      const uint32_t at = row * args.outputs + static_cast<uint32_t>(output);
      if (!again && args.y[at] == own) {
        sum += share_of<kSplit>(args, x, own, input, output, args.dy[at]);
      }
    }
    args.dx[i] = keep(args.mask == nullptr || args.mask[i] > 0.0f, sum);
  }
}

constexpr int64_t kLongLists = 32;            // elements, on average
constexpr int64_t kThreadsToSpare = 1 << 17;  // from here on a thread computes several rows

template <Combine kCombine>
Status launch_lists(const GatherArgs& args, bool is_long, cudaStream_t stream) {
  if (is_long) {
    const int64_t blocks = int64_t{args.rows} * args.tiles;
    return launch("long_lists_kernel", long_lists_kernel<kCombine>,
                  {static_cast<unsigned>(blocks), kTeamThreads}, stream, args);
  }
  const int64_t elements = int64_t{args.rows} * args.outputs;
  constexpr int kRows = 4;
  const bool several = elements >= kThreadsToSpare;
  return launch("short_lists_kernel",
                several ? short_lists_kernel<kCombine, kRows> : short_lists_kernel<kCombine, 1>,
                loop_shape(several ? (elements + kRows - 1) / kRows : elements), stream, args);
}

Status launch_combine(const GatherOp& op, const DeviceLists& lists, const GatherArgs& args,
                      cudaStream_t stream) {
  const int64_t entries = static_cast<int64_t>(lists.host->index.size());
  const bool is_long = entries >= kLongLists * args.outputs;
  if (lists.source != nullptr) return launch_lists<Combine::copy>(args, false, stream);
  return op.gathering == Gathering::sum ? launch_lists<Combine::sum>(args, is_long, stream)
                                        : launch_lists<Combine::maximum>(args, is_long, stream);
}

// Where each output is at most a copy: what of, -1 for none. Else empty.
std::vector<int32_t> sources_of(const IndexLists& lists) {
  std::vector<int32_t> sources;
  if (!lists.factor.empty()) return sources;
  for (size_t o = 0; o + 1 < lists.begin.size(); ++o) {
    const int64_t count = lists.begin[o + 1] - lists.begin[o];
    if (count > 1) return {};
    sources.push_back(count == 0 ? -1 : lists.index[static_cast<size_t>(lists.begin[o])]);
  }
  return sources;
}

// Copies vectors behind each other into one block of memory.
class ListUpload {
 public:
  explicit ListUpload(DeviceLists* lists) : lists_(*lists) {}

  template <class T, class U>
  void add(const std::vector<T>& values, const U** place) {
    static_assert(sizeof(T) == sizeof(U) && sizeof(T) == sizeof(int32_t));
    if (values.empty()) return;
    const size_t offset = staged_.size();
    staged_.resize(offset + (values.size() + kPlace - 1) / kPlace * kPlace);
    std::memcpy(staged_.data() + offset, values.data(), values.size() * sizeof(T));
    bind_.push_back([offset, place](const int32_t* base) {
      *place = reinterpret_cast<const U*>(base + offset);
    });
  }
  Status run(cudaStream_t stream) {
    lists_.bytes = static_cast<int64_t>(staged_.size() * sizeof(int32_t));
    if (staged_.empty()) return {};
    void* memory = nullptr;
    LOCKSTEP_CUDA_CHECK(cudaMalloc(&memory, static_cast<size_t>(lists_.bytes)));
    lists_.memory = MemoryHandle(memory);
    LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(memory, staged_.data(), static_cast<size_t>(lists_.bytes),
                                        cudaMemcpyHostToDevice, stream));
    LOCKSTEP_CUDA_CHECK(cudaStreamSynchronize(stream));
    for (const auto& bind : bind_) bind(static_cast<const int32_t*>(memory));
    return {};
  }

 private:
  static constexpr size_t kPlace = 64;  // words: each vector begins at a multiple
  DeviceLists& lists_;
  std::vector<int32_t> staged_;
  std::vector<std::function<void(const int32_t*)>> bind_;
};

}  // namespace

Result<DeviceLists> upload_lists(std::shared_ptr<const IndexLists> lists, ListForm form,
                                 cudaStream_t stream) {
  const auto entries = static_cast<int64_t>(lists->index.size());
  if (entries > INT32_MAX || std::max(lists->inputs, lists->outputs()) > kMaxIndexed) {
    return Error{"it reads or writes more than 2^30 elements a row: too many for a GPU"};
  }
  DeviceLists result;
  int64_t following = 0;
  for (int64_t o = 0; o < lists->outputs(); ++o) {
    const int64_t begin = lists->begin[static_cast<size_t>(o)];
    const int64_t end = lists->begin[static_cast<size_t>(o) + 1];
    result.longest = std::max(result.longest, end - begin);
    for (int64_t k = begin + 1; k < end; ++k) {
      following +=
          lists->index[static_cast<size_t>(k)] == lists->index[static_cast<size_t>(k - 1)] + 1;
    }
  }
  result.runs = 2 * following >= entries;
  std::vector<int32_t> sources;
  if (form == ListForm::sources_or_lists) sources = sources_of(*lists);
  ListUpload upload(&result);
  if (sources.empty()) {
    upload.add(std::vector<int32_t>(lists->begin.begin(), lists->begin.end()), &result.begin);
    upload.add(lists->index, &result.index);
    upload.add(lists->factor, &result.factor);
  } else {
    upload.add(sources, &result.source);
  }
  LOCKSTEP_RETURN_IF_ERROR(upload.run(stream));
  result.host = std::move(lists);
  return Result<DeviceLists>(std::move(result));
}

Status launch_gather(const GatherOp& op, const DeviceLists& lists,
                     std::span<const float* const> inputs, const float* mask, int rows, float* y,
                     cudaStream_t stream) {
  LOCKSTEP_CHECK(inputs.size() == op.input_features.size());
  LOCKSTEP_CHECK(!inputs.empty() && inputs.size() <= kMaxGatherInputs);
  GatherArgs args;
  args.inputs.count = static_cast<int>(inputs.size());
  int64_t begin = 0;
  for (size_t n = 0; n < inputs.size(); ++n) {
    args.inputs.begin[n] = static_cast<uint32_t>(begin);
    begin += op.input_features[n];
  }
  LOCKSTEP_CHECK(begin == lists.host->inputs);
  args.inputs.begin[inputs.size()] = static_cast<uint32_t>(begin);
  const int64_t outputs = lists.host->outputs();
  if (outputs == 0) return {};
  args.begin = lists.begin;
  args.index = lists.index;
  args.factor = lists.factor;
  args.source = lists.source;
  args.fill = op.fill;
  args.outputs = static_cast<uint32_t>(outputs);
  args.by_outputs = Divisor(outputs);
  args.longest = static_cast<uint32_t>(lists.longest);
  args.runs = lists.runs;
  args.tile_outputs = 1;
  const uint32_t most = lists.runs ? 4 : kMaxTileOutputs;
  while (args.tile_outputs < most && args.tile_outputs < args.outputs) args.tile_outputs *= 2;
  args.tiles = (args.outputs + args.tile_outputs - 1) / args.tile_outputs;
  return for_row_pieces(rows, std::max(begin, outputs), [&](int64_t first, int64_t count) {
    for (size_t n = 0; n < inputs.size(); ++n) {
      args.inputs.data[n] = inputs[n] + first * op.input_features[n];
    }
    args.rows = static_cast<uint32_t>(count);
    args.out = y + first * outputs;
    args.mask = mask == nullptr ? nullptr : mask + first * outputs;
    return launch_combine(op, lists, args, stream);
  });
}

Status launch_gather_maximum_gradient(const GatherMaximumGradientOp& op, const DeviceLists& lists,
                                      const DeviceLists& readers, const float* x, const float* y,
                                      const float* dy, const float* mask, int rows, float* dx,
                                      cudaStream_t stream) {
  const int64_t inputs = lists.host->inputs, outputs = lists.host->outputs();
  LOCKSTEP_CHECK(lists.factor == nullptr && readers.host->outputs() == inputs);
  if (inputs == 0) return {};
  return for_row_pieces(rows, std::max(inputs, outputs), [&](int64_t first, int64_t count) {
    MaximumGradientArgs args;
    args.begin = lists.begin;
    args.index = lists.index;
    args.readers_begin = readers.begin;
    args.readers = readers.index;
    args.x = x + first * inputs;
    args.y = y + first * outputs;
    args.dy = dy + first * outputs;
    args.mask = mask == nullptr ? nullptr : mask + first * inputs;
    args.dx = dx + first * inputs;
    args.count = static_cast<uint32_t>(count * inputs);
    args.inputs = static_cast<uint32_t>(inputs);
    args.outputs = static_cast<uint32_t>(outputs);
    args.by_inputs = Divisor(inputs);
    return launch("maximum_gradient_kernel",
                  op.split_ties ? maximum_gradient_kernel<true> : maximum_gradient_kernel<false>,
                  loop_shape(args.count), stream, args);
  });
}

}  // namespace lockstep
