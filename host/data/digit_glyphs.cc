#include "host/data/digit_glyphs.h"

namespace lockstep {
namespace {

constexpr GlyphPoint kZeroRound[] = {{6, 0},  {11, 1}, {12, 9}, {11, 17},
                                     {6, 18}, {1, 17}, {0, 9},  {1, 1}};
constexpr GlyphPoint kZeroSlanted[] = {{8, -1}, {12, 3}, {11, 13}, {4, 19}, {0, 15}, {1, 5}};

constexpr GlyphPoint kOneFlag[] = {{2, 4}, {6, 0}, {6, 18}};
constexpr GlyphPoint kOneStem[] = {{3, 3}, {6, 0}, {6, 18}};
constexpr GlyphPoint kOneFoot[] = {{1, 18}, {11, 18}};

constexpr GlyphPoint kTwoNeck[] = {{1, 4}, {3, -1}, {10, -1}, {13, 5}, {8, 11}, {0, 18}};
constexpr GlyphPoint kTwoFoot[] = {{0, 18}, {12, 18}};
constexpr GlyphPoint kTwoLoop[] = {{1, 4},   {4, -1}, {11, 0}, {11, 6}, {6, 13},
                                   {-1, 18}, {0, 14}, {5, 16}, {12, 18}};

constexpr GlyphPoint kThreeTop[] = {{0, 2}, {4, -2}, {12, 0}, {12, 7}, {4, 9}};
constexpr GlyphPoint kThreeBottom[] = {{4, 9}, {12, 8}, {14, 17}, {6, 20}, {0, 16}};
constexpr GlyphPoint kThreeRoof[] = {{1, 0}, {11, 0}, {5, 7}};
constexpr GlyphPoint kThreeBelly[] = {{5, 7}, {13, 7}, {13, 18}, {5, 20}, {0, 15}};

constexpr GlyphPoint kFourClosed[] = {{9, 18}, {9, 0}, {0, 12}, {12, 12}};
constexpr GlyphPoint kFourArm[] = {{2, 0}, {1, 10}, {12, 10}};
constexpr GlyphPoint kFourStem[] = {{10, 1}, {9, 18}};

constexpr GlyphPoint kFiveRoof[] = {{11, 0}, {2, 0}, {1, 8}};
constexpr GlyphPoint kFiveBelly[] = {{1, 8}, {6, 5}, {13, 8}, {13, 17}, {5, 20}, {0, 16}};
constexpr GlyphPoint kFiveRoofSlanted[] = {{12, 1}, {4, 0}, {2, 8}};
constexpr GlyphPoint kFiveBellyLow[] = {{2, 8}, {11, 6}, {14, 14}, {8, 20}, {0, 17}};

constexpr GlyphPoint kSixCurl[] = {{10, 0},  {4, 2},  {0, 9}, {0, 18}, {6, 20},
                                   {13, 17}, {11, 9}, {5, 8}, {1, 13}};
constexpr GlyphPoint kSixStem[] = {{9, 0}, {3, 6}, {1, 13}};
constexpr GlyphPoint kSixLoop[] = {{1, 13}, {2, 18}, {8, 19}, {12, 15}, {10, 9}, {4, 9}};

constexpr GlyphPoint kSevenPlain[] = {{0, 0}, {12, 0}, {5, 18}};
constexpr GlyphPoint kSevenCrossed[] = {{1, 1}, {11, 0}, {6, 18}};
constexpr GlyphPoint kSevenBar[] = {{4, 9}, {12, 9}};

constexpr GlyphPoint kEightTop[] = {{6, 0}, {11, 1}, {11, 7}, {6, 9}, {1, 7}, {1, 1}};
constexpr GlyphPoint kEightBottom[] = {{6, 8}, {12, 10}, {12, 17}, {6, 18}, {0, 17}, {0, 10}};
constexpr GlyphPoint kEightCrossed[] = {{12, 1}, {5, -2}, {-1, 4}, {6, 9}, {13, 13},
                                        {8, 20}, {0, 19}, {0, 13}, {7, 9}, {12, 5}};

constexpr GlyphPoint kNineCurl[] = {{11, 6}, {11, 0}, {4, -2},  {-1, 3}, {1, 10},
                                    {8, 10}, {12, 5}, {12, 13}, {8, 18}};
constexpr GlyphPoint kNineLoop[] = {{11, 4}, {9, 0}, {3, -1}, {0, 4}, {2, 9}, {8, 9}};
constexpr GlyphPoint kNineStem[] = {{11, 2}, {10, 18}};

constexpr Glyph glyph(StrokeKind kind, std::span<const GlyphPoint> points) {
  return {{GlyphStroke{kind, points}, GlyphStroke{}}};
}

constexpr Glyph glyph(StrokeKind first_kind, std::span<const GlyphPoint> first,
                      StrokeKind second_kind, std::span<const GlyphPoint> second) {
  return {{GlyphStroke{first_kind, first}, GlyphStroke{second_kind, second}}};
}

}  // namespace

using enum StrokeKind;

constexpr std::array<Glyph, 10 * kGlyphStyles> kDigitGlyphs = {
    glyph(loop, kZeroRound),
    glyph(loop, kZeroSlanted),
    glyph(straight, kOneFlag),
    glyph(straight, kOneStem, straight, kOneFoot),
    glyph(curve, kTwoNeck, straight, kTwoFoot),
    glyph(curve, kTwoLoop),
    glyph(curve, kThreeTop, curve, kThreeBottom),
    glyph(straight, kThreeRoof, curve, kThreeBelly),
    glyph(straight, kFourClosed),
    glyph(straight, kFourArm, straight, kFourStem),
    glyph(straight, kFiveRoof, curve, kFiveBelly),
    glyph(straight, kFiveRoofSlanted, curve, kFiveBellyLow),
    glyph(curve, kSixCurl),
    glyph(curve, kSixStem, loop, kSixLoop),
    glyph(straight, kSevenPlain),
    glyph(straight, kSevenCrossed, straight, kSevenBar),
    glyph(loop, kEightTop, loop, kEightBottom),
    glyph(loop, kEightCrossed),
    glyph(curve, kNineCurl),
    glyph(loop, kNineLoop, straight, kNineStem),
};

}  // namespace lockstep
