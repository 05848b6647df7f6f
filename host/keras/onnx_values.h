// The values of a graph as tensors of an ONNX graph, in whatever shape and order of axes a reader
// asks for.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "host/graph/graph.h"
#include "host/keras/onnx_graph.h"
#include "host/keras/onnx_index.h"

namespace lockstep {

// Height, width and channels of a row that is an image, or a sequence: an image of height 1.
std::optional<Shape> image_of(const Shape& row);

class OnnxValues {
 public:
  // A tensor that holds a value: [batch, row…], or of an image [batch, channels, height, width].
  struct View {
    Shape row;
    bool is_image = false;
    std::string tensor;
  };

  // `graph` outlives this.
  OnnxValues(const Graph& graph, std::span<const float> weights)
      : graph_(graph), weights_(weights), next_value_(static_cast<int>(graph.values.size())) {}

  OnnxGraph& onnx() { return onnx_; }
  // A value that the graph does not have, for a step in between. Its shape is empty.
  int add_value() { return next_value_++; }
  Shape shape(int value) const {
    const auto index = static_cast<size_t>(value);
    return index < graph_.values.size() ? graph_.values[index].shape : Shape{};
  }
  void set_rows(int value, const Shape& row, const std::string& tensor);
  void set_image(int value, const Shape& image, const std::string& tensor);
  // What another value holds.
  void set_same(int value, int other) { views_[value] = views_.at(other); }
  // The same numbers in every row.
  void set_constant(int value, std::vector<float> numbers) {
    constants_[value] = std::move(numbers);
  }
  // nullptr where the numbers depend on the inputs.
  const std::vector<float>* constant(int value) const;

  // As it was computed.
  View native(int value);
  // Tensors [batch, row…] and [batch, channels, height, width] of a value.
  std::string rows(int value, const Shape& row);
  std::string image(int value, const Shape& image);

  // The parameter that begins at `offset`, with this shape, as an initializer.
  std::string parameter(int64_t offset, const Shape& shape);
  // A kernel, HWIO in memory, with its axes as Conv and ConvTranspose have them: (O, I, H, W).
  std::string kernel(const Conv2dOp& conv);
  std::span<const float> parameter_values(int64_t offset, int64_t count) const {
    return weights_.subspan(static_cast<size_t>(offset), static_cast<size_t>(count));
  }
  const std::string& parameter_name(int64_t offset);

  // A tensor [1, …], repeated for as many rows as the batch has and to this shape.
  std::string repeated(const std::string& tensor, const Shape& row, const std::string& name);

 private:
  const Graph& graph_;
  const std::span<const float> weights_;
  OnnxGraph onnx_;
  int next_value_;
  std::map<int, std::vector<View>> views_;
  std::map<int, std::vector<float>> constants_;
  std::map<int64_t, std::string> parameter_names_;                 // by offset
  std::map<std::pair<int64_t, Shape>, std::string> initializers_;  // by offset and shape
  std::map<int64_t, std::string> kernels_;
};

}  // namespace lockstep
