#include "host/data/array_data.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <set>

#include "host/core/digest.h"
#include "host/core/file_system.h"
#include "host/data/manifest.h"
#include "host/data/npy.h"
#include "host/data/zip_archive.h"

namespace lockstep {
namespace {

constexpr const char* kArrayEnding = ".npy";
constexpr const char* kWeights = "sample_weight";
constexpr size_t kShownNames = 12;

// Where arrays come from.
struct ArraySource {
  std::string path;
  std::vector<std::string> names;  // without .npy
  std::function<Result<SharedBytes>(const std::string& name)> read;
  std::function<std::string(const std::string& name)> called;  // for messages
  bool has(const std::string& name) const {
    return std::find(names.begin(), names.end(), name) != names.end();
  }
};

// What a split's arrays end in, the first that is there.
std::vector<std::string> endings(Split split) {
  switch (split) {
    case Split::train:
      return {"_train", ""};
    case Split::test:
      return {"_test", ""};
    case Split::validation:
      break;
  }
  return {"_val", "_test", ""};
}

std::string without_ending(const std::string& name) {
  for (const std::string_view ending : {"_train", "_test", "_val"}) {
    if (name.ends_with(ending)) return name.substr(0, name.size() - ending.size());
  }
  return name;
}

std::string weights_of(const std::string& target) { return target + "_" + kWeights; }

class ArrayLoader {
 public:
  ArrayLoader(const ArraySource& source, Split split, const DataOptions& options)
      : source_(source), split_(split), options_(options) {}

  Result<Dataset> load();

 private:
  std::string find(const std::string& name) const;
  std::string find_weights(const std::string& name, const std::string& first_input) const;
  Status add_weights(const std::vector<std::string>& targets, const std::string& first_input,
                     std::vector<Field>* fields);
  std::vector<std::string> input_names() const;
  Status add(const std::string& name, const char* usual, std::vector<Field>* fields);
  Result<Field> read(const std::string& array, const std::string& name);
  Error not_found(const std::string& name) const;

