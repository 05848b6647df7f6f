// A state folder for people: `log` and `objects/`, every hash verified. Changes nothing.
#pragma once

#include <functional>
#include <string>

#include "host/checkpoint/record_log.h"
#include "host/core/file_system.h"
#include "host/core/metric_sums.h"
#include "host/core/result.h"

namespace lockstep {

// The log's records are opaque here: the caller says in a few words what one is.
using DescribeRecord = std::function<std::string(const LogRecord&)>;

// The checkpoints as a tree, each with what `describe_sums` says of its accumulators, what is
// damaged or named by nobody, and the log. Damage is part of the text, and is said in `damaged` too
// where that is given; an error where the folder cannot be read at all.
Result<std::string> inspect_lineage(FileSystem& files, const std::string& folder,
                                    const DescribeRecord& describe,
                                    const DescribeSums& describe_sums = {},
                                    bool* damaged = nullptr);

}  // namespace lockstep
