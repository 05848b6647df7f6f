// Arrays that NumPy wrote, and files that claim what they are not.
#include "host/data/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/data/test_files.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

const Shape kShape = {4, 2, 3};

std::string npy_message_of(const std::string& bytes) {
  const auto array = read_npy(shared(bytes), "'x.npy'");
  return array.ok() ? "no error" : array.error().message;
}

Field field_of(const NpyArray& array) {
  Field field;
  field.row_shape.assign(array.shape.begin() + 1, array.shape.end());
  field.type = array.type;
  field.values = array.values;
  return field;
}

Field read(const std::string& name) {
  const auto array = read_npy(shared(array_file(name)), name);
  EXPECT_TRUE(array.ok()) << array.error().message;
  return array.ok() ? field_of(*array) : Field{};
}

std::vector<float> floats_of(const Field& field) {
  std::vector<float> values(static_cast<size_t>(field.rows() * field.features()));
  field.copy_floats(0, static_cast<int64_t>(values.size()), values.data());
  return values;
}

// What make_arrays.py put into an array of a type.
float value_of(char kind, int i) {
  if (kind == 'b') return static_cast<float>(i % 2);
  if (kind == 'u') return static_cast<float>(i);
  return static_cast<float>(i - 3) / (kind == 'f' ? 4.0f : 1.0f);
}

void expect_values(const std::string& name, char kind) {
  const auto array = read_npy(shared(array_file(name)), name);
  ASSERT_TRUE(array.ok()) << array.error().message;
  EXPECT_EQ(kShape, array->shape) << name;
  const Field field = field_of(*array);
  EXPECT_EQ(4, field.rows());
  const std::vector<float> values = floats_of(field);
  ASSERT_EQ(24u, values.size());
  for (int i = 0; i < 24; ++i) {
    EXPECT_EQ(value_of(kind, i), values[static_cast<size_t>(i)]) << name << " " << i;
    EXPECT_EQ(static_cast<double>(value_of(kind, i)), field.value(i)) << name << " " << i;
  }
}

TEST(Npy, EveryType) {
  const std::vector<std::pair<std::string, ElementType>> types = {
      {"b1", ElementType::boolean}, {"u1", ElementType::uint8},   {"i1", ElementType::int8},
      {"u2", ElementType::uint16},  {"i2", ElementType::int16},   {"u4", ElementType::uint32},
      {"i4", ElementType::int32},   {"u8", ElementType::uint64},  {"i8", ElementType::int64},
      {"f2", ElementType::float16}, {"f4", ElementType::float32}, {"f8", ElementType::float64}};
  for (const auto& [name, type] : types) {
    expect_values(name + ".npy", name[0]);
    EXPECT_EQ(type, read(name + ".npy").type) << name;
    EXPECT_EQ(name[1] - '0', element_bytes(type)) << element_name(type);
  }
}

TEST(Npy, OrdersOfAxesAndBytes) {
  for (const char* name : {"fortran_f4.npy", "big_f8.npy", "big_fortran_f8.npy"}) {
    expect_values(name, 'f');
  }
  for (const char* name : {"big_i4.npy", "big_fortran_i4.npy"}) expect_values(name, 'i');
}

TEST(Npy, EveryVersion) {
  for (const char* name : {"version_1.npy", "version_2.npy", "version_3.npy"}) {
    expect_values(name, 'f');
  }
}

TEST(Npy, ValuesInCOrderAreNotCopied) {
  const SharedBytes bytes = shared(array_file("f4.npy"));
  const auto array = read_npy(bytes, "f4");
  ASSERT_TRUE(array.ok());
  EXPECT_EQ(bytes.data() + bytes.size() - 24 * 4, array->values.data());
}

TEST(Npy, HalvesAsNumPyConvertsThem) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ((std::vector<float>{0, 0x1p-24f, -0x1p-24f, 0x1.ff8p-15f, 1, -2, 65504, -65504,
                                infinity, -infinity}),
            floats_of(read("half.npy")));
  Field nan{"", {}, 0, ElementType::float16};
  nan.values = shared(std::string("\x01\x7e\x00\x80", 4));
  EXPECT_TRUE(std::isnan(floats_of(nan)[0]));
  EXPECT_TRUE(std::signbit(floats_of(nan)[1]));
}

// Nearest float32, ties to even, as NumPy's astype.
TEST(Npy, WideNumbersAreRounded) {
  const std::vector<int64_t> whole = {16777217, 16777219, (int64_t{1} << 53) + 1, INT64_MIN};
  Field field{"", {}, 0, ElementType::int64};
  field.values = shared({reinterpret_cast<const char*>(whole.data()), whole.size() * 8});
  EXPECT_EQ((std::vector<float>{16777216.0f, 16777220.0f, 0x1p53f, -0x1p63f}), floats_of(field));
  const std::vector<double> doubles = {0.1, 1e300, 1e-60};
  Field other{"", {}, 0, ElementType::float64};
  other.values = shared({reinterpret_cast<const char*>(doubles.data()), doubles.size() * 8});
  EXPECT_EQ((std::vector<float>{0.1f, std::numeric_limits<float>::infinity(), 0}),
            floats_of(other));
}

