// Every call there and back, errors, and reconnecting.
#include "host/runtime/control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <utility>

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

// A view in which every field differs from its default.
View full_view() {
  View view;
  view.number = 4;
  view.first_step = 1'000'000'000'000;
  view.carries = true;
  view.restores = true;
  view.restore = {1LL << 41, "states/12", 0xfedcba9876543210, 1LL << 34};
  view.donor = 1;
  view.era = 3;
  view.decided_epochs = 2;
  view.members = {{7, "a", "h:1", {0, 3}, {{0, 1}, {2, 2}, {4, 6}}, -1},
                  {9, "b", "h:2", {3, 3}, {}, 1'000'000'000'000}};
  view.slice_owners = {0, 1, 0};
  view.learning_rate = std::nextafter(0.1, 1.0);
  return view;
}

TEST_F(ControlTest, PollBringsEveryKindOfEventInOrder) {
  service_.reply = {
      5,
      true,
      {HoldEvent{6}, ViewEvent{full_view()}, EpochEvent{3, false, 0.25}, SnapshotEvent{1LL << 42},
       CheckpointEvent{1LL << 43}, StopEvent{ErrorKind::halted, true, "done"}}};
  start();
  const auto reply = connect()->poll({7, 3, 1LL << 44});
  ASSERT_TRUE(reply.ok()) << reply.error().message;
  EXPECT_EQ(service_.poll_.session, 7);
  EXPECT_EQ(service_.poll_.term, 3);
  EXPECT_EQ(service_.poll_.received, 1LL << 44);
  EXPECT_EQ(reply->term, 5);
  EXPECT_TRUE(reply->attach);
  const auto& events = reply->events;
  ASSERT_EQ(events.size(), 6u);
  EXPECT_EQ(std::get<HoldEvent>(events[0]).number, 6);
  EXPECT_EQ(std::get<ViewEvent>(events[1]).view, full_view());
  EXPECT_EQ(std::get<EpochEvent>(events[2]).epoch, 3);
  EXPECT_FALSE(std::get<EpochEvent>(events[2]).go_on);
  EXPECT_EQ(std::get<EpochEvent>(events[2]).learning_rate, std::optional<double>(0.25));
  EXPECT_EQ(std::get<SnapshotEvent>(events[3]).step, 1LL << 42);
  EXPECT_EQ(std::get<CheckpointEvent>(events[4]).step, 1LL << 43);
  EXPECT_EQ(std::get<StopEvent>(events[5]).kind, ErrorKind::halted);
  EXPECT_TRUE(std::get<StopEvent>(events[5]).completed);
  EXPECT_EQ(std::get<StopEvent>(events[5]).reason, "done");
}

TEST_F(ControlTest, StandingIsSaidToHoldAndToAttach) {
  start();
  const auto client = connect();
  const Standing standing{4, 1LL << 45, true, 1LL << 44, 6};
  ASSERT_TRUE(client->attach(7, standing).ok());
  EXPECT_EQ(service_.session_, 7);
  EXPECT_EQ(service_.standing_, standing);
  ASSERT_TRUE(client->report_held({8, 5, {}}).ok());
  EXPECT_EQ(service_.held_.session, 8);
  EXPECT_EQ(service_.held_.number, 5);
  EXPECT_EQ(service_.held_.standing, Standing{});
}

TEST_F(ControlTest, StepReportKeepsEveryBit) {
  start();
  const auto client = connect();
  const double loss = std::nextafter(0.1, 1.0);
  const StepReport report{
      7, 2, 1LL << 40, {loss, 55}, 0x8000000000000001, {{0, 2, {4, 1LL << 50}}, {3, 0, {}}}};
  ASSERT_TRUE(client->report_step(report).ok());
  EXPECT_EQ(service_.step_.session, 7);
  EXPECT_EQ(service_.step_.era, 2);
  EXPECT_EQ(service_.step_.step, 1LL << 40);
  EXPECT_EQ(service_.step_.sums, (MetricSums{loss, 55}));
  EXPECT_EQ(service_.step_.digest, 0x8000000000000001);
  ASSERT_EQ(service_.step_.partitions.size(), 2u);
  EXPECT_EQ(service_.step_.partitions[0].rows, 2);
  EXPECT_EQ(service_.step_.partitions[0].samples, (std::vector<int64_t>{4, 1LL << 50}));
  EXPECT_EQ(service_.step_.partitions[1].partition, 3);
}

