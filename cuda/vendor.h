// cuDNN, cublasLt and NCCL, loaded when first needed, so that a binary with CUDA starts on a
// machine that has none of them. Each is a plain table of function pointers: a test fills one of
// its own.
//
// The tables are owned by shared_ptr, by everything that needs them; the code itself stays mapped
// to the end of the process (unloading CUDA libraries while their threads live crashes).
#pragma once

#include <cublasLt.h>
#include <cudnn_graph.h>
#include <nccl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

// X(symbol, member)
#define LOCKSTEP_CUDNN_FUNCTIONS(X)                            \
  X(cudnnGetVersion, get_version)                              \
  X(cudnnGetErrorString, get_error_string)                     \
  X(cudnnGetLastErrorString, get_last_error_string)            \
  X(cudnnCreate, create)                                       \
  X(cudnnDestroy, destroy)                                     \
  X(cudnnSetStream, set_stream)                                \
  X(cudnnBackendCreateDescriptor, backend_create_descriptor)   \
  X(cudnnBackendDestroyDescriptor, backend_destroy_descriptor) \
  X(cudnnBackendFinalize, backend_finalize)                    \
  X(cudnnBackendSetAttribute, backend_set_attribute)           \
  X(cudnnBackendGetAttribute, backend_get_attribute)           \
  X(cudnnBackendExecute, backend_execute)

#define LOCKSTEP_CUBLASLT_FUNCTIONS(X)                                      \
  X(cublasLtGetVersion, get_version)                                        \
  X(cublasLtGetStatusName, get_status_name)                                 \
  X(cublasLtGetStatusString, get_status_string)                             \
  X(cublasLtCreate, create)                                                 \
  X(cublasLtDestroy, destroy)                                               \
  X(cublasLtMatmulDescCreate, matmul_desc_create)                           \
  X(cublasLtMatmulDescDestroy, matmul_desc_destroy)                         \
  X(cublasLtMatmulDescSetAttribute, matmul_desc_set_attribute)              \
  X(cublasLtMatrixLayoutCreate, matrix_layout_create)                       \
  X(cublasLtMatrixLayoutDestroy, matrix_layout_destroy)                     \
  X(cublasLtMatmulPreferenceCreate, matmul_preference_create)               \
  X(cublasLtMatmulPreferenceDestroy, matmul_preference_destroy)             \
  X(cublasLtMatmulPreferenceSetAttribute, matmul_preference_set_attribute)  \
  X(cublasLtMatmulAlgoGetHeuristic, matmul_algo_get_heuristic)              \
  X(cublasLtMatmulAlgoConfigGetAttribute, matmul_algo_config_get_attribute) \
  X(cublasLtMatmulAlgoCapGetAttribute, matmul_algo_cap_get_attribute)       \
  X(cublasLtMatmul, matmul)

#define LOCKSTEP_NCCL_FUNCTIONS(X)                 \
  X(ncclGetVersion, get_version)                   \
  X(ncclGetErrorString, get_error_string)          \
  X(ncclGetLastError, get_last_error)              \
  X(ncclGetUniqueId, get_unique_id)                \
  X(ncclCommInitRankConfig, comm_init_rank_config) \
  X(ncclCommGetAsyncError, comm_get_async_error)   \
  X(ncclCommAbort, comm_abort)                     \
  X(ncclGroupStart, group_start)                   \
  X(ncclGroupEnd, group_end)                       \
  X(ncclSend, send)                                \
  X(ncclRecv, recv)                                \
  X(ncclAllGather, all_gather)                     \
  X(ncclAllReduce, all_reduce)

#define LOCKSTEP_VENDOR_POINTER(symbol, member) decltype(&::symbol) member = nullptr;

struct CudnnApi {
  LOCKSTEP_CUDNN_FUNCTIONS(LOCKSTEP_VENDOR_POINTER)
  std::string version;  // "cuDNN 9.19.0"
};
struct CublasLtApi {
  LOCKSTEP_CUBLASLT_FUNCTIONS(LOCKSTEP_VENDOR_POINTER)
  std::string version;  // "cublasLt 13.1.0"
};
struct NcclApi {
  LOCKSTEP_NCCL_FUNCTIONS(LOCKSTEP_VENDOR_POINTER)
  std::string version;  // "NCCL 2.28.9"
};

#undef LOCKSTEP_VENDOR_POINTER

#define LOCKSTEP_VENDOR_TEXT_(number) #number
#define LOCKSTEP_VENDOR_TEXT(number) LOCKSTEP_VENDOR_TEXT_(number)
// Of the major version whose header this was compiled with: the types are that one's.
inline constexpr const char* kCudnnFile = "libcudnn.so." LOCKSTEP_VENDOR_TEXT(CUDNN_MAJOR);
inline constexpr const char* kCublasLtFile =
    "libcublasLt.so." LOCKSTEP_VENDOR_TEXT(CUBLAS_VER_MAJOR);
inline constexpr const char* kNcclFile = "libnccl.so." LOCKSTEP_VENDOR_TEXT(NCCL_MAJOR);
#undef LOCKSTEP_VENDOR_TEXT
#undef LOCKSTEP_VENDOR_TEXT_

