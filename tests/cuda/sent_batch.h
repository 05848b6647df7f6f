// Batches that are on their way to a device before a step asks for them.
#pragma once

#include "host/device/device.h"
#include "tests/nn/training_step.h"

namespace lockstep {

// Rows [begin, end) of `all` in memory of the device's choice, sent ahead.
inline HostBatch sent_batch(Device& device, const HostBatch& all, int64_t begin, int64_t end) {
  const HostBatch rows = slice_batch(all, begin, end);
  HostBatch batch{.rows = rows.rows,
                  .features = rows.features,
                  .inputs = HostFloats(device.batch_memory()),
                  .labels = rows.labels,
                  .positions = rows.positions};
  batch.inputs.assign(rows.inputs.begin(), rows.inputs.end());
  batch.copy = device.prefetch(batch);
  return batch;
}

}  // namespace lockstep
