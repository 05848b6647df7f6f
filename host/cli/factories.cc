#include "host/cli/factories.h"

#include <fmt/format.h>

#include <algorithm>

#include "cuda/cuda_device.h"
#include "host/core/suggest.h"
#include "host/cpu/cpu_device.h"
#include "host/nn/layer.h"
#include "host/runtime/device_team.h"

namespace lockstep {
namespace {

constexpr int64_t kMaxDevices = 1024;

bool is_cuda(const std::string& numerics) { return numerics.rfind("cuda-", 0) == 0; }

Status check_kind(const std::string& kind, const std::string& numerics) {
  if (kind != "auto" && kind != "cpu" && kind != "cuda") {
    return usage_error(unknown_name_message("device", kind, {"auto", "cpu", "cuda"}));
  }
  if (kind == "auto" || (kind == "cuda") == is_cuda(numerics)) return {};
  return refused_error(
      fmt::format("--device {} cannot compute with numerics {}: use --device {}, or --numerics {}",
                  kind, numerics, is_cuda(numerics) ? "cuda" : "cpu", default_numerics(kind)));
}

}  // namespace

std::vector<OptionSpec> device_options() {
  return {
      {"device", OptionType::text, "auto", "KIND", "auto, cpu or cuda"},
      {"devices", OptionType::text, "auto", "N|auto", "devices of a node: threads on a CPU, GPUs"}};
}

Result<std::unique_ptr<Device>> make_device(const std::string& kind, const std::string& numerics,
                                            int index) {
  LOCKSTEP_RETURN_IF_ERROR(check_kind(kind, numerics));
  if (is_cuda(numerics)) return make_cuda_device(index, numerics);
  return make_cpu_device(numerics);
}

std::string default_numerics(const std::string& kind) {
  const bool cuda = kind == "cuda" || (kind == "auto" && cuda_device_count() > 0);
  return cuda ? "cuda-fp32" : "cpu-avx2";
}

std::string default_numerics(const std::string& kind, const std::optional<ModelFile>& file) {
  const std::string numerics = default_numerics(kind);
  return is_cuda(numerics) && file && asks_for_bf16(file->config) ? "cuda-bf16" : numerics;
}

Status check_device(const std::string& kind, const std::string& numerics) {
  LOCKSTEP_RETURN_IF_ERROR(check_kind(kind, numerics));
  if (is_cuda(numerics)) return check_cuda_device(numerics);
  LOCKSTEP_RETURN_IF_ERROR(make_cpu_device(numerics));
  return {};
}

int available_devices(const std::string& kind, const std::string& numerics) {
  const bool cuda = kind == "cuda" || (kind == "auto" && is_cuda(numerics));
  return cuda ? std::max(1, cuda_device_count()) : available_cpus();
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
