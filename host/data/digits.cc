#include "host/data/digits.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <span>
#include <vector>

#include "host/core/check.h"
#include "host/core/digest.h"
#include "host/core/rng.h"
#include "host/data/digit_glyphs.h"
#include "host/data/manifest.h"

namespace lockstep {
namespace {

constexpr int kSide = static_cast<int>(kDigitsSide);
constexpr int64_t kPixels = kDigitsSide * kDigitsSide;
constexpr int64_t kClasses = 10;
constexpr uint64_t kDigitsSeed = 0x6469676974733031u;

struct Vec2 {
  float x = 0;
  float y = 0;
};

// A stream of draws: the blocks of one Philox key, in order. One draw a statement or an element of
// a braced list, for C++ leaves the order of a call's arguments open.
class Draws {
 public:
  explicit Draws(uint64_t key) : key_(key) {}

  uint32_t bits() {
    if (used_ == 4) {
      words_ = philox4x32({block_++, 0, 0, 0}, key_);
      used_ = 0;
    }
    return words_[used_++];
  }
  float uniform(float low, float high) { return low + (high - low) * uniform_from_bits(bits()); }
  bool chance(float probability) { return uniform_from_bits(bits()) < probability; }

 private:
  uint64_t key_;
  uint32_t block_ = 0;
  std::array<uint32_t, 4> words_{};
  size_t used_ = 4;
};

// Glyph coordinates to pixels.
struct Transform {
  float xx, xy, yx, yy;
  Vec2 centre;

  Vec2 apply(Vec2 point) const {
    const float x = point.x - kGlyphCentreX;
    const float y = point.y - kGlyphCentreY;
    return {xx * x + xy * y + centre.x, yx * x + yy * y + centre.y};
  }
};

Transform draw_transform(Draws& draws) {
  // The rational parametrisation of the circle, u = tan(angle / 2), needs no sine or cosine.
  const float u = draws.uniform(-0.1f, 0.1f);
  const float cosine = (1.0f - u * u) / (1.0f + u * u);
  const float sine = 2.0f * u / (1.0f + u * u);
  const float scale = draws.uniform(0.8f, 1.1f);
  const float width = scale * draws.uniform(0.85f, 1.15f);
  const float shear = draws.uniform(-0.2f, 0.2f);
  const float middle = 0.5f * static_cast<float>(kSide - 1);
  const Vec2 centre{middle + draws.uniform(-2.5f, 2.5f), middle + draws.uniform(-2.5f, 2.5f)};
  return {cosine * width, (cosine * shear - sine) * scale, sine * width,
          (sine * shear + cosine) * scale, centre};
}

// How much ink lies on each pixel, 0 to 1.
class Canvas {
 public:
  // A segment with round ends; the edge is one pixel soft.
  void draw_segment(Vec2 a, Vec2 b, float radius, float strength) {
    const float reach = radius + 0.5f;
    const int x_begin = first_pixel(std::min(a.x, b.x) - reach);
    const int x_end = end_pixel(std::max(a.x, b.x) + reach);
    const int y_begin = first_pixel(std::min(a.y, b.y) - reach);
    const int y_end = end_pixel(std::max(a.y, b.y) + reach);
    const Vec2 along{b.x - a.x, b.y - a.y};
    const float length2 = along.x * along.x + along.y * along.y;
    const float inverse = length2 > 0.0f ? 1.0f / length2 : 0.0f;
    for (int y = y_begin; y < y_end; ++y) {
      for (int x = x_begin; x < x_end; ++x) {
        const float px = static_cast<float>(x) - a.x;
        const float py = static_cast<float>(y) - a.y;
        const float t = std::clamp((px * along.x + py * along.y) * inverse, 0.0f, 1.0f);
        const float dx = px - t * along.x;
        const float dy = py - t * along.y;
        const float distance2 = dx * dx + dy * dy;
        if (distance2 >= reach * reach) continue;
        float& ink = ink_[static_cast<size_t>(y * kSide + x)];
        ink = std::max(ink, strength * std::min(reach - std::sqrt(distance2), 1.0f));
      }
    }
  }

  float ink(size_t pixel) const { return ink_[pixel]; }

 private:
  static int first_pixel(float coordinate) {
    return std::clamp(static_cast<int>(coordinate), 0, kSide);
  }
  static int end_pixel(float coordinate) {
    return std::clamp(static_cast<int>(coordinate) + 1, 0, kSide);
  }

