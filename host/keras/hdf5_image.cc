#include "host/keras/hdf5_image.h"

#include <algorithm>
#include <cstring>

namespace lockstep {
namespace {

constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
constexpr size_t kMostMessages = 1 << 16;
constexpr size_t kMostBlocks = 1 << 12;
constexpr size_t kMostNodes = 1 << 16;  // of a group's tree, and the links in it
constexpr size_t kMostHeapObjects = 1 << 16;
constexpr size_t kLongestName = 1024;
constexpr int kMostLevels = 16;
constexpr size_t kMostAxes = 32;
constexpr int64_t kLargestArray = 2147483647;  // elements, as of a layer's parameter

uint64_t padded(uint64_t bytes) { return (bytes + 7) / 8 * 8; }

// The text up to its terminating zero.
std::optional<std::string> zero_terminated(std::string_view bytes) {
  const size_t end = bytes.find('\0');
  if (end == std::string_view::npos) return std::nullopt;
  return std::string(bytes.substr(0, end));
}

// It may stand behind a user block, whose size is a power of two from 512 on.
std::optional<size_t> find_signature(const SharedBytes& bytes) {
  for (size_t at = 0; at + kSignature.size() <= bytes.size(); at = at == 0 ? 512 : 2 * at) {
    if (std::memcmp(bytes.data() + at, kSignature.data(), kSignature.size()) == 0) return at;
  }
  return std::nullopt;
}

}  // namespace

uint64_t Hdf5Cursor::number(size_t bytes) {
  const std::string_view digits = text(bytes);
  uint64_t value = 0;
  for (size_t i = 0; i < digits.size(); ++i) {
    value |= uint64_t{static_cast<uint8_t>(digits[i])} << (8 * i);
  }
  return value;
}

std::string_view Hdf5Cursor::text(size_t bytes) {
  if (bytes > left()) {
    ok_ = false;
    at_ = bytes_.size();
    return {};
  }
  at_ += bytes;
  return bytes_.substr(at_ - bytes, bytes);
}

const Hdf5Message* Hdf5Object::find(int kind) const {
  for (const Hdf5Message& message : messages) {
    if (message.kind == kind) return &message;
  }
  return nullptr;
}

bool Hdf5Image::is_here(const SharedBytes& bytes) { return find_signature(bytes).has_value(); }

std::optional<Hdf5Image> Hdf5Image::open(const SharedBytes& bytes) {
  const auto begin = find_signature(bytes);
  if (!begin) return std::nullopt;
  Hdf5Image image;
  image.bytes_ = bytes.part(*begin, bytes.size() - *begin);
  Hdf5Cursor cursor(image.from(0));
  cursor.skip(kSignature.size());
  const uint64_t version = cursor.number(1);
  if (version > 3) return std::nullopt;
  if (version < 2) cursor.skip(4);
  const bool wide = cursor.number(1) == 8 && cursor.number(1) == 8;  // offsets and lengths
  // Flags, or sizes of trees; then the base and the free space, or an extension of this block.
  cursor.skip(version >= 2 ? 1 : version == 1 ? 13 : 9);
  cursor.skip(2 * 8);
  const uint64_t end = cursor.number(8);
  if (version < 2) cursor.skip(2 * 8);  // the driver, the root's name
  image.root_ = cursor.number(8);
  // Addresses count from the signature, but this one from the file's beginning.
  if (!wide || !cursor.ok() || end > bytes.size()) return std::nullopt;
  return image;
}

std::string_view Hdf5Image::from(uint64_t address, uint64_t count) const {
  const std::string_view all(reinterpret_cast<const char*>(bytes_.data()), bytes_.size());
  if (address >= all.size()) return {};
  return all.substr(address, std::min<uint64_t>(count, all.size() - address));
}

std::optional<SharedBytes> Hdf5Image::part(uint64_t address, uint64_t count) const {
  if (address > bytes_.size() || count > bytes_.size() - address) return std::nullopt;
  return bytes_.part(address, count);
}

// Messages of one block; those that continue the header are added to `blocks`.
bool Hdf5Image::read_block(std::string_view block, int version, int flags, size_t most,
                           std::vector<std::string_view>* blocks, Hdf5Object* object) const {
  Hdf5Cursor cursor(block);
  const size_t head = version == 1 ? 8 : (flags & 4) != 0 ? 6 : 4;
  while (cursor.left() >= head && object->messages.size() < most) {
    Hdf5Message message;
    message.kind = static_cast<int>(cursor.number(version == 1 ? 2 : 1));
    const uint64_t size = cursor.number(2);
    message.shared = (cursor.number(1) & 2) != 0;
    cursor.skip(version == 1 ? 3 : (flags & 4) != 0 ? 2 : 0);
    message.content = cursor.text(size);
    if (!cursor.ok()) return false;
    object->messages.push_back(message);
    if (message.kind != kContinuationMessage) continue;
    Hdf5Cursor place(message.content);
    const uint64_t address = place.number(8);
    const uint64_t length = place.number(8);
    const std::string_view next = from(address, length);
    if (!place.ok() || next.size() != length || blocks->size() >= kMostBlocks) return false;
    if (version == 1) {
      blocks->push_back(next);
    } else {
      if (length < 8 || next.substr(0, 4) != "OCHK") return false;
      blocks->push_back(next.substr(4, length - 8));  // without its checksum
    }
  }
  return true;
}

std::optional<Hdf5Object> Hdf5Image::object(uint64_t address) const {
  Hdf5Cursor cursor(from(address));
  const bool is_new = from(address, 4) == "OHDR";
  int flags = 0;
  size_t most = kMostMessages;
  uint64_t size = 0;
  if (is_new) {
    cursor.skip(5);
    flags = static_cast<int>(cursor.number(1));
    if ((flags & 0x20) != 0) cursor.skip(16);
    if ((flags & 0x10) != 0) cursor.skip(4);
    size = cursor.number(size_t{1} << (flags & 3));
  } else {
    if (cursor.number(1) != 1) return std::nullopt;
    cursor.skip(1);
    most = cursor.number(2);
    cursor.skip(4);
    size = cursor.number(4);
    cursor.skip(4);
  }
  std::vector<std::string_view> blocks = {cursor.text(size)};
  if (!cursor.ok()) return std::nullopt;
  Hdf5Object object;
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (!read_block(blocks[i], is_new ? 2 : 1, flags, most, &blocks, &object)) return std::nullopt;
  }
  return object;
}

