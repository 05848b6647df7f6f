// What cuDNN was asked to choose, kept on disk for the processes to come: for each graph, device
// and version the engine and its knobs. A choice is what the search would find again, so it spares
// time and changes nothing else.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

// Of a search among cuDNN's engines.
struct PlanChoice {
  int64_t engine = -1;                             // its global index
  std::vector<std::pair<int64_t, int64_t>> knobs;  // type, value
  bool fuses_bias = false, fuses_activation = false;
  int64_t workspace_bytes = 0;
  std::string place;  // where the search found it: "heuristic A, 2 of 5"
  bool operator==(const PlanChoice&) const = default;
};

// A folder with a file for each key. Files that can't be read, are damaged or are another key's
// are told of on stderr, and written again when the choice has been made. Any number of processes
// share a folder.
class PlanStore {
 public:
  // $LOCKSTEP_CACHE, where it is "off" none; without it $XDG_CACHE_HOME/lockstep, else
  // ~/.cache/lockstep.
  static PlanStore from_environment();
  explicit PlanStore(std::string folder) : folder_(std::move(folder)) {}  // "": keeps nothing

  bool is_on() const { return !folder_.empty(); }
  std::optional<PlanChoice> find(const std::string& key) const;
  // A folder that can't be written is told of once.
  void keep(const std::string& key, const PlanChoice& choice);
  // Of a choice that was found and is of no use.
  void refuse(const std::string& key, const std::string& reason) const;

 private:
  std::string path_of(const std::string& key) const;

  std::string folder_;
};

}  // namespace lockstep
