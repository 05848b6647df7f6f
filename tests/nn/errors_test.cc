// What a user reads when a model cannot be built.
#include <gtest/gtest.h>

#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "host/nn/activations.h"
#include "host/nn/losses.h"
#include "host/nn/model.h"
#include "tests/support/loss.h"

namespace lockstep {
namespace {

std::string predict_error(const Model& model) {
  const auto graph = model.predict_graph();
  EXPECT_FALSE(graph.ok());
  return graph.ok() ? "" : graph.error().message;
}

std::string layer_error(const std::string& class_name, const Shape& input,
                        const nlohmann::json& config) {
  Model model("m", input);
  model.add(class_name, config);
  return predict_error(model);
}

std::string known_activations() { return fmt::format("{}", fmt::join(activation_names(), ", ")); }

TEST(LayerErrors, conv2d) {
  EXPECT_EQ(layer_error("Conv2D", {8, 8, 1}, {{"filters", 0}, {"kernel_size", 3}}),
            "layer 'conv2d' (Conv2D): filters must be at least 1, not 0");
  EXPECT_EQ(
      layer_error("Conv2D", {4, 9, 1}, {{"filters", 1}, {"kernel_size", {5, 3}}, {"name", "c"}}),
      "layer 'c' (Conv2D): kernel_size (5, 3) is larger than the input of shape (4, 9, 1) "
      "with padding 'valid'; use padding 'same', a smaller window or larger inputs");
  EXPECT_EQ(layer_error("Conv2D", {8, 8, 1}, {{"filters", 1}, {"kernel_size", {3, 0}}}),
            "layer 'conv2d' (Conv2D): kernel_size must be between 1 and 65535 in each direction, "
            "not (3, 0)");
  EXPECT_EQ(layer_error("Conv2D", {8, 8, 1}, {{"filters", 1}, {"kernel_size", 3}, {"strides", -1}}),
            "layer 'conv2d' (Conv2D): strides must be between 1 and 65535 in each direction, not "
            "(-1, -1)");
  EXPECT_EQ(
      layer_error("Conv2D", {8, 8, 1}, {{"filters", 1}, {"kernel_size", 3}, {"padding", "sam"}}),
      "layer 'conv2d' (Conv2D): unknown padding 'sam'; did you mean 'same'? Known: valid, "
      "same");
  EXPECT_EQ(layer_error("Conv2D", {8, 8}, {{"filters", 1}, {"kernel_size", 3}}),
            "layer 'conv2d' (Conv2D): expected an input of three axes (height, width, channels), "
            "got shape (8, 8); images of one colour have 1 channel");
  EXPECT_EQ(layer_error("Conv2D", {8, 8, 1}, {{"filters", 1}, {"kernel_sise", 3}}),
            "layer 'conv2d' (Conv2D): kernel_size is missing");
  EXPECT_EQ(layer_error("Conv2D", {8, 8, 1}, {{"filters", 1}, {"kernel_size", 3}, {"stride", 2}})
                .substr(0, 70),
            "layer 'conv2d' (Conv2D): unknown key 'stride'; did you mean 'strides'?");
  EXPECT_EQ(layer_error("Conv2D", {8, 8, 1}, {{"filters", "four"}, {"kernel_size", 3}}),
            "layer 'conv2d' (Conv2D): filters must be a whole number, not \"four\"");
  EXPECT_EQ(layer_error("Conv2D", {800, 800, 1}, {{"filters", 1 << 20}, {"kernel_size", 3}}),
            "layer 'conv2d' (Conv2D): its output of shape (798, 798, 1048576) has more than "
            "2147483647 entries; make the layer smaller");
}

TEST(LayerErrors, convolutions) {
  EXPECT_EQ(layer_error("Conv2D", {8, 8, 4}, {{"filters", 6}, {"kernel_size", 3}, {"groups", 4}}),
            "layer 'conv2d' (Conv2D): 4 groups must divide the 4 channels of the input and the 6 "
            "filters");
  EXPECT_EQ(
      layer_error("Conv1D", {8, 4}, {{"filters", 6}, {"kernel_size", 3}, {"dilation_rate", 0}}),
      "layer 'conv1d' (Conv1D): dilation_rate must be between 1 and 65535 in each direction");
  EXPECT_EQ(
      layer_error("Conv1D", {8, 4}, {{"filters", 6}, {"kernel_size", 4}, {"dilation_rate", 3}}),
      "layer 'conv1d' (Conv1D): kernel_size (10) is larger than the input of shape (8, 4) with "
      "padding 'valid'; use padding 'same', a smaller window or larger inputs");
  EXPECT_EQ(
      layer_error("Conv2D", {8, 8, 1}, {{"filters", 1}, {"kernel_size", 3}, {"padding", "causal"}})
          .substr(0, 49),
      "layer 'conv2d' (Conv2D): unknown padding 'causal'");
  EXPECT_EQ(layer_error("Conv1DTranspose", {8, 4},
                        {{"filters", 6}, {"kernel_size", 3}, {"output_padding", 1}}),
            "layer 'conv1d_transpose' (Conv1DTranspose): output_padding must be at least 0 and "
            "less than strides, not 1 where strides is 1");
}

TEST(LayerErrors, max_pooling) {
  EXPECT_EQ(layer_error("MaxPooling2D", {3, 8, 1}, {{"pool_size", 4}}),
            "layer 'max_pooling2d' (MaxPooling2D): pool_size (4, 4) is larger than the input of "
            "shape (3, 8) with padding 'valid'; use padding 'same', a smaller window or larger "
            "inputs");
  EXPECT_FALSE(layer_error("MaxPooling2D", {8, 8, 1}, {{"pool_size", 0}}).empty());
  EXPECT_FALSE(layer_error("MaxPooling2D", {8, 8, 1}, {{"strides", {0, 2}}}).empty());
  EXPECT_FALSE(layer_error("MaxPooling2D", {64}, nlohmann::json::object()).empty());
}

TEST(LayerErrors, dense) {
  EXPECT_EQ(layer_error("Dense", {8}, {{"units", 0}}),
            "layer 'dense' (Dense): units must be at least 1, not 0");
  EXPECT_EQ(layer_error("Dense", {8}, {{"units", 3}, {"activation", "rellu"}}),
            "layer 'dense' (Dense): unknown activation 'rellu'; did you mean 'relu'? Known: " +
                known_activations());
  EXPECT_EQ(layer_error("Dense", {100000}, {{"units", 100000}}),
            "layer 'dense' (Dense): its kernel of shape (100000, 100000) has more than 2147483647 "
            "entries; make the layer smaller");
}

TEST(LayerErrors, dropout_and_activation) {
  EXPECT_EQ(layer_error("Dropout", {8}, {{"rate", 1}}),
            "layer 'dropout' (Dropout): rate must be at least 0 and below 1, not 1");
  EXPECT_EQ(layer_error("Dropout", {8}, {{"rate", -0.5}}),
            "layer 'dropout' (Dropout): rate must be at least 0 and below 1, not -0.5");
  EXPECT_FALSE(layer_error("Dropout", {8}, {{"rate", std::nan("")}}).empty());
  EXPECT_EQ(layer_error("Dropout", {8}, {{"rate", 0.5}, {"noise_shape", {1, 8}}}),
            "layer 'dropout' (Dropout): noise_shape [1,8] does not fit: it must be a list of null "
            "for the batch, and for each axis of an input of shape (8,) its size, null or 1");
  EXPECT_EQ(layer_error("Dropout", {8}, {{"rate", 0.5}, {"dtype", "mixed_float16"}}),
            "layer 'dropout' (Dropout): dtype \"mixed_float16\" is not supported: layers are "
            "float32 or mixed_bfloat16, --numerics chooses how they compute");
  EXPECT_EQ(layer_error("Activation", {8}, {{"activation", "softmaxx"}}),
            "layer 'activation' (Activation): unknown activation 'softmaxx'; did you mean "
            "'softmax'? Known: " +
                known_activations());
}

TEST(ModelErrors, names_and_shapes) {
  EXPECT_EQ(predict_error(Model("m", {8})), "model 'm' has no layers; add at least one");
  EXPECT_EQ(layer_error("Dense", {0}, {{"units", 3}}),
            "model 'm': the input shape (0,) must have positive dimensions and at most 2147483647 "
            "entries");
  EXPECT_FALSE(layer_error("Dense", {}, {{"units", 3}}).empty());
  EXPECT_EQ(layer_error("Dense", {8}, {{"units", 3}, {"name", "a/b"}}),
            "layer 'a/b': a name must not contain '/'");
  Model twice("m", {8});
  twice.add("Dense", {{"units", 3}, {"name", "same"}})
      .add("Dense", {{"units", 3}, {"name", "same"}});
  EXPECT_EQ(predict_error(twice), "two layers are named 'same'; rename one of them");
}

std::string training_error(const Model& model, const Objective& loss) {
  const auto graph = model.training_graph(loss);
  EXPECT_FALSE(graph.ok());
  return graph.ok() ? "" : graph.error().message;
}

TEST(LossErrors, name_and_last_layer) {
  Model model("m", {8});
  model.add("Dense", {{"units", 3}});
  EXPECT_EQ(training_error(model, "sparse_categorical_cross_entropy")
                .find("unknown loss 'sparse_categorical_cross_entropy'; did you mean "
                      "'sparse_categorical_crossentropy'? Known: mean_squared_error, "),
            0u);
  EXPECT_EQ(training_error(model, "mse"),
            "'mean_squared_error' compares outputs of shape (3,) with targets of shape (): it "
            "reads as many targets as outputs; classes need a sparse loss, or an output of one "
            "value");
  const std::string expected =
      "loss 'sparse_categorical_crossentropy' needs probabilities, but the last layer, 'dense' "
      "(Dense), does not end in softmax; give it activation 'softmax'";
  EXPECT_EQ(training_error(model, kLoss), expected);
  EXPECT_EQ(model.evaluate_graph(kLoss).error().message, expected);
  EXPECT_TRUE(model.predict_graph().ok());
}

TEST(LayerErrors, regularizers_and_constraints) {
  EXPECT_EQ(layer_error("Dense", {8}, {{"units", 3}, {"kernel_regularizer", "l3"}}),
            "layer 'dense' (Dense): unknown regularizer 'l3'; did you mean 'L1'? Known: L1, L2, "
            "L1L2, OrthogonalRegularizer");
  const nlohmann::json diagonal{{"class_name", "OrthogonalRegularizer"},
                                {"config", {{"mode", "diagonal"}}}};
  EXPECT_EQ(layer_error("Dense", {8}, {{"units", 3}, {"kernel_regularizer", diagonal}}),
            "layer 'dense' (Dense): regularizer OrthogonalRegularizer: mode must be 'rows' or "
            "'columns', not \"diagonal\"");
  EXPECT_EQ(
      layer_error("Dense", {8}, {{"units", 3}, {"activity_regularizer", "OrthogonalRegularizer"}}),
      "layer 'dense' (Dense): OrthogonalRegularizer is for weights: use L1, L2 or L1L2 for "
      "activities");
  Model flat("m", {8});
  flat.add("Dense", {{"units", 1}, {"bias_regularizer", "OrthogonalRegularizer"}});
  EXPECT_EQ(training_error(flat, "mse"),
            "layer 'dense': bias is of shape (1,), and its OrthogonalRegularizer takes matrices");
  const nlohmann::json negative{{"class_name", "L2"}, {"config", {{"l2", -1}}}};
  EXPECT_EQ(layer_error("Dense", {8}, {{"units", 3}, {"bias_regularizer", negative}}),
            "layer 'dense' (Dense): regularizer L2: l2 must be at least 0, not -1.0");
  EXPECT_FALSE(layer_error("Dense", {8}, {{"units", 3}, {"kernel_constraint", "MaxNrm"}}).empty());
  Model model("m", {8});
  const nlohmann::json apart{{"class_name", "UnitNorm"}, {"config", {{"axis", {0, 2}}}}};
  model.add("Dense", {{"units", 1}, {"kernel_constraint", apart}});
  EXPECT_EQ(training_error(model, "mse"),
            "layer 'dense': the axis [0,2] of UnitNorm is none of a kernel of shape (8, 1), nor "
            "several side by side");
  Model unused("m");
  const Model::TensorRef x = unused.input({8});
  unused.call("Dense", {{"units", 1}, {"kernel_regularizer", "l2"}}, {x});
  unused.set_outputs({unused.call("Dense", {{"units", 1}}, {x})});
  EXPECT_EQ(training_error(unused, "mse"),
            "layer 'dense': the loss does not depend on its kernel, which has a regularizer; "
            "leave that out, or freeze the layer");
}

TEST(LayerErrors, initializers) {
  const auto error = [](const nlohmann::json& config) {
    const nlohmann::json scaling{{"class_name", "VarianceScaling"}, {"config", config}};
    return layer_error("Dense", {4}, {{"units", 1}, {"kernel_initializer", scaling}});
  };
  EXPECT_NE(error({{"mode", "fan_on"}}).find("did you mean 'fan_in'?"), std::string::npos);
  EXPECT_NE(error({{"distribution", "uniforn"}}).find("did you mean 'uniform'?"),
            std::string::npos);
}

TEST(LayerErrors, masks) {
  Model model("m", {4, 2});
  model.add("Masking").add("Dense", {{"units", 1}});
  Objective objective("mse");
  objective.outputs[0].target_shape = {4, 1};
  EXPECT_TRUE(model.training_graph(objective).ok());
  objective.outputs[0].target_shape = {4};
  EXPECT_EQ(training_error(model, objective),
            "'loss' has 1 values for each row of the output, whose mask has the shape (4,): give "
            "targets of as many axes as the output has, or end the mask before "
            "(GlobalAveragePooling1D does)");
  Model late("m", {4, 2});
  late.add("Dense", {{"units", 2}}).add("Masking");
  objective.outputs[0].masked = true;
  EXPECT_EQ(late.mask_graph(objective).error().message,
            "the mask of the model's output depends on 'dense/forward': a mask that reaches the "
            "loss must follow from the inputs alone; mask the inputs, or end the mask before the "
            "output");
  model.add("GlobalAveragePooling1D");
  EXPECT_TRUE(model.training_graph("mse").ok());
  Model normalized("m", {4, 2});
  normalized.add("Masking").add("BatchNormalization").add("GlobalAveragePooling1D");
  EXPECT_EQ(training_error(normalized, "mse"),
            "layer 'batch_normalization' (BatchNormalization): an input with a mask is not "
            "supported in training: leave the mask out");
}

TEST(LayerErrors, operations_keep_rows_apart) {
  Model model("m");
  const Model::TensorRef x = model.input({4, 2});
  const nlohmann::json index{{"operands", {nullptr, 0}}};
  const int item = model.add_layer("keras.ops.GetItem", {{"name", "get_item"}});
  model.set_outputs({model.call(item, {x}, index)});
  EXPECT_EQ(predict_error(model),
            "layer 'get_item' (keras.ops.GetItem): the index 0 takes rows out of the batch; each "
            "row is computed by itself");
  EXPECT_FALSE(layer_error("keras.ops.Ad", {4}, nlohmann::json::object()).empty());
}

TEST(LossErrors, nothing_to_train) {
  Model empty("m", {8});
  empty.add("Activation", {{"activation", "softmax"}});
  EXPECT_EQ(training_error(empty, kLoss), "model 'm' has no weights to train");
}

TEST(LossErrors, are_errors_of_usage) {
  Model model("m", {8});
  model.add("Dense", {{"units", 0}});
  EXPECT_EQ(model.predict_graph().error().kind, ErrorKind::usage);
}

}  // namespace
}  // namespace lockstep
