// The real cuDNN, asked without a GPU for plans for GPUs that are only described: every convolution
// of the models and a grid of shapes. See also vendor_test.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "cuda/conv_plan.h"
#include "cuda/gpu.h"
#include "models/models.h"
#include "tests/support/test_folder.h"

#ifdef LOCKSTEP_SANITIZED
// The vendors' libraries leak at each start, cuDNN also by a handle of cublasLt that it can't have
// without a GPU, and are unloaded before the leaks are looked for, so can't be suppressed by name.
extern "C" int __lsan_is_turned_off() { return 1; }
#endif

namespace lockstep {
namespace {

constexpr int64_t kWorkspaceLimit = cuda_pins::kVendorWorkspace;  // what the device asks for
constexpr std::array<Pass, 3> kPasses = {Pass::forward, Pass::data_gradient, Pass::weight_gradient};

std::filesystem::path device_file(const std::string& name) {
  return std::filesystem::path(LOCKSTEP_SOURCE_DIR) / ".." / "shared" / "data" / "cudnn-devices" /
         (name + ".json");
}

// A target of the described device, or why there is none here.
Result<CudnnTarget> described(const std::string& name) {
  std::ifstream file(device_file(name));
  if (!file) return Error{"no description of the device: " + device_file(name).string()};
  const std::string json((std::istreambuf_iterator<char>(file)), {});
  LOCKSTEP_ASSIGN(auto api, load_cudnn());
  return CudnnTarget::description(std::move(api), json);
}

#define LOCKSTEP_DESCRIBED_OR_SKIP(target, name) \
  const auto target = described(name);           \
  if (!target) GTEST_SKIP() << "skipped: " << target.error().message

struct Geometry {
  int size = 0, in_channels = 0, out_channels = 0, kernel = 0, stride = 1;
  bool same = false;
};

// Keras' sizes and paddings.
Conv2dOp conv(const Geometry& geometry, Pass pass) {
  Conv2dOp op;
  op.pass = pass;
  op.in_height = op.in_width = geometry.size;
  op.in_channels = geometry.in_channels;
  op.out_channels = geometry.out_channels;
  op.kernel_height = op.kernel_width = geometry.kernel;
  op.stride_height = op.stride_width = geometry.stride;
  const int out = geometry.same ? (geometry.size + geometry.stride - 1) / geometry.stride
                                : (geometry.size - geometry.kernel) / geometry.stride + 1;
  op.out_height = op.out_width = out;
  const int padding = std::max(0, (out - 1) * geometry.stride + geometry.kernel - geometry.size);
  if (geometry.same) op.pad_top = op.pad_left = padding / 2;
  op.activation = Activation::relu;
  op.bias_offset = 1;  // aligned to 4 bytes and no more
  return op;
}

ConvPlanOptions options_of(CudaMath math) {
  ConvPlanOptions options;
  options.math = math;
  options.workspace_limit_bytes = kWorkspaceLimit;
  return options;
}

// What no plan may be.
void expect_sound(const ConvPlan& plan, CudaMath math) {
  EXPECT_LE(plan.workspace_bytes(), kWorkspaceLimit) << plan.description();
  EXPECT_EQ(plan.description().find("nondeterministic"), std::string::npos) << plan.description();
  if (math == CudaMath::fp32) {
    EXPECT_EQ(plan.description().find("tensor core"), std::string::npos) << plan.description();
    EXPECT_EQ(plan.description().find("Winograd"), std::string::npos) << plan.description();
    EXPECT_EQ(plan.description().find("FFT"), std::string::npos) << plan.description();
  }
}

void expect_plan(const CudnnTarget& target, const Conv2dOp& op, int64_t rows, CudaMath math) {
  const auto plan = ConvPlan::create(target, op, rows, options_of(math));
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  expect_sound(*plan, math);
}

// All that a plan depends on but the rows; of offsets that is how they are aligned.
auto shape_of(const Conv2dOp& op) {
  return std::make_tuple(op.pass, op.in_height, op.in_width, op.in_channels, op.out_height,
                         op.out_width, op.out_channels, op.kernel_height, op.kernel_width,
                         op.stride_height, op.stride_width, op.pad_top, op.pad_left,
                         op.dilation_height, op.dilation_width, op.groups, op.activation,
                         op.kernel_offset % 4, op.bias_offset < 0 ? -1 : op.bias_offset % 4);
}

class CudnnPlans : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Devices, CudnnPlans, testing::Values("a100", "h100", "b200", "rtx5090"),
                         [](const auto& parameter) { return std::string(parameter.param); });

TEST_P(CudnnPlans, ForEveryConvolutionOfTheModels) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, GetParam());
  int convolutions = 0;
  std::set<decltype(shape_of({}))> seen;
  for (const std::string& name : model_names()) {
    const auto model = build_model(name, {28, 28, 1}, 10);
    ASSERT_TRUE(model.ok()) << model.error().message;
    const auto graph = (*model)->training_graph("sparse_categorical_crossentropy");
    ASSERT_TRUE(graph.ok()) << graph.error().message;
    for (const OpDesc& desc : graph->ops) {
      const auto* op = std::get_if<Conv2dOp>(&desc.attributes);
      if (op == nullptr) continue;
      ++convolutions;
      if (!seen.insert(shape_of(*op)).second) continue;
      for (const int rows : {1, 3, 4, 16, 32, 128}) {
        for (const CudaMath math : {CudaMath::fp32, CudaMath::tf32, CudaMath::bf16}) {
          SCOPED_TRACE(name + " " + desc.name);
          expect_plan(*target, *op, rows, math);
        }
      }
    }
  }
  EXPECT_GE(convolutions, 3 + 2 + 3 + 1 + 1);  // seed-cnn, lenet: no gradient of the input
}

