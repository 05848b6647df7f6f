// The kernels for AVX2 and FMA.
#define LOCKSTEP_ISA avx2
#include "host/cpu/simd_avx2.h"
//
#include "host/cpu/kernels_table.h"

namespace lockstep::cpu {

const KernelTable& avx2_kernels() { return avx2::kKernels; }

}  // namespace lockstep::cpu
