#include "host/keras/hdf5_pieces.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "host/data/byte_source.h"

namespace lockstep {
namespace {

constexpr uint64_t kPieceKeyBytes = 4 + 4 + 8;  // of a tree's entry, at least
constexpr int kMostTreeLevels = 16;
constexpr uint64_t kDeflateFilter = 1;
constexpr uint64_t kShuffleFilter = 2;
constexpr uint64_t kLargestPiece = UINT32_MAX;  // bytes, as the format has it

Error not_as_stored() { return {"is stored in pieces that are damaged; save it again"}; }

// What pieces went through before they were stored, in this order. A piece whose mask has a
// filter's bit went without it.
struct PieceFilters {
  size_t shuffled_bytes = 0;  // of an element; 0: not shuffled
  bool deflated = false;
  uint64_t shuffle_bit = 0;
  uint64_t deflate_bit = 0;
};

std::string filter_name(uint64_t id, std::string_view written) {
  constexpr std::pair<uint64_t, const char*> kNames[] = {
      {3, "fletcher32"}, {4, "szip"}, {5, "nbit"}, {6, "scaleoffset"}, {32000, "lzf"}};
  for (const auto& [known, name] : kNames) {
    if (known == id) return name;
  }
  return written.empty() ? fmt::format("{}", id) : std::string(written);
}

Result<PieceFilters> read_filters(const Hdf5Object& array) {
  PieceFilters filters;
  const Hdf5Message* message = array.find(kFilterMessage);
  if (message == nullptr) return filters;
  Hdf5Cursor cursor(message->content);
  const uint64_t version = cursor.number(1);
  const uint64_t count = cursor.number(1);
  if (message->shared || version < 1 || version > 2) return not_as_stored();
  if (version == 1) cursor.skip(6);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t id = cursor.number(2);
    const bool is_named = version == 1 || id >= 256;
    const uint64_t name_bytes = is_named ? cursor.number(2) : 0;
    cursor.skip(2);
    const uint64_t values = cursor.number(2);
    const std::string_view name = cursor.text(name_bytes);
    if (version == 1) cursor.align();
    const uint64_t first = values > 0 ? cursor.number(4) : 0;
    if (values > 1) cursor.skip(4 * (values - 1));
    if (version == 1) cursor.align();
    if (!cursor.ok()) return not_as_stored();
    const uint64_t bit = uint64_t{1} << i;
    if (id == kShuffleFilter && filters.shuffled_bytes == 0 && !filters.deflated && first > 0) {
      filters.shuffled_bytes = first;
      filters.shuffle_bit = bit;
    } else if (id == kDeflateFilter && !filters.deflated) {
      filters.deflated = true;
      filters.deflate_bit = bit;
    } else {
      return Error{fmt::format(
          "is stored with the filter '{}', which is not read here, only shuffle and then gzip: "
          "save the model by Keras",
          filter_name(id, name.substr(0, name.find('\0'))))};
    }
  }
  return filters;
}

struct Piece {
  std::vector<uint64_t> at;  // its first element
  SharedBytes stored;
  uint64_t mask = 0;
};

// All pieces of an array, as its tree lists them.
class PieceReader {
 public:
  PieceReader(const Hdf5Image& image, const Shape& shape, size_t element_bytes)
      : image_(image), shape_(shape.begin(), shape.end()), element_bytes_(element_bytes) {}

  // Reads the layout and the tree. Whether every piece is in the file, once.
  bool find(std::string_view layout, const PieceFilters& filters);
  // The array; nothing where a piece does not hold what it must.
  std::optional<std::vector<uint8_t>> assemble(const PieceFilters& filters) const;

 private:
  bool read_layout(std::string_view layout, uint64_t* tree);
  bool read_node(uint64_t address, int level);
  bool take(Piece piece);
  // A piece as it was before the filters.
  std::optional<std::vector<uint8_t>> plain(const Piece& piece, const PieceFilters& filters) const;
  void copy(const Piece& piece, size_t axis, const uint8_t* from, uint8_t* to) const;

