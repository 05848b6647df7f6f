// The checkpoints of a job, oldest first: what is committed, what can be gone on from, what may go.
// The caller's log says which they are; where there is no log, the objects do. One thread.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "host/checkpoint/checkpoint.h"
#include "host/checkpoint/note.h"
#include "host/checkpoint/object_store.h"
#include "host/core/result.h"

namespace lockstep {

class Lineage {
 public:
  struct Newest;
  struct Scanned;

  // The ids of the manifests, in the order in which they were committed.
  Lineage(ObjectStore objects, std::vector<std::string> ids);

  // Finds the manifests among all objects and orders them by step, then id. It cannot know what a
  // log knows: a checkpoint that a roll-back has dropped is found too.
  static Result<Scanned> scan(const ObjectStore& objects);

  // The manifest's id, once it is durable. The state must be there, in its size; the parent, if
  // there is one, must be a checkpoint that is known.
  Result<std::string> commit(const Checkpoint& checkpoint);

  // The newest checkpoint whose manifest and state are there and undamaged, every byte hashed, with
  // notes on the newer ones that are not. Nothing where no checkpoint is known; an error where some
  // are and none is whole, since starting over is not for us to decide.
  Result<Newest> newest_whole() const;

  // The manifest only. An error where it is missing or damaged.
  Result<Checkpoint> read(const std::string& id) const;

  // Forgets and removes all but the newest `keep` (at least 1) and those pinned. A checkpoint
  // without its manifest or state does not count as one of the newest. `pinned` may name manifests
  // and any other objects; where one cannot be read, nothing is removed, for what it refers to is
  // not known. Returns the ids of the manifests that are gone.
  Result<std::vector<std::string>> prune(size_t keep, const std::vector<std::string>& pinned);

  // Removes every object that no known checkpoint and no pin refers to: what a crash between state
  // and manifest left. Only while nobody writes into the store. Nothing is removed where a manifest
  // that is known or pinned cannot be read.
  Status sweep(const std::vector<std::string>& pinned);

  const std::vector<std::string>& ids() const { return ids_; }

 private:
  bool has_state(const Checkpoint& checkpoint) const;
  Status add_references(const std::vector<std::string>& ids,
                        std::vector<std::string>& needed) const;

  ObjectStore objects_;
  std::vector<std::string> ids_;
};

struct Lineage::Newest {
  struct Found {
    std::string id;
    Checkpoint checkpoint;
  };
  std::optional<Found> found;
  std::vector<Note> notes;
};

struct Lineage::Scanned {
  Lineage lineage;
  std::vector<Note> notes;  // objects that are damaged, or of a format that is not known
};

// The checkpoint in the object `id`, nothing where the object is something else; an error where it
// is damaged, missing, or a manifest that cannot be used.
Result<std::optional<Checkpoint>> find_checkpoint(const ObjectStore& objects,
                                                  const std::string& id);

}  // namespace lockstep
