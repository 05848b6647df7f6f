// Every call there and back, errors, and reconnecting.
#include "host/runtime/control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>

#include "rpc/control_client.h"
#include "rpc/control_server.h"
#include "rpc/network.h"
#include "tests/rpc/fake_service.h"
#include "tests/rpc/raw_socket.h"

namespace lockstep {
namespace {

using testing::HasSubstr;

class ControlTest : public testing::Test {
 protected:
  void start(ControlServerOptions options = {}, const Address& listen = kAnyPort) {
    auto made = make_control_server(listen, service_, options);
    ASSERT_TRUE(made.ok()) << made.error().message;
    server_ = std::move(made).value();
    address_ = {"127.0.0.1", server_->port()};
  }
  std::unique_ptr<ControlClient> connect(ControlClientOptions options = {}) {
    auto made = make_control_client(address_, options);
    EXPECT_TRUE(made.ok()) << made.error().message;
    return made.ok() ? std::move(made).value() : nullptr;
  }

  FakeService service_;
  std::unique_ptr<ControlServer> server_;
  Address address_;
};

TEST_F(ControlTest, HelloAndJoin) {
  start();
  const auto client = connect();
  const auto welcome = client->hello({5, "0.1.0", "nöde-1"});
  ASSERT_TRUE(welcome.ok()) << welcome.error().message;
  EXPECT_EQ(welcome->session, 7);
  EXPECT_EQ(welcome->term, 3);
  EXPECT_EQ(welcome->job, service_.welcome.job);
  EXPECT_EQ(service_.hello_.wire_version, 5);
  EXPECT_EQ(service_.hello_.version, "0.1.0");
  EXPECT_EQ(service_.hello_.name, "nöde-1");

  JoinRequest request{7, ":4000", 2, "cpu", "cpu-avx2", "d1", "d2", {{"conv", -5}, {"dense", 6}}};
  ASSERT_TRUE(client->join(request).ok());
  EXPECT_EQ(service_.peer_host_, "127.0.0.1");
  EXPECT_EQ(service_.join_.session, 7);
  EXPECT_EQ(service_.join_.address, ":4000");
  EXPECT_EQ(service_.join_.devices, 2);
  EXPECT_EQ(service_.join_.device, "cpu");
  EXPECT_EQ(service_.join_.numerics, "cpu-avx2");
  EXPECT_EQ(service_.join_.data_digest, "d1");
  EXPECT_EQ(service_.join_.validation_digest, "d2");
  EXPECT_EQ(service_.join_.canary, request.canary);
}

TEST_F(ControlTest, PollBringsEveryKindOfEventInOrder) {
  const View view{
      4, 1'000'000'000'000, {{7, "a", "h:1", {0, 3}}, {9, "b", "h:2", {3, 3}}}, {0, 1, 0}};
  service_.events = {ViewEvent{view}, EpochDecision{3, false}, UploadEvent{},
                     StopEvent{ErrorKind::halted, true, "done"}};
  start();
  const auto events = connect()->poll(7);
  ASSERT_TRUE(events.ok()) << events.error().message;
  ASSERT_EQ(events->size(), 4u);
  EXPECT_EQ(std::get<ViewEvent>((*events)[0]).view, view);
  EXPECT_EQ(std::get<EpochDecision>((*events)[1]).epoch, 3);
  EXPECT_FALSE(std::get<EpochDecision>((*events)[1]).go_on);
  EXPECT_TRUE(std::holds_alternative<UploadEvent>((*events)[2]));
  EXPECT_EQ(std::get<StopEvent>((*events)[3]).kind, ErrorKind::halted);
  EXPECT_TRUE(std::get<StopEvent>((*events)[3]).completed);
  EXPECT_EQ(std::get<StopEvent>((*events)[3]).reason, "done");
}

TEST_F(ControlTest, StepReportKeepsEveryBit) {
  start();
  const auto client = connect();
  const double loss = std::nextafter(0.1, 1.0);
  const StepReport report{7, 2, 1LL << 40, loss, 55, {{0, 2, {4, 1LL << 50}}, {3, 0, {}}}};
  ASSERT_TRUE(client->report_step(report).ok());
  EXPECT_EQ(service_.step_.session, 7);
  EXPECT_EQ(service_.step_.view, 2);
  EXPECT_EQ(service_.step_.step, 1LL << 40);
  EXPECT_EQ(service_.step_.loss_sum, loss);
  EXPECT_EQ(service_.step_.correct, 55);
  ASSERT_EQ(service_.step_.partitions.size(), 2u);
  EXPECT_EQ(service_.step_.partitions[0].rows, 2);
  EXPECT_EQ(service_.step_.partitions[0].samples, (std::vector<int64_t>{4, 1LL << 50}));
  EXPECT_EQ(service_.step_.partitions[1].partition, 3);
}

TEST_F(ControlTest, EpochReportKeepsEveryBit) {
  start();
  const float tiny = std::numeric_limits<float>::denorm_min();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const EpochReport report{7, 1, -0.0, 3, 100, {{0, 1, 25, tiny, 20}, {9, 2, 24, nan, 1}}};
  ASSERT_TRUE(connect()->report_epoch(report).ok());
  EXPECT_EQ(service_.epoch_.epoch, 1);
  EXPECT_TRUE(std::signbit(service_.epoch_.loss_sum));
  EXPECT_EQ(service_.epoch_.correct, 3);
  EXPECT_EQ(service_.epoch_.rows, 100);
  ASSERT_EQ(service_.epoch_.validation.size(), 2u);
  EXPECT_EQ(service_.epoch_.validation[0].loss_sum, tiny);
  EXPECT_EQ(service_.epoch_.validation[0].correct, 20);
  EXPECT_TRUE(std::isnan(service_.epoch_.validation[1].loss_sum));
  EXPECT_EQ(service_.epoch_.validation[1].batch, 9);
}

TEST_F(ControlTest, FinalFaultUploadLeaveStatus) {
  start();
  const auto client = connect();
  ASSERT_TRUE(client->report_final({7, "abc"}).ok());
  EXPECT_EQ(service_.final_.weights_sha256, "abc");
  ASSERT_TRUE(client->report_fault({7, 9, 12, "stream broke"}).ok());
  EXPECT_EQ(service_.fault_.accused, 9);
  EXPECT_EQ(service_.fault_.step, 12);
  EXPECT_EQ(service_.fault_.what, "stream broke");
  const std::string bytes("\0\xff\x80 binary", 10);
  ASSERT_TRUE(client->upload(7, 1LL << 33, bytes).ok());
  EXPECT_EQ(service_.offset_, 1LL << 33);
  EXPECT_EQ(service_.last_upload_, bytes);
  ASSERT_TRUE(client->leave(8).ok());
  EXPECT_EQ(service_.session_, 8);
  const auto status = client->status();
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(*status, "{\"step\":12}");
}

TEST_F(ControlTest, RefusalKeepsKindAndMessageAndTheConnection) {
  service_.answer = refused_error("numerics differ: cpu-avx2, not cuda-fp32");
  start();
  const auto client = connect();
  for (int i = 0; i < 2; ++i) {
    const auto joined = client->join({7, ":1", 1, "", "", "", "", {}});
    ASSERT_FALSE(joined.ok());
    EXPECT_EQ(joined.error().kind, ErrorKind::refused);
    EXPECT_EQ(joined.error().message, "numerics differ: cpu-avx2, not cuda-fp32");
  }
  EXPECT_EQ(service_.calls(), 2);
  EXPECT_FALSE(client->hello({}).ok());
  EXPECT_FALSE(client->poll(7).ok());
  EXPECT_FALSE(client->upload(7, 0, "x").ok());
}

TEST_F(ControlTest, NumbersOutOfRangeNeverReachTheService) {
  start();
  const auto client = connect();
  const auto refusal = [](const Status& status, const std::string& field) {
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().kind, ErrorKind::refused);
    EXPECT_THAT(status.error().message, HasSubstr(field));
  };
  refusal(client->join({7, ":1", -1, "", "", "", "", {}}), "join.devices is -1");
  refusal(client->report_step({7, 0, -3, 0, 0, {}}), "step.step is -3");
  refusal(client->report_step({7, 0, 3, 0, 0, {{-2, 0, {}}}}), "step.partitions.partition is -2");
  refusal(client->report_epoch({7, 1, 0, 0, 0, {{0, 0, -9, 0, 0}}}), "epoch.validation.rows is -9");
  refusal(client->report_fault({7, -1, 0, ""}), "fault.accused is -1");
  refusal(client->report_final({-7, ""}), "final.session is -7");
  refusal(client->upload(7, -1, ""), "upload.offset is -1");
  refusal(client->leave(-1), "session is -1");
  EXPECT_EQ(service_.calls(), 0);
}

TEST_F(ControlTest, BadAnswersAreTheCoordinatorsFailure) {
  service_.events = {ViewEvent{{1, 0, {{7, "", "", {0, 1}}}, {1}}}};
  start();
  const auto events = connect()->poll(7);
  ASSERT_FALSE(events.ok());
  EXPECT_EQ(events.error().kind, ErrorKind::failed);
  EXPECT_THAT(events.error().message, HasSubstr(address_.text()));
  EXPECT_THAT(events.error().message, HasSubstr("view.slice_owners has 1"));
}

TEST_F(ControlTest, TooLargeUploadIsRefusedBeforeItIsSent) {
  start();
  const auto client = connect();
  const auto status = client->upload(7, 0, std::string((8 << 20) + 1, 'x'));
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("at most 8388608"));
  EXPECT_TRUE(client->upload(7, 0, std::string(8 << 20, 'x')).ok());
}

