// Runs cuDNN's operation graphs of convolutions on the CPU.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace lockstep::emulated {

// Dimensions in cuDNN's order (N, C, H, W), strides in elements.
struct ConvTensor {
  std::array<int64_t, 4> dims{};
  std::array<int64_t, 4> strides{};
  bool is_virtual = false;
  bool is_bf16 = false;  // else float32
  int64_t alignment = 1;

  int64_t count() const { return dims[0] * dims[1] * dims[2] * dims[3]; }
  int64_t span() const;  // elements from the first to the last, inclusive
  size_t bytes() const { return static_cast<size_t>(span()) * (is_bf16 ? 2 : 4); }
  int64_t at(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return n * strides[0] + c * strides[1] + h * strides[2] + w * strides[3];
  }
};

struct ConvNode {
  enum class Kind { forward, data_gradient, weight_gradient, add, relu };
  Kind kind = Kind::forward;
  std::array<int64_t, 2> pad{}, stride{}, dilation{};  // pad: before, height and width
  int64_t x = 0, w = 0, y = 0;  // tensors: x or dx, w or dw, y or dy; add: x + w -> y
  int64_t result() const;       // one of them
};

struct ConvGraph {
  std::map<int64_t, ConvTensor> tensors;  // by unique id
  std::vector<ConvNode> nodes;

  // From the JSON of a plan. Ends the process where it holds what is not emulated.
  static ConvGraph parse(const std::string& json);
  // Pads behind what belongs before: a planted bug.
  void swap_paddings();
  // `memory` has each tensor that is not virtual. Products and sums are float32, whatever the
  // tensors are.
  void run(const std::map<int64_t, void*>& memory) const;

 private:
  void run_nodes(const std::map<int64_t, float*>& memory) const;
};

}  // namespace lockstep::emulated
