// Callbacks against Keras' own, and what is asked of their configs.
#include "host/job/callbacks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "tests/support/source_folder.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

CallbackContext context() { return {{"loss", "accuracy"}, true, false, 0.01, {"accuracy"}}; }

Result<Callbacks> make(const std::string& calls, const CallbackContext& given = context()) {
  const auto list = resolve_callbacks(Json::array({calls}));
  if (!list.ok()) return list.error();
  return Callbacks::create(*list, given);
}

std::string error_of(const std::string& calls, const CallbackContext& given = context()) {
  const auto made = make(calls, given);
  return made.ok() ? "" : made.error().message;
}

EpochLogs logs_of(int64_t epoch, const Json& values) {
  EpochLogs logs{epoch, epoch, {}};
  for (const auto& [name, value] : values.items()) {
    logs.values[name] = value.is_null() ? std::nan("") : value.get<double>();
  }
  return logs;
}

TEST(Callbacks, DecideAsKerasDoes) {
  std::ifstream stream(source_folder() + "/tests/golden/callbacks.json");
  const Json golden = Json::parse(stream);
  for (const Json& each : golden.at("cases")) {
    SCOPED_TRACE(each.at("callbacks").dump() + " on " + each.at("losses").dump());
    const auto list = resolve_callbacks(each.at("callbacks"));
    ASSERT_TRUE(list.ok()) << list.error().message;
    const auto callbacks = Callbacks::create(*list, context());
    ASSERT_TRUE(callbacks.ok()) << callbacks.error().message;
    std::vector<DecidedEpoch> decided;
    const auto first = callbacks->first_learning_rate(0);
    double rate = first.value_or(static_cast<float>(golden.at("learning_rate").get<double>()));
    for (const Json& epoch : each.at("epochs")) {
      EXPECT_EQ(rate, epoch.at("rate").get<double>()) << "epoch " << decided.size();
      const EpochLogs logs = logs_of(std::ssize(decided), epoch.at("logs"));
      const EpochDecision decision = callbacks->decide(decided, logs);
      EXPECT_EQ(decision.stop, epoch.at("stop").get<bool>()) << "epoch " << decided.size();
      rate = decision.learning_rate.value_or(rate);
      decided.push_back({logs, decision});
    }
    const int64_t last = std::ssize(decided) - 1;
    EXPECT_EQ(decided.back().decision.best.value_or(last), each.at("weights_of").get<int64_t>());
    // Keras saves over the file; what it saved last is what we keep.
    const Json& saved = each.at("epochs").back().at("saved");
    const auto& kept = decided.back().decision.keep;
    if (saved.empty()) continue;
    EXPECT_EQ(std::count(kept.begin(), kept.end(), saved.back().get<int64_t>()), 1) << saved;
  }
}

std::vector<std::string> saved_at(const std::string& calls, const std::vector<EpochLogs>& epochs) {
  const auto callbacks = make(calls);
  EXPECT_TRUE(callbacks.ok()) << callbacks.error().message;
  const auto saved = callbacks->saved_models(epochs);
  EXPECT_TRUE(saved.ok()) << saved.error().message;
  std::vector<std::string> paths;
  for (const SavedModel& model : *saved) paths.push_back(model.path);
  return paths;
}

TEST(Callbacks, ModelCheckpointNamesItsFilesAsKerasDoes) {
  const std::vector<EpochLogs> falling = {logs_of(0, {{"loss", 1.0}, {"val_loss", 0.5}}),
                                          logs_of(1, {{"loss", 0.75}, {"val_loss", 0.25}})};
  const std::vector<EpochLogs> rising = {falling[1],
                                         logs_of(1, {{"loss", 1.5}, {"val_loss", 2.0}})};
  const std::string best =
      "ModelCheckpoint(filepath='best/{epoch:03d}-{val_loss:.2f}.keras', save_best_only=True)";
  EXPECT_EQ(saved_at(best, falling), std::vector<std::string>{"best/002-0.25.keras"});
  EXPECT_TRUE(saved_at(best, rising).empty());
  EXPECT_EQ(saved_at("ModelCheckpoint(filepath='w-{loss}.weights.h5', save_weights_only=True), "
                     "ModelCheckpoint(), ModelCheckpoint(filepath=last.keras)",
                     rising),
            (std::vector<std::string>{"w-1.5.weights.h5", "last.keras"}));
  const auto callbacks = make("ModelCheckpoint(filepath='{val_loss:.1f}.keras')");
  const std::vector<EpochLogs> unmeasured = {logs_of(0, {{"loss", 1.0}})};
  EXPECT_THAT(callbacks->saved_models(unmeasured).error().message,
              HasSubstr("of what every epoch measures"));
}

