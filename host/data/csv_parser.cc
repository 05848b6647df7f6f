#include "host/data/csv_parser.h"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep {
namespace {

constexpr size_t kMaxFieldBytes = 64 << 10;
constexpr int64_t kMaxFields = 1 << 20;
constexpr std::string_view kSpecial("\n\r,\" \t\0", 7);
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

}  // namespace

Error CsvParser::error(const std::string& what) const {
  return {fmt::format("'{}', line {}, column {}: {}", path_, field_line_, fields_ + 1, what)};
}

Status CsvParser::take(std::string_view piece) {
  if (!seen_any_ && piece.starts_with(kByteOrderMark)) piece.remove_prefix(kByteOrderMark.size());
  seen_any_ = seen_any_ || !piece.empty();
  for (size_t at = 0; at < piece.size(); ++at) {
    // What stands within a field and means nothing, in one go.
    const bool within = state_ == State::plain || state_ == State::quoted;
    const size_t end = std::min(piece.find_first_of(kSpecial, at), piece.size());
    if (within && end > at) {
      LOCKSTEP_RETURN_IF_ERROR(check_room(end - at));
      text_.append(piece, at, end - at);
      at = end;
      if (at == piece.size()) break;
    }
    LOCKSTEP_RETURN_IF_ERROR(take(piece[at]));
  }
  return {};
}

Status CsvParser::check_room(size_t bytes) const {
  if (bytes <= kMaxFieldBytes - text_.size()) return {};
  return error(fmt::format("a field of more than {} bytes; check for a quote that is not closed",
                           kMaxFieldBytes));
}

Status CsvParser::take(char c) {
  const int64_t line = line_;
  if (c == '\n') ++line_;
  if (c == '\0') return error("a NUL character: this is no text; check that it is the right file");
  if (state_ == State::quoted) {
    if (c == '"') {
      state_ = State::quote_in_quoted;
      return {};
    }
  } else if (c == '"' && state_ == State::quote_in_quoted) {
    state_ = State::quoted;
  } else if (c == ',') {
    return end_field();
  } else if (c == '\n') {
    // Without a field before it and without a character: a line that holds nothing.
    const bool blank = fields_ == 0 && !quoted_ && (text_.empty() || text_ == "\r");
    if (!blank) return end_row();
    text_.clear();
    state_ = State::begin;
    row_line_ = field_line_ = line_;
    return {};
  } else if (state_ == State::quote_in_quoted) {
    if (c == '\r' || c == ' ' || c == '\t') return {};
    return error("text follows a closing quote; write a quote within a quoted field as \"\"");
  } else if (c == '"' && trimmed(text_).empty()) {
    text_.clear();
    quoted_ = true;
    field_line_ = line;
    state_ = State::quoted;
    return {};
  } else {
    state_ = State::plain;
  }
  LOCKSTEP_RETURN_IF_ERROR(check_room(1));
  text_ += c;
  return {};
}

Status CsvParser::end_field() {
  std::string_view text = text_;
  if (!quoted_) {
    if (text.ends_with('\r')) text.remove_suffix(1);
    text = trimmed(text);
  }
  if (fields_ >= kMaxFields) return error(fmt::format("more than {} columns", kMaxFields));
  LOCKSTEP_RETURN_IF_ERROR(on_field_({text, quoted_, field_line_, fields_}));
  ++fields_;
  text_.clear();
  quoted_ = false;
  state_ = State::begin;
  field_line_ = line_;
  return {};
}

Status CsvParser::end_row() {
  LOCKSTEP_RETURN_IF_ERROR(end_field());
  LOCKSTEP_RETURN_IF_ERROR(on_row_(fields_, row_line_));
  fields_ = 0;
  row_line_ = field_line_ = line_;
  return {};
}

Status CsvParser::end() {
  if (state_ == State::quoted) return error("a quote is not closed before the end of the file");
  const bool blank = fields_ == 0 && !quoted_ && (text_.empty() || text_ == "\r");
  return blank ? Status{} : end_row();
}

}  // namespace lockstep
