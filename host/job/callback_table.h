// The callbacks that there are.
#pragma once

#include <vector>

#include "host/job/callback.h"

namespace lockstep {

CallbackType early_stopping_type();
CallbackType model_checkpoint_type();
CallbackType reduce_lr_on_plateau_type();
CallbackType learning_rate_scheduler_type();
CallbackType terminate_on_nan_type();
CallbackType csv_logger_type();
CallbackType tensor_board_type();

std::vector<CallbackType> callback_types();

}  // namespace lockstep
