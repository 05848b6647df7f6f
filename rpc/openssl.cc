#include "rpc/openssl.h"

#include <fmt/format.h>
#include <openssl/err.h>

#include <algorithm>

namespace lockstep {

std::string openssl_error() {
  const unsigned long error = ERR_get_error();
  ERR_clear_error();
  if (error == 0) return "no reason given";
  const char* reason = ERR_reason_error_string(error);
  return reason != nullptr ? reason : fmt::format("OpenSSL error {:x}", error);
}

std::string text_of(BIO* memory) {
  char* bytes = nullptr;
  const long size = BIO_get_mem_data(memory, &bytes);
  return std::string(bytes, static_cast<size_t>(std::max(0L, size)));
}

}  // namespace lockstep