  const ArraySource& source_;
  const Split split_;
  const DataOptions& options_;
  std::vector<ManifestEntry> manifest_;
};

Result<Dataset> ArrayLoader::load() {
  Dataset dataset;
  dataset.name = source_.path;
  const std::vector<std::string> inputs = input_names();
  const bool named = !options_.inputs.empty();  // by a model
  for (const std::string& name : inputs) {
    LOCKSTEP_RETURN_IF_ERROR(add(name, named && inputs.size() == 1 ? "x" : "", &dataset.inputs));
  }
  const std::vector<std::string> targets =
      options_.targets.empty() ? std::vector<std::string>{"y"} : options_.targets;
  for (const std::string& name : targets) {
    if (!options_.needs_targets && find(name).empty()) continue;
    LOCKSTEP_RETURN_IF_ERROR(add(name, named && targets.size() == 1 ? "y" : "", &dataset.targets));
  }
  LOCKSTEP_RETURN_IF_ERROR(add_weights(targets, inputs[0], &dataset.weights));
  dataset.digest = manifest_digest(manifest_);
  return assemble_dataset(std::move(dataset));
}

// The array of this split that goes by a name, or "".
std::string ArrayLoader::find(const std::string& name) const {
  for (const std::string& ending : endings(split_)) {
    if (source_.has(name + ending)) return name + ending;
  }
  return "";
}

// Weights without an ending are those of the training rows, where the others have one.
std::string ArrayLoader::find_weights(const std::string& name,
                                      const std::string& first_input) const {
  const std::string array = find(name);
  const std::string input = find(first_input);
  const bool others_end = without_ending(input) != input;
  return array == name && others_end && split_ != Split::train ? "" : array;
}

// Those of all targets, or where there are several targets those of each.
Status ArrayLoader::add_weights(const std::vector<std::string>& targets,
                                const std::string& first_input, std::vector<Field>* fields) {
  std::vector<std::string> names;
  for (const std::string& target : targets) names.push_back(weights_of(target));
  const auto is_there = [&](const std::string& name) {
    return !find_weights(name, first_input).empty();
  };
  if (targets.size() < 2 || std::none_of(names.begin(), names.end(), is_there)) names = {kWeights};
  for (const std::string& name : names) {
    const std::string array = find_weights(name, first_input);
    if (array.empty() && names.size() == 1) return {};
    if (array.empty()) return not_found(name);
    LOCKSTEP_ASSIGN(Field field, read(array, name));
    fields->push_back(std::move(field));
  }
  if (names.size() == 1 || !is_there(kWeights)) return {};
  return Error{fmt::format("'{}' holds {}, and weights of single targets ({}): leave one out",
                           source_.path, kWeights, names[0])};
}

std::vector<std::string> ArrayLoader::input_names() const {
  if (!options_.inputs.empty()) return options_.inputs;
  if (options_.targets.empty()) return {"x"};
  std::set<std::string> names;
  for (const std::string& array : source_.names) names.insert(without_ending(array));
  for (const std::string& target : options_.targets) {
    names.erase(target);
    names.erase(weights_of(target));
  }
  names.erase(kWeights);
  std::vector<std::string> found;
  for (const std::string& name : names) {
    if (!find(name).empty()) found.push_back(name);
  }
  return found.empty() ? std::vector<std::string>{"x"} : found;
}

// `usual`: what it may be called all the same, if it is the only one and a model has named it.
Status ArrayLoader::add(const std::string& name, const char* usual, std::vector<Field>* fields) {
  std::string array = find(name);
  if (array.empty() && *usual != '\0') array = find(usual);
  if (array.empty()) return not_found(name);
  LOCKSTEP_ASSIGN(Field field, read(array, name));
  fields->push_back(std::move(field));
  return {};
}

Result<Field> ArrayLoader::read(const std::string& array, const std::string& name) {
  LOCKSTEP_ASSIGN(const SharedBytes bytes, source_.read(array));
  LOCKSTEP_ASSIGN(NpyArray content, read_npy(bytes, source_.called(array)));
  manifest_.push_back({name, content.rows(),
                       sha256_hex({reinterpret_cast<const char*>(bytes.data()), bytes.size()})});
  Field field;
  field.name = name;
  field.row_shape.assign(content.shape.begin() + 1, content.shape.end());
  field.type = content.type;
  field.values = std::move(content.values);
  return field;
}

Error ArrayLoader::not_found(const std::string& name) const {
  std::vector<std::string> wanted;
  for (const std::string& ending : endings(split_)) wanted.push_back(name + ending);
  std::vector<std::string> shown(source_.names);
  if (shown.size() > kShownNames) {
    shown.resize(kShownNames);
    shown.push_back("…");
  }
  return {
      fmt::format("'{}' holds no array {}, but {}; name the arrays so, or say which are targets "
                  "with --target",
                  source_.path, fmt::join(wanted, " or "),
                  shown.empty() ? "none at all" : fmt::format("{}", fmt::join(shown, ", ")))};
}

// Sorted, without .npy; endings other than that are no arrays.
std::vector<std::string> array_names(std::vector<std::string> files) {
  std::erase_if(files, [](const std::string& name) { return !name.ends_with(kArrayEnding); });
  for (std::string& name : files) name.resize(name.size() - std::string_view(kArrayEnding).size());
  std::sort(files.begin(), files.end());
  return files;
}

Result<std::vector<std::string>> arrays_of(const std::string& folder) {
  LOCKSTEP_ASSIGN(auto files, PosixFileSystem().list(folder));
  return array_names(std::move(files));
}

}  // namespace

bool has_npy_files(const std::string& folder) {
  const auto names = arrays_of(folder);
  return names.ok() && !names->empty();
}

Result<Dataset> load_npy_folder(const std::string& folder, Split split,
                                const DataOptions& options) {
  ArraySource source;
  source.path = folder;
  LOCKSTEP_ASSIGN(source.names, arrays_of(folder));
  const auto path_of = [&](const std::string& name) { return folder + "/" + name + kArrayEnding; };
  source.read = [&](const std::string& name) { return map_file(path_of(name)); };
  source.called = [&](const std::string& name) { return "'" + path_of(name) + "'"; };
  return ArrayLoader(source, split, options).load();
}

Result<Dataset> load_npz(const std::string& path, const SharedBytes& bytes, Split split,
                         const DataOptions& options) {
  LOCKSTEP_ASSIGN(const ZipArchive archive, ZipArchive::open(bytes, path));
  ArraySource source;
  source.path = path;
  std::vector<std::string> members;
  for (const ZipMember& member : archive.members()) members.push_back(member.name);
  source.names = array_names(std::move(members));
  source.read = [&](const std::string& name) -> Result<SharedBytes> {
    const auto member =
        std::find_if(archive.members().begin(), archive.members().end(),
                     [&](const ZipMember& one) { return one.name == name + kArrayEnding; });
    return archive.read(*member);
  };
  source.called = [&](const std::string& name) {
    return fmt::format("array '{}' of '{}'", name, path);
  };
  return ArrayLoader(source, split, options).load();
}

}  // namespace lockstep