// Channels that are odd, few and many; kernels; strides; sizes that "same" pads evenly or not.
std::vector<Geometry> grid() {
  std::vector<Geometry> geometries;
  struct Channels {
    int in, out;
  };
  for (const Channels channels : {Channels{1, 4}, {3, 64}, {4, 8}, {5, 7}, {16, 32}, {64, 64}}) {
    for (const int kernel : {1, 3, 5, 7}) {
      for (const int stride : {1, 2}) {
        for (const int size : {7, 14}) {
          geometries.push_back({size, channels.in, channels.out, kernel, stride, true});
        }
        geometries.push_back({14, channels.in, channels.out, kernel, stride, false});
      }
    }
  }
  geometries.push_back({7, 512, 512, 3, 1, true});
  geometries.push_back({14, 256, 512, 3, 2, true});
  geometries.push_back({14, 256, 512, 1, 2, true});
  geometries.push_back({7, 512, 1, 1, 1, false});
  geometries.push_back({56, 64, 64, 3, 1, true});
  geometries.push_back({112, 3, 64, 7, 2, true});
  geometries.push_back({14, 8, 8, 2, 1, true});  // an even kernel: padding behind only
  return geometries;
}

void expect_grid(const CudnnTarget& target, CudaMath math) {
  // Each row count meets each kind of shape somewhere.
  constexpr std::array<int, 5> kRows = {1, 4, 16, 32, 128};
  size_t turn = 0;
  for (const Geometry& geometry : grid()) {
    for (const Pass pass : kPasses) {
      expect_plan(target, conv(geometry, pass), kRows[turn++ % kRows.size()], math);
    }
  }
}

TEST_P(CudnnPlans, ForAGridOfShapesInFp32) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, GetParam());
  expect_grid(*target, CudaMath::fp32);
}

TEST_P(CudnnPlans, ForAGridOfShapesInTf32) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, GetParam());
  expect_grid(*target, CudaMath::tf32);
}

TEST_P(CudnnPlans, ForAGridOfShapesInBf16) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, GetParam());
  expect_grid(*target, CudaMath::bf16);
}

