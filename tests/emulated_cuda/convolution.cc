#include "tests/emulated_cuda/convolution.h"

#include <nlohmann/json.hpp>

#include "cuda/bf16.h"
#include "tests/emulated_cuda/state.h"

namespace lockstep::emulated {
namespace {

using nlohmann::json;

int64_t uid(const json& name) { return std::stoll(name.get<std::string>()); }

void expect(bool holds, const std::string& what) {
  if (!holds) violation("a cuDNN plan that is not emulated: " + what);
}

ConvTensor parse_tensor(const json& source) {
  const std::string type = source.at("dataType");
  expect(type == "CUDNN_DATA_FLOAT" || type == "CUDNN_DATA_BFLOAT16", type);
  ConvTensor tensor;
  tensor.is_bf16 = type == "CUDNN_DATA_BFLOAT16";
  tensor.dims = source.at("dim").get<std::array<int64_t, 4>>();
  tensor.strides = source.at("stride").get<std::array<int64_t, 4>>();
  tensor.is_virtual = source.at("isVirtual");
  tensor.alignment = source.at("ptrAlignment");
  return tensor;
}

ConvNode parse_convolution(const json& source, ConvNode::Kind kind) {
  expect(source.at("mode") == "CUDNN_CROSS_CORRELATION", "its mode");
  expect(source.at("mathPrec") == "CUDNN_DATA_FLOAT", "sums that are not float32");
  expect(source.at("alpha") == 1.0 && source.at("beta") == 0.0, "alpha and beta");
  ConvNode node;
  node.kind = kind;
  const char* lower = source.contains("pad_lower") ? "pad_lower" : "pad";
  node.pad = source.at(lower).get<std::array<int64_t, 2>>();
  node.stride = source.at("stride").get<std::array<int64_t, 2>>();
  node.dilation = source.at("dilation").get<std::array<int64_t, 2>>();
  node.x = uid(source.at(kind == ConvNode::Kind::data_gradient ? "dX" : "X"));
  node.w = uid(source.at(kind == ConvNode::Kind::weight_gradient ? "dW" : "W"));
  node.y = uid(source.at(kind == ConvNode::Kind::forward ? "Y" : "dY"));
  return node;
}

ConvNode parse_node(const json& source) {
  const std::string operation = source.at("operation");
  if (operation == "CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR") {
    return parse_convolution(source, ConvNode::Kind::forward);
  }
  if (operation == "CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR") {
    return parse_convolution(source, ConvNode::Kind::data_gradient);
  }
  if (operation == "CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR") {
    return parse_convolution(source, ConvNode::Kind::weight_gradient);
  }
  expect(operation == "CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR", operation);
  expect(source.at("alpha1") == 1.0 && source.at("alpha2") == 1.0, "alpha1 and alpha2");
  ConvNode node;
  node.x = uid(source.at("X"));
  node.y = uid(source.at("Y"));
  const std::string mode = source.at("pointwiseMode");
  node.kind = mode == "CUDNN_POINTWISE_ADD" ? ConvNode::Kind::add : ConvNode::Kind::relu;
  if (node.kind == ConvNode::Kind::add) {
    node.w = uid(source.at("B"));
  } else {
    expect(mode == "CUDNN_POINTWISE_RELU_FWD", mode);
    expect(source.at("lowerClip") == 0.0 && source.at("lowerClipSlope") == 0.0, "clips");
  }
  return node;
}

// Sums in turn, as many as follow from the images: as in a real kernel, the order of a sum may
// depend on how many there are.
class Sum {
 public:
  explicit Sum(int64_t images) : chains_(static_cast<size_t>(1 + images % 3)) {}
  void add(float product) {
    sums_[next_] += product;
    next_ = next_ + 1 == chains_ ? 0 : next_ + 1;
  }
  float total() const {
    float sum = sums_[0];
    for (size_t i = 1; i < chains_; ++i) sum += sums_[i];
    return sum;
  }

 private:
  std::array<float, 3> sums_{};
  size_t chains_;
  size_t next_ = 0;
};

// Calls at(image offset, output offset, kernel row, column) for the pairs of an input pixel and an
// output pixel that meet at a kernel's entry; this is one kernel entry's.
struct Convolution {
  const ConvNode& node;
  const ConvTensor& x;
  const ConvTensor& w;
  const ConvTensor& y;

