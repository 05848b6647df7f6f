#include <fmt/format.h>

#include "host/runtime/node_runtime.h"

namespace lockstep {

Result<JobData> load_job_data(const std::string& data, const std::string& validation_data,
                              double validation_split) {
  JobData result;
  LOCKSTEP_ASSIGN(result.train, load_dataset(data, Split::train));
  const ValidationCut cut = cut_validation(result.train.rows(), validation_split);
  result.train_rows = cut.train;
  result.validation_rows = cut.validation;
  if (result.train_rows.size() == 0) {
    return usage_error(fmt::format("--validation-split {} leaves no row of {} to train on",
                                   validation_split, result.train.rows()));
  }
  if (validation_split > 0 && result.validation_rows.size() == 0) {
    return usage_error(
        fmt::format("--validation-split {} of {} rows is no row: give a larger share",
                    validation_split, result.train.rows()));
  }
  if (validation_data.empty()) return result;
  LOCKSTEP_ASSIGN(result.validation_set, load_dataset(validation_data, Split::test));
  result.validation_rows = {0, result.validation_set.rows()};
  if (result.validation_set.row_shape != result.train.row_shape) {
    return usage_error(
        fmt::format("the validation data's rows have the shape {}, the training "
                    "data's {}: give data of one shape",
                    to_string(result.validation_set.row_shape), to_string(result.train.row_shape)));
  }
  return result;
}

}  // namespace lockstep