// A decision of somebody else is part of what was decided before.
TEST(Callbacks, TakeARateThatWasDecidedElsewhereAsItIs) {
  const auto callbacks = make("ReduceLROnPlateau(patience=1, factor=0.5)");
  ASSERT_TRUE(callbacks.ok());
  const EpochLogs logs = logs_of(0, {{"val_loss", 1.0}});
  EpochDecision elsewhere;
  elsewhere.learning_rate = 8;
  const EpochDecision decision =
      callbacks->decide({{logs, elsewhere}}, logs_of(1, {{"val_loss", 1.0}}));
  EXPECT_EQ(decision.learning_rate, std::optional<double>(4));
}

TEST(Callbacks, SkipEpochsThatDoNotMeasureWhatTheyWatch) {
  const auto callbacks = make("EarlyStopping(patience=1, restore_best_weights=True)");
  ASSERT_TRUE(callbacks.ok());
  const EpochLogs none = logs_of(0, {{"loss", 1.0}});
  EXPECT_EQ(callbacks->decide({}, none), EpochDecision{});
  const EpochLogs measured = logs_of(1, {{"val_loss", 1.0}});
  const EpochDecision decision = callbacks->decide({{none, {}}}, measured);
  EXPECT_FALSE(decision.stop);
  EXPECT_EQ(decision.best, std::optional<int64_t>(1));
}

TEST(Callbacks, ATableOfRatesHoldsFromItsEpochsOn) {
  const auto callbacks = make("LearningRateScheduler(schedule={2: 0.5, 4: 0.25})");
  ASSERT_TRUE(callbacks.ok());
  EXPECT_EQ(callbacks->first_learning_rate(0), std::nullopt);
  EXPECT_EQ(callbacks->first_learning_rate(2), std::optional<double>(0.5));
  // A training that begins with epoch 3.
  EXPECT_EQ(callbacks->first_learning_rate(3), std::optional<double>(0.5));
  EpochLogs logs = logs_of(3, {{"loss", 1.0}});
  logs.index = 0;
  EXPECT_EQ(callbacks->decide({}, logs).learning_rate, std::optional<double>(0.25));
}

TEST(Callbacks, NoEpochBeginsBehindTheLast) {
  const auto callbacks = make("TerminateOnNaN, LearningRateScheduler(schedule={0: 0.5, 1: 0.25})");
  ASSERT_TRUE(callbacks.ok());
  const EpochDecision decision = callbacks->decide({}, logs_of(0, {{"loss", nullptr}}));
  EXPECT_TRUE(decision.stop);
  EXPECT_EQ(decision.learning_rate, std::optional<double>(0.5));
  EXPECT_EQ(decision.notes.size(), 1u);  // why it stops
}

TEST(Callbacks, AreWrittenAsPythonWritesThem) {
  const auto list = parse_calls(
      " EarlyStopping(monitor='loss', patience=3,restore_best_weights=True, baseline=None),\n"
      "LearningRateScheduler(schedule={0: 0.5, 10: 1e-3}), TerminateOnNaN");
  ASSERT_TRUE(list.ok()) << list.error().message;
  EXPECT_EQ(*list, Json::parse(R"([
      {"class_name": "EarlyStopping", "config": {"monitor": "loss", "patience": 3,
       "restore_best_weights": true, "baseline": null}},
      {"class_name": "LearningRateScheduler", "config": {"schedule": {"0": 0.5, "10": 0.001}}},
      {"class_name": "TerminateOnNaN", "config": {}}])"));
  for (const char* bad : {"EarlyStopping(3)", "EarlyStopping(patience=3", "3()", "A() B()", "A(x=)",
                          "A(x={)", "A(x='b)", "A(x={1, 2})"}) {
    EXPECT_FALSE(parse_calls(bad).ok()) << bad;
  }
}

