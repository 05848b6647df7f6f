#include <malloc.h>

#include "host/cli/commands.h"
#include "rpc/network.h"

int main(int argc, char** argv) {
  // What is large goes back to the system when freed: a node's memory is what its plan says.
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
  lockstep::SignalWatcher signals;
  lockstep::Context context{lockstep::make_thrift_network(), signals};
  return lockstep::run_program(lockstep::Arguments(argv + 1, argv + argc), context);
}