TEST_F(ControlTest, EpochReportKeepsEveryBit) {
  start();
  const float tiny = std::numeric_limits<float>::denorm_min();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const EpochReport report{7, 2, 1, 1LL << 40, {-0.0, 3, 100}, {{0, 1, {tiny, 20}}, {9, 2, {nan}}}};
  ASSERT_TRUE(connect()->report_epoch(report).ok());
  EXPECT_EQ(service_.epoch_.epoch, 1);
  EXPECT_EQ(service_.epoch_.step, 1LL << 40);
  EXPECT_EQ(service_.epoch_.sums, (MetricSums{0, 3, 100}));
  EXPECT_TRUE(std::signbit(service_.epoch_.sums[0]));
  ASSERT_EQ(service_.epoch_.validation.size(), 2u);
  EXPECT_EQ(service_.epoch_.validation[0].sums, (MetricSums{tiny, 20}));
  EXPECT_TRUE(std::isnan(service_.epoch_.validation[1].sums.at(0)));
  EXPECT_EQ(service_.epoch_.validation[1].batch, 9);
}

TEST_F(ControlTest, FaultLeaveStatus) {
  start();
  const auto client = connect();
  ASSERT_TRUE(client->report_fault({7, 9, 12, "stream broke"}).ok());
  EXPECT_EQ(service_.fault_.accused, 9);
  EXPECT_EQ(service_.fault_.step, 12);
  EXPECT_EQ(service_.fault_.what, "stream broke");
  ASSERT_TRUE(client->ask_to_leave(9).ok());
  EXPECT_TRUE(service_.asked_to_leave_);
  EXPECT_EQ(service_.session_, 9);
  ASSERT_TRUE(client->leave(8).ok());
  EXPECT_EQ(service_.session_, 8);
  const auto status = client->status();
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(*status, "{\"step\":12}");
  const auto newest = client->newest_state();
  ASSERT_TRUE(newest.ok());
  EXPECT_EQ(newest->object, "object");
  EXPECT_EQ(newest->learning_rate, std::optional<double>(0.25));
}

TEST_F(ControlTest, UploadAndFetchKeepEveryByte) {
  const std::string bytes("\0\xff\x80 binary", 10);
  service_.state = bytes;
  start();
  const auto client = connect();
  ASSERT_TRUE(client->upload({7, 1LL << 40, 1LL << 33, (1LL << 33) + 10, bytes}).ok());
  EXPECT_EQ(service_.part_.session, 7);
  EXPECT_EQ(service_.part_.step, 1LL << 40);
  EXPECT_EQ(service_.part_.offset, 1LL << 33);
  EXPECT_EQ(service_.part_.total, (1LL << 33) + 10);
  EXPECT_EQ(service_.part_.bytes, bytes);
  const auto fetched = client->fetch(8, "states/12", 1LL << 35);
  ASSERT_TRUE(fetched.ok()) << fetched.error().message;
  EXPECT_EQ(*fetched, bytes);
  EXPECT_EQ(service_.session_, 8);
  EXPECT_EQ(service_.object_, "states/12");
  EXPECT_EQ(service_.offset_, 1LL << 35);
}

TEST_F(ControlTest, BatchesAndResultsKeepEveryByte) {
  const std::string bytes("\0\xff\x80 results", 11);
  service_.work = {{1LL << 40, (1LL << 40) + 64}, false};
  start();
  const auto client = connect();
  const auto work = client->next_batches({7, {3, 9}});
  ASSERT_TRUE(work.ok()) << work.error().message;
  EXPECT_EQ(work->batches, service_.work.batches);
  EXPECT_FALSE(work->over);
  EXPECT_EQ(service_.work_.session, 7);
  EXPECT_EQ(service_.work_.done, (BatchRange{3, 9}));
  service_.work = {{}, true};
  EXPECT_TRUE(client->next_batches({7, {}})->over);
  ASSERT_TRUE(client->deliver({8, 2, 1LL << 41, bytes}).ok());
  EXPECT_EQ(service_.result_.session, 8);
  EXPECT_EQ(service_.result_.array, 2);
  EXPECT_EQ(service_.result_.offset, 1LL << 41);
  EXPECT_EQ(service_.result_.bytes, bytes);
  service_.work = {{5, 4}, false};
  EXPECT_THAT(client->next_batches({7, {}}).error().message, HasSubstr("work.batches.end is 4"));
}

