// The checked-in files (tests/keras/make_files.py) and what Keras computed with them.
#pragma once

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/cpu/cpu_device.h"
#include "host/data/dataset.h"
#include "host/keras/weights.h"
#include "host/nn/model_config.h"
#include "host/runtime/batch_worker.h"
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
  BatchTask task;
  task.batch_size = batch_size;
  const auto worker = make_predicting_worker(task, graph, dataset, weights, devices, [](int) {
                        return make_cpu_device("cpu-avx2");
                      }).value();
  std::string values;  // of the first output
  const Status computed = worker->compute({0, batches_of(task, dataset.rows())},
                                          [&](int array, std::string_view bytes) {
                                            if (array == 0) values += bytes;
                                            return Status{};
                                          });
  LOCKSTEP_CHECK(computed.ok());
  std::vector<float> numbers(values.size() / sizeof(float));
  std::memcpy(numbers.data(), values.data(), values.size());
  return numbers;
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
