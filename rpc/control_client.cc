#include "rpc/control_client.h"

#include <fmt/format.h>
#include <thrift/TApplicationException.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "rpc/convert.h"
#include "rpc/message_transport.h"
#include "rpc/sockets.h"
#include "wire/Coordinator.h"

namespace lockstep {
namespace {

using apache::thrift::TApplicationException;
using apache::thrift::transport::TTransportException;

Status at_most(const char* what, size_t count, int limit) {
  if (count <= static_cast<size_t>(limit)) return {};
  return Error{fmt::format("{}: {} in one message, at most {} are possible", what, count, limit)};
}

class ThriftControlClient final : public ControlClient {
 public:
  ThriftControlClient(const Address& coordinator, ControlClientOptions options)
      : address_(coordinator),
        who_("coordinator " + coordinator.text()),
        options_(std::move(options)) {}

  Status connect(int timeout_ms) {
    LOCKSTEP_ASSIGN(auto socket, connect_socket(address_, timeout_ms, who_,
                                                {options_.tls, {Role::coordinator}}));
    socket->setSendTimeout(options_.call_timeout_ms);
    transport_ = std::make_shared<MessageTransport>(std::move(socket), options_.call_timeout_ms,
                                                    options_.call_timeout_ms);
    client_.emplace(make_protocol(transport_));
    return {};
  }

  bool answered() const override { return client_.has_value(); }
  Result<Welcome> hello(const Hello& hello) override {
    wire::Welcome answer;
    LOCKSTEP_RETURN_IF_ERROR(call([&](Wire& wire) { wire.hello(answer, to_wire(hello)); }));
    return understood(from_wire(answer));
  }
  Status join(const JoinRequest& request) override {
    return call([&](Wire& wire) { wire.join(to_wire(request)); });
  }
  Result<PollReply> poll(const PollRequest& request) override {
    wire::PollReply answer;
    LOCKSTEP_RETURN_IF_ERROR(call([&](Wire& wire) { wire.poll(answer, to_wire(request)); }));
    return understood(from_wire(answer));
  }
  Status attach(SessionId session, const Standing& standing) override {
    return call([&](Wire& wire) { wire.attach(session, to_wire(standing)); });
  }
  Status report_held(const HeldReport& report) override {
    return call([&](Wire& wire) { wire.report_held(to_wire(report)); });
  }
  Status report_step(const StepReport& report) override {
    for (const PartitionSamples& each : report.partitions) {
      LOCKSTEP_RETURN_IF_ERROR(at_most("samples of a step", each.samples.size(), kMaxElements));
    }
    return call([&](Wire& wire) { wire.report_step(to_wire(report)); });
  }
  Status report_epoch(const EpochReport& report) override {
    LOCKSTEP_RETURN_IF_ERROR(
        at_most("validation parts of an epoch", report.validation.size(), kMaxElements));
    return call([&](Wire& wire) { wire.report_epoch(to_wire(report)); });
  }
  Status report_fault(const FaultReport& report) override {
    return call([&](Wire& wire) { wire.report_fault(to_wire(report)); });
  }
  Status upload(const StatePart& part) override {
    LOCKSTEP_RETURN_IF_ERROR(at_most("bytes of an upload", part.bytes.size(), kMaxStringBytes));
    const bool last = part.offset >= part.total - static_cast<int64_t>(part.bytes.size());
    const int timeout_ms = last ? options_.disk_timeout_ms : options_.call_timeout_ms;
    const wire::StatePart wired = to_wire(part);
    return call(timeout_ms, [&](Wire& wire) { wire.upload(wired); });
  }
  Result<std::string> fetch(SessionId session, const std::string& object, int64_t offset) override {
    return part_of_state(
        [&](Wire& wire, std::string& answer) { wire.fetch(answer, session, object, offset); });
  }
  Status ask_to_leave(SessionId session) override {
    return call([&](Wire& wire) { wire.ask_to_leave(session); });
  }
  Status leave(SessionId session) override {
    return call([&](Wire& wire) { wire.leave(session); });
  }
  Result<std::string> status() override {
    std::string answer;
    LOCKSTEP_RETURN_IF_ERROR(call([&](Wire& wire) { wire.status(answer); }));
    return answer;
  }
  Result<NewestState> newest_state() override {
    wire::NewestState answer;
    LOCKSTEP_RETURN_IF_ERROR(call([&](Wire& wire) { wire.newest_state(answer); }));
    return understood(from_wire(answer));
  }
  Result<std::string> read_state(const std::string& object, int64_t offset) override {
    return part_of_state(
        [&](Wire& wire, std::string& answer) { wire.read_state(answer, object, offset); });
  }
  Result<WorkReply> next_batches(const WorkRequest& request) override {
    wire::WorkReply answer;
    LOCKSTEP_RETURN_IF_ERROR(
        call([&](Wire& wire) { wire.next_batches(answer, to_wire(request)); }));
    return understood(from_wire(answer));
  }
  Status deliver(const ResultPart& part) override {
    LOCKSTEP_RETURN_IF_ERROR(at_most("bytes of results", part.bytes.size(), kMaxStringBytes));
    const wire::ResultPart wired = to_wire(part);
    return call(options_.disk_timeout_ms, [&](Wire& wire) { wire.deliver(wired); });
  }

