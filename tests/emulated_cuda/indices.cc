// What the headers of CUDA declare as constant and the GPU sets: defined without that header.
#include "tests/emulated_cuda/indices.h"

extern "C" {
uint3 threadIdx = {0, 0, 0};
uint3 blockIdx = {0, 0, 0};
dim3 blockDim = {1, 1, 1};
dim3 gridDim = {1, 1, 1};
int warpSize = 32;
}

namespace lockstep::emulated {

void set_grid(unsigned blocks, unsigned threads) {
  gridDim = {blocks, 1, 1};
  blockDim = {threads, 1, 1};
}
void set_block(unsigned block) { blockIdx = {block, 0, 0}; }
void set_thread(unsigned thread) { threadIdx = {thread, 0, 0}; }

}  // namespace lockstep::emulated