bool Hdf5Image::read_symbols(uint64_t address, std::string_view names, size_t* nodes,
                             Links* links) const {
  Hdf5Cursor cursor(from(address));
  if (cursor.text(4) != "SNOD") return false;
  cursor.skip(2);
  const uint64_t count = cursor.number(2);
  *nodes += count;
  if (*nodes > kMostNodes) return false;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t name_at = cursor.number(8);
    Hdf5Link link;
    link.address = cursor.number(8);
    if (cursor.number(4) == 2) link.kind = Hdf5Link::Kind::soft;
    cursor.skip(4 + 16);
    if (!cursor.ok() || name_at >= names.size()) return false;
    const auto name = zero_terminated(names.substr(name_at, kLongestName));
    if (!name) return false;
    links->emplace(*name, link);
  }
  return true;
}

bool Hdf5Image::read_tree(uint64_t address, int level, std::string_view names, size_t* nodes,
                          Links* links) const {
  Hdf5Cursor cursor(from(address));
  if (cursor.text(4) != "TREE" || cursor.number(1) != 0) return false;
  const int own = static_cast<int>(cursor.number(1));
  // Each level is one less than that above: it ends.
  if (own > kMostLevels || (level >= 0 && own != level) || ++*nodes > kMostNodes) return false;
  const uint64_t count = cursor.number(2);
  cursor.skip(2 * 8);  // its neighbours
  for (uint64_t i = 0; i < count; ++i) {
    cursor.skip(8);  // the key
    const uint64_t child = cursor.number(8);
    if (!cursor.ok()) return false;
    if (own > 0 && !read_tree(child, own - 1, names, nodes, links)) return false;
    if (own == 0 && !read_symbols(child, names, nodes, links)) return false;
  }
  return true;
}

