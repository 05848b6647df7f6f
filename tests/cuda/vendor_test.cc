// The vendors' libraries as far as they go without a GPU: loading, messages, and what cublasLt is
// told of a dense layer.
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "cuda/conv_plan.h"
#include "cuda/matmul.h"
#include "cuda/vendor.h"

namespace lockstep {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Vendor, MissingLibraryIsNamedWithTheRemedy) {
  constexpr const char* kFile = "liblockstep-does-not-exist.so.9";
  const std::array<std::string, 3> messages = {load_cudnn(kFile).error().message,
                                               load_cublaslt(kFile).error().message,
                                               load_nccl(kFile).error().message};
  const std::array<const char*, 3> names = {"cuDNN", "cublasLt", "NCCL"};
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_TRUE(contains(messages[i], std::string(names[i]) + " can't be loaded")) << messages[i];
    EXPECT_TRUE(contains(messages[i], kFile)) << messages[i];
    EXPECT_TRUE(contains(messages[i], "No such file")) << messages[i];  // dlerror's words
    EXPECT_TRUE(contains(messages[i], "LD_LIBRARY_PATH")) << messages[i];
    EXPECT_TRUE(contains(messages[i], "--device cpu")) << messages[i];
  }
}

TEST(Vendor, FilesCarryTheMajorVersion) {
  EXPECT_STREQ(kCudnnFile, "libcudnn.so.9");
  EXPECT_EQ(std::string(kCublasLtFile).rfind("libcublasLt.so.1", 0), 0u) << kCublasLtFile;
  EXPECT_STREQ(kNcclFile, "libnccl.so.2");
}

TEST(Vendor, LibraryWithoutTheFunctionsIsRefused) {
  const auto api = load_cudnn("libc.so.6");
  ASSERT_FALSE(api.ok());
  EXPECT_TRUE(contains(api.error().message, "no function cudnnGetVersion")) << api.error().message;
}

TEST(Vendor, VersionsAreRead) {
  const auto cudnn = load_cudnn();
  const auto cublaslt = load_cublaslt();
  const auto nccl = load_nccl();
  if (!cudnn) GTEST_SKIP() << "skipped: " << cudnn.error().message;
  if (!cublaslt) GTEST_SKIP() << "skipped: " << cublaslt.error().message;
  if (!nccl) GTEST_SKIP() << "skipped: " << nccl.error().message;
  EXPECT_EQ((*cudnn)->version.rfind("cuDNN 9.", 0), 0u) << (*cudnn)->version;
  EXPECT_EQ((*cublaslt)->version.rfind("cublasLt 1", 0), 0u) << (*cublaslt)->version;
  EXPECT_EQ((*nccl)->version.rfind("NCCL 2.", 0), 0u) << (*nccl)->version;
}

TEST(Vendor, ATableOfOurOwnWillDo) {
  auto api = std::make_shared<CudnnApi>();
  api->get_error_string = [](cudnnStatus_t) -> const char* { return "CUDNN_STATUS_TEST"; };
  api->get_last_error_string = [](char* text, size_t size) {
    if (size > 1) text[0] = '?', text[1] = '\0';
  };
  api->create = [](cudnnHandle_t*) { return CUDNN_STATUS_NOT_INITIALIZED; };
  const auto handle = CudnnHandle::create(api);
  ASSERT_FALSE(handle.ok());
  EXPECT_EQ(handle.error().message, "cudnnCreate(&handle): CUDNN_STATUS_TEST: ?");
}

TEST(Alignment, OfAnOffsetInFloats) {
  EXPECT_EQ(alignment_of(0), 16);
  EXPECT_EQ(alignment_of(0, 256), 256);
  EXPECT_EQ(alignment_of(1), 4);
  EXPECT_EQ(alignment_of(6), 8);
  EXPECT_EQ(alignment_of(1212), 16);
  EXPECT_EQ(alignment_of(1212, 256), 16);
  EXPECT_EQ(alignment_of(64, 256), 256);
}

