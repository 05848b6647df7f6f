// Included before each .cu file of cuda/ that is compiled as C++ (-include): what nvcc knows by
// itself.
#pragma once

#include <device_launch_parameters.h>

#include <cstddef>
#include <functional>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda/launch.h"

// One copy for all blocks, which run one after the other. In a section of its own it can be filled
// before each of them; GCC puts that of templates elsewhere, and the address sanitizer watches only
// what is in no such section.
#undef __shared__
#ifdef LOCKSTEP_SANITIZED
#define __shared__ static
#else
#define __shared__ __attribute__((section("emulated_shared"))) static
#endif

namespace lockstep::emulated {

void barrier(const char* file, int line);

// One argument of a kernel as it lies in memory, to look for pointers.
using ArgumentBytes = std::span<const std::byte>;

// What lies between members could look like a pointer, so it is cleared. Clang 14 cannot: there
// only arguments that are pointers are looked at. GCC 12 clears too much of large arrays.
#if __has_builtin(__builtin_clear_padding)
template <class T>
inline constexpr bool kSearched = sizeof(T) <= 256;
#else
template <class T>
inline constexpr bool kSearched = std::is_pointer_v<T>;
#endif
template <class T>
ArgumentBytes bytes_of(T& value) {
  if constexpr (!kSearched<T>) return {};
#if __has_builtin(__builtin_clear_padding)
  if constexpr (kSearched<T>) __builtin_clear_padding(&value);
#endif
  return std::as_bytes(std::span(&value, 1));
}

cudaError_t launch_kernel(const void* kernel, LaunchShape shape, cudaStream_t stream,
                          std::span<const ArgumentBytes> arguments, std::function<void()> thread);

}  // namespace lockstep::emulated

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  lockstep::emulated::barrier(file, line);
}

namespace lockstep {

template <class... Parameters, class... Arguments>
cudaError_t emulated_launch(void (*kernel)(Parameters...), LaunchShape shape, cudaStream_t stream,
                            Arguments... arguments) {
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "what a kernel's arguments may take");
  std::tuple<std::remove_cv_t<Parameters>...> values(static_cast<Parameters>(arguments)...);
  return std::apply(
      [&](auto&... value) {
        const emulated::ArgumentBytes bytes[] = {emulated::bytes_of(value)...};
        return emulated::launch_kernel(reinterpret_cast<const void*>(kernel), shape, stream, bytes,
                                       [kernel, values] { std::apply(kernel, values); });
      },
      values);
}

}  // namespace lockstep