// All tensors are bfloat16, sums are float32; nothing is fused.
TEST_P(CudnnPlans, HaveBf16TensorsAndFloat32Sums) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, GetParam());
  using nlohmann::json;
  for (const Pass pass : kPasses) {
    const auto plan = ConvPlan::create(*target, conv({28, 64, 64, 3, 1, true}, pass), 4,
                                       options_of(CudaMath::bf16));
    ASSERT_TRUE(plan.ok()) << plan.error().message;
    EXPECT_FALSE(plan->fuses_bias());
    EXPECT_FALSE(plan->fuses_activation());
    EXPECT_NE(plan->description().find("tensor core"), std::string::npos) << plan->description();
    const json graph = json::parse(plan->json().value()).at("operationGraph");
    ASSERT_EQ(graph.at("nodes").size(), 1u);
    EXPECT_EQ(graph.at("nodes").at(0).at("mathPrec"), "CUDNN_DATA_FLOAT");
    ASSERT_EQ(graph.at("tensors").size(), 3u);
    for (const json& tensor : graph.at("tensors")) {
      EXPECT_EQ(tensor.at("dataType"), "CUDNN_DATA_BFLOAT16");
    }
  }
}

// The JSON's numbers for what the op says; cuDNN writes "pad" where both sides are padded alike,
// else "pad_lower" (before) and "pad_upper" (behind).
TEST_P(CudnnPlans, HaveTheGraphOfTheOp) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, GetParam());
  using nlohmann::json;
  for (const Pass pass : kPasses) {
    Conv2dOp op = conv({28, 8, 16, 3, 2, true}, pass);  // one zero in all: behind
    const auto plan = ConvPlan::create(*target, op, 4, options_of(CudaMath::fp32));
    ASSERT_TRUE(plan.ok()) << plan.error().message;
    const auto text = plan->json();
    ASSERT_TRUE(text.ok()) << text.error().message;
    const json graph = json::parse(*text).at("operationGraph");
    const json& node = graph.at("nodes").at(0);
    EXPECT_EQ(node.at("pad_lower"), json({0, 0}));
    EXPECT_EQ(node.at("pad_upper"), json({1, 1}));
    EXPECT_EQ(node.at("stride"), json({2, 2}));
    EXPECT_EQ(node.at("mode"), "CUDNN_CROSS_CORRELATION");
    EXPECT_EQ(node.at("mathPrec"), "CUDNN_DATA_FLOAT");
    for (const json& tensor : graph.at("tensors")) {
      const std::string name = tensor.at("name");
      if (name == "1") {
        EXPECT_EQ(tensor.at("dim"), json({4, 8, 28, 28}));
        EXPECT_EQ(tensor.at("stride"), json({28 * 28 * 8, 1, 28 * 8, 8}));
      } else if (name == "2") {
        EXPECT_EQ(tensor.at("dim"), json({16, 8, 3, 3}));
        EXPECT_EQ(tensor.at("stride"), json({3 * 3 * 8, 1, 3 * 8, 8}));
      } else if (name == "3") {
        EXPECT_EQ(tensor.at("dim"), json({1, 16, 1, 1}));
        EXPECT_EQ(tensor.at("ptrAlignment"), 4);
      } else {
        EXPECT_EQ(tensor.at("dim"), json({4, 16, 14, 14}));
        EXPECT_EQ(tensor.at("stride"), json({14 * 14 * 16, 1, 14 * 16, 16}));
      }
    }
  }
}

TEST_P(CudnnPlans, AreTheSameEachTime) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, GetParam());
  LOCKSTEP_DESCRIBED_OR_SKIP(again, GetParam());
  for (const Pass pass : kPasses) {
    const Conv2dOp op = conv({26, 4, 8, 3, 1, false}, pass);
    const auto first = ConvPlan::create(*target, op, 16, options_of(CudaMath::fp32));
    const auto second = ConvPlan::create(*again, op, 16, options_of(CudaMath::fp32));
    ASSERT_TRUE(first.ok() && second.ok());
    EXPECT_EQ(first->description(), second->description());
    EXPECT_EQ(*first->json(), *second->json());
    std::printf("%s: %s\n", GetParam(), first->description().c_str());
  }
}

