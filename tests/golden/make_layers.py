"""Makes tests/golden/layers.json: what Keras' layers compute, forward and backward.

    python tests/golden/make_layers.py            writes the file
    python tests/golden/make_layers.py --check    compares it with what Keras computes now

Needs the packages of tests/golden/requirements.txt; `./dev golden` makes an environment for it. For
each case: the layer's class and get_config(), its weights, inputs and an upstream gradient c by the
formula of make_golden.py, y, and the gradients of sum(y * c): of each weight, and of each input
summed over the rows. Some cases are a chain of layers, as masks flow; one that merges in it gets
the last two results.
"""

import json
import math
import pathlib
import sys

from golden_file import write_or_check
from make_golden import uniform  # first: it chooses the backend, and float64

import jax
import keras
import numpy as np
from keras import layers, ops
from keras.src.applications import convnext, inception_resnet_v2

FILE = pathlib.Path(__file__).with_name("layers.json")
ROWS = 3
DIGITS = 8


def made_up(tensor, shape):
    """In [0, 1): the formula of made_up_uniform in tests/nn/training_step.h."""
    return uniform(tensor, math.prod(shape)).reshape(shape)


def spatial_cases(case, sequence, image, volume):
    """Layers that there are for 1, 2 and 3 axes."""
    for axes, shape in ((1, sequence), (2, image), (3, volume)):
        for kind in ("Max", "Average"):
            pool = getattr(layers, f"{kind}Pooling{axes}D")
            over_all = getattr(layers, f"Global{kind}Pooling{axes}D")
            name = f"{kind.lower()}_pooling{axes}d"
            case(name, pool(2), shape)
            case(f"{name}_same", pool(3, strides=2, padding="same"), shape)
            case(f"global_{name}", over_all(), shape)
            case(f"global_{name}_keep", over_all(keepdims=True), shape)
        padding = getattr(layers, f"ZeroPadding{axes}D")
        cropping = getattr(layers, f"Cropping{axes}D")
        sides = (1, 2) if axes == 1 else tuple((axis, 1) for axis in range(axes))
        case(f"zero_padding{axes}d", padding(sides), shape)
        case(f"cropping{axes}d", cropping(1), shape)
        case(f"up_sampling{axes}d", getattr(layers, f"UpSampling{axes}D")(2), shape)


