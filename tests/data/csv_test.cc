// CSV files, good and bad.
#include "host/data/csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/core/digest.h"
#include "host/data/dataset.h"
#include "tests/data/test_files.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;
using Names = std::vector<std::string>;

CsvTable table_of(const std::string& text, const DataOptions& options = {}) {
  const TestFolder folder;
  auto table = read_csv(folder.write("x.csv", text), options);
  EXPECT_TRUE(table.ok()) << table.error().message;
  return table.ok() ? std::move(table).value() : CsvTable{};
}

// Without the folder's name.
std::string csv_message_of(const std::string& text, const DataOptions& options = {}) {
  const TestFolder folder;
  const auto table = read_csv(folder.write("x.csv", text), options);
  if (table.ok()) return "no error";
  std::string message = table.error().message;
  const size_t at = message.find(folder.path() + "/");
  return at == std::string::npos ? message : message.erase(at, folder.path().size() + 1);
}

TEST(Csv, TheLastColumnIsTheTarget) {
  const std::string text = "a,b,label\n1,2.5,0\n-3e2,+.5,1\n";
  const CsvTable table = table_of(text);
  EXPECT_EQ((Names{"a", "b"}), table.inputs);
  EXPECT_EQ((Names{"label"}), table.targets);
  EXPECT_EQ(2, table.rows);
  EXPECT_EQ((std::vector<float>{1, 2.5f, -300, 0.5f}), table.input_values);
  EXPECT_EQ((std::vector<double>{0, 1}), table.target_values);
  EXPECT_FALSE(table.has_weights);
  EXPECT_EQ(sha256_hex(text), table.sha256);
}

TEST(Csv, NamedTargetsInputsAndWeights) {
  const std::string text = "y1,a,sample_weight,b,y2\n1,2,0.5,4,5\n6,7,1.5,9,10\n";
  DataOptions options;
  options.targets = {"y2", "y1"};
  CsvTable table = table_of(text, options);
  EXPECT_EQ((Names{"a", "b"}), table.inputs);
  EXPECT_EQ((std::vector<double>{5, 1, 10, 6}), table.target_values);
  EXPECT_EQ((std::vector<float>{2, 4, 7, 9}), table.input_values);
  EXPECT_EQ((std::vector<float>{0.5f, 1.5f}), table.weights);
  options.inputs = {"b"};
  table = table_of(text, options);
  EXPECT_EQ((std::vector<float>{4, 9}), table.input_values);
  EXPECT_THAT(csv_message_of("a,b,label\n1,2,3\n", {.targets = {"lable"}}),
              HasSubstr("unknown column 'lable'; did you mean 'label'?"));
  EXPECT_THAT(csv_message_of("a,b\n1,2\n", {.targets = {"a", "a"}}), HasSubstr("named twice"));
  EXPECT_THAT(csv_message_of("a,b\n1,2\n", {.targets = {"a", "b"}}),
              HasSubstr("no column beside its targets"));
}

TEST(Csv, QuotesLineEndsAndSpaces) {
  const CsvTable table = table_of(
      "\xef\xbb\xbf\"first, \"\"quoted\"\"\",\"two\nlines\", y\r\n"
      "\r\n"
      " 1 ,\"2\",3\r\n"
      "\n"
      "4,\t5, \"6\" ");
  EXPECT_EQ((Names{"first, \"quoted\"", "two\nlines"}), table.inputs);
  EXPECT_EQ((Names{"y"}), table.targets);
  EXPECT_EQ((std::vector<float>{1, 2, 4, 5}), table.input_values);
  EXPECT_EQ((std::vector<double>{3, 6}), table.target_values);
}

TEST(Csv, TrueAndFalseAreAType) {
  EXPECT_EQ((std::vector<float>{1, 0, 1}), table_of("a,y\ntrue,0\nFalse,0\nTRUE,1\n").input_values);
  EXPECT_EQ("'x.csv', line 3, column 1 ('a'): 'true' in a column of numbers; write one of the two",
            csv_message_of("a,y\n1,0\ntrue,0\n"));
  EXPECT_THAT(csv_message_of("a,y\ntrue,0\n1,0\n"), HasSubstr("'1' in a column of true and false"));
}

TEST(Csv, MissingValues) {
  EXPECT_EQ(
      "'x.csv', line 2, column 2 ('b'): the value is missing; fill it in, or give --missing "
      "VALUE",
      csv_message_of("a,b,y\n1,,0\n"));
  for (const char* text : {"", "NA", "nan", "NaN", "null", "None", " ", "\"\""}) {
    EXPECT_THAT(csv_message_of(std::string("a,y\n") + text + ",0\n"), HasSubstr("is missing"))
        << text;
    EXPECT_EQ((std::vector<float>{-1}),
              table_of(std::string("a,y\n") + text + ",0\n", {.missing = -1}).input_values);
  }
  EXPECT_EQ(
      "'x.csv', line 2, column 2 ('y'): the value is missing; targets and weights must be "
      "there",
      csv_message_of("a,y\n1,NA\n", {.missing = 0}));
}

