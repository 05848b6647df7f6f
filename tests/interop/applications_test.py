"""The models of keras.applications as Keras saves them: lockstep predicts as Keras, writes files
that Keras loads, and takes the training step that Keras takes.

One model of each family, the deep ones cut short, and the training step of some of them;
`./dev test --all` takes every architecture as it is. Weights are random: none are downloaded. Needs
Keras from PyPI, which `./dev test` installs into build/venv-interop; skipped without it.
"""
import unittest

import runs
from real_keras import ALL, MISSING, digest, keras, layers, main, np, zeros_for_weights
from runs import run

CLASSES = 10
LABELS = [3, 7]  # of the rows
ROWS = len(LABELS)
TOLERANCE = 1e-4  # of the largest output
TRAINING_TOLERANCE = 1e-3  # of the loss, and of the norm of the whole gradient
# Of the norm of each weight's gradient: a ReLU whose input is next to 0 may tip in one of the two,
# which a single weight feels more (seen: 1.07e-3, by one channel in front of it).
WEIGHT_TOLERANCE = 1e-2
# One step of this size leaves of each weight next to nothing but its gradient.
LEARNING_RATE = 2.0 ** 20
# Of kernels. Through a hundred layers values die away, and outputs are those of the biases alone,
# or they grow, and with them what rounding leaves.
GAINS = (1, 0.96, 1.04, 0.92, 1.08, 0.88, 1.12, 0.84, 1.16, 0.8, 1.2)
LEAST_SIDES = {"Inception": 75, "Xception": 71}  # of an image, where it is not 32
OPTIONS = {"MobileNet": {"alpha": 0.25}, "MobileNetV2": {"alpha": 0.35},
           "MobileNetV3Small": {"alpha": 0.75}}
# One of each family, and the layer behind which the deep ones only repeat what came before.
FAMILIES = {
    "ConvNeXtTiny": "convnext_tiny_stage_1_block_0_identity",
    "DenseNet121": "conv3_block2_concat",
    "EfficientNetB0": "block3b_add",
    "EfficientNetV2B0": "block4b_add",
    "InceptionResNetV2": "block35_2_ac",
    "InceptionV3": "mixed4",
    "MobileNet": None,
    "MobileNetV2": None,
    "MobileNetV3Small": None,
    "NASNetMobile": "normal_concat_0",
    "ResNet50": "conv3_block1_out",
    "ResNet50V2": "conv3_block1_out",
    "VGG16": None,
    "Xception": "block4_sepconv1_bn",
}

# Those that are trained too, of different layers each: Keras takes long to compile gradients.
TRAINED = {"ConvNeXtTiny", "EfficientNetB0", "MobileNetV3Small", "NASNetMobile", "ResNet50"}


def models():
    """{name: the layer to cut it behind, or None}."""
    if not ALL:
        return FAMILIES
    return {name: None for name in dir(keras.applications) if name[0].isupper()}


def make(name, cut=None, **options):
    side = next((side for start, side in LEAST_SIDES.items() if name.startswith(start)), 32)
    options = {"input_shape": (side, side, 3), "classes": CLASSES, "classifier_activation": None,
               **OPTIONS.get(name, {}), **options}
    with zeros_for_weights():
        model = getattr(keras.applications, name)(weights=None, **options)
        if cut is None:
            return model
        x = layers.GlobalAveragePooling2D()(model.get_layer(cut).output)
        return keras.Model(model.input, layers.Dense(CLASSES)(x))


def fill(model, rng, x):
    """Weights with which both rows of x count, and what is next to nothing of them does not, and
    outputs about 1. What Keras predicts of them."""
    kernels = draw(model, rng)
    for before, gain in zip((1, *GAINS), GAINS):
        for kernel in kernels:
            kernel.assign(kernel * np.float32(gain / before))
        size = model.predict(x, verbose=0, batch_size=ROWS).std()
        for weight in model.trainable_weights[-2:]:  # what puts out
            weight.assign(weight / size)
        outputs, others = (model.predict(x * np.float32(factor), verbose=0, batch_size=ROWS)
                           for factor in (1, 1 + 1e-6))
        largest = np.abs(outputs).max()
        rows_differ = np.abs(outputs[0] - outputs[1]).max() > 30 * TOLERANCE * largest
        if rows_differ and np.abs(outputs - others).max() < TOLERANCE / 10 * largest:
            return outputs
    raise AssertionError(f"{model.name}: no weights whose outputs can be compared")


