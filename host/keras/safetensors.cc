#include "host/keras/safetensors.h"

#include <fmt/format.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "host/core/files.h"
#include "host/tensor/shape.h"

namespace lockstep {
namespace {

std::string tensor_name(const Parameter& parameter) {
  return parameter.layer + "/" + parameter.name;
}

Error corrupt(const std::string& path, const std::string& what) {
  return {fmt::format("'{}' is not a sound safetensors file: {}; use a file that Lockstep wrote",
                      path, what)};
}

}  // namespace

std::string to_safetensors(const std::vector<Parameter>& parameters, const std::string& weights,
                           const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  for (const Parameter& parameter : parameters) {
    const int64_t begin = parameter.offset * 4;
    header[tensor_name(parameter)] = {{"dtype", "F32"},
                                      {"shape", parameter.shape},
                                      {"data_offsets", {begin, begin + parameter.count() * 4}}};
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t size = text.size();
  std::string file(reinterpret_cast<const char*>(&size), sizeof(size));
  return file + text + weights;
}

Result<std::vector<float>> read_safetensors(const std::string& path,
                                            const std::vector<Parameter>& parameters) try {
  LOCKSTEP_ASSIGN(const std::string file, read_file(path));
  uint64_t size = 0;
  if (file.size() < sizeof(size)) return corrupt(path, "shorter than its header");
  std::memcpy(&size, file.data(), sizeof(size));
  if (size > file.size() - sizeof(size)) return corrupt(path, "shorter than its header");
  const auto header = nlohmann::json::parse(file.substr(sizeof(size), size), nullptr, false);
  if (!header.is_object()) return corrupt(path, "the header is not JSON");
  const size_t data_begin = sizeof(size) + size;
  std::vector<float> weights;
  for (const Parameter& parameter : parameters) {
    const std::string name = tensor_name(parameter);
    const auto entry = header.find(name);
    if (entry == header.end()) return corrupt(path, fmt::format("no tensor '{}'", name));
    const auto shape = entry->value("shape", Shape{});
    if (shape != parameter.shape || entry->value("dtype", "") != "F32") {
      return Error{
          fmt::format("'{}': tensor '{}' has the shape {}, the model needs {} (F32); use "
                      "the weights of this model",
                      path, name, to_string(shape), to_string(parameter.shape))};
    }
    const auto offsets = entry->value("data_offsets", std::vector<uint64_t>{});
    const uint64_t bytes = static_cast<uint64_t>(parameter.count()) * sizeof(float);
    if (offsets.size() != 2 || offsets[0] > file.size() || offsets[1] - offsets[0] != bytes ||
        bytes > file.size() - data_begin || offsets[0] > file.size() - data_begin - bytes) {
      return corrupt(path, fmt::format("tensor '{}' lies outside the file", name));
    }
    weights.resize(weights.size() + static_cast<size_t>(parameter.count()));
    std::memcpy(weights.data() + parameter.offset, file.data() + data_begin + offsets[0], bytes);
  }
  return weights;
} catch (const nlohmann::json::exception& error) {
  return corrupt(path, fmt::format("its header has another form: {}", error.what()));
}

}  // namespace lockstep