def convolution_cases(case, sequence, even, image, volume):
    case("conv2d", layers.Conv2D(3, 3, activation="relu"), even)
    case("conv2d_same_strided", layers.Conv2D(3, (3, 2), strides=2, padding="same"), image)
    case("conv1d", layers.Conv1D(3, 3, activation="relu"), sequence)
    case("conv1d_same_strided", layers.Conv1D(3, 4, strides=2, padding="same"), sequence)
    case("conv1d_causal", layers.Conv1D(3, 3, padding="causal", dilation_rate=2), sequence)
    case("conv1d_causal_strided", layers.Conv1D(3, 3, strides=2, padding="causal"), sequence)
    case("conv1d_groups", layers.Conv1D(6, 3, groups=2, activation="tanh"), sequence)
    case("conv1d_first", layers.Conv1D(3, 3, data_format="channels_first"), (4, 9))
    case("conv2d_dilated", layers.Conv2D(3, 3, dilation_rate=(1, 2), padding="same"), image)
    case("conv2d_dilated_valid", layers.Conv2D(5, (3, 2), dilation_rate=2), image)
    case("conv2d_groups", layers.Conv2D(6, 3, groups=3, activation="relu"), image)
    case("conv2d_groups_dilated",
         layers.Conv2D(6, 2, groups=3, dilation_rate=3, padding="same", use_bias=False), image)
    case("conv2d_first",
         layers.Conv2D(4, 3, strides=2, data_format="channels_first", activation="softmax"),
         (3, 7, 6))
    case("conv3d", layers.Conv3D(3, 2, activation="relu"), volume)
    case("conv3d_same_strided", layers.Conv3D(3, (3, 2, 1), strides=2, padding="same"), volume)
    case("conv3d_groups", layers.Conv3D(4, 2, groups=2, dilation_rate=(2, 1, 1)), volume)
    case("conv3d_first", layers.Conv3D(2, 2, data_format="channels_first"), (2, 4, 3, 3))
    for padding in ("valid", "same"):
        for kernel, strides in ((3, 1), (3, 2), (2, 3), (5, 2), (4, 2)):
            case(f"conv1d_transpose_{padding}_{kernel}_{strides}",
                 layers.Conv1DTranspose(3, kernel, strides=strides, padding=padding), sequence)
        case(f"conv1d_transpose_{padding}_output_padding",
             layers.Conv1DTranspose(3, 4, strides=3, padding=padding, output_padding=1), sequence)
        case(f"conv2d_transpose_{padding}_output_padding",
             layers.Conv2DTranspose(2, 3, strides=2, padding=padding, output_padding=(1, 0)),
             image)
        case(f"conv2d_transpose_{padding}_dilated",
             layers.Conv2DTranspose(2, (3, 2), padding=padding, dilation_rate=2,
                                    activation="relu"), image)
    case("conv2d_transpose",
         layers.Conv2DTranspose(2, 3, strides=(2, 1), activation="relu", use_bias=False), image)
    case("conv2d_transpose_first",
         layers.Conv2DTranspose(2, 3, strides=2, data_format="channels_first"), (3, 4, 5))
    for axes, shape in ((1, sequence), (2, image)):
        depthwise = getattr(layers, f"DepthwiseConv{axes}D")
        separable = getattr(layers, f"SeparableConv{axes}D")
        case(f"depthwise_conv{axes}d", depthwise(3, activation="relu"), shape)
        case(f"depthwise_conv{axes}d_multiplier",
             depthwise(3, strides=2, padding="same", depth_multiplier=2), shape)
        case(f"depthwise_conv{axes}d_dilated", depthwise(2, dilation_rate=2, use_bias=False), shape)
        case(f"separable_conv{axes}d", separable(5, 3, depth_multiplier=2, activation="relu"),
             shape)
        case(f"separable_conv{axes}d_same", separable(3, 3, strides=2, padding="same"), shape)
    for padding in ("valid", "same"):
        case(f"conv3d_transpose_{padding}",
             layers.Conv3DTranspose(2, (2, 3, 2), strides=(2, 1, 3), padding=padding), volume)
    case("conv3d_transpose_dilated",
         layers.Conv3DTranspose(3, 2, dilation_rate=2, activation="relu", use_bias=False), volume)
    case("conv3d_transpose_output_padding",
         layers.Conv3DTranspose(2, 3, strides=2, output_padding=1), volume)
    case("depthwise_conv2d_first",
         layers.DepthwiseConv2D(3, depth_multiplier=2, data_format="channels_first"), (3, 5, 4))


def normalization_cases(case, sequence, image, row):
    case("group_normalization", layers.GroupNormalization(2), sequence)
    case("group_normalization_first", layers.GroupNormalization(3, axis=1, epsilon=0.1), (6, 5, 3))
    case("group_normalization_each", layers.GroupNormalization(-1, scale=False), image)
    case("group_normalization_rows", layers.GroupNormalization(3, center=False), row)
    case("unit_normalization", layers.UnitNormalization(), sequence)
    case("unit_normalization_axes", layers.UnitNormalization(axis=(1, 3)), image)
    case("normalization", layers.Normalization(), image)
    case("normalization_axes", layers.Normalization(axis=(1, 2)), image)
    case("normalization_whole", layers.Normalization(axis=None), row)
    case("normalization_given",
         layers.Normalization(mean=[0.5, -1.0, 0.25], variance=[4.0, 1.0, 0.5]), image)
    case("normalization_inverted", layers.Normalization(mean=0.5, variance=4.0, invert=True), row)


def einsum_cases(case, sequence, image):
    dense = layers.EinsumDense
    case("einsum_dense", dense("ab,bc->ac", 5, bias_axes="c", activation="relu"), (6,))
    case("einsum_dense_sequence", dense("abc,cd->abd", (None, 3), bias_axes="d"), sequence)
    case("einsum_dense_heads", dense("abc,cde->abde", (None, 2, 3), bias_axes="de"), sequence)
    case("einsum_dense_join", dense("abcd,cde->abe", (None, 4), bias_axes="e"), image)
    case("einsum_dense_steps", dense("abc,bd->adc", (5, None), bias_axes="d"), sequence)
    case("einsum_dense_swapped", dense("abc,cd->adb", (2, None)), sequence)
    case("einsum_dense_left", dense("...b,bc->...c", 5, bias_axes="c"), image)
    case("einsum_dense_right", dense("ab...,bc->ac...", 4, bias_axes="c"), image)


