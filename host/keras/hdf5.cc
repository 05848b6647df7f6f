#include "host/keras/hdf5.h"

#include <fmt/format.h>
#include <hdf5.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include "host/core/check.h"

namespace lockstep {
namespace {

constexpr int64_t kLargestArray = 2147483647;  // elements, as of a layer's parameter
constexpr uint64_t kMaxTextBytes = 256 << 20;
constexpr hsize_t kMaxTexts = 1 << 20;
constexpr uint64_t kMaxRatio = 1100;  // more than deflate reaches
constexpr int kMaxAxes = 8;
constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";

// The image is used where it is. libhdf5 asks for memory of its size, copies, and frees: all of
// that stands for nothing, for a file that is only read.
void* same_image(size_t size, H5FD_file_image_op_t, void* bytes) {
  const auto* image = static_cast<const SharedBytes*>(bytes);
  return size == image->size() ? const_cast<uint8_t*>(image->data()) : nullptr;
}
void* no_copy(void* to, const void* from, size_t, H5FD_file_image_op_t, void*) {
  return to == from ? to : nullptr;
}
void* no_realloc(void*, size_t, H5FD_file_image_op_t, void*) { return nullptr; }
herr_t no_free(void*, H5FD_file_image_op_t, void*) { return 0; }
void* same_user_data(void* bytes) { return bytes; }
herr_t keep_user_data(void*) { return 0; }

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

herr_t collect_name(hid_t, const char* name, const H5L_info_t*, void* names) {
  static_cast<std::vector<std::string>*>(names)->emplace_back(name);
  return 0;
}

}  // namespace

Hdf5Handle::Hdf5Handle(Hdf5Handle&& other) noexcept
    : id_(std::exchange(other.id_, -1)), close_(other.close_) {}

Hdf5Handle& Hdf5Handle::operator=(Hdf5Handle&& other) noexcept {
  std::swap(id_, other.id_);
  std::swap(close_, other.close_);
  return *this;
}

Hdf5Handle::~Hdf5Handle() {
  if (id_ >= 0) close_(id_);
}

bool is_hdf5(const SharedBytes& bytes) {
  // It may stand behind a user block, whose size is a power of two from 512 on.
  for (size_t at = 0; at + kSignature.size() <= bytes.size(); at = at == 0 ? 512 : 2 * at) {
    if (std::memcmp(bytes.data() + at, kSignature.data(), kSignature.size()) == 0) return true;
  }
  return false;
}

Error Hdf5File::error(const std::string& object, const std::string& what) const {
  return {
      fmt::format("'{}': {}{}", path_, object.empty() ? "" : fmt::format("'{}' ", object), what)};
}

Result<Hdf5File> Hdf5File::open(const SharedBytes& bytes, const std::string& path) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // errors are told here
  H5PLset_loading_state(0);                     // no code from a plugin folder
  Hdf5File file;
  file.path_ = path;
  file.bytes_ = std::make_shared<SharedBytes>(bytes);
  const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5FD_file_image_callbacks_t callbacks = {
      same_image, no_copy, no_realloc, no_free, same_user_data, keep_user_data, file.bytes_.get()};
  constexpr size_t kIncrement = 1 << 16;  // unused: the file does not grow
  const bool ready =
      access.ok() && H5Pset_fapl_core(access.id(), kIncrement, false) >= 0 &&
      H5Pset_file_image_callbacks(access.id(), &callbacks) >= 0 &&
      H5Pset_file_image(access.id(), const_cast<uint8_t*>(bytes.data()), bytes.size()) >= 0;
  LOCKSTEP_CHECK(ready);
  // Two open files of one name would be one file.
  const std::string name = fmt::format("image-{}", fmt::ptr(file.bytes_.get()));
  file.file_ = Hdf5Handle(H5Fopen(name.c_str(), H5F_ACC_RDONLY, access.id()), H5Fclose);
  if (file.file_.ok()) return file;
  return Error{fmt::format("'{}' is a damaged or cut HDF5 file; copy or save it again", path)};
}

