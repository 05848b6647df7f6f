// A ZIP archive as bytes, its members stored: what Keras writes, and what reads fastest.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

struct NewZipMember {
  std::string name;
  std::string_view content;
};

// The members in this order. Refuses what needs zip64: 4 GiB or more in all.
Result<std::string> make_zip(const std::vector<NewZipMember>& members);

}  // namespace lockstep
