// The rules of optimizers whose step is no function of one element: they look at whole parameters,
// by the arithmetic that all devices have with the same bits.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/device/flat_math.h"

namespace lockstep {

class WholeRule {
 public:
  using Shape = std::vector<int64_t>;
  // A step over one parameter. All memory is the devices'.
  struct Step {
    double learning_rate = 0;
    int64_t t = 1;  // of the optimizer's steps, from 1 on
    Shape shape;
    float* gradient = nullptr;       // after accumulation and clipping
    const float* weights = nullptr;  // after their decay
    std::span<float* const> slots;   // the optimizer's own
  };

  virtual ~WholeRule() = default;
  // Whether a parameter is this rule's; else the row's formula updates it. `path`: "layer/name".
  virtual bool takes(const std::string& path, const Shape& shape) const = 0;
  // Floats of FlatMath::scratch that a step takes.
  virtual int64_t scratch_size(const Shape& shape) const = 0;
  // Leaves the new slots, and in place of the gradient what is then taken off the weights.
  virtual Status step(FlatMath& math, const Step& step) const = 0;
  // The shape in which Keras keeps a slot of a parameter, whose elements are the slot's first ones;
  // none: it keeps none.
  virtual std::optional<Shape> stored_shape(size_t slot, const std::string& path,
                                            const Shape& shape) const = 0;
};

// Expressions as a rule keeps them: `write(builder)` returns the outputs.
template <class Write>
SharedExpression shared_expression(const Write& write) {
  ExpressionBuilder e;
  return std::make_shared<const Expression>(e.finish(write(e)));
}

// With the scalars of a step.
ExpressionUpdate with_scalars(SharedExpression expression, std::span<const double> scalars);

}  // namespace lockstep
