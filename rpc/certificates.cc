#include "rpc/certificates.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "host/core/files.h"
#include "rpc/identity.h"
#include "rpc/openssl.h"

namespace lockstep {
namespace {

using Lines = std::vector<std::string>;
using Number = OpensslHandle<BIGNUM, BN_free>;

constexpr int kSerialBits = 159;  // RFC 5280: at most 20 bytes, positive
constexpr int kAuthorityDays = 3650;
constexpr long kClockSkewSeconds = 300;
constexpr long kSecondsADay = 86'400;

struct KeyPair {
  Certificate certificate;
  PrivateKey key;
};

Error failed(const std::string& what) {
  return Error{fmt::format("cannot {}: {}", what, openssl_error())};
}

Error file_failed(const std::string& action, const std::string& path) {
  return file_error(action, path, write_remedy());
}

Status make_folder(const std::string& path) {
  if (mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return {};
  return file_failed("make", path);
}

// Complete or not at all, never readable by others.
Status write_private(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".new";
  unlink(temporary.c_str());
  const int descriptor = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor < 0) return file_failed("write", temporary);
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t wrote = write(descriptor, text.data() + done, text.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) break;
    done += static_cast<size_t>(wrote);
  }
  const bool whole = done == text.size() && fsync(descriptor) == 0;
  const Error error = file_failed("write", temporary);
  close(descriptor);
  if (!whole) return error;
  if (std::rename(temporary.c_str(), path.c_str()) != 0) return file_failed("write", path);
  return {};
}

std::string to_pem(const X509* certificate) {
  const Memory memory(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(memory.get(), certificate);
  return text_of(memory.get());
}

std::string to_pem(const EVP_PKEY* key) {
  const Memory memory(BIO_new(BIO_s_secmem()));
  PEM_write_bio_PrivateKey(memory.get(), key, nullptr, nullptr, 0, nullptr, nullptr);
  return text_of(memory.get());
}

Result<Certificate> read_certificate(const std::string& stem) {
  LOCKSTEP_ASSIGN(const std::string text, read_file(stem + ".crt"));
  const Memory bytes(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  Certificate certificate(PEM_read_bio_X509(bytes.get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) return failed(fmt::format("read {}.crt", stem));
  return certificate;
}

Result<KeyPair> read_pair(const std::string& stem) {
  KeyPair pair;
  LOCKSTEP_ASSIGN(pair.certificate, read_certificate(stem));
  LOCKSTEP_ASSIGN(const std::string key, read_file(stem + ".key"));
  const Memory key_bytes(BIO_new_mem_buf(key.data(), static_cast<int>(key.size())));
  pair.key.reset(PEM_read_bio_PrivateKey(key_bytes.get(), nullptr, nullptr, nullptr));
  if (pair.key == nullptr) return failed(fmt::format("read {}.key", stem));
  if (X509_check_private_key(pair.certificate.get(), pair.key.get()) != 1) {
    return failed(fmt::format("use {}.key: it is not the key of {}.crt", stem, stem));
  }
  return pair;
}

Status write_pair(const std::string& stem, const KeyPair& pair) {
  LOCKSTEP_RETURN_IF_ERROR(write_private(stem + ".key", to_pem(pair.key.get())));
  return write_private(stem + ".crt", to_pem(pair.certificate.get()));
}

bool add_extension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const OpensslHandle<X509_EXTENSION, X509_EXTENSION_free> extension(
      X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  return extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1;
}

// The names of its subject; the authority's is its own, so that two of them are told apart.
bool set_subject(X509* certificate, const std::string& common_name, const std::string& job) {
  X509_NAME* name = X509_get_subject_name(certificate);
  const auto add = [&](const char* field, const std::string& text) {
    return X509_NAME_add_entry_by_txt(name, field, MBSTRING_UTF8,
                                      reinterpret_cast<const unsigned char*>(text.data()),
                                      static_cast<int>(text.size()), -1, 0) == 1;
  };
  return add("O", "Lockstep job " + job) && add("CN", common_name);
}

// A certificate with its key, without names, extensions and signature.
Result<KeyPair> blank_pair(std::time_t now, int days) {
  KeyPair pair{Certificate(X509_new()), PrivateKey(EVP_EC_gen("P-256"))};
  const Number serial(BN_new());
  std::time_t from = now - kClockSkewSeconds;
  std::time_t until = now + days * kSecondsADay;
  const bool made =
      pair.certificate != nullptr && pair.key != nullptr && serial != nullptr &&
      BN_rand(serial.get(), kSerialBits, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
      BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(pair.certificate.get())) != nullptr &&
      X509_set_version(pair.certificate.get(), X509_VERSION_3) == 1 &&
      X509_time_adj(X509_getm_notBefore(pair.certificate.get()), 0, &from) != nullptr &&
      X509_time_adj(X509_getm_notAfter(pair.certificate.get()), 0, &until) != nullptr &&
      X509_set_pubkey(pair.certificate.get(), pair.key.get()) == 1;
  if (!made) return failed("make a key");
  return pair;
}

// Signed by `issuer`, or by itself where that is null.
Status sign(KeyPair& pair, const KeyPair* issuer,
            const std::vector<std::pair<int, std::string>>& extensions) {
  X509* certificate = pair.certificate.get();
  X509* above = issuer != nullptr ? issuer->certificate.get() : certificate;
  EVP_PKEY* key = issuer != nullptr ? issuer->key.get() : pair.key.get();
  bool done = X509_set_issuer_name(certificate, X509_get_subject_name(above)) == 1;
  for (const auto& [nid, value] : extensions) {
    done = done && add_extension(certificate, above, nid, value);
  }
  if (!done || X509_sign(certificate, key, EVP_sha256()) == 0) return failed("make a certificate");
  return {};
}

Result<KeyPair> new_authority(const CertificatesOptions& options) {
  LOCKSTEP_ASSIGN(KeyPair pair, blank_pair(options.now, kAuthorityDays));
  const OpensslHandle<BIGNUM, BN_free> serial(
      ASN1_INTEGER_to_BN(X509_get_serialNumber(pair.certificate.get()), nullptr));
  const std::string name =
      fmt::format("authority {:08x}", BN_mod_word(serial.get(), 0xffff'fffb) & 0xffff'ffffU);
  if (!set_subject(pair.certificate.get(), name, options.job)) return failed("name an authority");
  LOCKSTEP_RETURN_IF_ERROR(sign(pair, nullptr,
                                {{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
                                 {NID_key_usage, "critical,keyCertSign,cRLSign"},
                                 {NID_subject_key_identifier, "hash"}}));
  return pair;
}

Result<KeyPair> new_certificate(const CertificatesOptions& options, Role role,
                                const KeyPair& authority) {
  LOCKSTEP_ASSIGN(KeyPair pair, blank_pair(options.now, options.days));
  if (!set_subject(pair.certificate.get(), role_name(role), options.job)) {
    return failed("name a certificate");
  }
  const Identity identity{role, options.job};
  LOCKSTEP_RETURN_IF_ERROR(sign(pair, &authority,
                                {{NID_basic_constraints, "critical,CA:FALSE"},
                                 {NID_key_usage, "critical,digitalSignature"},
                                 {NID_ext_key_usage, "serverAuth,clientAuth"},
                                 {NID_subject_alt_name, "URI:" + identity.uri()},
                                 {NID_subject_key_identifier, "hash"},
                                 {NID_authority_key_identifier, "keyid:always"}}));
  return pair;
}

// The folder's paths and what is in them.
class Folder {
 public:
  explicit Folder(const CertificatesOptions& options) : options_(options) {}

  std::string current() const { return options_.folder + "/authority/ca"; }
  std::string next() const { return options_.folder + "/authority/next"; }
  std::string of(Role role) const { return options_.folder + "/" + role_name(role); }
  bool has(const std::string& stem) const { return file_exists(stem + ".crt"); }

  Status make() const {
    LOCKSTEP_RETURN_IF_ERROR(make_folder(options_.folder));
    LOCKSTEP_RETURN_IF_ERROR(make_folder(options_.folder + "/authority"));
    for (const Role role : kRoles) LOCKSTEP_RETURN_IF_ERROR(make_folder(of(role)));
    return {};
  }

  // What is there must be of the job that is asked for.
  Status check_job() const {
    for (const Role role : kRoles) {
      if (!has(of(role) + "/tls")) continue;
      // Not its key: after a crash while it was renewed, that is the next one's.
      LOCKSTEP_ASSIGN(const Certificate certificate, read_certificate(of(role) + "/tls"));
      const auto identity = identity_of(certificate.get());
      if (identity && identity->job == options_.job && identity->role == role) continue;
      return usage_error(
          fmt::format("{}: it holds a certificate of {}, not of job '{}': choose another --output, "
                      "or that name",
                      of(role), identity ? identity->text() : "something else", options_.job));
    }
    return {};
  }

  Status issue(Role role, const KeyPair& authority) const {
    LOCKSTEP_ASSIGN(const KeyPair pair, new_certificate(options_, role, authority));
    return write_pair(of(role) + "/tls", pair);
  }

  // The bundle that every role trusts: of each of these authorities.
  Status trust(const std::vector<std::string>& stems) const {
    std::string bundle;
    for (const std::string& stem : stems) {
      LOCKSTEP_ASSIGN(const std::string pem, read_file(stem + ".crt"));
      bundle += pem;
    }
    for (const Role role : kRoles) {
      LOCKSTEP_RETURN_IF_ERROR(write_private(of(role) + "/ca.crt", bundle));
    }
    return {};
  }

 private:
  const CertificatesOptions& options_;
};

Status check(const CertificatesOptions& options) {
  LOCKSTEP_RETURN_IF_ERROR(check_job_name(options.job));
  if (options.days >= 1 && options.days <= kAuthorityDays) return {};
  return usage_error(
      fmt::format("--days {}: must be between 1 and {}", options.days, kAuthorityDays));
}

Error no_authority(const CertificatesOptions& options) {
  return usage_error(fmt::format("{}: no authority is there; make one first, without further flags",
                                 options.folder));
}

std::string move_file_error(const std::string& path) { return file_error("move", path).message; }

// next becomes the authority.
Status replace_authority(const Folder& folder) {
  for (const char* suffix : {".key", ".crt"}) {
    const std::string from = folder.next() + suffix;
    if (!file_exists(from)) continue;  // it was interrupted, and goes on
    if (std::rename(from.c_str(), (folder.current() + suffix).c_str()) != 0) {
      return Error{move_file_error(from)};
    }
  }
  return {};
}

}  // namespace

Result<Lines> make_certificates(const CertificatesOptions& options) {
  LOCKSTEP_RETURN_IF_ERROR(check(options));
  const Folder folder(options);
  LOCKSTEP_RETURN_IF_ERROR(folder.make());
  LOCKSTEP_RETURN_IF_ERROR(folder.check_job());
  Lines lines;
  if (!folder.has(folder.current())) {
    LOCKSTEP_ASSIGN(const KeyPair made, new_authority(options));
    LOCKSTEP_RETURN_IF_ERROR(write_pair(folder.current(), made));
    lines.push_back(
        fmt::format("made the authority of job '{}' in {}/authority: keep it away from "
                    "machines that train",
                    options.job, options.folder));
  }
  LOCKSTEP_ASSIGN(const KeyPair authority, read_pair(folder.current()));
  for (const Role role : kRoles) {
    if (!file_exists(folder.of(role) + "/ca.crt")) {
      LOCKSTEP_ASSIGN(const std::string trusted, read_file(folder.current() + ".crt"));
      LOCKSTEP_RETURN_IF_ERROR(write_private(folder.of(role) + "/ca.crt", trusted));
    }
    if (folder.has(folder.of(role) + "/tls")) continue;
    LOCKSTEP_RETURN_IF_ERROR(folder.issue(role, authority));
    lines.push_back(fmt::format("made {} for {} days", folder.of(role), options.days));
  }
  if (lines.empty()) lines.push_back(fmt::format("{}: all is there", options.folder));
  return lines;
}

Result<Lines> renew_certificates(const CertificatesOptions& options) {
  LOCKSTEP_RETURN_IF_ERROR(check(options));
  const Folder folder(options);
  if (!folder.has(folder.current())) return no_authority(options);
  LOCKSTEP_RETURN_IF_ERROR(folder.check_job());
  LOCKSTEP_ASSIGN(const KeyPair authority, read_pair(folder.current()));
  Lines lines;
  for (const Role role : kRoles) {
    LOCKSTEP_RETURN_IF_ERROR(folder.issue(role, authority));
    lines.push_back(fmt::format("renewed {} for {} days", folder.of(role), options.days));
  }
  return lines;
}

Result<Lines> rotate_authority(const CertificatesOptions& options, Rotation rotation) {
  LOCKSTEP_RETURN_IF_ERROR(check(options));
  const Folder folder(options);
  if (!folder.has(folder.current())) return no_authority(options);
  LOCKSTEP_RETURN_IF_ERROR(folder.check_job());
  const std::string previous = options.folder + "/authority/previous";
  const bool begun = folder.has(folder.next());
  const bool issued = folder.has(previous);
  const auto wrong_order = [&](const char* first) {
    return usage_error(fmt::format("{}: first comes --rotate {}", options.folder, first));
  };
  switch (rotation) {
    case Rotation::trust: {
      if (issued) return wrong_order("retire");
      if (!begun) {
        LOCKSTEP_ASSIGN(const KeyPair made, new_authority(options));
        LOCKSTEP_RETURN_IF_ERROR(write_pair(folder.next(), made));
      }
      LOCKSTEP_RETURN_IF_ERROR(folder.trust({folder.current(), folder.next()}));
      return Lines{
          "a second authority is trusted beside the first: hand out all ca.crt, then --rotate "
          "issue"};
    }
    case Rotation::issue: {
      if (!begun && !issued) return wrong_order("trust");
      if (begun) {  // else it was interrupted, and goes on
        LOCKSTEP_ASSIGN(const std::string old, read_file(folder.current() + ".crt"));
        LOCKSTEP_RETURN_IF_ERROR(write_private(previous + ".crt", old));
        LOCKSTEP_RETURN_IF_ERROR(replace_authority(folder));
      }
      LOCKSTEP_RETURN_IF_ERROR(renew_certificates(options));
      return Lines{
          "all certificates are signed by the second authority: hand out all tls.crt and "
          "tls.key, then --rotate retire"};
    }
    case Rotation::retire:
      if (!issued) return wrong_order(begun ? "issue" : "trust");
      LOCKSTEP_RETURN_IF_ERROR(folder.trust({folder.current()}));
      if (unlink((previous + ".crt").c_str()) != 0) return file_failed("remove", previous + ".crt");
      return Lines{"the first authority is not trusted any more: hand out all ca.crt"};
  }
  return Lines{};
}

}  // namespace lockstep
