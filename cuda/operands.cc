#include "cuda/operands.h"

namespace lockstep::cuda {
namespace {

constexpr int64_t kOperandAlignment = 256;  // bytes

int64_t bytes_of_operand(int64_t count) {
  const int64_t bytes = count * int64_t{sizeof(Bf16)};
  return (bytes + kOperandAlignment - 1) / kOperandAlignment * kOperandAlignment;
}

}  // namespace

Result<Bf16*> Operands::place(Operand operand) const {
  int64_t offset = 0, all = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    if (i == static_cast<size_t>(operand)) offset = all;
    all += bytes_of_operand(counts_[i]);
  }
  LOCKSTEP_ASSIGN(std::byte* const memory, gpu_->operand_memory(all));
  return reinterpret_cast<Bf16*>(memory + offset);
}

Result<const void*> Operands::read(Operand operand, const float* values) const {
  if (!copies()) return static_cast<const void*>(values);
  LOCKSTEP_ASSIGN(Bf16* const copy, place(operand));
  LOCKSTEP_RETURN_IF_ERROR(
      launch_to_bf16(values, counts_[static_cast<size_t>(operand)], copy, gpu_->branch().stream));
  return static_cast<const void*>(copy);
}

Result<void*> Operands::write(Operand operand, float* values) const {
  if (!copies()) return static_cast<void*>(values);
  LOCKSTEP_ASSIGN(Bf16* const copy, place(operand));
  return static_cast<void*>(copy);
}

Status Operands::finish(Operand operand, float* values) const {
  if (!copies()) return {};
  LOCKSTEP_ASSIGN(Bf16* const copy, place(operand));
  return launch_from_bf16(copy, counts_[static_cast<size_t>(operand)], values,
                          gpu_->branch().stream);
}

}  // namespace lockstep::cuda
