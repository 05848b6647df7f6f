#include "host/keras/model_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "host/core/files.h"
#include "host/data/zip_archive.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

constexpr int kMaxNesting = 200;  // of JSON: a model in a model adds about six
constexpr uint64_t kMaxConfigBytes = 256 << 20;
constexpr const char* kConfig = "config.json";
constexpr const char* kMetadata = "metadata.json";
constexpr const char* kWeights = "model.weights.h5";

std::string_view view_of(const SharedBytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Brackets outside of strings: parsers and destructors recurse.
bool nests_too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxNesting) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

// In the form of a new file: earlier versions keep optimizers by name, legacy files under another
// key, and what is not compiled is {}.
void normalize_compile(Json* compile) {
  if (!compile->is_object() || compile->empty()) {
    *compile = nullptr;
    return;
  }
  Json& optimizer = (*compile)["optimizer"];
  if (optimizer.is_null()) optimizer = compile->value("optimizer_config", Json());
  if (optimizer.is_string()) {
    optimizer = {{"class_name", std::string(optimizer)}, {"config", Json::object()}};
  }
}

Status take_config(std::string_view text, ModelFile* file) {
  LOCKSTEP_ASSIGN(file->config, parse_config(text, fmt::format("the config in '{}'", file->path)));
  file->config_text = text;
  if (!file->config.contains("class_name") || !file->config.contains("config")) {
    return usage_error(fmt::format(
        "'{}' is JSON, but no model of Keras: give a .keras file, or what model.to_json() returns",
        file->path));
  }
  file->compile = file->config.value("compile_config", Json());
  normalize_compile(&file->compile);
  return {};
}

// How an HDF5 file lays out weights; takes the config that a whole model has.
Status take_hdf5(Hdf5File hdf5, ModelFile* file) {
  LOCKSTEP_ASSIGN(const auto config, hdf5.text("", "model_config"));
  LOCKSTEP_ASSIGN(const auto training, hdf5.text("", "training_config"));
  LOCKSTEP_ASSIGN(const bool legacy, hdf5.contains("model_weights"));
  LOCKSTEP_ASSIGN(const auto layers, hdf5.texts("", "layer_names"));
  if (config) LOCKSTEP_RETURN_IF_ERROR(take_config(*config, file));
  if (config && training) {
    LOCKSTEP_ASSIGN(
        file->compile,
        parse_config(*training, fmt::format("the training config in '{}'", file->path)));
    normalize_compile(&file->compile);
  }
  file->layout = legacy    ? WeightsLayout::legacy
                 : layers  ? WeightsLayout::legacy_root
                 : !config ? WeightsLayout::keras_3
                           : WeightsLayout::none;
  file->weights.emplace(std::move(hdf5));
  return {};
}

// Where callbacks have set another learning rate than compile(), it stands among the variables.
void take_learning_rate(ModelFile* file) {
  if (!file->compile.is_object()) return;
  Json& optimizer = file->compile["optimizer"];
  const auto config = optimizer.is_object() ? optimizer.find("config") : optimizer.end();
  const Json rate = config != optimizer.end() && config->is_object()
                        ? config->value("learning_rate", Json())
                        : Json();
  const auto stored = file->weights->array("optimizer/vars/1");
  if (!rate.is_number() || !stored.ok() || !stored->row_shape.empty()) return;
  const auto value = static_cast<float>(stored->value(0));
  if (value > 0 && value != rate.get<float>()) (*config)["learning_rate"] = value;
}

// model.weights.h5, of an archive or of a folder.
Status take_weights(const SharedBytes& bytes, ModelFile* file) {
  LOCKSTEP_ASSIGN(file->weights, Hdf5File::open(bytes, fmt::format("{}/{}", file->path, kWeights)));
  file->layout = WeightsLayout::keras_3;
  take_learning_rate(file);
  return {};
}

Status check_names(const ZipArchive& archive, const std::string& path) {
  for (const ZipMember& member : archive.members()) {
    const std::string padded = "/" + member.name + "/";
    const bool leaves = member.name.empty() || member.name[0] == '/' ||
                        member.name.find('\\') != std::string::npos ||
                        padded.find("/../") != std::string::npos;
    if (!leaves) continue;
    return usage_error(fmt::format(
        "'{}' holds a member '{}' whose path leaves the archive: it was not written by Keras", path,
        member.name));
  }
  return {};
}

const ZipMember* find_member(const ZipArchive& archive, const std::string& name) {
  const auto found = std::find_if(archive.members().begin(), archive.members().end(),
                                  [&](const ZipMember& member) { return member.name == name; });
  return found == archive.members().end() ? nullptr : &*found;
}

