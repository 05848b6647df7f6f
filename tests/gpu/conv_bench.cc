// Own convolutions against cuDNN's on the GPU at hand, in all the ways in which ours can be cut.
//
//   conv_bench [--no-cudnn] [DETAILS]
//
// Prints one line for each shape, number of rows and pass: microseconds of the variant that
// kernels_conv would choose, alone and of eight partitions side by side; the best variant; cuDNN
// with the transposes, bias sums and masks that go with it; and the largest differences from sums
// in double precision, relative to the largest value. DETAILS gets the times of all variants.
// Exit 1 where a difference is above 1e-5, or where bits differ between two runs.
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cuda/check.h"
#include "cuda/conv_plan.h"
#include "cuda/kernels.h"
#include "cuda/kernels_conv.h"
#include "host/core/check.h"

namespace lockstep {
namespace {

constexpr int kSideBySide = 8;
constexpr int kRepeats = 16;
constexpr int64_t kScratchFloats = 8 << 20;
constexpr double kTolerance = 1e-5;

bool failed = false;
std::FILE* details = nullptr;

void check(const Status& status) {
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.error().message.c_str());
  LOCKSTEP_CHECK(status.ok());
}
void check(cudaError_t status) { check(cuda_status(status, "CUDA")); }

class Buffer {
 public:
  explicit Buffer(int64_t floats) : floats_(floats) {
    check(cudaMalloc(reinterpret_cast<void**>(&data_), static_cast<size_t>(floats + 4) * 4));
    check(cudaMemset(data_, 0xff, static_cast<size_t>(floats) * 4));  // NaN
  }
  explicit Buffer(const std::vector<float>& values) : Buffer(static_cast<int64_t>(values.size())) {
    check(cudaMemcpy(data_, values.data(), values.size() * 4, cudaMemcpyHostToDevice));
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { cudaFree(data_); }
  float* data() const { return data_; }
  std::vector<float> values() const {
    std::vector<float> values(static_cast<size_t>(floats_));
    check(cudaDeviceSynchronize());
    check(cudaMemcpy(values.data(), data_, values.size() * 4, cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  float* data_ = nullptr;
  int64_t floats_ = 0;
};

struct Bench {
  cudaStream_t streams[kSideBySide] = {};
  cudaEvent_t start = nullptr, end = nullptr, fork = nullptr, joined = nullptr;
  std::vector<std::unique_ptr<Buffer>> scratch, workspace;
  std::optional<CudnnHandle> cudnn;
  std::shared_ptr<const CudnnApi> api;
};

Bench make_bench(bool with_cudnn) {
  Bench bench;
  for (cudaStream_t& stream : bench.streams) {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    bench.scratch.push_back(std::make_unique<Buffer>(kScratchFloats));
  }
  bench.workspace.push_back(std::make_unique<Buffer>(kScratchFloats));
  for (cudaEvent_t* event : {&bench.start, &bench.end}) check(cudaEventCreate(event));
  check(cudaEventCreateWithFlags(&bench.fork, cudaEventDisableTiming));
  check(cudaEventCreateWithFlags(&bench.joined, cudaEventDisableTiming));
  if (!with_cudnn) return bench;
  auto api = load_cudnn();
  if (!api.ok()) check(Status(api.error()));
  bench.api = api.value();
  auto handle = CudnnHandle::create(bench.api);
  if (!handle.ok()) check(Status(handle.error()));
  bench.cudnn.emplace(std::move(handle.value()));
  check(bench.cudnn->set_stream(bench.streams[0]));
  return bench;
}

using Work = std::function<Status(cudaStream_t, float* scratch)>;

// Microseconds of one `work` among kRepeats in a CUDA graph; with `branches` > 1 of so many at
// once.
double measure(Bench& bench, int branches, const Work& work) {
  const cudaStream_t first = bench.streams[0];
  check(cudaStreamBeginCapture(first, cudaStreamCaptureModeThreadLocal));
  check(cudaEventRecord(bench.fork, first));
  for (int i = 1; i < branches; ++i) check(cudaStreamWaitEvent(bench.streams[i], bench.fork, 0));
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    for (int i = 0; i < branches; ++i) check(work(bench.streams[i], bench.scratch[i]->data()));
  }
  for (int i = 1; i < branches; ++i) {
    check(cudaEventRecord(bench.joined, bench.streams[i]));
    check(cudaStreamWaitEvent(first, bench.joined, 0));
  }
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t program = nullptr;
  check(cudaStreamEndCapture(first, &graph));
  check(cudaGraphInstantiate(&program, graph, 0));
  double best = 1e30;
  for (int run = 0; run < 4; ++run) {
    check(cudaEventRecord(bench.start, first));
    check(cudaGraphLaunch(program, first));
    check(cudaEventRecord(bench.end, first));
    check(cudaEventSynchronize(bench.end));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, bench.start, bench.end));
    best = std::min(best, 1000.0 * milliseconds / kRepeats);
  }
  check(cudaGraphExecDestroy(program));
  check(cudaGraphDestroy(graph));
  return best;
}

std::vector<float> random_values(int64_t count, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    value = static_cast<float>(static_cast<int32_t>(seed >> 32)) / 2147483648.0f;
  }
  return values;
}

double difference(const std::vector<float>& a, const std::vector<double>& expected) {
  double largest = 1e-30, worst = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < expected.size(); ++i) {
    const double off = std::abs(a[i] - expected[i]) / largest;
    if (!(off <= worst)) worst = off;  // NaN too
  }
  if (!(worst <= kTolerance)) failed = true;
  return worst;
}