TEST(Csv, ErrorsSayWhere) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "'x.csv' is empty"},
      {"\n\n", "'x.csv' is empty"},
      {"a,y\n", "'x.csv' has a header and no rows"},
      {"a,y\n1,2\nabc,3\n", "'x.csv', line 3, column 1 ('a'): 'abc' is no number"},
      {"a,y\n1,2\n1.5x,3\n", "line 3, column 1 ('a'): '1.5x' is no number"},
      {"a,y\n0x10,3\n", "'0x10' is no number"},
      {"a,y\n1e999,3\n", "'1e999' is no number"},
      {"a,y\n1,2,3\n", "'x.csv', line 2: 3 fields, and the header has 2"},
      {"a,y\n1\n", "'x.csv', line 2: 1 field, and the header has 2"},
      {"a,b,y\n\"1\n\",2,3\n4,5\n", "'x.csv', line 2, column 1 ('a'): '1\n' is no number"},
      {"a,b,y\n1,2,3\n4,5\n", "'x.csv', line 3: 2 fields, and the header has 3"},
      {"a,,y\n1,2,3\n", "'x.csv', line 1, column 2: the header has no name here"},
      {"a,b,a\n1,2,3\n", "two columns are called 'a'"},
      {"1,2,3\n4,5,6\n", "begins with numbers, where a line of names must stand"},
      {"a;y\n1;2\n", "no column beside its targets; it needs at least one input, and commas"},
      {"a,y\n\"1,2\n", "line 2, column 1: a quote is not closed before the end of the file"},
      {"a,y\n\"1\"2,3\n", "line 2, column 1: text follows a closing quote"},
      {std::string("a,y\n1,\0\n", 8), "line 2, column 2: a NUL character"},
      {"a,y\n" + std::string(70000, '1') + ",2\n", "a field of more than 65536 bytes"},
      {"a,y\n\"" + std::string(70000, '\n'), "a field of more than 65536 bytes"}};
  for (const auto& [text, words] : cases) {
    EXPECT_THAT(csv_message_of(text), HasSubstr(words)) << text.substr(0, 40);
  }
}

// Fields, lines and quotes that begin in one piece of the file and end in the next.
TEST(Csv, LargerThanAPiece) {
  std::string text = "a,b,y\n";
  std::vector<float> inputs;
  for (int i = 0; text.size() < 3 << 18; ++i) {
    text +=
        std::to_string(i) + ",\"" + std::to_string(i % 97) + "\"," + std::to_string(i % 7) + "\n";
    inputs.push_back(static_cast<float>(i));
    inputs.push_back(static_cast<float>(i % 97));
  }
  EXPECT_EQ(inputs, table_of(text).input_values);
  const CsvTable zipped = table_of(gzip(text));
  EXPECT_EQ(inputs, zipped.input_values);
  EXPECT_EQ(sha256_hex(text), zipped.sha256);
  EXPECT_THAT(csv_message_of(gzip(text).substr(0, 1000)), HasSubstr("damaged gzip"));
}

TEST(Csv, AsADataSet) {
  const TestFolder folder;
  const std::string path = folder.write("x.csv", "a,b,c,y\n1,2,3,0\n4,5,6,2\n7,8,9,1\n");
  const auto data = load_dataset(path, Split::train);
  ASSERT_TRUE(data.ok()) << data.error().message;
  EXPECT_EQ((Shape{3}), data->row_shape);
  EXPECT_EQ(3, data->rows());
  EXPECT_EQ(3, data->classes);
  EXPECT_EQ(6, data->inputs[0].value(5));
  const auto two = load_dataset(path, Split::test, {.targets = {"c", "y"}});
  ASSERT_TRUE(two.ok()) << two.error().message;
  EXPECT_EQ(2, two->target_features());
  EXPECT_EQ(0, two->classes);
  EXPECT_EQ(2, two->targets[1].value(1));
  EXPECT_EQ(data->digest, two->digest);  // the recipe tells them apart
  const auto none = load_dataset(path, Split::test, {.needs_targets = false});
  ASSERT_TRUE(none.ok()) << none.error().message;
  EXPECT_EQ((Shape{4}), none->row_shape);
}

}  // namespace
}  // namespace lockstep
