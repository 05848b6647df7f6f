// Sets threadIdx and its like.
#pragma once

#include <vector_types.h>

namespace lockstep::emulated {

void set_grid(unsigned blocks, unsigned threads);
void set_block(unsigned block);
void set_thread(unsigned thread);

}  // namespace lockstep::emulated
