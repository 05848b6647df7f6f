#include "cuda/vendor.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <cstdio>

namespace lockstep {
namespace {

constexpr size_t kOldestCudnn = 90000;
constexpr size_t kOldestCublasLt = 120000;
constexpr int kOldestNccl = 21800;  // ncclCommFinalize and non-blocking communicators are sound

// `name` is the library's for people, `file` what the loader is asked for.
Result<void*> open_library(const char* name, const char* file) {
  void* library = dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library != nullptr) return library;
  const char* reason = dlerror();
  return Error{fmt::format(
      "{} can't be loaded: {}; install it or put the folder of {} on LD_LIBRARY_PATH (or run with "
      "--device cpu)",
      name, reason != nullptr ? reason : "unknown reason", file)};
}

template <class Function>
Status find_function(void* library, const char* name, const char* file, const char* symbol,
                     Function& function) {
  dlerror();  // forgets an older failure
  void* address = dlsym(library, symbol);
  if (address == nullptr) {
    const char* reason = dlerror();
    return Error{fmt::format(
        "{} ({}) has no function {}: {}; install a newer one or put its folder on LD_LIBRARY_PATH "
        "(or run with --device cpu)",
        name, file, symbol, reason != nullptr ? reason : "unknown reason")};
  }
  function = reinterpret_cast<Function>(address);
  return {};
}

Error too_old(const std::string& version, const char* oldest) {
  return Error{fmt::format(
      "{} is too old, {} or later is needed: install it or put its folder on LD_LIBRARY_PATH (or "
      "run with --device cpu)",
      version, oldest)};
}

}  // namespace