TEST(Callbacks, RefuseWhatDoesNotGo) {
  EXPECT_THAT(error_of("EarlyStoping()"), HasSubstr("EarlyStopping"));
  EXPECT_THAT(error_of("EarlyStopping(patiense=3)"), HasSubstr("patience"));
  EXPECT_THAT(error_of("EarlyStopping(patience=-1)"), HasSubstr("at least 0"));
  EXPECT_THAT(error_of("EarlyStopping(monitor='val_acuracy')"), HasSubstr("val_accuracy"));
  EXPECT_THAT(error_of("EarlyStopping(mode='up')"), HasSubstr("auto, min or max"));
  EXPECT_THAT(error_of("EarlyStopping(baseline='a')"), HasSubstr("baseline"));
  EXPECT_THAT(error_of("EarlyStopping(min_delta=inf)"), HasSubstr("min_delta must be a number"));
  CallbackContext unvalidated = context();
  unvalidated.has_validation = false;
  EXPECT_THAT(error_of("EarlyStopping()", unvalidated), HasSubstr("--validation-split"));
  CallbackContext scheduled = context();
  scheduled.rate_is_schedule = true;
  EXPECT_THAT(error_of("ReduceLROnPlateau()", scheduled), HasSubstr("schedule"));
  EXPECT_THAT(error_of("LearningRateScheduler(schedule={0: 1})", scheduled), HasSubstr("schedule"));
  EXPECT_THAT(error_of("ReduceLROnPlateau(factor=1.0)"), HasSubstr("factor"));
  EXPECT_THAT(error_of("LearningRateScheduler(schedule={})"), HasSubstr("rates by the epoch"));
  EXPECT_THAT(error_of("LearningRateScheduler(schedule={-1: 1})"), HasSubstr("JSON"));
  EXPECT_THAT(error_of("LearningRateScheduler(schedule={1: -1})"), HasSubstr("epoch 1"));
  EXPECT_THAT(error_of("ModelCheckpoint(initial_value_threshold='x')"), HasSubstr("threshold"));
  EXPECT_THAT(error_of("ModelCheckpoint(filepath='a.h5')"), HasSubstr("must end in .keras"));
  EXPECT_THAT(error_of("ModelCheckpoint(filepath='a.keras', save_weights_only=True)"),
              HasSubstr("must end in .weights.h5, since save_weights_only is True"));
  EXPECT_THAT(error_of("ModelCheckpoint(filepath='../a.keras')"), HasSubstr("inside the output"));
  EXPECT_THAT(error_of("ModelCheckpoint(filepath='{los:.2f}.keras')"), HasSubstr("filled in"));
  EXPECT_THAT(error_of("ModelCheckpoint(save_freq=10)"), HasSubstr("save_freq must be 'epoch'"));
}

TEST(Callbacks, OnlyThoseThatDecideBitsAreOfTheRecipe) {
  const auto list =
      resolve_callbacks(Json::array({"TerminateOnNaN, ModelCheckpoint, TensorBoard, "
                                     "CSVLogger(filename=log.csv), EarlyStopping"}));
  ASSERT_TRUE(list.ok()) << list.error().message;
  const Json deciding = deciding_callbacks(*list);
  ASSERT_EQ(deciding.size(), 2u);
  EXPECT_EQ(deciding[0].at("class_name"), "TerminateOnNaN");
  EXPECT_EQ(deciding[1].at("class_name"), "EarlyStopping");
}

}  // namespace
}  // namespace lockstep