// out = op(a) op(b), all column-major: what cublasLt does with a MatmulShape.
std::vector<double> column_major_product(const MatmulShape& shape, const std::vector<double>& a,
                                         const std::vector<double>& b) {
  const auto element = [](const std::vector<double>& matrix, int64_t rows, bool transposed,
                          int64_t row, int64_t column) {
    return transposed ? matrix.at(static_cast<size_t>(row * rows + column))
                      : matrix.at(static_cast<size_t>(column * rows + row));
  };
  const int64_t inner = shape.transpose_a ? shape.a_rows : shape.a_columns;
  EXPECT_EQ(shape.transpose_b ? shape.b_columns : shape.b_rows, inner);
  EXPECT_EQ(shape.transpose_a ? shape.a_columns : shape.a_rows, shape.out_rows);
  EXPECT_EQ(shape.transpose_b ? shape.b_rows : shape.b_columns, shape.out_columns);
  std::vector<double> out(static_cast<size_t>(shape.out_rows * shape.out_columns));
  for (int64_t column = 0; column < shape.out_columns; ++column) {
    for (int64_t row = 0; row < shape.out_rows; ++row) {
      double sum = 0;
      for (int64_t k = 0; k < inner; ++k) {
        sum += element(a, shape.a_rows, shape.transpose_a, row, k) *
               element(b, shape.b_rows, shape.transpose_b, k, column);
      }
      out[static_cast<size_t>(column * shape.out_rows + row)] = sum;
    }
  }
  return out;
}

std::vector<double> numbers(int64_t count, int start) {
  std::vector<double> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<double>((start + i * 7) % 11));
  return values;
}

constexpr int64_t kRows = 2, kIn = 3, kOut = 5;

DenseOp dense(Pass pass, Activation activation, int64_t bias_offset) {
  return {pass, kIn, kOut, activation, 0, bias_offset};
}

// Row-major formulas of DenseOp against the column-major product.
TEST(MatmulShapes, GiveTheRowMajorResult) {
  const auto x = numbers(kRows * kIn, 1), kernel = numbers(kIn * kOut, 2);
  const auto dy = numbers(kRows * kOut, 3);
  const auto at = [](const std::vector<double>& matrix, int64_t columns, int64_t row,
                     int64_t column) {
    return matrix.at(static_cast<size_t>(row * columns + column));
  };
  const auto shape = [](Pass pass) {
    return matmul_shape(dense(pass, Activation::linear, -1), kRows);
  };
  const auto y = column_major_product(shape(Pass::forward), kernel, x);
  const auto dx = column_major_product(shape(Pass::data_gradient), kernel, dy);
  const auto dw = column_major_product(shape(Pass::weight_gradient), dy, x);
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t o = 0; o < kOut; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < kIn; ++i) sum += at(x, kIn, r, i) * at(kernel, kOut, i, o);
      EXPECT_EQ(at(y, kOut, r, o), sum);
    }
    for (int64_t i = 0; i < kIn; ++i) {
      double sum = 0;
      for (int64_t o = 0; o < kOut; ++o) sum += at(dy, kOut, r, o) * at(kernel, kOut, i, o);
      EXPECT_EQ(at(dx, kIn, r, i), sum);
    }
  }
  for (int64_t i = 0; i < kIn; ++i) {
    for (int64_t o = 0; o < kOut; ++o) {
      double sum = 0;
      for (int64_t r = 0; r < kRows; ++r) sum += at(x, kIn, r, i) * at(dy, kOut, r, o);
      EXPECT_EQ(at(dw, kOut, i, o), sum);
    }
  }
}

TEST(MatmulShapes, FuseBiasAndReluOnlyForward) {
  const auto epilogue = [](Pass pass, Activation activation, int64_t bias_offset) {
    return matmul_shape(dense(pass, activation, bias_offset), kRows).epilogue;
  };
  EXPECT_EQ(epilogue(Pass::forward, Activation::relu, 7), CUBLASLT_EPILOGUE_RELU_BIAS);
  EXPECT_EQ(epilogue(Pass::forward, Activation::relu, -1), CUBLASLT_EPILOGUE_RELU);
  EXPECT_EQ(epilogue(Pass::forward, Activation::linear, 7), CUBLASLT_EPILOGUE_BIAS);
  EXPECT_EQ(epilogue(Pass::forward, Activation::linear, -1), CUBLASLT_EPILOGUE_DEFAULT);
  EXPECT_EQ(epilogue(Pass::data_gradient, Activation::relu, 7), CUBLASLT_EPILOGUE_DEFAULT);
  EXPECT_EQ(epilogue(Pass::weight_gradient, Activation::relu, 7), CUBLASLT_EPILOGUE_DEFAULT);
}

