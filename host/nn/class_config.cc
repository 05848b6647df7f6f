#include "host/nn/class_config.h"

#include <algorithm>

#include "host/core/suggest.h"

namespace lockstep {
namespace {

constexpr const char* kTrustedModules[] = {"keras", "tf_keras", "tensorflow", "builtins"};

}  // namespace

std::string text_of(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

std::string foreign_module(const nlohmann::json& object) {
  const std::string registered = text_of(object, "registered_name");
  if (registered.find('>') != std::string::npos && !registered.starts_with("keras>")) {
    return registered;
  }
  const std::string module = text_of(object, "module");
  const std::string root = module.substr(0, module.find('.'));
  const bool trusted = std::find(std::begin(kTrustedModules), std::end(kTrustedModules), root) !=
                       std::end(kTrustedModules);
  return module.empty() || trusted ? "" : module;
}

Status check_is_keras(const std::string& what, const nlohmann::json& object) {
  const std::string module = foreign_module(object);
  if (module.empty()) return {};
  return usage_error(what + " is code of '" + module +
                     "', which never runs here: use one of Keras' own");
}

std::string class_name_of(const nlohmann::json& value) {
  const auto name = [](const nlohmann::json& given) {
    return given.is_string() ? given.get<std::string>() : std::string();
  };
  return value.is_object() ? name(value.value("class_name", nlohmann::json())) : name(value);
}

Result<nlohmann::json> resolve_class(const std::string& what, const std::vector<ClassType>& types,
                                     const nlohmann::json& value) {
  if (value.is_null()) return value;
  const std::string name = class_name_of(value);
  const auto type = std::find_if(types.begin(), types.end(), [&](const ClassType& known) {
    return name == known.class_name || name == known.name;
  });
  if (type == types.end()) {
    std::vector<std::string> names;
    for (const ClassType& known : types) names.push_back(known.class_name);
    return usage_error(unknown_name_message(what, name.empty() ? value.dump() : name, names));
  }
  nlohmann::json given = nlohmann::json::object();
  if (value.is_object() && value.contains("config")) given = value.at("config");
  if (!given.is_object()) return usage_error(what + " " + name + ": config is no object of keys");
  for (const ConfigKey& key : type->keys) {
    if (given.contains(key.name) && given[key.name].is_null()) given.erase(key.name);
  }
  LOCKSTEP_ASSIGN(auto config, resolve_keys(what + " " + type->class_name, type->keys, given));
  return nlohmann::json{{"class_name", type->class_name}, {"config", std::move(config)}};
}

}  // namespace lockstep
