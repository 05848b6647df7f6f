#include "host/keras/hdf5_writer.h"

#include <fmt/format.h>
#define H5_USE_110_API  // those of Debian 12, of any later version
#include <hdf5.h>

#include <algorithm>
#include <utility>

namespace lockstep {
namespace {

// An attribute lies in its object's header, which holds 64 KiB; Keras cuts lists here.
constexpr size_t kAttributeBytes = 64512;
constexpr size_t kGrowBytes = 1 << 20;

// Makes the groups on the way; writes no times, so that equal content is equal bytes.
Hdf5Handle with_parents() {
  Hdf5Handle plan(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(plan.id(), 1);
  return plan;
}

Hdf5Handle timeless_dataset() {
  Hdf5Handle plan(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(plan.id(), false);
  return plan;
}

Hdf5Handle text_type(size_t size) {
  Hdf5Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.id(), size);
  return type;
}

size_t longest(const std::vector<std::string>& texts) {
  size_t size = 1;
  for (const std::string& text : texts) size = std::max(size, text.size());
  return size;
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

Hdf5Writer::Hdf5Writer() {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_fapl_core(access.id(), kGrowBytes, false);
  const std::string name = fmt::format("new-{}", fmt::ptr(this));
  file_ = Hdf5Handle(H5Fcreate(name.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.id()), H5Fclose);
  keep(file_.ok(), "make a file in memory");
}

void Hdf5Writer::keep(bool done, const std::string& what) {
  if (!done && !failure_) failure_ = Error{fmt::format("HDF5 could not {}", what)};
}

void Hdf5Writer::add_group(const std::string& path) {
  const Hdf5Handle parents = with_parents();
  const Hdf5Handle group(
      H5Gcreate2(file_.id(), path.c_str(), parents.id(), H5P_DEFAULT, H5P_DEFAULT), H5Gclose);
  keep(group.ok(), fmt::format("make the group '{}'", path));
}

void Hdf5Writer::add_floats(const std::string& path, const Shape& shape, const float* values) {
  std::vector<hsize_t> sizes(shape.begin(), shape.end());
  const Hdf5Handle space(
      sizes.empty() ? H5Screate(H5S_SCALAR)
                    : H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(), nullptr),
      H5Sclose);
  const Hdf5Handle parents = with_parents();
  const Hdf5Handle plan = timeless_dataset();
  const Hdf5Handle dataset(H5Dcreate2(file_.id(), path.c_str(), H5T_IEEE_F32LE, space.id(),
                                      parents.id(), plan.id(), H5P_DEFAULT),
                           H5Dclose);
  keep(dataset.ok() &&
           H5Dwrite(dataset.id(), H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0,
       fmt::format("write '{}'", path));
}

void Hdf5Writer::add_integer(const std::string& path, int32_t value) {
  const Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Hdf5Handle parents = with_parents();
  const Hdf5Handle plan = timeless_dataset();
  const Hdf5Handle dataset(H5Dcreate2(file_.id(), path.c_str(), H5T_STD_I32LE, space.id(),
                                      parents.id(), plan.id(), H5P_DEFAULT),
                           H5Dclose);
  keep(dataset.ok() &&
           H5Dwrite(dataset.id(), H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, &value) >= 0,
       fmt::format("write '{}'", path));
}

Hdf5Handle Hdf5Writer::open_object(const std::string& object) {
  Hdf5Handle handle(H5Oopen(file_.id(), object.empty() ? "/" : object.c_str(), H5P_DEFAULT),
                    H5Oclose);
  keep(handle.ok(), fmt::format("find '{}'", object));
  return handle;
}

// As h5py writes a str: of variable length, in UTF-8.
void Hdf5Writer::set_text(const std::string& object, const std::string& attribute,
                          const std::string& value) {
  const Hdf5Handle handle = open_object(object);
  const Hdf5Handle type = text_type(H5T_VARIABLE);
  H5Tset_cset(type.id(), H5T_CSET_UTF8);
  const Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Hdf5Handle created(
      H5Acreate2(handle.id(), attribute.c_str(), type.id(), space.id(), H5P_DEFAULT, H5P_DEFAULT),
      H5Aclose);
  const char* text = value.c_str();
  keep(created.ok() && H5Awrite(created.id(), type.id(), &text) >= 0,
       fmt::format("write the attribute '{}'", attribute));
}

// As h5py writes an array of bytes: of one length, padded by zeros.
void Hdf5Writer::set_text_list(const std::string& object, const std::string& attribute,
                               const std::vector<std::string>& values, size_t begin, size_t end) {
  const Hdf5Handle handle = open_object(object);
  const size_t width = longest(values);
  const Hdf5Handle type = text_type(width);
  H5Tset_strpad(type.id(), H5T_STR_NULLPAD);
  const hsize_t count = end - begin;
  const Hdf5Handle space(H5Screate_simple(1, &count, nullptr), H5Sclose);
  const Hdf5Handle created(
      H5Acreate2(handle.id(), attribute.c_str(), type.id(), space.id(), H5P_DEFAULT, H5P_DEFAULT),
      H5Aclose);
  std::string flat(width * std::max<size_t>(count, 1), '\0');
  for (size_t i = begin; i < end; ++i) values[i].copy(&flat[(i - begin) * width], width);
  keep(created.ok() && (count == 0 || H5Awrite(created.id(), type.id(), flat.data()) >= 0),
       fmt::format("write the attribute '{}'", attribute));
}

void Hdf5Writer::set_texts(const std::string& object, const std::string& attribute,
                           const std::vector<std::string>& values) {
  const size_t width = longest(values);
  if (width * values.size() <= kAttributeBytes) {
    set_text_list(object, attribute, values, 0, values.size());
    return;
  }
  const size_t each = std::max<size_t>(1, kAttributeBytes / width);
  for (size_t part = 0, begin = 0; begin < values.size(); ++part, begin += each) {
    set_text_list(object, fmt::format("{}{}", attribute, part), values, begin,
                  std::min(begin + each, values.size()));
  }
}

Result<std::string> Hdf5Writer::finish() {
  if (failure_) return *failure_;
  const bool flushed = H5Fflush(file_.id(), H5F_SCOPE_GLOBAL) >= 0;
  const ssize_t size = flushed ? H5Fget_file_image(file_.id(), nullptr, 0) : -1;
  if (size <= 0) return Error{"HDF5 could not write the file"};
  std::string bytes(static_cast<size_t>(size), '\0');
  if (H5Fget_file_image(file_.id(), bytes.data(), bytes.size()) != size) {
    return Error{"HDF5 could not write the file"};
  }
  return bytes;
}

}  // namespace lockstep
