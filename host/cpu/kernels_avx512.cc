// The kernels for AVX-512 (F, VL, DQ, BW).
#define LOCKSTEP_ISA avx512
#include "host/cpu/simd_avx512.h"
//
#include "host/cpu/kernels_table.h"

namespace lockstep::cpu {

const KernelTable& avx512_kernels() { return avx512::kKernels; }

}  // namespace lockstep::cpu
