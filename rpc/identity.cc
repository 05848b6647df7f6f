#include "rpc/identity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <string_view>

#include "rpc/openssl.h"

namespace lockstep {
namespace {

constexpr std::string_view kScheme = "lockstep://";
constexpr size_t kLongestJobName = 63;

using Names = OpensslHandle<GENERAL_NAMES, GENERAL_NAMES_free>;

std::optional<Identity> parse_uri(std::string_view uri) {
  if (uri.substr(0, kScheme.size()) != kScheme) return std::nullopt;
  uri.remove_prefix(kScheme.size());
  const size_t slash = uri.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  Identity identity;
  identity.job = uri.substr(0, slash);
  if (!check_job_name(identity.job).ok()) return std::nullopt;
  for (const Role role : kRoles) {
    identity.role = role;
    if (uri.substr(slash + 1) == role_name(role)) return identity;
  }
  return std::nullopt;
}

}  // namespace

const char* role_name(Role role) {
  switch (role) {
    case Role::coordinator:
      return "coordinator";
    case Role::node:
      return "node";
    case Role::observer:
      return "operator";
  }
  return "";
}

std::string Identity::uri() const { return fmt::format("{}{}/{}", kScheme, job, role_name(role)); }
std::string Identity::text() const { return fmt::format("{} of job '{}'", role_name(role), job); }

Status check_job_name(const std::string& job) {
  const auto allowed = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-';
  };
  if (!job.empty() && job.size() <= kLongestJobName && std::ranges::all_of(job, allowed)) return {};
  return usage_error(fmt::format(
      "job '{}': a name of 1 to {} letters, digits, '.', '_' and '-' is needed for certificates",
      job, kLongestJobName));
}

// Two URIs of ours would be two identities: it has none then.
std::optional<Identity> identity_of(const X509* certificate) {
  const Names names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  if (names == nullptr) return std::nullopt;
  std::optional<Identity> found;
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_URI) continue;
    const ASN1_IA5STRING* uri = name->d.uniformResourceIdentifier;
    const auto* bytes = reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri));
    auto identity = parse_uri({bytes, static_cast<size_t>(ASN1_STRING_length(uri))});
    if (!identity) continue;
    if (found) return std::nullopt;
    found = std::move(identity);
  }
  return found;
}

}  // namespace lockstep
