# One interface target carries the flags that decide bits and the warnings.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

option(LOCKSTEP_BUILD_TESTS "Build the tests" ON)
set(LOCKSTEP_SANITIZE "" CACHE STRING "Sanitizers, as for -fsanitize=")
option(LOCKSTEP_FUZZ "Build lockstep_fuzz, for Clang with LOCKSTEP_SANITIZE" OFF)

find_program(CCACHE ccache)
if(CCACHE)
  # What ccache asks for to keep what is compiled with precompiled headers.
  set(CMAKE_CXX_COMPILER_LAUNCHER env CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()

add_library(lockstep_options INTERFACE)
target_include_directories(lockstep_options INTERFACE ${PROJECT_SOURCE_DIR})
# -Wno-stringop-overflow, -Wno-restrict: GCC 12 finds what is not there in fmt and std::string.
# -ffp-contract=off: a*b+c must not become an FMA in one build and stay two roundings in another.
# -fmacro-prefix-map: the program does not name the folder that it was built in.
target_compile_options(lockstep_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=>
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
    -Wno-missing-field-initializers -Wno-stringop-overflow -Wno-restrict
    -ffp-contract=off -fno-math-errno>
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fpch-preprocess>  # for ccache
  $<$<COMPILE_LANG_AND_ID:CXX,Clang>:-Wno-unknown-warning-option>)
target_compile_definitions(lockstep_options INTERFACE LOCKSTEP_VERSION="${PROJECT_VERSION}")
if(LOCKSTEP_SANITIZE)
  # Left out: checks of every pointer, which double the time to compile. ASan sees most of what they
  # see. -Wno-maybe-uninitialized: GCC 12 warns of the code that it adds itself. Clang compiles this
  # in a third of GCC's time, and reads the code with other eyes.
  target_compile_options(lockstep_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${LOCKSTEP_SANITIZE} -fno-sanitize-recover=all
      -fno-sanitize=null,alignment,object-size,vptr -fno-omit-frame-pointer
      -Wno-maybe-uninitialized>)
  target_link_options(lockstep_options INTERFACE -fsanitize=${LOCKSTEP_SANITIZE})
  target_compile_definitions(lockstep_options INTERFACE LOCKSTEP_SANITIZED=1)
endif()

# The headers that most of a target's files read, compiled once: such a file takes a third less. For
# targets whose files all have the same options; others set SKIP_PRECOMPILE_HEADERS.
function(precompile_headers target)
  target_precompile_headers(${target} PRIVATE <algorithm> <fmt/format.h> <functional> <map> <memory>
                            <nlohmann/json.hpp> <optional> <span> <string> <variant> <vector>
                            ${ARGN})
endfunction()