TEST(MatmulShapes, AreAcceptedByTheRealCublasLt) {
  const auto api = load_cublaslt();
  if (!api) GTEST_SKIP() << "skipped: " << api.error().message;
  for (const Pass pass : {Pass::forward, Pass::data_gradient, Pass::weight_gradient}) {
    for (const Activation activation : {Activation::linear, Activation::relu}) {
      for (const int64_t bias_offset : {int64_t{-1}, int64_t{15}}) {
        for (const CudaMath math : {CudaMath::fp32, CudaMath::tf32, CudaMath::bf16}) {
          MatmulOptions options;
          options.math = math;
          const auto made =
              MatmulDescriptors::create(*api, dense(pass, activation, bias_offset), 32, options);
          EXPECT_TRUE(made.ok()) << made.error().message;
        }
      }
    }
  }
}

// A cublasLt whose heuristic offers what a test puts here, and which notes what it is given.
struct Offer {
  uint32_t reduction = 0;
  uint64_t numerics = 0;
  size_t workspace = 0;
};
struct FakeCublasLt {
  std::vector<Offer> offers;
  std::vector<std::pair<int, uint32_t>> alignments;  // preference attribute, bytes
  const void* bias = nullptr;
  const void* a = nullptr;
  const void* b = nullptr;
  const void* out = nullptr;
  uint64_t algorithm = 0;
};
FakeCublasLt* fake = nullptr;  // of the test under way

template <class T>
cublasStatus_t write_value(void* buffer, size_t size, T value) {
  if (size != sizeof value) return CUBLAS_STATUS_INVALID_VALUE;
  *static_cast<T*>(buffer) = value;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t fake_heuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                              cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
                              cublasLtMatmulHeuristicResult_t results[], int* count) {
  for (size_t i = 0; i < fake->offers.size(); ++i) {
    results[i] = {};
    results[i].algo.data[0] = i;
    results[i].workspaceSize = fake->offers[i].workspace;
  }
  *count = static_cast<int>(fake->offers.size());
  return CUBLAS_STATUS_SUCCESS;
}

// Everything but the algorithms is the real one's.
std::shared_ptr<const CublasLtApi> fake_api(const CublasLtApi& real) {
  auto api = std::make_shared<CublasLtApi>(real);
  api->create = [](cublasLtHandle_t* handle) {
    *handle = reinterpret_cast<cublasLtHandle_t>(fake);
    return CUBLAS_STATUS_SUCCESS;
  };
  api->destroy = [](cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; };
  api->matmul_preference_set_attribute = [](cublasLtMatmulPreference_t,
                                            cublasLtMatmulPreferenceAttributes_t attribute,
                                            const void* value, size_t size) {
    if (size == sizeof(uint32_t)) {
      fake->alignments.emplace_back(attribute, *static_cast<const uint32_t*>(value));
    }
    return CUBLAS_STATUS_SUCCESS;
  };
  api->matmul_algo_get_heuristic = &fake_heuristic;
  api->matmul_algo_config_get_attribute = [](const cublasLtMatmulAlgo_t* algorithm,
                                             cublasLtMatmulAlgoConfigAttributes_t attribute,
                                             void* buffer, size_t size, size_t*) {
    if (attribute != CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME) return CUBLAS_STATUS_INVALID_VALUE;
    return write_value(buffer, size, fake->offers.at(algorithm->data[0]).reduction);
  };
  api->matmul_algo_cap_get_attribute = [](const cublasLtMatmulAlgo_t* algorithm,
                                          cublasLtMatmulAlgoCapAttributes_t, void* buffer,
                                          size_t size, size_t*) {
    return write_value(buffer, size, fake->offers.at(algorithm->data[0]).numerics);
  };
  api->matmul_desc_set_attribute = [](cublasLtMatmulDesc_t,
                                      cublasLtMatmulDescAttributes_t attribute, const void* value,
                                      size_t) {
    if (attribute == CUBLASLT_MATMUL_DESC_BIAS_POINTER) {
      fake->bias = *static_cast<const void* const*>(value);
    }
    return CUBLAS_STATUS_SUCCESS;
  };
  api->matmul = [](cublasLtHandle_t, cublasLtMatmulDesc_t, const void*, const void* a,
                   cublasLtMatrixLayout_t, const void* b, cublasLtMatrixLayout_t, const void*,
                   const void* c, cublasLtMatrixLayout_t, void* d, cublasLtMatrixLayout_t,
                   const cublasLtMatmulAlgo_t* algorithm, void*, size_t, cudaStream_t) {
    EXPECT_EQ(c, d);
    fake->a = a;
    fake->b = b;
    fake->out = d;
    fake->algorithm = algorithm->data[0];
    return CUBLAS_STATUS_SUCCESS;
  };
  return api;
}

