// Arithmetic on flat memory of devices, by their expressions: the same code and order on each.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "host/device/device.h"

namespace lockstep {

// An expression of operand 0, what is read, and operand 1, what is changed.
using SharedExpression = std::shared_ptr<const Expression>;

// to[i] = the expression of (from[i], to[i]).
Status apply(Device& device, const SharedExpression& expression, std::span<const float> scalars,
             const float* from, float* to, int64_t count);

// Sums the `rows` rows of `values`, of `size` elements each, into the first, which is left there:
// the upper half is added to the lower until one is left.
Status fold_rows(Device& device, float* values, int64_t rows, int64_t size,
                 const SharedExpression& add);
SharedExpression add_expression();

// What is squared and summed: the outputs of an expression over `count` elements.
struct SquaresTask {
  ExpressionUpdate expression;
  std::vector<const float*> operands;
  int64_t count = 0;
};

// One device, or several that share their memory and the work: no bit depends on how many.
class FlatMath {
 public:
  using Task = std::function<void(int index)>;
  // `run(task)` calls task(i) for each of the devices, on its thread, and waits for all.
  FlatMath(std::vector<Device*> devices, std::function<void(const Task&)> run)
      : devices_(std::move(devices)), run_(std::move(run)) {}
  // Of this device alone, by its own thread.
  explicit FlatMath(Device* device);

  // As those of Device, each device a share.
  Status evaluate(const ExpressionUpdate& expression, std::span<const float* const> operands,
                  std::span<float* const> outputs, int64_t count);
  Status sum_axis(const float* x, const AxisSum& sum, float* out);
  Status multiply(const MatmulOp& op, const float* x, const float* z, float* out);
  // For each task and output of its expression the sum over all elements: host/device/flat_sums.h.
  Result<std::vector<std::vector<double>>> squares(const std::vector<SquaresTask>& tasks);
  // Memory of the devices that stays valid until the next call.
  Result<float*> scratch(int64_t floats) { return room(&scratch_, floats); }

 private:
  Result<float*> room(std::unique_ptr<Buffer>* buffer, int64_t floats);
  // task(device, begin, end) for each device's share of [0, count), cut at multiples of `unit`.
  Status share(int64_t count, int64_t unit,
               const std::function<Status(Device&, int64_t begin, int64_t end)>& task);

  std::vector<Device*> devices_;
  std::function<void(const Task&)> run_;
  std::unique_ptr<Buffer> scratch_, sums_;
};

}  // namespace lockstep