Result<bool> Hdf5File::contains(const std::string& object) const {
  std::string at;
  for (const std::string& part : parts_of(object)) {
    at += (at.empty() ? "" : "/") + part;
    const htri_t exists = H5Lexists(file_.id(), at.c_str(), H5P_DEFAULT);
    if (exists < 0) return error(at, "cannot be read: the file is damaged; save it again");
    if (exists == 0) return false;
    H5L_info_t info;
    if (H5Lget_info(file_.id(), at.c_str(), &info, H5P_DEFAULT) < 0) {
      return error(at, "cannot be read: the file is damaged; save it again");
    }
    if (info.type == H5L_TYPE_HARD) continue;
    const char* kind = info.type == H5L_TYPE_SOFT       ? "a soft"
                       : info.type == H5L_TYPE_EXTERNAL ? "an external"
                                                        : "a user-defined";
    return error(at, fmt::format("is {} link, which is not followed: save the model by Keras, "
                                 "which writes none",
                                 kind));
  }
  return true;
}

Result<Hdf5Handle> Hdf5File::open_object(const std::string& object) const {
  LOCKSTEP_ASSIGN(const bool is_there, contains(object));
  if (!is_there) return error(object, "is missing: the file is not of this model, or damaged");
  Hdf5Handle handle(H5Oopen(file_.id(), object.empty() ? "/" : object.c_str(), H5P_DEFAULT),
                    H5Oclose);
  if (!handle.ok()) return error(object, "cannot be read: the file is damaged; save it again");
  return handle;
}

Result<std::vector<std::string>> Hdf5File::names(const std::string& group) const {
  std::vector<std::string> names;
  LOCKSTEP_ASSIGN(const bool is_there, contains(group));
  if (!is_there) return names;
  LOCKSTEP_ASSIGN(const Hdf5Handle handle, open_object(group));
  if (H5Iget_type(handle.id()) != H5I_GROUP) return error(group, "is an array, not a group");
  hsize_t at = 0;
  if (H5Literate(handle.id(), H5_INDEX_NAME, H5_ITER_NATIVE, &at, collect_name, &names) < 0) {
    return error(group, "cannot be read: the file is damaged; save it again");
  }
  std::sort(names.begin(), names.end(), [](const std::string& a, const std::string& b) {
    const auto left = number_in(a);
    const auto right = number_in(b);
    if (left && right) return *left < *right;
    if (left || right) return left.has_value();
    return a < b;
  });
  return names;
}

// Nothing outside the file, and no more of it than there is.
Status Hdf5File::check_storage(int64_t dataset, const std::string& array,
                               const Hdf5Array& shape) const {
  const auto bytes = static_cast<uint64_t>(shape.count()) * static_cast<uint64_t>(shape.bytes_each);
  const Hdf5Handle plan(H5Dget_create_plist(dataset), H5Pclose);
  if (!plan.ok()) return error(array, "cannot be read: the file is damaged; save it again");
  const H5D_layout_t layout = H5Pget_layout(plan.id());
  if (layout == H5D_VIRTUAL || H5Pget_external_count(plan.id()) != 0) {
    return error(array, "keeps its values in other files, which are not read: save it whole");
  }
  for (int i = 0; i < H5Pget_nfilters(plan.id()); ++i) {
    unsigned flags = 0;
    size_t values = 0;
    const H5Z_filter_t filter = H5Pget_filter2(plan.id(), static_cast<unsigned>(i), &flags, &values,
                                               nullptr, 0, nullptr, nullptr);
    if (filter == H5Z_FILTER_DEFLATE || filter == H5Z_FILTER_SHUFFLE ||
        filter == H5Z_FILTER_FLETCHER32) {
      continue;
    }
    return error(array, fmt::format("is packed by filter {}; only gzip can be read", filter));
  }
  const uint64_t stored = H5Dget_storage_size(dataset);
  uint64_t most = stored;
  if (layout == H5D_CHUNKED) {
    hsize_t chunk[kMaxAxes] = {};
    const int axes = H5Pget_chunk(plan.id(), kMaxAxes, chunk);
    uint64_t chunk_bytes = static_cast<uint64_t>(shape.bytes_each);
    for (int i = 0; i < std::min(axes, kMaxAxes); ++i) {
      if (chunk[i] == 0 || chunk[i] > kMaxTextBytes * kMaxRatio / chunk_bytes)
        chunk_bytes = UINT64_MAX;
      if (chunk_bytes == UINT64_MAX) break;
      chunk_bytes *= chunk[i];
    }
    most = std::min<uint64_t>(stored, bytes_->size()) * kMaxRatio;
    if (chunk_bytes > most && bytes > 0) most = 0;
  } else if (layout == H5D_CONTIGUOUS && bytes > 0) {
    const haddr_t at = H5Dget_offset(dataset);
    const bool inside = at != HADDR_UNDEF && at <= bytes_->size() && bytes <= bytes_->size() - at;
    if (!inside) most = 0;
  }
  if (bytes <= most) return {};
  return error(array, fmt::format("claims {} bytes, more than the file holds", bytes));
}

