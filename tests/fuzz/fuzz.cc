// What reads files of others, given any bytes: `lockstep_fuzz READER [libFuzzer's arguments]`, as
// `./dev fuzz` and `./dev test --sanitize` call it. A reader may refuse what it is given; it may
// not crash, hang, leak or take memory that the bytes do not account for.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "host/core/check.h"
#include "host/data/array_data.h"
#include "host/data/csv.h"
#include "host/data/idx.h"
#include "host/data/npy.h"
#include "host/job/job.h"
#include "host/job/options.h"
#include "host/keras/model_file.h"
#include "host/keras/safetensors.h"
#include "host/keras/weights.h"
#include "host/nn/model.h"
#include "host/nn/model_config.h"
#include "host/train/resolve.h"

namespace lockstep {
namespace {

// A file in memory that has a path.
class FuzzedFile {
 public:
  FuzzedFile() : descriptor_(::memfd_create("lockstep_fuzz", 0)) {
    LOCKSTEP_CHECK(descriptor_ >= 0);
  }
  void fill(std::string_view bytes) {
    LOCKSTEP_CHECK(::ftruncate(descriptor_, static_cast<off_t>(bytes.size())) == 0);
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), 0);
    LOCKSTEP_CHECK(written == static_cast<ssize_t>(bytes.size()));
  }
  std::string path() const { return fmt::format("/proc/self/fd/{}", descriptor_); }

 private:
  const int descriptor_;
};

// .keras, .weights.h5, .h5 and .json: told apart by their content. What can be made of the model
// is made: its graph, its weights, its compile settings and optimizer state.
void read_model(const std::string& path, std::string_view) {
  const auto file = read_model_file(path);
  if (!file.ok()) return;
  std::vector<std::string> notes;
  const nlohmann::json options = options_of_compile(*file, &notes);
  if (!file->has_model()) return;
  const auto model = model_from_config(file->config);
  if (!model.ok()) return;
  const auto graph = (*model)->predict_graph();
  if (!graph.ok() || !file->has_weights()) return;
  static_cast<void>(read_weights(*file, **model, graph->parameters));
  const auto optimizer = Optimizer::create(options.value("optimizer", nlohmann::json()));
  if (!optimizer.ok()) return;
  std::string why_not;
  static_cast<void>(read_optimizer_state(*file, *optimizer, graph->parameters, &why_not));
}

void read_tensors(const std::string& path, std::string_view) {
  Parameter kernel;
  kernel.name = "dense/kernel";
  kernel.shape = {2, 3};
  static_cast<void>(read_safetensors(path, {kernel}));
}

void read_idx_files(const std::string& path, std::string_view) {
  static_cast<void>(read_idx(path, IdxKind::images));
  static_cast<void>(read_idx(path, IdxKind::labels));
}

void read_npy_file(const std::string& path, std::string_view) {
  const auto bytes = map_file(path);
  if (bytes.ok()) static_cast<void>(read_npy(*bytes, "'x.npy'"));
}

void read_npz_file(const std::string& path, std::string_view) {
  const auto bytes = map_file(path);
  if (!bytes.ok()) return;
  DataOptions options;
  options.needs_targets = false;
  static_cast<void>(load_npz(path, *bytes, Split::train, options));
}

void read_csv_file(const std::string& path, std::string_view) {
  static_cast<void>(read_csv(path, {}));
  DataOptions filled;
  filled.missing = 0;
  static_cast<void>(read_csv(path, filled));
}

void read_job(const std::string&, std::string_view bytes) {
  const auto json = nlohmann::json::parse(bytes, nullptr, false);
  if (json.is_discarded() || !check_option_object(job_options(), json, "job").ok()) return;
  nlohmann::json options = default_values(job_options());
  options.update(json);
  static_cast<void>(job_from_options(options));
}

struct Reader {
  std::string_view name;
  void (*read)(const std::string& path, std::string_view bytes);
};

constexpr Reader kReaders[] = {
    {"model", read_model},  {"safetensors", read_tensors}, {"idx", read_idx_files},
    {"npy", read_npy_file}, {"npz", read_npz_file},        {"csv", read_csv_file},
    {"job", read_job},
};

const Reader* reader = nullptr;

}  // namespace
}  // namespace lockstep

// What ASan keeps of freed memory counts too.
extern "C" const char* __asan_default_options() { return "quarantine_size_mb=16"; }

// libFuzzer's own arguments begin behind the reader's name.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  using namespace lockstep;
  const std::string_view name = *argc > 1 ? (*argv)[1] : "";
  const auto* found = std::find_if(std::begin(kReaders), std::end(kReaders),
                                   [&](const Reader& each) { return each.name == name; });
  LOCKSTEP_CHECK(found != std::end(kReaders));
  reader = found;
  std::rotate(*argv + 1, *argv + 2, *argv + *argc);
  --*argc;
  (*argv)[*argc] = nullptr;
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static lockstep::FuzzedFile file;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  file.fill(bytes);
  lockstep::reader->read(file.path(), bytes);
  return 0;
}
