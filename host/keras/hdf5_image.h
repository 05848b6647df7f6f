// The structures of an HDF5 file, each read within the bounds of its bytes.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host/core/result.h"
#include "host/data/shared_bytes.h"
#include "host/tensor/shape.h"

namespace lockstep {

// Reads little-endian numbers one behind the other. Behind the end it gives zeros and is not ok().
class Hdf5Cursor {
 public:
  explicit Hdf5Cursor(std::string_view bytes) : bytes_(bytes) {}

  bool ok() const { return ok_; }
  size_t at() const { return at_; }
  size_t left() const { return bytes_.size() - at_; }
  uint64_t number(size_t bytes);
  std::string_view text(size_t bytes);
  void skip(size_t bytes) { text(bytes); }
  // To the next multiple of 8 from the beginning.
  void align() { skip((8 - at_ % 8) % 8); }

 private:
  std::string_view bytes_;
  size_t at_ = 0;
  bool ok_ = true;
};

struct Hdf5Link {
  enum class Kind { hard, soft, external };
  Kind kind = Kind::hard;
  uint64_t address = 0;  // of a hard link: the object's header
};

struct Hdf5Message {
  int kind = 0;
  bool shared = false;  // the content is elsewhere, and not read
  std::string_view content;
};

// An object: its header's messages.
struct Hdf5Object {
  std::vector<Hdf5Message> messages;
  const Hdf5Message* find(int kind) const;
};

// What a value is.
struct Hdf5Type {
  enum class Kind { integer, floating, text, variable_text, other };
  Kind kind = Kind::other;
  bool is_signed = false;
  size_t bytes = 0;
};

constexpr int kDataspaceMessage = 0x01;
constexpr int kLinkInfoMessage = 0x02;
constexpr int kDatatypeMessage = 0x03;
constexpr int kLinkMessage = 0x06;
constexpr int kExternalMessage = 0x07;
constexpr int kLayoutMessage = 0x08;
constexpr int kFilterMessage = 0x0b;
constexpr int kAttributeMessage = 0x0c;
constexpr int kContinuationMessage = 0x10;
constexpr int kSymbolTableMessage = 0x11;
constexpr int kAttributeInfoMessage = 0x15;
constexpr uint64_t kUndefinedAddress = UINT64_MAX;

// Results without a value: the file is damaged, or has a form that Keras does not write.
class Hdf5Image {
 public:
  // Whether an HDF5 file is in these bytes, and what is in it.
  static bool is_here(const SharedBytes& bytes);
  static std::optional<Hdf5Image> open(const SharedBytes& bytes);

  uint64_t root() const { return root_; }
  size_t size() const { return bytes_.size(); }
  std::optional<Hdf5Object> object(uint64_t address) const;
  std::optional<std::map<std::string, Hdf5Link>> links(const Hdf5Object& group) const;
  // From an address to the end, or to address + count; empty where it is outside.
  std::string_view from(uint64_t address, uint64_t count = UINT64_MAX) const;
  // Bytes [address, address + count), which must be there.
  std::optional<SharedBytes> part(uint64_t address, uint64_t count) const;
  // Element `index` of the global heap's collection at `address`.
  std::optional<std::string_view> heap_object(uint64_t address, uint64_t index) const;

 private:
  using Links = std::map<std::string, Hdf5Link>;
  bool read_block(std::string_view block, int version, int flags, size_t most,
                  std::vector<std::string_view>* blocks, Hdf5Object* object) const;
  bool read_tree(uint64_t address, int level, std::string_view names, size_t* nodes,
                 Links* links) const;
  bool read_symbols(uint64_t address, std::string_view names, size_t* nodes, Links* links) const;

  SharedBytes bytes_;
  uint64_t root_ = 0;
};

std::optional<Shape> hdf5_shape(std::string_view dataspace);
std::optional<Hdf5Type> hdf5_type(std::string_view datatype);

}  // namespace lockstep
