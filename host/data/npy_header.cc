#include "host/data/npy_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

namespace lockstep {
namespace {

constexpr size_t kMaxHeaderBytes = 64 << 10;
constexpr size_t kShownHeaderBytes = 60;

// Reads the dictionary and nothing else of Python: no nesting, no expressions.
class DictionaryParser {
 public:
  DictionaryParser(std::string_view text, const std::string& called)
      : text_(text), called_(called) {}

  Result<NpyHeader> parse();

 private:
  struct TypeName {
    std::string_view code;
    ElementType type;
  };

  Status read_entry();
  Status read_type();
  Status read_order();
  Status read_shape();
  Status refuse_kind(std::string_view descr) const;
  Result<std::string_view> read_string();
  bool take(std::string_view token);
  void skip_spaces();
  Error malformed(const std::string& what) const;

  std::string_view text_;
  const std::string& called_;
  NpyHeader header_;
  bool has_type_ = false;
  bool has_order_ = false;
  bool has_shape_ = false;
};

Result<NpyHeader> DictionaryParser::parse() {
  if (!take("{")) return malformed("it does not begin with {");
  while (!take("}")) {
    LOCKSTEP_RETURN_IF_ERROR(read_entry());
    if (!take(",") && !text_.starts_with("}")) return malformed("an entry does not end");
  }
  skip_spaces();
  if (!text_.empty()) return malformed("something follows the dictionary");
  if (!has_type_ || !has_order_ || !has_shape_) {
    return malformed("'descr', 'fortran_order' or 'shape' is missing");
  }
  return header_;
}

Status DictionaryParser::read_entry() {
  LOCKSTEP_ASSIGN(const std::string_view key, read_string());
  if (!take(":")) return malformed("a key has no value");
  const bool repeated = (key == "descr" && has_type_) || (key == "shape" && has_shape_) ||
                        (key == "fortran_order" && has_order_);
  if (repeated) return malformed(fmt::format("'{}' stands there twice", key));
  if (key == "descr") return read_type();
  if (key == "fortran_order") return read_order();
  if (key == "shape") return read_shape();
  return malformed("a key is none of 'descr', 'fortran_order' and 'shape'");
}

Status DictionaryParser::read_type() {
  skip_spaces();
  if (text_.starts_with("[")) {
    return Error{
        fmt::format("{} holds a structured type, and only plain numbers can be read: save each of "
                    "its fields as an array of its own",
                    called_)};
  }
  LOCKSTEP_ASSIGN(const std::string_view descr, read_string());
  LOCKSTEP_RETURN_IF_ERROR(refuse_kind(descr));
  constexpr TypeName kTypes[] = {
      {"b1", ElementType::boolean}, {"u1", ElementType::uint8},   {"i1", ElementType::int8},
      {"u2", ElementType::uint16},  {"i2", ElementType::int16},   {"u4", ElementType::uint32},
      {"i4", ElementType::int32},   {"u8", ElementType::uint64},  {"i8", ElementType::int64},
      {"f2", ElementType::float16}, {"f4", ElementType::float32}, {"f8", ElementType::float64}};
  const bool has_order = !descr.empty() && std::string_view("<>|=").find(descr[0]) != descr.npos;
  const std::string_view code = has_order ? descr.substr(1) : descr;
  for (const TypeName& known : kTypes) {
    if (known.code != code) continue;
    header_.type = known.type;
    header_.swapped = descr[0] == '>' && element_bytes(known.type) > 1;
    has_type_ = true;
    return {};
  }
  return Error{fmt::format(
      "{} holds values of type '{}', which cannot be read; save it as float32, float64, an integer "
      "type or bool",
      called_, descr.substr(0, kShownHeaderBytes))};
}

// Kinds that hold no numbers, by name.
Status DictionaryParser::refuse_kind(std::string_view descr) const {
  const size_t at = descr.find_first_not_of("<>|=");
  const char kind = at == descr.npos ? ' ' : descr[at];
  const auto refused = [&](const char* what, const char* remedy) {
    return Error{fmt::format("{} holds {} (type '{}'); {}", called_, what,
                             descr.substr(0, kShownHeaderBytes), remedy)};
  };
  switch (kind) {
    case 'O':
      return refused("objects, which are pickled Python and never read",
                     "save numbers, as in numpy.save(path, numpy.asarray(values, 'float32'))");
    case 'V':
      return refused("a structured type", "save each of its fields as an array of its own");
    case 'U':
    case 'S':
    case 'a':
      return refused("text", "save numbers in its place, such as the class of each row");
    case 'M':
    case 'm':
      return refused("dates or times", "save them as numbers");
    case 'c':
      return refused("complex numbers", "save real and imaginary parts as numbers");
    default:
      return {};
  }
}

Status DictionaryParser::read_order() {
  header_.fortran_order = take("True");
  if (!header_.fortran_order && !take("False")) {
    return malformed("'fortran_order' is neither True nor False");
  }
  has_order_ = true;
  return {};
}

Status DictionaryParser::read_shape() {
  if (!take("(")) return malformed("'shape' is no tuple");
  while (!take(")")) {
    skip_spaces();
    int64_t size = 0;
    const auto parsed = std::from_chars(text_.data(), text_.data() + text_.size(), size);
    if (parsed.ec != std::errc() || size < 0) {
      return malformed("'shape' holds something else than sizes");
    }
    text_.remove_prefix(static_cast<size_t>(parsed.ptr - text_.data()));
    take("L");  // a long of Python 2
    header_.shape.push_back(size);
    if (header_.shape.size() > kNpyMaxRank) {
      return malformed(fmt::format("'shape' has more than {} dimensions", kNpyMaxRank));
    }
    if (!take(",") && !text_.starts_with(")")) return malformed("'shape' does not end");
  }
  has_shape_ = true;
  return {};
}

Result<std::string_view> DictionaryParser::read_string() {
  skip_spaces();
  const char quote = text_.empty() ? '\0' : text_[0];
  const size_t end = quote == '\'' || quote == '"' ? text_.find(quote, 1) : text_.npos;
  if (end == text_.npos) return malformed("a name in quotes is missing");
  const std::string_view content = text_.substr(1, end - 1);
  if (content.find('\\') != content.npos) return malformed("a name holds a backslash");
  text_.remove_prefix(end + 1);
  return content;
}

// Also what stands behind the token's spaces is next.
bool DictionaryParser::take(std::string_view token) {
  skip_spaces();
  if (!text_.starts_with(token)) return false;
  text_.remove_prefix(token.size());
  skip_spaces();
  return true;
}

void DictionaryParser::skip_spaces() {
  text_.remove_prefix(std::min(text_.find_first_not_of(" \t\r\n"), text_.size()));
}

Error DictionaryParser::malformed(const std::string& what) const {
  return {fmt::format("{} has a header that cannot be read: {}; save it again with numpy.save",
                      called_, what)};
}

// The sizes of what the header claims, which need not be there.
Status measure(const std::string& called, NpyHeader* header) {
  int64_t bytes = element_bytes(header->type);
  bool representable = true;
  for (const int64_t size : header->shape) {
    representable = representable && !__builtin_mul_overflow(bytes, size, &bytes);
  }
  int64_t total = 0;
  representable =
      representable && !__builtin_add_overflow(bytes, static_cast<int64_t>(header->bytes), &total);
  if (!representable) {
    return Error{
        fmt::format("{} cannot be what its header says: an array of shape {}; save it "
                    "again with numpy.save",
                    called, to_string(header->shape))};
  }
  if (header->shape.empty()) {
    return Error{fmt::format("{} holds a single number, not rows; save an array of rows", called)};
  }
  if (bytes == 0) {
    return Error{
        fmt::format("{} holds no values: its shape is {}; save an array with rows and values",
                    called, to_string(header->shape))};
  }
  header->values = static_cast<size_t>(bytes);
  return {};
}

std::optional<size_t> little_endian(std::string_view bytes, size_t count) {
  if (bytes.size() < count) return std::nullopt;
  size_t value = 0;
  for (size_t i = 0; i < count; ++i) value |= size_t{static_cast<uint8_t>(bytes[i])} << (8 * i);
  return value;
}

}  // namespace

Result<NpyHeader> parse_npy_header(std::string_view file, const std::string& called) {
  const size_t version_at = kNpyMagic.size();
  if (!file.starts_with(kNpyMagic)) {
    return Error{
        fmt::format("{} is no NPY array: it does not begin as one; save it with "
                    "numpy.save",
                    called)};
  }
  const auto version = little_endian(file.substr(version_at), 1);
  if (version && (*version < 1 || *version > 3)) {
    return Error{
        fmt::format("{} is of version {} of NPY, and versions 1 to 3 can be read; save it "
                    "again with numpy.save",
                    called, *version)};
  }
  const size_t length_bytes = version && *version == 1 ? 2 : 4;
  const size_t length_at = std::min(version_at + 2, file.size());
  const auto length = little_endian(file.substr(length_at), length_bytes);
  if (length && *length > kMaxHeaderBytes) {
    return Error{
        fmt::format("{} has a header of {} bytes, and at most {} can be read; save it "
                    "again with numpy.save",
                    called, *length, kMaxHeaderBytes)};
  }
  const size_t text_at = length_at + length_bytes;
  if (!length || file.size() - text_at < *length) {
    return Error{fmt::format("{} ends within its header; copy or save it again", called)};
  }
  LOCKSTEP_ASSIGN(NpyHeader header,
                  DictionaryParser(file.substr(text_at, *length), called).parse());
  header.bytes = text_at + *length;
  LOCKSTEP_RETURN_IF_ERROR(measure(called, &header));
  return header;
}

}  // namespace lockstep
