#pragma once

#include <string>

#include "host/core/result.h"

namespace lockstep {

inline std::string text_of(const Status& status) {
  return status.ok() ? "ok" : status.error().message;
}

}  // namespace lockstep
