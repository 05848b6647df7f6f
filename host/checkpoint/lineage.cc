#include "host/checkpoint/lineage.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "host/core/check.h"

namespace lockstep {
namespace {

bool contains(const std::vector<std::string>& ids, const std::string& id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

Note note_on(const ObjectStore& objects, const std::string& id, const Error& error) {
  const auto size = objects.size_of(id);
  return {objects.path(id), 0, size.ok() ? size->value_or(0) : 0, error.message};
}

}  // namespace

Result<std::optional<Checkpoint>> find_checkpoint(const ObjectStore& objects,
                                                  const std::string& id) {
  LOCKSTEP_ASSIGN(const auto size, objects.size_of(id));
  if (size.value_or(0) > kMaxManifestBytes) {
    LOCKSTEP_RETURN_IF_ERROR(objects.verify(id));
    return std::optional<Checkpoint>();
  }
  LOCKSTEP_ASSIGN(const std::string text, objects.read(id));
  if (!looks_like_manifest(text)) return std::optional<Checkpoint>();
  LOCKSTEP_ASSIGN(Checkpoint checkpoint, from_manifest(text, objects.path(id)));
  return std::optional<Checkpoint>(std::move(checkpoint));
}

Lineage::Lineage(ObjectStore objects, std::vector<std::string> ids)
    : objects_(std::move(objects)), ids_(std::move(ids)) {}

Result<Lineage::Scanned> Lineage::scan(const ObjectStore& objects) {
  LOCKSTEP_ASSIGN(const auto all, objects.list());
  std::set<std::pair<int64_t, std::string>> found;
  std::vector<Note> notes;
  for (const std::string& id : all) {
    const auto checkpoint = find_checkpoint(objects, id);
    if (!checkpoint.ok()) {
      notes.push_back(note_on(objects, id, checkpoint.error()));
    } else if (*checkpoint) {
      found.emplace((*checkpoint)->step, id);
    }
  }
  std::vector<std::string> ids;
  for (const auto& [step, id] : found) ids.push_back(id);
  return Scanned{Lineage(objects, std::move(ids)), std::move(notes)};
}

Result<std::string> Lineage::commit(const Checkpoint& checkpoint) {
  const std::string manifest = to_manifest(checkpoint);
  LOCKSTEP_RETURN_IF_ERROR(from_manifest(manifest, "to be committed"));
  if (manifest.size() > kMaxManifestBytes) {  // it would not be taken for one, and its state swept
    return Error{
        fmt::format("the checkpoint of step {} cannot be committed: its history makes {} "
                    "bytes, at most {} are possible",
                    checkpoint.step, manifest.size(), kMaxManifestBytes)};
  }
  if (!checkpoint.parent.empty() && !contains(ids_, checkpoint.parent)) {
    return Error{fmt::format("the checkpoint of step {} names the parent {}, which is not known",
                             checkpoint.step, checkpoint.parent)};
  }
  if (!has_state(checkpoint)) {
    return Error{
        fmt::format("the checkpoint of step {} cannot be committed: '{}' with {} bytes is "
                    "not there; write the state first",
                    checkpoint.step, objects_.path(checkpoint.state), checkpoint.state_bytes)};
  }
  LOCKSTEP_ASSIGN(std::string id, objects_.put(manifest));
  std::erase(ids_, id);  // derived again after a fall-back: it is the newest once more
  ids_.push_back(id);
  return id;
}

bool Lineage::has_state(const Checkpoint& checkpoint) const {
  const auto size = objects_.size_of(checkpoint.state);
  return size.ok() && *size == std::optional(checkpoint.state_bytes);
}

Result<Checkpoint> Lineage::read(const std::string& id) const {
  LOCKSTEP_ASSIGN(const std::string text, objects_.read(id));
  return from_manifest(text, objects_.path(id));
}

Result<Lineage::Newest> Lineage::newest_whole() const {
  Newest newest;
  for (auto id = ids_.rbegin(); id != ids_.rend(); ++id) {
    auto checkpoint = read(*id);
    if (!checkpoint.ok()) {
      newest.notes.push_back(note_on(objects_, *id, checkpoint.error()));
      continue;
    }
    const Status state = objects_.verify(checkpoint->state);
    if (!state.ok()) {
      newest.notes.push_back(note_on(objects_, checkpoint->state, state.error()));
      continue;
    }
    newest.found = Newest::Found{*id, std::move(checkpoint).value()};
    return newest;
  }
  if (ids_.empty()) return newest;
  return Error{fmt::format("none of the {} checkpoints in '{}' is whole; the newest: {}",
                           ids_.size(), objects_.folder(), newest.notes.front().what)};
}

// Adds the ids and what they refer to.
Status Lineage::add_references(const std::vector<std::string>& ids,
                               std::vector<std::string>& needed) const {
  for (const std::string& id : ids) {
    needed.push_back(id);
    LOCKSTEP_ASSIGN(const auto size, objects_.size_of(id));
    if (!size) continue;
    LOCKSTEP_ASSIGN(const auto checkpoint, find_checkpoint(objects_, id));
    if (checkpoint) needed.push_back(checkpoint->state);
  }
  return {};
}

Result<std::vector<std::string>> Lineage::prune(size_t keep,
                                                const std::vector<std::string>& pinned) {
  LOCKSTEP_CHECK(keep > 0);
  std::vector<std::string> needed;
  LOCKSTEP_RETURN_IF_ERROR(add_references(pinned, needed));
  std::vector<std::string> manifests;
  std::vector<std::string> states;
  size_t whole = 0;
  for (auto id = ids_.rbegin(); id != ids_.rend(); ++id) {
    const auto checkpoint = read(*id);
    if (whole < keep || contains(pinned, *id)) {
      needed.push_back(*id);
      if (!checkpoint.ok()) continue;
      needed.push_back(checkpoint->state);
      if (has_state(*checkpoint)) ++whole;
    } else {
      manifests.push_back(*id);
      if (checkpoint.ok()) states.push_back(checkpoint->state);
    }
  }
  const auto is_needed = [&](const std::string& id) { return contains(needed, id); };
  std::erase_if(states, is_needed);
  std::erase_if(ids_, [&](const std::string& id) { return contains(manifests, id); });
  // Manifests first: a crash in between leaves states that nobody names, not the reverse.
  LOCKSTEP_RETURN_IF_ERROR(objects_.remove(manifests));
  LOCKSTEP_RETURN_IF_ERROR(objects_.remove(states));
  std::reverse(manifests.begin(), manifests.end());
  return manifests;
}

Status Lineage::sweep(const std::vector<std::string>& pinned) {
  std::vector<std::string> needed;
  LOCKSTEP_RETURN_IF_ERROR(add_references(pinned, needed));
  LOCKSTEP_RETURN_IF_ERROR(add_references(ids_, needed));
  LOCKSTEP_ASSIGN(auto rest, objects_.list());
  std::erase_if(rest, [&](const std::string& id) { return contains(needed, id); });
  return objects_.remove(rest);
}

}  // namespace lockstep