def mask_cases(case):
    """Steps of one feature, of which relu makes about half 0."""
    steps = (9, 1)
    masked = (layers.ReLU, layers.Masking)
    pool = layers.GlobalAveragePooling1D
    case("masking", [make() for make in masked], steps)
    case("masking_pooled", [*(make() for make in masked), layers.Dense(3), pool()], steps)
    case("masking_value", [layers.ReLU(max_value=0.3), layers.Masking(0.3), pool(keepdims=True)],
         steps)
    case("masking_dropped", [*(make() for make in masked), layers.Conv1D(2, 1), pool()], steps)
    case("masking_added", [*(make() for make in masked), layers.Dense(1), layers.Add(), pool()],
         steps)
    for axis in (1, 2):
        case(f"masking_concatenated_{axis}",
             [*(make() for make in masked), layers.Concatenate(axis=axis), layers.Dense(2), pool()],
             steps)
    case("embedding_masked",
         [layers.Rescaling(1e6), layers.ReLU(max_value=2), layers.Embedding(3, 4, mask_zero=True),
          layers.TimeDistributed(layers.Dense(3)), pool()], (8,))


def cases():
    """(layer, a chain of them or an operation, shapes of inputs, training) by name."""
    image, odd, sequence, volume, row = (6, 6, 4), (7, 5, 3), (9, 4), (4, 5, 3, 2), (6,)
    found = {}

    def case(name, layer, *shapes, training=False):
        assert name not in found, name
        found[name] = (layer, shapes, training)

    case("dense", layers.Dense(3), row)
    case("dense_no_bias_tanh", layers.Dense(3, activation="tanh", use_bias=False), row)
    case("dense_of_sequence", layers.Dense(3, activation="relu"), sequence)
    convolution_cases(case, sequence, image, odd, volume)
    case("flatten", layers.Flatten(), image)
    case("flatten_first", layers.Flatten(data_format="channels_first"), image)
    case("reshape", layers.Reshape((-1, 8)), image)
    case("permute", layers.Permute((3, 1, 2)), odd)
    case("repeat_vector", layers.RepeatVector(3), row)
    case("identity", layers.Identity(), row)
    spatial_cases(case, sequence, odd, volume)
    case("average_pooling2d_first", layers.AveragePooling2D(2, data_format="channels_first"),
         (3, 6, 5))
    case("up_sampling2d_bilinear", layers.UpSampling2D((2, 3), interpolation="bilinear"), odd)
    case("resizing", layers.Resizing(5, 9), odd)
    case("resizing_nearest", layers.Resizing(5, 9, interpolation="nearest"), odd)
    case("center_crop", layers.CenterCrop(3, 4), odd)
    case("rescaling", layers.Rescaling(0.25, offset=-1.5), row)
    for name in ("Add", "Multiply", "Average", "Maximum", "Minimum"):
        case(name.lower(), getattr(layers, name)(), image, image, image)
    case("add_broadcast", layers.Add(), image, (1, 1, 4))
    case("subtract", layers.Subtract(), row, row)
    case("concatenate", layers.Concatenate(), image, (6, 6, 2))
    case("concatenate_axis", layers.Concatenate(axis=1), image, (2, 6, 4))
    for name in ("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu",
                 "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu",
                 "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softmax", "softplus",
                 "softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh", "tanh_shrink",
                 "glu"):
        case(f"activation_{name}", layers.Activation(name), (5, 6))
    case("softmax", layers.Softmax(), row)
    case("softmax_of_sequence", layers.Softmax(), sequence)
    case("relu_layer", layers.ReLU(), row)
    case("relu_layer_clipped", layers.ReLU(max_value=0.5, negative_slope=0.1), row)
    case("leaky_relu", layers.LeakyReLU(negative_slope=0.2), row)
    case("elu", layers.ELU(alpha=0.7), row)
    case("prelu", layers.PReLU(), image)
    case("prelu_shared", layers.PReLU(shared_axes=(1, 2)), image)
    case("batch_normalization", layers.BatchNormalization(), image, training=True)
    case("batch_normalization_rows", layers.BatchNormalization(epsilon=0.01, scale=False), row,
         training=True)
    case("batch_normalization_first", layers.BatchNormalization(axis=1), odd, training=True)
    case("batch_normalization_inference", layers.BatchNormalization(center=False), image)
    case("layer_normalization", layers.LayerNormalization(), image)
    case("layer_normalization_axes", layers.LayerNormalization(axis=(2, 3)), image)
    case("rms_normalization", layers.RMSNormalization(), sequence)
    case("dropout_inference", layers.Dropout(0.5), row)
    normalization_cases(case, sequence, odd, row)
    einsum_cases(case, sequence, odd)
    mask_cases(case)
    other_cases(case, sequence, image, volume)
    operation_cases(case, sequence, odd)
    spectral_cases(case, sequence, image, row)  # new ones last: Keras numbers its layers' names
    return found