 private:
  using Wire = wire::CoordinatorClient;

  template <class Function>
  Result<std::string> part_of_state(const Function& function) {
    std::string answer;
    LOCKSTEP_RETURN_IF_ERROR(
        call(options_.disk_timeout_ms, [&](Wire& wire) { function(wire, answer); }));
    if (answer.size() > static_cast<size_t>(kFetchBytes)) {
      return Error{fmt::format("{}: bad message: fetch has {} bytes, must have at most {}", who_,
                               answer.size(), kFetchBytes)};
    }
    return answer;
  }
  template <class Function>
  Status call(const Function& function) {
    return call(options_.call_timeout_ms, function);
  }
  // Makes the call; a second time, on a new connection, where the first one was closed.
  template <class Function>
  Status call(int call_timeout_ms, const Function& function) {
    const Deadline deadline = deadline_in(call_timeout_ms);
    for (int attempt = 0;; ++attempt) {
      if (!client_) {
        LOCKSTEP_RETURN_IF_ERROR(
            connect(std::min(options_.connect_timeout_ms, ms_until(deadline))));
      }
      transport_->expect_message_by(deadline);
      try {
        function(*client_);
        return {};
      } catch (const wire::Refusal& refusal) {
        return from_wire(refusal);
      } catch (const CertificateRefused& refusal) {
        client_.reset();
        return refused_error(fmt::format("{}: {}", who_, refusal.what()));
      } catch (const TTransportException& failure) {
        client_.reset();
        if (failure.getType() == TTransportException::TIMED_OUT) {
          return Error{fmt::format("{}: no answer within {} ms", who_, call_timeout_ms)};
        }
        if (attempt == 1) {
          return Error{fmt::format("{}: connection lost ({})", who_, failure.what())};
        }
      } catch (const TApplicationException& failure) {
        client_.reset();
        return Error{fmt::format("{}: the call failed there ({})", who_, failure.what())};
      } catch (const std::exception& failure) {
        client_.reset();
        return Error{
            fmt::format("{}: its answer makes no sense ({}); is it a coordinator of this "
                        "version?",
                        who_, failure.what())};
      }
    }
  }

  // What the coordinator sent broke a rule: its failure, not a refusal of ours.
  template <class T>
  Result<T> understood(Result<T> result) {
    if (result.ok()) return result;
    return Error{fmt::format("{}: {}", who_, result.error().message)};
  }

  const Address address_;
  const std::string who_;
  const ControlClientOptions options_;
  std::shared_ptr<MessageTransport> transport_;
  std::optional<Wire> client_;  // none: not connected
};

}  // namespace

Result<std::unique_ptr<ControlClient>> make_control_client(const Address& coordinator,
                                                           ControlClientOptions options) {
  auto client = std::make_unique<ThriftControlClient>(coordinator, options);
  LOCKSTEP_RETURN_IF_ERROR(client->connect(options.connect_timeout_ms));
  return std::unique_ptr<ControlClient>(std::move(client));
}

}  // namespace lockstep