  const Hdf5Image& image_;
  const std::vector<uint64_t> shape_;
  const uint64_t element_bytes_;
  std::vector<uint64_t> piece_shape_;
  // Bytes from one element to the next along each axis, in a piece and in the array.
  std::vector<uint64_t> piece_strides_;
  std::vector<uint64_t> strides_;
  uint64_t piece_bytes_ = 0;
  uint64_t bytes_ = 0;
  uint64_t stored_ = 0;
  uint64_t nodes_ = 0;
  std::vector<bool> is_there_;  // each piece, the last axis fastest
  std::vector<Piece> pieces_;
};

std::vector<uint64_t> strides_of(const std::vector<uint64_t>& shape, uint64_t element_bytes) {
  std::vector<uint64_t> strides(shape.size(), element_bytes);
  for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  return strides;
}

bool PieceReader::read_layout(std::string_view layout, uint64_t* tree) {
  Hdf5Cursor cursor(layout);
  cursor.skip(2);  // the version, and that these are pieces
  if (cursor.number(1) != shape_.size() + 1 || shape_.empty()) return false;
  *tree = cursor.number(8);
  piece_bytes_ = element_bytes_;
  uint64_t count = 1;
  for (const uint64_t size : shape_) {
    piece_shape_.push_back(cursor.number(4));
    const uint64_t most = kLargestPiece / piece_bytes_;
    if (piece_shape_.back() == 0 || piece_shape_.back() > most) return false;
    piece_bytes_ *= piece_shape_.back();
    count *= (size + piece_shape_.back() - 1) / piece_shape_.back();  // at most all elements
  }
  // Each piece has an entry in the file.
  if (cursor.number(4) != element_bytes_ || !cursor.ok()) return false;
  if (count > image_.size() / kPieceKeyBytes) return false;
  piece_strides_ = strides_of(piece_shape_, element_bytes_);
  strides_ = strides_of(shape_, element_bytes_);
  bytes_ = strides_[0] * shape_[0];
  is_there_.resize(count);
  return true;
}

bool PieceReader::find(std::string_view layout, const PieceFilters& filters) {
  uint64_t tree = 0;
  if (!read_layout(layout, &tree) || !read_node(tree, -1)) return false;
  // No two pieces share their bytes: deflated ones could claim any number.
  if (pieces_.size() != is_there_.size() || stored_ > image_.size()) return false;
  return std::all_of(pieces_.begin(), pieces_.end(), [&](const Piece& piece) {
    const bool deflated = filters.deflated && (piece.mask & filters.deflate_bit) == 0;
    return deflated ? piece_bytes_ <= kMaxDeflateRatio * piece.stored.size()
                    : piece_bytes_ == piece.stored.size();
  });
}

bool PieceReader::read_node(uint64_t address, int level) {
  Hdf5Cursor cursor(image_.from(address));
  if (cursor.text(4) != "TREE" || cursor.number(1) != 1) return false;
  const int own = static_cast<int>(cursor.number(1));
  // Each level is one less than that above: it ends. Each node holds a piece, or leads to one.
  if (own > kMostTreeLevels || (level >= 0 && own != level)) return false;
  if (++nodes_ > (kMostTreeLevels + 1) * is_there_.size()) return false;
  const uint64_t count = cursor.number(2);
  cursor.skip(2 * 8);  // its neighbours
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t size = cursor.number(4);
    Piece piece;
    piece.mask = cursor.number(4);
    for (size_t axis = 0; axis < shape_.size(); ++axis) piece.at.push_back(cursor.number(8));
    cursor.skip(8);  // within the element
    const uint64_t child = cursor.number(8);
    if (!cursor.ok()) return false;
    if (own > 0) {
      if (!read_node(child, own - 1)) return false;
      continue;
    }
    auto stored = image_.part(child, size);
    if (!stored) return false;
    piece.stored = std::move(*stored);
    if (!take(std::move(piece))) return false;
  }
  return true;
}

bool PieceReader::take(Piece piece) {
  uint64_t place = 0;
  for (size_t axis = 0; axis < shape_.size(); ++axis) {
    const uint64_t size = piece_shape_[axis];
    if (piece.at[axis] >= shape_[axis] || piece.at[axis] % size != 0) return false;
    place = place * ((shape_[axis] + size - 1) / size) + piece.at[axis] / size;
  }
  if (is_there_[place]) return false;
  is_there_[place] = true;
  stored_ += piece.stored.size();
  pieces_.push_back(std::move(piece));
  return true;
}

std::optional<std::vector<uint8_t>> PieceReader::plain(const Piece& piece,
                                                       const PieceFilters& filters) const {
  std::vector<uint8_t> content(piece_bytes_);
  if (filters.deflated && (piece.mask & filters.deflate_bit) == 0) {
    uLongf size = content.size();
    const int code = uncompress(content.data(), &size, piece.stored.data(), piece.stored.size());
    if (code != Z_OK || size != content.size()) return std::nullopt;
  } else {
    std::copy_n(piece.stored.data(), content.size(), content.begin());
  }
  const uint64_t width = filters.shuffled_bytes;
  if (width <= 1 || (piece.mask & filters.shuffle_bit) != 0) return content;
  // All first bytes of elements, all second bytes, …; then what is no whole element.
  std::vector<uint8_t> elements = content;
  const uint64_t count = content.size() / width;
  for (uint64_t byte = 0; byte < width && count > 0; ++byte) {
    for (uint64_t i = 0; i < count; ++i) elements[i * width + byte] = content[byte * count + i];
  }
  return elements;
}

// What of the piece lies within the array: at its ends pieces reach over.
void PieceReader::copy(const Piece& piece, size_t axis, const uint8_t* from, uint8_t* to) const {
  const uint64_t begin = piece.at[axis];
  const uint64_t count = std::min(piece_shape_[axis], shape_[axis] - begin);
  to += begin * strides_[axis];
  if (axis + 1 == shape_.size()) {
    std::memcpy(to, from, count * element_bytes_);
    return;
  }
  for (uint64_t i = 0; i < count; ++i) {
    copy(piece, axis + 1, from + i * piece_strides_[axis], to + i * strides_[axis]);
  }
}

std::optional<std::vector<uint8_t>> PieceReader::assemble(const PieceFilters& filters) const {
  std::vector<uint8_t> array(bytes_);
  for (const Piece& piece : pieces_) {
    const auto content = plain(piece, filters);
    if (!content) return std::nullopt;
    copy(piece, 0, content->data(), array.data());
  }
  return array;
}

}  // namespace

Result<SharedBytes> read_hdf5_pieces(const Hdf5Image& image, const Hdf5Object& array,
                                     std::string_view layout, const Shape& shape,
                                     size_t element_bytes) {
  LOCKSTEP_ASSIGN(const PieceFilters filters, read_filters(array));
  const uint64_t bytes = static_cast<uint64_t>(element_count(shape)) * element_bytes;
  if (bytes == 0) return SharedBytes();
  PieceReader reader(image, shape, element_bytes);
  if (!reader.find(layout, filters)) {
    return Error{
        fmt::format("claims {} bytes in pieces that are not all in the file, or damaged", bytes)};
  }
  auto values = reader.assemble(filters);
  if (!values) return not_as_stored();
  return SharedBytes(std::move(*values));
}

}  // namespace lockstep
