#include "host/cli/factories.h"

#include <fmt/format.h>

#include <algorithm>

#include "cuda/cuda_device.h"
#include "host/core/suggest.h"
#include "host/cpu/cpu_device.h"

namespace lockstep {
namespace {

constexpr int64_t kMaxDevices = 1024;

}  // namespace

std::vector<OptionSpec> device_options() {
  return {
      {"device", OptionType::text, "auto", "KIND", "auto, cpu or cuda"},
      {"devices", OptionType::text, "auto", "N|auto", "devices of a node: threads on a CPU, GPUs"}};
}

Result<std::unique_ptr<Device>> make_device(const std::string& kind, const std::string& numerics,
                                            int index) {
  const bool cuda_numerics = numerics.rfind("cuda-", 0) == 0;
  if (kind != "auto" && kind != "cpu" && kind != "cuda") {
    return usage_error(unknown_name_message("device", kind, {"auto", "cpu", "cuda"}));
  }
  if (kind == "cuda" || (kind == "auto" && cuda_numerics)) return make_cuda_device(index, numerics);
  return make_cpu_device(numerics);
}

Result<int> parse_devices(const std::string& text) {
  if (text == "auto") return 0;
  const OptionSpec option{"devices", OptionType::integer, {}, "", ""};
  LOCKSTEP_ASSIGN(const auto count, parse_option_text(option, text, "--devices"));
  if (count < 1 || count > kMaxDevices) {
    return usage_error(
        fmt::format("--devices {}: must be auto, or between 1 and {}", text, kMaxDevices));
  }
  return count.get<int>();
}

std::vector<OptionSpec> operator+(std::vector<OptionSpec> left,
                                  const std::vector<OptionSpec>& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

}  // namespace lockstep
