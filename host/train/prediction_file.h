// The file of predictions: rows come in any order and wait on the disk, beside it, until all are
// there. A file of its name is there completely or not at all.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/data/scratch_file.h"
#include "host/runtime/result_sink.h"
#include "host/tensor/shape.h"

namespace lockstep {

class PredictionFile final : public ResultSink {
 public:
  // A path that can be written: it ends in .npy (float32), .csv (a line a row) or .npz (an array an
  // output).
  static Status check_name(const std::string& path);
  // `names` and `shapes` (of a row) of the model's outputs, of which only .npz holds several.
  // Refuses what cannot be written, before anything is predicted.
  static Result<std::unique_ptr<PredictionFile>> create(const std::string& path,
                                                        const std::vector<std::string>& names,
                                                        const std::vector<Shape>& shapes,
                                                        int64_t rows);

  // Of output number `array`: float32 values, rows one after another.
  Status write(int array, int64_t offset, std::string_view bytes) override;
  // Once all rows are there. `go_on` is asked between pieces; its error ends it, and no file is
  // left.
  Status save(const std::function<Status()>& go_on) const;

 private:
  struct Output {
    std::string name;
    int64_t features = 0;
    std::string header;  // of NPY, before the values
    ScratchFile file;
  };
  PredictionFile(std::string path, std::vector<Output> outputs)
      : path_(std::move(path)), outputs_(std::move(outputs)) {}
  using Append = std::function<Status(std::string_view)>;
  Status write_csv(const Append& append) const;
  Status write_npz(const Append& append) const;

  const std::string path_;
  std::vector<Output> outputs_;
};

}  // namespace lockstep
