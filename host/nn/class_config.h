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

// The name that `value` gives, a string or an object's class_name; "" where it gives none.
std::string class_name_of(const nlohmann::json& value);

// {"class_name", "config"} with every key, from a name or Keras' object; null stays null. A key
// that is null takes its default. `what` begins the messages: "regularizer".
Result<nlohmann::json> resolve_class(const std::string& what, const std::vector<ClassType>& types,
                                     const nlohmann::json& value);

}  // namespace lockstep
