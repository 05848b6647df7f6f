// Callbacks that only watch; observe/ writes what they ask for.
#include "host/job/callback_table.h"

namespace lockstep {

CallbackType csv_logger_type() {
  return {"CSVLogger",
          "writes a CSV file, a line an epoch",
          {{"filename", KeyKind::text}, {"separator", KeyKind::text, ","}},
          false,
          nullptr};
}

CallbackType tensor_board_type() {
  return {"TensorBoard",
          "writes TensorBoard's event files: scalars of each epoch, the model's graph and, every "
          "histogram_freq epochs, histograms of its weights",
          {{"log_dir", KeyKind::text, "logs"},
           {"histogram_freq", KeyKind::integer, 0},
           {"write_graph", KeyKind::flag, true}},
          false,
          nullptr};
}

}  // namespace lockstep
