// Where the source tree is, for tests that read files of it.
#pragma once

#include <cstdlib>
#include <string>

namespace lockstep {

// The folder that the tests were built from, or what LOCKSTEP_SOURCE_DIR says on a machine to which
// they were carried.
inline std::string source_folder() {
  const char* moved = std::getenv("LOCKSTEP_SOURCE_DIR");
  return moved == nullptr ? LOCKSTEP_SOURCE_DIR : moved;
}

}  // namespace lockstep
