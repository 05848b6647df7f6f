"""The models of keras.applications as Keras saves them: lockstep predicts as Keras, and writes
files that Keras loads.

Models of a few families; `./dev test --all` takes a small one of each. Weights are random: none are
downloaded. Needs Keras from PyPI, which
`./dev test` installs into build/venv-interop; skipped without it.
"""
import os
import unittest

# Each model runs once: most of the time would go into compiling it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import runs  # noqa: E402
from real_keras import MISSING, digest, keras, main, np, zeros_for_weights  # noqa: E402
from runs import run  # noqa: E402

ROWS = 2
TOLERANCE = 1e-4  # of the largest output
LEAST_SIDES = {"Inception": 75, "Xception": 71}  # of an image, where it is not 32
MODELS = {
    "MobileNet": {"alpha": 0.25},
    "MobileNetV2": {"alpha": 0.35},
    "MobileNetV3Small": {"alpha": 0.75},
    "ResNet50V2": {},
}
if os.environ.get("LOCKSTEP_TEST_ALL"):
    MODELS.update({
        "ConvNeXtTiny": {},
        "DenseNet121": {},
        "EfficientNetV2B0": {},
        "InceptionV3": {},
        "NASNetMobile": {},
        "ResNet50": {},
        "VGG16": {"include_top": False, "pooling": "avg"},
        "Xception": {},
    })


def side_of(name):
    return next((side for start, side in LEAST_SIDES.items() if name.startswith(start)), 32)


def make(name, options):
    side = side_of(name)
    options = {"classes": 10, "classifier_activation": None, **options}
    if not options.get("include_top", True):
        del options["classes"], options["classifier_activation"]
    with zeros_for_weights():
        return getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3),
                                                 **options)


def fill(model, rng):
    """Weights that keep values at about one size through many layers."""
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
        weight.assign(value)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with copies of its weights


@unittest.skipIf(keras is None, MISSING)
class ApplicationsTest(runs.RunTest):
    def check(self, name, options):
        rng = np.random.default_rng(5)
        model = make(name, options)
        fill(model, rng)
        path, data = self.folder / "model.keras", self.folder / "data.npz"
        model.save(path)
        x = rng.random((ROWS, *model.input_shape[1:]), dtype="float32") * 255
        np.savez(data, x=x)
        theirs = model.predict(x, verbose=0, batch_size=ROWS)
        output = self.folder / "predictions.npy"
        done = run("predict", "--model", path, "--data", data, "--output", output)
        self.assertEqual(done.returncode, 0, done.stderr)
        ours = np.load(output)
        self.assertEqual(ours.shape, theirs.shape)
        largest = np.abs(theirs).max()
        self.assertGreater(np.abs(theirs[0] - theirs[1]).max(), 10 * TOLERANCE * largest)
        self.assertLessEqual(np.abs(ours - theirs).max(), TOLERANCE * largest)

        written = self.folder / "written.keras"
        done = run("convert", path, written)
        self.assertEqual(done.returncode, 0, done.stderr)
        before = digest(model)
        for weight in model.weights:
            weight.assign(np.zeros(weight.shape, weight.dtype))
        model.load_weights(written)
        self.assertEqual(digest(model), before)

    def test_predict_as_keras_and_are_written(self):
        for name, options in MODELS.items():
            with self.subTest(model=name):
                self.check(name, options)
                keras.backend.clear_session()


if __name__ == "__main__":
    main()
