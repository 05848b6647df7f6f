"""What training minimizes, measures and writes beside, against real Keras: reductions, masks,
weights of single outputs, metrics of counts, ModelCheckpoint's files, TensorBoard's.

Needs Keras from PyPI, which `./dev test` installs into build/venv-interop; skipped without it.
"""
import functools
import json
import os
import unittest

import runs
from real_keras import MISSING, digest, keras, layers, lockstep, losses, main, metrics, np
from runs import run

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.graph.keras_util import keras_model_to_graph_def
except ImportError:
    EventAccumulator = None

ROWS, STEPS, WORDS = 90, 6, 9


def tagger(reduction="sum_over_batch_size", mask=True, counted=True):
    """A class of each word, where there is one. `counted`: with metrics that are made of counts."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((STEPS,)), layers.Embedding(WORDS, 4, mask_zero=mask),
                              layers.Dense(3, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.2, momentum=0.9),
                  losses.CategoricalCrossentropy(reduction=reduction),
                  metrics=["accuracy", metrics.AUC(name="area")],
                  weighted_metrics=["accuracy", metrics.Precision(name="precise") if counted
                                    else "mse"])
    return model


def two_outputs():
    keras.utils.set_random_seed(6)
    x = keras.Input((5,), name="x")
    kind = layers.Dense(4, activation="softmax", name="kind")(x)
    size = layers.Dense(2, name="size")(x)
    model = keras.Model(x, {"size": size, "kind": kind})
    model.compile(keras.optimizers.SGD(0.1),
                  {"size": losses.MeanSquaredError("mean_with_sample_weight"),
                   "kind": losses.CategoricalCrossentropy()},
                  metrics={"size": [metrics.R2Score()],
                           "kind": [metrics.F1Score("macro"),
                                    metrics.AUC(num_thresholds=50, name="area")]},
                  weighted_metrics={"size": ["mae"], "kind": ["accuracy"]})
    return model


@unittest.skipIf(keras is None, MISSING)
class ObjectivesTest(runs.RunTest):
    def setUp(self):
        super().setUp()
        os.environ["LOCKSTEP_BINARY"] = runs.LOCKSTEP
        rng = np.random.default_rng(3)
        self.words = rng.integers(0, WORDS, (ROWS, STEPS))
        self.tags = np.eye(3, dtype="float32")[self.words % 3]
        self.x = rng.normal(size=(ROWS, 5)).astype("float32")
        self.y = {"size": self.x[:, :2] * 2, "kind": np.eye(4)[self.x[:, :4].argmax(1)]}
        self.weights = {"size": np.linspace(0, 2, ROWS), "kind": np.linspace(3, 0.5, ROWS)}
        self.path, self.data = self.folder / "model.keras", self.folder / "data.npz"

    def assert_histories(self, ours, theirs, but=()):
        self.assertEqual(sorted(ours), sorted(theirs))
        for name, values in theirs.items():
            if name in but:
                continue
            self.assertLessEqual(np.abs(np.asarray(ours[name]) - values).max(), 2e-4, name)

    def test_masked_sequences_train_as_in_keras_on_any_number_of_nodes(self):
        rows = np.linspace(0.5, 2, ROWS).astype("float32")
        np.savez(self.data, x=self.words, y=self.tags, sample_weight=rows)
        for reduction in ("sum_over_batch_size", "sum", "mean_with_sample_weight"):
            with self.subTest(reduction=reduction):
                tagger(reduction).save(self.path)
                options = ["--model", self.path, "--data", self.data, "--epochs", 2,
                           "--batch-size", 16, "--validation-split", 0.2]
                hashes = {self.train(*options, "--nodes", nodes)[0] for nodes in (1, 2, 3)}
                self.assertEqual(len(hashes), 1)
                _, output = self.train(*options, "--no-shuffle", "--partitions", 1)
                theirs = tagger(reduction).fit(
                    self.words, self.tags, batch_size=16, epochs=2, validation_split=0.2,
                    shuffle=False, verbose=0, sample_weight=rows[:, None]).history
                # On JAX fit() loses the mask of what metrics are given, but for validation.
                self.assert_histories(self.report(output)["history"], theirs,
                                      but=("accuracy", "weighted_accuracy"))

    def test_steps_have_weights_of_their_own(self):
        """By reduction and with masks they are in tests/golden."""
        steps = np.random.default_rng(8).integers(0, 4, (ROWS, STEPS)).astype("float32") / 2
        how = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0,
               "validation_split": 0.2, "sample_weight": steps}
        ours, theirs = (tagger(mask=False, counted=False) for _ in range(2))
        ours.save(self.path)
        mine = lockstep.fit(ours, self.words, self.tags, partitions=1, nodes=2, **how)
        self.assert_histories(mine.history, theirs.fit(self.words, self.tags, **how).history)
        for left, right in zip(ours.get_weights(), theirs.get_weights()):
            self.assertLessEqual(np.abs(left - right).max(), 1e-5)
        self.assert_histories(*(evaluate(self.words, self.tags, sample_weight=steps, verbose=0,
                                         return_dict=True)
                                for evaluate in (functools.partial(lockstep.evaluate, theirs),
                                                 theirs.evaluate)))
        np.savez(self.data, x=self.words, y=self.tags, sample_weight=steps)
        options = ["--model", self.path, "--data", self.data, "--epochs", 2, "--batch-size", 16,
                   "--validation-split", 0.2]
        hashes = {self.train(*options, "--nodes", nodes)[0] for nodes in (1, 3)}
        self.assertEqual(len(hashes), 1)

    def test_steps_weights_that_cannot_be(self):
        np.savez(self.data, x=self.words, y=self.tags, sample_weight=np.ones((ROWS, STEPS)))

        def refused(model, *words, more=()):
            model.save(self.path)
            self.assert_fails(run("train", "--model", self.path, "--data", self.data, *more,
                                  "--output", self.output()), 2, *words)

        refused(tagger(), "metric 'precise' takes one sample weight a row")
        refused(tagger("mean_with_sample_weight", counted=False), "not supported together")
        refused(tagger(counted=False), f"a row of '{self.data}' has 6 sample weights",
                more=("--class-weight", '{"1": 2}'))
        np.savez(self.data, x=self.words, y=self.tags, sample_weight=np.ones((ROWS, 5)))
        refused(tagger(counted=False), "6 values for each row, and a row has 5 sample weights")

    def test_areas_count_by_the_weights_of_their_labels(self):
        """Keras writes them as a tensor, and cannot read that itself."""
        weights = [1.0, 0.5, 3.0]
        model = tagger(mask=False)
        model.compile("sgd", "categorical_crossentropy", metrics=[
            metrics.AUC(label_weights=weights, name="together")], weighted_metrics=[
                metrics.AUC(label_weights=weights, curve="PR", name="weighed")])
        rows = np.linspace(0.5, 2, ROWS)
        ours = lockstep.evaluate(model, self.words, self.tags, sample_weight=rows, verbose=0,
                                 return_dict=True)
        theirs = model.evaluate(self.words, self.tags, sample_weight=rows[:, None], verbose=0,
                                return_dict=True)
        self.assert_histories(ours, theirs)

    def test_outputs_have_weights_of_their_own(self):
        two_outputs().save(self.path)
        np.savez(self.data, x=self.x, **self.y,
                 **{f"{name}_sample_weight": values for name, values in self.weights.items()})
        options = ["--model", self.path, "--data", self.data, "--epochs", 3, "--batch-size", 16]
        expected, _ = self.train(*options, "--nodes", 1)
        self.assertEqual(self.train(*options, "--nodes", 3)[0], expected)
        how = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0,
               "sample_weight": self.weights}
        ours, theirs = two_outputs(), two_outputs()
        mine = lockstep.fit(ours, self.x, self.y, partitions=1, nodes=2, **how)
        self.assert_histories(mine.history, theirs.fit(self.x, self.y, **how).history)
        for left, right in zip(ours.get_weights(), theirs.get_weights()):
            self.assertLessEqual(np.abs(left - right).max(), 1e-5)
        self.assert_fails(run("train", *options, "--output", self.output(), "--class-weight",
                              '{"1": 2}'), 2, "the classes of a model's only output")
        np.savez(self.data, x=self.x, **self.y, kind_sample_weight=self.weights["kind"])
        self.assert_fails(run("train", *options, "--output", self.output()), 1,
                          "size_sample_weight")

    def test_model_checkpoint_writes_what_keras_would(self):
        np.savez(self.data, x=self.words, y=self.tags)
        tagger().save(self.path)
        names = {"filepath": "all/{epoch:02d}-{loss:.3f}.keras"}
        best = {"filepath": "best.weights.h5", "save_best_only": True, "monitor": "loss",
                "save_weights_only": True}
        calls = json.dumps([{"class_name": "ModelCheckpoint", "config": config}
                            for config in (names, best)])
        options = ["--model", self.path, "--data", self.data, "--epochs", 3, "--batch-size", 16,
                   "--no-shuffle", "--partitions", 1]
        expected, output = self.train(*options, "--callbacks", calls, "--nodes", 2)
        theirs, folder = tagger(), self.folder / "keras"
        (folder / "all").mkdir(parents=True)
        theirs.fit(self.words, self.tags, batch_size=16, epochs=3, shuffle=False, verbose=0,
                   callbacks=[keras.callbacks.ModelCheckpoint(
                       **{**config, "filepath": str(folder / config["filepath"])})
                       for config in (names, best)])
        written = sorted(path.name for path in (output / "all").iterdir())
        self.assertEqual(written, sorted(path.name for path in (folder / "all").iterdir()))
        for name in written:
            ours = keras.models.load_model(output / "all" / name)
            for mine, other in zip(ours.get_weights(),
                                   keras.models.load_model(folder / "all" / name).get_weights()):
                self.assertLessEqual(np.abs(mine - other).max(), 1e-5)
        self.assertEqual(digest(ours), expected)
        loaded = tagger()
        loaded.load_weights(output / "best.weights.h5")
        self.assertEqual(digest(loaded), expected)

    def test_a_run_that_goes_on_writes_what_is_missing(self):
        np.savez(self.data, x=self.words, y=self.tags)
        tagger().save(self.path)
        options = ["--model", self.path, "--data", self.data, "--epochs", 2, "--callbacks",
                   "ModelCheckpoint(filepath='{epoch}.keras')"]
        _, output = self.train(*options)
        (output / "2.keras").unlink()
        self.train("--resume", "--epochs", 3, output=output)
        self.assertTrue(all((output / f"{epoch}.keras").exists() for epoch in (1, 2, 3)))

    @unittest.skipIf(EventAccumulator is None, "tensorboard is not here: PyPI could not be reached")
    def test_tensorboard_reads_histograms_and_the_model(self):
        np.savez(self.data, x=self.words, y=self.tags)
        model = tagger()
        model.save(self.path)
        _, output = self.train("--model", self.path, "--data", self.data, "--epochs", 3,
                               "--callbacks", "TensorBoard(histogram_freq=2)")
        events = EventAccumulator(str(output / "logs" / "train"), {"histograms": 0, "tensors": 0})
        events.Reload()
        graph = keras_model_to_graph_def(
            json.loads(events.Tensors("keras")[0].tensor_proto.string_val[0]))
        names = [node.name.split("/")[-1] for node in graph.node]  # that of the input too
        self.assertEqual(names[1:], [layer.name for layer in model.layers])
        self.assertEqual(len(events.Tags()["histograms"]), 3)
        model.load_weights(output / "model.keras")
        for weight in model.weights:
            values = weight.numpy().astype("float64")
            seen = events.Histograms(weight.path.removeprefix(f"{model.name}/") + "/histogram")
            self.assertEqual([event.step for event in seen], [0, 2])
            last = seen[-1].histogram_value
            self.assertEqual((last.num, sum(last.bucket)), (values.size, values.size))
            self.assertAlmostEqual(last.min, values.min(), 6)
            self.assertAlmostEqual(last.max, values.max(), 6)
            self.assertAlmostEqual(last.sum, values.sum(), 4)
            counts, _ = np.histogram(values, 30)
            self.assertLessEqual(np.abs(counts - last.bucket).sum(), 2)

    @unittest.skipIf(EventAccumulator is None, "tensorboard is not here: PyPI could not be reached")
    def test_tensorboard_reads_the_scalars(self):
        np.savez(self.data, x=self.words, y=self.tags)
        tagger().save(self.path)
        _, output = self.train("--model", self.path, "--data", self.data, "--epochs", 2,
                               "--validation-split", 0.2, "--callbacks", "TensorBoard")
        history = self.report(output)["history"]
        for folder, prefix in (("train", ""), ("validation", "val_")):
            events = EventAccumulator(str(output / "logs" / folder))
            events.Reload()
            tags = events.Tags()["scalars"]
            self.assertEqual(sorted(f"{prefix}{tag[len('epoch_'):]}" for tag in tags),
                             sorted(name for name in history
                                    if name.startswith("val_") == bool(prefix)))
            for tag in tags:
                seen = events.Scalars(tag)
                self.assertEqual([event.step for event in seen], [0, 1])
                expected = history[prefix + tag[len("epoch_"):]]
                self.assertLessEqual(np.abs([event.value for event in seen]
                                            - np.asarray(expected)).max(), 1e-5)


if __name__ == "__main__":
    main()
