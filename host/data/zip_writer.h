// A ZIP archive, its members stored: what Keras writes, and what reads fastest.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

struct NewZipMember {
  std::string name;
  std::string_view content;
};

// The members in this order, handed over in pieces. Refuses what needs zip64, 4 GiB or more in all,
// before anything is written.
Status write_zip(const std::vector<NewZipMember>& members,
                 const std::function<Status(std::string_view)>& append);
Result<std::string> make_zip(const std::vector<NewZipMember>& members);

}  // namespace lockstep
