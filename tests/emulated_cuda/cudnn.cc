// The real libcudnn without a device, but for what needs one.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "host/core/check.h"
#include "tests/emulated_cuda/convolution.h"
#include "tests/emulated_cuda/state.h"
#include "tests/emulated_cuda/vendor.h"

namespace lockstep {

// cuda/vendor.cc's, under the name that CMakeLists.txt gives it.
Result<std::shared_ptr<const CudnnApi>> load_real_cudnn(const char* file);

namespace emulated {
namespace {

struct CudnnHandle {
  int device = 0;
  cudaStream_t stream = nullptr;
};

struct VariantPack {
  std::vector<int64_t> ids;
  std::vector<void*> pointers;
  void* workspace = nullptr;
};

struct Plan {
  ConvGraph graph;
  int64_t workspace_bytes = 0;
};

// For the life of the process, as the library itself is.
struct Library {
  std::shared_ptr<const CudnnApi> real;
  std::string missing;
  std::string json;  // of the device
  cudnnBackendDescriptor_t properties = nullptr;
  std::map<cudnnBackendDescriptor_t, VariantPack> packs;
  std::map<cudnnBackendDescriptor_t, Plan> plans;  // that have run
};

std::filesystem::path device_file() {
  return std::filesystem::path(LOCKSTEP_SOURCE_DIR) / ".." / "shared" / "data" / "cudnn-devices" /
         "h100.json";
}

Library open_library() {
  Library library;
  std::ifstream file(device_file());
  if (!file) {
    library.missing = "no description of a device: " + device_file().string();
    return library;
  }
  library.json.assign((std::istreambuf_iterator<char>(file)), {});
  auto real = load_real_cudnn(kCudnnFile);
  if (!real) {
    library.missing = real.error().message;
    return library;
  }
  library.real = std::move(real).value();
  const CudnnApi& api = *library.real;
  const auto check = [](cudnnStatus_t status) { LOCKSTEP_CHECK(status == CUDNN_STATUS_SUCCESS); };
  check(api.backend_create_descriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &library.properties));
  check(api.backend_set_attribute(library.properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                                  CUDNN_TYPE_CHAR, static_cast<int64_t>(library.json.size()),
                                  library.json.data()));
  check(api.backend_finalize(library.properties));
  return library;
}

Library& library() {
  static auto* const opened = new Library(open_library());
  return *opened;
}

cudnnStatus_t create_handle(cudnnHandle_t* handle) {
  const Call call("cudnnCreate");
  if (call.chosen()) return CUDNN_STATUS_INTERNAL_ERROR;
  *handle = reinterpret_cast<cudnnHandle_t>(new CudnnHandle{current_device(), nullptr});
  ++state().vendor_objects["handles of cuDNN"];
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t destroy_handle(cudnnHandle_t handle) {
  const Call call("cudnnDestroy");
  delete reinterpret_cast<CudnnHandle*>(handle);
  --state().vendor_objects["handles of cuDNN"];
  return call.chosen() ? CUDNN_STATUS_INTERNAL_ERROR : CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t set_stream(cudnnHandle_t opaque, cudaStream_t stream) {
  const Call call("cudnnSetStream");
  if (call.chosen()) return CUDNN_STATUS_INTERNAL_ERROR;
  auto* handle = reinterpret_cast<CudnnHandle*>(opaque);
  if (stream_of(stream, "cudnnSetStream").device != handle->device) {
    violation("cudnnSetStream: a stream of another device");
  }
  handle->stream = stream;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t create_descriptor(cudnnBackendDescriptorType_t type,
                                cudnnBackendDescriptor_t* descriptor) {
  const Call call("cudnnBackendCreateDescriptor");
  if (call.chosen()) return CUDNN_STATUS_INTERNAL_ERROR;
  const cudnnStatus_t status = library().real->backend_create_descriptor(type, descriptor);
  if (status == CUDNN_STATUS_SUCCESS) ++state().vendor_objects["descriptors of cuDNN"];
  return status;
}

cudnnStatus_t destroy_descriptor(cudnnBackendDescriptor_t descriptor) {
  const Call call("cudnnBackendDestroyDescriptor");
  library().packs.erase(descriptor);
  library().plans.erase(descriptor);
  --state().vendor_objects["descriptors of cuDNN"];
  const cudnnStatus_t status = library().real->backend_destroy_descriptor(descriptor);
  return call.chosen() ? CUDNN_STATUS_INTERNAL_ERROR : status;
}

cudnnStatus_t finalize(cudnnBackendDescriptor_t descriptor) {
  const Call call("cudnnBackendFinalize");
  if (call.chosen()) return CUDNN_STATUS_INTERNAL_ERROR;
  return library().real->backend_finalize(descriptor);
}

// A description of the device wherever the code gives a handle.
cudnnStatus_t set_attribute(cudnnBackendDescriptor_t descriptor,
                            cudnnBackendAttributeName_t attribute, cudnnBackendAttributeType_t type,
                            int64_t count, const void* values) {
  const Call call("cudnnBackendSetAttribute");
  if (call.chosen()) return CUDNN_STATUS_INTERNAL_ERROR;
  Library& own = library();
  const CudnnApi& real = *own.real;
  const auto describe = [&](cudnnBackendAttributeName_t name) {
    return real.backend_set_attribute(descriptor, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                      &own.properties);
  };
  switch (attribute) {
    case CUDNN_ATTR_OPERATIONGRAPH_HANDLE:
      return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_EXECUTION_PLAN_HANDLE:
      return describe(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP);
    case CUDNN_ATTR_DEVICEPROP_HANDLE:
      return real.backend_set_attribute(descriptor, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                                        CUDNN_TYPE_CHAR, static_cast<int64_t>(own.json.size()),
                                        own.json.data());
    case CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH:
      if (const cudnnStatus_t status = describe(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP);
          status != CUDNN_STATUS_SUCCESS) {
        return status;
      }
      break;
    case CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS: {
      const auto* ids = static_cast<const int64_t*>(values);
      own.packs[descriptor].ids.assign(ids, ids + count);
      break;
    }
    case CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS: {
      const auto* pointers = static_cast<void* const*>(values);
      own.packs[descriptor].pointers.assign(pointers, pointers + count);
      break;
    }
    case CUDNN_ATTR_VARIANT_PACK_WORKSPACE:
      own.packs[descriptor].workspace = *static_cast<void* const*>(values);
      break;
    default:
      break;
  }
  return real.backend_set_attribute(descriptor, attribute, type, count, values);
}

cudnnStatus_t get_attribute(cudnnBackendDescriptor_t descriptor,
                            cudnnBackendAttributeName_t attribute, cudnnBackendAttributeType_t type,
                            int64_t count, int64_t* found, void* values) {
  const Call call("cudnnBackendGetAttribute");
  if (call.chosen()) return CUDNN_STATUS_INTERNAL_ERROR;
  return library().real->backend_get_attribute(descriptor, attribute, type, count, found, values);
}

Plan& plan_of(cudnnBackendDescriptor_t descriptor) {
  Library& own = library();
  const auto known = own.plans.find(descriptor);
  if (known != own.plans.end()) return known->second;
  const auto get = [&](cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                       int64_t count, void* values) {
    int64_t found = 0;
    LOCKSTEP_CHECK(own.real->backend_get_attribute(descriptor, name, type, count, &found, values) ==
                   CUDNN_STATUS_SUCCESS);
    return found;
  };
  constexpr auto kJson = CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION;
  std::string text(static_cast<size_t>(get(kJson, CUDNN_TYPE_CHAR, 0, nullptr)), '\0');
  get(kJson, CUDNN_TYPE_CHAR, static_cast<int64_t>(text.size()), text.data());
  while (!text.empty() && text.back() == '\0') text.pop_back();
  Plan plan{ConvGraph::parse(text), 0};
  get(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &plan.workspace_bytes);
  return own.plans[descriptor] = std::move(plan);
}

void check_memory(const Plan& plan, const std::map<int64_t, void*>& memory, void* workspace,
                  int device) {
  for (const auto& [id, tensor] : plan.graph.tensors) {
    if (tensor.is_virtual) continue;
    const std::string what = "cudnnBackendExecute, tensor " + std::to_string(id);
    const auto found = memory.find(id);
    if (found == memory.end()) violation(what + ": no pointer in the variant pack");
    check_device_memory(found->second, tensor.bytes(), device, what);
    if (reinterpret_cast<uintptr_t>(found->second) % static_cast<uintptr_t>(tensor.alignment) !=
        0) {
      violation(what + " is not aligned to the " + std::to_string(tensor.alignment) +
                " bytes that were declared");
    }
  }
  if (plan.workspace_bytes > 0) {
    check_device_memory(workspace, static_cast<size_t>(plan.workspace_bytes), device,
                        "cudnnBackendExecute, workspace");
  }
}

cudnnStatus_t execute(cudnnHandle_t opaque, cudnnBackendDescriptor_t plan_descriptor,
                      cudnnBackendDescriptor_t pack_descriptor) {
  const Call call("cudnnBackendExecute");
  if (call.fails()) return CUDNN_STATUS_EXECUTION_FAILED;
  const CudnnHandle handle = *reinterpret_cast<CudnnHandle*>(opaque);
  if (current_device() != handle.device) violation("cudnnBackendExecute: another current device");
  const VariantPack& pack = library().packs[pack_descriptor];
  if (pack.ids.size() != pack.pointers.size()) violation("cudnnBackendExecute: the variant pack");
  Plan plan = plan_of(plan_descriptor);
  if (state().planted.bug == Bug::wrong_padding) plan.graph.swap_paddings();
  std::map<int64_t, void*> memory;
  for (size_t i = 0; i < pack.ids.size(); ++i) {
    memory[pack.ids[i]] = pack.pointers[i];
    if (plan.graph.tensors.count(pack.ids[i]) == 0) {
      violation("cudnnBackendExecute: the plan has no tensor " + std::to_string(pack.ids[i]));
    }
  }
  void* workspace = pack.workspace;
  check_memory(plan, memory, workspace, handle.device);
  const cudaError_t error =
      submit(handle.stream, {"cudnnBackendExecute", {handle.device}, [=] {
                               check_memory(plan, memory, workspace, handle.device);
                               plan.graph.run(memory);
                             }});
  return error == cudaSuccess ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_EXECUTION_FAILED;
}

// Where there is no library.
void fill_without_library(CudnnApi& api) {
  api.get_version = [] { return size_t{0}; };
  api.get_error_string = [](cudnnStatus_t) { return "no libcudnn on this machine"; };
  api.backend_create_descriptor = [](cudnnBackendDescriptorType_t, cudnnBackendDescriptor_t*) {
    return CUDNN_STATUS_NOT_SUPPORTED;
  };
  api.version = "no cuDNN";
}

void fill_with_library(CudnnApi& api) {
  api = *library().real;
  api.backend_create_descriptor = &create_descriptor;
  api.backend_destroy_descriptor = &destroy_descriptor;
  api.backend_finalize = &finalize;
  api.backend_set_attribute = &set_attribute;
  api.backend_get_attribute = &get_attribute;
  api.backend_execute = &execute;
}

}  // namespace

std::string missing_cudnn() { return library().missing; }

std::shared_ptr<const CudnnApi> cudnn_api() {
  auto api = std::make_shared<CudnnApi>();
  if (library().real == nullptr) {
    fill_without_library(*api);
  } else {
    fill_with_library(*api);
  }
  api->create = &create_handle;
  api->destroy = &destroy_handle;
  api->set_stream = &set_stream;
  return api;
}

}  // namespace emulated
}  // namespace lockstep
