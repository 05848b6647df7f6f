// The shapes of the drawn digits: two styles each, strokes as control points in a box 12 wide and
// 18 high, y downwards.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace lockstep {

enum class StrokeKind { straight, curve, loop };  // a loop returns to its first point

struct GlyphPoint {
  int8_t x = 0;
  int8_t y = 0;
};

struct GlyphStroke {
  StrokeKind kind = StrokeKind::straight;
  std::span<const GlyphPoint> points;
};

// Unused strokes have no points.
struct Glyph {
  std::array<GlyphStroke, 2> strokes;
};

inline constexpr size_t kGlyphStyles = 2;
inline constexpr float kGlyphCentreX = 6.0f;
inline constexpr float kGlyphCentreY = 9.0f;

// Glyphs of digit d are kDigitGlyphs[kGlyphStyles * d] and the next.
extern const std::array<Glyph, 10 * kGlyphStyles> kDigitGlyphs;

}  // namespace lockstep
