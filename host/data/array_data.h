// Data sets of NumPy arrays: NPZ files, and folders of NPY files.
#pragma once

#include <string>

#include "host/core/result.h"
#include "host/data/dataset.h"

namespace lockstep {

bool has_npy_files(const std::string& folder);
Result<Dataset> load_npy_folder(const std::string& folder, Split split, const DataOptions& options);
// `bytes`: the file's.
Result<Dataset> load_npz(const std::string& path, const SharedBytes& bytes, Split split,
                         const DataOptions& options);

}  // namespace lockstep