  int64_t row(int64_t out, int64_t r) const {
    return out * node.stride[0] - node.pad[0] + r * node.dilation[0];
  }
  int64_t column(int64_t out, int64_t s) const {
    return out * node.stride[1] - node.pad[1] + s * node.dilation[1];
  }
  // Of the image: channel c of the group that output channel k is in.
  int64_t channel(int64_t k, int64_t c) const {
    const int64_t groups = x.dims[1] / w.dims[1];
    return k / (y.dims[1] / groups) * w.dims[1] + c;
  }
  bool inside(int64_t h, int64_t width) const {
    return h >= 0 && h < x.dims[2] && width >= 0 && width < x.dims[3];
  }
  template <class Visit>
  void each_output(Visit visit) const {
    for (int64_t n = 0; n < y.dims[0]; ++n) {
      for (int64_t p = 0; p < y.dims[2]; ++p) {
        for (int64_t q = 0; q < y.dims[3]; ++q) visit(n, p, q);
      }
    }
  }
  template <class Visit>
  void each_entry(Visit visit) const {
    for (int64_t r = 0; r < w.dims[2]; ++r) {
      for (int64_t s = 0; s < w.dims[3]; ++s) visit(r, s);
    }
  }

  void forward(const float* from, const float* kernel, float* to) const {
    each_output([&](int64_t n, int64_t p, int64_t q) {
      for (int64_t k = 0; k < y.dims[1]; ++k) {
        Sum sum(x.dims[0]);
        each_entry([&](int64_t r, int64_t s) {
          const int64_t h = row(p, r), v = column(q, s);
          if (!inside(h, v)) return;
          for (int64_t c = 0; c < w.dims[1]; ++c) {
            sum.add(from[x.at(n, channel(k, c), h, v)] * kernel[w.at(k, c, r, s)]);
          }
        });
        to[y.at(n, k, p, q)] = sum.total();
      }
    });
  }

  void data_gradient(float* to, const float* kernel, const float* dy) const {
    std::vector<Sum> sums(static_cast<size_t>(x.span()), Sum(x.dims[0]));
    each_output([&](int64_t n, int64_t p, int64_t q) {
      each_entry([&](int64_t r, int64_t s) {
        const int64_t h = row(p, r), v = column(q, s);
        if (!inside(h, v)) return;
        for (int64_t c = 0; c < w.dims[1]; ++c) {
          for (int64_t k = 0; k < y.dims[1]; ++k) {
            sums[static_cast<size_t>(x.at(n, channel(k, c), h, v))].add(dy[y.at(n, k, p, q)] *
                                                                        kernel[w.at(k, c, r, s)]);
          }
        }
      });
    });
    for (size_t i = 0; i < sums.size(); ++i) to[i] = sums[i].total();
  }

