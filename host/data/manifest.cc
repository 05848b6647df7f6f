#include "host/data/manifest.h"

#include <fmt/format.h>

#include "host/core/digest.h"

namespace lockstep {

std::string manifest_digest(const std::vector<ManifestEntry>& entries) {
  std::string text = "lockstep data 1\n";
  for (const ManifestEntry& entry : entries) {
    text += fmt::format("{} {} {}\n", entry.name, entry.rows, entry.sha256);
  }
  return sha256_hex(text);
}

}  // namespace lockstep
