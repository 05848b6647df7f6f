// Devices, streams, events, kernels and graphs of the runtime API.
#include <algorithm>
#include <cstring>
#include <utility>

#include "tests/emulated_cuda/launch.h"
#include "tests/emulated_cuda/state.h"

namespace lockstep::emulated {
namespace {

constexpr unsigned kMaxThreads = 1024;

template <class T>
T& living(std::map<const void*, std::unique_ptr<T>>& objects, const void* handle, const char* what,
          const char* call) {
  const auto found = objects.find(handle);
  if (found == objects.end()) {
    violation(std::string(call) + ": no " + what + (handle == nullptr ? " (nullptr)" : ""));
  }
  if (found->second->destroyed) violation(std::string(call) + ": the " + what + " is destroyed");
  return *found->second;
}

Event& event_of(cudaEvent_t handle, const char* call) {
  return living(state().events, handle, "event", call);
}

template <class Handle, class T>
Handle keep(std::map<const void*, std::unique_ptr<T>>& objects, std::unique_ptr<T> object) {
  const auto handle = reinterpret_cast<Handle>(object.get());
  objects[handle] = std::move(object);
  return handle;
}

// Adds the work to the capture of the stream.
cudaError_t capture_work(Stream& stream, Work work) {
  Capture& capture = *stream.capture;
  if (capture.invalid) return cudaErrorStreamCaptureInvalidated;
  GraphNode node{std::move(work), stream.number, {stream.captured.begin(), stream.captured.end()}};
  capture.graph.nodes.push_back(std::move(node));
  stream.captured = {static_cast<int>(capture.graph.nodes.size()) - 1};
  return cudaSuccess;
}

// In a capture a stream can't be waited for.
cudaError_t refuse_captured(const Stream& stream) {
  if (stream.capture == nullptr) return cudaSuccess;
  stream.capture->invalid = true;
  return cudaErrorStreamCaptureUnsupported;
}

// Where a wait fails, CUDA's context is lost: nothing that is queued will run.
void give_up(int device) { state().broken[static_cast<size_t>(device)] = true; }

cudaError_t broken_error(int device) {
  return state().broken[static_cast<size_t>(device)] ? cudaErrorIllegalAddress : cudaSuccess;
}

// All of the capture's nodes that `last` come after, themselves included.
std::vector<bool> reached(const Graph& graph, const std::set<int>& last) {
  std::vector<bool> seen(graph.nodes.size());
  for (const int node : last) seen[static_cast<size_t>(node)] = true;
  for (size_t i = graph.nodes.size(); i-- > 0;) {
    if (!seen[i]) continue;
    for (const int earlier : graph.nodes[i].before) seen[static_cast<size_t>(earlier)] = true;
  }
  return seen;
}

void launch_graph(const Graph& graph, Stream& stream) {
  State& s = state();
  std::vector<NodePtr> nodes;
  std::vector<bool> leaf(graph.nodes.size(), true);
  const uint64_t launch = s.draw();
  for (const GraphNode& node : graph.nodes) {
    std::vector<NodePtr> before;
    for (const int earlier : node.before) {
      before.push_back(nodes[static_cast<size_t>(earlier)]);
      leaf[static_cast<size_t>(earlier)] = false;
    }
    if (before.empty()) before.push_back(stream.tail);
    nodes.push_back(s.enqueue(node.work, launch + node.lane, before));
  }
  std::vector<NodePtr> last = {stream.tail};
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (leaf[i]) last.push_back(nodes[i]);
  }
  stream.tail = s.enqueue({"the end of a graph", {}, {}}, stream.number, last);
}

void check_pointer(uint64_t word, int device, const std::string& what) {
  const auto* address = reinterpret_cast<const void*>(word);
  const int found = state().device_of(address);
  if (found < 0) {
    auto pinned = state().host.upper_bound(reinterpret_cast<const std::byte*>(word));
    if (pinned == state().host.begin()) return;
    --pinned;
    const HostBlock& block = pinned->second;
    if (address < block.data + block.bytes) violation(what + " got a pointer to pinned memory");
    return;
  }
  const Arena& arena = *state().arenas[static_cast<size_t>(found)];
  if (found != device) {
    violation(what + " on GPU " + std::to_string(device) + " got a pointer to " +
              arena.describe(address) + " of GPU " + std::to_string(found));
  }
  const Allocation* allocation = arena.find(address);
  if (allocation == nullptr || !arena.usable(*allocation)) {
    violation(what + " got a pointer to " + arena.describe(address));
  }
}

// Looks for pointers to the wrong memory in all of the arguments' words. Pageable memory of the
// host can't be told from numbers; where a kernel touches it, nothing is seen.
void check_arguments(std::span<const ArgumentBytes> arguments, int device,
                     const std::string& what) {
  for (const ArgumentBytes& argument : arguments) {
    for (size_t at = 0; at + sizeof(uint64_t) <= argument.size(); at += sizeof(uint64_t)) {
      uint64_t word = 0;
      std::memcpy(&word, argument.data() + at, sizeof word);
      check_pointer(word, device, what);
    }
  }
}

}  // namespace