TEST_F(ControlTest, FetchBringsNoMoreThanItsLimit) {
  service_.state = std::string(kFetchBytes, 's');
  start();
  const auto client = connect();
  const auto fetched = client->fetch(7, "o", 0);
  ASSERT_TRUE(fetched.ok()) << fetched.error().message;
  EXPECT_EQ(*fetched, service_.state);
  service_.state += 's';
  const auto more = client->fetch(7, "o", 0);
  ASSERT_FALSE(more.ok());
  EXPECT_THAT(more.error().message, HasSubstr("fetch has 4194305 bytes"));
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
  EXPECT_FALSE(client->poll({7, 0, 0}).ok());
  EXPECT_FALSE(client->attach(7, {}).ok());
  EXPECT_FALSE(client->report_held({7, 1, {}}).ok());
  EXPECT_FALSE(client->upload({7, 0, 0, 1, "x"}).ok());
  EXPECT_FALSE(client->fetch(7, "o", 0).ok());
  EXPECT_FALSE(client->next_batches({7, {}}).ok());
  EXPECT_FALSE(client->deliver({7, 0, 0, "x"}).ok());
  EXPECT_FALSE(client->ask_to_leave(7).ok());
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
  refusal(client->report_step({7, 0, -3, {}, 0, {}}), "step.step is -3");
  refusal(client->report_step({7, -2, 3, {}, 0, {}}), "step.era is -2");
  refusal(client->report_step({7, 0, 3, {}, 0, {{-2, 0, {}}}}), "step.partitions.partition is -2");
  refusal(client->report_epoch({7, 0, 1, 0, {}, {{0, -9, {}}}}),
          "epoch.validation.partition is -9");
  const MetricSums many(kMaxMetricSums + 1);
  refusal(client->report_step({7, 0, 3, many, 0, {}}), "step.sums has 4097 numbers");
  refusal(client->report_epoch({7, 0, 1, 0, many, {}}), "epoch.sums has 4097 numbers");
  refusal(client->report_epoch({7, 0, 1, 0, {}, {{0, 0, many}}}),
          "epoch.validation.sums has 4097 numbers");
  refusal(client->report_fault({7, -1, 0, ""}), "fault.accused is -1");
  const auto poll_refusal = [&](const PollRequest& request, const std::string& field) {
    const auto reply = client->poll(request);
    refusal(reply.ok() ? Status() : reply.error(), field);
  };
  poll_refusal({-7, 0, 0}, "poll.session is -7");
  poll_refusal({7, -1, 0}, "poll.term is -1");
  poll_refusal({7, 0, -1}, "poll.received is -1");
  refusal(client->attach(-7, {}), "session is -7");
  refusal(client->attach(7, {-1, 0, false, 0}), "standing.view is -1");
  refusal(client->attach(7, {0, -2, false, 0}), "standing.step is -2");
  refusal(client->attach(7, {0, 0, false, -2, 0}), "standing.since is -2");
  refusal(client->attach(7, {0, 0, false, 0, -1}), "standing.decided_epochs is -1");
  refusal(client->report_held({-7, 0, {}}), "held.session is -7");
  refusal(client->report_held({7, -1, {}}), "held.number is -1");
  refusal(client->report_held({7, 1, {0, -2, false, 0}}), "standing.step is -2");
  refusal(client->upload({-7, 0, 0, 0, ""}), "upload.session is -7");
  refusal(client->upload({7, -1, 0, 0, ""}), "upload.step is -1");
  refusal(client->upload({7, 0, -1, 0, ""}), "upload.offset is -1");
  refusal(client->upload({7, 0, 0, -1, ""}), "upload.total is -1");
  refusal(client->upload({7, 0, 4, 5, "xy"}), "upload.offset is 4, must be at most 3");
  const auto fetched = client->fetch(7, "o", -1);
  refusal(fetched.ok() ? Status() : fetched.error(), "fetch.offset is -1");
  const auto work_refusal = [&](const WorkRequest& request, const std::string& field) {
    const auto reply = client->next_batches(request);
    refusal(reply.ok() ? Status() : reply.error(), field);
  };
  work_refusal({-7, {}}, "work.session is -7");
  work_refusal({7, {-1, 2}}, "work.done.begin is -1");
  work_refusal({7, {3, 2}}, "work.done.end is 2, must be at least 3");
  refusal(client->deliver({-7, 0, 0, ""}), "result.session is -7");
  refusal(client->deliver({7, -1, 0, ""}), "result.array is -1");
  refusal(client->deliver({7, 0, -1, ""}), "result.offset is -1");
  refusal(client->ask_to_leave(-1), "session is -1");
  refusal(client->leave(-1), "session is -1");
  EXPECT_EQ(service_.calls(), 0);
}

