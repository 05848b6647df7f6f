#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "host/core/check.h"
#include "host/cpu/cpu_device.h"
#include "host/cpu/kernels.h"

namespace lockstep {

bool cpu_supports(std::string_view numerics) {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (numerics == "cpu-avx2") return avx2;
  if (numerics != "cpu-avx512") return false;
  return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}

std::string_view widest_cpu_numerics() {
  if (cpu_supports("cpu-avx512")) return "cpu-avx512";
  if (cpu_supports("cpu-avx2")) return "cpu-avx2";
  return "";
}

std::string cpu_model_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown CPU";
}

double measure_fma_peak(std::string_view numerics, int threads) {
  LOCKSTEP_CHECK(cpu_supports(numerics) && threads > 0);
  const cpu::KernelTable& kernels =
      numerics == "cpu-avx512" ? cpu::avx512_kernels() : cpu::avx2_kernels();
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(300);
  // Each thread's own best stretch: time that the machine gave to others does not count.
  std::vector<double> best(static_cast<size_t>(threads));
  const auto work = [&](size_t thread) {
    while (Clock::now() < end) {
      const Clock::time_point start = Clock::now();
      const int64_t operations = kernels.fma_loop(100000);
      const std::chrono::duration<double> seconds = Clock::now() - start;
      best[thread] = std::max(best[thread], static_cast<double>(operations) / seconds.count());
    }
  };
  std::vector<std::thread> workers;
  for (size_t i = 1; i < best.size(); ++i) workers.emplace_back(work, i);
  work(0);
  for (std::thread& worker : workers) worker.join();
  double total = 0;
  for (const double rate : best) total += rate / 1e9;
  return total;
}

}  // namespace lockstep
