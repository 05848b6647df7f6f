#include "host/data/csv.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>

#include "host/core/digest.h"
#include "host/core/suggest.h"
#include "host/data/byte_source.h"
#include "host/data/csv_parser.h"

namespace lockstep {
namespace {

constexpr size_t kReadBytes = 256 << 10;
constexpr size_t kShownBytes = 40;
constexpr const char* kWeightsColumn = "sample_weight";

enum class ColumnUse { none, input, target, weight };
enum class ColumnType { unknown, number, boolean };

struct Column {
  std::string name;
  ColumnUse use = ColumnUse::none;
  size_t place = 0;  // among those of its use
  ColumnType type = ColumnType::unknown;
};

bool is_missing(const CsvField& field) {
  constexpr std::string_view kMissing[] = {"",    "NA",   "N/A",  "NaN", "nan",
                                           "NAN", "null", "NULL", "None"};
  return std::find(std::begin(kMissing), std::end(kMissing), field.text) != std::end(kMissing);
}

std::optional<double> boolean_of(std::string_view text) {
  if (text == "true" || text == "True" || text == "TRUE") return 1.0;
  if (text == "false" || text == "False" || text == "FALSE") return 0.0;
  return std::nullopt;
}

std::optional<double> number_of(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  double value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

class CsvReader {
 public:
  CsvReader(std::string path, const DataOptions& options)
      : path_(std::move(path)),
        options_(options),
        parser_(
            path_, [this](const CsvField& field) { return take_field(field); },
            [this](int64_t fields, int64_t line) { return end_row(fields, line); }) {}

  Result<CsvTable> read();

 private:
  Status take_field(const CsvField& field);
  Status take_name(const CsvField& field);
  Status take_value(const CsvField& field);
  Result<double> value_of(const CsvField& field, Column* column) const;
  Status end_row(int64_t fields, int64_t line);
  Status assign_columns();
  Status assign_targets();
  Status assign_inputs();
  Status assign(const std::vector<std::string>& names, ColumnUse use);
  Result<size_t> column_named(const std::string& name) const;
  Error error_at(const CsvField& field, const std::string& what) const;

  const std::string path_;
  const DataOptions& options_;
  CsvParser parser_;
  bool has_header_ = false;
  bool header_has_text_ = false;
  std::vector<Column> columns_;
  std::vector<float> row_inputs_;
  std::vector<double> row_targets_;
  float row_weight_ = 1;
  CsvTable table_;
};

Result<CsvTable> CsvReader::read() {
  LOCKSTEP_ASSIGN(const auto source, ByteSource::open(path_));
  Sha256 hash;
  std::vector<uint8_t> piece(kReadBytes);
  size_t count = kReadBytes;
  while (count == kReadBytes) {
    LOCKSTEP_ASSIGN(count, source->read(piece.data(), kReadBytes));
    hash.update(piece.data(), count);
    LOCKSTEP_RETURN_IF_ERROR(parser_.take({reinterpret_cast<const char*>(piece.data()), count}));
  }
  if (source->is_cut_short()) {
    return Error{fmt::format("'{}' is a damaged gzip file: it ends early; copy it again", path_)};
  }
  LOCKSTEP_RETURN_IF_ERROR(parser_.end());
  if (!has_header_) return Error{fmt::format("'{}' is empty; write it again", path_)};
  if (table_.rows == 0) {
    return Error{fmt::format("'{}' has a header and no rows; write it again", path_)};
  }
  table_.sha256 = hash.hex();
  return std::move(table_);
}

Error CsvReader::error_at(const CsvField& field, const std::string& what) const {
  const auto column = static_cast<size_t>(field.column);
  const std::string name =
      has_header_ && column < columns_.size() ? fmt::format(" ('{}')", columns_[column].name) : "";
  return {fmt::format("'{}', line {}, column {}{}: {}", path_, field.line, column + 1, name, what)};
}

Status CsvReader::take_field(const CsvField& field) {
  return has_header_ ? take_value(field) : take_name(field);
}

Status CsvReader::take_name(const CsvField& field) {
  if (field.text.empty()) {
    return error_at(field, "the header has no name here; give every column a name");
  }
  header_has_text_ = header_has_text_ || !number_of(field.text);
  columns_.push_back({std::string(field.text)});
  return {};
}

Status CsvReader::take_value(const CsvField& field) {
  if (static_cast<size_t>(field.column) >= columns_.size()) return {};  // end_row() speaks of it
  Column& column = columns_[static_cast<size_t>(field.column)];
  if (column.use == ColumnUse::none) return {};
  LOCKSTEP_ASSIGN(const double value, value_of(field, &column));
  if (column.use == ColumnUse::input) row_inputs_[column.place] = static_cast<float>(value);
  if (column.use == ColumnUse::target) row_targets_[column.place] = value;
  if (column.use == ColumnUse::weight) row_weight_ = static_cast<float>(value);
  return {};
}

Result<double> CsvReader::value_of(const CsvField& field, Column* column) const {
  if (is_missing(field)) {
    if (column->use != ColumnUse::input) {
      return error_at(field, "the value is missing; targets and weights must be there");
    }
    if (options_.missing) return *options_.missing;
    return error_at(field, "the value is missing; fill it in, or give --missing VALUE");
  }
  const auto boolean = boolean_of(field.text);
  const auto value = boolean ? boolean : number_of(field.text);
  const std::string shown = fmt::format("'{}{}'", field.text.substr(0, kShownBytes),
                                        field.text.size() > kShownBytes ? "…" : "");
  if (!value) {
    return error_at(field,
                    shown + " is no number; write numbers in its place, or leave the column out");
  }
  const ColumnType type = boolean ? ColumnType::boolean : ColumnType::number;
  if (column->type == ColumnType::unknown) column->type = type;
  if (column->type != type) {
    return error_at(field, fmt::format("{} in a column of {}; write one of the two", shown,
                                       boolean ? "numbers" : "true and false"));
  }
  return *value;
}

Status CsvReader::end_row(int64_t fields, int64_t line) {
  if (!has_header_) {
    LOCKSTEP_RETURN_IF_ERROR(assign_columns());
    has_header_ = true;
    return {};
  }
  if (fields != static_cast<int64_t>(columns_.size())) {
    return Error{
        fmt::format("'{}', line {}: {} field{}, and the header has {}; check its commas "
                    "and quotes",
                    path_, line, fields, fields == 1 ? "" : "s", columns_.size())};
  }
  table_.input_values.insert(table_.input_values.end(), row_inputs_.begin(), row_inputs_.end());
  table_.target_values.insert(table_.target_values.end(), row_targets_.begin(), row_targets_.end());
  if (table_.has_weights) table_.weights.push_back(row_weight_);
  ++table_.rows;
  return {};
}

// What each column is for, once the header is there.
Status CsvReader::assign_columns() {
  std::set<std::string_view> names;
  for (const Column& column : columns_) {
    if (names.insert(column.name).second) continue;
    return Error{
        fmt::format("'{}', line 1: two columns are called '{}'; give each a name of its "
                    "own",
                    path_, column.name)};
  }
  if (!header_has_text_) {
    return Error{
        fmt::format("'{}' begins with numbers, where a line of names must stand; put one "
                    "in front, as in x1,x2,label",
                    path_)};
  }
  for (Column& column : columns_) {
    if (column.name == kWeightsColumn) column.use = ColumnUse::weight;
    table_.has_weights = table_.has_weights || column.name == kWeightsColumn;
  }
  LOCKSTEP_RETURN_IF_ERROR(assign_targets());
  LOCKSTEP_RETURN_IF_ERROR(assign_inputs());
  row_inputs_.resize(table_.inputs.size());
  row_targets_.resize(table_.targets.size());
  return {};
}

Status CsvReader::assign_targets() {
  table_.targets = options_.targets;
  if (table_.targets.empty() && options_.needs_targets) {
    const auto last = std::find_if(columns_.rbegin(), columns_.rend(), [](const Column& column) {
      return column.use == ColumnUse::none;
    });
    if (last != columns_.rend()) table_.targets = {last->name};
  }
  return assign(table_.targets, ColumnUse::target);
}

Status CsvReader::assign_inputs() {
  table_.inputs = options_.inputs;
  if (table_.inputs.empty()) {
    for (const Column& column : columns_) {
      if (column.use == ColumnUse::none) table_.inputs.push_back(column.name);
    }
  }
  if (table_.inputs.empty()) {
    return Error{
        fmt::format("'{}' has no column beside its targets; it needs at least one input, "
                    "and commas between the columns",
                    path_)};
  }
  return assign(table_.inputs, ColumnUse::input);
}

Status CsvReader::assign(const std::vector<std::string>& names, ColumnUse use) {
  for (size_t place = 0; place < names.size(); ++place) {
    LOCKSTEP_ASSIGN(const size_t index, column_named(names[place]));
    Column& column = columns_[index];
    if (column.use != ColumnUse::none) {
      return usage_error(fmt::format("'{}': column '{}' is named twice, or cannot be used so",
                                     path_, column.name));
    }
    column.use = use;
    column.place = place;
  }
  return {};
}

Result<size_t> CsvReader::column_named(const std::string& name) const {
  std::vector<std::string> names;
  for (size_t i = 0; i < columns_.size(); ++i) {
    if (columns_[i].name == name) return i;
    names.push_back(columns_[i].name);
  }
  return usage_error(fmt::format("'{}': {}", path_, unknown_name_message("column", name, names)));
}

}  // namespace

Result<CsvTable> read_csv(const std::string& path, const DataOptions& options) {
  return CsvReader(path, options).read();
}

}  // namespace lockstep
