// TensorBoard's event files: records of TFRecord's framing, each an Event of TensorFlow's protocol
// buffers (tensorflow/core/util/event.proto), of which a file version and scalars are written.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace lockstep {

// Length, masked crc32c of it, the bytes, masked crc32c of them.
std::string tf_record(std::string_view bytes);

// The first record of a file. `wall_time` in seconds since 1970.
std::string event_file_begin(double wall_time);
// A record with the scalars of a step, by tag.
std::string scalar_event(double wall_time, int64_t step,
                         const std::map<std::string, double>& scalars);

}  // namespace lockstep
