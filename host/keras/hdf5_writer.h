// HDF5 files as Keras writes them, made in memory. The only user of libhdf5, which is not
// thread-safe: one thread of the process at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "host/core/result.h"
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
