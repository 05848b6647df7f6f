// TensorBoard's event files: records of TFRecord's framing, each an Event of TensorFlow's protocol
// buffers (tensorflow/core/util/event.proto), of which a file version, scalars, histograms and a
// Keras model are written.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

// Length, masked crc32c of it, the bytes, masked crc32c of them.
std::string tf_record(std::string_view bytes);

// The first record of a file. `wall_time` in seconds since 1970.
std::string event_file_begin(double wall_time);
// A record with the scalars of a step, by tag.
std::string scalar_event(double wall_time, int64_t step,
                         const std::map<std::string, double>& scalars);
// A record with the histogram of some values in 30 buckets of one width, without what is not
// finite; for each tag.
struct TaggedValues {
  std::string tag;
  std::span<const float> values;
};
std::string histogram_event(double wall_time, int64_t step,
                            const std::vector<TaggedValues>& histograms);
// A record with a model as Keras' to_json() says it, which TensorBoard draws.
std::string model_event(double wall_time, const std::string& json);

}  // namespace lockstep
