#include "host/observe/events.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cmath>
#include <sstream>

namespace lockstep {
namespace {

using Json = nlohmann::json;

class EventsTest : public testing::Test {
 protected:
  EventsTest() {
    ::signal(SIGPIPE, SIG_IGN);
    EXPECT_EQ(::pipe(ends_), 0);
    ::fcntl(ends_[0], F_SETFL, O_NONBLOCK);
  }
  ~EventsTest() override {
    ::close(ends_[0]);
    ::close(ends_[1]);
  }

  EventStream open() { return EventStream::open(std::to_string(ends_[1])).value(); }

  // What has arrived.
  std::vector<Json> read() {
    char buffer[4096];
    ssize_t count = 0;
    while ((count = ::read(ends_[0], buffer, sizeof(buffer))) > 0) {
      received_.append(buffer, static_cast<size_t>(count));
    }
    std::vector<Json> events;
    std::istringstream lines(std::exchange(received_, ""));
    for (std::string line; std::getline(lines, line);) events.push_back(Json::parse(line));
    return events;
  }

  static Job small_job() {
    Job job;
    job.batch_size = 8;
    job.train_rows = 40;
    job.partitions = 4;
    job.outputs[0].metrics = {"accuracy"};
    return job;
  }

  int ends_[2] = {-1, -1};
  std::string received_;
};

TEST_F(EventsTest, OneObjectALineAndNothingInherited) {
  EventStream stream = open();
  EXPECT_TRUE((::fcntl(ends_[1], F_GETFD) & FD_CLOEXEC) != 0);
  stream.say("note", {{"text", "two\nlines"}, {"nan", std::nan("")}});
  stream.say("done", Json::object());
  EXPECT_TRUE(read().empty());  // say() does not write
  ASSERT_TRUE(stream.flush().ok());
  const Json note = {{"event", "note"}, {"text", "two\nlines"}, {"nan", nullptr}};
  EXPECT_EQ(read(), (std::vector<Json>{note, {{"event", "done"}}}));
}

TEST_F(EventsTest, ATargetThatIsNone) {
  for (const char* target : {"", "x", "-1", "3x", "9999"}) {
    const auto stream = EventStream::open(target);
    ASSERT_FALSE(stream.ok()) << target;
    EXPECT_EQ(stream.error().kind, ErrorKind::usage);
  }
}

TEST_F(EventsTest, ASlowReaderHoldsNothingUpAndMissesNothing) {
  EventStream stream = open();
  const std::string text(1000, 'x');
  for (int i = 0; i < 200; ++i) {
    stream.say("note", {{"text", text}, {"number", i}});
    ASSERT_TRUE(stream.flush().ok());  // the pipe takes 64 KiB
  }
  EXPECT_TRUE(stream.is_full());
  std::string all;
  for (int round = 0; round < 100 && (stream.is_full() || round < 60); ++round) {
    char buffer[4096];
    const ssize_t count = ::read(ends_[0], buffer, sizeof(buffer));
    if (count > 0) all.append(buffer, static_cast<size_t>(count));
    ASSERT_TRUE(stream.flush().ok());
  }
  EXPECT_FALSE(stream.is_full());
  received_ = all;
  const auto events = read();
  ASSERT_EQ(events.size(), 200u);
  for (int i = 0; i < 200; ++i) EXPECT_EQ(events[static_cast<size_t>(i)]["number"], i);
}

TEST_F(EventsTest, AReaderThatIsGoneIsAnError) {
  EventStream stream = open();
  ::close(ends_[0]);
  ends_[0] = -1;
  stream.say("note", {{"text", "hello"}});
  EXPECT_FALSE(stream.flush().ok());
  EXPECT_TRUE(stream.flush().ok());  // it is told once
}

TEST_F(EventsTest, StepsAreThinnedAndTheLastOfAnEpochIsTold) {
  EventStream stream = open();
  JobEvents events(small_job(), stream);
  // Loss, hits, rows.
  for (int64_t step = 0; step < 5; ++step) {
    events.observe(StepDone{step, 8, {8.0 * static_cast<double>(step), 4, 8}, 0});
  }
  events.observe(CoordinatorAction(EpochRecord{{0, {80, 20, 40}, {10, 5, 10}}, {}}));
  events.observe(StepDone{5, 8, {16, 8, 8}, 0});
  ASSERT_TRUE(stream.finish(1000).ok());
  const auto told = read();
  ASSERT_EQ(told.size(), 3u);  // the sixth step came too soon
  EXPECT_EQ(told[0]["step"], 0);
  EXPECT_EQ(told[1], (Json{{"event", "step"},
                           {"step", 4},
                           {"epoch", 0},
                           {"batch", 4},
                           {"logs", {{"loss", 2.0}, {"accuracy", 0.5}}}}));
  Json epoch = told[2];
  EXPECT_GE(epoch["seconds"].get<double>(), 0);
  epoch.erase("seconds");
  EXPECT_EQ(epoch,
            (Json{{"event", "epoch"},
                  {"epoch", 0},
                  {"logs",
                   {{"loss", 2.0}, {"accuracy", 0.5}, {"val_loss", 1.0}, {"val_accuracy", 0.5}}}}));
}

TEST_F(EventsTest, NodesGoByTheirNames) {
  EventStream stream = open();
  JobEvents events(small_job(), stream);
  NodeJoined joined;
  joined.member.session = 7;
  joined.member.name = "node-0";
  joined.device = "AMD EPYC";
  events.observe(joined);
  events.observe(NodeLeft{7, 12, "it gave no sign of life"});
  ASSERT_TRUE(stream.finish(1000).ok());
  const auto told = read();
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told[0]["device"], "AMD EPYC");
  EXPECT_EQ(told[1], (Json{{"event", "node_left"},
                           {"node", "node-0"},
                           {"step", 12},
                           {"why", "it gave no sign of life"}}));
}

}  // namespace
}  // namespace lockstep
