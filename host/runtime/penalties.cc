#include "host/runtime/penalties.h"

#include <algorithm>
#include <array>

#include "host/nn/regularizers.h"

namespace lockstep {

Penalties::Penalties(const Graph& graph, int64_t block) : block_(block) {
  for (const Parameter& parameter : graph.parameters) {
    if (is_orthogonal(parameter.regularizer) && parameter.role == ParameterRole::trained) {
      auto penalty = orthogonal_penalty(parameter);
      LOCKSTEP_CHECK(penalty.ok());  // the model was checked
      matrices_.push_back({parameter.offset, parameter.gradient_offset, parameter.count(),
                           std::move(penalty).value()});
      continue;
    }
    const Penalty penalty = penalty_of(parameter.regularizer);
    if (penalty.is_none() || parameter.role != ParameterRole::trained) continue;
    pieces_.push_back({parameter.offset, parameter.gradient_offset, total_, parameter.count(),
                       static_cast<float>(penalty.l1), static_cast<float>(penalty.l2)});
    total_ += parameter.count();
  }
  ExpressionBuilder v;
  const Term w = v.operand(0);
  value_ = std::make_shared<const Expression>(
      v.finish({v.scalar(0) * v.absolute(w) + v.scalar(1) * (w * w)}));
  ExpressionBuilder g;
  gradient_ = std::make_shared<const Expression>(
      g.finish({g.operand(1) + (g.scalar(0) * g.sign(g.operand(0)) + g.scalar(1) * g.operand(0))}));
  add_ = add_expression();
}

template <class Visit>
Status Penalties::for_each(int64_t block, const Visit& visit) const {
  const int64_t begin = block * block_;
  const int64_t end = std::min(begin + block_, total_);
  for (const Piece& piece : pieces_) {
    const int64_t from = std::max(begin, piece.position);
    const int64_t to = std::min(end, piece.position + piece.count);
    if (from < to) LOCKSTEP_RETURN_IF_ERROR(visit(piece, from - piece.position, to - from));
  }
  return {};
}

Result<const float*> Penalties::run_matrix(Device& device, int64_t block,
                                           const float* weights) const {
  const Matrix& of = matrix(block);
  MatrixWork* work = nullptr;
  {
    const std::lock_guard lock(mutex_);
    work = &work_[{&device, block}];
  }
  if (work->programs == nullptr) {
    work->programs = std::make_unique<ProgramSet>(device, of.graph);
    LOCKSTEP_ASSIGN(work->root, device.allocate(of.graph.flat_size * 4));
  }
  LOCKSTEP_ASSIGN(Program * program, work->programs->program_for({0, {1}, {{0, 0}}}));
  HostBatch one_row;
  one_row.rows = 1;
  one_row.positions.push_back(0);
  float* roots[] = {work->root->data()};
  RunContext context;
  context.weights = weights + of.offset;
  context.roots = roots;
  context.batch = &one_row;
  LOCKSTEP_RETURN_IF_ERROR(program->run(context, {}));
  return roots[0];
}

Result<float> Penalties::value(Device& device, int64_t block, const float* weights,
                               float* scratch) const {
  float value = 0;
  if (block >= element_blocks()) {
    LOCKSTEP_ASSIGN(const float* root, run_matrix(device, block, weights));
    LOCKSTEP_RETURN_IF_ERROR(device.copy_to_host(root + matrix(block).count, 1, &value));
    return value;
  }
  const int64_t begin = block * block_;
  LOCKSTEP_RETURN_IF_ERROR(for_each(block, [&](const Piece& piece, int64_t first, int64_t count) {
    const std::array<float, 2> scalars = {piece.l1, piece.l2};
    return apply(device, value_, scalars, weights + piece.offset + first,
                 scratch + (piece.position + first - begin), count);
  }));
  LOCKSTEP_RETURN_IF_ERROR(fold_rows(device, scratch, std::min(block_, total_ - begin), 1, add_));
  LOCKSTEP_RETURN_IF_ERROR(device.copy_to_host(scratch, 1, &value));
  return value;
}

Status Penalties::add_gradient(Device& device, int64_t block, const float* weights,
                               float* gradient) const {
  if (block >= element_blocks()) {
    LOCKSTEP_ASSIGN(const float* root, run_matrix(device, block, weights));
    float* to = gradient + matrix(block).gradient_offset;
    return apply(device, add_, {}, root, to, matrix(block).count);
  }
  return for_each(block, [&](const Piece& piece, int64_t first, int64_t count) {
    const std::array<float, 2> scalars = {piece.l1, 2 * piece.l2};
    return apply(device, gradient_, scalars, weights + piece.offset + first,
                 gradient + piece.gradient_offset + first, count);
  });
}

}  // namespace lockstep
