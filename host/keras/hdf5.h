// Reads HDF5 files, as far as Keras uses them: groups, arrays of numbers, attributes of text. Own
// code rather than libhdf5, whose 1.10 crashes on damaged files (Debian's; the global heap is
// enough). Nothing is followed out of the file: soft, external and virtual links and external
// storage are refused, and so is what claims more than the file holds.
// (The HDF5 File Format Specification, version 3: superblocks 0 to 3, old and new groups, object
// headers 1 and 2, contiguous and compact arrays, and those in pieces that a tree lists.)
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/data/field.h"
#include "host/data/shared_bytes.h"
#include "host/keras/hdf5_image.h"

namespace lockstep {

// Immutable; any thread. Paths are relative to the root: "layers/dense/vars". Errors name file and
// path.
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
  // An array of numbers, in place where it is stored whole; its row_shape is the whole shape.
  Result<Field> array(const std::string& path) const;
  // A single whole number.
  Result<int64_t> integer(const std::string& array) const;
  // A text attribute of an object ("" is the root); nothing where there is none.
  Result<std::optional<std::string>> text(const std::string& object,
                                          const std::string& attribute) const;
  // A list of texts, which Keras cuts into "name0", "name1" … where it is long.
  Result<std::optional<std::vector<std::string>>> texts(const std::string& object,
                                                        const std::string& attribute) const;

 private:
  Hdf5File(Hdf5Image image, std::string path) : image_(std::move(image)), path_(std::move(path)) {}
  Error error(const std::string& object, const std::string& what) const;
  // Where the object's header is; nothing where there is no such object.
  Result<std::optional<uint64_t>> find(const std::string& object) const;
  Result<Hdf5Object> object(const std::string& object) const;
  using Texts = std::optional<std::vector<std::string>>;
  Result<Texts> attribute(const Hdf5Object& object, const std::string& path,
                          const std::string& name) const;

  Hdf5Image image_;
  std::string path_;
};

bool is_hdf5(const SharedBytes& bytes);

}  // namespace lockstep
