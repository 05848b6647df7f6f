#include "host/device/sum_terms.h"

namespace lockstep {
namespace {

bool append_terms(const std::vector<TreePiece>& pieces, const Subtree& target,
                  std::vector<SumTerm>* terms) {
  bool inside = false;
  for (const TreePiece& piece : pieces) {
    if (piece.subtree == target) {
      terms->push_back({piece.values, 0});
      return true;
    }
    inside = inside || target.contains(piece.subtree);
  }
  if (!inside || target.level == 0) return false;
  const Subtree left{target.first, target.level - 1};
  const bool has_left = append_terms(pieces, left, terms);
  const bool has_right = append_terms(pieces, {left.end(), target.level - 1}, terms);
  if (has_left && has_right) ++terms->back().merges;
  return has_left || has_right;
}

}  // namespace

std::vector<SumTerm> sum_terms(const std::vector<TreePiece>& pieces, const Subtree& target) {
  std::vector<SumTerm> terms;
  append_terms(pieces, target, &terms);
  return terms;
}

}  // namespace lockstep