Stream& stream_of(cudaStream_t handle, const char* call) {
  if (handle == nullptr || handle == cudaStreamLegacy || handle == cudaStreamPerThread) {
    violation(std::string(call) + ": the default stream");
  }
  return living(state().streams, handle, "stream", call);
}

cudaError_t submit(cudaStream_t handle, Work work) {
  Stream& stream = stream_of(handle, work.name.c_str());
  if (stream.capture != nullptr) return capture_work(stream, std::move(work));
  stream.tail = state().enqueue(std::move(work), stream.number, {stream.tail});
  return cudaSuccess;
}

void barrier(const char* file, int line) { state().grid.barrier(file, line); }

cudaError_t launch_kernel(const void*, LaunchShape shape, cudaStream_t handle,
                          std::span<const ArgumentBytes> arguments, std::function<void()> thread) {
  const Call call("kernel launch");
  if (call.fails()) return call.failure(cudaErrorLaunchOutOfResources);
  const std::string name = "kernel launch " + std::to_string(state().call_counts["kernel launch"]);
  Stream& stream = stream_of(handle, name.c_str());
  if (shape.blocks == 0 || shape.blocks > INT32_MAX || shape.threads == 0 ||
      shape.threads > kMaxThreads) {
    return call.result(cudaErrorInvalidConfiguration);
  }
  if (stream.device != current_device()) return call.result(cudaErrorInvalidResourceHandle);
  check_arguments(arguments, stream.device, name);
  return call.result(submit(handle, {name, {stream.device}, [shape, thread = std::move(thread)] {
                                       State& s = state();
                                       s.grid.run(shape, thread, s.draw());
                                     }}));
}

}  // namespace lockstep::emulated