#define LOCKSTEP_VENDOR_FIND(symbol, member) \
  LOCKSTEP_RETURN_IF_ERROR(find_function(library, kName, file, #symbol, api->member));

Result<std::shared_ptr<const CudnnApi>> load_cudnn(const char* file) {
  constexpr const char* kName = "cuDNN";
  LOCKSTEP_ASSIGN(void* const library, open_library(kName, file));
  auto api = std::make_shared<CudnnApi>();
  LOCKSTEP_CUDNN_FUNCTIONS(LOCKSTEP_VENDOR_FIND)
  const size_t version = api->get_version();
  const bool new_form = version >= 90000;  // 9.19.0 is 91900; 8.9.7 was 8907
  api->version = fmt::format("cuDNN {}.{}.{}", version / (new_form ? 10000 : 1000),
                             version / 100 % (new_form ? 100 : 10), version % 100);
  if (version < kOldestCudnn) return too_old(api->version, "9.0");
  return std::shared_ptr<const CudnnApi>(std::move(api));
}

Result<std::shared_ptr<const CublasLtApi>> load_cublaslt(const char* file) {
  constexpr const char* kName = "cublasLt";
  LOCKSTEP_ASSIGN(void* const library, open_library(kName, file));
  auto api = std::make_shared<CublasLtApi>();
  LOCKSTEP_CUBLASLT_FUNCTIONS(LOCKSTEP_VENDOR_FIND)
  const size_t version = api->get_version();
  api->version =
      fmt::format("cublasLt {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
  if (version < kOldestCublasLt) return too_old(api->version, "12.0");
  return std::shared_ptr<const CublasLtApi>(std::move(api));
}

Result<std::shared_ptr<const NcclApi>> load_nccl(const char* file) {
  constexpr const char* kName = "NCCL";
  LOCKSTEP_ASSIGN(void* const library, open_library(kName, file));
  auto api = std::make_shared<NcclApi>();
  LOCKSTEP_NCCL_FUNCTIONS(LOCKSTEP_VENDOR_FIND)
  int version = 0;
  LOCKSTEP_RETURN_IF_ERROR(nccl_status(*api, api->get_version(&version), "ncclGetVersion"));
  api->version = fmt::format("NCCL {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
  if (version < kOldestNccl) return too_old(api->version, "2.18");
  return std::shared_ptr<const NcclApi>(std::move(api));
}

#undef LOCKSTEP_VENDOR_FIND

Status cudnn_status(const CudnnApi& api, cudnnStatus_t status, const std::string& expression) {
  if (status == CUDNN_STATUS_SUCCESS) return {};
  std::string text = expression + ": " + api.get_error_string(status);
  if (api.get_last_error_string != nullptr) {
    std::array<char, 512> detail{};
    api.get_last_error_string(detail.data(), detail.size());
    if (detail[0] != '\0') text += std::string(": ") + detail.data();
  }
  return Error{std::move(text)};
}

Status cublaslt_status(const CublasLtApi& api, cublasStatus_t status,
                       const std::string& expression) {
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  return Error{expression + ": " + api.get_status_name(status) + ": " +
               api.get_status_string(status)};
}

Status nccl_status(const NcclApi& api, ncclResult_t status, const std::string& expression) {
  if (status == ncclSuccess) return {};
  std::string text = expression + ": " + api.get_error_string(status);
  const char* detail = api.get_last_error != nullptr ? api.get_last_error(nullptr) : nullptr;
  if (detail != nullptr && detail[0] != '\0') text += std::string(": ") + detail;
  return Error{std::move(text)};
}

Result<CudnnHandle> CudnnHandle::create(std::shared_ptr<const CudnnApi> api) {
  cudnnHandle_t handle = nullptr;
  LOCKSTEP_RETURN_IF_ERROR(cudnn_status(*api, api->create(&handle), "cudnnCreate(&handle)"));
  return CudnnHandle(std::move(api), handle);
}

CudnnHandle::~CudnnHandle() {
  if (handle_ == nullptr) return;
  const Status status = cudnn_status(*api_, api_->destroy(handle_), "cudnnDestroy(handle)");
  if (!status) std::fprintf(stderr, "lockstep: %s\n", status.error().message.c_str());
}

Status CudnnHandle::set_stream(cudaStream_t stream) const {
  return cudnn_status(*api_, api_->set_stream(handle_, stream), "cudnnSetStream(handle, stream)");
}

Result<CublasLtHandle> CublasLtHandle::create(std::shared_ptr<const CublasLtApi> api) {
  cublasLtHandle_t handle = nullptr;
  LOCKSTEP_RETURN_IF_ERROR(cublaslt_status(*api, api->create(&handle), "cublasLtCreate(&handle)"));
  return CublasLtHandle(std::move(api), handle);
}

CublasLtHandle::~CublasLtHandle() {
  if (handle_ == nullptr) return;
  const Status status = cublaslt_status(*api_, api_->destroy(handle_), "cublasLtDestroy(handle)");
  if (!status) std::fprintf(stderr, "lockstep: %s\n", status.error().message.c_str());
}

Result<CudnnDescriptor> CudnnDescriptor::create(std::shared_ptr<const CudnnApi> api,
                                                cudnnBackendDescriptorType_t type) {
  cudnnBackendDescriptor_t descriptor = nullptr;
  LOCKSTEP_RETURN_IF_ERROR(
      cudnn_status(*api, api->backend_create_descriptor(type, &descriptor),
                   fmt::format("cudnnBackendCreateDescriptor(type {})", static_cast<int>(type))));
  return CudnnDescriptor(std::move(api), descriptor);
}

CudnnDescriptor::~CudnnDescriptor() {
  if (descriptor_ == nullptr) return;
  const Status status = cudnn_status(*api_, api_->backend_destroy_descriptor(descriptor_),
                                     "cudnnBackendDestroyDescriptor(descriptor)");
  if (!status) std::fprintf(stderr, "lockstep: %s\n", status.error().message.c_str());
}

Status CudnnDescriptor::set(cudnnBackendAttributeName_t attribute, const char* name,
                            cudnnBackendAttributeType_t type, int64_t count, const void* values) {
  const cudnnStatus_t status =
      api_->backend_set_attribute(descriptor_, attribute, type, count, values);
  if (status == CUDNN_STATUS_SUCCESS) return {};
  return cudnn_status(*api_, status, fmt::format("cudnnBackendSetAttribute({})", name));
}

Status CudnnDescriptor::finalize(const char* what) {
  const cudnnStatus_t status = api_->backend_finalize(descriptor_);
  if (status == CUDNN_STATUS_SUCCESS) return {};
  return cudnn_status(*api_, status, fmt::format("cudnnBackendFinalize({})", what));
}

Result<int64_t> CudnnDescriptor::count(cudnnBackendAttributeName_t attribute, const char* name,
                                       cudnnBackendAttributeType_t type) const {
  return get(attribute, name, type, 0, nullptr);
}

Result<int64_t> CudnnDescriptor::get(cudnnBackendAttributeName_t attribute, const char* name,
                                     cudnnBackendAttributeType_t type, int64_t count,
                                     void* values) const {
  int64_t found = 0;
  LOCKSTEP_RETURN_IF_ERROR(cudnn_status(
      *api_, api_->backend_get_attribute(descriptor_, attribute, type, count, &found, values),
      fmt::format("cudnnBackendGetAttribute({})", name)));
  return found;
}

Result<std::string> CudnnDescriptor::text(cudnnBackendAttributeName_t attribute,
                                          const char* name) const {
  LOCKSTEP_ASSIGN(const int64_t size, count(attribute, name, CUDNN_TYPE_CHAR));
  std::string text(static_cast<size_t>(size), '\0');
  LOCKSTEP_RETURN_IF_ERROR(get(attribute, name, CUDNN_TYPE_CHAR, size, text.data()));
  while (!text.empty() && text.back() == '\0') text.pop_back();  // the count includes the end
  return text;
}

Result<std::vector<CudnnDescriptor>> CudnnDescriptor::descriptors(
    cudnnBackendAttributeName_t attribute, const char* name, cudnnBackendDescriptorType_t type,
    int64_t at_most) const {
  int64_t size = at_most;
  if (at_most < 0) {
    LOCKSTEP_ASSIGN(size, count(attribute, name, CUDNN_TYPE_BACKEND_DESCRIPTOR));
  }
  std::vector<CudnnDescriptor> owners;
  std::vector<cudnnBackendDescriptor_t> views;
  for (int64_t i = 0; i < size; ++i) {
    LOCKSTEP_ASSIGN(CudnnDescriptor owner, create(api_, type));
    views.push_back(owner.get());
    owners.push_back(std::move(owner));
  }
  if (size == 0) return owners;
  LOCKSTEP_ASSIGN(const int64_t found,
                  get(attribute, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, size, views.data()));
  if (found < size) owners.resize(static_cast<size_t>(found));
  return owners;
}

}  // namespace lockstep
