#include "host/keras/hdf5.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "host/core/check.h"
#include "host/keras/hdf5_pieces.h"

namespace lockstep {
namespace {

constexpr size_t kVariableBytes = 16;  // of a variable text: length, collection, index
constexpr int kMostParts = 1024;       // that a long list of texts is cut into

// "layers/dense/vars" as its parts.
std::vector<std::string> parts_of(const std::string& object) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < object.size();) {
    const size_t end = std::min(object.find('/', begin), object.size());
    if (end > begin) parts.push_back(object.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::optional<int64_t> number_in(const std::string& name) {
  int64_t value = 0;
  const char* end = name.data() + name.size();
  const auto parsed = std::from_chars(name.data(), end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end || value < 0) return std::nullopt;
  return value;
}

std::optional<ElementType> element_of(const Hdf5Type& type) {
  if (type.kind == Hdf5Type::Kind::floating) {
    if (type.bytes == 2) return ElementType::float16;
    if (type.bytes == 4) return ElementType::float32;
    if (type.bytes == 8) return ElementType::float64;
  }
  if (type.kind == Hdf5Type::Kind::integer) {
    if (type.bytes == 1) return type.is_signed ? ElementType::int8 : ElementType::uint8;
    if (type.bytes == 2) return type.is_signed ? ElementType::int16 : ElementType::uint16;
    if (type.bytes == 4) return type.is_signed ? ElementType::int32 : ElementType::uint32;
    if (type.bytes == 8) return type.is_signed ? ElementType::int64 : ElementType::uint64;
  }
  return std::nullopt;
}

// An attribute's message in its parts.
struct Attribute {
  std::string name;
  std::optional<Hdf5Type> type;
  std::optional<Shape> shape;
  std::string_view values;
};

std::optional<Attribute> read_attribute(std::string_view content) {
  Hdf5Cursor cursor(content);
  const uint64_t version = cursor.number(1);
  const uint64_t flags = cursor.number(1);
  const uint64_t name_size = cursor.number(2);
  const uint64_t type_size = cursor.number(2);
  const uint64_t space_size = cursor.number(2);
  if (version < 1 || version > 3 || (version > 1 && flags != 0)) return std::nullopt;
  if (version == 3) cursor.skip(1);  // how the name is encoded
  Attribute attribute;
  attribute.name = cursor.text(name_size);
  attribute.name.resize(std::min(attribute.name.size(), attribute.name.find('\0')));
  if (version == 1) cursor.align();
  attribute.type = hdf5_type(cursor.text(type_size));
  if (version == 1) cursor.align();
  attribute.shape = hdf5_shape(cursor.text(space_size));
  if (version == 1) cursor.align();
  attribute.values = cursor.text(cursor.left());
  if (!cursor.ok()) return std::nullopt;
  return attribute;
}

std::optional<std::vector<std::string>> texts_of(const Hdf5Image& image,
                                                 const Attribute& attribute) {
  if (!attribute.type || !attribute.shape) return std::nullopt;
  const auto count = static_cast<size_t>(element_count(*attribute.shape));
  if (count == 0) return std::vector<std::string>{};  // Keras writes an empty list as numbers
  const bool variable = attribute.type->kind == Hdf5Type::Kind::variable_text;
  if (!variable && attribute.type->kind != Hdf5Type::Kind::text) return std::nullopt;
  const size_t width = variable ? kVariableBytes : attribute.type->bytes;
  if (width == 0 || count > attribute.values.size() / width) return std::nullopt;
  std::vector<std::string> texts;
  size_t bytes = 0;  // several elements may name one text of the heap
  for (size_t i = 0; i < count; ++i) {
    std::string_view text = attribute.values.substr(i * width, width);
    if (variable) {
      Hdf5Cursor cursor(text);
      const uint64_t size = cursor.number(4);
      const uint64_t collection = cursor.number(8);
      const auto content = image.heap_object(collection, cursor.number(4));
      if (size > 0 && (!content || size > content->size())) return std::nullopt;
      text = size == 0 ? std::string_view() : content->substr(0, size);
    }
    bytes += text.size();
    if (bytes > image.size()) return std::nullopt;
    texts.emplace_back(text.substr(0, text.find('\0')));
  }
  return texts;
}

}  // namespace

bool is_hdf5(const SharedBytes& bytes) { return Hdf5Image::is_here(bytes); }

Error Hdf5File::error(const std::string& object, const std::string& what) const {
  return {
      fmt::format("'{}': {}{}", path_, object.empty() ? "" : fmt::format("'{}' ", object), what)};
}

Result<Hdf5File> Hdf5File::open(const SharedBytes& bytes, const std::string& path) {
  auto image = Hdf5Image::open(bytes);
  if (image && image->object(image->root())) return Hdf5File(std::move(*image), path);
  return Error{fmt::format("'{}' is a damaged or cut HDF5 file; copy or save it again", path)};
}

Result<std::optional<uint64_t>> Hdf5File::find(const std::string& object) const {
  uint64_t address = image_.root();
  std::string at;
  for (const std::string& part : parts_of(object)) {
    const auto group = image_.object(address);
    const auto links = group ? image_.links(*group) : std::nullopt;
    if (!links) return error(at, "is damaged, or not as Keras writes it; save it again");
    at += (at.empty() ? "" : "/") + part;
    const auto found = links->find(part);
    if (found == links->end()) return std::optional<uint64_t>();
    if (found->second.kind != Hdf5Link::Kind::hard) {
      const bool soft = found->second.kind == Hdf5Link::Kind::soft;
      return error(at, fmt::format("is {} link, which is not followed: save the model by Keras, "
                                   "which writes none",
                                   soft ? "a soft" : "an external"));
    }
    address = found->second.address;
  }
  return std::optional<uint64_t>(address);
}

Result<bool> Hdf5File::contains(const std::string& object) const {
  LOCKSTEP_ASSIGN(const auto address, find(object));
  return address.has_value();
}

Result<Hdf5Object> Hdf5File::object(const std::string& path) const {
  LOCKSTEP_ASSIGN(const auto address, find(path));
  if (!address) return error(path, "is missing: the file is not of this model, or damaged");
  auto object = image_.object(*address);
  if (!object) return error(path, "is damaged, or not as Keras writes it; save it again");
  return std::move(*object);
}

Result<std::vector<std::string>> Hdf5File::names(const std::string& group) const {
  std::vector<std::string> names;
  LOCKSTEP_ASSIGN(const bool is_there, contains(group));
  if (!is_there) return names;
  LOCKSTEP_ASSIGN(const Hdf5Object object, this->object(group));
  const auto links = image_.links(object);
  if (!links) return error(group, "is damaged, or not as Keras writes it; save it again");
  for (const auto& [name, link] : *links) names.push_back(name);
  std::sort(names.begin(), names.end(), [](const std::string& a, const std::string& b) {
    const auto left = number_in(a);
    const auto right = number_in(b);
    if (left && right) return *left < *right;
    if (left || right) return left.has_value();
    return a < b;
  });
  return names;
}

Result<Field> Hdf5File::array(const std::string& path) const {
  LOCKSTEP_ASSIGN(const Hdf5Object object, this->object(path));
  const Hdf5Message* space = object.find(kDataspaceMessage);
  const Hdf5Message* type = object.find(kDatatypeMessage);
  const Hdf5Message* layout = object.find(kLayoutMessage);
  if (space == nullptr || type == nullptr || layout == nullptr) {
    return error(path, "is a group, not an array");
  }
  const auto shape = hdf5_shape(space->content);
  const auto stored = type->shared ? std::nullopt : hdf5_type(type->content);
  const auto element = stored ? element_of(*stored) : std::nullopt;
  if (!shape) return error(path, "has too many elements, or is damaged");
  if (!element) return error(path, "holds no plain little-endian numbers");
  Field field;
  field.name = path;
  field.row_shape = *shape;
  field.type = *element;
  const uint64_t bytes = static_cast<uint64_t>(field.features()) * stored->bytes;
  Hdf5Cursor cursor(layout->content);
  const uint64_t version = cursor.number(1);
  const uint64_t kind = cursor.number(1);
  if (object.find(kExternalMessage) != nullptr || (version == 4 && kind == 3)) {
    return error(path, "keeps its values in other files, which are not read: save it whole");
  }
  if (version == 3 && kind == 2) {
    auto pieces = read_hdf5_pieces(image_, object, layout->content, *shape, stored->bytes);
    if (!pieces.ok()) return error(path, pieces.error().message);
    field.values = std::move(*pieces);
    return field;
  }
  if ((version != 3 && version != 4) || kind > 1) {
    return error(path,
                 "is stored in pieces of a form that is not read here: save the model by Keras, or "
                 "with h5py without libver='latest'");
  }
  std::optional<SharedBytes> values;
  if (kind == 1) {
    values = image_.part(bytes == 0 ? 0 : cursor.number(8), bytes);
  } else {
    const std::string_view content = cursor.text(cursor.number(2));
    if (cursor.ok() && content.size() >= bytes) {
      const auto* data = reinterpret_cast<const uint8_t*>(content.data());
      values = SharedBytes(std::vector<uint8_t>(data, data + bytes));
    }
  }
  if (!values) {
    return error(path, fmt::format("claims {} bytes, more than the file holds", bytes));
  }
  field.values = std::move(*values);
  return field;
}

Result<int64_t> Hdf5File::integer(const std::string& path) const {
  LOCKSTEP_ASSIGN(const Field field, array(path));
  if (field.features() == 1 && field.type != ElementType::float16 &&
      field.type != ElementType::float32 && field.type != ElementType::float64) {
    const double value = field.value(0);
    constexpr double kLargest = 1e15;  // whole numbers up to here are exact
    if (value >= -kLargest && value <= kLargest) return static_cast<int64_t>(value);
  }
  return error(path, "is not one whole number");
}

Result<Hdf5File::Texts> Hdf5File::attribute(const Hdf5Object& object, const std::string& path,
                                            const std::string& name) const {
  const Error damaged = error(
      path, fmt::format("has an attribute '{}' that is damaged, or not as Keras writes it", name));
  for (const Hdf5Message& message : object.messages) {
    if (message.kind == kAttributeInfoMessage) {
      Hdf5Cursor cursor(message.content);
      cursor.skip(1);
      if ((cursor.number(1) & 1) != 0) cursor.skip(2);
      if (cursor.number(8) != kUndefinedAddress) return damaged;  // a heap of many attributes
    }
    if (message.kind != kAttributeMessage) continue;
    const auto attribute = message.shared ? std::nullopt : read_attribute(message.content);
    if (!attribute) return damaged;
    if (attribute->name != name) continue;
    auto texts = texts_of(image_, *attribute);
    if (!texts) return damaged;
    return Texts(std::move(*texts));
  }
  return Texts();
}

Result<std::optional<std::string>> Hdf5File::text(const std::string& path,
                                                  const std::string& name) const {
  LOCKSTEP_ASSIGN(const Hdf5Object object, this->object(path));
  LOCKSTEP_ASSIGN(const Texts texts, attribute(object, path, name));
  if (!texts) return std::optional<std::string>();
  if (texts->size() != 1) return error(path, fmt::format("'{}' is not one text", name));
  return std::optional<std::string>(texts->front());
}

Result<Hdf5File::Texts> Hdf5File::texts(const std::string& path, const std::string& name) const {
  LOCKSTEP_ASSIGN(const Hdf5Object object, this->object(path));
  LOCKSTEP_ASSIGN(Texts whole, attribute(object, path, name));
  if (whole) return whole;
  Texts all;
  size_t bytes = 0;
  for (int part = 0; part < kMostParts && bytes <= image_.size(); ++part) {
    LOCKSTEP_ASSIGN(const Texts texts, attribute(object, path, fmt::format("{}{}", name, part)));
    if (!texts) return all;
    if (!all) all.emplace();
    for (const std::string& text : *texts) bytes += text.size();
    all->insert(all->end(), texts->begin(), texts->end());
  }
  return error(path,
               fmt::format("has a list '{}' that is longer than the file: it is damaged", name));
}

}  // namespace lockstep
