// The golden numbers of tests/golden, by file.
#pragma once

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/source_folder.h"

namespace lockstep {

// "layers": tests/golden/layers.json, read once. One thread.
inline const nlohmann::json& golden_json(const std::string& name) {
  // They live as long as the tests do.
  static auto* files = new std::map<std::string, nlohmann::json>;
  const auto [file, is_new] = files->try_emplace(name);
  if (is_new) {
    std::ifstream stream(source_folder() + "/tests/golden/" + name + ".json");
    file->second = nlohmann::json::parse(stream);
  }
  return file->second;
}

// The names of the cases in one part of a file.
inline std::vector<std::string> golden_names(const std::string& file, const std::string& part) {
  std::vector<std::string> names;
  for (const auto& [name, value] : golden_json(file).at(part).items()) names.push_back(name);
  return names;
}

}  // namespace lockstep
