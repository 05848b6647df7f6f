// Chooses what goes wrong, and when.
#pragma once

#include "tests/sim/world.h"

namespace lockstep::sim {

class Faults {
 public:
  explicit Faults(World* world) : world_(*world) {}
  void begin();
  // All is mended: from here on the job must come to its end.
  void end();

 private:
  void next();
  void strike();
  void kill_node();
  void freeze_node();
  void kill_coordinator(bool all);
  void interrupt();
  void cut_link();
  void silence_link();
  void lose_connection();
  void leave();
  void slow_disk();
  void flip();
  std::shared_ptr<SimNode> any_node();

  World& world_;
  bool killed_once_ = false;
};

}  // namespace lockstep::sim
