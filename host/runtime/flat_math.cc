#include "host/runtime/flat_math.h"

#include <algorithm>

namespace lockstep {

Status apply(Device& device, const SharedExpression& expression, std::span<const float> scalars,
             const float* from, float* to, int64_t count) {
  ExpressionUpdate update{expression, {}, static_cast<int>(scalars.size())};
  std::copy(scalars.begin(), scalars.end(), update.scalars.begin());
  return device.update(update, from, to, {}, count, nullptr);
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

}  // namespace lockstep