Result<Hdf5Array> Hdf5File::describe_open(int64_t dataset, const std::string& array) const {
  const Hdf5Handle space(H5Dget_space(dataset), H5Sclose);
  const Hdf5Handle type(H5Dget_type(dataset), H5Tclose);
  if (!space.ok() || !type.ok()) return error(array, "cannot be read: the file is damaged");
  Hdf5Array result;
  const H5T_class_t kind = H5Tget_class(type.id());
  if (kind != H5T_FLOAT && kind != H5T_INTEGER) return error(array, "holds no numbers");
  result.whole_numbers = kind == H5T_INTEGER;
  result.bytes_each = static_cast<int>(H5Tget_size(type.id()));
  if (result.bytes_each < 1 || result.bytes_each > 8) return error(array, "holds wide numbers");
  const int axes = H5Sget_simple_extent_ndims(space.id());
  if (axes < 0 || axes > kMaxAxes) return error(array, fmt::format("has {} axes", axes));
  hsize_t sizes[kMaxAxes] = {};
  H5Sget_simple_extent_dims(space.id(), sizes, nullptr);
  int64_t count = 1;
  for (int i = 0; i < axes; ++i) {
    const auto most = static_cast<hsize_t>(kLargestArray / std::max<int64_t>(count, 1));
    if (sizes[i] > most) {
      return error(array, fmt::format("has more than {} elements", kLargestArray));
    }
    result.shape.push_back(static_cast<int64_t>(sizes[i]));
    count *= result.shape.back();
  }
  return result;
}

Result<Hdf5Handle> Hdf5File::open_array(const std::string& array, Hdf5Array* description) const {
  LOCKSTEP_ASSIGN(Hdf5Handle handle, open_object(array));
  if (H5Iget_type(handle.id()) != H5I_DATASET) return error(array, "is a group, not an array");
  LOCKSTEP_ASSIGN(*description, describe_open(handle.id(), array));
  LOCKSTEP_RETURN_IF_ERROR(check_storage(handle.id(), array, *description));
  return handle;
}

Result<Hdf5Array> Hdf5File::describe(const std::string& array) const {
  Hdf5Array description;
  LOCKSTEP_RETURN_IF_ERROR(open_array(array, &description));
  return description;
}

Status Hdf5File::read_floats(const std::string& array, int64_t count, float* to) const {
  Hdf5Array description;
  LOCKSTEP_ASSIGN(const Hdf5Handle handle, open_array(array, &description));
  LOCKSTEP_CHECK(description.count() == count);
  if (count == 0) return {};
  if (H5Dread(handle.id(), H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, to) >= 0) return {};
  return error(array, "cannot be read: the file is damaged; save it again");
}

Result<std::vector<double>> Hdf5File::read_doubles(const std::string& array) const {
  Hdf5Array description;
  LOCKSTEP_ASSIGN(const Hdf5Handle handle, open_array(array, &description));
  std::vector<double> values(static_cast<size_t>(description.count()));
  if (values.empty() ||
      H5Dread(handle.id(), H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) >= 0) {
    return values;
  }
  return error(array, "cannot be read: the file is damaged; save it again");
}

Result<int64_t> Hdf5File::read_integer(const std::string& array) const {
  Hdf5Array description;
  LOCKSTEP_ASSIGN(const Hdf5Handle handle, open_array(array, &description));
  int64_t value = 0;
  if (description.count() == 1 && description.whole_numbers &&
      H5Dread(handle.id(), H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, &value) >= 0) {
    return value;
  }
  return error(array, "is not one whole number");
}