TEST(Npy, RefusesWhatHoldsNoNumbers) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"objects", "objects, which are pickled Python and never read"},
      {"structured", "a structured type"},
      {"void", "a structured type"},
      {"text", "holds text"},
      {"bytes", "holds text"},
      {"complex", "complex numbers"},
      {"dates", "dates or times"},
      {"scalar", "a single number, not rows"},
      {"empty", "holds no values: its shape is (0, 3)"}};
  for (const auto& [name, words] : cases) {
    EXPECT_THAT(npy_message_of(array_file(name + ".npy")), HasSubstr(words)) << name;
    EXPECT_THAT(npy_message_of(array_file(name + ".npy")), HasSubstr("'x.npy'")) << name;
  }
}

TEST(Npy, EveryCutIsAnError) {
  const std::string whole = array_file("f4.npy");
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string message = npy_message_of(whole.substr(0, size));
    EXPECT_THAT(message, HasSubstr("'x.npy'")) << size;
    EXPECT_NE("no error", message) << size;
  }
  EXPECT_THAT(npy_message_of(whole.substr(0, 200)),
              HasSubstr("ends early: its header says float32 values of shape (4, 2, 3), 224 bytes "
                        "in all, and it has 200; copy or save it again"));
  EXPECT_THAT(npy_message_of(whole + "x"), HasSubstr("is too long"));
}

TEST(Npy, HeadersThatLie) {
  const std::string end = "'fortran_order': False, 'shape': (2, 3)}";
  const auto with = [](const std::string& dictionary) {
    return npy_message_of(npy_file(dictionary, std::string(24, '\0')));
  };
  EXPECT_EQ("no error", with("{'descr': '<f4', " + end));
  EXPECT_EQ("no error", with("{\"shape\":(2L,3L,),\n'fortran_order':False,'descr':'f4',}  \n"));
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "does not begin with {"},
      {"{'descr': '<f4', 'shape': (6,)}", "'fortran_order' or 'shape' is missing"},
      {"{'descr': '<f4', 'descr': '<f4', " + end, "'descr' stands there twice"},
      {"{'descr': '<f4', 'other': 1, " + end, "a key is none of"},
      {"{'descr': '<q9', " + end, "type '<q9', which cannot be read"},
      {"{'descr': <f4, " + end, "a name in quotes is missing"},
      {"{'descr': '<f\\x34', " + end, "a backslash"},
      {"{'descr': [('a', '<f4')], " + end, "a structured type"},
      {"{'descr': '<f4', 'fortran_order': 1, 'shape': (6,)}", "neither True nor False"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': 6}", "no tuple"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (-6,)}", "something else than sizes"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': ((6,),)}", "something else than sizes"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
       "something else than sizes"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,)} + 1", "follows the dictionary"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
       "cannot be what its header says: an array of shape (4294967296, 4294967296)"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807,)}",
       "cannot be what its header says"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1000)}", "ends early"},
      {"{'descr': '<f4', 'fortran_order': True, 'shape': (1000000000000, 1000)}", "ends early"}};
  for (const auto& [dictionary, words] : cases) {
    EXPECT_THAT(with(dictionary), HasSubstr(words)) << dictionary;
  }
  std::string deep = "{'descr': '<f4', 'fortran_order': False, 'shape': (";
  for (int i = 0; i < 40; ++i) deep += "1, ";
  EXPECT_THAT(with(deep + ")}"), HasSubstr("more than 32 dimensions"));
}

TEST(Npy, OtherBeginnings) {
  EXPECT_THAT(npy_message_of(""), HasSubstr("is no NPY array"));
  EXPECT_THAT(npy_message_of("PK\3\4"), HasSubstr("is no NPY array"));
  std::string version = array_file("f4.npy");
  version[6] = 9;
  EXPECT_THAT(npy_message_of(version), HasSubstr("version 9 of NPY, and versions 1 to 3"));
  std::string huge = array_file("version_2.npy");
  huge[11] = '\x7f';
  EXPECT_THAT(npy_message_of(huge), HasSubstr("and at most 65536 can be read"));
}

TEST(Npy, WritesWhatNumPyWrites) {
  std::vector<float> values;
  for (int i = 0; i < 24; ++i) values.push_back(value_of('f', i));
  const TestFolder folder;
  const std::string path = folder.path() + "/x.npy";
  ASSERT_TRUE(write_npy(path, kShape, values).ok());
  EXPECT_EQ(array_file("f4.npy"), read_file(path).value());
  ASSERT_TRUE(write_npy(path, {24}, values).ok());
  const auto line = read_npy(shared(read_file(path).value()), path);
  ASSERT_TRUE(line.ok()) << line.error().message;
  EXPECT_EQ((Shape{24}), line->shape);
  EXPECT_EQ(values, floats_of(field_of(*line)));
  EXPECT_EQ(0u, npy_header({1}).size() % 64);
}

}  // namespace
}  // namespace lockstep
