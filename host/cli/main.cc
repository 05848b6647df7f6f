#include "host/cli/commands.h"
#include "rpc/network.h"

int main(int argc, char** argv) {
  lockstep::SignalWatcher signals;
  const auto network = lockstep::make_thrift_network();
  lockstep::Context context{*network, signals};
  return lockstep::run_program(lockstep::Arguments(argv + 1, argv + argc), context);
}
