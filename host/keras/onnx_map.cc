// Expressions: a node an instruction.
#include "host/keras/onnx_map.h"

#include <algorithm>
#include <set>
#include <utility>

#include "host/core/check.h"

namespace lockstep {
namespace {

constexpr int64_t kOnnxFloat = 1, kOnnxBool = 9;  // TensorProto.DataType

// The operators of instructions that have one, by their operation; nullptr: none.
const char* onnx_operator(Operation operation) {
  switch (operation) {
    case Operation::negate:
      return "Neg";
    case Operation::absolute:
      return "Abs";
    case Operation::sign:
      return "Sign";
    case Operation::floor:
      return "Floor";
    case Operation::square_root:
      return "Sqrt";
    case Operation::exp:
      return "Exp";
    case Operation::log:
      return "Log";
    case Operation::tanh:
      return "Tanh";
    case Operation::sigmoid:
      return "Sigmoid";
    case Operation::erf:
      return "Erf";
    case Operation::add:
      return "Add";
    case Operation::subtract:
      return "Sub";
    case Operation::multiply:
      return "Mul";
    case Operation::divide:
      return "Div";
    case Operation::maximum:
      return "Max";
    case Operation::minimum:
      return "Min";
    case Operation::power:
      return "Pow";
    case Operation::greater:
      return "Greater";
    case Operation::greater_equal:
      return "GreaterOrEqual";
    case Operation::equal:
      return "Equal";
    default:
      return nullptr;
  }
}

bool is_comparison(Operation operation) {
  return operation == Operation::greater || operation == Operation::greater_equal ||
         operation == Operation::equal;
}

// What an operand reads: a value, or where that is -1 the parameters at `offset`.
struct OperandSource {
  int value = -1;
  int64_t offset = 0;
  Broadcast broadcast;
  bool is_whole(int64_t features) const {
    return broadcast.divisor == 1 && broadcast.modulus == features;
  }
  int64_t period() const { return broadcast.divisor * broadcast.modulus; }
};

std::vector<OperandSource> sources_of(const OpDesc& op, const MapOp& map,
                                      const StretchedValues& stretched) {
  std::vector<OperandSource> sources;
  for (const MapOperand& operand : map.operands) {
    OperandSource source{-1, operand.offset, operand.broadcast};
    if (operand.input >= 0) source.value = op.inputs[static_cast<size_t>(operand.input)];
    const auto found = stretched.find(source.value);
    if (found != stretched.end() && source.is_whole(map.features)) {
      source.value = found->second.source;
      source.broadcast = found->second.broadcast;
    }
    sources.push_back(source);
  }
  return sources;
}

// Axes of a row so that each operand lies along some of them, side by side, and is repeated along
// the others; the row's own shape where it will do. Operands that fit none are left out.
Shape common_axes(const Shape& row, int64_t features, const std::vector<OperandSource>& sources) {
  std::set<int64_t> bounds = {1, features};  // products of the last axes
  const auto insert = [&](int64_t bound) {
    const auto above = bounds.lower_bound(bound);
    if (above == bounds.end() || *above % bound != 0) return;
    if (above == bounds.begin() || bound % *std::prev(above) == 0) bounds.insert(bound);
  };
  for (const OperandSource& source : sources) {
    insert(source.broadcast.divisor);
    insert(source.period());
  }
  std::set<int64_t> own = {1};
  int64_t product = 1;
  for (size_t axis = row.size(); axis-- > 0;) own.insert(product *= row[axis]);
  if (std::includes(own.begin(), own.end(), bounds.begin(), bounds.end())) return row;
  for (const int64_t bound : own) insert(bound);
  Shape axes;
  for (auto bound = bounds.rbegin(); std::next(bound) != bounds.rend(); ++bound) {
    axes.push_back(*bound / *std::next(bound));
  }
  return axes;
}

// The row's axes with those of size 1 along which the operand is repeated; nothing where the
// operand does not lie along whole axes.
std::optional<Shape> operand_axes(const Shape& axes, const Broadcast& broadcast) {
  Shape own = axes;
  int64_t behind = 1, covered = 1;
  for (size_t axis = axes.size(); axis-- > 0;) {
    const int64_t size = axes[axis];
    const bool along =
        behind >= broadcast.divisor && behind * size <= broadcast.divisor * broadcast.modulus;
    if (!along) own[axis] = 1;
    covered *= own[axis];
    behind *= size;
  }
  if (covered != broadcast.modulus) return std::nullopt;
  return own;
}

// An instruction's result. A comparison's is a truth; its number is made where it is read.
struct TermTensor {
  std::string tensor;
  bool is_truth = false;
  bool is_whole = false;  // an entry for each of the row's, in each row
};

// The nodes of one map.
class OnnxMap {
 public:
  OnnxMap(const OpDesc& op, const MapOp& map, const StretchedValues& stretched, OnnxValues* values)
      : op_(op), map_(map), sources_(sources_of(op, map, stretched)), values_(*values) {}

