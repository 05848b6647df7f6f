#include "host/core/digest.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <xxh_x86dispatch.h>  // the widest vectors of this CPU; the hash is the same

#include <array>

#include "host/core/check.h"

namespace lockstep {

namespace {

constexpr std::array<uint32_t, 256> make_crc32c_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0x82f63b78u : 0);
    table[i] = value;
  }
  return table;
}

constexpr std::array<uint32_t, 256> kCrc32cTable = make_crc32c_table();

}  // namespace

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  LOCKSTEP_CHECK(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;

void Sha256::update(const void* data, size_t bytes) {
  LOCKSTEP_CHECK(EVP_DigestUpdate(state_->context, data, bytes) == 1);
}

std::string Sha256::hex() {
  unsigned char digest[32];
  unsigned int size = 0;
  LOCKSTEP_CHECK(EVP_DigestFinal_ex(state_->context, digest, &size) == 1 && size == 32);
  std::string text;
  for (const unsigned char byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

std::string sha256_hex(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.hex();
}

uint32_t crc32c(const void* data, size_t bytes, uint32_t before) {
  uint32_t value = ~before;
  for (const auto* at = static_cast<const uint8_t*>(data); bytes > 0; --bytes, ++at) {
    value = (value >> 8) ^ kCrc32cTable[(value ^ *at) & 0xff];
  }
  return ~value;
}

uint64_t xxh3(const void* data, size_t bytes) { return XXH3_64bits_dispatch(data, bytes); }

struct Xxh3::State {
  XXH3_state_t* parts = XXH3_createState();
  ~State() { XXH3_freeState(parts); }
};

Xxh3::Xxh3() : state_(std::make_unique<State>()) {
  LOCKSTEP_CHECK(state_->parts != nullptr && XXH3_64bits_reset(state_->parts) == XXH_OK);
}
Xxh3::~Xxh3() = default;

void Xxh3::update(const void* data, size_t bytes) {
  LOCKSTEP_CHECK(XXH3_64bits_update_dispatch(state_->parts, data, bytes) == XXH_OK);
}

uint64_t Xxh3::value() const { return XXH3_64bits_digest(state_->parts); }

std::string hex64(uint64_t value) { return fmt::format("{:016x}", value); }

}  // namespace lockstep
