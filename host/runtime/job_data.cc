#include <fmt/format.h>

#include "host/job/data_job.h"
#include "host/runtime/node_runtime.h"

namespace lockstep {
namespace {

Status check_same_shape(const JobData& data) {
  const auto differ = [](const char* what, const std::string& theirs, const std::string& ours) {
    return usage_error(
        fmt::format("the validation data's {} have the shape {}, the training data's {}: give data "
                    "of one shape",
                    what, theirs, ours));
  };
  const Dataset& validation = data.validation_set;
  if (validation.row_shape != data.train.row_shape) {
    return differ("rows", to_string(validation.row_shape), to_string(data.train.row_shape));
  }
  if (validation.target_features() != data.train.target_features()) {
    return differ("targets", to_string({validation.target_features()}),
                  to_string({data.train.target_features()}));
  }
  return {};
}

}  // namespace

Result<JobData> load_job_data(const Job& job, const std::string& data,
                              const std::string& validation_data, Dataset read_before) {
  const DataOptions options = data_options(job);
  const double split = job.validation_split;
  JobData result;
  result.train = std::move(read_before);
  if (result.train.rows() == 0 || options != DataOptions{}) {
    LOCKSTEP_ASSIGN(result.train, load_dataset(data, Split::train, options));
  }
  const ValidationCut cut = cut_validation(result.train.rows(), split);
  result.train_rows = cut.train;
  result.validation_rows = validated_rows(job, cut.validation);
  if (result.train_rows.size() == 0) {
    return usage_error(fmt::format("--validation-split {} leaves no row of {} to train on", split,
                                   result.train.rows()));
  }
  if (split > 0 && result.validation_rows.size() == 0) {
    return usage_error(
        fmt::format("--validation-split {} of {} rows is no row: give a larger share", split,
                    result.train.rows()));
  }
  if (validation_data.empty()) return result;
  LOCKSTEP_ASSIGN(result.validation_set, load_dataset(validation_data, Split::validation, options));
  result.validation_rows = validated_rows(job, {0, result.validation_set.rows()});
  LOCKSTEP_RETURN_IF_ERROR(check_same_shape(result));
  return result;
}

}  // namespace lockstep
