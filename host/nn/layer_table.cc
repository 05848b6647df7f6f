#include "host/nn/layer_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "host/core/suggest.h"
#include "host/nn/class_config.h"
#include "host/nn/constraints.h"
#include "host/nn/initializers.h"
#include "host/nn/layers/operations.h"
#include "host/nn/regularizers.h"

namespace lockstep {
namespace {

constexpr LayerType (*kLayers[])() = {
    layers::activation,
    layers::activity_regularization,
    layers::add,
    layers::alpha_dropout,
    layers::average,
    layers::average_pooling1d,
    layers::average_pooling2d,
    layers::average_pooling3d,
    layers::batch_normalization,
    layers::center_crop,
    layers::concatenate,
    layers::conv1d,
    layers::conv1d_transpose,
    layers::conv2d,
    layers::conv2d_transpose,
    layers::conv3d,
    layers::conv3d_transpose,
    layers::cropping1d,
    layers::cropping2d,
    layers::cropping3d,
    layers::custom_scale_layer,
    layers::dense,
    layers::depthwise_conv1d,
    layers::depthwise_conv2d,
    layers::dot,
    layers::dropout,
    layers::einsum_dense,
    layers::elu,
    layers::embedding,
    layers::flatten,
    layers::gaussian_dropout,
    layers::gaussian_noise,
    layers::global_average_pooling1d,
    layers::global_average_pooling2d,
    layers::global_average_pooling3d,
    layers::global_max_pooling1d,
    layers::global_max_pooling2d,
    layers::global_max_pooling3d,
    layers::group_normalization,
    layers::identity,
    layers::layer_normalization,
    layers::layer_scale,
    layers::leaky_relu,
    layers::masking,
    layers::max_pooling1d,
    layers::max_pooling2d,
    layers::max_pooling3d,
    layers::maximum,
    layers::minimum,
    layers::multiply,
    layers::normalization,
    layers::permute,
    layers::prelu,
    layers::relu,
    layers::repeat_vector,
    layers::rescaling,
    layers::reshape,
    layers::resizing,
    layers::rms_normalization,
    layers::separable_conv1d,
    layers::separable_conv2d,
    layers::softmax,
    layers::spatial_dropout1d,
    layers::spatial_dropout2d,
    layers::spatial_dropout3d,
    layers::spectral_normalization,
    layers::stochastic_depth,
    layers::subtract,
    layers::time_distributed,
    layers::unit_normalization,
    layers::up_sampling1d,
    layers::up_sampling2d,
    layers::up_sampling3d,
    layers::zero_padding1d,
    layers::zero_padding2d,
    layers::zero_padding3d,
};

// Classes of Keras that are refused for a reason of their own.
struct Refusal {
  const char* class_name;
  const char* why;
};
constexpr Refusal kRefusals[] = {
    {"Lambda", "it holds Python code, which never runs here: use built-in layers"},
    {"LSTM", "recurrent layers come later"},
    {"GRU", "recurrent layers come later"},
    {"SimpleRNN", "recurrent layers come later"},
    {"ConvLSTM1D", "recurrent layers come later"},
    {"ConvLSTM2D", "recurrent layers come later"},
    {"ConvLSTM3D", "recurrent layers come later"},
    {"RNN", "recurrent layers come later"},
    {"Bidirectional", "recurrent layers come later"},
    {"Attention", "attention layers come later"},
    {"AdditiveAttention", "attention layers come later"},
    {"MultiHeadAttention", "attention layers come later"},
    {"GroupQueryAttention", "attention layers come later"},
    {"StringLookup", "preprocessing layers come later: prepare the data before"},
    {"IntegerLookup", "preprocessing layers come later: prepare the data before"},
    {"TextVectorization", "preprocessing layers come later: prepare the data before"},
    {"Hashing", "preprocessing layers come later: prepare the data before"},
    {"CategoryEncoding", "preprocessing layers come later: prepare the data before"},
    {"Discretization", "preprocessing layers come later: prepare the data before"},
    {"TFSMLayer", "it wraps code of another framework, which never runs here"},
    {"TorchModuleWrapper", "it wraps code of another framework, which never runs here"},
    {"JaxLayer", "it wraps code of another framework, which never runs here"},
    {"FlaxLayer", "it wraps code of another framework, which never runs here"},
};

// Keys that every layer of Keras has, and that change no number here.
constexpr const char* kCommonKeys[] = {"name", "trainable", "dtype", "batch_shape",
                                       "batch_input_shape"};

bool is_common(const std::string& key) {
  return std::find(std::begin(kCommonKeys), std::end(kCommonKeys), key) != std::end(kCommonKeys);
}

// Keras' policy that keeps weights in float32 and multiplies in bfloat16.
constexpr const char* kMixedBf16 = "mixed_bfloat16";

// A dtype, or the policy object of that name.
bool is_dtype(const nlohmann::json& dtype, const char* name) {
  if (dtype.is_string()) return dtype == name;
  return dtype.is_object() && dtype.value("/config/name"_json_pointer, "") == name;
}

// Whether layers have it, in whatever numerics they then compute.
bool is_known_dtype(const nlohmann::json& dtype) {
  return dtype.is_null() || is_dtype(dtype, "float32") || is_dtype(dtype, kMixedBf16);
}

std::string kind_name(const ConfigKey& key) {
  switch (key.kind) {
    case KeyKind::integer:
      return "a whole number";
    case KeyKind::number:
      return "a number";
    case KeyKind::flag:
      return "true or false";
    case KeyKind::text:
      return "a string";
    case KeyKind::sizes:
      return fmt::format("a whole number or a list of {}", key.axes);
    case KeyKind::axis:
      return "a whole number or a list of them";
    case KeyKind::shape:
      return "a list of whole numbers";
    default:
      return "the name of a class, or an object with class_name and config";
  }
}

bool is_list_of_integers(const nlohmann::json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(),
                                         [](const auto& item) { return item.is_number_integer(); });
}

// Keras takes 1.0 for 1, and 1 for 1.0.
bool is_integer(const nlohmann::json& value) {
  return value.is_number_integer() ||
         (value.is_number_float() && value.get<double>() == std::floor(value.get<double>()) &&
          std::abs(value.get<double>()) < 1e15);
}

// The value as its kind says, or nothing where it is not of the kind.
Result<nlohmann::json> resolve_value(const ConfigKey& key, const nlohmann::json& value) {
  if (value == key.default_value) {
    if (key.kind != KeyKind::sizes && key.kind != KeyKind::initializer &&
        key.kind != KeyKind::activation) {
      return value;
    }
  }
  const Error wrong{fmt::format("{} must be {}, not {}", key.name, kind_name(key), value.dump()),
                    ErrorKind::usage};
  LOCKSTEP_RETURN_IF_ERROR(check_is_keras(key.name, value));
  switch (key.kind) {
    case KeyKind::integer:
      if (!is_integer(value)) return wrong;
      return nlohmann::json(value.is_number_integer() ? value.get<int64_t>()
                                                      : static_cast<int64_t>(value.get<double>()));
    case KeyKind::number:
      if (!value.is_number() || !std::isfinite(value.get<double>())) return wrong;
      return nlohmann::json(value.get<double>());
    case KeyKind::flag:
      if (!value.is_boolean()) return wrong;
      return value;
    case KeyKind::text:
      if (!value.is_string()) return wrong;
      return value;
    case KeyKind::sizes:
      if (value.is_null()) return value;
      if (value.is_number_integer()) {
        return nlohmann::json(std::vector<int64_t>(static_cast<size_t>(key.axes), value));
      }
      if (!is_list_of_integers(value) || value.size() != static_cast<size_t>(key.axes))
        return wrong;
      return value;
    case KeyKind::axis:
      if (!value.is_number_integer() && !is_list_of_integers(value)) return wrong;
      return value;
    case KeyKind::shape:
      if (!is_list_of_integers(value)) return wrong;
      return value;
    case KeyKind::activation:
      if (value.is_null()) return nlohmann::json("linear");
      if (value.is_string()) return value;
      if (!class_name_of(value).empty()) return value;
      return wrong;
    case KeyKind::initializer:
      return resolve_initializer(value);
    case KeyKind::regularizer:
      return resolve_regularizer(value);
    case KeyKind::constraint:
      return resolve_constraint(value);
    case KeyKind::any:
      return value;
  }
  return wrong;
}

}  // namespace

