#include "host/observe/event_file.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "host/core/digest.h"
#include "host/core/protobuf_writer.h"

namespace lockstep {
namespace {

// Field numbers of Event, Summary, Summary.Value, HistogramProto, SummaryMetadata and TensorProto.
constexpr int kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5;
constexpr int kValue = 1;
constexpr int kTag = 1, kSimpleValue = 2, kHistogram = 5, kTensor = 8, kMetadata = 9;
constexpr int kMin = 1, kMax = 2, kCount = 3, kSum = 4, kSumOfSquares = 5, kLimits = 6,
              kBuckets = 7;
constexpr int kPlugin = 1, kPluginName = 1;
constexpr int kDtype = 1, kShape = 2, kStrings = 8;
constexpr int kStringDtype = 7;
constexpr size_t kBucketCount = 30;

// Little-endian.
template <class T>
void append(const T& value, std::string* to) {
  to->append(reinterpret_cast<const char*>(&value), sizeof(T));
}

ProtobufWriter event_at(double wall_time) {
  ProtobufWriter event;
  event.add_double(kWallTime, wall_time);
  return event;
}

std::string summary_event(double wall_time, int64_t step, const ProtobufWriter& summary) {
  ProtobufWriter event = event_at(wall_time);
  event.add_number(kStep, step);
  event.add_bytes(kSummary, summary.bytes());
  return tf_record(event.bytes());
}

ProtobufWriter histogram_of(std::span<const float> values) {
  double least = std::numeric_limits<double>::infinity(), most = -least;
  double count = 0, sum = 0, squares = 0;
  for (const double value : values) {
    if (!std::isfinite(value)) continue;
    least = std::min(least, value);
    most = std::max(most, value);
    sum += value;
    squares += value * value;
    ++count;
  }
  if (count == 0) least = most = 0;
  std::vector<double> limits, buckets(kBucketCount);
  const double width = (most - least) / kBucketCount;
  for (size_t i = 1; i < kBucketCount; ++i)
    limits.push_back(least + static_cast<double>(i) * width);
  limits.push_back(most);
  for (const double value : values) {
    if (!std::isfinite(value)) continue;
    const double place = width > 0 ? (value - least) / width : 0;
    buckets[std::min(kBucketCount - 1, static_cast<size_t>(place))] += 1;
  }
  ProtobufWriter histogram;
  histogram.add_double(kMin, least);
  histogram.add_double(kMax, most);
  histogram.add_double(kCount, count);
  histogram.add_double(kSum, sum);
  histogram.add_double(kSumOfSquares, squares);
  histogram.add_doubles(kLimits, limits);
  histogram.add_doubles(kBuckets, buckets);
  return histogram;
}

// TFRecord masks the checksums of what may itself hold checksums.
uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes.data(), bytes.size());
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

}  // namespace

std::string tf_record(std::string_view bytes) {
  std::string record;
  append(static_cast<uint64_t>(bytes.size()), &record);
  append(masked_crc(record), &record);
  record += bytes;
  append(masked_crc(bytes), &record);
  return record;
}

std::string event_file_begin(double wall_time) {
  ProtobufWriter event = event_at(wall_time);
  event.add_bytes(kFileVersion, "brain.Event:2");
  return tf_record(event.bytes());
}

std::string scalar_event(double wall_time, int64_t step,
                         const std::map<std::string, double>& scalars) {
  ProtobufWriter summary;
  for (const auto& [tag, number] : scalars) {
    ProtobufWriter value;
    value.add_bytes(kTag, tag);
    value.add_float(kSimpleValue, static_cast<float>(number));
    summary.add_bytes(kValue, value.bytes());
  }
  return summary_event(wall_time, step, summary);
}

std::string histogram_event(double wall_time, int64_t step,
                            const std::vector<TaggedValues>& histograms) {
  ProtobufWriter summary;
  for (const TaggedValues& tagged : histograms) {
    ProtobufWriter value;
    value.add_bytes(kTag, tagged.tag);
    value.add_bytes(kHistogram, histogram_of(tagged.values).bytes());
    summary.add_bytes(kValue, value.bytes());
  }
  return summary_event(wall_time, step, summary);
}

std::string model_event(double wall_time, const std::string& json) {
  ProtobufWriter plugin, metadata, tensor, value, summary;
  plugin.add_bytes(kPluginName, "graph_keras_model");
  metadata.add_bytes(kPlugin, plugin.bytes());
  tensor.add_number(kDtype, kStringDtype);
  tensor.add_bytes(kShape, "");
  tensor.add_bytes(kStrings, json);
  value.add_bytes(kTag, "keras");
  value.add_bytes(kTensor, tensor.bytes());
  value.add_bytes(kMetadata, metadata.bytes());
  summary.add_bytes(kValue, value.bytes());
  return summary_event(wall_time, 0, summary);
}

}  // namespace lockstep
