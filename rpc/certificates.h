// The certificates of a job: an authority of its own, and a folder for each role.
//
//   DIR/authority/           ca.crt, ca.key (and next.crt, next.key while it is being replaced)
//   DIR/coordinator/, node/, operator/    ca.crt, tls.crt, tls.key: what --tls is given
//
// Keys are P-256, readable by their owner alone, and leave this folder only as files.
#pragma once

#include <ctime>
#include <string>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

struct CertificatesOptions {
  std::string folder;
  std::string job;
  int days = 365;       // of the roles' certificates; an authority has ten years
  std::time_t now = 0;  // when they begin to be valid
};

// Makes the authority and the certificates that are not there. Each function returns what it did,
// in lines for people.
Result<std::vector<std::string>> make_certificates(const CertificatesOptions& options);
// The roles' certificates anew, with new keys.
Result<std::vector<std::string>> renew_certificates(const CertificatesOptions& options);

// The authority is replaced in three moves, between which every process gets the new files (which
// it reads again by itself): at any time all trust all.
enum class Rotation {
  trust,   // a second authority is made, and trusted beside the first
  issue,   // certificates are signed by the second; the first is still trusted
  retire,  // the first is not trusted any more
};
Result<std::vector<std::string>> rotate_authority(const CertificatesOptions& options,
                                                  Rotation rotation);

}  // namespace lockstep
