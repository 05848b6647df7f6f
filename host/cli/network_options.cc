#include "host/cli/network_options.h"

#include "rpc/network.h"

namespace lockstep {

std::vector<OptionSpec> network_options(bool listens) {
  using enum OptionType;
  std::vector<OptionSpec> options = {
      {"tls", text, "", "DIR", "certificate, key and authorities, as 'lockstep certs' makes them"}};
  if (listens) {
    options.push_back({"insecure", boolean, false, "",
                       "listen without TLS where others can reach it: only on networks you trust"});
  }
  return options;
}

Status use_network(const nlohmann::json& values, Context& context,
                   std::function<void(const std::string&)> log) {
  NetworkOptions options;
  options.insecure = values.value("insecure", false);
  options.log = std::move(log);
  const std::string folder = values.at("tls");
  if (!folder.empty()) {
    LOCKSTEP_ASSIGN(options.tls, TlsContext::load(folder, options.log));
  }
  context.network = make_thrift_network(std::move(options));
  return {};
}

}  // namespace lockstep
