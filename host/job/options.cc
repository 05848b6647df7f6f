#include "host/job/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "host/core/suggest.h"

namespace lockstep {
namespace {

std::string type_name(OptionType type) {
  switch (type) {
    case OptionType::text:
      return "text";
    case OptionType::integer:
      return "a whole number";
    case OptionType::number:
      return "a number";
    case OptionType::boolean:
      return "true or false";
    case OptionType::list:
      return "a list of names";
    case OptionType::object:
      return "a name or an object with a name";
    case OptionType::outputs:
      return "one value, or JSON with one for each output of the model";
    case OptionType::integers:
      return "a whole number or a list of them";
    case OptionType::calls:
      return "a list of calls or of objects";
  }
  return "";
}

bool has_type(const nlohmann::json& value, OptionType type) {
  switch (type) {
    case OptionType::text:
      return value.is_string();
    case OptionType::integer:
      return value.is_number_integer();
    case OptionType::number:
      return value.is_number();
    case OptionType::boolean:
      return value.is_boolean();
    case OptionType::list:
      return value.is_array();
    case OptionType::object:
      return value.is_string() || value.is_object();
    case OptionType::outputs:
      return value.is_string() || value.is_number() || value.is_structured();
    case OptionType::integers:
      return value.is_number_integer() ||
             (value.is_array() && !value.empty() &&
              std::all_of(value.begin(), value.end(),
                          [](const nlohmann::json& one) { return one.is_number_integer(); }));
    case OptionType::calls:
      return value.is_array() || value.is_string();
  }
  return false;
}

Error wrong_type(const OptionSpec& option, const std::string& given, const std::string& source) {
  return usage_error(fmt::format("{}: '{}' is not {}", source, given, type_name(option.type)));
}

nlohmann::json split_list(const std::string& text) {
  nlohmann::json list = nlohmann::json::array();
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) list.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return list;
}

}  // namespace

std::vector<OptionSpec> job_options() {
  using enum OptionType;
  return {
      {"model", text, nullptr, "FILE|NAME",
       "a model saved by Keras (.keras, .h5, .json), or seed-cnn, mlp, lenet, resnet20, resnet50"},
      {"data", text, nullptr, "PATH|NAME",
       "folder of IDX or NPY files, NPZ or CSV file, or digits (generated)"},
      {"target", list, nlohmann::json::array(), "NAMES",
       "columns or arrays that are the targets [the last column; y]"},
      {"missing", number, nullptr, "VALUE", "stands for missing values of a CSV file's inputs"},
      {"epochs", integer, 1, "N", "passes over the training data"},
      {"batch_size", integer, 32, "B", "rows of a global batch, over all nodes"},
      {"optimizer", object, "adam", "NAME",
       "a Keras optimizer (adam, sgd, …), or an object of its arguments"},
      {"learning_rate", number, nullptr, "LR", "of the optimizer; its default is Keras'"},
      {"loss", outputs, "sparse_categorical_crossentropy", "NAME|JSON",
       "loss: Keras' name, or its class: '{\"class_name\": \"Huber\", \"config\": {\"delta\": "
       "0.5}}'; of several outputs a list, or '{\"OUTPUT\": LOSS, …}'"},
      {"loss_weights", outputs, nullptr, "JSON",
       "of several outputs: '{\"OUTPUT\": 0.2, …}' or a list [1]"},
      {"metrics", outputs, nullptr, "NAMES|JSON",
       "metrics, with commas [accuracy]; of several outputs '{\"OUTPUT\": [NAMES], …}' [none]"},
      {"weighted_metrics", outputs, nullptr, "NAMES|JSON",
       "metrics that count each row by its weight [none]"},
      {"validation_split", number, 0.0, "F", "share of the training rows, the last ones, held out"},
      {"validation_data", text, "", "PATH|NAME",
       "data whose validation or test rows are the validation data"},
      {"validation_steps", integer, 0, "N", "validate on the first N batches only (0: on all)"},
      {"class_weight", object, nullptr, "JSON",
       "weights of rows by class: '{\"0\": 1, \"1\": 3.5}'"},
      {"steps_per_epoch", integer, 0, "N",
       "steps of an epoch; passes over the data go on across epochs (0: one pass)"},
      {"initial_epoch", integer, 0, "N", "epoch at which to begin; --epochs is where it ends"},
      {"validation_freq", integers, 1, "N", "validate every N epochs, or after epochs 'A,B,…'"},
      {"callbacks", calls, nlohmann::json::array(), "CALLS|JSON",
       "Keras' callbacks: 'EarlyStopping(patience=3), TerminateOnNaN()'; lockstep inspect "
       "--callbacks lists them"},
      {"shuffle", boolean, true, "", "a new order of samples each epoch"},
      {"seed", integer, 0, "S", "of weights, order of samples and dropout"},
      {"partitions", integer, 0, "P",
       "shares of a batch, a power of two; fixes the bits (0: from model and batch size)"},
      {"strategy", text, "synchronous", "NAME", "how replicas agree: synchronous"},
      {"numerics", text, "auto", "NAME",
       "what decides bits: cpu-avx2, cpu-avx512, cuda-fp32, cuda-tf32, cuda-bf16; auto: by the "
       "device"},
      {"exact", text, "on", "on|off",
       "off: NCCL adds the gradients of a node's GPUs; bits then depend on their number"},
  };
}