TEST_P(CudnnPlans, ExistForPointersAlignedToFourBytes) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, GetParam());
  ConvPlanOptions options = options_of(CudaMath::fp32);
  options.x_alignment_bytes = options.y_alignment_bytes = options.kernel_alignment_bytes = 4;
  for (const Pass pass : kPasses) {
    const auto plan = ConvPlan::create(*target, conv({7, 3, 5, 3, 1, true}, pass), 3, options);
    ASSERT_TRUE(plan.ok()) << plan.error().message;
    expect_sound(*plan, CudaMath::fp32);
  }
}

TEST_P(CudnnPlans, ExistForGroupsAndDilation) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, GetParam());
  for (const Pass pass : kPasses) {
    for (const int groups : {1, 2, 12}) {  // of one channel each: depthwise, two outputs a channel
      for (const int dilation : {1, 2}) {
        Conv2dOp op = conv({14, 12, 24, 3, 1, true}, pass);
        op.groups = groups;
        op.dilation_height = op.dilation_width = dilation;
        op.pad_top = op.pad_left = dilation;
        expect_plan(*target, op, 16, CudaMath::fp32);
        expect_plan(*target, op, 16, CudaMath::bf16);
        op = conv({15, 3, 6, 3, 2, false}, pass);
        op.groups = 3;
        expect_plan(*target, op, 5, CudaMath::fp32);
        expect_plan(*target, op, 5, CudaMath::bf16);
      }
    }
  }
}

TEST_P(CudnnPlans, FuseBiasAndRelu) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, GetParam());
  Conv2dOp op = conv({26, 4, 8, 3, 1, false}, Pass::forward);
  const auto fused = ConvPlan::create(*target, op, 16, options_of(CudaMath::fp32));
  ASSERT_TRUE(fused.ok()) << fused.error().message;
  EXPECT_TRUE(fused->fuses_bias());
  EXPECT_TRUE(fused->fuses_activation());
  op.activation = Activation::linear;
  op.bias_offset = -1;
  const auto plain = ConvPlan::create(*target, op, 16, options_of(CudaMath::fp32));
  ASSERT_TRUE(plain.ok()) << plain.error().message;
  EXPECT_FALSE(plain->fuses_bias());
  EXPECT_FALSE(plain->fuses_activation());
}

// How often a heuristic was asked.
std::atomic<int> heuristics = 0;

// The described device, whose heuristics are counted.
Result<CudnnTarget> counted(const std::string& name) {
  LOCKSTEP_ASSIGN(const CudnnTarget plain, described(name));
  static const std::shared_ptr<const CudnnApi> real = plain.api();
  auto api = std::make_shared<CudnnApi>(*real);
  api->backend_create_descriptor = [](cudnnBackendDescriptorType_t type,
                                      cudnnBackendDescriptor_t* descriptor) {
    heuristics += type == CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR ? 1 : 0;
    return real->backend_create_descriptor(type, descriptor);
  };
  LOCKSTEP_ASSIGN(const std::string json, plain.device_json());
  return CudnnTarget::description(std::move(api), json);
}

TEST_P(CudnnPlans, AreTheSameFromTheStore) {
  LOCKSTEP_DESCRIBED_OR_SKIP(plain, GetParam());
  const auto target = counted(GetParam());
  ASSERT_TRUE(target.ok()) << target.error().message;
  const TestFolder folder;
  PlanStore store(folder.path());
  size_t turn = 0;
  for (const Geometry& geometry : grid()) {
    const Pass pass = kPasses[turn % 3];
    const ConvPlanOptions options = options_of(turn % 2 == 0 ? CudaMath::fp32 : CudaMath::tf32);
    const int rows = turn++ % 5 == 0 ? 1 : 16;
    const Conv2dOp op = conv(geometry, pass);
    const auto plan = ConvPlan::create(*plain, op, rows, options);
    ASSERT_TRUE(plan.ok()) << plan.error().message;
    for (const bool kept : {false, true}) {
      heuristics = 0;
      const auto found = ConvPlan::create(*target, op, rows, options, &store);
      ASSERT_TRUE(found.ok()) << found.error().message;
      EXPECT_EQ(heuristics == 0, kept) << found->description();
      EXPECT_EQ(found->description(), plan->description());
      EXPECT_EQ(found->choice(), plan->choice());
      EXPECT_EQ(*found->json(), *plan->json());
    }
  }
}

