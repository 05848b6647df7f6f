#include "host/runtime/state_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "host/device/state_digest.h"

namespace lockstep {
namespace {

constexpr std::string_view kMagic = "LSSTATE1";

}  // namespace

int64_t state_bytes(int64_t parameters, int64_t vectors) {
  return kStateHeaderBytes + parameters * vectors * static_cast<int64_t>(sizeof(float));
}

std::string encode_state_header(const StateHeader& header) {
  static_assert(sizeof(StateHeader) == kStateHeaderBytes - 8);
  std::string bytes(kMagic);
  bytes.append(reinterpret_cast<const char*>(&header), sizeof(header));
  return bytes;
}

Result<StateView> decode_state(std::string_view bytes) {
  if (bytes.size() < kStateHeaderBytes || bytes.substr(0, kMagic.size()) != kMagic) {
    return Error{"not a training state of this version"};
  }
  StateView view;
  std::memcpy(&view.header, bytes.data() + kMagic.size(), sizeof(view.header));
  const StateHeader& header = view.header;
  const auto size = static_cast<int64_t>(bytes.size());
  const bool sane = header.parameters > 0 && header.parameters < size && header.vectors > 0 &&
                    header.vectors < 16 && state_bytes(header.parameters, header.vectors) == size;
  if (!sane) {
    return Error{fmt::format("a training state of {} vectors of {} values in {} bytes",
                             header.vectors, header.parameters, size)};
  }
  const size_t vector_bytes = static_cast<size_t>(header.parameters) * sizeof(float);
  for (size_t i = 0; i < static_cast<size_t>(header.vectors); ++i) {
    view.vectors.push_back(bytes.substr(kStateHeaderBytes + i * vector_bytes, vector_bytes));
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
      uint32_t word = 0;
      for (size_t vector = state.vectors.size(); vector-- > 0;) {
        uint32_t bits = 0;
        std::memcpy(&bits, state.vectors[vector].data() + i * 4, 4);
        word =
            vector + 1 == state.vectors.size() ? bits : mix_digest(word, kDigestWordFactor) + bits;
      }
      uint32_t& lane = lanes.values[(i - begin) % DigestLanes::kCount];
      lane = mix_digest(lane, kDigestLaneFactor) + word;
    }
    sum += block_digest(lanes, begin / kDigestBlock);
  }
  return sum;
}

}  // namespace lockstep
