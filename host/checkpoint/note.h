// What was found damaged and left aside: nothing stops because of it, but people should know.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>

namespace lockstep {

struct Note {
  std::string path;
  uint64_t offset = 0;  // of the first byte that is meant
  uint64_t bytes = 0;   // how many, 0 where the file is missing
  std::string what;

  std::string text() const {
    return fmt::format("'{}', {} bytes from offset {}: {}", path, bytes, offset, what);
  }
};

}  // namespace lockstep
