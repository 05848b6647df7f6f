// Who a certificate says that its holder is: a role in a job, as the URI lockstep://JOB/ROLE among
// its alternative names. Host names play no part: a node may run anywhere.
#pragma once

#include <openssl/x509.h>

#include <initializer_list>
#include <optional>
#include <string>

#include "host/core/result.h"

namespace lockstep {

// coordinator: serves a job's control. node: joins it and exchanges tensors with other nodes.
// observer ("operator" for people): asks for the status and fetches the model.
enum class Role { coordinator, node, observer };
inline constexpr std::initializer_list<Role> kRoles = {Role::coordinator, Role::node,
                                                       Role::observer};

// "coordinator", "node" or "operator".
const char* role_name(Role role);

struct Identity {
  Role role = Role::node;
  std::string job;

  std::string uri() const;
  std::string text() const;  // "node of job 'mnist'"
};

// A job's name in certificates: 1 to 63 letters, digits, '.', '_' and '-'.
Status check_job_name(const std::string& job);

// None: it is no certificate of Lockstep's.
std::optional<Identity> identity_of(const X509* certificate);

}  // namespace lockstep