  void weight_gradient(const float* from, float* to, const float* dy) const {
    std::vector<Sum> sums(static_cast<size_t>(w.span()), Sum(x.dims[0]));
    each_output([&](int64_t n, int64_t p, int64_t q) {
      each_entry([&](int64_t r, int64_t s) {
        const int64_t h = row(p, r), v = column(q, s);
        if (!inside(h, v)) return;
        for (int64_t k = 0; k < y.dims[1]; ++k) {
          for (int64_t c = 0; c < w.dims[1]; ++c) {
            sums[static_cast<size_t>(w.at(k, c, r, s))].add(dy[y.at(n, k, p, q)] *
                                                            from[x.at(n, channel(k, c), h, v)]);
          }
        }
      });
    });
    for (size_t i = 0; i < sums.size(); ++i) to[i] = sums[i].total();
  }
};

// y = x, or x and the bias of its channel.
void pointwise(const ConvNode& node, const ConvTensor& shape, const float* x, const float* bias,
               float* y) {
  for (int64_t n = 0; n < shape.dims[0]; ++n) {
    for (int64_t h = 0; h < shape.dims[2]; ++h) {
      for (int64_t w = 0; w < shape.dims[3]; ++w) {
        for (int64_t c = 0; c < shape.dims[1]; ++c) {
          const int64_t at = shape.at(n, c, h, w);
          if (node.kind == ConvNode::Kind::add) {
            y[at] = x[at] + bias[c];
          } else {
            y[at] = 0.0f > x[at] ? 0.0f : x[at];
          }
        }
      }
    }
  }
}

}  // namespace

int64_t ConvTensor::span() const {
  return 1 + at(dims[0] - 1, dims[1] - 1, dims[2] - 1, dims[3] - 1);
}

ConvGraph ConvGraph::parse(const std::string& text) {
  const json source = json::parse(text).at("operationGraph");
  ConvGraph graph;
  for (const json& tensor : source.at("tensors")) {
    graph.tensors[uid(tensor.at("name"))] = parse_tensor(tensor);
  }
  for (const json& node : source.at("nodes")) graph.nodes.push_back(parse_node(node));
  for (const ConvNode& node : graph.nodes) {
    if (node.kind != ConvNode::Kind::add) continue;
    const ConvTensor& bias = graph.tensors.at(node.w);
    expect(bias.count() == graph.tensors.at(node.x).dims[1] && bias.dims[1] == bias.count() &&
               bias.strides[1] == 1,
           "a bias that isn't one a channel");
  }
  return graph;
}

// Shape inference is done: only before and behind change places.
void ConvGraph::swap_paddings() {
  for (ConvNode& node : nodes) {
    if (node.kind == ConvNode::Kind::add || node.kind == ConvNode::Kind::relu) continue;
    const ConvTensor &x = tensors.at(node.x), &w = tensors.at(node.w), &y = tensors.at(node.y);
    for (size_t axis = 0; axis < 2; ++axis) {
      const int64_t all = (y.dims[2 + axis] - 1) * node.stride[axis] +
                          (w.dims[2 + axis] - 1) * node.dilation[axis] + 1 - x.dims[2 + axis];
      node.pad[axis] = std::max<int64_t>(0, all) - node.pad[axis];
    }
  }
}

int64_t ConvNode::result() const {
  if (kind == Kind::data_gradient) return x;
  return kind == Kind::weight_gradient ? w : y;
}

void ConvGraph::run(const std::map<int64_t, void*>& outside) const {
  std::map<int64_t, float*> memory;
  std::map<int64_t, std::vector<float>> own;
  for (const auto& [id, tensor] : tensors) {
    if (!tensor.is_virtual && !tensor.is_bf16) {
      memory[id] = static_cast<float*>(outside.at(id));
      continue;
    }
    std::vector<float>& values = own[id];
    values.resize(static_cast<size_t>(tensor.span()));
    memory[id] = values.data();
    if (tensor.is_virtual || id == nodes.back().result()) continue;
    const auto* from = static_cast<const Bf16*>(outside.at(id));
    for (size_t i = 0; i < values.size(); ++i) values[i] = to_float(from[i]);
  }
  run_nodes(memory);
  const int64_t last = nodes.back().result();
  if (!tensors.at(last).is_bf16) return;
  auto* to = static_cast<Bf16*>(outside.at(last));
  for (const float value : own.at(last)) *to++ = to_bf16(value);
}

void ConvGraph::run_nodes(const std::map<int64_t, float*>& memory) const {
  for (const ConvNode& node : nodes) {
    float* x = memory.at(node.x);
    float* y = memory.at(node.y);
    if (node.kind == ConvNode::Kind::add || node.kind == ConvNode::Kind::relu) {
      const bool adds = node.kind == ConvNode::Kind::add;
      pointwise(node, tensors.at(node.x), x, adds ? memory.at(node.w) : nullptr, y);
      continue;
    }
    const Convolution convolution{node, tensors.at(node.x), tensors.at(node.w), tensors.at(node.y)};
    float* w = memory.at(node.w);
    if (node.kind == ConvNode::Kind::forward) convolution.forward(x, w, y);
    if (node.kind == ConvNode::Kind::data_gradient) convolution.data_gradient(x, w, y);
    if (node.kind == ConvNode::Kind::weight_gradient) convolution.weight_gradient(x, w, y);
  }
}

}  // namespace lockstep::emulated