  std::array<float, kPixels> ink_{};
};

// Chaikin's corner cutting: each corner gives way to two points on its edges; an open curve keeps
// its ends. In the limit a quadratic B-spline.
std::vector<Vec2> cut_corners(const std::vector<Vec2>& points, bool closed) {
  std::vector<Vec2> result;
  const size_t edges = closed ? points.size() : points.size() - 1;
  if (!closed) result.push_back(points.front());
  for (size_t i = 0; i < edges; ++i) {
    const Vec2 a = points[i];
    const Vec2 b = points[(i + 1) % points.size()];
    if (closed || i > 0) result.push_back({0.75f * a.x + 0.25f * b.x, 0.75f * a.y + 0.25f * b.y});
    if (closed || i + 1 < edges) {
      result.push_back({0.25f * a.x + 0.75f * b.x, 0.25f * a.y + 0.75f * b.y});
    }
  }
  if (!closed) result.push_back(points.back());
  return result;
}

using Polyline = std::vector<Vec2>;

// The strokes of a glyph as polylines, curves made smooth.
std::vector<Polyline> polylines_of(const Glyph& glyph) {
  std::vector<Polyline> result;
  for (const GlyphStroke& stroke : glyph.strokes) {
    if (stroke.points.empty()) continue;
    Polyline points;
    for (const GlyphPoint& point : stroke.points) {
      points.push_back({static_cast<float>(point.x), static_cast<float>(point.y)});
    }
    const bool closed = stroke.kind == StrokeKind::loop;
    for (int round = 0; stroke.kind != StrokeKind::straight && round < 2; ++round) {
      points = cut_corners(points, closed);
    }
    if (closed) points.push_back(points.front());
    result.push_back(std::move(points));
  }
  return result;
}

using Alphabet = std::vector<std::vector<Polyline>>;  // one entry a glyph

Alphabet make_alphabet() {
  Alphabet alphabet;
  for (const Glyph& glyph : kDigitGlyphs) alphabet.push_back(polylines_of(glyph));
  return alphabet;
}

void draw_strays(Draws& draws, Canvas& canvas) {
  const int count = static_cast<int>(draws.uniform(0.0f, 3.0f));
  for (int i = 0; i < count; ++i) {
    const float side = static_cast<float>(kSide);
    const Vec2 a{draws.uniform(0.0f, side), draws.uniform(0.0f, side)};
    const Vec2 b{a.x + draws.uniform(-5.0f, 5.0f), a.y + draws.uniform(-5.0f, 5.0f)};
    const float radius = draws.uniform(0.3f, 0.7f);
    const float strength = draws.uniform(0.2f, 0.5f);
    canvas.draw_segment(a, b, radius, strength);
  }
}

// Ink and paper to bytes, with noise.
void write_pixels(Draws& draws, const Canvas& canvas, uint8_t* pixels) {
  const bool dark_ink = draws.chance(0.35f);
  const float paper_level = draws.uniform(0.0f, 0.2f);
  const float ink_level = draws.uniform(0.75f, 1.0f);
  const float noise = draws.uniform(0.0f, 0.12f);
  uint32_t bytes = 0;
  for (size_t i = 0; i < kPixels; ++i) {
    if (i % 4 == 0) bytes = draws.bits();
    const float centred = static_cast<float>(bytes & 255u) * (1.0f / 127.5f) - 1.0f;
    bytes >>= 8;
    float level = paper_level + (ink_level - paper_level) * canvas.ink(i);
    if (dark_ink) level = 1.0f - level;
    level = std::clamp(level + noise * centred, 0.0f, 1.0f);
    pixels[i] = static_cast<uint8_t>(level * 255.0f + 0.5f);
  }
}

void draw_row(const Alphabet& alphabet, Split split, int64_t row, uint8_t* pixels) {
  Draws draws(derive_key(kDigitsSeed, split == Split::train ? 0 : 1, static_cast<uint64_t>(row)));
  const size_t digit = static_cast<size_t>(row % kClasses);
  const size_t style = draws.bits() % kGlyphStyles;
  const Transform transform = draw_transform(draws);
  const float radius = draws.uniform(0.8f, 1.5f);
  Canvas canvas;
  draw_strays(draws, canvas);
  for (const Polyline& line : alphabet[digit * kGlyphStyles + style]) {
    Vec2 previous = transform.apply(line.front());
    for (size_t i = 1; i < line.size(); ++i) {
      const Vec2 next = transform.apply(line[i]);
      canvas.draw_segment(previous, next, radius, 1.0f);
      previous = next;
    }
  }
  write_pixels(draws, canvas, pixels);
}

std::string sha256_of(const std::vector<uint8_t>& bytes) {
  Sha256 hash;
  hash.update(bytes.data(), bytes.size());
  return hash.hex();
}

std::string split_name(Split split) {
  return split == Split::train ? "digits-train" : "digits-test";
}

}  // namespace

Result<int64_t> digits_training_rows(const std::string& spec) {
  constexpr std::string_view kPrefix = "digits:";
  if (spec == "digits") return kDefaultDigitsRows;
  int64_t rows = 0;
  const char* end = spec.data() + spec.size();
  const bool prefixed = spec.starts_with(kPrefix);
  const auto parsed = prefixed ? std::from_chars(spec.data() + kPrefix.size(), end, rows)
                               : std::from_chars_result{end, std::errc::invalid_argument};
  if (parsed.ec != std::errc() || parsed.ptr != end || rows < 1 || rows > kMaxDigitsRows) {
    return usage_error(
        fmt::format("data set '{}': after 'digits:' stands the number of training "
                    "rows, 1 to {}, as in 'digits:{}'",
                    spec, kMaxDigitsRows, kDefaultDigitsRows));
  }
  return rows;
}

Dataset make_digits(int64_t training_rows, Split split) {
  LOCKSTEP_CHECK(1 <= training_rows && training_rows <= kMaxDigitsRows);
  const int64_t rows =
      split == Split::train ? training_rows : std::max<int64_t>(1, training_rows / 6);
  Images images;
  images.name = fmt::format("digits:{}", training_rows);
  images.row_shape = {kDigitsSide, kDigitsSide, 1};
  images.classes = kClasses;
  images.pixels.resize(static_cast<size_t>(rows * kPixels));
  images.labels.resize(static_cast<size_t>(rows));
  const Alphabet alphabet = make_alphabet();
  for (int64_t row = 0; row < rows; ++row) {
    draw_row(alphabet, split, row, images.pixels.data() + row * kPixels);
    images.labels[static_cast<size_t>(row)] = static_cast<uint8_t>(row % kClasses);
  }
  images.digest =
      manifest_digest({{split_name(split) + "-images", rows, sha256_of(images.pixels)},
                       {split_name(split) + "-labels", rows, sha256_of(images.labels)}});
  return make_dataset(std::move(images));
}

}  // namespace lockstep