def draw(model, rng):
    """Weights that keep values at about one size through some layers; the kernels among them."""
    kernels = []
    for weight in model.weights:
        shape = tuple(weight.shape)
        if not np.issubdtype(np.dtype(weight.dtype), np.floating):
            continue
        value = rng.standard_normal(shape, dtype="float32") * np.float32(0.1)
        if "variance" in weight.path:
            value = 1 + np.abs(value)
        elif "gamma" in weight.path:
            value = 1 + value
        elif len(shape) > 1:
            is_depthwise = len(shape) == 4 and shape[-1] == 1
            fan_in = np.prod(shape[:2] if is_depthwise else shape[:-1])
            value *= np.float32(10 * (2 / fan_in) ** 0.5)
            kernels.append(weight)
        weight.assign(value)
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()  # it computes with copies of its weights
    return kernels


def freeze(model):
    """What training would measure of a batch, and what it would leave to chance."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
        if hasattr(layer, "rate"):
            layer.rate = 0


@unittest.skipIf(keras is None, MISSING)
class ApplicationsTest(runs.RunTest):
    def setUp(self):
        super().setUp()
        self.path, self.data = self.folder / "model.keras", self.folder / "data.npz"

    def check(self, model, shape, trained):
        rng = np.random.default_rng(5)
        x = rng.random((ROWS, *shape), dtype="float32") * 255
        x[1] *= 0.25
        np.savez(self.data, x=x, y=LABELS)
        theirs = fill(model, rng, x)
        model.save(self.path)
        self.check_predictions(theirs)
        self.check_written(model)
        if trained:
            freeze(model)
            self.check_training(model, x)
        keras.backend.clear_session()

    def check_predictions(self, theirs):
        output = self.folder / "predictions.npy"
        done = run("predict", "--model", self.path, "--data", self.data, "--output", output)
        self.assertEqual(done.returncode, 0, done.stderr)
        ours = np.load(output)
        self.assertEqual(ours.shape, theirs.shape)
        self.assertLessEqual(np.abs(ours - theirs).max(), TOLERANCE * np.abs(theirs).max())

    def check_written(self, model):
        written = self.folder / "written.keras"
        rows = ",".join(str(size) for size in np.load(self.data)["x"].shape[1:])
        done = run("convert", self.path, written, "--rows", rows)
        self.assertEqual(done.returncode, 0, done.stderr)
        before = digest(model)
        for weight in model.weights:
            weight.assign(np.zeros(weight.shape, weight.dtype))
        model.load_weights(written)
        self.assertEqual(digest(model), before)

    def check_training(self, model, x):
        """The loss, and the gradients: what a step takes off the weights."""
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(LEARNING_RATE), loss)
        model.save(self.path)
        before = [np.asarray(weight) for weight in model.trainable_weights]
        loss = float(model.train_on_batch(x, np.asarray(LABELS)))
        theirs = [np.asarray(weight) for weight in model.trainable_weights]
        sha256, output = self.train("--model", self.path, "--data", self.data, "--epochs", 1,
                                    "--batch-size", ROWS, "--partitions", 1)
        model.load_weights(output / "model.keras")
        self.assertEqual(digest(model), sha256)
        self.assertLessEqual(abs(self.report(output)["history"]["loss"][0] - loss),
                             TRAINING_TOLERANCE * loss)
        sizes, differences = [], []
        for weight, old, other in zip(model.trainable_weights, before, theirs, strict=True):
            sizes.append(np.linalg.norm(other - old))
            differences.append(np.linalg.norm(np.asarray(weight) - other))
            self.assertGreater(sizes[-1], 0, weight.path)
            self.assertLessEqual(differences[-1], WEIGHT_TOLERANCE * sizes[-1], weight.path)
        self.assertLessEqual(np.linalg.norm(differences),
                             TRAINING_TOLERANCE * np.linalg.norm(sizes))

    def test_predict_train_and_are_written_as_in_keras(self):
        for name, cut in models().items():
            with self.subTest(model=name):
                model = make(name, cut)
                self.check(model, model.input_shape[1:], ALL or name in TRAINED)

    def test_open_sizes_are_those_of_the_data(self):
        model = make("MobileNet", input_shape=(None, None, 3), include_top=False, pooling="avg")
        self.check(model, (40, 56, 3), True)


if __name__ == "__main__":
    main()
