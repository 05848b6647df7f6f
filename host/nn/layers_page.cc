#include "host/nn/layers_page.h"

#include <fmt/format.h>

#include "host/nn/layer.h"
#include "host/nn/layers/operations.h"

namespace lockstep {
namespace {

const char* mask_sentence(Masking masking) {
  switch (masking) {
    case Masking::pass:
      return " Passes its input's mask on.";
    case Masking::join:
      return " Where all inputs have a mask, the output counts what any of them counts.";
    case Masking::build:
      return " Makes its output's mask.";
    case Masking::drop:
      break;
  }
  return "";
}

std::string section(const LayerType& type) {
  std::string keys;
  for (const ConfigKey& key : type.keys) {
    keys += fmt::format("{}`{}{}`", keys.empty() ? "" : ", ", key.name,
                        key.is_required() ? "" : " = " + key.default_value.dump());
  }
  return fmt::format("\n## {}\n\n{}.{}\n{}{}{}", type.class_name, type.summary,
                     mask_sentence(type.masking), keys.empty() ? "" : "\n", keys,
                     keys.empty() ? "" : "\n");
}

}  // namespace

std::string layers_page() {
  std::string page =
      "# Layers\n\nKeras' layers that a model may have, each with its keys and their defaults; a "
      "key "
      "without one must\nbe given. Every layer also takes `name`, `trainable` and `dtype` "
      "(float32 or mixed_bfloat16).\n"
      "`lockstep inspect --layers` wrote this page from the table of layers.\n";
  for (const std::string& name : layer_class_names()) page += section(layer_type(name).value());
  page +=
      "\n# Operations\n\nWhat arithmetic, indexing and `preprocess_input` leave in a functional "
      "graph "
      "(`keras.src.ops`);\ntheir operands are tensors and numbers. Rows stay apart: none "
      "works "
      "along the batch.\n";
  for (const LayerType& type : layers::operation_types()) page += section(type);
  return page;
}

}  // namespace lockstep
