#include <algorithm>
#include <sstream>

#include "tests/cpu/cpu_test_support.h"

namespace lockstep::cpu_test {
namespace {

constexpr int64_t kKernelOffset = 3;  // parameters need not be aligned

int64_t conv_in(const Conv2dOp& op) { return int64_t{op.in_height} * op.in_width * op.in_channels; }
int64_t conv_out(const Conv2dOp& op) {
  return int64_t{op.out_height} * op.out_width * op.out_channels;
}

MaxPool2dOp pool(int size, int channels, int window, int stride, int pad, Pass pass) {
  MaxPool2dOp op;
  op.pass = pass;
  op.in_height = size;
  op.in_width = size + 1;
  op.channels = channels;
  op.pool_height = op.pool_width = window;
  op.stride_height = op.stride_width = stride;
  op.pad_top = op.pad_left = pad;
  op.out_height = (op.in_height + pad - window) / stride + 1;
  op.out_width = (op.in_width + pad - window) / stride + 1;
  return op;
}

void add_pool(int size, int channels, int window, int stride, int pad, std::vector<OpCase>* cases) {
  const MaxPool2dOp forward = pool(size, channels, window, stride, pad, Pass::forward);
  const MaxPool2dOp backward = pool(size, channels, window, stride, pad, Pass::data_gradient);
  const int64_t in = int64_t{forward.in_height} * forward.in_width * channels;
  const int64_t out = int64_t{forward.out_height} * forward.out_width * channels;
  cases->push_back({"pool", forward, {in}, out});
  // x and y are random here: ties and entries that equal nothing are possible.
  cases->push_back({"pool gradient", backward, {in, out, out}, in, stride == 2});
}

}  // namespace

Conv2dOp conv(int size, int in, int out, int kernel, int stride, bool same, Pass pass) {
  Conv2dOp op;
  op.pass = pass;
  op.in_height = size;
  op.in_width = size + 2;
  op.in_channels = in;
  op.out_channels = out;
  op.kernel_height = op.kernel_width = kernel;
  op.stride_height = op.stride_width = stride;
  if (same) {
    op.out_height = (op.in_height + stride - 1) / stride;
    op.out_width = (op.in_width + stride - 1) / stride;
    op.pad_top = std::max(0, (op.out_height - 1) * stride + kernel - op.in_height) / 2;
    op.pad_left = std::max(0, (op.out_width - 1) * stride + kernel - op.in_width) / 2;
  } else {
    op.out_height = (op.in_height - kernel) / stride + 1;
    op.out_width = (op.in_width - kernel) / stride + 1;
  }
  op.kernel_offset = kKernelOffset;
  op.bias_offset = op.kernel_offset + int64_t{kernel} * kernel * in * out;
  return op;
}

OpCase conv_case(const Conv2dOp& op, bool relu_mask) {
  OpCase c{.attributes = op};
  c.parameters = op.kernel_offset + op.kernel_size() + op.out_channels;
  std::ostringstream name;
  name << "conv " << op.in_height << "x" << op.in_width << "x" << op.in_channels << " to "
       << op.out_channels << " kernel " << op.kernel_height << " stride " << op.stride_height
       << " pad " << op.pad_top << " dilation " << op.dilation_height << " groups " << op.groups
       << " pass " << static_cast<int>(op.pass);
  c.name = name.str();
  if (op.pass == Pass::forward) c.inputs = {conv_in(op)}, c.output = conv_out(op);
  if (op.pass == Pass::data_gradient) c.inputs = {conv_out(op)}, c.output = conv_in(op);
  if (op.pass == Pass::weight_gradient) c.inputs = {conv_in(op), conv_out(op)};
  c.relu_mask = relu_mask;
  return c;
}

OpCase dense_case(const DenseOp& op, bool relu_mask) {
  OpCase c{.attributes = op};
  std::ostringstream name;
  name << "dense " << op.in_features << " to " << op.out_features << " pass "
       << static_cast<int>(op.pass);
  c.name = name.str();
  c.parameters = op.kernel_offset + op.in_features * op.out_features + op.out_features;
  if (op.pass == Pass::forward) c.inputs = {op.in_features}, c.output = op.out_features;
  if (op.pass == Pass::data_gradient) c.inputs = {op.out_features}, c.output = op.in_features;
  if (op.pass == Pass::weight_gradient) c.inputs = {op.in_features, op.out_features};
  c.relu_mask = relu_mask;
  return c;
}

namespace {

// Groups and dilation; depthwise where groups are the channels.
void add_tap_convs(Pass pass, std::vector<OpCase>* cases) {
  struct Form {
    int in, out, groups, dilation, stride;
    bool same;
  };
  const Form forms[] = {{3, 5, 1, 2, 1, true},   {4, 6, 2, 1, 1, false}, {6, 6, 6, 1, 1, true},
                        {5, 10, 5, 1, 2, true},  {6, 15, 3, 2, 2, true}, {8, 20, 2, 3, 1, false},
                        {10, 2, 2, 2, 1, false}, {1, 9, 1, 2, 3, true}};
  int i = 0;
  for (const Form& form : forms) {
    Conv2dOp op = conv(9, form.in, form.out, 3, form.stride, form.same, pass);
    const int window = 2 * form.dilation + 1;
    if (form.same) {
      op.pad_top = std::max(0, (op.out_height - 1) * form.stride + window - op.in_height) / 2;
      op.pad_left = std::max(0, (op.out_width - 1) * form.stride + window - op.in_width) / 2;
    } else {
      op.out_height = (op.in_height - window) / form.stride + 1;
      op.out_width = (op.in_width - window) / form.stride + 1;
    }
    op.dilation_height = op.dilation_width = form.dilation;
    op.groups = form.groups;
    op.bias_offset = i % 4 == 3 ? -1 : op.kernel_offset + op.kernel_size();
    if (i % 2 == 0) op.activation = Activation::relu;
    cases->push_back(conv_case(op, pass == Pass::data_gradient && i % 2 == 0));
    ++i;
  }
}

void add_convs(Pass pass, std::vector<OpCase>* cases) {
  add_tap_convs(pass, cases);
  for (const int kernel : {1, 2, 3, 5, 7}) {
    for (const int stride : {1, 2, 3}) {
      for (const bool same : {false, true}) {
        // Channels walk through 1..17, so that every width of panel meets every kernel.
        const int i = kernel * 6 + stride * 2 + (same ? 1 : 0);
        const int in = 1 + i * 5 % 17, out = 1 + i * 7 % 17;
        Conv2dOp op = conv(kernel + 3 + i % 3, in, out, kernel, stride, same, pass);
        if (i % 3 == 0) op.activation = Activation::relu;
        if (i % 4 == 0 && pass == Pass::forward) op.bias_offset = -1;
        cases->push_back(conv_case(op, pass == Pass::data_gradient && i % 2 == 0));
      }
    }
  }
  for (int channels = 1; channels <= 17; ++channels) {
    cases->push_back(conv_case(conv(5, channels, 18 - channels, 3, 1, channels % 2 == 0, pass)));
  }
  // A kernel larger than the image; strides and sizes that differ by axis.
  cases->push_back(conv_case(conv(3, 2, 3, 7, 1, true, pass)));
  Conv2dOp uneven = conv(9, 3, 5, 3, 1, false, pass);
  uneven.kernel_width = 2;
  uneven.stride_width = 2;
  uneven.pad_top = 1;
  uneven.out_height = uneven.in_height;
  uneven.out_width = (uneven.in_width - 2) / 2 + 1;
  uneven.bias_offset = -1;
  cases->push_back(conv_case(uneven));
}

void add_denses(Pass pass, std::vector<OpCase>* cases) {
  const std::pair<int, int> shapes[] = {{1, 1},    {7, 10},   {300, 17}, {257, 31},
                                        {512, 64}, {20, 300}, {33, 256}, {600, 12},
                                        {5, 1000}, {784, 10}, {530, 261}};
  int i = 0;
  for (const auto& [in, out] : shapes) {
    DenseOp op;
    op.pass = pass;
    op.in_features = in;
    op.out_features = out;
    op.kernel_offset = kKernelOffset;
    op.bias_offset = i % 3 == 2 ? -1 : op.kernel_offset + int64_t{in} * out;
    op.activation = i % 2 == 0 ? Activation::linear : Activation::relu;
    cases->push_back(dense_case(op, pass == Pass::data_gradient && i % 2 == 0));
    ++i;
  }
}

}  // namespace

std::vector<OpCase> forward_cases() {
  std::vector<OpCase> cases;
  for (const Pass pass : {Pass::forward, Pass::data_gradient}) {
    add_convs(pass, &cases);
    add_denses(pass, &cases);
    cases.push_back(
        {"dropout", DropoutOp{pass, 13, 0.4f, 5, 1}, {13}, 13, pass == Pass::data_gradient});
  }
  add_pool(6, 3, 2, 2, 0, &cases);
  add_pool(7, 5, 3, 2, 1, &cases);
  add_pool(7, 1, 3, 1, 1, &cases);
  add_pool(5, 2, 2, 3, 0, &cases);
  cases.push_back({"relu", ReluOp{Pass::forward, 9}, {9}, 9});
  cases.push_back({"relu gradient", ReluOp{Pass::data_gradient, 9}, {9, 9}, 9});
  cases.push_back({"relu gradient", ReluOp{Pass::data_gradient, 9}, {9, 9}, 9, true});
  cases.push_back({"softmax", SoftmaxOp{10}, {10}, 10});
  cases.push_back({"softmax", SoftmaxOp{1}, {1}, 1});
  cases.push_back({"loss", SoftmaxCrossEntropyOp{10, 0}, {10}, 10, false, kMetricCount});
  return cases;
}

std::vector<OpCase> weight_gradient_cases() {
  std::vector<OpCase> cases;
  add_convs(Pass::weight_gradient, &cases);
  // More sums than one block holds.
  cases.push_back(conv_case(conv(5, 17, 37, 3, 1, true, Pass::weight_gradient)));
  cases.push_back(conv_case(conv(5, 17, 37, 3, 1, false, Pass::weight_gradient)));
  cases.push_back(conv_case(conv(4, 70, 40, 1, 1, false, Pass::weight_gradient)));
  add_denses(Pass::weight_gradient, &cases);
  return cases;
}

}  // namespace lockstep::cpu_test
