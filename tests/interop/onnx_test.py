"""Models as ONNX files: onnxruntime on one side, lockstep and real Keras on the other.

Needs onnxruntime and Keras from PyPI, which `./dev test` installs into build/venv-interop; skipped
without them.
"""
import collections
import json
import re
import unittest

import runs
from real_keras import MISSING, keras, layers, main, np, zeros_for_weights
from runs import run

try:
    import onnx
    import onnxruntime
except ImportError:
    onnx = onnxruntime = None
if keras is not None:
    from keras import ops
    from keras.src.applications.convnext import LayerScale, StochasticDepth
    from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

ROWS = 7
TOLERANCE = 1e-5  # of the largest value of an output
FILES = runs.ROOT / "tests" / "keras" / "files"
ACTIVATIONS = ["celu", "elu", "exponential", "gelu", "glu", "hard_shrink", "hard_sigmoid",
               "hard_silu", "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "log_softmax",
               "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softmax",
               "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh",
               "tanh_shrink"]


def outputs_of_images():
    x = keras.Input((9, 8, 4), name="x")
    y = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
    narrow = layers.Conv2D(6, 1)(x)
    first = layers.Permute((3, 1, 2))(y)
    return x, {
        "conv": y,
        "strided": layers.Conv2D(5, (3, 4), strides=(2, 3))(x),
        "same_strided": layers.Conv2D(5, (3, 2), strides=2, padding="same", use_bias=False)(x),
        "dilated": layers.Conv2D(3, 2, dilation_rate=(2, 3), padding="same")(x),
        "grouped": layers.Conv2D(6, 3, groups=2)(x),
        "first_channels": layers.MaxPooling2D(2, data_format="channels_first")(
            layers.Conv2D(5, 2, data_format="channels_first", activation="relu")(first)),
        "depthwise": layers.DepthwiseConv2D(3, depth_multiplier=2, activation="silu")(x),
        "separable": layers.SeparableConv2D(5, 3, padding="same", depth_multiplier=2)(x),
        "transposed": layers.Conv2DTranspose(3, 3, strides=2)(x),
        "transposed_same": layers.Conv2DTranspose(3, (4, 2), strides=(2, 3), padding="same")(x),
        "transposed_padded": layers.Conv2DTranspose(3, 2, strides=3, output_padding=2)(x),
        "normalized": layers.Activation("relu")(layers.BatchNormalization()(y)),
        "normalized_plain": layers.BatchNormalization(center=False, scale=False)(y),
        "normalized_axis": layers.BatchNormalization(axis=1)(first),
        "residual": layers.Add()([layers.BatchNormalization()(y), narrow]),
        "maximum": layers.MaxPooling2D(3, strides=2, padding="same")(y),
        "maximum_rows": layers.MaxPooling2D((2, 1))(x),
        "mean": layers.AveragePooling2D(2)(y),
        "mean_same": layers.AveragePooling2D(3, strides=2, padding="same")(y),
        "global_mean": layers.GlobalAveragePooling2D()(y),
        "global_maximum": layers.GlobalMaxPooling2D(keepdims=True)(x),
        "squeezed": layers.Multiply()([y, layers.Dense(6, "sigmoid")(
            layers.GlobalAveragePooling2D(keepdims=True)(y))]),
        "padded": layers.ZeroPadding2D(((1, 2), (0, 3)))(y),
        "cropped": layers.Cropping2D(((1, 2), (3, 0)))(y),
        "middle": layers.CenterCrop(4, 5)(x),
        "nearest": layers.UpSampling2D((2, 3))(y),
        "bilinear": layers.UpSampling2D(2, interpolation="bilinear")(x),
        "resized": layers.Resizing(5, 11)(x),
        "joined": layers.Conv2D(3, 1)(layers.Concatenate()([y, narrow, y])),
        "joined_rows": layers.Concatenate(axis=1)([y, narrow]),
        "groups": layers.GroupNormalization(2)(layers.LeakyReLU(0.1)(y)),
        "slopes": layers.PReLU(shared_axes=[1, 2])(y),
        "own_slopes": layers.PReLU()(x),
        "clipped": layers.ReLU(max_value=1.5, negative_slope=0.1, threshold=0.2)(x),
        "elu": layers.ELU(0.7)(x),
        "noise": layers.SpatialDropout2D(0.3)(layers.GaussianNoise(0.2)(y)),
        "flat": layers.Dense(3)(layers.Flatten()(y)),
        "convnext": StochasticDepth(0.2)(LayerScale(0.5, 6)(y)),
        "inception": CustomScaleLayer(0.3)([y, narrow]),
        "lines": layers.TimeDistributed(layers.Conv1D(2, 3))(x),
    }