Status read_archive(const SharedBytes& bytes, ModelFile* file) {
  LOCKSTEP_ASSIGN(const ZipArchive archive, ZipArchive::open(bytes, file->path));
  LOCKSTEP_RETURN_IF_ERROR(check_names(archive, file->path));
  const ZipMember* config = find_member(archive, kConfig);
  if (config == nullptr) {
    return usage_error(
        fmt::format("'{}' is a ZIP archive without config.json: give a .keras file", file->path));
  }
  const ZipMember* metadata = find_member(archive, kMetadata);
  for (const ZipMember* member : {config, metadata}) {
    if (member == nullptr || member->bytes <= kMaxConfigBytes) continue;
    return usage_error(fmt::format("'{}' has a {} of {} bytes, more than {}", file->path,
                                   member->name, member->bytes, kMaxConfigBytes));
  }
  LOCKSTEP_ASSIGN(const SharedBytes text, archive.read(*config));
  LOCKSTEP_RETURN_IF_ERROR(take_config(view_of(text), file));
  if (metadata != nullptr) {
    LOCKSTEP_ASSIGN(const SharedBytes content, archive.read(*metadata));
    file->metadata = view_of(content);
  }
  const ZipMember* weights = find_member(archive, kWeights);
  if (weights == nullptr) return {};
  LOCKSTEP_ASSIGN(const SharedBytes content, archive.read(*weights));
  return take_weights(content, file);
}

Status read_folder(ModelFile* file) {
  if (!file_exists(file->path + "/" + kConfig)) {
    return usage_error(
        fmt::format("the folder '{}' holds no config.json, as an unzipped .keras file does, and no "
                    "job.json, as a run's output folder does: give one of these, or a file",
                    file->path));
  }
  LOCKSTEP_ASSIGN(const std::string config, read_file(file->path + "/" + kConfig));
  LOCKSTEP_RETURN_IF_ERROR(take_config(config, file));
  if (file_exists(file->path + "/" + kMetadata)) {
    LOCKSTEP_ASSIGN(file->metadata, read_file(file->path + "/" + kMetadata));
  }
  const std::string weights = file->path + "/" + kWeights;
  if (!file_exists(weights)) return {};
  LOCKSTEP_ASSIGN(const SharedBytes bytes, map_file(weights));
  return take_weights(bytes, file);
}

}  // namespace

Result<Json> parse_config(std::string_view text, const std::string& what) {
  if (nests_too_deep(text)) {
    return usage_error(fmt::format("{} nests more than {} deep: no model does", what, kMaxNesting));
  }
  Json json = Json::parse(text, nullptr, false);
  if (json.is_object()) return json;
  return usage_error(fmt::format("{} is no JSON object: save the model again", what));
}

bool ModelFile::is_before_3_10() const {
  const auto json = nlohmann::json::parse(metadata, nullptr, false);
  const auto version = json.is_object() ? json.value("keras_version", nlohmann::json()) : json;
  int major = 0;
  int minor = 0;
  return version.is_string() &&
         std::sscanf(version.get<std::string>().c_str(), "%d.%d", &major, &minor) == 2 &&
         major == 3 && minor < 10;
}

Result<ModelFile> read_model_file(const std::string& path) {
  ModelFile file;
  file.path = path;
  if (folder_exists(path)) {
    LOCKSTEP_RETURN_IF_ERROR(read_folder(&file));
    return file;
  }
  LOCKSTEP_ASSIGN(const SharedBytes bytes, map_file(path));
  if (is_zip(bytes)) {
    LOCKSTEP_RETURN_IF_ERROR(read_archive(bytes, &file));
  } else if (is_hdf5(bytes)) {
    LOCKSTEP_ASSIGN(Hdf5File hdf5, Hdf5File::open(bytes, path));
    LOCKSTEP_RETURN_IF_ERROR(take_hdf5(std::move(hdf5), &file));
  } else {
    const std::string_view text = view_of(bytes);
    const size_t begin = text.find_first_not_of(" \t\r\n");
    if (begin == std::string_view::npos || text[begin] != '{' || text.size() > kMaxConfigBytes) {
      return usage_error(fmt::format(
          "'{}' is no model: expected a .keras file, an .h5 file or a model's JSON", path));
    }
    LOCKSTEP_RETURN_IF_ERROR(take_config(text, &file));
  }
  return file;
}

}  // namespace lockstep
