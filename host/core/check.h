// Broken invariants: print the expression and abort, in release builds too.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace lockstep {

[[noreturn]] inline void check_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "lockstep: broken invariant: %s (%s:%d)\n", expression, file, line);
  std::abort();
}

}  // namespace lockstep

#define LOCKSTEP_CHECK(expression) \
  ((expression) ? static_cast<void>(0) : ::lockstep::check_failed(#expression, __FILE__, __LINE__))