// Loads `file` and looks up every function. Fails, with the library's name and what to do, where it
// is missing, lacks a function or is too old. Any thread.
Result<std::shared_ptr<const CudnnApi>> load_cudnn(const char* file = kCudnnFile);
Result<std::shared_ptr<const CublasLtApi>> load_cublaslt(const char* file = kCublasLtFile);
Result<std::shared_ptr<const NcclApi>> load_nccl(const char* file = kNcclFile);

// "cudnnBackendFinalize(plan): CUDNN_STATUS_BAD_PARAM: what the library says"
Status cudnn_status(const CudnnApi& api, cudnnStatus_t status, const std::string& expression);
Status cublaslt_status(const CublasLtApi& api, cublasStatus_t status,
                       const std::string& expression);
// ncclInProgress, which a non-blocking communicator returns, is an error here too: the caller asks
// for it first.
Status nccl_status(const NcclApi& api, ncclResult_t status, const std::string& expression);

// Owns a handle of cuDNN or cublasLt for the current device. One stream at a time uses it.
class CudnnHandle {
 public:
  static Result<CudnnHandle> create(std::shared_ptr<const CudnnApi> api);
  CudnnHandle(CudnnHandle&& other) noexcept
      : api_(std::move(other.api_)), handle_(std::exchange(other.handle_, nullptr)) {}
  CudnnHandle& operator=(CudnnHandle&& other) noexcept {
    std::swap(api_, other.api_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~CudnnHandle();
  cudnnHandle_t get() const { return handle_; }
  Status set_stream(cudaStream_t stream) const;
  const std::shared_ptr<const CudnnApi>& api() const { return api_; }

 private:
  CudnnHandle(std::shared_ptr<const CudnnApi> api, cudnnHandle_t handle)
      : api_(std::move(api)), handle_(handle) {}
  std::shared_ptr<const CudnnApi> api_;
  cudnnHandle_t handle_ = nullptr;
};

class CublasLtHandle {
 public:
  static Result<CublasLtHandle> create(std::shared_ptr<const CublasLtApi> api);
  CublasLtHandle(CublasLtHandle&& other) noexcept
      : api_(std::move(other.api_)), handle_(std::exchange(other.handle_, nullptr)) {}
  CublasLtHandle& operator=(CublasLtHandle&& other) noexcept {
    std::swap(api_, other.api_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~CublasLtHandle();
  cublasLtHandle_t get() const { return handle_; }
  const std::shared_ptr<const CublasLtApi>& api() const { return api_; }

 private:
  CublasLtHandle(std::shared_ptr<const CublasLtApi> api, cublasLtHandle_t handle)
      : api_(std::move(api)), handle_(handle) {}
  std::shared_ptr<const CublasLtApi> api_;
  cublasLtHandle_t handle_ = nullptr;
};

// Owns one of cuDNN's backend descriptors. The setters name the attribute in their message
// (LOCKSTEP_CUDNN_SET).
class CudnnDescriptor {
 public:
  CudnnDescriptor() = default;
  static Result<CudnnDescriptor> create(std::shared_ptr<const CudnnApi> api,
                                        cudnnBackendDescriptorType_t type);
  CudnnDescriptor(CudnnDescriptor&& other) noexcept
      : api_(std::move(other.api_)), descriptor_(std::exchange(other.descriptor_, nullptr)) {}
  CudnnDescriptor& operator=(CudnnDescriptor&& other) noexcept {
    std::swap(api_, other.api_);
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~CudnnDescriptor();

  cudnnBackendDescriptor_t get() const { return descriptor_; }

  // `name` is the attribute's, `values` as many elements of `type` as `count` says.
  Status set(cudnnBackendAttributeName_t attribute, const char* name,
             cudnnBackendAttributeType_t type, int64_t count, const void* values);
  Status finalize(const char* what);

  // How many elements the attribute has.
  Result<int64_t> count(cudnnBackendAttributeName_t attribute, const char* name,
                        cudnnBackendAttributeType_t type) const;
  // Fills `count` elements at `values`; the number there are. For an attribute that is descriptors,
  // `values` holds descriptors already created.
  Result<int64_t> get(cudnnBackendAttributeName_t attribute, const char* name,
                      cudnnBackendAttributeType_t type, int64_t count, void* values) const;
  Result<std::string> text(cudnnBackendAttributeName_t attribute, const char* name) const;
  // All that the attribute holds, or `at_most` of them (cuDNN doesn't count knobs when asked to).
  Result<std::vector<CudnnDescriptor>> descriptors(cudnnBackendAttributeName_t attribute,
                                                   const char* name,
                                                   cudnnBackendDescriptorType_t type,
                                                   int64_t at_most = -1) const;

 private:
  CudnnDescriptor(std::shared_ptr<const CudnnApi> api, cudnnBackendDescriptor_t descriptor)
      : api_(std::move(api)), descriptor_(descriptor) {}
  std::shared_ptr<const CudnnApi> api_;
  cudnnBackendDescriptor_t descriptor_ = nullptr;
};

}  // namespace lockstep

// Returns from the enclosing function where the attribute can't be set.
#define LOCKSTEP_CUDNN_SET(descriptor, attribute, type, count, values) \
  LOCKSTEP_RETURN_IF_ERROR((descriptor).set(attribute, #attribute, type, count, values))