class MatmulChoice : public testing::Test {
 protected:
  void SetUp() override {
    const auto real = load_cublaslt();
    if (!real) GTEST_SKIP() << "skipped: " << real.error().message;
    fake = &fake_;
    auto handle = CublasLtHandle::create(fake_api(**real));
    ASSERT_TRUE(handle.ok());
    handle_ = std::make_unique<CublasLtHandle>(std::move(handle).value());
  }
  void TearDown() override {
    handle_.reset();
    fake = nullptr;
  }
  FakeCublasLt fake_;
  std::unique_ptr<CublasLtHandle> handle_;
};

TEST_F(MatmulChoice, IsTheFirstThatQualifies) {
  fake_.offers = {{.reduction = CUBLASLT_REDUCTION_SCHEME_INPLACE},
                  {.numerics = CUBLASLT_NUMERICAL_IMPL_FLAGS_HMMA},
                  {.workspace = 4097},
                  {.reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, .workspace = 4096},
                  {}};
  MatmulOptions options;
  options.workspace_limit_bytes = 4096;
  auto matmul =
      Matmul::create(*handle_, dense(Pass::forward, Activation::relu, 15), kRows, options);
  ASSERT_TRUE(matmul.ok()) << matmul.error().message;
  EXPECT_EQ(matmul->workspace_bytes(), 4096);
  EXPECT_TRUE(contains(matmul->description(), "4 of 5")) << matmul->description();
  std::array<float, 4> memory{};
  ASSERT_TRUE(
      matmul
          ->run({.x = &memory[0], .kernel = &memory[1], .bias = &memory[2], .out = &memory[3]},
                nullptr, nullptr)
          .ok());
  EXPECT_EQ(fake_.algorithm, 3u);
  EXPECT_EQ(fake_.a, &memory[1]);
  EXPECT_EQ(fake_.b, &memory[0]);
  EXPECT_EQ(fake_.bias, &memory[2]);
  EXPECT_EQ(fake_.out, &memory[3]);
}

TEST_F(MatmulChoice, TakesTensorCoresWhereTf32IsAllowed) {
  fake_.offers = {{.numerics = CUBLASLT_NUMERICAL_IMPL_FLAGS_HMMA}, {}};
  MatmulOptions options;
  options.math = CudaMath::tf32;
  auto matmul = Matmul::create(*handle_, dense(Pass::data_gradient, {}, -1), kRows, options);
  ASSERT_TRUE(matmul.ok()) << matmul.error().message;
  EXPECT_TRUE(contains(matmul->description(), "1 of 2")) << matmul->description();
}

TEST_F(MatmulChoice, SaysWhyThereIsNone) {
  fake_.offers = {{.reduction = CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE}};
  const auto matmul =
      Matmul::create(*handle_, dense(Pass::weight_gradient, {}, -1), kRows, MatmulOptions{});
  ASSERT_FALSE(matmul.ok());
  EXPECT_TRUE(contains(matmul.error().message, "weight gradient of 2x3 transposed by 2x5"))
      << matmul.error().message;
  EXPECT_TRUE(contains(matmul.error().message, "reduction scheme")) << matmul.error().message;
}

TEST_F(MatmulChoice, DeclaresTrueAlignments) {
  fake_.offers = {{}};
  MatmulOptions options;
  options.x_alignment_bytes = 64;
  options.y_alignment_bytes = 128;
  options.kernel_alignment_bytes = 16;
  options.bias_alignment_bytes = 8;
  const auto declared = [&](Pass pass, int64_t bias_offset) {
    fake_.alignments.clear();
    EXPECT_TRUE(
        Matmul::create(*handle_, dense(pass, Activation::linear, bias_offset), kRows, options)
            .ok());
    std::array<uint32_t, 3> found{};
    for (const auto& [attribute, bytes] : fake_.alignments) {
      if (attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES) found[0] = bytes;
      if (attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES) found[1] = bytes;
      if (attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES) found[2] = bytes;
    }
    return found;
  };
  EXPECT_EQ(declared(Pass::forward, -1), (std::array<uint32_t, 3>{16, 64, 128}));
  EXPECT_EQ(declared(Pass::forward, 2), (std::array<uint32_t, 3>{16, 64, 8}));
  EXPECT_EQ(declared(Pass::data_gradient, 2), (std::array<uint32_t, 3>{16, 128, 64}));
  EXPECT_EQ(declared(Pass::weight_gradient, 2), (std::array<uint32_t, 3>{128, 64, 16}));
}

}  // namespace
}  // namespace lockstep
