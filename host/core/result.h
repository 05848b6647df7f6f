// Expected failures (peer gone, bad file, wrong flag) as values. Broken invariants use check.h.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "host/core/check.h"

namespace lockstep {

// What a failure means for the process; the number is its exit code.
enum class ErrorKind { failed = 1, usage = 2, halted = 3, refused = 4 };

// Says what, where, and what to do.
struct Error {
  std::string message;
  ErrorKind kind = ErrorKind::failed;
};

inline Error usage_error(std::string message) { return {std::move(message), ErrorKind::usage}; }
inline Error refused_error(std::string message) { return {std::move(message), ErrorKind::refused}; }

// A value of type T or an Error. `value()` on an error aborts.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  T& value() & { return checked(); }
  const T& value() const& { return const_cast<Result*>(this)->checked(); }
  T&& value() && { return std::move(checked()); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const { return std::get<1>(state_); }

 private:
  T& checked() {
    LOCKSTEP_CHECK(ok());
    return *std::get_if<0>(&state_);
  }
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

// The first error, if any.
template <class Statuses>
Status first_error(const Statuses& statuses) {
  for (const Status& status : statuses) {
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace lockstep

#define LOCKSTEP_CONCAT_(a, b) a##b
#define LOCKSTEP_CONCAT(a, b) LOCKSTEP_CONCAT_(a, b)

// Returns the error of `expression`, if it has one, from the enclosing function.
#define LOCKSTEP_RETURN_IF_ERROR(expression)                     \
  do {                                                           \
    auto lockstep_status_ = (expression);                        \
    if (!lockstep_status_.ok()) return lockstep_status_.error(); \
  } while (false)

#define LOCKSTEP_ASSIGN_(temporary, declaration, expression) \
  auto temporary = (expression);                             \
  if (!temporary.ok()) return temporary.error();             \
  declaration = std::move(temporary).value()

// `LOCKSTEP_ASSIGN(auto x, f());` declares x, or returns f's error.
#define LOCKSTEP_ASSIGN(declaration, expression) \
  LOCKSTEP_ASSIGN_(LOCKSTEP_CONCAT(lockstep_result_, __LINE__), declaration, expression)
