#include "host/keras/onnx_values.h"

#include <algorithm>
#include <utility>

#include "host/core/check.h"

namespace lockstep {

std::optional<Shape> image_of(const Shape& row) {
  if (row.size() == 3) return row;
  if (row.size() == 2) return Shape{1, row[0], row[1]};
  return std::nullopt;
}

void OnnxValues::set_rows(int value, const Shape& row, const std::string& tensor) {
  views_[value].push_back({row, false, tensor});
}

void OnnxValues::set_image(int value, const Shape& image, const std::string& tensor) {
  views_[value].push_back({image, true, tensor});
}

const std::vector<float>* OnnxValues::constant(int value) const {
  const auto found = constants_.find(value);
  return found == constants_.end() ? nullptr : &found->second;
}

OnnxValues::View OnnxValues::native(int value) {
  std::vector<View>& views = views_[value];
  if (const std::vector<float>* numbers = constant(value); numbers != nullptr && views.empty()) {
    rows(value, {std::ssize(*numbers)});
  }
  LOCKSTEP_CHECK(!views.empty());
  return views.front();
}

std::string OnnxValues::repeated(const std::string& tensor, const Shape& row,
                                 const std::string& name) {
  const std::string input = native(graph_.inputs[0]).tensor;
  const std::string batch = onnx_.add_node("Shape", {input}, name + "/Shape",
                                           {{"start", int64_t{0}}, {"end", int64_t{1}}});
  const std::string shape = onnx_.add_node("Concat", {batch, onnx_.add_numbers(row)},
                                           name + "/Concat", {{"axis", int64_t{0}}});
  return onnx_.add_node("Expand", {tensor, shape}, name + "/Expand");
}

std::string OnnxValues::rows(int value, const Shape& row) {
  std::vector<View>& views = views_[value];
  if (const std::vector<float>* numbers = constant(value); numbers != nullptr && views.empty()) {
    const std::string name = graph_.values[static_cast<size_t>(value)].name;
    const std::string tensor = onnx_.add_floats(name + "/constant", row, *numbers);
    views.push_back({row, false, repeated(tensor, row, name)});
  }
  LOCKSTEP_CHECK(!views.empty());
  const auto is_rows = [&](const View& view) { return !view.is_image; };
  for (const View& view : views) {
    if (!view.is_image && view.row == row) return view.tensor;
  }
  if (std::none_of(views.begin(), views.end(), is_rows)) {
    const View image = views.front();
    views.push_back({image.row, false,
                     onnx_.add_node("Transpose", {image.tensor}, image.tensor + "/Transpose",
                                    {{"perm", std::vector<int64_t>{0, 2, 3, 1}}})});
    if (image.row == row) return views.back().tensor;
  }
  const View source = *std::find_if(views.begin(), views.end(), is_rows);
  std::vector<int64_t> sizes = row;
  sizes.insert(sizes.begin(), 0);  // the batch stays
  const std::string tensor = onnx_.add_node("Reshape", {source.tensor, onnx_.add_numbers(sizes)},
                                            source.tensor + "/Reshape");
  views.push_back({row, false, tensor});
  return tensor;
}

std::string OnnxValues::image(int value, const Shape& image) {
  for (const View& view : views_[value]) {
    if (view.is_image && view.row == image) return view.tensor;
  }
  const bool is_one_row = image[2] == 1 || image[0] * image[1] == 1;
  if (is_one_row) return rows(value, {image[2], image[0], image[1]});
  const std::string source = rows(value, image);
  const std::string tensor = onnx_.add_node("Transpose", {source}, source + "/Transpose",
                                            {{"perm", std::vector<int64_t>{0, 3, 1, 2}}});
  views_[value].push_back({image, true, tensor});
  return tensor;
}

const std::string& OnnxValues::parameter_name(int64_t offset) {
  if (parameter_names_.empty()) {
    for (const Parameter& parameter : graph_.parameters) {
      parameter_names_[parameter.offset] = parameter.path();
    }
  }
  return parameter_names_.at(offset);
}

std::string OnnxValues::parameter(int64_t offset, const Shape& shape) {
  const auto [known, is_new] = initializers_.try_emplace({offset, shape});
  if (is_new) {
    known->second = onnx_.add_floats(parameter_name(offset), shape,
                                     parameter_values(offset, element_count(shape)));
  }
  return known->second;
}

std::string OnnxValues::kernel(const Conv2dOp& conv) {
  const auto [known, is_new] = kernels_.try_emplace(conv.kernel_offset);
  if (!is_new) return known->second;
  const auto from = parameter_values(conv.kernel_offset, conv.kernel_size());
  const int64_t places = int64_t{conv.kernel_height} * conv.kernel_width;
  const int64_t inputs = conv.group_inputs(), outputs = conv.out_channels;
  std::vector<float> values;
  values.reserve(from.size());
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t i = 0; i < inputs; ++i) {
      for (int64_t place = 0; place < places; ++place) {
        values.push_back(from[static_cast<size_t>((place * inputs + i) * outputs + o)]);
      }
    }
  }
  known->second =
      onnx_.add_floats(parameter_name(conv.kernel_offset),
                       {outputs, inputs, conv.kernel_height, conv.kernel_width}, values);
  return known->second;
}

}  // namespace lockstep
