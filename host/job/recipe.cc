#include "host/job/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "host/core/digest.h"
#include "host/job/callbacks.h"

namespace lockstep {
namespace {

constexpr size_t kShownCharacters = 64;
constexpr const char* kNotInRecipe[] = {"model", "data", "validation_data", "recipe_sha256"};

std::string shown(const nlohmann::json& value) {
  const std::string text = value.is_null() ? "nothing" : value.dump();
  if (text.size() <= kShownCharacters) return text;
  if (value.is_string()) return value.get<std::string>().substr(0, 12) + "…";
  return fmt::format("one of sha256 {}…", sha256_hex(text).substr(0, 12));
}

// Objects are compared key by key: "optimizer.learning_rate".
void add_differences(const std::string& prefix, const nlohmann::json& theirs,
                     const nlohmann::json& mine, std::vector<RecipeDifference>* differences) {
  std::set<std::string> keys;
  for (const auto* object : {&theirs, &mine}) {
    for (const auto& [key, value] : object->items()) keys.insert(key);
  }
  for (const std::string& key : keys) {
    const nlohmann::json left = theirs.value(key, nlohmann::json());
    const nlohmann::json right = mine.value(key, nlohmann::json());
    if (left.is_object() && right.is_object()) {
      add_differences(prefix + key + ".", left, right, differences);
    } else if (left != right) {
      differences->push_back({prefix + key, shown(left), shown(right)});
    }
  }
}

}  // namespace

std::string lineage_sha256(const Job& job) {
  nlohmann::json all = recipe(job);
  all.erase("epochs");
  return sha256_hex(all.dump());
}

std::vector<RecipeDifference> recipe_differences(const nlohmann::json& theirs,
                                                 const nlohmann::json& mine) {
  nlohmann::json left = theirs;
  nlohmann::json right = mine;
  for (nlohmann::json* json : {&left, &right}) {
    for (const char* key : kNotInRecipe) json->erase(key);
    if (!json->contains("callbacks")) continue;
    (*json)["callbacks"] = deciding_callbacks((*json)["callbacks"]);
    if ((*json)["callbacks"].empty()) json->erase("callbacks");
  }
  std::vector<RecipeDifference> differences;
  add_differences("", left, right, &differences);
  return differences;
}

std::string there_and_here(const std::vector<RecipeDifference>& differences) {
  std::string text;
  for (const RecipeDifference& difference : differences) {
    text += fmt::format("{}{}: {} there, {} here", text.empty() ? "" : "; ", difference.key,
                        difference.theirs, difference.mine);
  }
  return text;
}

}  // namespace lockstep
