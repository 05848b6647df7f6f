// What a model puts out for the rows of a data set, on this machine's devices.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/data/dataset.h"
#include "host/graph/graph.h"
#include "host/runtime/device_team.h"

namespace lockstep {

struct Predictions {
  int64_t rows = 0;
  std::vector<Shape> shapes;               // of a row of each output
  std::vector<std::vector<float>> values;  // of each output: rows one after another
};

// `graph` is a predict_graph, `weights` its flat parameters. A row's numbers depend neither on
// `batch_size` nor on `devices`, but where a device's libraries choose kernels by the number of
// rows.
Result<Predictions> predict(const Graph& graph, const std::vector<float>& weights,
                            const Dataset& dataset, int64_t batch_size, int devices,
                            const DeviceFactory& factory);

// The output number `output` as NPY (float32) or CSV (a line a row).
std::string to_npy(const Predictions& predictions, size_t output);
std::string to_csv(const Predictions& predictions, size_t output);

}  // namespace lockstep
