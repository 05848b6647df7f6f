# Sets LOCKSTEP_HAS_CUDA, and enables the language for the whole project: targets that link the CUDA
# device need its runtime too.
set(LOCKSTEP_CUDA AUTO CACHE STRING "Build the CUDA device: AUTO (where nvcc works), ON or OFF")
set(LOCKSTEP_HAS_CUDA OFF)
if(NOT LOCKSTEP_CUDA)
  return()
endif()

find_program(LOCKSTEP_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda
             PATH_SUFFIXES bin)
if(LOCKSTEP_NVCC AND NOT DEFINED ENV{CUDACXX})
  set(ENV{CUDACXX} ${LOCKSTEP_NVCC})
endif()
# Code for Hopper, and PTX that the driver compiles for every other GPU from Turing on.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 75-virtual 90-real)
endif()

include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
endif()
if(CMAKE_CUDA_COMPILER AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.0)
  # CMake 3.25 warns of a library that CUDA 13 has no more, and fails where it is not there, but not
  # for projects that older versions may read.
  set(minimum ${CMAKE_MINIMUM_REQUIRED_VERSION})
  set(CMAKE_MINIMUM_REQUIRED_VERSION 3.24)
  find_package(CUDAToolkit REQUIRED)
  set(CMAKE_MINIMUM_REQUIRED_VERSION ${minimum})
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has C++20
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  set(LOCKSTEP_HAS_CUDA ON)
elseif(NOT LOCKSTEP_CUDA STREQUAL AUTO)
  message(FATAL_ERROR "LOCKSTEP_CUDA=${LOCKSTEP_CUDA}, but no nvcc of CUDA 12 or later works here: "
                      "set CUDACXX to one, or use -DLOCKSTEP_CUDA=OFF")
endif()
