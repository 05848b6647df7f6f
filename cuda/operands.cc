#include "cuda/operands.h"

#include <variant>

#include "cuda/kernels_conv.h"
#include "host/core/check.h"

namespace lockstep::cuda {
namespace {

constexpr int64_t kOperandAlignment = 256;  // bytes

int64_t bytes_of_operand(int64_t count) {
  const int64_t bytes = count * int64_t{sizeof(Bf16)};
  return (bytes + kOperandAlignment - 1) / kOperandAlignment * kOperandAlignment;
}

int64_t bytes_of_operands(const OperandCounts& counts) {
  int64_t bytes = 0;
  for (const int64_t count : counts) bytes += bytes_of_operand(count);
  return bytes;
}

}  // namespace

OperandCounts operand_counts(const Conv2dOp& op, int rows) {
  return {int64_t{rows} * op.in_height * op.in_width * op.in_channels, op.kernel_size(),
          int64_t{rows} * op.out_height * op.out_width * op.out_channels};
}

OperandCounts operand_counts(const DenseOp& op, int rows) {
  return {rows * op.in_features, op.in_features * op.out_features, rows * op.out_features};
}

int64_t operand_bytes(const OpDesc& op, int rows) {
  if (const auto* dense = std::get_if<DenseOp>(&op.attributes)) {
    return bytes_of_operands(operand_counts(*dense, rows));
  }
  const auto* conv = std::get_if<Conv2dOp>(&op.attributes);
  if (conv == nullptr || small_conv_suits(*conv, rows)) return 0;
  return bytes_of_operands(operand_counts(*conv, rows));
}

Bf16* Operands::place(Operand operand, void* work) const {
  LOCKSTEP_CHECK(work != nullptr);
  int64_t offset = 0;
  for (size_t i = 0; i < static_cast<size_t>(operand); ++i) offset += bytes_of_operand(counts_[i]);
  return reinterpret_cast<Bf16*>(static_cast<std::byte*>(work) + offset);
}

Result<const void*> Operands::read(Operand operand, const float* values, void* work,
                                   cudaStream_t stream) const {
  if (!copies_) return static_cast<const void*>(values);
  Bf16* const copy = place(operand, work);
  LOCKSTEP_RETURN_IF_ERROR(
      launch_to_bf16(values, counts_[static_cast<size_t>(operand)], copy, stream));
  return static_cast<const void*>(copy);
}

void* Operands::write(Operand operand, float* values, void* work) const {
  return copies_ ? static_cast<void*>(place(operand, work)) : values;
}

Status Operands::finish(Operand operand, float* values, void* work, cudaStream_t stream) const {
  if (!copies_) return {};
  return launch_from_bf16(place(operand, work), counts_[static_cast<size_t>(operand)], values,
                          stream);
}

}  // namespace lockstep::cuda
