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
          "writes TensorBoard's event files: scalars, a point an epoch",
          {{"log_dir", KeyKind::text, "logs"}},
          false,
          nullptr};
}

}  // namespace lockstep
