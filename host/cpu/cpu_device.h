// The CPU device: kernels of our own whose bits for a row never depend on the rows beside it.
#pragma once

#include <memory>
#include <string_view>

#include "host/core/result.h"
#include "host/device/device.h"

namespace lockstep {

// `numerics` is "cpu-avx2" or "cpu-avx512". Refuses where this CPU cannot run it.
Result<std::unique_ptr<Device>> make_cpu_device(std::string_view numerics);
bool cpu_supports(std::string_view numerics);
// The widest numerics that this CPU runs, or "" where it runs none.
std::string_view widest_cpu_numerics();
// "AMD EPYC 7B13", from /proc/cpuinfo.
std::string cpu_model_name();

// Gigaflops a second of independent FP32 FMAs on `threads` threads, measured for about 0.3 s.
double measure_fma_peak(std::string_view numerics, int threads);

}  // namespace lockstep