// Choices that a store must not hold: the search is made again, and its choice kept.
TEST_P(CudnnPlans, ChoicesThatDoNotFitAreMadeAgain) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, GetParam());
  const Conv2dOp op = conv({28, 64, 64, 3, 1, true}, Pass::forward);
  const ConvPlanOptions options = options_of(CudaMath::fp32);
  const auto plan = ConvPlan::create(*target, op, 32, options);
  const auto rounded = ConvPlan::create(*target, op, 32, options_of(CudaMath::tf32));
  ASSERT_TRUE(plan.ok() && rounded.ok());
  PlanChoice no_engine = plan->choice(), more_workspace = plan->choice(), knobs = plan->choice();
  no_engine.engine = 4711;
  more_workspace.workspace_bytes += 1;
  knobs.knobs = {{4711, 3}};
  for (const PlanChoice& wrong : {no_engine, more_workspace, knobs, rounded->choice()}) {
    const TestFolder folder;
    PlanStore store(folder.path());
    ASSERT_TRUE(ConvPlan::create(*target, op, 32, options, &store).ok());
    for (const auto& entry : std::filesystem::directory_iterator(folder.path() + "/plans")) {
      std::ifstream file(entry.path());
      store.keep(nlohmann::json::parse(file).at("key"), wrong);
    }
    testing::internal::CaptureStderr();
    const auto found = ConvPlan::create(*target, op, 32, options, &store);
    EXPECT_NE(testing::internal::GetCapturedStderr().find("made again"), std::string::npos);
    ASSERT_TRUE(found.ok()) << found.error().message;
    EXPECT_EQ(found->description(), plan->description());
    testing::internal::CaptureStderr();
    EXPECT_EQ(ConvPlan::create(*target, op, 32, options, &store)->choice(), plan->choice());
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  }
}

// Prints the CPU time of it; says nothing of a GPU, whose handle may ask for more.
TEST(CudnnPlanStore, SparesTheHeuristicsOfResnet50) {
  const auto target = counted("h100");
  if (!target) GTEST_SKIP() << "skipped: " << target.error().message;
  const auto model = build_model("resnet50", {224, 224, 3}, 1000).value();
  const Graph graph = model->training_graph("sparse_categorical_crossentropy").value();
  const TestFolder folder;
  PlanStore store(folder.path());
  std::map<std::string, Conv2dOp> ops;  // those of one shape share a plan
  for (const OpDesc& desc : graph.ops) {
    const auto* op = std::get_if<Conv2dOp>(&desc.attributes);
    if (op == nullptr) continue;
    const auto plan = ConvPlan::create(*target, *op, 4, options_of(CudaMath::fp32));
    ASSERT_TRUE(plan.ok()) << plan.error().message;
    ops.emplace(plan->description(), *op);
  }
  const auto make_all = [&](PlanStore* from) {
    const std::clock_t begin = std::clock();
    std::vector<std::string> made;
    for (const auto& [description, op] : ops) {
      const auto plan = ConvPlan::create(*target, op, 4, options_of(CudaMath::fp32), from);
      made.push_back(plan.ok() ? plan->description() : plan.error().message);
      EXPECT_EQ(made.back(), description);
    }
    return std::pair(made, static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
  };
  heuristics = 0;
  const auto [plain, plain_seconds] = make_all(nullptr);
  const int asked = heuristics;
  const auto [filling, filling_seconds] = make_all(&store);
  heuristics = 0;
  const auto [kept, kept_seconds] = make_all(&store);
  EXPECT_GE(asked, std::ssize(ops));
  EXPECT_EQ(heuristics, 0);
  EXPECT_EQ(kept, plain);
  EXPECT_EQ(filling, plain);
  std::printf(
      "%zu plans, CPU time: %d heuristics asked, %.2f s; filling the store, %.2f s; from it, "
      "%.2f s\n",
      ops.size(), asked, plain_seconds, filling_seconds, kept_seconds);
}

// Controls that must fail: else the plans above would say little.

TEST(CudnnPlanErrors, OutputTooSmallIsRefusedByCudnn) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, "h100");
  for (const Pass pass : kPasses) {
    Conv2dOp op = conv({28, 8, 16, 3, 1, false}, pass);
    op.out_height -= 1;
    const auto plan = ConvPlan::create(*target, op, 4, options_of(CudaMath::fp32));
    ASSERT_FALSE(plan.ok()) << plan->description();
    EXPECT_NE(plan.error().message.find("CUDNN_STATUS_BAD_PARAM"), std::string::npos)
        << plan.error().message;
    EXPECT_NE(plan.error().message.find("4x28x28x8"), std::string::npos) << plan.error().message;
  }
}

