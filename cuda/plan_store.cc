#include "cuda/plan_store.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "host/core/digest.h"
#include "host/core/files.h"

namespace lockstep {
namespace {

using nlohmann::json;

std::string environment(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? "" : text;
}

void tell(const std::string& what) { std::fprintf(stderr, "lockstep: %s\n", what.c_str()); }

json to_json(const PlanChoice& choice) {
  return {{"engine", choice.engine},
          {"knobs", choice.knobs},
          {"fuses_bias", choice.fuses_bias},
          {"fuses_activation", choice.fuses_activation},
          {"workspace_bytes", choice.workspace_bytes},
          {"place", choice.place}};
}

PlanChoice from_json(const json& entry) {
  return {entry.at("engine"),           entry.at("knobs"),           entry.at("fuses_bias"),
          entry.at("fuses_activation"), entry.at("workspace_bytes"), entry.at("place")};
}

// Of all that a file says: a number that has changed is as bad as a file that has been cut.
std::string sum_of(const json& key, const json& choice) {
  const std::string text = json::array({key, choice}).dump();
  return hex64(xxh3(text.data(), text.size()));
}

}  // namespace

PlanStore PlanStore::from_environment() {
  const std::string own = environment("LOCKSTEP_CACHE");
  if (own == "off") return PlanStore("");
  if (!own.empty()) return PlanStore(own);
  std::string caches = environment("XDG_CACHE_HOME");
  const std::string home = environment("HOME");
  if (caches.empty() && !home.empty()) caches = home + "/.cache";
  return PlanStore(caches.empty() ? "" : caches + "/lockstep");
}

std::string PlanStore::path_of(const std::string& key) const {
  return fmt::format("{}/plans/{}.json", folder_, sha256_hex(key).substr(0, 32));
}

std::optional<PlanChoice> PlanStore::find(const std::string& key) const {
  if (!is_on()) return std::nullopt;
  if (!file_exists(path_of(key))) return std::nullopt;
  const auto text = read_file(path_of(key));
  if (!text.ok()) {
    refuse(key, text.error().message);
    return std::nullopt;
  }
  try {
    const json file = json::parse(*text);
    const json& choice = file.at("choice");
    if (file.at("sum") != sum_of(file.at("key"), choice)) {
      refuse(key, "it is damaged");
    } else if (file.at("key") != key) {
      refuse(key, "it is of another plan");
    } else {
      return from_json(choice);
    }
  } catch (const json::exception& exception) {
    refuse(key, exception.what());
  }
  return std::nullopt;
}

void PlanStore::keep(const std::string& key, const PlanChoice& choice) {
  if (!is_on()) return;
  const json entry = to_json(choice);
  const json file = {{"key", key}, {"choice", entry}, {"sum", sum_of(key, entry)}};
  Status written = make_writable_folder(folder_ + "/plans");
  if (written.ok()) written = write_file_atomically(path_of(key), file.dump(1) + "\n");
  if (written.ok()) return;
  tell(
      fmt::format("plans of cuDNN are not kept for next time: {} (LOCKSTEP_CACHE names another "
                  "folder, or is off)",
                  written.error().message));
  folder_.clear();
}

void PlanStore::refuse(const std::string& key, const std::string& reason) const {
  tell(fmt::format("{}: a kept plan of cuDNN is not used, and made again: {}", path_of(key),
                   reason));
}

}  // namespace lockstep