def outputs_of_sequences():
    x = keras.Input((10, 4), name="x")
    y = layers.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="relu")(x)
    return x, {
        "conv": y,
        "strided": layers.Conv1D(5, 4, strides=3, padding="same")(x),
        "point": layers.Conv1D(5, 1, activation="tanh")(x),
        "depthwise": layers.DepthwiseConv1D(3, padding="same")(x),
        "separable": layers.SeparableConv1D(5, 3)(x),
        "transposed": layers.Conv1DTranspose(3, 3, strides=2)(x),
        "maximum": layers.MaxPooling1D(3, strides=2, padding="same")(x),
        "mean": layers.AveragePooling1D(2, padding="same")(y),
        "global_mean": layers.GlobalAveragePooling1D()(x),
        "global_maximum": layers.GlobalMaxPooling1D()(y),
        "padded": layers.ZeroPadding1D((2, 1))(y),
        "cropped": layers.Cropping1D((2, 1))(x),
        "repeated": layers.UpSampling1D(3)(x),
        "normalized": layers.LayerNormalization()(layers.Dropout(0.5)(x)),
        "normalized_twice": layers.LayerNormalization(axis=(1, 2))(x),
        "batch_normalized": layers.BatchNormalization()(y),
        "root": layers.RMSNormalization()(x),
        "unit": layers.UnitNormalization(axis=1)(x),
        "standard": layers.Normalization(mean=[1.0, 2, 3, 4], variance=[0.5, 2, 1, 4])(x),
        "probabilities": layers.Softmax()(x),
        "dense": layers.Dense(5, "relu")(x),
        "each": layers.TimeDistributed(layers.Dense(3, "sigmoid"))(x),
        "spectral": layers.SpectralNormalization(layers.Conv1D(3, 2), power_iterations=2)(y),
        "einsum": layers.EinsumDense("abc,cde->adbe", (2, None, 3), bias_axes="e")(x),
        "dot": layers.Dot(axes=(2, 2))([x, x]),
        "cosine": layers.Dot(axes=(1, 1), normalize=True)([x, x]),
        "turned": layers.Permute((2, 1))(y),
        "masked": layers.GlobalAveragePooling1D()(layers.Masking()(x)),
        "joined_masks": layers.GlobalAveragePooling1D()(
            layers.Concatenate()([layers.Masking()(x), layers.Dense(2)(x)])),
        "noise": layers.SpatialDropout1D(0.3)(x),
        **{name: layers.Activation(name)(x) for name in ACTIVATIONS},
    }


def outputs_of_volumes():
    x = keras.Input((5, 6, 4, 2), name="x")
    return x, {
        "conv": layers.Conv3D(3, 2, strides=(1, 2, 1), padding="same", activation="relu")(x),
        "grouped": layers.Conv3D(4, 2, groups=2)(x),
        "transposed": layers.Conv3DTranspose(3, 2, strides=2)(x),
        "maximum": layers.MaxPooling3D(2, padding="same")(x),
        "mean": layers.AveragePooling3D((2, 3, 2))(x),
        "global_mean": layers.GlobalAveragePooling3D()(x),
        "global_maximum": layers.GlobalMaxPooling3D()(x),
        "padded": layers.ZeroPadding3D((1, 0, 2))(x),
        "cropped": layers.Cropping3D(1)(x),
        "repeated": layers.UpSampling3D((2, 1, 3))(x),
        "noise": layers.SpatialDropout3D(0.3)(x),
        "normalized": layers.BatchNormalization()(x),
    }


