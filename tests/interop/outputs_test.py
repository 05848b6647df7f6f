"""Models with several outputs: real Keras on one side, lockstep on the other.

Needs Keras from PyPI, which `./dev test` installs: the newest, and as LOCKSTEP_TEST_KERAS says an
older one (support/real_keras.py). Skipped without it.
"""
import os
import unittest

import runs
from real_keras import MISSING, before, digest, keras, layers, lockstep, main, np
from runs import run

ROWS = 96
CLASSES = 4
# As fit() names them in Keras' History.
NAMES = ["kind_accuracy", "kind_loss", "kind_top2", "kind_weighted_accuracy", "loss", "size_loss",
         "size_mae", "size_off"]
# What Keras 3.3 does not tell.
LOSSES = {f"{prefix}{name}_loss" for prefix in ("", "val_") for name in ("kind", "size")}


def model(as_dictionary=False):
    """A class and two numbers of each row."""
    keras.utils.set_random_seed(7)
    x = keras.Input((6,), name="x")
    shared = layers.Dense(8, activation="tanh")(x)
    kind = layers.Dense(CLASSES, activation="softmax", name="kind")(shared)
    size = layers.Dense(2, name="size")(layers.Concatenate()([shared, x]))
    outputs = {"size": size, "kind": kind} if as_dictionary else [size, kind]
    made = keras.Model(x, outputs)
    made.compile(keras.optimizers.SGD(0.1, momentum=0.9),
                 loss={"size": keras.losses.LogCosh(),
                       "kind": keras.losses.sparse_categorical_crossentropy},
                 loss_weights={"size": 0.3, "kind": 2.0},
                 metrics={"size": ["mae", keras.metrics.RootMeanSquaredError(name="off")],
                          "kind": ["accuracy",
                                   keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")]},
                 weighted_metrics={"kind": ["accuracy"]})
    return made


@unittest.skipIf(keras is None, MISSING)
class OutputsTest(runs.RunTest):
    def setUp(self):
        super().setUp()
        os.environ["LOCKSTEP_BINARY"] = runs.LOCKSTEP
        rng = np.random.default_rng(2)
        self.x = rng.normal(size=(ROWS, 6)).astype("float32")
        self.y = {"size": self.x[:, :2] * self.x[:, 2:4], "kind": self.x[:, :CLASSES].argmax(1)}
        self.data = self.folder / "data.npz"
        np.savez(self.data, x=self.x, **self.y)
        self.path = self.folder / "model.keras"

    def assert_near(self, ours, theirs, tolerance=1e-5):
        self.assertLessEqual(np.abs(np.asarray(ours) - np.asarray(theirs)).max(), tolerance)

    def assert_named_as(self, theirs, ours):
        if before("3.9"):
            self.assertTrue(LOSSES.isdisjoint(theirs))
            ours = set(ours) - LOSSES
        self.assertEqual(sorted(ours), sorted(theirs))

    def test_training_is_keras_and_the_same_on_any_number_of_nodes(self):
        """By the command line; P = 1 has Keras' own numbers."""
        theirs = model()
        theirs.save(self.path)
        options = ["--model", self.path, "--data", self.data, "--epochs", 3, "--batch-size", 16,
                   "--validation-split", 0.25]
        hashes = {self.train(*options, "--nodes", nodes)[0] for nodes in (1, 2, 3)}
        self.assertEqual(len(hashes), 1)
        _, output = self.train(*options, "--no-shuffle", "--partitions", 1)
        ours = self.report(output)["history"]
        history = theirs.fit(self.x, [self.y["size"], self.y["kind"]], batch_size=16, epochs=3,
                             validation_split=0.25, shuffle=False, verbose=0).history
        self.assertEqual(sorted(ours), sorted(NAMES + [f"val_{name}" for name in NAMES]))
        self.assert_named_as(history, ours)
        for name, values in history.items():
            self.assert_near(ours[name], values, 1e-4)
        trained = keras.models.load_model(output / "model.keras")
        for mine, other in zip(trained.get_weights(), theirs.get_weights()):
            self.assert_near(mine, other)
        done = run("evaluate", "--model", output, "--data", self.data)
        expected = theirs.evaluate(self.x, [self.y["size"], self.y["kind"]], verbose=0,
                                   return_dict=True)
        self.assert_named_as(expected, NAMES)
        for name, value in expected.items():
            self.assert_near(float(done.stdout.split(f" {name}: ")[1].split()[0]), value, 2e-4)

    def test_fit_evaluate_and_predict_from_python(self):
        for as_dictionary in (False, True):
            with self.subTest(as_dictionary=as_dictionary):
                ours, theirs = model(as_dictionary), model(as_dictionary)
                y = self.y if as_dictionary else [self.y["size"], self.y["kind"]]
                how = {"batch_size": 32, "shuffle": False, "verbose": 0, "epochs": 2,
                       "sample_weight": np.linspace(0, 2, ROWS)}
                mine = lockstep.fit(ours, self.x, y, partitions=1, nodes=2, **how)
                history = theirs.fit(self.x, y, **how)
                self.assert_named_as(history.history, mine.history)
                for name, values in history.history.items():
                    self.assert_near(mine.history[name], values)
                measured = lockstep.evaluate(ours, self.x, y, verbose=0, return_dict=True)
                expected = theirs.evaluate(self.x, y, verbose=0, return_dict=True)
                self.assert_named_as(expected, measured)
                self.assert_near([measured[name] for name in expected], list(expected.values()))
                if not as_dictionary and len(measured) == len(expected):
                    self.assert_near(lockstep.evaluate(ours, self.x, y, verbose=0),
                                     theirs.evaluate(self.x, y, verbose=0))
                predicted = lockstep.predict(ours, self.x)
                expected = theirs.predict(self.x, verbose=0)
                self.assertEqual(type(predicted), type(expected))
                for key in expected if as_dictionary else range(2):
                    self.assert_near(predicted[key], expected[key])

    def test_a_run_goes_on_and_an_output_may_have_no_loss(self):
        plain = model()
        plain.compile("adam", loss=[None, "sparse_categorical_crossentropy"])
        plain.save(self.path)
        np.savez(self.data, x=self.x, kind=self.y["kind"])
        options = ["--model", self.path, "--data", self.data, "--batch-size", 16]
        once, output = self.train(*options, "--epochs", 2)
        self.assertEqual(sorted(self.report(output)["history"]), ["loss"])
        _, output = self.train(*options, "--epochs", 1)
        again, _ = self.train("--resume", "--epochs", 2, output=output)
        self.assertEqual(again, once)
        trained = keras.models.load_model(output / "model.keras")
        self.assertEqual(digest(trained), once)

    def test_what_is_wrong_is_said(self):
        model().save(self.path)
        options = ["train", "--model", self.path, "--data", self.data, "--output", self.output()]
        np.savez(self.folder / "one.npz", x=self.x, y=self.y["kind"])
        self.assert_fails(run(*options, "--data", self.folder / "one.npz", "--target", "y"), 2,
                          "1 targets, and 2 outputs", "(size, kind)")
        self.assert_fails(run(*options, "--loss", '{"sise": "mse"}'), 2, "did you mean 'size'?")
        self.assert_fails(run(*options, "--metrics", "mae"), 2, '{"size": ["mae"]}')
        np.savez(self.data, x=self.x, size=self.y["size"], kind=self.y["kind"] + 1)
        self.assert_fails(run(*options), 2, "up to 4", "4 apart in output 'kind'")
        with self.assertRaisesRegex(lockstep.LockstepError, "has 2 outputs"):
            lockstep.fit(model(), self.x, self.y["kind"])


if __name__ == "__main__":
    main()
