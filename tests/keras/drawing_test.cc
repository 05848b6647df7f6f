#include "host/keras/drawing.h"

#include <gtest/gtest.h>

#include <map>
#include <regex>

#include "models/models.h"

namespace lockstep {
namespace {

struct Rectangle {
  double x, y, width, height;
};

std::vector<Rectangle> boxes_of(const std::string& svg) {
  const std::regex box(R"re(<rect x="([-\d]+)" y="(\d+)" width="(\d+)" height="(\d+)" rx="6")re");
  std::vector<Rectangle> boxes;
  for (std::sregex_iterator it(svg.begin(), svg.end(), box), end; it != end; ++it) {
    boxes.push_back(
        {std::stod((*it)[1]), std::stod((*it)[2]), std::stod((*it)[3]), std::stod((*it)[4])});
  }
  return boxes;
}

void expect_apart(const std::vector<Rectangle>& boxes) {
  for (size_t i = 0; i < boxes.size(); ++i) {
    EXPECT_GE(boxes[i].x, 0);
    for (size_t k = 0; k < i; ++k) {
      const bool apart = boxes[i].y != boxes[k].y || boxes[i].x > boxes[k].x + boxes[k].width ||
                         boxes[k].x > boxes[i].x + boxes[i].width;
      EXPECT_TRUE(apart) << i << " " << k;
    }
  }
}

TEST(Drawing, HasABoxForEachLayerAndALineForEachTensor) {
  Model model("two & more");
  const auto a = model.input({4}, "left");
  const auto b = model.input({4}, "right");
  const auto dense = model.call("Dense", {{"units", 3}, {"name", "dense"}}, {a});
  const auto second = model.call("Dense", {{"units", 3}, {"name", "second"}}, {dense});
  const auto sum = model.call("Concatenate", {{"name", "join"}}, {second, b});
  model.set_outputs({sum});
  const std::string svg = draw_model(model).value();
  EXPECT_EQ(boxes_of(svg).size(), 5u);
  expect_apart(boxes_of(svg));
  for (const char* word : {"<title>two &amp; more</title>", ">left<", ">Input (4,)<", ">join<",
                           ">Concatenate (7,)<", ">Dense (3,)<"}) {
    EXPECT_NE(svg.find(word), std::string::npos) << word << "\n" << svg;
  }
  // right passes two rows on its way to join.
  const std::regex path("<path d=\"M");
  EXPECT_EQ(std::distance(std::sregex_iterator(svg.begin(), svg.end(), path), {}), 4 + 2 + 1);
}

TEST(Drawing, BoxesOfALargeModelDoNotOverlap) {
  const auto model = build_model("resnet20", {32, 32, 3}, 10).value();
  const auto boxes = boxes_of(draw_model(*model).value());
  EXPECT_EQ(boxes.size(), model->calls().size() + 1);
  expect_apart(boxes);
}

TEST(Drawing, AModelThatCannotBeBuiltIsRefused) {
  Model model("bad", {4});
  model.add("Conv2D", {{"filters", 1}, {"kernel_size", 3}});
  EXPECT_FALSE(draw_model(model).ok());
}

}  // namespace
}  // namespace lockstep
