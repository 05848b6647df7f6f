// Owners of OpenSSL's objects, and its errors as text.
#pragma once

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>

namespace lockstep {

template <auto kFree>
struct OpensslDeleter {
  template <class T>
  void operator()(T* object) const {
    kFree(object);
  }
};
template <class T, auto kFree>
using OpensslHandle = std::unique_ptr<T, OpensslDeleter<kFree>>;

using PrivateKey = OpensslHandle<EVP_PKEY, EVP_PKEY_free>;
using Certificate = OpensslHandle<X509, X509_free>;
using Memory = OpensslHandle<BIO, BIO_free_all>;

// The first error of the calling thread's queue, which is empty afterwards.
std::string openssl_error();

// What a memory BIO holds.
std::string text_of(BIO* memory);

}  // namespace lockstep