std::vector<double> widened(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

// One layer at one number of rows.
struct Layer {
  std::string name;
  Conv2dOp op;  // bias at the kernel's end
  int rows = 0;
  std::vector<float> x, dy, weights, mask;
  int64_t kernel_floats() const { return op.bias_offset; }
};

Layer make_layer(const std::string& name, Conv2dOp op, int rows) {
  op.bias_offset = int64_t{op.kernel_height} * op.kernel_width * op.in_channels * op.out_channels;
  op.activation = Activation::relu;
  Layer layer{.name = name, .op = op, .rows = rows};
  layer.x = random_values(int64_t{rows} * op.in_height * op.in_width * op.in_channels, 1);
  layer.dy = random_values(int64_t{rows} * op.out_height * op.out_width * op.out_channels, 2);
  layer.weights = random_values(op.bias_offset + op.out_channels, 3);
  layer.mask = random_values(static_cast<int64_t>(layer.x.size()), 4);
  return layer;
}

// Calls visit(index in x, in dy, in the kernel) for each product.
template <class Visit>
void for_products(const Layer& layer, const Visit& visit) {
  const Conv2dOp& op = layer.op;
  for (int64_t pixel = 0; pixel < int64_t{layer.rows} * op.out_height * op.out_width; ++pixel) {
    const int64_t n = pixel / op.out_width / op.out_height;
    for (int tap = 0; tap < op.kernel_height * op.kernel_width; ++tap) {
      const int64_t y = pixel / op.out_width % op.out_height * op.stride_height +
                        tap / op.kernel_width - op.pad_top;
      const int64_t x =
          pixel % op.out_width * op.stride_width + tap % op.kernel_width - op.pad_left;
      if (y < 0 || x < 0 || y >= op.in_height || x >= op.in_width) continue;
      const int64_t in = ((n * op.in_height + y) * op.in_width + x) * op.in_channels;
      for (int c = 0; c < op.in_channels; ++c) {
        for (int o = 0; o < op.out_channels; ++o) {
          visit(in + c, pixel * op.out_channels + o,
                (int64_t{tap} * op.in_channels + c) * op.out_channels + o);
        }
      }
    }
  }
}

std::vector<double> reference(const Layer& layer, Pass pass) {
  std::vector<double> out;
  const auto product = [](float a, float b) { return static_cast<double>(a) * b; };
  if (pass == Pass::forward) {
    out.resize(layer.dy.size());
    for_products(layer, [&](int64_t x, int64_t y, int64_t k) {
      out[y] += product(layer.x[x], layer.weights[k]);
    });
    for (size_t i = 0; i < out.size(); ++i) {
      const size_t o = i % static_cast<size_t>(layer.op.out_channels);
      out[i] = std::max(0.0, out[i] + layer.weights[layer.kernel_floats() + o]);
    }
  } else if (pass == Pass::data_gradient) {
    out.resize(layer.x.size());
    for_products(layer, [&](int64_t x, int64_t y, int64_t k) {
      out[x] += product(layer.dy[y], layer.weights[k]);
    });
    for (size_t i = 0; i < out.size(); ++i) out[i] = layer.mask[i] > 0 ? out[i] : 0;
  } else {
    out.resize(layer.weights.size());
    for_products(layer, [&](int64_t x, int64_t y, int64_t k) {
      out[k] += product(layer.x[x], layer.dy[y]);
    });
    for (size_t i = 0; i < layer.dy.size(); ++i) {
      out[layer.kernel_floats() + i % static_cast<size_t>(layer.op.out_channels)] += layer.dy[i];
    }
  }
  return out;
}

struct OnDevice {
  explicit OnDevice(const Layer& layer)
      : x(layer.x), dy(layer.dy), weights(layer.weights), mask(layer.mask) {}
  Buffer x, dy, weights, mask;
};

struct Variant {
  std::string name;
  Work work;
  double alone = 0, side_by_side = 0;
};

// The chosen variant first.
std::vector<Variant> own_variants(const Layer& layer, const OnDevice& on, Pass pass, float* out) {
  Conv2dOp op = layer.op;
  op.pass = pass;
  const int rows = layer.rows;
  std::vector<Variant> variants;
  if (pass == Pass::weight_gradient) {
    const auto add = [&](const ConvGradientOptions& options) {
      const ConvGradientPlan plan = plan_conv_gradient(op, rows, options);
      if (conv_gradient_scratch(op, plan) > kScratchFloats) return;
      variants.push_back(
          {fmt::format("sets {} segments {} splits {}", plan.sets, plan.segments, plan.splits),
           [=, &on](cudaStream_t stream, float* scratch) {
             return launch_conv_weight_gradient(op, plan, rows, on.x.data(), on.dy.data(), scratch,
                                                out, out + op.bias_offset, stream);
           }});
    };
    add({});
    for (const int threads : {64, 128, 256}) {
      for (const int segments : {1, 2, 4}) {
        for (const int blocks : {66, 132, 264, 528, 1056}) add({threads, segments, blocks});
      }
    }
    return variants;
  }
  const auto add = [&](const ConvTile& tile) {
    variants.push_back(
        {fmt::format("channels {} pixels {} threads {}", tile.channels, tile.pixels, tile.threads),
         [=, &on](cudaStream_t stream, float*) {
           if (op.pass == Pass::forward) {
             return launch_conv(op, tile, rows, on.x.data(), on.weights.data(),
                                on.weights.data() + op.bias_offset, out, stream);
           }
           return launch_conv_data_gradient(op, tile, rows, on.dy.data(), on.weights.data(),
                                            on.mask.data(), out, stream);
         }});
  };
  add(conv_tile(op, rows));
  const int window = op.kernel_height * op.kernel_width *
                     (pass == Pass::forward ? op.in_channels : op.out_channels);
  const int channels = pass == Pass::forward ? op.out_channels : op.in_channels;
  for (const int tile : {4, 8, 12, 16}) {
    if (window * tile > 6400 || tile >= channels + 4) continue;
    for (const int pixels : {1, 2, 4}) {
      if (pixels == 4 && tile > 8) continue;
      for (const int threads : {64, 128, 256}) add({tile, pixels, threads});
    }
  }
  return variants;
}

// What conv_ops.cc does with cuDNN.
Result<Work> cudnn_work(Bench& bench, const Layer& layer, const OnDevice& on, Pass pass,
                        float* out) {
  Conv2dOp op = layer.op;
  op.pass = pass;
  ConvPlanOptions options;
  options.workspace_limit_bytes = 32 << 20;
  options.bias_alignment_bytes = alignment_of(op.bias_offset);
  LOCKSTEP_ASSIGN(auto made, ConvPlan::create(CudnnTarget::device(bench.api, bench.cudnn->get()),
                                              op, layer.rows, options));
  const auto plan = std::make_shared<ConvPlan>(std::move(made));
  const int64_t window = op.bias_offset / op.out_channels;
  const int64_t pixels = int64_t{layer.rows} * op.out_height * op.out_width;
  const int64_t inputs = static_cast<int64_t>(layer.x.size());
  void* workspace = bench.workspace[0]->data();
  const cudnnHandle_t handle = bench.cudnn->get();
  const float* bias = on.weights.data() + op.bias_offset;
  return Work([=, &on](cudaStream_t stream, float* scratch) -> Status {
    if (pass == Pass::weight_gradient) {
      LOCKSTEP_RETURN_IF_ERROR(
          plan->run(handle, {.x = on.x.data(), .dy = on.dy.data(), .out = scratch}, workspace));
      LOCKSTEP_RETURN_IF_ERROR(launch_transpose(scratch, op.out_channels, window, out, stream));
      return launch_column_sums(on.dy.data(), pixels, op.out_channels, scratch,
                                out + op.bias_offset, stream);
    }
    LOCKSTEP_RETURN_IF_ERROR(
        launch_transpose(on.weights.data(), window, op.out_channels, scratch, stream));
    if (pass == Pass::data_gradient) {
      LOCKSTEP_RETURN_IF_ERROR(
          plan->run(handle, {.kernel = scratch, .dy = on.dy.data(), .out = out}, workspace));
      return launch_mask(on.mask.data(), inputs, out, stream);
    }
    LOCKSTEP_RETURN_IF_ERROR(plan->run(
        handle, {.x = on.x.data(), .kernel = scratch, .bias = bias, .out = out}, workspace));
    if (plan->fuses_bias() && plan->fuses_activation()) return {};
    return launch_bias_activation(out, plan->fuses_bias() ? nullptr : bias, Activation::relu,
                                  pixels, op.out_channels, out, stream);
  });
}

void time_pass(Bench& bench, const Layer& layer, const OnDevice& on, Pass pass) {
  const int64_t count = pass == Pass::forward         ? static_cast<int64_t>(layer.dy.size())
                        : pass == Pass::data_gradient ? static_cast<int64_t>(layer.x.size())
                                                      : static_cast<int64_t>(layer.weights.size());
  Buffer own(count), vendor(count);
  std::vector<Variant> variants = own_variants(layer, on, pass, own.data());
  check(variants[0].work(bench.streams[0], bench.scratch[0]->data()));
  const std::vector<float> result = own.values();
  std::string text = "cudnn      -";
  std::vector<double> expected;
  if (layer.rows <= 128) expected = reference(layer, pass);
  if (bench.cudnn) {
    auto work = cudnn_work(bench, layer, on, pass, vendor.data());
    if (work.ok()) {
      check(work.value()(bench.streams[0], bench.scratch[0]->data()));
      const std::vector<float> values = vendor.values();
      if (expected.empty()) expected = widened(values);
      text = fmt::format("cudnn {:7.1f} ({:.0e})", measure(bench, 1, work.value()),
                         difference(values, expected));
    }
  }
  const double off = expected.empty() ? 0 : difference(result, expected);
  const bool any_order = pass != Pass::weight_gradient;  // variants have the same bits
  size_t best = 0, best_side = 0;
  for (size_t i = 0; i < variants.size(); ++i) {
    Variant& variant = variants[i];
    variant.alone = measure(bench, 1, variant.work);
    const std::vector<float> again = own.values();
    if ((i == 0 || any_order) && std::memcmp(again.data(), result.data(), 4 * result.size()) != 0) {
      failed = true;
      std::printf("other bits: %s\n", variant.name.c_str());
    }
    if (!any_order && !expected.empty()) difference(again, expected);
    if (layer.rows <= 32) variant.side_by_side = measure(bench, kSideBySide, variant.work);
    if (variant.alone < variants[best].alone) best = i;
    if (variant.side_by_side < variants[best_side].side_by_side) best_side = i;
  }
  const char* const names[] = {"forward", "dgrad", "wgrad"};
  Conv2dOp op = layer.op;
  op.pass = pass;
  const std::string title =
      fmt::format("{:13} {:4} {:7}", layer.name, layer.rows, names[static_cast<int>(pass)]);
  std::printf("%s %c own %6.1f x8 %6.1f (%.0e) best %6.1f [%s] x8 %6.1f [%s] %s\n", title.c_str(),
              small_conv_suits(op, layer.rows) ? '+' : '-', variants[0].alone,
              variants[0].side_by_side, off, variants[best].alone, variants[best].name.c_str(),
              variants[best_side].side_by_side, variants[best_side].name.c_str(), text.c_str());
  std::fflush(stdout);
  if (details == nullptr) return;
  for (const Variant& variant : variants) {
    std::fprintf(details, "%s %-40s %7.2f x8 %7.2f\n", title.c_str(), variant.name.c_str(),
                 variant.alone, variant.side_by_side);
  }
  std::fflush(details);
}

void time_column_sums(Bench& bench, int64_t rows, int64_t channels) {
  const std::vector<float> values = random_values(rows * channels, 5);
  std::vector<double> expected(static_cast<size_t>(channels));
  for (size_t i = 0; i < values.size(); ++i) expected[i % expected.size()] += values[i];
  Buffer x(values), out(channels);
  const Work work = [&](cudaStream_t stream, float* scratch) {
    return launch_column_sums(x.data(), rows, channels, scratch, out.data(), stream);
  };
  const double alone = measure(bench, 1, work);
  std::printf("column sums %5d x %3d: %5.1f x8 %5.1f (%.0e)\n", static_cast<int>(rows),
              static_cast<int>(channels), alone, measure(bench, kSideBySide, work),
              difference(out.values(), expected));
}

Conv2dOp conv(int size, int in, int out, int kernel, int stride, bool same) {
  Conv2dOp op;
  op.in_height = op.in_width = size;
  op.in_channels = in;
  op.out_channels = out;
  op.kernel_height = op.kernel_width = kernel;
  op.stride_height = op.stride_width = stride;
  op.out_height = same ? (size + stride - 1) / stride : (size - kernel) / stride + 1;
  op.out_width = op.out_height;
  if (same) op.pad_top = std::max(0, (op.out_height - 1) * stride + kernel - size) / 2;
  op.pad_left = op.pad_top;
  return op;
}

struct Shape {
  const char* name;
  Conv2dOp op;
  bool first;  // no data gradient
  std::vector<int> rows;
};

void run(bool with_cudnn) {
  Bench bench = make_bench(with_cudnn);
  for (const int rows : {4, 8, 32, 128, 1024}) {
    for (const int channels : {10, 256}) time_column_sums(bench, rows, channels);
  }
  const std::vector<int> all = {128, 8, 4, 32, 1024};
  const std::vector<int> few = {128, 8};  // where the boundary lies
  const std::vector<Shape> shapes = {
      {"seed conv 1", conv(28, 1, 4, 3, 1, false), true, all},
      {"seed conv 2", conv(26, 4, 8, 3, 1, false), false, all},
      {"seed conv 3", conv(24, 8, 12, 3, 1, false), false, all},
      {"lenet conv 1", conv(28, 1, 6, 5, 1, true), true, all},
      {"lenet conv 2", conv(14, 6, 16, 5, 1, false), false, all},
      {"resnet stem", conv(32, 3, 16, 3, 1, true), true, few},
      {"resnet 16", conv(32, 16, 16, 3, 1, true), false, few},
      {"resnet 16 /2", conv(32, 16, 32, 3, 2, true), false, few},
      {"resnet 32", conv(16, 32, 32, 3, 1, true), false, few},
  };
  for (const Shape& shape : shapes) {
    for (const int rows : shape.rows) {
      const Layer layer = make_layer(shape.name, shape.op, rows);
      const OnDevice on(layer);
      for (const Pass pass : {Pass::forward, Pass::data_gradient, Pass::weight_gradient}) {
        if (pass != Pass::data_gradient || !shape.first) time_pass(bench, layer, on, pass);
      }
    }
  }
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  bool with_cudnn = true;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--no-cudnn") == 0) {
      with_cudnn = false;
    } else {
      lockstep::details = std::fopen(argv[i], "w");
    }
  }
  lockstep::run(with_cudnn);
  std::printf("%s\n", lockstep::failed ? "FAILED" : "all within 1e-5, bits the same");
  return lockstep::failed ? 1 : 0;
}
