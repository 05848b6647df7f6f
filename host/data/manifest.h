// What a data set consists of, as one canonical text: its hash names the data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep {

struct ManifestEntry {
  std::string name;  // what it is, however the file that held it was called or compressed
  int64_t rows = 0;
  std::string sha256;  // of its bytes, uncompressed
};

// SHA-256 of "lockstep data 1\n", then "NAME ROWS SHA256\n" for each entry in order.
std::string manifest_digest(const std::vector<ManifestEntry>& entries);

}  // namespace lockstep
