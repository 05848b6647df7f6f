// Arithmetic on flat memory of a device, by its expressions: the same code and order on each.
#pragma once

#include <memory>
#include <span>

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

}  // namespace lockstep
