#include "host/checkpoint/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>

#include "host/core/digest.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

constexpr int64_t kFormat = 2;
constexpr int64_t kFormatBefore = 1;  // can be read
constexpr size_t kSha256Digits = 64;

std::string to_bits(double value) { return hex64(std::bit_cast<uint64_t>(value)); }

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return ('0' <= c && c <= '9') || ('a' <= c && c <= 'f'); });
}

std::optional<double> from_bits(const Json& json) {
  if (!json.is_string()) return std::nullopt;
  const auto& text = json.get_ref<const std::string&>();
  if (text.size() != 16 || !is_hex(text)) return std::nullopt;
  uint64_t bits = 0;
  std::from_chars(text.data(), text.data() + text.size(), bits, 16);
  return std::bit_cast<double>(bits);
}

// Takes typed values out of an object and keeps the first error.
class Fields {
 public:
  Fields(const Json& json, std::string path, std::string prefix = "")
      : json_(json), path_(std::move(path)), prefix_(std::move(prefix)) {}

  int64_t count(const char* key) {
    const Json& value = at(key);
    const bool fits = value.is_number_integer() &&
                      (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX);
    if (!fits || value.get<int64_t>() < 0) return fail(key, "a whole number from 0"), 0;
    return value.get<int64_t>();
  }

  std::string sha256(const char* key, bool may_be_empty = false) {
    std::string text = hex(key);
    const bool right = text.size() == kSha256Digits || (may_be_empty && text.empty());
    if (!right) fail(key, "a SHA-256 in 64 hex digits");
    return text;
  }

  std::string hex(const char* key) {
    const Json& value = at(key);
    if (!value.is_string() || !is_hex(value.get_ref<const std::string&>())) {
      return fail(key, "lower-case hex digits"), "";
    }
    return value.get<std::string>();
  }

  double number(const char* key) {
    const auto value = from_bits(at(key));
    if (!value) fail(key, "the 16 hex digits of a double");
    return value.value_or(0);
  }

  bool flag(const char* key) {
    if (!at(key).is_boolean()) return fail(key, "true or false"), false;
    return at(key).get<bool>();
  }

  const Json& object(const char* key) {
    if (!at(key).is_object()) fail(key, "an object");
    return at(key);
  }

  std::vector<double> list(const char* key) {
    std::vector<double> list;
    if (!at(key).is_array()) fail(key, "an array");
    if (static_cast<int64_t>(at(key).size()) > kMaxMetricSums) fail(key, "a shorter array");
    for (const Json& value : at(key)) {
      const auto number = from_bits(value);
      if (!number) fail(key, "doubles of 16 hex digits each");
      list.push_back(number.value_or(0));
    }
    return list;
  }

  std::map<std::string, std::vector<double>> lists(const char* key) {
    std::map<std::string, std::vector<double>> lists;
    for (const auto& [name, values] : object(key).items()) {
      if (!values.is_array()) fail(key, "an object of arrays");
      for (const Json& value : values) {
        const auto number = from_bits(value);
        if (!number) fail(key, "doubles of 16 hex digits each");
        lists[name].push_back(number.value_or(0));
      }
      lists.try_emplace(name);
    }
    return lists;
  }

  // Call last.
  Status done() {
    if (!error_ && json_.size() != taken_.size()) {
      for (const auto& [key, value] : json_.items()) {
        if (std::find(taken_.begin(), taken_.end(), key) == taken_.end()) {
          fail(key, "absent: this format does not know it");
        }
      }
    }
    return error_ ? Status(*error_) : Status();
  }

 private:
  const Json& at(const char* key) {
    if (std::find(taken_.begin(), taken_.end(), key) == taken_.end()) taken_.push_back(key);
    const auto found = json_.find(key);
    return found == json_.end() ? missing_ : *found;
  }

  void fail(const std::string& key, const std::string& expected) {
    if (error_) return;
    error_ =
        Error{fmt::format("the checkpoint '{}' cannot be used: '{}{}' must be {}; go on from "
                          "another checkpoint",
                          path_, prefix_, key, expected)};
  }

  const Json& json_;
  const Json missing_;
  const std::string path_;
  const std::string prefix_;
  std::vector<std::string> taken_;
  std::optional<Error> error_;
};

// Format 1 named its three.
Result<MetricSums> accumulators_of_before(const Json& json, const std::string& path) {
  Fields sums(json, path, "accumulators.");
  const MetricSums result = {sums.number("loss_sum"), static_cast<double>(sums.count("correct")),
                             static_cast<double>(sums.count("rows"))};
  LOCKSTEP_RETURN_IF_ERROR(sums.done());
  return result;
}

}  // namespace

std::string to_manifest(const Checkpoint& checkpoint) {
  Json history = Json::object();
  for (const auto& [name, values] : checkpoint.history) {
    history[name] = Json::array();
    for (const double value : values) history[name].push_back(to_bits(value));
  }
  Json accumulators = Json::array();
  for (const double sum : checkpoint.accumulators) accumulators.push_back(to_bits(sum));
  const Json json = {{"format", kFormat},
                     {"recipe_sha256", checkpoint.recipe_sha256},
                     {"step", checkpoint.step},
                     {"parent", checkpoint.parent},
                     {"state", checkpoint.state},
                     {"state_bytes", checkpoint.state_bytes},
                     {"state_digest", checkpoint.state_digest},
                     {"epoch", checkpoint.epoch},
                     {"accumulators", accumulators},
                     {"history", history},
                     {"samples_consumed", checkpoint.samples_consumed},
                     {"final", checkpoint.is_final}};
  return json.dump(1) + "\n";
}

bool looks_like_manifest(std::string_view text) {
  if (!text.starts_with('{')) return false;
  const Json json = Json::parse(text, nullptr, false);
  return json.is_object() && json.contains("format") && json.contains("state_digest");
}

Result<Checkpoint> from_manifest(std::string_view text, const std::string& path) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) {
    return Error{fmt::format("'{}' is no checkpoint: it holds no JSON object; name another", path)};
  }
  Fields fields(json, path);
  const int64_t format = fields.count("format");
  if (json.contains("format") && json["format"].is_number_integer() && format != kFormat &&
      format != kFormatBefore) {
    return Error{
        fmt::format("the checkpoint '{}' has the format {}, this version reads {} and {}; use "
                    "the version of Lockstep that wrote it",
                    path, json["format"].dump(), kFormatBefore, kFormat)};
  }
  Checkpoint checkpoint;
  checkpoint.recipe_sha256 = fields.sha256("recipe_sha256");
  checkpoint.step = fields.count("step");
  checkpoint.parent = fields.sha256("parent", true);
  checkpoint.state = fields.sha256("state");
  checkpoint.state_bytes = static_cast<uint64_t>(fields.count("state_bytes"));
  checkpoint.state_digest = fields.hex("state_digest");
  checkpoint.epoch = fields.count("epoch");
  const Json* sums_of_before = nullptr;
  if (format == kFormatBefore) {
    sums_of_before = &fields.object("accumulators");
  } else {
    checkpoint.accumulators = fields.list("accumulators");
  }
  checkpoint.history = fields.lists("history");
  checkpoint.samples_consumed = fields.count("samples_consumed");
  checkpoint.is_final = fields.flag("final");
  LOCKSTEP_RETURN_IF_ERROR(fields.done());
  if (sums_of_before != nullptr) {
    LOCKSTEP_ASSIGN(checkpoint.accumulators, accumulators_of_before(*sums_of_before, path));
  }
  return checkpoint;
}

}  // namespace lockstep
