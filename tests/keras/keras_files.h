// The checked-in files (tests/keras/make_files.py) and what Keras computed with them.
#pragma once

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/cpu/cpu_device.h"
#include "host/data/dataset.h"
#include "host/keras/weights.h"
#include "host/nn/model_config.h"
#include "host/train/predict.h"
#include "tests/support/source_folder.h"

namespace lockstep {

inline std::string keras_path(const std::string& name) {
  return source_folder() + "/tests/keras/files/" + name;
}

inline nlohmann::json keras_expected(const std::string& model) {
  std::ifstream file(keras_path("expected.json"));
  return nlohmann::json::parse(file).at(model);
}

// The inputs that Keras was fed.
inline Dataset keras_inputs(const nlohmann::json& expected, const std::vector<Shape>& shapes) {
  Dataset dataset;
  dataset.name = "expected.json";
  for (size_t i = 0; i < shapes.size(); ++i) {
    std::vector<uint8_t> bytes;
    for (const auto& row : expected.at("inputs").at(i)) {
      for (const float value : row.get<std::vector<float>>()) {
        const auto* begin = reinterpret_cast<const uint8_t*>(&value);
        bytes.insert(bytes.end(), begin, begin + sizeof(value));
      }
    }
    Field field;
    field.name = "x" + std::to_string(i);
    field.row_shape = shapes[i];
    field.values = SharedBytes(std::move(bytes));
    dataset.inputs.push_back(std::move(field));
  }
  return assemble_dataset(std::move(dataset)).value();
}

inline std::vector<float> predicted(const Graph& graph, const std::vector<float>& weights,
                                    const Dataset& dataset, int64_t batch_size = 3,
                                    int devices = 2) {
  return predict(graph, weights, dataset, batch_size, devices,
                 [](int) { return make_cpu_device("cpu-avx2"); })
      .value()
      .values.at(0);
}

inline double largest_difference(const std::vector<float>& values, const nlohmann::json& rows) {
  std::vector<double> expected;
  for (const auto& row : rows) expected.insert(expected.end(), row.begin(), row.end());
  if (expected.size() != values.size()) return INFINITY;
  double worst = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    worst = std::max(worst, std::abs(double{values[i]} - expected[i]));
  }
  return worst;
}

}  // namespace lockstep
