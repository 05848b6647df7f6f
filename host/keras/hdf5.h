// HDF5 files, as far as Keras uses them: groups, arrays of numbers, attributes of text. The only
// user of libhdf5. Nothing is followed out of the file: soft, external and virtual links, external
// storage and filter plugins are refused, and so is what claims more than the file holds.
// libhdf5 is not thread-safe: one thread of the process at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/data/shared_bytes.h"
#include "host/tensor/shape.h"

namespace lockstep {

// Closes a handle of libhdf5 by the function that made it; move-only.
class Hdf5Handle {
 public:
  using Close = int (*)(int64_t);
  Hdf5Handle() = default;
  Hdf5Handle(int64_t id, Close close) : id_(id), close_(close) {}
  Hdf5Handle(Hdf5Handle&& other) noexcept;
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept;
  ~Hdf5Handle();
  bool ok() const { return id_ >= 0; }
  int64_t id() const { return id_; }

 private:
  int64_t id_ = -1;
  Close close_ = nullptr;
};

// An array as it stands in the file.
struct Hdf5Array {
  Shape shape;
  bool whole_numbers = false;
  int bytes_each = 0;
  int64_t count() const { return element_count(shape); }
};

// For reading. Paths are relative to the root: "layers/dense/vars". Errors name file and path.
class Hdf5File {
 public:
  // Of the bytes of a whole file, which are read in place.
  static Result<Hdf5File> open(const SharedBytes& bytes, const std::string& path);

  const std::string& path() const { return path_; }
  // Whether there is such a group or array. An error where a link on the way is none of the file's
  // own.
  Result<bool> contains(const std::string& object) const;
  // The names in a group, those that are numbers in their order. Empty where there is no group.
  Result<std::vector<std::string>> names(const std::string& group) const;
  Result<Hdf5Array> describe(const std::string& array) const;
  // The values as float32, in C order, into `to`, which has room for `count`.
  Status read_floats(const std::string& array, int64_t count, float* to) const;
  // A single whole number, or a number.
  Result<int64_t> read_integer(const std::string& array) const;
  Result<std::vector<double>> read_doubles(const std::string& array) const;
  // A text attribute of an object ("" is the root); nothing where there is none.
  Result<std::optional<std::string>> text(const std::string& object,
                                          const std::string& attribute) const;
  // A list of texts, which Keras cuts into "name0", "name1" … where it is long.
  Result<std::optional<std::vector<std::string>>> texts(const std::string& object,
                                                        const std::string& attribute) const;

 private:
  Hdf5File() = default;
  Error error(const std::string& object, const std::string& what) const;
  Result<Hdf5Handle> open_object(const std::string& object) const;
  Result<Hdf5Handle> open_array(const std::string& array, Hdf5Array* description) const;
  Status check_storage(int64_t dataset, const std::string& array, const Hdf5Array& shape) const;
  Result<Hdf5Array> describe_open(int64_t dataset, const std::string& array) const;
  Result<std::vector<std::string>> read_texts(const std::string& object,
                                              const std::string& attribute) const;
  Result<bool> has_attribute(const std::string& object, const std::string& attribute) const;
  Result<std::vector<std::string>> texts_of(int64_t attribute, const std::string& object) const;

  std::shared_ptr<SharedBytes> bytes_;  // libhdf5 holds its address
  std::string path_;
  Hdf5Handle file_;
};

bool is_hdf5(const SharedBytes& bytes);

// A new file in memory.
class Hdf5Writer {
 public:
  Hdf5Writer();

  void add_group(const std::string& path);
  // Groups on the way are made.
  void add_floats(const std::string& path, const Shape& shape, const float* values);
  void add_integer(const std::string& path, int32_t value);
  // On a group that is there; "" is the root.
  void set_text(const std::string& object, const std::string& attribute, const std::string& value);
  // Cut into "attribute0", "attribute1" … where the list is longer than an attribute may be.
  void set_texts(const std::string& object, const std::string& attribute,
                 const std::vector<std::string>& values);
  // The file's bytes, or what libhdf5 could not do. Call once, last.
  Result<std::string> finish();

 private:
  void keep(bool done, const std::string& what);
  Hdf5Handle open_object(const std::string& object);
  void set_text_list(const std::string& object, const std::string& attribute,
                     const std::vector<std::string>& values, size_t begin, size_t end);

  Hdf5Handle file_;
  std::optional<Error> failure_;
};

}  // namespace lockstep
