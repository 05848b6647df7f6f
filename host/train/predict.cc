#include "host/train/predict.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "host/core/partitions.h"
#include "host/data/batch_loader.h"
#include "host/graph/program.h"

namespace lockstep {
namespace {

// One device with the weights and the graph's Programs. Used on the device's thread.
struct Worker {
  std::unique_ptr<Buffer> weights;
  std::unique_ptr<ProgramSet> programs;
};

Result<std::unique_ptr<Buffer>> upload(Device& device, const std::vector<float>& weights) {
  const auto count = static_cast<int64_t>(weights.size());
  LOCKSTEP_ASSIGN(auto buffer, device.allocate(std::max<int64_t>(count, 1) * 4));
  if (device.shares_host_memory()) {
    std::copy(weights.begin(), weights.end(), buffer->data());
  } else {
    LOCKSTEP_RETURN_IF_ERROR(device.copy_to_device(weights.data(), count, buffer->data()));
  }
  return buffer;
}

// Runs one device's rows and writes them where they belong, from row `first` on.
Status predict_rows(Worker& worker, const HostBatch& batch, int64_t first,
                    Predictions* predictions) {
  if (batch.rows == 0) return {};
  LOCKSTEP_ASSIGN(Program * program, worker.programs->program_for({0, {batch.rows}, {{0, 0}}}));
  float no_metrics = 0;
  float* roots[] = {&no_metrics};
  RunContext context;
  context.weights = worker.weights->data();
  context.roots = roots;
  context.batch = &batch;
  LOCKSTEP_RETURN_IF_ERROR(program->run(context, {}));
  for (size_t i = 0; i < predictions->values.size(); ++i) {
    float* to = predictions->values[i].data() + first * element_count(predictions->shapes[i]);
    LOCKSTEP_RETURN_IF_ERROR(program->download_output(to, static_cast<int>(i)));
  }
  return {};
}

}  // namespace

Result<Predictions> predict(const Graph& graph, const std::vector<float>& weights,
                            const Dataset& dataset, int64_t batch_size, int devices,
                            const DeviceFactory& factory) {
  LOCKSTEP_ASSIGN(const auto team, DeviceTeam::create(devices, factory));
  std::vector<Worker> workers(static_cast<size_t>(devices));
  for (int i = 0; i < devices; ++i) {
    LOCKSTEP_ASSIGN(workers[i].weights, upload(team->device(i), weights));
    workers[i].programs = std::make_unique<ProgramSet>(team->device(i), graph);
  }
  Predictions result{dataset.rows(), graph.output_shapes, {}};
  for (const Shape& shape : result.shapes) {
    result.values.emplace_back(static_cast<size_t>(result.rows * element_count(shape)));
  }
  BatchLoader loader(dataset, {.rows = {0, result.rows},
                               .batch_size = batch_size,
                               .partitions = devices,
                               .shuffle = false});
  std::vector<PartitionRange> ranges;
  for (int i = 0; i < devices; ++i) ranges.push_back({i, i + 1});
  for (int64_t batch = 0; batch < loader.batches_per_epoch(); ++batch) {
    const auto rows = loader.take({0, batch, ranges});
    if (batch + 1 < loader.batches_per_epoch()) loader.prefetch({0, batch + 1, ranges});
    std::vector<int64_t> first(static_cast<size_t>(devices), batch * batch_size);
    for (int i = 1; i < devices; ++i) first[i] = first[i - 1] + rows[i - 1].rows;
    std::vector<Status> statuses(static_cast<size_t>(devices));
    team->run([&](int i) { statuses[i] = predict_rows(workers[i], rows[i], first[i], &result); });
    LOCKSTEP_RETURN_IF_ERROR(first_error(statuses));
  }
  return result;
}

std::string to_npy(const Predictions& predictions, size_t output) {
  std::vector<std::string> sizes = {std::to_string(predictions.rows)};
  for (const int64_t size : predictions.shapes[output]) sizes.push_back(std::to_string(size));
  std::string header = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}{}), }}",
                                   fmt::join(sizes, ", "), sizes.size() == 1 ? "," : "");
  constexpr size_t kPreamble = 10;  // magic, version, the header's size
  constexpr size_t kAlignment = 64;
  while ((kPreamble + header.size() + 1) % kAlignment != 0) header += ' ';
  header += '\n';
  const std::vector<float>& values = predictions.values[output];
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(header.size() & 0xff);
  bytes += static_cast<char>(header.size() >> 8);
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  return bytes;
}

std::string to_csv(const Predictions& predictions, size_t output) {
  const auto features = static_cast<size_t>(element_count(predictions.shapes[output]));
  const std::vector<float>& values = predictions.values[output];
  std::string text;
  for (size_t i = 0; i < features; ++i) text += fmt::format("{}y{}", i == 0 ? "" : ",", i);
  text += '\n';
  for (size_t i = 0; i < values.size(); ++i) {
    text += fmt::format("{}{}", values[i], (i + 1) % features == 0 ? '\n' : ',');
  }
  return text;
}

}  // namespace lockstep
