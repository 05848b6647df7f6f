// Cuts CSV text into fields and lines, as it comes in pieces.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "host/core/result.h"

namespace lockstep {

struct CsvField {
  std::string_view text;  // without quotes, spaces around it cut unless it was quoted
  bool quoted = false;
  int64_t line = 1;    // where it begins
  int64_t column = 0;  // from 0
};

// Fields may be quoted, with "" for a quote, and then hold commas and line ends. Lines end in \n or
// \r\n; those without any character are passed over. Errors begin with the file's name.
class CsvParser {
 public:
  // Calls field() for each field, then end_of_row(number of fields, line where it began).
  using OnField = std::function<Status(const CsvField&)>;
  using OnRow = std::function<Status(int64_t fields, int64_t line)>;
  CsvParser(std::string path, OnField on_field, OnRow on_row)
      : path_(std::move(path)), on_field_(std::move(on_field)), on_row_(std::move(on_row)) {}

  Status take(std::string_view piece);
  Status end();  // the text is over

 private:
  enum class State { begin, plain, quoted, quote_in_quoted };
  Status take(char c);
  Status check_room(size_t bytes) const;
  Status end_field();
  Status end_row();
  Error error(const std::string& what) const;

  const std::string path_;
  const OnField on_field_;
  const OnRow on_row_;
  State state_ = State::begin;
  std::string text_;
  bool quoted_ = false;
  int64_t line_ = 1;
  int64_t row_line_ = 1;
  int64_t field_line_ = 1;
  int64_t fields_ = 0;  // of this row so far
  bool seen_any_ = false;
};

}  // namespace lockstep
