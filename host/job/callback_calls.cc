// Callbacks as Python writes them.
#include <fmt/format.h>

#include <cctype>
#include <charconv>
#include <cmath>
#include <string_view>

#include "host/job/callbacks.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// What stands without quotes: numbers, names, paths.
bool is_bare(char c) { return is_word(c) || std::string_view(".-+/").find(c) != std::string::npos; }

class CallParser {
 public:
  explicit CallParser(const std::string& text) : text_(text) {}

  Result<Json> calls() {
    Json list = Json::array();
    while (skip_spaces(), at_ < text_.size()) {
      LOCKSTEP_ASSIGN(Json call, one_call());
      list.push_back(std::move(call));
      if (!take(',') && at_ < text_.size()) return expected("a comma between callbacks");
    }
    return list;
  }

 private:
  Result<Json> one_call() {
    const std::string name = word();
    const bool is_name = !name.empty() && std::isdigit(static_cast<unsigned char>(name[0])) == 0;
    if (!is_name) return expected("a callback, such as EarlyStopping(patience=3)");
    Json config = Json::object();
    if (!take('(')) return Json{{"class_name", name}, {"config", config}};
    while (!take(')')) {
      const std::string key = word();
      if (key.empty() || !take('=')) return expected(name + "'s arguments as key=value");
      LOCKSTEP_ASSIGN(config[key], value());
      if (!take(',') && peek() != ')') return expected("a comma or the closing parenthesis");
    }
    return Json{{"class_name", name}, {"config", config}};
  }

  Result<Json> value() {
    const char first = peek();
    if (first == '\'' || first == '"') return quoted(first);
    if (first == '{' || first == '[') return structure();
    const size_t begin = at_;
    while (at_ < text_.size() && is_bare(text_[at_])) ++at_;
    const std::string text = text_.substr(begin, at_ - begin);
    if (text.empty()) return expected("a value");
    if (text == "True" || text == "true") return Json(true);
    if (text == "False" || text == "false") return Json(false);
    if (text == "None" || text == "null") return Json();
    const Json number = Json::parse(text, nullptr, false);
    if (number.is_number()) return number;
    double real = 0;  // also "1." and ".5", which JSON does not have
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), real);
    const bool is_number = parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
    if (is_number && std::isfinite(real)) return Json(real);
    return Json(text);
  }

  Result<Json> quoted(char quote) {
    const size_t end = text_.find(quote, at_ + 1);
    if (end == std::string::npos) return expected("the closing quote");
    const std::string text = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return Json(text);
  }

  // To the bracket that closes it; keys of Python's dictionaries may be numbers.
  Result<Json> structure() {
    const size_t begin = at_;
    int depth = 0;
    do {
      if (at_ == text_.size()) return expected("the closing bracket");
      if (text_[at_] == '{' || text_[at_] == '[') ++depth;
      if (text_[at_] == '}' || text_[at_] == ']') --depth;
      ++at_;
    } while (depth > 0);
    std::string json;
    for (size_t i = begin; i < at_; ++i) {
      const bool begins_key = text_[i] == '{' || text_[i] == ',';
      json += text_[i] == '\'' ? '"' : text_[i];
      if (!begins_key) continue;
      size_t next = i + 1;
      while (next < at_ && text_[next] == ' ') ++next;
      size_t end = next;
      while (end < at_ && std::isdigit(static_cast<unsigned char>(text_[end])) != 0) ++end;
      if (end == next || end == at_ || text_[end] != ':') continue;
      json += "\"" + text_.substr(next, end - next) + "\"";
      i = end - 1;
    }
    Json parsed = Json::parse(json, nullptr, false);
    if (!parsed.is_discarded()) return parsed;
    at_ = begin;
    return expected("an object or a list as JSON writes it");
  }

  std::string word() {
    skip_spaces();
    const size_t begin = at_;
    while (at_ < text_.size() && is_word(text_[at_])) ++at_;
    return text_.substr(begin, at_ - begin);
  }

  char peek() {
    skip_spaces();
    return at_ < text_.size() ? text_[at_] : '\0';
  }

  bool take(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }

  void skip_spaces() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_])) != 0) ++at_;
  }

  Error expected(const std::string& what) const {
    return usage_error(fmt::format("callbacks: expected {} at '{}'", what, text_.substr(at_, 30)));
  }

  const std::string& text_;
  size_t at_ = 0;
};

}  // namespace

Result<Json> parse_calls(const std::string& text) { return CallParser(text).calls(); }

}  // namespace lockstep