def outputs_of_vectors():
    """Two inputs, and arithmetic on tensors."""
    x = keras.Input((6,), name="x")
    z = keras.Input((6,), name="z")
    table = layers.Reshape((2, 3))(x)
    column = layers.Reshape((2, 1))(layers.Dense(2)(z))
    return [x, z], {
        "dense": layers.Dense(4, "softmax")(x),
        "plain": layers.Dense(4, use_bias=False)(z),
        "normalized": layers.BatchNormalization()(layers.Dense(5, "relu")(x)),
        "add": layers.Add()([x, z, x]),
        "stretched": layers.Multiply()([table, column]),
        "subtract": layers.Subtract()([x, z]),
        "multiply": layers.Multiply()([x, z]),
        "average": layers.Average()([x, z]),
        "maximum": layers.Maximum()([x, z]),
        "minimum": layers.Minimum()([x, z]),
        "joined": layers.Concatenate()([x, z, x]),
        "repeated": layers.RepeatVector(3)(x),
        "repeated_twice": layers.Add()([layers.RepeatVector(3)(x), layers.RepeatVector(3)(z)]),
        "noise": layers.AlphaDropout(0.2)(layers.GaussianDropout(0.2)(x)),
        "same": layers.Identity()(layers.ActivityRegularization(0.1)(x)),
        "scaled": layers.Rescaling(2.0, 1.0)(x),
        "input": x,
        "arithmetic": 2 * x - z / 3 + 1,
        "constants": table * np.array([[1.0, 2, 3]], "float32") - np.ones((2, 1), "float32"),
        "powers": ops.sqrt(ops.absolute(x)) + ops.square(z) ** 2 + ops.exp(-x),
        "logs": ops.log(ops.absolute(x) + 1) + ops.tanh(z),
        "larger": ops.maximum(x, z) - ops.minimum(x, 0.5) + ops.negative(z) + ops.add(x, z),
        "divided": ops.divide(x, 3.0) + ops.true_divide(z, 2.0) + ops.subtract(x, z),
        "sums": ops.sum(table, axis=1) + ops.mean(table, axis=1) + ops.max(table, axis=1),
        "product": ops.multiply(x, z) + ops.power(ops.absolute(x), 1.5),
        "items": table[:, 1, ::-1],
        "stacked": ops.stack([x, z], axis=1),
        "ends": ops.concatenate([x[:, 1:3], z[:, -2:]], axis=-1),
        "transposed": ops.transpose(table, (0, 2, 1)),
        "other_axes": ops.squeeze(ops.expand_dims(ops.reshape(x, (-1, 3, 2)), 1), 1),
        "filled": ops.concatenate([ops.ones_like(x), z, ops.zeros_like(x)], axis=1),
        "ones": ops.ones_like(x),
        "casts": ops.cast(ops.cast(3 * x, "int32"), "float32") - ops.cast(
            ops.cast(ops.cast(z, "int64"), "bool"), "float32"),
    }


def outputs_of_words():
    x = keras.Input((5,), name="x")
    words = layers.Embedding(9, 4, mask_zero=True)(x)
    return x, {"embedded": layers.Embedding(9, 3)(x),
               "mean": layers.GlobalAveragePooling1D()(words),
               "softmax": layers.Dense(2, "softmax")(layers.Flatten()(words))}


MODELS = [outputs_of_images, outputs_of_sequences, outputs_of_volumes, outputs_of_vectors,
          outputs_of_words]


def classes_of(config):
    """The names of all layers' classes."""
    found = set()
    for layer in config["layers"]:
        is_operation = layer["module"].startswith("keras.src.ops")
        found.add(("keras.ops." if is_operation else "") + layer["class_name"])
        if "layer" in layer["config"]:
            found.add(layer["config"]["layer"]["class_name"])
    return found


