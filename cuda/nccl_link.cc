#include "cuda/nccl_link.h"

#include <fmt/format.h>
#include <time.h>

#include <chrono>
#include <cstring>
#include <utility>

#include "host/core/check.h"

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;

// Between two looks: moves take some tens of microseconds, and sleeping takes longer than asked.
constexpr long kPauseNs = 5'000;
constexpr int kSpins = 200;
constexpr const char* kOthers = "the other GPUs";  // what is waited for

class NcclLink final : public DeviceLink {
 public:
  NcclLink(std::shared_ptr<const NcclApi> api, Gpu& gpu, const LinkOptions& options)
      : api_(std::move(api)), gpu_(gpu), options_(options) {}
  ~NcclLink() override { break_off(); }

  Status connect() {
    ncclUniqueId id;
    std::memcpy(&id, options_.id.data(), sizeof(id));
    LOCKSTEP_RETURN_IF_ERROR(gpu_.make_current());
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return checked(
        api_->comm_init_rank_config(&comm_, options_.devices, id, options_.index, &config),
        "ncclCommInitRankConfig");
  }

  std::string description() const override { return api_->version; }

  Status exchange(std::span<const Transfer> sends, std::span<const Transfer> receives) override {
    return grouped([&]() -> Called {
      for (const Transfer& send : sends) {
        const ncclResult_t result = api_->send(send.memory, static_cast<size_t>(send.count),
                                               ncclFloat32, send.peer, comm_, gpu_.stream());
        if (!going(result)) return {result, "ncclSend"};
      }
      for (const Transfer& receive : receives) {
        const ncclResult_t result = api_->recv(receive.memory, static_cast<size_t>(receive.count),
                                               ncclFloat32, receive.peer, comm_, gpu_.stream());
        if (!going(result)) return {result, "ncclRecv"};
      }
      return {};
    });
  }

  Status all_gather(float* buffer, int64_t count) override {
    return grouped([&]() -> Called {
      const ncclResult_t result =
          api_->all_gather(buffer + options_.index * count, buffer, static_cast<size_t>(count),
                           ncclFloat32, comm_, gpu_.stream());
      return {going(result) ? ncclSuccess : result, "ncclAllGather"};
    });
  }

  Status all_reduce(float* values, int64_t count) override {
    return grouped([&]() -> Called {
      const ncclResult_t result = api_->all_reduce(values, values, static_cast<size_t>(count),
                                                   ncclFloat32, ncclSum, comm_, gpu_.stream());
      return {going(result) ? ncclSuccess : result, "ncclAllReduce"};
    });
  }

  Status finish() override {
    return poll(kOthers,
                [&] { return done(cudaStreamQuery(gpu_.stream()), "cudaStreamQuery(stream)"); });
  }

  Status finish_aside(int index) override {
    return poll(kOthers, [&] {
      return done(cudaEventQuery(gpu_.aside_event(index)), "cudaEventQuery(aside)");
    });
  }

 private:
  static bool going(ncclResult_t result) {
    return result == ncclSuccess || result == ncclInProgress;
  }

  static Result<bool> done(cudaError_t state, const char* call) {
    if (state == cudaErrorNotReady) return false;
    LOCKSTEP_RETURN_IF_ERROR(cuda_status(state, call));
    return true;
  }

  // What the first call of a group that failed returned.
  struct Called {
    ncclResult_t result = ncclSuccess;
    const char* name = "";
  };

  template <class Calls>
  Status grouped(const Calls& calls) {
    if (comm_ == nullptr) return Error{"the links between the GPUs are broken"};
    LOCKSTEP_RETURN_IF_ERROR(gpu_.make_current());
    LOCKSTEP_RETURN_IF_ERROR(checked(api_->group_start(), "ncclGroupStart"));
    const Called called = calls();
    const ncclResult_t ended = api_->group_end();
    LOCKSTEP_RETURN_IF_ERROR(checked(called.result, called.name));
    return checked(ended, "ncclGroupEnd");
  }

  // A communicator that does not block answers "in progress"; until that is over, nothing may be
  // put behind it.
  Status checked(ncclResult_t result, const char* call) {
    if (result == ncclSuccess) return {};
    if (result == ncclInProgress) {
      return poll(call, [&]() -> Result<bool> { return pending_ == ncclSuccess; });
    }
    return failed(nccl_status(*api_, result, call));
  }

  // Until `done()`, an error of NCCL's or the deadline.
  template <class Done>
  Status poll(const char* what, const Done& done) {
    const auto deadline = Clock::now() + std::chrono::milliseconds(options_.timeout_ms);
    for (int64_t turn = 0;; ++turn) {
      if (comm_ == nullptr) return Error{"the links between the GPUs are broken"};
      const ncclResult_t asked = api_->comm_get_async_error(comm_, &pending_);
      if (asked != ncclSuccess) return failed(nccl_status(*api_, asked, "ncclCommGetAsyncError"));
      if (!going(pending_)) return failed(nccl_status(*api_, pending_, what));
      const Result<bool> ready = done();
      if (!ready.ok()) return failed(ready.error());
      if (*ready) return {};
      if (Clock::now() > deadline) {
        return failed(
            Error{fmt::format("GPU {}: waited {} ms for {}: a GPU of this node, or the "
                              "link to it, has stopped",
                              gpu_.info().index, options_.timeout_ms, what)});
      }
      if (turn < kSpins) continue;
      const timespec pause{0, kPauseNs};
      nanosleep(&pause, nullptr);
    }
  }

  Status failed(const Status& status) {
    break_off();
    return status;
  }

  void break_off() {
    if (comm_ == nullptr) return;
    const Status status =
        nccl_status(*api_, api_->comm_abort(std::exchange(comm_, nullptr)), "ncclCommAbort");
    if (!status.ok()) std::fprintf(stderr, "lockstep: %s\n", status.error().message.c_str());
  }

  const std::shared_ptr<const NcclApi> api_;
  Gpu& gpu_;
  const LinkOptions options_;
  ncclComm_t comm_ = nullptr;
  ncclResult_t pending_ = ncclSuccess;
};

}  // namespace

Result<std::string> nccl_link_id() {
  LOCKSTEP_ASSIGN(const auto api, load_nccl());
  ncclUniqueId id;
  LOCKSTEP_RETURN_IF_ERROR(nccl_status(*api, api->get_unique_id(&id), "ncclGetUniqueId"));
  return std::string(id.internal, sizeof(id));
}

Result<std::unique_ptr<DeviceLink>> make_nccl_link(Gpu& gpu, const LinkOptions& options) {
  LOCKSTEP_CHECK(options.id.size() == sizeof(ncclUniqueId));
  LOCKSTEP_ASSIGN(auto api, load_nccl());
  auto link = std::make_unique<NcclLink>(std::move(api), gpu, options);
  LOCKSTEP_RETURN_IF_ERROR(link->connect());
  return std::unique_ptr<DeviceLink>(std::move(link));
}

}  // namespace lockstep
