#include "host/cli/arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "host/core/files.h"
#include "host/core/suggest.h"

namespace lockstep {
namespace {

const OptionSpec* find_flag(const std::vector<OptionSpec>& options, const std::string& flag) {
  for (const OptionSpec& option : options) {
    if (flag_name(option) == flag) return &option;
  }
  return nullptr;
}

Error unknown_flag(const std::vector<OptionSpec>& options, const std::string& flag) {
  std::vector<std::string> known;
  for (const OptionSpec& option : options) known.push_back(flag_name(option));
  return usage_error(unknown_name_message("flag", flag, known));
}

// Reads arguments[*i] (and its value) into `values`.
Status parse_flag(const std::vector<OptionSpec>& options, const std::vector<std::string>& arguments,
                  size_t* i, nlohmann::json* values) {
  std::string flag = arguments[*i];
  if (flag.rfind("--", 0) != 0) {
    return usage_error(fmt::format("'{}' is not a flag: flags begin with --", flag));
  }
  std::string text;
  const size_t equals = flag.find('=');
  const bool inline_value = equals != std::string::npos;
  if (inline_value) {
    text = flag.substr(equals + 1);
    flag.resize(equals);
  }
  if (flag.rfind("--no-", 0) == 0 && !inline_value) {
    const OptionSpec* negated = find_flag(options, "--" + flag.substr(5));
    if (negated != nullptr && negated->type == OptionType::boolean) {
      (*values)[negated->key] = false;
      return {};
    }
  }
  const OptionSpec* option = find_flag(options, flag);
  if (option == nullptr) return unknown_flag(options, flag);
  if (option->type == OptionType::boolean && !inline_value) {
    (*values)[option->key] = true;
    return {};
  }
  if (!inline_value) {
    if (*i + 1 >= arguments.size()) return usage_error(flag + " needs a value");
    text = arguments[++*i];
  }
  LOCKSTEP_ASSIGN((*values)[option->key], parse_option_text(*option, text, flag));
  return {};
}

Status read_environment(const std::vector<OptionSpec>& options, nlohmann::json* values) {
  for (const OptionSpec& option : options) {
    const std::string name = environment_name(option);
    const char* text = std::getenv(name.c_str());
    if (text == nullptr) continue;
    LOCKSTEP_ASSIGN((*values)[option.key], parse_option_text(option, text, name));
  }
  return {};
}

Result<nlohmann::json> read_job_file(const std::string& path) {
  LOCKSTEP_ASSIGN(const std::string text, read_file(path));
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (json.is_discarded()) {
    return usage_error(fmt::format("the job file '{}' is not JSON", path));
  }
  LOCKSTEP_RETURN_IF_ERROR(
      check_option_object(job_options(), json, fmt::format("the job file '{}'", path)));
  return json;
}

}  // namespace

Result<nlohmann::json> parse_arguments(const std::vector<OptionSpec>& options,
                                       const std::vector<std::string>& arguments,
                                       const nlohmann::json& base) {
  nlohmann::json values = default_values(options);
  values.update(base);
  nlohmann::json environment = nlohmann::json::object();
  LOCKSTEP_RETURN_IF_ERROR(read_environment(options, &environment));
  nlohmann::json flags = nlohmann::json::object();
  for (size_t i = 0; i < arguments.size(); ++i) {
    LOCKSTEP_RETURN_IF_ERROR(parse_flag(options, arguments, &i, &flags));
  }
  const std::string job_file = flags.value("job", environment.value("job", ""));
  if (!job_file.empty()) {
    LOCKSTEP_ASSIGN(const auto file, read_job_file(job_file));
    values.update(file);
  }
  values.update(environment);
  values.update(flags);
  return values;
}

Result<Shape> shape_from(const nlohmann::json& texts, const std::string& flag) {
  const OptionSpec size{flag, OptionType::integer, {}, "", ""};
  Shape shape;
  for (const std::string text : texts) {
    LOCKSTEP_ASSIGN(const auto value, parse_option_text(size, text, flag));
    shape.push_back(value);
  }
  return shape;
}

std::string options_help(const std::vector<OptionSpec>& options) {
  std::string text;
  for (const OptionSpec& option : options) {
    std::string left = flag_name(option);
    if (option.type == OptionType::boolean) {
      left += option.default_value == true ? " / --no-" + flag_name(option).substr(2) : "";
    } else {
      left += " " + option.placeholder;
    }
    std::string shown;
    const nlohmann::json& value = option.default_value;
    const bool has_default = !value.is_null() && value != "" && value != false;
    if (has_default && option.type != OptionType::boolean) {
      shown = fmt::format(" [{}]", value.is_string() ? value.get<std::string>() : value.dump());
    }
    text += fmt::format("  {:<30} {}{}\n", left, option.help, shown);
  }
  return text;
}

}  // namespace lockstep
