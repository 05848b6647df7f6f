// What elementwise kernels with broadcast operands share: a thread computes the elements of a group
// of kWidth that lie side by side.
#pragma once

#include <algorithm>
#include <array>
#include <span>

#include "cuda/divisor.h"
#include "cuda/grid.h"
#include "host/device/ops.h"

namespace lockstep {

// Where a kernel finds the element of an operand that belongs to element f of a row.
struct GroupOperand {
  const float* data = nullptr;
  float value = 0;          // where data is nullptr: the same for all elements
  uint32_t row_stride = 0;  // 0: the same elements for each row
  Divisor divisor, modulus;
  bool plain = true;      // as many elements as the result, at the same places
  bool shared = false;    // those of a group are one element
  bool adjacent = false;  // those of a group lie side by side
  bool wide = false;      // and are aligned
};

// The shape of a launch.
struct GroupExtent {
  uint32_t count = 0;
  Divisor features;
  bool wide = false;  // groups of the results and of the mask are aligned
  const float* mask = nullptr;
};

// One group: elements [first, first + kWidth), fewer at the end.
template <int kWidth>
struct Group {
  uint32_t first, row, feature;
  bool whole;

  __device__ Group(const GroupExtent& extent, uint32_t at)
      : first(at),
        row(extent.features.quotient(at)),
        feature(at - row * extent.features.divisor),
        whole(at + kWidth <= extent.count) {}
};

__device__ inline uint32_t operand_index(const GroupOperand& operand, uint32_t row,
                                         uint32_t feature) {
  return row * operand.row_stride + operand.modulus.remainder(operand.divisor.quotient(feature));
}

template <int kWidth>
__device__ inline Floats<kWidth> splat(float x) {
  Floats<kWidth> all;
  for (int j = 0; j < kWidth; ++j) all.at[j] = x;
  return all;
}

template <int kWidth>
__device__ inline Floats<kWidth> load_operand(const GroupOperand& operand,
                                              const GroupExtent& extent,
                                              const Group<kWidth>& group) {
  if (operand.data == nullptr) return splat<kWidth>(operand.value);
  Floats<kWidth> found = splat<kWidth>(0.0f);
  if (group.whole && (operand.adjacent || operand.shared)) {
    const uint32_t index =
        operand.plain ? group.first : operand_index(operand, group.row, group.feature);
    if (operand.shared) return splat<kWidth>(operand.data[index]);
    if (operand.wide) return load<kWidth>(operand.data + index);
    for (int j = 0; j < kWidth; ++j) found.at[j] = operand.data[index + static_cast<uint32_t>(j)];
    return found;
  }
  for (int j = 0; j < kWidth; ++j) {
    const uint32_t at = group.first + static_cast<uint32_t>(j);
    if (at >= extent.count) break;
    const uint32_t row = extent.features.quotient(at);
    const uint32_t index =
        operand.plain ? at : operand_index(operand, row, at - row * extent.features.divisor);
    found.at[j] = operand.data[index];
  }
  return found;
}

// Zeroed where the mask is not positive.
template <int kWidth>
__device__ inline void store_group(const GroupExtent& extent, const Group<kWidth>& group,
                                   Floats<kWidth> values, float* out) {
  if (group.whole && extent.wide) {
    if (extent.mask != nullptr) {
      const Floats<kWidth> gate = load<kWidth>(extent.mask + group.first);
      for (int j = 0; j < kWidth; ++j) values.at[j] = keep(gate.at[j] > 0.0f, values.at[j]);
    }
    store(out + group.first, values);
    return;
  }
  for (int j = 0; j < kWidth; ++j) {
    const uint32_t at = group.first + static_cast<uint32_t>(j);
    if (at >= extent.count) break;
    const bool kept = extent.mask == nullptr || extent.mask[at] > 0.0f;
    out[at] = keep(kept, values.at[j]);
  }
}

// y = function of kOperands operands, compiled.
template <class Function>
struct FunctionArgs {
  GroupExtent extent;
  Function function;
  GroupOperand operands[Function::kOperands];
  float* out = nullptr;
};

template <class Function>
__global__ void function_kernel(const __grid_constant__ FunctionArgs<Function> args) {
  for (int64_t g = thread_index(); g * kVector < args.extent.count; g += thread_count()) {
    const Group<kVector> group(args.extent, static_cast<uint32_t>(g * kVector));
    Floats<kVector> x[Function::kOperands];
    for (int k = 0; k < Function::kOperands; ++k) {
      x[k] = load_operand(args.operands[k], args.extent, group);
    }
    Floats<kVector> y;
    for (int j = 0; j < kVector; ++j) {
      float of_element[Function::kOperands];
      for (int k = 0; k < Function::kOperands; ++k) of_element[k] = x[k].at[j];
      y.at[j] = args.function(of_element);
    }
    store_group(args.extent, group, y, args.out);
  }
}

// Threads for groups of `width`.
inline LaunchShape group_shape(uint32_t count, int width) {
  return loop_shape((int64_t{count} + width - 1) / width);
}

inline GroupExtent group_extent(int64_t rows, int64_t features, const float* mask,
                                std::span<float* const> outputs) {
  GroupExtent extent;
  extent.count = static_cast<uint32_t>(rows * features);
  extent.features = Divisor(features);
  extent.mask = mask;
  extent.wide =
      vector_aligned({mask}) &&
      std::all_of(outputs.begin(), outputs.end(), [](float* out) { return vector_aligned({out}); });
  return extent;
}

// An operand of a result with `features`. `row_stride` is 0 where it is the same for all rows.
inline GroupOperand group_operand(const float* data, int64_t row_stride, const Broadcast& broadcast,
                                  int64_t features, int width) {
  GroupOperand operand;
  operand.data = data;
  operand.row_stride = static_cast<uint32_t>(row_stride);
  operand.divisor = Divisor(broadcast.divisor);
  operand.modulus = Divisor(broadcast.modulus);
  operand.plain = row_stride == features && broadcast.divisor == 1 && broadcast.modulus == features;
  const bool in_row = features % width == 0;
  operand.shared =
      in_row && !operand.plain && (broadcast.divisor % width == 0 || broadcast.modulus == 1);
  operand.adjacent =
      operand.plain || (in_row && broadcast.divisor == 1 && broadcast.modulus % width == 0);
  operand.wide = operand.adjacent && vector_aligned({data});
  return operand;
}

inline void advance_rows(GroupOperand* operand, int64_t rows) {
  if (operand->data == nullptr) return;
  operand->data += rows * operand->row_stride;
  operand->wide = operand->wide && vector_aligned({operand->data});
}

inline GroupOperand constant_operand(float value) {
  GroupOperand operand;
  operand.value = value;
  return operand;
}

// Launches for rows x features that need not be numbered in 32 bits. Operands name their first row.
template <class Function>
Status launch_function(const char* name, const Function& function,
                       const std::array<GroupOperand, Function::kOperands>& operands,
                       const float* mask, int64_t rows, int64_t features, float* out,
                       cudaStream_t stream) {
  int64_t widest = features;
  for (const GroupOperand& operand : operands) {
    widest = std::max<int64_t>(widest, operand.row_stride);
  }
  return for_row_pieces(rows, widest, [&](int64_t first, int64_t count) {
    FunctionArgs<Function> args;
    args.function = function;
    args.out = out + first * features;
    args.extent = group_extent(count, features, mask == nullptr ? nullptr : mask + first * features,
                               std::array{args.out});
    for (size_t k = 0; k < operands.size(); ++k) {
      args.operands[k] = operands[k];
      advance_rows(&args.operands[k], first);
    }
    return launch(name, function_kernel<Function>, group_shape(args.extent.count, kVector), stream,
                  args);
  });
}

}  // namespace lockstep