Result<bool> Hdf5File::has_attribute(const std::string& object,
                                     const std::string& attribute) const {
  LOCKSTEP_ASSIGN(const Hdf5Handle handle, open_object(object));
  return H5Aexists(handle.id(), attribute.c_str()) > 0;
}

// The texts of an attribute, whether their length is fixed or not.
Result<std::vector<std::string>> Hdf5File::texts_of(int64_t attribute,
                                                    const std::string& object) const {
  const Hdf5Handle type(H5Aget_type(attribute), H5Tclose);
  const Hdf5Handle space(H5Aget_space(attribute), H5Sclose);
  const Error damaged = error(object, "has an attribute that cannot be read: the file is damaged");
  if (!type.ok() || !space.ok()) return damaged;
  const hssize_t points = H5Sget_simple_extent_npoints(space.id());
  if (points == 0) return std::vector<std::string>{};  // Keras writes an empty list as numbers
  if (points < 0 || static_cast<hsize_t>(points) > kMaxTexts) return damaged;
  if (H5Tget_class(type.id()) != H5T_STRING) return error(object, "has an attribute without text");
  std::vector<std::string> texts;
  const auto count = static_cast<size_t>(points);
  if (H5Tis_variable_str(type.id()) > 0) {
    std::vector<char*> strings(count);
    const Hdf5Handle memory(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(memory.id(), H5T_VARIABLE);
    H5Tset_cset(memory.id(), H5Tget_cset(type.id()));
    if (H5Aread(attribute, memory.id(), strings.data()) < 0) return damaged;
    for (const char* text : strings) texts.emplace_back(text == nullptr ? "" : text);
    H5Dvlen_reclaim(memory.id(), space.id(), H5P_DEFAULT, strings.data());
    return texts;
  }
  const size_t width = H5Tget_size(type.id());
  if (width == 0 || width > kMaxTextBytes / count || width * count > bytes_->size()) return damaged;
  std::string flat(width * count, '\0');
  if (H5Aread(attribute, type.id(), flat.data()) < 0) return damaged;
  for (size_t i = 0; i < count; ++i) {
    const std::string text = flat.substr(i * width, width);
    texts.push_back(text.substr(0, text.find('\0')));
  }
  return texts;
}

Result<std::vector<std::string>> Hdf5File::read_texts(const std::string& object,
                                                      const std::string& attribute) const {
  LOCKSTEP_ASSIGN(const Hdf5Handle handle, open_object(object));
  const Hdf5Handle open(H5Aopen(handle.id(), attribute.c_str(), H5P_DEFAULT), H5Aclose);
  if (!open.ok()) return error(object, fmt::format("has a damaged attribute '{}'", attribute));
  return texts_of(open.id(), object);
}

Result<std::optional<std::string>> Hdf5File::text(const std::string& object,
                                                  const std::string& attribute) const {
  LOCKSTEP_ASSIGN(const bool is_there, has_attribute(object, attribute));
  if (!is_there) return std::optional<std::string>();
  LOCKSTEP_ASSIGN(const auto texts, read_texts(object, attribute));
  if (texts.size() != 1) return error(object, fmt::format("'{}' is not one text", attribute));
  return std::optional<std::string>(texts[0]);
}

Result<std::optional<std::vector<std::string>>> Hdf5File::texts(
    const std::string& object, const std::string& attribute) const {
  using Texts = std::optional<std::vector<std::string>>;
  LOCKSTEP_ASSIGN(const bool whole, has_attribute(object, attribute));
  if (whole) {
    LOCKSTEP_ASSIGN(auto texts, read_texts(object, attribute));
    return Texts(std::move(texts));
  }
  Texts all;
  for (int part = 0;; ++part) {
    const std::string name = fmt::format("{}{}", attribute, part);
    LOCKSTEP_ASSIGN(const bool is_there, has_attribute(object, name));
    if (!is_there) return all;
    LOCKSTEP_ASSIGN(const auto texts, read_texts(object, name));
    if (!all) all.emplace();
    all->insert(all->end(), texts.begin(), texts.end());
  }
}

}  // namespace lockstep
