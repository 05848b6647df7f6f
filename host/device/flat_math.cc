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

Result<float*> FlatMath::room(std::unique_ptr<Buffer>* buffer, int64_t floats) {
  if (*buffer == nullptr || (*buffer)->bytes() < floats * 4) {
    buffer->reset();
    LOCKSTEP_ASSIGN(*buffer, devices_[0]->allocate(floats * 4));
  }
  return (*buffer)->data();
}

Status FlatMath::share(int64_t count, int64_t unit,
                       const std::function<Status(Device&, int64_t begin, int64_t end)>& task) {
  const int64_t units = (count + unit - 1) / unit;
  std::vector<Status> statuses(devices_.size());
  run_([&](int index) {
    const int64_t begin = units * index / std::ssize(devices_) * unit;
    const int64_t end = std::min(units * (index + 1) / std::ssize(devices_) * unit, count);
    if (begin < end) statuses[index] = task(*devices_[index], begin, end);
  });
  return first_error(statuses);
}

Status FlatMath::evaluate(const ExpressionUpdate& expression,
                          std::span<const float* const> operands, std::span<float* const> outputs,
                          int64_t count) {
  constexpr int64_t kUnit = 4096;  // keeps vectors aligned
  return share(count, kUnit, [&](Device& device, int64_t begin, int64_t end) {
    std::vector<const float*> from(operands.begin(), operands.end());
    std::vector<float*> to(outputs.begin(), outputs.end());
    for (const float*& operand : from) operand += begin;
    for (float*& output : to) output += begin;
    return device.evaluate(expression, from, to, end - begin);
  });
}

Status FlatMath::sum_axis(const float* x, const AxisSum& sum, float* out) {
  return share(sum.outputs(), 1, [&](Device& device, int64_t begin, int64_t end) {
    return device.sum_axis(x, sum, begin, end - begin, out);
  });
}

Status FlatMath::multiply(const MatmulOp& op, const float* x, const float* z, float* out) {
  constexpr int64_t kUnit = 4;  // rows that a kernel takes together
  return share(op.rows, kUnit, [&](Device& device, int64_t begin, int64_t end) {
    MatmulOp part = op;
    part.rows = end - begin;
    return device.multiply(part, x + begin * op.x.row, z, out + begin * op.out.row);
  });
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
  if (sums == 0) return std::vector<std::vector<double>>(tasks.size());
  LOCKSTEP_ASSIGN(float* const memory, room(&sums_, 2 * sums));
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
