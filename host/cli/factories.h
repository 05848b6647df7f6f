// Where the parts that host/ does not know come from.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "host/core/result.h"
#include "host/device/device.h"
#include "host/job/options.h"
#include "host/keras/model_file.h"
#include "host/runtime/node_runtime.h"

namespace lockstep {

// --device and --devices, for every command that computes.
std::vector<OptionSpec> device_options();

// `kind` is "auto", "cpu" or "cuda"; auto follows the numerics.
Result<std::unique_ptr<Device>> make_device(const std::string& kind, const std::string& numerics,
                                            int index);

// What --numerics auto means for nodes on this machine's devices of that kind.
std::string default_numerics(const std::string& kind);
// The same for the model of a file, whose layers may ask for bfloat16: a GPU then computes in it.
std::string default_numerics(const std::string& kind, const std::optional<ModelFile>& file);
// Refuses what make_device would, but takes nothing.
Status check_device(const std::string& kind, const std::string& numerics);
// What --devices auto means: the CPUs that this process may use, or all GPUs.
int available_devices(const std::string& kind, const std::string& numerics);

// The number that --devices gives; 0 for auto.
Result<int> parse_devices(const std::string& text);

// A list of options with another one behind it.
std::vector<OptionSpec> operator+(std::vector<OptionSpec> left,
                                  const std::vector<OptionSpec>& right);

}  // namespace lockstep
