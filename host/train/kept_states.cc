#include "host/train/kept_states.h"

#include "host/checkpoint/lineage.h"
#include "host/core/files.h"
#include "host/train/output_folder.h"

namespace lockstep {
namespace {

std::string objects_of(const std::string& run) {
  return OutputFolder::state_path(run) + "/objects";
}

}  // namespace

std::map<int64_t, std::string> kept_states(FileSystem& files, const std::string& run) {
  std::map<int64_t, std::string> states;
  if (!folder_exists(objects_of(run))) return states;
  const ObjectStore objects(files, objects_of(run));
  const auto scanned = Lineage::scan(objects);
  if (!scanned.ok()) return states;
  for (const std::string& id : scanned->lineage.ids()) {
    const auto checkpoint = scanned->lineage.read(id);
    if (!checkpoint.ok() || !objects.verify(checkpoint->state).ok()) continue;
    states[checkpoint->step] = checkpoint->state;
  }
  return states;
}

Result<std::string> read_kept_state(FileSystem& files, const std::string& run,
                                    const std::string& id) {
  return ObjectStore(files, objects_of(run)).read(id);
}

}  // namespace lockstep
