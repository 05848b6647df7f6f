// A folder of IDX files by MNIST's usual names.
#pragma once

#include <string>

#include "host/core/result.h"
#include "host/data/dataset.h"

namespace lockstep {

// Whether the folder has images or labels of any split under such a name.
bool has_idx_files(const std::string& folder);
Result<Dataset> load_idx_folder(const std::string& folder, Split split);

}  // namespace lockstep
