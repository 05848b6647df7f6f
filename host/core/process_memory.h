// The memory of this process, by the kernel's account. In bytes; 0 where it does not say.
#pragma once

#include <cstdint>

namespace lockstep {

int64_t resident_bytes();
// Without what is mapped of files: the program, whose pages come as they are first run, and data.
int64_t own_bytes();

}  // namespace lockstep
