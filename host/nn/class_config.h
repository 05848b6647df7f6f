// Objects within a layer's config, {"class_name", "config"}: regularizers, constraints.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/nn/layer.h"

namespace lockstep {

struct ClassType {
  std::string class_name;  // Keras'
  std::string name;        // and as a string
  std::vector<ConfigKey> keys;
};

// The text under a key of an object, or "" where there is none.
std::string text_of(const nlohmann::json& object, const char* key);

// Where the class of one of Keras' objects would have to be imported from, if it is none of Keras'
// own; else "". Whoever refuses it says that code of files never runs.
std::string foreign_module(const nlohmann::json& object);
// Refuses such an object; `what` begins the message. Names of Keras' classes are no protection:
// packages have classes of the same names.
Status check_is_keras(const std::string& what, const nlohmann::json& object);

// The name that `value` gives, a string or an object's class_name; "" where it gives none.
std::string class_name_of(const nlohmann::json& value);

// {"class_name", "config"} with every key, from a name or Keras' object; null stays null. A key
// that is null takes its default. `what` begins the messages: "regularizer".
Result<nlohmann::json> resolve_class(const std::string& what, const std::vector<ClassType>& types,
                                     const nlohmann::json& value);

}  // namespace lockstep