nlohmann::json default_values(const std::vector<OptionSpec>& options) {
  nlohmann::json values = nlohmann::json::object();
  for (const OptionSpec& option : options) values[option.key] = option.default_value;
  return values;
}

std::string flag_name(const OptionSpec& option) {
  std::string name = "--" + option.key;
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::string environment_name(const OptionSpec& option) {
  std::string name = "LOCKSTEP_" + option.key;
  std::transform(name.begin(), name.end(), name.begin(), [](char c) {
    return static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  });
  return name;
}

Result<nlohmann::json> parse_option_text(const OptionSpec& option, const std::string& text,
                                         const std::string& source) {
  const char* end = text.data() + text.size();
  switch (option.type) {
    case OptionType::integer: {
      int64_t value = 0;
      const auto parsed = std::from_chars(text.data(), end, value);
      if (parsed.ec != std::errc() || parsed.ptr != end) return wrong_type(option, text, source);
      return nlohmann::json(value);
    }
    case OptionType::number: {
      double value = 0;
      const auto parsed = std::from_chars(text.data(), end, value);
      if (parsed.ec != std::errc() || parsed.ptr != end || !std::isfinite(value)) {
        return wrong_type(option, text, source);
      }
      return nlohmann::json(value);
    }
    case OptionType::boolean:
      if (text == "true" || text == "1") return nlohmann::json(true);
      if (text == "false" || text == "0") return nlohmann::json(false);
      return wrong_type(option, text, source);
    case OptionType::list:
      return split_list(text);
    case OptionType::object: {
      if (!text.starts_with('{')) return nlohmann::json(text);
      const auto object = nlohmann::json::parse(text, nullptr, false);
      if (object.is_discarded()) return usage_error(source + ": '" + text + "' is not JSON");
      return object;
    }
    case OptionType::outputs: {
      const auto number = nlohmann::json::parse(text, nullptr, false);
      if (number.is_number()) return number;
      if (!text.starts_with('{') && !text.starts_with('[')) return nlohmann::json(text);
      if (number.is_discarded()) return usage_error(source + ": '" + text + "' is not JSON");
      return number;
    }
    case OptionType::integers: {
      const auto numbers = nlohmann::json::parse("[" + text + "]", nullptr, false);
      if (numbers.is_discarded() || !has_type(numbers, option.type)) {
        return wrong_type(option, text, source);
      }
      return numbers.size() == 1 ? numbers[0] : numbers;
    }
    case OptionType::calls: {
      if (!text.starts_with('[')) return nlohmann::json::array({text});
      const auto list = nlohmann::json::parse(text, nullptr, false);
      if (list.is_discarded()) return usage_error(source + ": '" + text + "' is not JSON");
      return list;
    }
    case OptionType::text:
      return nlohmann::json(text);
  }
  return wrong_type(option, text, source);
}

Status check_option_object(const std::vector<OptionSpec>& options, const nlohmann::json& object,
                           const std::string& source) {
  if (!object.is_object()) return usage_error(source + ": expected a JSON object of job options");
  std::vector<std::string> known;
  for (const OptionSpec& option : options) known.push_back(option.key);
  for (const auto& item : object.items()) {
    const std::string& key = item.key();
    const auto option = std::find_if(options.begin(), options.end(),
                                     [&](const OptionSpec& spec) { return spec.key == key; });
    if (option == options.end()) {
      return usage_error(
          fmt::format("{}: {}", source, unknown_name_message("job key", key, known)));
    }
    if (!has_type(item.value(), option->type)) {
      return wrong_type(*option, item.value().dump(), fmt::format("{}: key '{}'", source, key));
    }
  }
  return {};
}

Status check_range(const char* flag, int64_t value, int64_t least, int64_t most) {
  if (least <= value && value <= most) return {};
  return usage_error(fmt::format("{} {}: must be between {} and {}", flag, value, least, most));
}

}  // namespace lockstep
