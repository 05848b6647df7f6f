#include "host/nn/layers_page.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "tests/support/source_folder.h"

namespace lockstep {
namespace {

TEST(LayersPage, IsTheOneInTheDocumentation) {
  std::ifstream file(source_folder() + "/docs/layers.md");
  std::ostringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(text.str() == layers_page())
      << "write it: lockstep inspect --layers > docs/layers.md";
}

}  // namespace
}  // namespace lockstep