// "MaxPooling2D" -> "max_pooling2d", as Keras' to_snake_case does.
std::string LayerType::default_name() const {
  std::string name;
  for (size_t i = class_name.rfind('.') + 1; i < class_name.size(); ++i) {
    const char c = class_name[i];
    const bool upper = std::isupper(static_cast<unsigned char>(c)) != 0;
    const bool after_lower =
        i > 0 && std::islower(static_cast<unsigned char>(class_name[i - 1])) != 0;
    const bool before_lower =
        i + 1 < class_name.size() && std::islower(static_cast<unsigned char>(class_name[i + 1]));
    if (upper && i > 0 && (after_lower || before_lower)) name += '_';
    name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return name;
}

std::vector<std::string> layer_class_names() {
  std::vector<std::string> names;
  for (const auto make : kLayers) names.push_back(make().class_name);
  return names;
}

Result<LayerType> layer_type(const std::string& class_name) {
  for (const auto make : kLayers) {
    LayerType type = make();
    if (type.class_name == class_name) return type;
  }
  std::vector<std::string> operations;
  for (LayerType& type : layers::operation_types()) {
    if (type.class_name == class_name) return std::move(type);
    operations.push_back(type.class_name);
  }
  if (class_name.starts_with("keras.ops.")) {
    return usage_error(unknown_name_message("operation", class_name, operations));
  }
  for (const Refusal& refusal : kRefusals) {
    if (class_name == refusal.class_name) {
      return usage_error(fmt::format("layer {} is refused: {}", class_name, refusal.why));
    }
  }
  return usage_error(unknown_name_message("layer", class_name, layer_class_names()));
}

Result<nlohmann::json> resolve_keys(const std::string& owner, const std::vector<ConfigKey>& keys,
                                    const nlohmann::json& config) {
  const auto error = [&](const std::string& what) {
    return usage_error(fmt::format("{}: {}", owner, what));
  };
  nlohmann::json resolved = nlohmann::json::object();
  std::vector<std::string> known;
  for (const ConfigKey& key : keys) {
    known.push_back(key.name);
    const auto given = config.find(key.name);
    if (given == config.end() && key.is_required()) return error(key.name + " is missing");
    auto value = resolve_value(key, given == config.end() ? key.default_value : *given);
    if (!value.ok()) return error(value.error().message);
    resolved[key.name] = std::move(*value);
  }
  for (const auto& [key, value] : config.items()) {
    if (key == "dtype" && !resolved.contains(key) && !is_known_dtype(value)) {
      return error(
          fmt::format("dtype {} is not supported: layers are float32 or mixed_bfloat16, --numerics "
                      "chooses how they compute",
                      value.dump()));
    }
    if (resolved.contains(key) || is_common(key)) continue;
    return error(unknown_name_message("key", key, known));
  }
  return resolved;
}

bool asks_for_bf16(const nlohmann::json& config) {
  if (!config.is_structured()) return false;
  for (const auto& [key, value] : config.items()) {
    if (config.is_object() && key == "dtype" && is_dtype(value, kMixedBf16)) return true;
    if (asks_for_bf16(value)) return true;
  }
  return false;
}

Result<nlohmann::json> resolve_config(const LayerType& type, const std::string& name,
                                      const nlohmann::json& config) {
  return resolve_keys(fmt::format("layer '{}' ({})", name, type.class_name), type.keys, config);
}

}  // namespace lockstep