def spectral_cases(case, sequence, image, row):
    spectral = layers.SpectralNormalization
    case("spectral_normalization", spectral(layers.Dense(3, activation="tanh")), row, training=True)
    case("spectral_normalization_iterations",
         spectral(layers.Conv2D(4, (3, 2), padding="same"), power_iterations=3), image,
         training=True)
    case("spectral_normalization_einsum",
         spectral(layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de")), sequence,
         training=True)
    case("spectral_normalization_depthwise",
         spectral(layers.DepthwiseConv1D(3, depth_multiplier=2)), sequence, training=True)
    case("spectral_normalization_inference", spectral(layers.Conv1D(2, 3)), sequence)


def other_cases(case, sequence, image, volume):
    row = (6,)
    case("dot", layers.Dot(axes=-1), row, row)
    case("dot_matrices", layers.Dot(axes=(2, 1)), (3, 4), (4, 5))
    case("dot_axes", layers.Dot(axes=(1, 3)), (4, 3), (2, 5, 4))
    case("dot_normalized", layers.Dot(axes=1, normalize=True), (4, 3), (4,))
    case("activity_regularization", layers.ActivityRegularization(l1=0.1), row)
    case("layer_scale", convnext.LayerScale(0.5, 4), image)
    case("stochastic_depth", convnext.StochasticDepth(0.2), image)
    case("custom_scale_layer", inception_resnet_v2.CustomScaleLayer(0.3), image, image)
    distributed = layers.TimeDistributed
    case("time_distributed_dense", distributed(layers.Dense(3, activation="relu")), sequence)
    case("time_distributed_conv2d", distributed(layers.Conv2D(2, 2)), volume)
    case("time_distributed_flatten", distributed(layers.Flatten()), volume)
    case("time_distributed_norm", distributed(layers.LayerNormalization()), sequence)


def operation_cases(case, sequence, image):
    """Each leaves one operation in the graph."""
    numbers = np.array([[[[0.5, -1.0, 2.0]]]])
    for name, operation in {
            "add": lambda x: x + 0.5, "subtract": lambda x: x - 2, "subtract_from": lambda x: 1 - x,
            "multiply": lambda x: x * -3, "divide": lambda x: x / 127.5,
            "negative": lambda x: -x, "square": ops.square,
            "power": lambda x: x ** 2, "absolute": ops.abs, "exp": ops.exp, "tanh": ops.tanh,
            "maximum": lambda x: ops.maximum(x, 0.25), "add_array": lambda x: x + numbers,
            "multiply_array": lambda x: x * numbers[0, 0, 0]}.items():
        case(f"operation_{name}", operation, image)
    for name, index in {
            "channel": np.s_[..., 0], "backwards": np.s_[..., ::-1], "step": np.s_[:, 2],
            "last": np.s_[:, -1], "slices": np.s_[:, 1:-1, ::2],
            "mixed": np.s_[:, 1:4, ..., 0]}.items():
        case(f"operation_item_{name}", lambda x, index=index: x[index], image)
    case("operation_add_tensors", lambda x, y: x + y, image, (7, 1, 3))
    case("operation_minimum", ops.minimum, image, image)
    case("operation_stack", lambda x, y: ops.stack([x, y], axis=-1), sequence, sequence)
    case("operation_stack_first", lambda x, y: ops.stack([x, y], axis=1), sequence, sequence)
    case("operation_concatenate", lambda x, y: ops.concatenate([x, y], axis=1), sequence, (2, 4))
    case("operation_mean", lambda x: ops.mean(x, axis=[1, 2]), image)
    case("operation_sum", lambda x: ops.sum(x, axis=-1, keepdims=True), image)
    case("operation_max", lambda x: ops.max(x, axis=1), image)
    case("operation_reshape", lambda x: ops.reshape(x, (-1, 15, 7)), image)
    case("operation_transpose", lambda x: ops.transpose(x, (0, 3, 1, 2)), image)
    case("operation_expand_dims", lambda x: ops.expand_dims(x, 1), image)
    case("operation_squeeze", lambda x: ops.squeeze(x, 2), (4, 1))
    for kind in ("float32", "int32", "bool"):
        case(f"operation_cast_{kind}", lambda x, kind=kind: ops.cast(x, kind), image)


def rounded(array):
    return [float(f"{value:.{DIGITS}g}") for value in np.asarray(array, np.float64).ravel()]


def config_of(layer):
    """As a user's model has it: in float32."""
    return json.loads(json.dumps(layer.get_config()).replace("float64", "float32"))


def operation_of(model):
    """The one operation of a model, its operands with null for each tensor."""
    node = json.loads(model.to_json())["config"]["layers"][-1]
    assert node["module"].startswith("keras.src.ops."), node["module"]
    config = {key: value for key, value in node["config"].items() if key != "name"}
    arguments = node["inbound_nodes"][0]["args"]
    operands = [None if isinstance(argument, dict) and argument["class_name"] == "__keras_tensor__"
                else argument for argument in arguments]
    made = {"class_name": f"keras.ops.{node['class_name']}", "config": config}
    return made if isinstance(arguments[0], list) else {**made, "operands": operands}


def layers_of(model, chain):
    if not isinstance(chain[0], layers.Layer):
        return [operation_of(model)]
    return [{"class_name": type(link).__name__, "config": config_of(link)} for link in chain]


def call_chain(chain, inputs):
    """The last result; all but the first layer of a chain take the one before."""
    if not isinstance(chain[0], layers.Layer):
        return chain[0](*inputs)
    results = [inputs if len(inputs) > 1 else inputs[0]]
    for layer in chain:
        merges = len(chain) > 1 and isinstance(layer, (layers.Add, layers.Concatenate))
        results.append(layer(results[-1:-3:-1] if merges else results[-1]))
    return results[-1]


def golden(layer, shapes, training):
    inputs = [keras.Input(shape) for shape in shapes]
    chain = layer if isinstance(layer, list) else [layer]
    model = keras.Model(inputs, call_chain(chain, inputs))
    trained = []
    for number, weight in enumerate(model.weights):
        value = made_up(500 + number, tuple(weight.shape))
        # Variances are positive, the others go both ways.
        weight.assign(value + 0.5 if "variance" in weight.path else 2 * value - 1)
        if weight.name == "count":
            weight.assign(0)
        trained.append(weight.trainable)
    for link in chain:
        if isinstance(link, layers.Normalization):
            link.finalize_state()  # it reads its weights here
    x = [2 * made_up(1000 + number, (ROWS, *shape)) - 1
         for number, shape in enumerate(shapes)]
    still = [weight.value for weight in model.non_trainable_variables]

    def outputs(weights, values):
        return model.stateless_call(weights, still, values, training=training)

    weights = [weight.value for weight in model.trainable_variables]
    y, moved = outputs(weights, x)
    c = made_up(2000, y.shape) - 0.5
    of_weights, of_inputs = jax.grad(
        lambda w, v: (outputs(w, v)[0] * c).sum(), argnums=(0, 1))(weights, x)
    gradients = iter(of_weights)
    averages = iter(moved)
    # A table has no gradient for the whole numbers that it is asked for.
    reads_numbers = any(isinstance(link, layers.Embedding) for link in chain)
    return {
        "layers": layers_of(model, chain),
        "training": training,
        "input_shapes": [list(shape) for shape in shapes],
        "output_shape": list(y.shape[1:]),
        "y": rounded(y),
        "input_gradients": [] if reads_numbers else
                           [rounded(gradient.sum(0)) for gradient in of_inputs],
        # In get_weights() order: a trained one's gradient, else its new value.
        "weights": [
            {"name": weight.name, "shape": list(weight.shape), "trained": is_trained,
             "result": rounded(next(gradients) if is_trained else next(averages))}
            for weight, is_trained in zip(model.weights, trained)],
    }


def golden_file():
    keras.config.set_floatx("float64")
    made = {name: golden(*case) for name, case in cases().items()}
    return {"rows": ROWS, "keras": keras.__version__, "cases": made}


if __name__ == "__main__":
    sys.exit(write_or_check(FILE, golden_file))