std::optional<std::map<std::string, Hdf5Link>> Hdf5Image::links(const Hdf5Object& group) const {
  Links links;
  if (const Hdf5Message* table = group.find(kSymbolTableMessage)) {
    Hdf5Cursor cursor(table->content);
    const uint64_t tree = cursor.number(8);
    Hdf5Cursor heap(from(cursor.number(8)));
    const bool is_heap = heap.text(4) == "HEAP";
    heap.skip(4);
    const uint64_t size = heap.number(8);
    heap.skip(8);
    const std::string_view names = from(heap.number(8), size);
    size_t nodes = 0;
    if (!cursor.ok() || !heap.ok() || !is_heap) return std::nullopt;
    if (!read_tree(tree, -1, names, &nodes, &links)) return std::nullopt;
  }
  if (const Hdf5Message* info = group.find(kLinkInfoMessage)) {
    Hdf5Cursor cursor(info->content);
    cursor.skip(1);
    if ((cursor.number(1) & 1) != 0) cursor.skip(8);
    if (cursor.number(8) != kUndefinedAddress) return std::nullopt;  // a heap of many links
  }
  for (const Hdf5Message& message : group.messages) {
    if (message.kind != kLinkMessage) continue;
    Hdf5Cursor cursor(message.content);
    cursor.skip(1);
    const uint64_t flags = cursor.number(1);
    const uint64_t kind = (flags & 8) != 0 ? cursor.number(1) : 0;
    if ((flags & 4) != 0) cursor.skip(8);
    if ((flags & 0x10) != 0) cursor.skip(1);
    const std::string name(cursor.text(cursor.number(size_t{1} << (flags & 3))));
    Hdf5Link link;
    link.kind = kind == 0   ? Hdf5Link::Kind::hard
                : kind == 1 ? Hdf5Link::Kind::soft
                            : Hdf5Link::Kind::external;
    if (link.kind == Hdf5Link::Kind::hard) link.address = cursor.number(8);
    if (!cursor.ok() || name.size() > kLongestName) return std::nullopt;
    links.emplace(name, link);
  }
  return links;
}

std::optional<std::string_view> Hdf5Image::heap_object(uint64_t address, uint64_t index) const {
  Hdf5Cursor head(from(address, 16));
  if (head.text(4) != "GCOL") return std::nullopt;
  head.skip(4);
  Hdf5Cursor cursor(from(address, head.number(8)));
  cursor.skip(16);
  for (size_t i = 0; i < kMostHeapObjects && cursor.left() >= 16; ++i) {
    const uint64_t found = cursor.number(2);
    cursor.skip(6);
    const uint64_t size = cursor.number(8);
    if (found == 0 || size > cursor.left()) return std::nullopt;
    if (found == index) return cursor.text(size);
    cursor.skip(padded(size));
  }
  return std::nullopt;
}

std::optional<Shape> hdf5_shape(std::string_view dataspace) {
  Hdf5Cursor cursor(dataspace);
  const uint64_t version = cursor.number(1);
  const uint64_t axes = cursor.number(1);
  cursor.skip(1);
  const uint64_t kind = cursor.number(1);
  if (version == 1) cursor.skip(4);
  if (version < 1 || version > 2 || axes > kMostAxes) return std::nullopt;
  if (version == 2 && kind == 2) return Shape{0};  // no values at all
  Shape shape;
  int64_t count = 1;
  for (uint64_t i = 0; i < axes; ++i) {
    const uint64_t size = cursor.number(8);
    if (size > static_cast<uint64_t>(kLargestArray / std::max<int64_t>(count, 1))) {
      return std::nullopt;
    }
    shape.push_back(static_cast<int64_t>(size));
    count *= shape.back();
  }
  if (!cursor.ok()) return std::nullopt;
  return shape;
}

std::optional<Hdf5Type> hdf5_type(std::string_view datatype) {
  Hdf5Cursor cursor(datatype);
  const uint64_t kind = cursor.number(1) & 0x0f;
  const uint64_t bits = cursor.number(3);
  Hdf5Type type;
  type.bytes = cursor.number(4);
  if (kind == 0 && (bits & 1) == 0) {
    type.kind = Hdf5Type::Kind::integer;
    type.is_signed = (bits & 8) != 0;
    cursor.skip(2);
    if (cursor.number(2) != 8 * type.bytes) return std::nullopt;  // bits in use
  } else if (kind == 1 && (bits & 0x41) == 0) {
    type.kind = Hdf5Type::Kind::floating;
    cursor.skip(2 + 2 + 1);
    const uint64_t exponent = cursor.number(1);
    if (exponent != (type.bytes == 2 ? 5u : type.bytes == 4 ? 8u : 11u)) return std::nullopt;
  } else if (kind == 3) {
    type.kind = Hdf5Type::Kind::text;
  } else if (kind == 9 && (bits & 0x0f) == 1) {
    type.kind = Hdf5Type::Kind::variable_text;
  }
  if (!cursor.ok()) return std::nullopt;
  return type;
}

}  // namespace lockstep
