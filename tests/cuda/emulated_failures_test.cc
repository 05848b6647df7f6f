// Every call and every piece of work, one after the other, fails once: an error that names the call
// comes back, and nothing is left.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/emulated_cuda/runtime.h"
#include "tests/emulated_cuda/toy.h"

namespace lockstep {
namespace {

using emulated::Machine;

Status run_in_buckets(Device& device, Program& program, const RunContext& context, float* host) {
  Status given;
  int count = 0;
  LOCKSTEP_RETURN_IF_ERROR(program.run(context, [&](int64_t begin, int64_t end) {
    ++count;
    if (!given.ok()) return;
    given = device.start_copy_to_host(context.roots[0] + begin, end - begin, host + begin);
  }));
  LOCKSTEP_RETURN_IF_ERROR(given);
  for (int i = 0; i < count; ++i) LOCKSTEP_RETURN_IF_ERROR(device.finish_aside(i));
  return device.rejoin();
}

// A device from its start to its end: three runs of a Program (plain, captured, replayed), an
// optimizer's step with a digest, copies. With `buckets`, gradients leave while others are
// computed. `before_end` gets what there was before the end began.
struct Counts {
  int64_t calls = 0, pieces = 0;
};
Status short_life(const Graph& graph, const Machine& machine, bool buckets, Counts* before_end) {
  LOCKSTEP_ASSIGN(auto device, make_cuda_device(0, "cuda-fp32", {.bucket_bytes = 1}));
  device->attach_thread();
  const std::vector<float> weights = initial_weights(graph, 5);
  LOCKSTEP_ASSIGN(auto state, device->allocate(graph.parameter_count * 4));
  LOCKSTEP_ASSIGN(auto root, device->allocate(graph.flat_size * 4));
  LOCKSTEP_ASSIGN(auto on_host, device->allocate_host(graph.flat_size * 4));
  LOCKSTEP_RETURN_IF_ERROR(
      device->copy_to_device(weights.data(), graph.parameter_count, state->data()));
  ProgramSet programs(*device, graph);
  LOCKSTEP_ASSIGN(Program * program, programs.program_for(group_of(6, 2, {0, 2})));
  const HostBatch batch = emulated::toy_batch(6);
  float* const roots[] = {root->data()};
  RunContext context;
  context.weights = state->data();
  context.roots = roots;
  context.batch = &batch;
  context.loss_scale = 1.0f / 6;
  for (int i = 0; i < 3; ++i) {
    LOCKSTEP_RETURN_IF_ERROR(buckets ? run_in_buckets(*device, *program, context, on_host->data())
                                     : program->run(context, {}));
  }
  std::vector<DigestLanes> lanes(digest_blocks(graph.parameter_count));
  LOCKSTEP_RETURN_IF_ERROR(device->update(SgdUpdate{0.1f, 0, false}, root->data(), state->data(),
                                          {}, graph.parameter_count, lanes.data()));
  const Status copied = device->copy_to_host(root->data(), graph.flat_size, on_host->data());
  *before_end = {machine.calls(), machine.executed()};
  return copied;
}

// Calls whose failure nobody can be told: destructors log it.
bool is_release(const std::string& call) {
  return call.find("Destroy") != std::string::npos || call.find("Free") != std::string::npos;
}

// Rows are then copied from plain memory.
bool is_told(const std::string& call, const std::string& said) {
  return said.find("memory that is not pinned: " + call) != std::string::npos;
}

// What the message has for a call.
std::string expected_text(const std::string& call) {
  if (call == "kernel launch") return "_kernel";
  if (call == "cublasLtMatmulDescSetAttribute") return "CUBLASLT_MATMUL_DESC_";
  if (call == "cublasLtMatmulPreferenceSetAttribute") return "CUBLASLT_MATMUL_PREF_";
  return call;
}

using EmulatedFailures = testing::TestWithParam<bool>;  // in buckets

TEST_P(EmulatedFailures, EachCallIsNamed) {
  const Graph graph = emulated::toy_dense_graph();
  int64_t failed = 0;
  for (int64_t n = 1;; ++n) {
    Machine machine;
    machine.fail_call(n);
    Counts before_end{n, 0};
    testing::internal::CaptureStderr();
    const Status status = short_life(graph, machine, GetParam(), &before_end);
    const std::string said = testing::internal::GetCapturedStderr();
    const std::string call = machine.failed_call();
    EXPECT_EQ(machine.leaks(), "") << call << ", call " << n;
    if (call.empty()) {
      EXPECT_TRUE(status.ok()) << status.error().message;
      break;
    }
    if (is_release(call) || n > before_end.calls) continue;  // the device's end
    if (status.ok() && is_told(call, said)) continue;
    // Done again, with what the pool had kept.
    if (status.ok() && call == "cudaMalloc" && machine.calls("cudaMemPoolTrimTo") > 0) continue;
    // What an algorithm says of itself; whether it may be missing is the caller's choice.
    if (call == "cublasLtMatmulAlgoConfigGetAttribute" ||
        call == "cublasLtMatmulAlgoCapGetAttribute") {
      continue;
    }
    ++failed;
    ASSERT_FALSE(status.ok()) << call << ", call " << n << ": the error got lost";
    EXPECT_NE(status.error().message.find(expected_text(call)), std::string::npos)
        << call << ", call " << n << ": " << status.error().message;
  }
  EXPECT_GT(failed, 100);
}

// A kernel that fails while it runs: whoever waits next must say so.
TEST_P(EmulatedFailures, EachPieceOfWorkIsNoticed) {
  const Graph graph = emulated::toy_dense_graph();
  Counts before_end;
  {
    Machine machine;
    ASSERT_TRUE(short_life(graph, machine, GetParam(), &before_end).ok());
  }
  const int64_t pieces = before_end.pieces;
  EXPECT_GT(pieces, 50);
  for (int64_t n = 1; n <= pieces; ++n) {
    Machine machine;
    machine.fail_work(n);
    const Status status = short_life(graph, machine, GetParam(), &before_end);
    ASSERT_FALSE(status.ok()) << "piece " << n << " of " << pieces;
    EXPECT_NE(status.error().message.find("illegal memory access"), std::string::npos)
        << status.error().message;
    EXPECT_EQ(machine.leaks(), "");
  }
}

INSTANTIATE_TEST_SUITE_P(ways, EmulatedFailures, testing::Bool(), [](const auto& ways) {
  return std::string(ways.param ? "buckets" : "whole");
});

// With convolutions: what fails while a prepared Program runs.
TEST(EmulatedConvFailures, EachCallIsNamed) {
  LOCKSTEP_CUDNN_OR_SKIP();
  Machine machine;
  const auto device = emulated::make_gpu();
  const Graph graph = emulated::toy_graph();
  TrainingStep step(*device, graph);
  step.set_weights(initial_weights(graph, 5));
  const HostBatch batch = emulated::toy_batch(6);
  const std::vector<float> expected = step.flat(batch, 2);
  const auto root = allocate_floats(*device, graph.flat_size);
  float* const roots[] = {root->data()};
  for (int64_t n = 1; n < 1000; ++n) {
    const auto arena =
        device->allocate(Program::planned_bytes(*device, graph, group_of(6, 2, {0, 2})));
    const auto program = Program::create(*device, graph, group_of(6, 2, {0, 2}), **arena);
    ASSERT_TRUE(program.ok()) << program.error().message;
    machine.fail_call(n);
    testing::internal::CaptureStderr();
    const Status status = (*program)->run(step.context(batch, 6, roots), {});
    const std::string said = testing::internal::GetCapturedStderr();
    const std::string call = machine.failed_call();
    machine.fail_call(0);
    if (call.empty()) {
      EXPECT_TRUE(status.ok());
      EXPECT_EQ(fetch(*device, root->data(), graph.flat_size), expected);
      EXPECT_GT(n, 100);
      return;
    }
    if (is_release(call) || (status.ok() && is_told(call, said))) continue;
    ASSERT_FALSE(status.ok()) << call << ", call " << n << ": the error got lost";
    const std::string text = call == "cudnnBackendSetAttribute" ? "CUDNN_ATTR_" : call;
    EXPECT_NE(status.error().message.find(expected_text(text)), std::string::npos)
        << call << ", call " << n << ": " << status.error().message;
  }
  FAIL() << "no end";
}

}  // namespace
}  // namespace lockstep
