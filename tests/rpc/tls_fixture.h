// Certificates for tests, in a temporary folder.
#pragma once

#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>
#include <memory>
#include <string>

#include "rpc/certificates.h"
#include "rpc/tls.h"
#include "tests/support/test_folder.h"

namespace lockstep {

class TestCertificates {
 public:
  static constexpr std::time_t kDay = 86'400;

  // A job's folder, valid from `age_days` ago for `days`. With `authority`, another job's
  // folder, that authority signs.
  std::string make(const std::string& job, int age_days = 0, int days = 30,
                   const std::string& authority = "") {
    CertificatesOptions options = of(job, days);
    options.now -= age_days * kDay;
    if (!authority.empty()) {
      std::filesystem::create_directories(options.folder);
      std::filesystem::copy(authority + "/authority", options.folder + "/authority");
    }
    const auto made = make_certificates(options);
    EXPECT_TRUE(made.ok()) << made.error().message;
    return options.folder;
  }

  CertificatesOptions of(const std::string& job, int days = 30) const {
    return {folder_.path() + "/" + job, job, days, std::time(nullptr)};
  }

  static std::shared_ptr<const TlsContext> load(const std::string& folder,
                                                std::function<void(const std::string&)> log = {}) {
    auto loaded = TlsContext::load(folder, std::move(log));
    EXPECT_TRUE(loaded.ok()) << loaded.error().message;
    return loaded.ok() ? *loaded : nullptr;
  }

 private:
  TestFolder folder_;
};

}  // namespace lockstep
