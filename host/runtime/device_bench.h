// What `lockstep bench` measures of devices: training steps, and the links between them.
#pragma once

#include <cstdint>
#include <string>

#include "host/core/result.h"
#include "host/data/dataset.h"
#include "host/runtime/device_team.h"
#include "host/runtime/replica.h"

namespace lockstep {

// Images of pixels and labels that follow from their number alone.
Dataset random_dataset(const Shape& image, int64_t rows);

struct StepSeconds {
  double step = 0;    // median, the batch and the update included
  double update = 0;  // median
};
// `steps` of them after some to warm up. The job's rows are the data's, eight batches;
// `replica` is fresh and alone.
Result<StepSeconds> measure_steps(Replica& replica, const Job& job, const Dataset& data,
                                  int64_t steps, bool digests);

// Of messages of so many bytes: seconds, and the bytes that each device's link carries each way in
// one of them, whatever the number of devices (NCCL's "bus bandwidth").
struct LinkSpeed {
  double all_gather_seconds = 0, all_reduce_seconds = 0;  // medians
  double all_gather_bytes = 0, all_reduce_bytes = 0;      // a second
};
// `floats` a message, or a few less, moved `rounds` times by each collective. Fails where the
// devices are not linked, and where what arrives is wrong.
Result<LinkSpeed> measure_links(DeviceTeam& team, int64_t floats, int rounds);

}  // namespace lockstep
