// Expressions over elements: a few compiled functions, and an interpreter for all others.
#include <bit>

#include "cuda/kernels_general.h"
#include "cuda/map_groups.h"
#include "host/core/math.h"
#include "host/core/math_power.h"
#include "host/core/rng.h"

namespace lockstep {

namespace {

// --- compiled functions ---

struct Copy {
  static constexpr int kOperands = 1;
  __device__ float operator()(const float* x) const { return x[0]; }
};
struct Add {
  static constexpr int kOperands = 2;
  __device__ float operator()(const float* x) const { return x[0] + x[1]; }
};
struct Subtract {
  static constexpr int kOperands = 2;
  __device__ float operator()(const float* x) const { return x[0] - x[1]; }
};
struct Multiply {
  static constexpr int kOperands = 2;
  __device__ float operator()(const float* x) const { return x[0] * x[1]; }
};
struct MultiplyAdd {
  static constexpr int kOperands = 3;
  __device__ float operator()(const float* x) const { return x[0] * x[1] + x[2]; }
};
struct Scale {
  static constexpr int kOperands = 1;
  float c;
  __device__ float operator()(const float* x) const { return x[0] * c; }
};
struct Maximum {
  static constexpr int kOperands = 1;
  float c;
  __device__ float operator()(const float* x) const { return x[0] > c ? x[0] : c; }
};
struct AddMaximum {
  static constexpr int kOperands = 2;
  float c;
  __device__ float operator()(const float* x) const {
    const float sum = x[0] + x[1];
    return sum > c ? sum : c;
  }
};
struct MaximumAdd {
  static constexpr int kOperands = 2;
  float c;
  __device__ float operator()(const float* x) const {
    const float sum = x[0] + x[1];
    return c > sum ? c : sum;
  }
};
struct Gate {
  static constexpr int kOperands = 2;
  float c;
  __device__ float operator()(const float* x) const { return x[0] > c ? x[1] : c; }
};
struct GateAdd {
  static constexpr int kOperands = 3;
  float c;
  __device__ float operator()(const float* x) const { return x[0] > c ? x[1] + x[2] : c; }
};
struct Sigmoid {
  static constexpr int kOperands = 1;
  __device__ float operator()(const float* x) const { return math::sigmoid(x[0]); }
};
struct Tanh {
  static constexpr int kOperands = 1;
  __device__ float operator()(const float* x) const { return math::tanh(x[0]); }
};
struct SelfGated {
  static constexpr int kOperands = 1;
  __device__ float operator()(const float* x) const { return x[0] * math::sigmoid(x[0]); }
};

// What a compiled function is launched with.
struct FunctionLaunch {
  const ExpressionPlan& plan;
  const std::vector<GroupOperand>& operands;  // as the expression numbers them
  const float* mask;
  int64_t rows, features;
  float* out;
  cudaStream_t stream;

  template <class Function>
  Status run(const char* name, const Function& function) const {
    std::array<GroupOperand, Function::kOperands> chosen;
    LOCKSTEP_CHECK(plan.compiled_operands.size() == chosen.size());
    for (size_t k = 0; k < chosen.size(); ++k) {
      chosen[k] = operands[static_cast<size_t>(plan.compiled_operands[k])];
    }
    return launch_function(name, function, chosen, mask, rows, features, out, stream);
  }