  void add() {
    image_ = common_image();
    axes_ = image_.value_or(common_axes(values_.shape(op_.outputs[0]), map_.features, sources_));
    terms_.resize(map_.expression.code.size());
    const int last = map_.expression.outputs[0];
    std::string result = number(last);
    if (!at(last).is_whole) result = repeated(result);
    if (image_) {
      values_.set_image(op_.outputs[0], *image_, result);
    } else {
      values_.set_rows(op_.outputs[0], axes_, result);
    }
  }

 private:
  std::string node(const std::string& type, const std::vector<std::string>& inputs,
                   std::vector<OnnxAttribute> attributes = {}) {
    return values_.onnx().add_node(type, inputs, op_.name + "/" + type, std::move(attributes));
  }
  std::string scalar(float value) {
    return values_.onnx().add_floats(op_.name + "/number", {}, std::span(&value, 1));
  }
  std::string repeated(const std::string& tensor) {
    Shape row = axes_;
    if (image_) row = {axes_[2], axes_[0], axes_[1]};
    return values_.repeated(tensor, row, op_.name);
  }

  const Instruction& code(int i) const { return map_.expression.code[static_cast<size_t>(i)]; }
  // Made where it is first read.
  TermTensor& at(int i) {
    std::optional<TermTensor>& term = terms_[static_cast<size_t>(i)];
    if (!term) term = made(i);
    return *term;
  }
  std::string number(int i) {
    TermTensor& term = at(i);
    if (term.is_truth) {
      term = {node("Cast", {term.tensor}, {{"to", kOnnxFloat}}), false, term.is_whole};
    }
    return term.tensor;
  }

  // The image that the map works on with its channels first: that of an operand that is ready so,
  // where all others can be too.
  std::optional<Shape> common_image() {
    std::optional<Shape> image;
    for (const OperandSource& source : sources_) {
      if (source.value < 0 || values_.constant(source.value) != nullptr) continue;
      const OnnxValues::View view = values_.native(source.value);
      if (view.is_image && source.is_whole(map_.features)) image = view.row;
    }
    if (!image) return std::nullopt;
    for (const OperandSource& source : sources_) {
      const Broadcast& broadcast = source.broadcast;
      const bool of_channel = broadcast == Broadcast{1, (*image)[2]};
      const bool whole = source.value >= 0 && source.is_whole(map_.features);
      if (!of_channel && !whole && broadcast.modulus != 1) return std::nullopt;
    }
    return image;
  }