using namespace lockstep::emulated;  // in the functions that CUDA declares

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned int flags) {
  const Call call("cudaStreamCreateWithFlags");
  if (call.fails()) return call.failure(cudaErrorMemoryAllocation);
  if (flags != cudaStreamNonBlocking) violation("a stream that blocks the default one");
  auto stream = std::make_unique<Stream>();
  stream->number = state().streams.size() + 1;
  stream->device = current_device();
  *handle = keep<cudaStream_t>(state().streams, std::move(stream));
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  const Call call("cudaStreamDestroy");
  Stream& stream = stream_of(handle, "cudaStreamDestroy");
  if (stream.capture != nullptr) {
    stream.capture->invalid = true;
    std::erase(stream.capture->streams, &stream);
    stream.capture = nullptr;
  }
  stream.destroyed = true;
  return call.chosen() ? call.failure(cudaErrorUnknown) : cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  const Call call("cudaStreamSynchronize");
  Stream& stream = stream_of(handle, "cudaStreamSynchronize");
  if (const cudaError_t error = refuse_captured(stream)) return call.result(error);
  if (call.chosen()) give_up(stream.device);
  if (call.fails()) return call.failure(cudaErrorUnknown);
  state().run_until_done(stream.tail);
  shrink_pools(stream.device);
  return call.result(broken_error(stream.device));
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  const Call call("cudaStreamQuery");
  Stream& stream = stream_of(handle, "cudaStreamQuery");
  if (const cudaError_t error = refuse_captured(stream)) return call.result(error);
  if (call.fails()) return call.failure(cudaErrorUnknown);
  State& s = state();
  if (stream.tail != nullptr && !stream.tail->done && !s.ready.empty()) {
    s.run_one();
    s.close_arenas();
  }
  if (const cudaError_t error = broken_error(stream.device)) return call.result(error);
  return stream.tail == nullptr || stream.tail->done ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize() {
  const Call call("cudaDeviceSynchronize");
  if (call.chosen()) give_up(current_device());
  if (call.fails()) return call.failure(cudaErrorUnknown);
  state().run_device(current_device());
  shrink_pools(current_device());
  return call.result(broken_error(current_device()));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned int) {
  const Call call("cudaStreamWaitEvent");
  if (call.fails()) return call.failure(cudaErrorUnknown);
  Stream& stream = stream_of(handle, "cudaStreamWaitEvent");
  const Event& event = event_of(event_handle, "cudaStreamWaitEvent");
  if (state().shows(Bug::skip_stream_wait)) return cudaSuccess;
  if (event.capture == nullptr) {
    if (stream.capture != nullptr) {
      if (event.node == nullptr) return cudaSuccess;
      stream.capture->invalid = true;
      return call.result(cudaErrorStreamCaptureIsolation);
    }
    stream.tail =
        state().enqueue({"cudaStreamWaitEvent", {}, {}}, stream.number, {stream.tail, event.node});
    return cudaSuccess;
  }
  if (event.capture->origin == nullptr) return call.result(cudaErrorCapturedEvent);  // over
  if (stream.capture != nullptr && stream.capture != event.capture) {
    stream.capture->invalid = event.capture->invalid = true;
    return call.result(cudaErrorStreamCaptureMerge);
  }
  if (stream.capture == nullptr) {
    stream.capture = event.capture;
    stream.capture->streams.push_back(&stream);
    stream.captured.clear();
  }
  stream.captured.insert(event.captured.begin(), event.captured.end());
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned int) {
  const Call call("cudaEventCreateWithFlags");
  if (call.fails()) return call.failure(cudaErrorMemoryAllocation);
  auto event = std::make_unique<Event>();
  event->device = current_device();
  *handle = keep<cudaEvent_t>(state().events, std::move(event));
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  const Call call("cudaEventDestroy");
  event_of(handle, "cudaEventDestroy").destroyed = true;
  return call.chosen() ? call.failure(cudaErrorUnknown) : cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  const Call call("cudaEventRecord");
  if (call.fails()) return call.failure(cudaErrorUnknown);
  Event& event = event_of(handle, "cudaEventRecord");
  Stream& stream = stream_of(stream_handle, "cudaEventRecord");
  if (event.device != stream.device) return call.result(cudaErrorInvalidResourceHandle);
  if (state().shows(Bug::skip_event_record)) return cudaSuccess;
  event.capture = stream.capture;
  event.captured = stream.captured;
  event.node = stream.capture == nullptr ? stream.tail : nullptr;
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  const Call call("cudaEventSynchronize");
  if (call.chosen()) give_up(current_device());
  if (call.fails()) return call.failure(cudaErrorUnknown);
  const Event& event = event_of(handle, "cudaEventSynchronize");
  if (event.capture != nullptr) {
    event.capture->invalid = true;
    return call.result(cudaErrorCapturedEvent);
  }
  if (state().shows(Bug::skip_event_wait)) return cudaSuccess;
  state().run_until_done(event.node);
  shrink_pools(event.device);
  return call.result(broken_error(event.device));
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  const Call call("cudaEventQuery");
  if (call.fails()) return call.failure(cudaErrorUnknown);
  const Event& event = event_of(handle, "cudaEventQuery");
  if (event.capture != nullptr) {
    event.capture->invalid = true;
    return call.result(cudaErrorCapturedEvent);
  }
  State& s = state();
  if (event.node != nullptr && !event.node->done && !s.ready.empty()) {
    s.run_one();
    s.close_arenas();
  }
  if (const cudaError_t error = broken_error(event.device)) return call.result(error);
  return event.node == nullptr || event.node->done ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  const Call call("cudaStreamBeginCapture");
  if (call.fails()) return call.failure(cudaErrorUnknown);
  Stream& stream = stream_of(handle, "cudaStreamBeginCapture");
  if (stream.capture != nullptr) return call.result(cudaErrorIllegalState);
  stream.capture = std::make_shared<Capture>();
  stream.capture->origin = &stream;
  stream.capture->mode = mode;
  stream.capture->graph.device = stream.device;
  stream.capture->streams = {&stream};
  stream.captured.clear();
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  const Call call("cudaStreamIsCapturing");
  if (call.fails()) return call.failure(cudaErrorUnknown);
  const Stream& stream = stream_of(handle, "cudaStreamIsCapturing");
  *status = cudaStreamCaptureStatusNone;
  if (stream.capture == nullptr) return cudaSuccess;
  *status =
      stream.capture->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  const Call call("cudaStreamEndCapture");
  *graph = nullptr;
  Stream& stream = stream_of(handle, "cudaStreamEndCapture");
  const std::shared_ptr<Capture> capture = stream.capture;
  if (capture == nullptr) return call.result(cudaErrorIllegalState);
  if (capture->origin != &stream) return call.result(cudaErrorStreamCaptureUnmatched);
  const std::vector<bool> joined = reached(capture->graph, stream.captured);
  for (Stream* other : capture->streams) other->capture = nullptr;
  capture->origin = nullptr;
  if (call.fails()) return call.failure(cudaErrorUnknown);
  if (capture->invalid) return call.result(cudaErrorStreamCaptureInvalidated);
  if (std::find(joined.begin(), joined.end(), false) != joined.end()) {
    return call.result(cudaErrorStreamCaptureUnjoined);
  }
  *graph = keep<cudaGraph_t>(state().graphs, std::make_unique<Graph>(capture->graph));
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t handle,
                                 unsigned long long) {
  const Call call("cudaGraphInstantiate");
  if (call.fails()) return call.failure(cudaErrorMemoryAllocation);
  const Graph& graph = living(state().graphs, handle, "graph", "cudaGraphInstantiate");
  *executable = keep<cudaGraphExec_t>(state().executables, std::make_unique<Graph>(graph));
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream_handle) {
  const Call call("cudaGraphLaunch");
  if (call.fails()) return call.failure(cudaErrorUnknown);
  const Graph& graph = living(state().executables, handle, "executable graph", "cudaGraphLaunch");
  Stream& stream = stream_of(stream_handle, "cudaGraphLaunch");
  if (stream.capture != nullptr) violation("cudaGraphLaunch in a capture: not emulated");
  if (stream.device != graph.device) return call.result(cudaErrorInvalidValue);
  launch_graph(graph, stream);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t handle) {
  const Call call("cudaGraphDestroy");
  living(state().graphs, handle, "graph", "cudaGraphDestroy").destroyed = true;
  return call.chosen() ? call.failure(cudaErrorUnknown) : cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle) {
  const Call call("cudaGraphExecDestroy");
  living(state().executables, handle, "executable graph", "cudaGraphExecDestroy").destroyed = true;
  return call.chosen() ? call.failure(cudaErrorUnknown) : cudaSuccess;
}