TEST_F(ControlTest, NobodyThereIsConnectionRefused) {
  start();
  const auto client = connect();
  server_.reset();
  const auto again = make_control_client(address_);
  ASSERT_FALSE(again.ok());
  EXPECT_THAT(again.error().message,
              HasSubstr("coordinator " + address_.text() + ": connection refused"));
  const auto status = client->status();
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("connection refused"));
}

TEST_F(ControlTest, UnknownHostIsNamed) {
  const auto client = make_control_client({"no-such-host.invalid", 5000});
  ASSERT_FALSE(client.ok());
  EXPECT_THAT(client.error().message, HasSubstr("unknown host 'no-such-host.invalid'"));
}

TEST_F(ControlTest, PortInUseIsNamedWithTheRemedy) {
  start();
  const auto second = make_control_server(address_, service_);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(second.error().message, HasSubstr("cannot listen on " + address_.text()));
  EXPECT_THAT(second.error().message, HasSubstr("in use; choose another"));
  const auto elsewhere = make_control_server({"192.0.2.1", 0}, service_);
  ASSERT_FALSE(elsewhere.ok());
  EXPECT_THAT(elsewhere.error().message, HasSubstr("no such address"));
}

TEST_F(ControlTest, ReconnectsWhenTheIdleConnectionWasClosed) {
  ControlServerOptions options;
  options.idle_timeout_ms = 50;
  start(options);
  const auto client = connect();
  ASSERT_TRUE(client->status().ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  const auto status = client->status();
  EXPECT_TRUE(status.ok()) << status.error().message;
  EXPECT_EQ(service_.calls(), 2);
}

TEST_F(ControlTest, ReconnectsToACoordinatorThatCameBack) {
  start();
  const auto client = connect();
  ASSERT_TRUE(client->status().ok());
  server_.reset();
  start({}, address_);
  EXPECT_TRUE(client->status().ok());
}

TEST_F(ControlTest, CallsHaveADeadline) {
  service_.poll_takes_ms = 400;
  start();
  ControlClientOptions options;
  options.call_timeout_ms = 100;
  const auto client = connect(options);
  const Stopwatch watch;
  const auto events = client->poll(7);
  ASSERT_FALSE(events.ok());
  EXPECT_THAT(events.error().message, HasSubstr("no answer within 100 ms"));
  EXPECT_LT(watch.ms(), 350);
  EXPECT_TRUE(client->status().ok());
}

TEST_F(ControlTest, TheNetworkServesControl) {
  const auto network = make_thrift_network();
  auto server = network->serve_control({"localhost", 0}, service_);
  ASSERT_TRUE(server.ok()) << server.error().message;
  auto client = network->connect_control({"localhost", (*server)->port()}, 1000);
  ASSERT_TRUE(client.ok()) << client.error().message;
  EXPECT_TRUE((*client)->hello({}).ok());
  EXPECT_TRUE(network->connect_control({"127.0.0.1", (*server)->port()}, 1000).ok());
}

}  // namespace
}  // namespace lockstep