  TermTensor operand(const OperandSource& source) {
    const std::vector<float>* numbers = source.value < 0 ? nullptr : values_.constant(source.value);
    if (numbers != nullptr && std::adjacent_find(numbers->begin(), numbers->end(),
                                                 std::not_equal_to<>()) == numbers->end()) {
      return {scalar(numbers->front())};
    }
    const bool whole = source.value >= 0 && source.is_whole(map_.features);
    const auto own = image_ ? std::nullopt : operand_axes(axes_, source.broadcast);
    if (source.value < 0 && image_) {
      const int64_t channels = source.broadcast.modulus;
      return {values_.parameter(source.offset, {channels, 1, 1})};
    }
    if (image_) {
      const Shape row = whole ? *image_ : Shape{1, 1, source.broadcast.modulus};
      return {values_.image(source.value, row), false, whole};
    }
    if (own && source.value < 0) return {values_.parameter(source.offset, *own)};
    if (own) return {values_.rows(source.value, *own), false, whole};
    return picked(source);
  }

  // An operand that lies along no axes, entry by entry.
  TermTensor picked(const OperandSource& source) {
    const std::string tensor = source.value < 0
                                   ? values_.parameter(source.offset, {1, source.broadcast.modulus})
                                   : values_.rows(source.value, {source.broadcast.modulus});
    std::vector<int32_t> index;
    for (int64_t f = 0; f < map_.features; ++f) {
      index.push_back(static_cast<int32_t>(source.broadcast.at(f)));
    }
    const std::string all =
        node("Gather", {tensor, values_.onnx().add_indices(op_.name + "/index", axes_, index)},
             {{"axis", int64_t{1}}});
    return {all, false, source.value >= 0};
  }

  TermTensor made(int i) {
    const Instruction& instruction = code(i);
    if (instruction.operation == Operation::operand) {
      return operand(sources_[static_cast<size_t>(instruction.a)]);
    }
    if (instruction.operation == Operation::constant) return {scalar(instruction.value)};
    if (std::optional<TermTensor> normalized = normalization(i)) return *normalized;
    const int count = argument_count(instruction.operation);
    const std::string tensor = computed(instruction, count);
    const bool whole = at(instruction.a).is_whole || (count > 1 && at(instruction.b).is_whole) ||
                       (count > 2 && at(instruction.c).is_whole);
    return {tensor, is_comparison(instruction.operation), whole};
  }

  std::string computed(const Instruction& instruction, int count) {
    if (instruction.operation == Operation::expm1) {
      return node("Sub", {node("Exp", {number(instruction.a)}), scalar(1)});
    }
    if (instruction.operation == Operation::log1p) {
      return node("Log", {node("Add", {number(instruction.a), scalar(1)})});
    }
    if (instruction.operation == Operation::select) {
      if (const char* type = bound(instruction)) {
        const Instruction& greater = code(instruction.a);
        return node(type, {number(greater.a), number(greater.b)});
      }
      const TermTensor& condition = at(instruction.a);
      const std::string truth = condition.is_truth
                                    ? condition.tensor
                                    : node("Cast", {condition.tensor}, {{"to", kOnnxBool}});
      return node("Where", {truth, number(instruction.b), number(instruction.c)});
    }
    const char* type = onnx_operator(instruction.operation);
    LOCKSTEP_CHECK(type != nullptr);
    std::vector<std::string> inputs = {number(instruction.a)};
    if (count > 1) inputs.push_back(number(instruction.b));
    return node(type, inputs);
  }

  // 0 for all that are numbers.
  bool is_zero(int i) const {
    if (const Instruction* product = is(i, Operation::multiply)) return is_zero(product->b);
    return code(i).operation == Operation::constant && code(i).value == 0;
  }
  // The operator of the larger or the smaller of two terms, where a selection is that.
  const char* bound(const Instruction& selection) const {
    const Instruction* greater = is(selection.a, Operation::greater);
    if (greater == nullptr) return nullptr;
    const auto same = [&](int a, int b) { return a == b || (is_zero(a) && is_zero(b)); };
    if (same(greater->a, selection.b) && same(greater->b, selection.c)) return "Max";
    return same(greater->a, selection.c) && same(greater->b, selection.b) ? "Min" : nullptr;
  }

