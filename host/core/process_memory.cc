#include "host/core/process_memory.h"

#include <fstream>
#include <string>

namespace lockstep {
namespace {

// A line of /proc/self/status, in kB there.
int64_t status_bytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word;) {
    int64_t kb = 0;
    if (word == key && file >> kb) return kb * 1024;
  }
  return 0;
}

}  // namespace

int64_t resident_bytes() { return status_bytes("VmRSS:"); }
int64_t own_bytes() { return status_bytes("RssAnon:") + status_bytes("RssShmem:"); }

}  // namespace lockstep