TEST_F(ControlTest, BadAnswersAreTheCoordinatorsFailure) {
  start();
  const auto client = connect();
  const auto failure = [&](NodeEvent event, const std::string& field) {
    service_.reply = {1, false, {std::move(event)}};
    const auto reply = client->poll({7, 0, 0});
    ASSERT_FALSE(reply.ok()) << field;
    EXPECT_EQ(reply.error().kind, ErrorKind::failed);
    EXPECT_THAT(reply.error().message, HasSubstr(address_.text()));
    EXPECT_THAT(reply.error().message, HasSubstr(field));
  };
  const auto bad_view = [&](const std::function<void(View*)>& spoil, const std::string& field) {
    View view = full_view();
    spoil(&view);
    failure(ViewEvent{view}, field);
  };
  bad_view([](View* view) { view->number = -1; }, "view.number is -1");
  bad_view([](View* view) { view->first_step = -1; }, "view.first_step is -1");
  bad_view([](View* view) { view->restore.step = -4; }, "view.restore.step is -4");
  bad_view([](View* view) { view->restore.bytes = -5; }, "view.restore.bytes is -5");
  bad_view([](View* view) { view->donor = -2; }, "view.donor has -2");
  bad_view([](View* view) { view->donor = 2; }, "view.donor has 2");
  bad_view([](View* view) { view->era = -1; }, "view.era is -1");
  bad_view([](View* view) { view->decided_epochs = -1; }, "view.decided_epochs is -1");
  bad_view([](View* view) { view->slice_owners[1] = 2; }, "view.slice_owners has 2");
  bad_view([](View* view) { view->slice_owners[1] = -1; }, "view.slice_owners has -1");
  using Edit = std::function<void(Member*)>;
  const auto bad_member = [&](const Edit& spoil, const std::string& field) {
    bad_view([&](View* view) { spoil(&view->members[0]); }, "view.members." + field);
  };
  bad_member([](Member* member) { member->session = -7; }, "session is -7");
  bad_member([](Member* member) { member->step = -2; }, "step is -2");
  bad_member([](Member* member) { member->partitions.begin = -1; }, "partitions.begin is -1");
  bad_member([](Member* member) { member->partitions = {3, 2}; }, "partitions.end is 2");
  bad_member([](Member* member) { member->carried[0].begin = -1; }, "carried.begin is -1");
  bad_member([](Member* member) { member->carried[2].end = 3; }, "carried.end is 3");
  bad_member([](Member* member) { member->carried[2].begin = 1; }, "carried.begin is 1");
  failure(HoldEvent{-1}, "hold.number is -1");
  failure(EpochEvent{-1, true, {}}, "epoch.epoch is -1");
  failure(EpochEvent{1, true, -1.0}, "epoch.learning_rate is -1");
  failure(SnapshotEvent{-1}, "snapshot.step is -1");
  failure(CheckpointEvent{-1}, "checkpoint.step is -1");
  failure(StopEvent{static_cast<ErrorKind>(5), false, ""}, "stop.kind is 5");
  service_.reply = {-1, false, {}};
  EXPECT_THAT(client->poll({7, 0, 0}).error().message, HasSubstr("reply.term is -1"));
}

TEST_F(ControlTest, TooLargeUploadIsRefusedBeforeItIsSent) {
  start();
  const auto client = connect();
  const int64_t limit = 8 << 20;
  const auto status = client->upload({7, 0, 0, limit + 1, std::string(limit + 1, 'x')});
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("at most 8388608"));
  EXPECT_TRUE(client->upload({7, 0, 0, limit, std::string(limit, 'x')}).ok());
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
  const auto reply = client->poll({7, 0, 0});
  ASSERT_FALSE(reply.ok());
  EXPECT_THAT(reply.error().message, HasSubstr("no answer within 100 ms"));
  EXPECT_LT(watch.ms(), 350);
  EXPECT_TRUE(client->status().ok());
}

TEST_F(ControlTest, CallsThatWaitForADiskHaveALaterDeadline) {
  service_.disk_takes_ms = 400;
  start();
  ControlClientOptions options;
  options.call_timeout_ms = 100;
  const auto patient = connect(options);
  EXPECT_TRUE(patient->upload({7, 0, 1, 2, "x"}).ok());
  EXPECT_TRUE(patient->fetch(7, "o", 0).ok());
  const auto part = patient->upload({7, 0, 0, 2, "x"});
  ASSERT_FALSE(part.ok()) << "not the last: it waits for no disk";
  EXPECT_THAT(part.error().message, HasSubstr("no answer within 100 ms"));
  options.disk_timeout_ms = 150;
  const auto hasty = connect(options);
  const auto fetched = hasty->fetch(7, "o", 0);
  ASSERT_FALSE(fetched.ok());
  EXPECT_THAT(fetched.error().message, HasSubstr("no answer within 150 ms"));
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
