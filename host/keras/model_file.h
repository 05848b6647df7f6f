// What a file of Keras holds, told by its content, whatever its name says: `.keras` (also unzipped
// into a folder), `.weights.h5`, the config as JSON, and `.h5` of Keras 2 and 3, whole model or
// weights alone. Weights are read by host/keras/weights.h. No code of a file is ever run.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "host/core/result.h"
#include "host/keras/hdf5.h"

namespace lockstep {

enum class WeightsLayout {
  none,         // the file has no weights
  keras_3,      // "layers/dense/vars/0", of .keras and .weights.h5
  legacy,       // "model_weights/dense/dense/kernel:0", of .h5
  legacy_root,  // the same without "model_weights": weights alone
};

struct ModelFile {
  std::string path;
  std::string config_text;  // the model's config as it stands in the file; "": weights alone
  nlohmann::json config;    // the same, parsed; null
  // {"optimizer", "loss", "metrics", …} as Keras 3 has it, or null: the model was not compiled. The
  // learning rate is that of the optimizer's state, where there is one.
  nlohmann::json compile;
  std::string metadata;  // metadata.json of a .keras file
  WeightsLayout layout = WeightsLayout::none;
  std::optional<Hdf5File> weights;

  bool has_model() const { return !config.is_null(); }
  // Whether the metadata says that such a Keras wrote it: its optimizers' variables had another
  // order.
  bool is_before_3_10() const;
  bool has_weights() const { return layout != WeightsLayout::none; }
};

// Errors name the file, what is wrong with it and the remedy. Members of archives and of HDF5 files
// that claim more than the file holds, names that leave the folder and JSON that nests without end
// are refused before memory is taken for them.
Result<ModelFile> read_model_file(const std::string& path);

// JSON that nests at most as deep as models do.
Result<nlohmann::json> parse_config(std::string_view text, const std::string& what);

}  // namespace lockstep