  // The instruction's two arguments where it has this operation.
  const Instruction* is(int i, Operation operation) const {
    return code(i).operation == operation ? &code(i) : nullptr;
  }
  // The parameter of each channel that an instruction reads; nullptr where it reads none.
  const OperandSource* channel_parameter(int i) const {
    if (code(i).operation != Operation::operand) return nullptr;
    const OperandSource& source = sources_[static_cast<size_t>(code(i).a)];
    const int64_t channels = image_ ? (*image_)[2] : map_.features;
    const bool fits = source.value < 0 && source.broadcast == Broadcast{1, channels};
    return fits ? &source : nullptr;
  }

  // (x - mean) * (1 / sqrt(variance + epsilon)) * gamma + beta of parameters, whose gamma and beta
  // may be missing, as the operator that runtimes fold into convolutions.
  std::optional<TermTensor> normalization(int i) {
    if (!image_ && axes_.size() != 1) return std::nullopt;
    const OperandSource* beta = nullptr;
    const OperandSource* gamma = nullptr;
    if (const Instruction* sum = is(i, Operation::add)) {
      beta = channel_parameter(sum->b);
      if (beta == nullptr) return std::nullopt;
      i = sum->a;
    }
    const Instruction* product = is(i, Operation::multiply);
    if (product != nullptr && channel_parameter(product->b) != nullptr) {
      gamma = channel_parameter(product->b);
      product = is(product->a, Operation::multiply);
    }
    if (product == nullptr) return std::nullopt;
    const Instruction* centred = is(product->a, Operation::subtract);
    const Instruction* inverse = is(product->b, Operation::divide);
    if (centred == nullptr || inverse == nullptr) return std::nullopt;
    const Instruction* one = is(inverse->a, Operation::constant);
    const Instruction* root = is(inverse->b, Operation::square_root);
    if (one == nullptr || one->value != 1 || root == nullptr) return std::nullopt;
    const Instruction* sum = is(root->a, Operation::add);
    if (sum == nullptr) return std::nullopt;
    const Instruction* epsilon = is(sum->b, Operation::constant);
    const OperandSource* mean = channel_parameter(centred->b);
    const OperandSource* variance = channel_parameter(sum->a);
    if (epsilon == nullptr || mean == nullptr || variance == nullptr) return std::nullopt;
    if (!at(centred->a).is_whole) return std::nullopt;
    const auto of_channels = [&](const OperandSource* source, float otherwise) {
      const Shape shape{mean->broadcast.modulus};
      if (source != nullptr) return values_.parameter(source->offset, shape);
      const std::vector<float> all(static_cast<size_t>(shape[0]), otherwise);
      return values_.onnx().add_floats(op_.name + "/number", shape, all);
    };
    return TermTensor{node("BatchNormalization",
                           {number(centred->a), of_channels(gamma, 1), of_channels(beta, 0),
                            of_channels(mean, 0), of_channels(variance, 1)},
                           {{"epsilon", epsilon->value}}),
                      false, true};
  }

  const OpDesc& op_;
  const MapOp& map_;
  const std::vector<OperandSource> sources_;
  OnnxValues& values_;
  std::optional<Shape> image_;                    // worked on with its channels first
  Shape axes_;                                    // of a row; the image's own
  std::vector<std::optional<TermTensor>> terms_;  // of each instruction
};

}  // namespace

bool is_onnx_expression(const Expression& expression) {
  return !expression.is_random() && expression.outputs.size() == 1 &&
         std::none_of(expression.code.begin(), expression.code.end(), [](const auto& instruction) {
           return instruction.operation == Operation::scalar;
         });
}

void add_onnx_map(const OpDesc& op, const MapOp& map, const StretchedValues& stretched,
                  OnnxValues* values) {
  const Instruction& last = map.expression.code[static_cast<size_t>(map.expression.outputs[0])];
  if (last.operation == Operation::constant) {
    return values->set_constant(op.outputs[0],
                                std::vector<float>(static_cast<size_t>(map.features), last.value));
  }
  OnnxMap(op, map, stretched, values).add();
}

}  // namespace lockstep
