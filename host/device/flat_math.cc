#include "host/device/flat_math.h"

#include <algorithm>
#include <array>

#include "host/device/flat_sums.h"

namespace lockstep {

Status apply(Device& device, const SharedExpression& expression, std::span<const float> scalars,
             const float* from, float* to, int64_t count) {
  ExpressionUpdate update{expression, {}, static_cast<int>(scalars.size())};
  std::copy(scalars.begin(), scalars.end(), update.scalars.begin());
  return device.evaluate(update, std::array{from, static_cast<const float*>(to)}, std::array{to},
                         count);
}

Status fold_rows(Device& device, float* values, int64_t rows, int64_t size,
                 const SharedExpression& add) {
  while (rows > 1) {
    const int64_t kept = (rows + 1) / 2;
    LOCKSTEP_RETURN_IF_ERROR(
        apply(device, add, {}, values + kept * size, values, (rows - kept) * size));
    rows = kept;
  }
  return {};
}

SharedExpression add_expression() {
  ExpressionBuilder e;
  return std::make_shared<const Expression>(e.finish({e.operand(1) + e.operand(0)}));
}

FlatMath::FlatMath(Device* device) : FlatMath({device}, [](const Task& task) { task(0); }) {}

Result<float*> FlatMath::scratch(int64_t floats) {
  if (scratch_ == nullptr || scratch_->bytes() < floats * 4) {
    scratch_ = nullptr;
    LOCKSTEP_ASSIGN(scratch_, devices_[0]->allocate(floats * 4));
  }
  return scratch_->data();
}

Result<std::vector<std::vector<double>>> FlatMath::squares(const std::vector<SquaresTask>& tasks) {
  const auto outputs_of = [](const SquaresTask& task) {
    return std::ssize(task.expression.expression->outputs);
  };
  int64_t blocks = 0, sums = 0;
  for (const SquaresTask& task : tasks) {
    blocks += squares_blocks(task.count);
    sums += squares_blocks(task.count) * outputs_of(task);
  }
  LOCKSTEP_ASSIGN(float* const memory, scratch(2 * sums));
  std::vector<Status> statuses(devices_.size());
  run_([&](int index) {
    const int64_t begin = blocks * index / std::ssize(devices_);
    const int64_t end = blocks * (index + 1) / std::ssize(devices_);
    int64_t block = 0, sum = 0;  // where the task begins
    for (const SquaresTask& task : tasks) {
      const int64_t count = squares_blocks(task.count);
      const int64_t from = std::max<int64_t>(begin - block, 0), to = std::min(end - block, count);
      if (from < to && statuses[index].ok()) {
        const int64_t first = from * kSquaresBlock;
        std::vector<const float*> operands = task.operands;
        for (const float*& operand : operands) operand += first;
        statuses[index] = devices_[index]->squares(
            task.expression, operands, std::min(to * kSquaresBlock, task.count) - first,
            reinterpret_cast<double*>(memory) + sum + from * outputs_of(task));
      }
      block += count;
      sum += count * outputs_of(task);
    }
  });
  LOCKSTEP_RETURN_IF_ERROR(first_error(statuses));
  std::vector<double> of_blocks(static_cast<size_t>(sums));
  LOCKSTEP_RETURN_IF_ERROR(
      devices_[0]->copy_to_host(memory, 2 * sums, reinterpret_cast<float*>(of_blocks.data())));
  std::vector<std::vector<double>> result;
  auto next = of_blocks.begin();
  for (const SquaresTask& task : tasks) {
    std::vector<double>& total = result.emplace_back(outputs_of(task));
    for (int64_t block = 0; block < squares_blocks(task.count); ++block) {
      for (double& value : total) value += *next++;
    }
  }
  return result;
}

}  // namespace lockstep
