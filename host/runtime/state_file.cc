#include "host/runtime/state_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "host/device/state_digest.h"

namespace lockstep {
namespace {

constexpr std::string_view kMagic = "LSSTATE2";
constexpr std::string_view kMagicBefore = "LSSTATE1";
constexpr int64_t kMaxVectors = 15;

// Takes numbers of 8 bytes each from the front; zeros where there are none.
class Numbers {
 public:
  explicit Numbers(std::string_view bytes) : rest_(bytes) {}
  template <class T>
  T take() {
    static_assert(sizeof(T) == 8);
    T value{};
    if (rest_.size() < sizeof(T)) return value;
    std::memcpy(&value, rest_.data(), sizeof(T));
    rest_.remove_prefix(sizeof(T));
    return value;
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

// Of no parameters where it makes no sense.
StateHeader take_header(Numbers* numbers) {
  StateHeader header;
  header.step = numbers->take<int64_t>();
  header.parameters = numbers->take<int64_t>();
  header.vectors = numbers->take<int64_t>();
  const auto sums = numbers->take<int64_t>();
  if (sums < 0 || sums > kMaxMetricSums) return {};
  for (int64_t i = 0; i < sums; ++i) header.sums.push_back(numbers->take<double>());
  return header;
}

StateHeader take_header_of_before(Numbers* numbers) {
  StateHeader header;
  header.step = numbers->take<int64_t>();
  header.sums.push_back(numbers->take<double>());
  for (int i = 0; i < 2; ++i) {
    header.sums.push_back(static_cast<double>(numbers->take<int64_t>()));
  }
  header.parameters = numbers->take<int64_t>();
  header.vectors = numbers->take<int64_t>();
  return header;
}

}  // namespace

int64_t state_bytes(int64_t parameters, int64_t vectors, int64_t sums) {
  return static_cast<int64_t>(kMagic.size()) + (4 + sums) * 8 +
         parameters * vectors * static_cast<int64_t>(sizeof(float));
}

std::string encode_state_header(const StateHeader& header) {
  std::string bytes(kMagic);
  const auto append = [&](auto value) {
    static_assert(sizeof(value) == 8);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  append(header.step);
  append(header.parameters);
  append(header.vectors);
  append(static_cast<int64_t>(header.sums.size()));
  for (const double sum : header.sums) append(sum);
  return bytes;
}

Result<StateView> decode_state(std::string_view bytes) {
  const std::string_view magic = bytes.substr(0, kMagic.size());
  if (magic != kMagic && magic != kMagicBefore) {
    return Error{"not a training state of this version"};
  }
  Numbers numbers(bytes.substr(kMagic.size()));
  StateView view{magic == kMagic ? take_header(&numbers) : take_header_of_before(&numbers), {}};
  const StateHeader& header = view.header;
  const auto size = static_cast<int64_t>(numbers.rest().size());
  const bool sane = header.parameters > 0 && header.parameters <= size && header.vectors > 0 &&
                    header.vectors <= kMaxVectors && header.parameters * header.vectors * 4 == size;
  if (!sane) {
    return Error{fmt::format("a training state of {} vectors of {} values in {} bytes",
                             header.vectors, header.parameters, bytes.size())};
  }
  const size_t vector_bytes = static_cast<size_t>(header.parameters) * sizeof(float);
  for (size_t i = 0; i < static_cast<size_t>(header.vectors); ++i) {
    view.vectors.push_back(numbers.rest().substr(i * vector_bytes, vector_bytes));
  }
  return view;
}

uint64_t digest_of_state(const StateView& state) {
  const int64_t count = state.header.parameters;
  uint64_t sum = 0;
  for (int64_t begin = 0; begin < count; begin += kDigestBlock) {
    DigestLanes lanes;
    const int64_t end = std::min(begin + kDigestBlock, count);
    for (int64_t i = begin; i < end; ++i) {
      uint32_t x = 0;
      for (size_t vector = state.vectors.size(); vector-- > 0;) {
        uint32_t word = 0;
        std::memcpy(&word, state.vectors[vector].data() + i * 4, 4);
        x = digest_word(x, word);
      }
      uint32_t& lane = lanes.values[(i - begin) % DigestLanes::kCount];
      lane = digest_parameter(lane, x);
    }
    sum += block_digest(lanes, begin / kDigestBlock);
  }
  return sum;
}

}  // namespace lockstep