  Status run() const {
    const float c = plan.constant;
    switch (plan.compiled) {
      case CompiledFunction::copy:
        return run("copy_kernel", Copy{});
      case CompiledFunction::add:
        return run("add_kernel", Add{});
      case CompiledFunction::subtract:
        return run("subtract_kernel", Subtract{});
      case CompiledFunction::multiply:
        return run("multiply_kernel", Multiply{});
      case CompiledFunction::multiply_add:
        return run("multiply_add_kernel", MultiplyAdd{});
      case CompiledFunction::scale:
        return run("scale_kernel", Scale{c});
      case CompiledFunction::maximum:
        return run("maximum_kernel", Maximum{c});
      case CompiledFunction::add_maximum:
        return run("add_maximum_kernel", AddMaximum{c});
      case CompiledFunction::maximum_add:
        return run("maximum_add_kernel", MaximumAdd{c});
      case CompiledFunction::gate:
        return run("gate_kernel", Gate{c});
      case CompiledFunction::gate_add:
        return run("gate_add_kernel", GateAdd{c});
      case CompiledFunction::sigmoid:
        return run("sigmoid_kernel", Sigmoid{});
      case CompiledFunction::tanh:
        return run("tanh_kernel", Tanh{});
      case CompiledFunction::self_gated:
        return run("self_gated_kernel", SelfGated{});
      case CompiledFunction::none:
        break;
    }
    LOCKSTEP_CHECK(false);
    return {};
  }
};

// --- the interpreter ---

struct Noise {
  const RunParameters* parameters = nullptr;
  const uint32_t* positions = nullptr;
  Divisor divisor, modulus;
  uint32_t layer = 0, call = 0;
};

struct InterpreterArgs {
  GroupExtent extent;
  Noise noise;
  GroupOperand operands[kMaxMapOperands];
  RegisterInstruction code[kMaxInstructions];
  int32_t instructions = 0, outputs = 0;
  uint8_t output_registers[kMaxMapOutputs];
  float* out[kMaxMapOutputs];
  bool scalars_of_run = false;  // else those here
  float scalars[kMaxMapScalars];
};
static_assert(sizeof(InterpreterArgs) < 4000);  // a kernel's arguments end at 4 KB

// The words of stream `stream` for an element.
__device__ inline std::array<uint32_t, 4> noise_of(const Noise& noise, const GroupExtent& extent,
                                                   uint64_t key, uint32_t element,
                                                   uint32_t stream) {
  const uint32_t row = extent.features.quotient(element);
  const uint32_t feature = element - row * extent.features.divisor;
  const uint32_t n = noise.modulus.remainder(noise.divisor.quotient(feature));
  return philox4x32(
      {n, noise.positions[row], noise.parameters->epoch, noise.layer + (stream << 20)}, key);
}

// A long function runs for one element after the other, straight in the registers' memory: less
// code, and short vectors in a thread's own registers can't be indexed.
template <int kWidth, class Function>
__device__ inline void each(const Floats<kWidth>* a, const Floats<kWidth>* b,
                            Floats<kWidth>* target, Function function) {
  LOCKSTEP_UNROLL(1)
  for (int j = 0; j < kWidth; ++j) target->at[j] = function(a->at[j], b->at[j]);
}

// A short function of vectors.
template <int kWidth, class Function>
__device__ inline void all(const Floats<kWidth>* a, const Floats<kWidth>* b, Floats<kWidth>* target,
                           Function function) {
  const Floats<kWidth> x = *a;
  const Floats<kWidth> y = *b;
  Floats<kWidth> result;
  for (int j = 0; j < kWidth; ++j) result.at[j] = function(x.at[j], y.at[j]);
  *target = result;
}

template <int kWidth>
__device__ inline void run_leaf(const InterpreterArgs& args, const RegisterInstruction& i,
                                const Group<kWidth>& group, Floats<kWidth>* target) {
  if (i.operation == Operation::operand) {
    *target = load_operand(args.operands[i.word], args.extent, group);
    return;
  }
  if (i.operation == Operation::constant) {
    *target = splat<kWidth>(std::bit_cast<float>(i.word));
    return;
  }
  if (i.operation == Operation::scalar) {
    *target = splat<kWidth>(args.scalars_of_run ? args.noise.parameters->loss_scale
                                                : args.scalars[i.word]);
    return;
  }
  const uint64_t key = derive_key(args.noise.parameters->seed, kNoisePurpose, args.noise.call);
  LOCKSTEP_UNROLL(1)
  for (int j = 0; j < kWidth; ++j) {
    // Behind the end there are no rows: the last element's numbers will do.
    const uint32_t element = lesser(group.first + static_cast<uint32_t>(j), args.extent.count - 1);
    const std::array<uint32_t, 4> words = noise_of(args.noise, args.extent, key, element, i.word);
    target->at[j] = i.operation == Operation::uniform ? uniform_from_bits(words[0])
                                                      : normal_from_bits(words[0], words[1]);
  }
}

// The functions of one argument and power; their second argument is not looked at.
template <int kWidth>
__device__ inline void run_long(Operation operation, const Floats<kWidth>* a,
                                const Floats<kWidth>* b, Floats<kWidth>* target) {
  switch (operation) {
    case Operation::square_root:
      return each(a, b, target, [](float x, float) { return math::square_root(x); });
    case Operation::exp:
      return each(a, b, target, [](float x, float) { return math::exp(x); });
    case Operation::expm1:
      return each(a, b, target, [](float x, float) { return math::expm1(x); });
    case Operation::log:
      return each(a, b, target, [](float x, float) { return math::log(x); });
    case Operation::log1p:
      return each(a, b, target, [](float x, float) { return math::log1p(x); });
    case Operation::tanh:
      return each(a, b, target, [](float x, float) { return math::tanh(x); });
    case Operation::sigmoid:
      return each(a, b, target, [](float x, float) { return math::sigmoid(x); });
    case Operation::erf:
      return each(a, b, target, [](float x, float) { return math::erf(x); });
    case Operation::power:
      return each(a, b, target, [](float x, float y) { return math::power(x, y); });
    default:
      return;
  }
}

template <int kWidth>
__device__ inline void run_short(Operation operation, const Floats<kWidth>* a,
                                 const Floats<kWidth>* b, Floats<kWidth>* target) {
  switch (operation) {
    case Operation::negate:
      return all(a, b, target, [](float x, float) { return -x; });
    case Operation::absolute:
      return all(a, b, target, [](float x, float) { return math::absolute(x); });
    case Operation::sign:
      return all(a, b, target, [](float x, float) { return math::sign(x); });
    case Operation::floor:
      return all(a, b, target, [](float x, float) { return math::floor(x); });
    case Operation::add:
      return all(a, b, target, [](float x, float y) { return x + y; });
    case Operation::subtract:
      return all(a, b, target, [](float x, float y) { return x - y; });
    case Operation::multiply:
      return all(a, b, target, [](float x, float y) { return x * y; });
    case Operation::divide:
      return all(a, b, target, [](float x, float y) { return x / y; });
    case Operation::maximum:
      return all(a, b, target, [](float x, float y) { return x > y ? x : y; });
    case Operation::minimum:
      return all(a, b, target, [](float x, float y) { return x < y ? x : y; });
    case Operation::greater:
      return all(a, b, target, [](float x, float y) { return x > y ? 1.0f : 0.0f; });
    case Operation::greater_equal:
      return all(a, b, target, [](float x, float y) { return x >= y ? 1.0f : 0.0f; });
    case Operation::equal:
      return all(a, b, target, [](float x, float y) { return x == y ? 1.0f : 0.0f; });
    default:
      return run_long(operation, a, b, target);
  }
}

// A thread's registers lie kThreads apart, so that those of a warp lie side by side. Each thread
// touches its own only.
template <int kWidth, int kRegisters>
__global__ void interpreter_kernel(const __grid_constant__ InterpreterArgs args) {
  static_assert(kRegisters * kThreads * kWidth * sizeof(float) <= 48 << 10);
  __shared__ Floats<kWidth> file[kRegisters][kThreads];
  for (int64_t g = thread_index(); g * kWidth < args.extent.count; g += thread_count()) {
    const Group<kWidth> group(args.extent, static_cast<uint32_t>(g * kWidth));
    for (int n = 0; n < args.instructions; ++n) {
      const RegisterInstruction i = args.code[n];
      Floats<kWidth>* target = &file[i.target][threadIdx.x];
      if (i.operation <= Operation::normal) {
        run_leaf(args, i, group, target);
        continue;
      }
      const Floats<kWidth>* a = &file[i.a][threadIdx.x];
      const Floats<kWidth>* b = &file[i.b][threadIdx.x];
      if (i.operation == Operation::select) {
        const Floats<kWidth> otherwise = file[i.word][threadIdx.x];
        Floats<kWidth> chosen = *b;
        for (int j = 0; j < kWidth; ++j) {
          chosen.at[j] = a->at[j] != 0.0f ? chosen.at[j] : otherwise.at[j];
        }
        *target = chosen;
      } else {
        run_short(i.operation, a, b, target);
      }
    }
    for (int k = 0; k < args.outputs; ++k) {
      store_group(args.extent, group, file[args.output_registers[k]][threadIdx.x], args.out[k]);
    }
  }
}

void set_code(const ExpressionPlan& plan, InterpreterArgs* args) {
  LOCKSTEP_CHECK(plan.code.size() <= kMaxInstructions && plan.operands <= kMaxMapOperands);
  LOCKSTEP_CHECK(plan.outputs.size() <= kMaxMapOutputs && plan.scalars <= kMaxMapScalars);
  std::copy(plan.code.begin(), plan.code.end(), args->code);
  std::copy(plan.outputs.begin(), plan.outputs.end(), args->output_registers);
  args->instructions = static_cast<int32_t>(plan.code.size());
  args->outputs = static_cast<int32_t>(plan.outputs.size());
}

Status launch_interpreter(const ExpressionPlan& plan, const InterpreterArgs& args,
                          cudaStream_t stream) {
  LOCKSTEP_CHECK(plan.registers <= kMaxRegisters);
  const bool wide = plan.registers <= kWideRegisters;
  const auto kernel = plan.registers <= kFewRegisters ? interpreter_kernel<kVector, kFewRegisters>
                      : wide                          ? interpreter_kernel<kVector, kWideRegisters>
                                                      : interpreter_kernel<1, kMaxRegisters>;
  return launch("interpreter_kernel", kernel, group_shape(args.extent.count, wide ? kVector : 1),
                stream, args);
}

Broadcast whole_row(int64_t features) { return {1, features}; }

}  // namespace

Status launch_expression(const ExpressionPlan& plan, std::span<const float* const> operands,
                         std::span<const float> scalars, std::span<float* const> outputs,
                         int64_t count, cudaStream_t stream) {
  LOCKSTEP_CHECK(!plan.random && static_cast<int>(operands.size()) >= plan.operands);
  LOCKSTEP_CHECK(static_cast<int>(scalars.size()) >= plan.scalars);
  LOCKSTEP_CHECK(outputs.size() == plan.outputs.size());
  InterpreterArgs args;
  set_code(plan, &args);
  std::copy(scalars.begin(), scalars.begin() + plan.scalars, args.scalars);
  for (int64_t first = 0; first < count; first += kMaxIndexed) {
    const int64_t size = std::min(kMaxIndexed, count - first);
    std::vector<GroupOperand> found;
    for (int k = 0; k < plan.operands; ++k) {
      found.push_back(group_operand(operands[static_cast<size_t>(k)] + first, size, whole_row(size),
                                    size, kVector));
    }
    if (plan.compiled != CompiledFunction::none) {
      const FunctionLaunch function{plan, found, nullptr, 1, size, outputs[0] + first, stream};
      LOCKSTEP_RETURN_IF_ERROR(function.run());
      continue;
    }
    std::copy(found.begin(), found.end(), args.operands);
    for (size_t k = 0; k < outputs.size(); ++k) args.out[k] = outputs[k] + first;
    args.extent = group_extent(1, size, nullptr, std::span(args.out, outputs.size()));
    LOCKSTEP_RETURN_IF_ERROR(launch_interpreter(plan, args, stream));
  }
  return {};
}

Status launch_map_op(const MapOp& op, const ExpressionPlan& plan, const MapMemory& memory, int rows,
                     cudaStream_t stream) {
  LOCKSTEP_CHECK(plan.outputs.size() == 1 && plan.scalars <= 1);
  LOCKSTEP_CHECK(memory.operands.size() == op.operands.size());
  LOCKSTEP_CHECK(plan.operands <= static_cast<int>(op.operands.size()));
  if (rows == 0 || op.features == 0) return {};
  std::vector<GroupOperand> operands;
  int64_t widest = op.features;
  for (int k = 0; k < plan.operands; ++k) {
    const MapOperand& operand = op.operands[static_cast<size_t>(k)];
    const int64_t stride = operand.input < 0 ? 0 : operand.broadcast.modulus;
    operands.push_back(group_operand(memory.operands[static_cast<size_t>(k)], stride,
                                     operand.broadcast, op.features, kVector));
    widest = std::max(widest, stride);
  }
  if (plan.compiled != CompiledFunction::none) {
    return FunctionLaunch{plan, operands, memory.mask, rows, op.features, memory.y, stream}.run();
  }
  InterpreterArgs args;
  set_code(plan, &args);
  args.scalars_of_run = true;
  args.noise.parameters = memory.parameters;
  args.noise.layer = op.layer;
  args.noise.call = op.call;
  if (plan.random) {
    args.noise.divisor = Divisor(op.noise.divisor);
    args.noise.modulus = Divisor(op.noise.modulus);
  }
  return for_row_pieces(rows, widest, [&](int64_t first, int64_t count) {
    args.out[0] = memory.y + first * op.features;
    args.noise.positions = memory.positions == nullptr ? nullptr : memory.positions + first;
    const float* mask = memory.mask == nullptr ? nullptr : memory.mask + first * op.features;
    args.extent = group_extent(count, op.features, mask, std::span(args.out, 1));
    std::copy(operands.begin(), operands.end(), args.operands);
    for (size_t k = 0; k < operands.size(); ++k) advance_rows(&args.operands[k], first);
    return launch_interpreter(plan, args, stream);
  });
}

Status launch_columns(const float* from, int64_t columns, int64_t offset, int64_t count, int rows,
                      float* to, cudaStream_t stream) {
  LOCKSTEP_CHECK(offset >= 0 && count >= 0 && offset + count <= columns);
  if (rows == 0 || count == 0) return {};
  GroupOperand operand = group_operand(from + offset, columns, whole_row(count), count, kVector);
  operand.wide = operand.wide && columns % kVector == 0;
  return launch_function("columns_kernel", Copy{}, std::array{operand}, nullptr, rows, count, to,
                         stream);
}

}  // namespace lockstep