@unittest.skipIf(onnx is None, "onnxruntime is not here: PyPI could not be reached")
@unittest.skipIf(keras is None, MISSING)
class OnnxTest(runs.RunTest):
    def setUp(self):
        super().setUp()
        keras.utils.set_random_seed(11)
        self.rng = np.random.default_rng(2)
        self.path = self.folder / "model.onnx"

    def convert(self, model, *options):
        done = run("convert", model, self.path, *options)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("it cannot hold", done.stdout)
        onnx.checker.check_model(str(self.path), full_check=True)
        return onnxruntime.InferenceSession(self.path, providers=["CPUExecutionProvider"])

    def inputs_like(self, session):
        rows = [(port.name, [ROWS, *port.shape[1:]]) for port in session.get_inputs()]
        return {name: self.rng.normal(size=shape).astype("float32") for name, shape in rows}

    def predict(self, model, inputs):
        """What lockstep puts out, by output."""
        data, output = self.folder / "data.npz", self.folder / "predicted.npz"
        np.savez(data, **inputs)
        done = run("predict", "--model", model, "--data", data, "--output", output)
        self.assertEqual(done.returncode, 0, done.stderr)
        with np.load(output) as arrays:
            return dict(arrays)

    def assert_near(self, ours, theirs):
        self.assertEqual(ours.shape, theirs.shape)
        largest = max(np.abs(theirs).max(), 1)
        self.assertLessEqual(np.abs(ours - theirs).max(), TOLERANCE * largest)

    def check(self, session, inputs, expected):
        """onnxruntime's outputs, of all rows at once and of one alone."""
        names = [port.name for port in session.get_outputs()]
        outputs = dict(zip(names, session.run(None, inputs)))
        alone = session.run(None, {name: rows[2:3] for name, rows in inputs.items()})
        self.assertEqual(set(names), set(expected))
        for name, row in zip(names, alone):
            with self.subTest(output=name):
                self.assert_near(outputs[name], expected[name])
                self.assert_near(row, expected[name][2:3])

    def test_each_layer(self):
        """Every layer of docs/layers.md, with lockstep and with Keras."""
        used = set()
        for make in MODELS:
            with self.subTest(model=make.__name__):
                with zeros_for_weights():
                    inputs, outputs = make()
                # A name of its own for each output: that of the layer that it comes from.
                outputs = [layers.Identity(name=f"y_{name}")(y) for name, y in outputs.items()]
                model = keras.Model(inputs, outputs)
                used |= classes_of(model.get_config())
                for weight in model.weights:
                    value = self.rng.normal(size=weight.shape) * 0.4
                    positive = "variance" in weight.path
                    weight.assign(np.abs(value) + 0.5 if positive else value)
                path = self.folder / "model.keras"
                model.save(path)
                session = self.convert(path)
                x = self.inputs_like(session)
                if make is outputs_of_words:
                    x["x"] = self.rng.integers(0, 9, size=(ROWS, 5)).astype("float32")
                if make is outputs_of_sequences:
                    x["x"][::2, 6:] = 0  # steps that count not
                self.check(session, x, self.predict(path, x))
                theirs = model.predict(x if len(x) > 1 else x["x"], verbose=0, batch_size=ROWS)
                self.assertEqual(len(theirs), len(outputs))
                self.check(session, x, {y.name: np.asarray(value) for y, value in
                                        zip(session.get_outputs(), theirs)})
        page = (runs.ROOT / "docs" / "layers.md").read_text("utf-8")
        self.assertEqual(set(re.findall("^## (.*)$", page, re.M)) - used, set())

    def test_models_by_name(self):
        for name in ("seed-cnn", "mlp", "lenet", "resnet20"):
            with self.subTest(model=name):
                _, output = self.train("--model", name, "--data", "digits:64", "--epochs", 1,
                                       "--batch-size", 32)
                session = self.convert(output)
                x = {"x": self.rng.random((ROWS, 28, 28, 1), dtype="float32")}
                expected = self.predict(output, x)
                self.check(session, {session.get_inputs()[0].name: x["x"]}, expected)

    def test_files_of_several_versions(self):
        expected = json.loads((FILES / "expected.json").read_text("utf-8"))
        for name, shape in (("small.keras", [6, 6, 1]), ("small.h5", [6, 6, 1]),
                            ("keras_2.h5", [6, 6, 1]), ("branches.keras", [6, 6, 1]),
                            ("branches.h5", [6, 6, 1]), ("pair.keras", None)):
            with self.subTest(file=name):
                model = expected["small" if name == "keras_2.h5" else name.split(".")[0]]
                rows = ["--rows", "6,6,1"] if name.startswith("branches") else []
                session = self.convert(FILES / name, *rows)
                x = {}
                for port, values in zip(session.get_inputs(), model["inputs"]):
                    array = np.array(values, "float32")
                    x[port.name] = array.reshape(-1, *shape) if shape else array
                output = session.get_outputs()[0]
                self.check(session, x, {output.name: np.array(model["outputs"], "float32")})

    def test_images_stay_as_onnx_has_them(self):
        """Channels first from the first convolution on, and operators that runtimes know."""
        model = keras.Sequential([
            keras.Input((12, 12, 3)), layers.Conv2D(4, 3, use_bias=False, name="first"),
            layers.BatchNormalization(), layers.Activation("relu"), layers.MaxPooling2D(2),
            layers.ZeroPadding2D(1), layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(), layers.Dense(2, activation="softmax")])
        model.save(self.folder / "model.keras")
        self.convert(self.folder / "model.keras")
        graph = onnx.load(self.path).graph
        types = collections.Counter(node.op_type for node in graph.node)
        self.assertEqual(types, {"Transpose": 1, "Conv": 2, "BatchNormalization": 1, "Relu": 2,
                                 "MaxPool": 1, "Pad": 1, "ReduceSum": 1, "Div": 1, "Gemm": 1,
                                 "Softmax": 1})
        shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        self.assertEqual(shapes["first/kernel"], [4, 3, 3, 3])

    def test_names_and_what_is_told(self):
        x = keras.Input((3,), name="left")
        z = keras.Input((2,), name="right")
        y = layers.Dense(2, name="kind")(layers.Concatenate()([x, z]))
        model = keras.Model([x, z], [y, layers.Dense(1, name="size")(y)])
        model.compile("adam", "mse")
        model.save(self.folder / "model.keras")
        done = run("convert", self.folder / "model.keras", self.path)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("optimizer's state", done.stdout.splitlines()[1])
        loaded = onnx.load(self.path)
        self.assertGreaterEqual(loaded.opset_import[0].version, 17)
        for ports, names in ((loaded.graph.input, ["left", "right"]),
                             (loaded.graph.output, ["kind", "size"])):
            self.assertEqual([port.name for port in ports], names)
            batch = ports[0].type.tensor_type.shape.dim[0]
            self.assertEqual(batch.dim_param, "batch")
        done = run("convert", self.folder / "model.keras", self.folder / "model.onyx")
        self.assert_fails(done, 2, ".onnx")


if __name__ == "__main__":
    main()
