// The digest of a state against a reference written from its definition.
#include <array>
#include <limits>

#include "tests/cpu/cpu_test_support.h"

namespace lockstep::cpu_test {
namespace {

using State = std::vector<Floats>;  // weights, then slots

std::array<uint32_t, 16> reference(const State& state) {
  std::array<uint32_t, 16> lanes{};
  for (size_t i = 0; i < state[0].size(); ++i) {
    uint32_t x = std::bit_cast<uint32_t>(state.back()[i]);
    for (size_t k = state.size() - 1; k-- > 0;) {
      x = std::rotl(x, 8) + std::bit_cast<uint32_t>(state[k][i]);
    }
    lanes[i % 16] = std::rotl(lanes[i % 16], 16) * 0x9e3779b1u + x;
  }
  return lanes;
}

std::array<uint32_t, 16> lanes_of(Device& device, const State& state) {
  std::vector<const float*> slots;
  for (size_t k = 1; k < state.size(); ++k) slots.push_back(state[k].data());
  DigestLanes lanes;
  for (uint32_t& value : lanes.values) value = 99;  // whatever was there before
  EXPECT_TRUE(
      device.digest(state[0].data(), slots, static_cast<int64_t>(state[0].size()), &lanes).ok());
  return std::to_array(lanes.values);
}

State random_state(int slots, int64_t count) {
  State state;
  for (int k = 0; k <= slots; ++k) {
    Floats values = random_floats(static_cast<uint64_t>(k + 1), count);
    for (float& value : values) value *= value;  // Adam's v is not negative
    state.push_back(std::move(values));
  }
  return state;
}

UpdateDesc optimizer_of(int slots) {
  if (slots == 2) return AdamUpdate{0.1f, 0.001f, 0.0123f, 1e-7f};
  return SgdUpdate{0.1f, slots == 1 ? 0.9f : 0.0f, slots == 1};
}

void flip(float* value, int bit) {
  *value = std::bit_cast<float>(std::bit_cast<uint32_t>(*value) ^ (1u << bit));
}

class Digest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!cpu_supports(GetParam())) GTEST_SKIP() << "this CPU cannot run " << GetParam();
    device_ = make_device(GetParam());
  }
  std::unique_ptr<Device> device_;
};

TEST_P(Digest, IsTheReferences) {
  for (int slots = 0; slots <= static_cast<int>(kMaxSlots); ++slots) {
    for (const int64_t count : {1, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 100, 4095, 4096}) {
      State state = random_state(slots, count);
      if (count > 16) state[0][16] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_EQ(lanes_of(*device_, state), reference(state)) << slots << " slots, " << count;
    }
  }
}

TEST_P(Digest, TakesBlockAfterBlock) {
  const State state = random_state(1, 2 * kDigestBlock + 100);
  const float* const slots[] = {state[1].data()};
  std::vector<DigestLanes> lanes(3);
  ASSERT_TRUE(device_->digest(state[0].data(), slots, 2 * kDigestBlock + 100, lanes.data()).ok());
  for (int64_t block = 0; block < 3; ++block) {
    State part;
    for (const Floats& values : state) {
      const auto begin = values.begin() + block * kDigestBlock;
      part.emplace_back(begin, block < 2 ? begin + kDigestBlock : values.end());
    }
    EXPECT_EQ(std::to_array(lanes[static_cast<size_t>(block)].values), reference(part)) << block;
  }
}

TEST_P(Digest, OfAnUpdateIsThatOfTheNewState) {
  for (const int slots : {0, 1, 2}) {
    for (const int64_t count : {1, 8, 13, 16, 29, 37, 4096}) {
      State state = random_state(slots, count);
      State plain = state;
      const Floats gradient = random_floats(9, count);
      const auto update = [&](State& updated, DigestLanes* lanes) {
        std::vector<float*> memory;
        for (size_t k = 1; k < updated.size(); ++k) memory.push_back(updated[k].data());
        EXPECT_TRUE(device_
                        ->update(optimizer_of(slots), gradient.data(), updated[0].data(), memory,
                                 count, lanes)
                        .ok());
      };
      DigestLanes lanes;
      update(state, &lanes);
      EXPECT_EQ(std::to_array(lanes.values), reference(state)) << slots << " slots, " << count;
      update(plain, nullptr);
      for (size_t k = 0; k < state.size(); ++k) EXPECT_TRUE(same_bits(state[k], plain[k]));
    }
  }
}

TEST_P(Digest, SeesEachBit) {
  State state = random_state(2, 37);
  const auto lanes = lanes_of(*device_, state);
  for (Floats& values : state) {
    for (float& value : values) {
      for (int bit = 0; bit < 32; ++bit) {
        flip(&value, bit);
        EXPECT_NE(lanes_of(*device_, state), lanes);
        flip(&value, bit);
      }
    }
  }
  EXPECT_EQ(lanes_of(*device_, state), lanes);
}

// Products keep a top bit where it is, so two of them could cancel.
TEST_P(Digest, SeesTwoWrongSigns) {
  State state = random_state(2, 37);
  const auto lanes = lanes_of(*device_, state);
  for (size_t other = 0; other < 3; ++other) {
    for (size_t i = 0; i < 37; ++i) {
      if (other == 0 && i == 5) continue;
      flip(&state[0][5], 31);
      flip(&state[other][i], 31);
      EXPECT_NE(lanes_of(*device_, state), lanes);
      flip(&state[0][5], 31);
      flip(&state[other][i], 31);
    }
  }
}

TEST(BlockDigest, DependsOnTheBlock) {
  const DigestLanes zeros;
  EXPECT_NE(block_digest(zeros, 0), block_digest(zeros, 1));
}

INSTANTIATE_TEST_SUITE_P(cpu, Digest, testing::Values("cpu-avx2", "cpu-avx512"),
                         [](const auto& name) { return name.param.substr(4); });

}  // namespace
}  // namespace lockstep::cpu_test
