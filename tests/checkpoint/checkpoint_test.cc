// The manifest: exact, strict, and the same text for the same checkpoint.
#include "host/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <limits>
#include <nlohmann/json.hpp>

#include "host/core/digest.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

Checkpoint example() {
  Checkpoint checkpoint;
  checkpoint.recipe_sha256 = std::string(64, 'a');
  checkpoint.step = 1875;
  checkpoint.parent = std::string(64, 'b');
  checkpoint.state = std::string(64, 'c');
  checkpoint.state_bytes = 17890632;
  checkpoint.state_digest = "0123456789abcdef";
  checkpoint.epoch = 1;
  checkpoint.accumulators = {0.1, 58};
  checkpoint.history = {{"loss", {0.1, 1.0 / 3}}, {"accuracy", {}}};
  checkpoint.samples_consumed = int64_t{1} << 53 | 1;  // a double would lose the last bit
  checkpoint.is_final = true;
  return checkpoint;
}

std::string error_of(const Json& json) {
  const auto checkpoint = from_manifest(json.dump(), "file");
  return checkpoint.ok() ? "ok" : checkpoint.error().message;
}

TEST(Manifest, RoundTrip) {
  const auto read = from_manifest(to_manifest(example()), "file");
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(example(), *read);
  EXPECT_EQ(to_manifest(example()), to_manifest(*read));
  EXPECT_TRUE(looks_like_manifest(to_manifest(example())));
  Checkpoint first;
  first.recipe_sha256 = first.state = std::string(64, '0');
  EXPECT_EQ(first, *from_manifest(to_manifest(first), "file"));
}

TEST(Manifest, KeepsTheBitsOfEveryDouble) {
  const double values[] = {0.0,
                           -0.0,
                           0.1,
                           std::numeric_limits<double>::denorm_min(),
                           std::numeric_limits<double>::max(),
                           -std::numeric_limits<double>::infinity(),
                           std::bit_cast<double>(0x7ff8000000001234u)};
  for (const double value : values) {
    Checkpoint checkpoint = example();
    checkpoint.accumulators = {1, value, 2};
    checkpoint.history = {{"loss", {value, value}}};
    const auto read = from_manifest(to_manifest(checkpoint), "file");
    ASSERT_TRUE(read.ok()) << read.error().message;
    const auto bits = std::bit_cast<uint64_t>(value);
    EXPECT_EQ(bits, std::bit_cast<uint64_t>(read->accumulators.at(1)));
    EXPECT_EQ(bits, std::bit_cast<uint64_t>(read->history.at("loss").at(1)));
  }
}

// A change of this text is a new format: raise the number, and read this one still.
TEST(Manifest, GoldenText) {
  const std::string sums = R"([
  "3fb999999999999a",
  "404d000000000000"
 ])";
  const std::string history = R"({
  "accuracy": [],
  "loss": [
   "3fb999999999999a",
   "3fd5555555555555"
  ]
 })";
  EXPECT_EQ("{\n \"accumulators\": " + sums +
                ",\n \"epoch\": 1,\n \"final\": true,\n \"format\": 2,\n \"history\": " + history +
                ",\n \"parent\": \"" + std::string(64, 'b') + "\",\n \"recipe_sha256\": \"" +
                std::string(64, 'a') +
                "\",\n \"samples_consumed\": 9007199254740993,\n \"state\": \"" +
                std::string(64, 'c') +
                "\",\n \"state_bytes\": 17890632,\n \"state_digest\": \"0123456789abcdef\",\n"
                " \"step\": 1875\n}\n",
            to_manifest(example()));
}

TEST(Manifest, ReadsTheFormatBefore) {
  Json json = Json::parse(to_manifest(example()));
  json["format"] = 1;
  json["accumulators"] = {{"correct", 58}, {"loss_sum", "3fb999999999999a"}, {"rows", 60}};
  Checkpoint expected = example();
  expected.accumulators = {0.1, 58, 60};
  const auto read = from_manifest(json.dump(), "file");
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(expected, *read);
  json["accumulators"]["rows"] = "x";
  EXPECT_THAT(error_of(json), HasSubstr("'accumulators.rows' must be a whole number"));
  json["accumulators"] = Json::array({"3fb999999999999a"});
  EXPECT_THAT(error_of(json), HasSubstr("'accumulators' must be an object"));
}