TEST(CudnnPlanErrors, OutputTooLargeIsRefused) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, "h100");
  Conv2dOp op = conv({28, 8, 16, 3, 2, true}, Pass::forward);
  op.out_width += 1;
  const auto plan = ConvPlan::create(*target, op, 4, options_of(CudaMath::fp32));
  ASSERT_FALSE(plan.ok()) << plan->description();
  EXPECT_NE(plan.error().message.find("don't fit"), std::string::npos) << plan.error().message;
}

TEST(CudnnPlanErrors, NoPlanSaysWhyEachCandidateWasRefused) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, "h100");
  ConvPlanOptions options = options_of(CudaMath::fp32);
  options.workspace_limit_bytes = -1;  // nothing takes less than nothing
  const auto plan =
      ConvPlan::create(*target, conv({28, 8, 16, 3, 1, true}, Pass::forward), 4, options);
  ASSERT_FALSE(plan.ok()) << plan->description();
  const std::string& message = plan.error().message;
  EXPECT_NE(message.find("forward of 4x28x28x8 by 16x3x3x8"), std::string::npos) << message;
  EXPECT_NE(message.find("x workspace over the limit"), std::string::npos) << message;
  EXPECT_NE(message.find("x tensor cores"), std::string::npos) << message;
}

TEST(CudnnPlanErrors, TensorCoresAreChosenOnlyWhereAllowed) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, "h100");
  const Conv2dOp op = conv({28, 64, 64, 3, 1, true}, Pass::forward);
  const auto plan = ConvPlan::create(*target, op, 32, options_of(CudaMath::tf32));
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  EXPECT_NE(plan->description().find("tensor core"), std::string::npos) << plan->description();
}

TEST(CudnnPlanErrors, Bf16IsRefusedByGpusThatDoNotHaveIt) {
  LOCKSTEP_DESCRIBED_OR_SKIP(target, "v100");
  for (const Pass pass : kPasses) {
    const auto plan = ConvPlan::create(*target, conv({28, 64, 64, 3, 1, true}, pass), 4,
                                       options_of(CudaMath::bf16));
    EXPECT_FALSE(plan.ok()) << plan->description();
  }
}

TEST(CudnnPlanErrors, BadDescriptionOfADevice) {
  const auto api = load_cudnn();
  if (!api) GTEST_SKIP() << "skipped: " << api.error().message;
  const auto target = CudnnTarget::description(*api, R"({"deviceVer": 900})");
  ASSERT_FALSE(target.ok());
  EXPECT_NE(target.error().message.find("cudnnBackend"), std::string::npos)
      << target.error().message;
}

}  // namespace
}  // namespace lockstep
