#include "host/job/callback_table.h"

namespace lockstep {

std::vector<CallbackType> callback_types() {
  return {early_stopping_type(),       model_checkpoint_type(),
          reduce_lr_on_plateau_type(), learning_rate_scheduler_type(),
          terminate_on_nan_type(),     csv_logger_type(),
          tensor_board_type()};
}

}  // namespace lockstep
