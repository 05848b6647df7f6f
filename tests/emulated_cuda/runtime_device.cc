// Devices and errors of the runtime API.
#include <cstring>

#include "tests/emulated_cuda/state.h"

using namespace lockstep::emulated;  // in the functions that CUDA declares

cudaError_t cudaGetDeviceCount(int* count) {
  const Call call("cudaGetDeviceCount");
  *count = 0;
  if (call.chosen()) return call.failure(cudaErrorInsufficientDriver);
  *count = state().options.devices;
  return call.result(*count == 0 ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaSetDevice(int device) {
  const Call call("cudaSetDevice");
  if (call.chosen()) return call.failure(cudaErrorDevicesUnavailable);
  if (device < 0 || device >= state().options.devices) return call.result(cudaErrorInvalidDevice);
  set_current_device(device);
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  const Call call("cudaGetDevice");
  if (call.chosen()) return call.failure(cudaErrorUnknown);
  *device = current_device();
  return cudaSuccess;
}

// An H100's, as far as anyone here asks.
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  const Call call("cudaGetDeviceProperties");
  if (call.chosen()) return call.failure(cudaErrorUnknown);
  if (device < 0 || device >= state().options.devices) return call.result(cudaErrorInvalidDevice);
  std::memset(properties, 0, sizeof *properties);
  std::strncpy(properties->name, "emulated H100", sizeof properties->name - 1);
  properties->major = state().options.compute / 10;
  properties->minor = state().options.compute % 10;
  properties->multiProcessorCount = 132;
  properties->totalGlobalMem = static_cast<size_t>(state().options.memory_bytes);
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->sharedMemPerBlock = 49152;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const Call call("cudaDeviceGetAttribute");
  if (call.chosen()) return call.failure(cudaErrorUnknown);
  if (device < 0 || device >= state().options.devices) return call.result(cudaErrorInvalidDevice);
  if (attribute != cudaDevAttrMemoryPoolsSupported) {
    violation("cudaDeviceGetAttribute: an attribute that isn't emulated");
  }
  *value = state().options.memory_pools ? 1 : 0;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  const Call call("cudaDriverGetVersion");
  if (call.chosen()) return call.failure(cudaErrorUnknown);
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }

cudaError_t cudaGetLastError() { return take_error(); }

cudaError_t cudaPeekAtLastError() {
  const cudaError_t error = take_error();
  remember_error(error);
  return error;
}

#define EMULATED_ERRORS(X)                                     \
  X(cudaSuccess, "no error")                                   \
  X(cudaErrorInvalidValue, "invalid argument")                 \
  X(cudaErrorMemoryAllocation, "out of memory")                \
  X(cudaErrorInvalidConfiguration, "invalid configuration")    \
  X(cudaErrorInsufficientDriver, "driver too old")             \
  X(cudaErrorDevicesUnavailable, "devices busy or gone")       \
  X(cudaErrorNoDevice, "no CUDA-capable device is detected")   \
  X(cudaErrorInvalidDevice, "invalid device ordinal")          \
  X(cudaErrorInvalidResourceHandle, "invalid resource handle") \
  X(cudaErrorNotSupported, "not supported")                    \
  X(cudaErrorIllegalState, "illegal state")                    \
  X(cudaErrorNotReady, "device not ready")                     \
  X(cudaErrorIllegalAddress, "an illegal memory access")       \
  X(cudaErrorLaunchOutOfResources, "too many resources")       \
  X(cudaErrorStreamCaptureUnsupported, "not in a capture")     \
  X(cudaErrorStreamCaptureInvalidated, "capture invalidated")  \
  X(cudaErrorStreamCaptureMerge, "two captures")               \
  X(cudaErrorStreamCaptureUnmatched, "another's capture")      \
  X(cudaErrorStreamCaptureUnjoined, "unjoined work")           \
  X(cudaErrorStreamCaptureIsolation, "work outside")           \
  X(cudaErrorCapturedEvent, "event of a capture")              \
  X(cudaErrorUnknown, "unknown error")

#define EMULATED_NAME(code, text) \
  case code:                      \
    return #code;
#define EMULATED_TEXT(code, text) \
  case code:                      \
    return text;

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    EMULATED_ERRORS(EMULATED_NAME)
    default:
      return "cudaError";
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    EMULATED_ERRORS(EMULATED_TEXT)
    default:
      return "another error";
  }
}