TEST(Manifest, NamesTheKeyThatIsWrong) {
  const Json good = Json::parse(to_manifest(example()));
  for (const auto& [key, value] : good.items()) {
    Json json = good;
    json.erase(key);
    EXPECT_THAT(error_of(json), HasSubstr("'" + key + "' must be ")) << "missing";
    json[key] = Json::array({1.5});
    EXPECT_THAT(error_of(json), HasSubstr("'" + key + "' must be ")) << "an array";
    json[key] = nullptr;
    EXPECT_THAT(error_of(json), HasSubstr("'" + key + "' must be ")) << "null";
  }
  for (const char* key : {"step", "epoch", "samples_consumed", "state_bytes"}) {
    for (const Json& value : {Json(-1), Json(1.0), Json("1"), Json(~uint64_t{0})}) {
      Json json = good;
      json[key] = value;
      EXPECT_EQ("the checkpoint 'file' cannot be used: '" + std::string(key) +
                    "' must be a whole number from 0; go on from another checkpoint",
                error_of(json));
    }
  }
}

TEST(Manifest, RefusesStrangeValues) {
  const Json good = Json::parse(to_manifest(example()));
  const auto error_with = [&](const Json& patch) {
    Json json = good;
    json.merge_patch(patch);
    return error_of(json);
  };
  EXPECT_EQ("ok", error_with(Json::object()));
  EXPECT_THAT(error_with({{"more", 1}}), HasSubstr("'more' must be absent"));
  EXPECT_THAT(error_with({{"state", "../log"}}), HasSubstr("'state' must be lower-case hex"));
  EXPECT_THAT(error_with({{"state", ""}}), HasSubstr("'state' must be a SHA-256"));
  EXPECT_THAT(error_with({{"parent", "abc"}}), HasSubstr("'parent' must be a SHA-256"));
  EXPECT_THAT(error_with({{"final", 1}}), HasSubstr("'final' must be true or false"));
  for (const Json& sums : {Json{0.5}, Json{"3fb999999999999"}, Json{"x"}, Json{nullptr}}) {
    EXPECT_THAT(error_with({{"accumulators", sums}}),
                HasSubstr("'accumulators' must be doubles of 16 hex digits each"));
  }
  const std::vector<std::string> many(kMaxMetricSums + 1, "3fb999999999999a");
  EXPECT_THAT(error_with({{"accumulators", many}}), HasSubstr("must be a shorter array"));
  EXPECT_THAT(error_with({{"history", {{"loss", {0.5}}}}}), HasSubstr("'history' must be"));
  EXPECT_THAT(error_with({{"history", {{"loss", 0.5}}}}), HasSubstr("'history' must be"));
}

TEST(Manifest, RefusesOtherFormats) {
  Json json = Json::parse(to_manifest(example()));
  json["format"] = 3;
  json["more"] = 1;
  EXPECT_EQ(
      "the checkpoint 'file' has the format 3, this version reads 1 and 2; use the version of "
      "Lockstep that wrote it",
      error_of(json));
  EXPECT_TRUE(looks_like_manifest(json.dump()));
  for (const char* text : {"", "{", "[]", "1", "{} {}", "\xff"}) {
    EXPECT_THAT(from_manifest(text, "file").error().message, HasSubstr("'file' is no checkpoint"));
    EXPECT_FALSE(looks_like_manifest(text));
  }
}

// Its id would have found each of these before; the parser must still take them calmly.
TEST(Manifest, EveryBit) {
  const std::string text = to_manifest(example());
  for (size_t at = 0; at < text.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = text;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      looks_like_manifest(damaged);
      const auto read = from_manifest(damaged, "file");
      EXPECT_TRUE(read.ok() || read.error().message.find("'file'") != std::string::npos);
    }
  }
}

}  // namespace
}  // namespace lockstep
