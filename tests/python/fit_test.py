"""lockstep.fit, evaluate and predict from Python against real Keras, and against the command line.

Needs Keras from PyPI, which `./dev test` installs into build/venv-interop; skipped without it.
"""
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import unittest
import warnings

import runs
from real_keras import MISSING, digest, keras, layers, lockstep, main, np

if keras is not None:
    import pandas
    from lockstep import _binary
Callback = keras.callbacks.Callback if keras else object

ROWS = 256
FEATURES = 12
CLASSES = 4


def compiled(*, dropout=0.2, loss="sparse_categorical_crossentropy", optimizer="adam"):
    keras.utils.set_random_seed(5)
    model = keras.Sequential([
        keras.Input((FEATURES,)),
        layers.Dense(16, activation="relu"),
        layers.Dropout(dropout),
        layers.Dense(CLASSES, activation="softmax"),
    ])
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


class Watcher(Callback):
    """What a callback of a user sees."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append((epoch, digest(self.model), int(self.model.optimizer.iterations)))


class Saboteur(Callback):
    """Does to processes of the cluster what it is told, once, at the end of the first epoch."""

    def __init__(self, act):
        super().__init__()
        self.act = act

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.act()


def cluster():
    """The binary that runs below this process, and its nodes."""
    binaries = [pid for pid in runs.children_of(os.getpid())
                if os.readlink(f"/proc/{pid}/exe") == runs.LOCKSTEP]
    return binaries[0], runs.children_of(binaries[0])


@unittest.skipIf(keras is None, MISSING)
class PythonTest(runs.RunTest):
    def setUp(self):
        super().setUp()
        os.environ["LOCKSTEP_BINARY"] = runs.LOCKSTEP
        rng = np.random.default_rng(2)
        self.x = rng.normal(size=(ROWS, FEATURES)).astype("float32")
        self.y = self.x[:, :CLASSES].argmax(axis=1)

    def fit(self, model, **options):
        return lockstep.fit(model, options.pop("x", self.x), self.y,
                            **{"epochs": 2, "verbose": 0, **options})

    def assert_near(self, ours, theirs):
        self.assertLessEqual(np.abs(np.asarray(ours) - np.asarray(theirs)).max(), 1e-5)


class FitTest(PythonTest):
    def test_the_bits_are_those_of_the_command_line(self):
        model = compiled()
        model.save(self.folder / "model.keras")
        weight = np.linspace(0.5, 2, ROWS).astype("float32")
        np.savez(self.folder / "data.npz", x=self.x, y=self.y, sample_weight=weight)
        sha256, _ = self.train("--model", self.folder / "model.keras", "--data",
                               self.folder / "data.npz", "--epochs", 2, "--seed", 3,
                               "--validation-split", 0.25, "--class-weight", '{"1": 2.0}')
        np.save(self.folder / "mapped.npy", self.x)
        inputs = {1: np.load(self.folder / "mapped.npy", mmap_mode="r"), 2: self.x}
        for nodes, x in inputs.items():
            model = compiled()
            history = self.fit(model, x=x, nodes=nodes, seed=3, validation_split=0.25,
                               class_weight={1: 2.0}, sample_weight=weight)
            self.assertEqual(digest(model), sha256)
            self.assertEqual(int(model.optimizer.iterations), 2 * ROWS * 3 // 4 // 32)
            self.assertEqual(sorted(history.history),
                             ["accuracy", "loss", "val_accuracy", "val_loss"])
            self.assertEqual([len(values) for values in history.history.values()], [2] * 4)

    def test_keras_and_we_measure_the_same(self):
        model = compiled()
        history = self.fit(model, validation_data=(self.x[:50], self.y[:50]))
        expected = model.evaluate(self.x[:50], self.y[:50], verbose=0)
        self.assert_near([history.history[f"val_{n}"][-1] for n in ("loss", "accuracy")], expected)
        ours = lockstep.evaluate(model, self.x[:50], self.y[:50], verbose=0)
        self.assert_near(ours, expected)
        predicted = lockstep.predict(model, self.x)
        self.assert_near(predicted, model.predict(self.x, verbose=0))
        np.testing.assert_array_equal(lockstep.predict(model, self.x, nodes=2), predicted)
        self.assertEqual(
            lockstep.evaluate(model, self.x[:50], self.y[:50], nodes=2, verbose=0), ours)
        with self.assertRaisesRegex(lockstep.LockstepError, "--nodes 0: must be between"):
            lockstep.predict(model, self.x, nodes=0)

    def test_training_goes_on_in_keras_and_here(self):
        """Optimizer and weights: four epochs in turns are four epochs of Keras alone."""
        ours, theirs = (compiled(dropout=0.0) for _ in range(2))
        how = {"batch_size": 64, "shuffle": False}
        for fit in (self.fit, lambda m, **o: m.fit(self.x, self.y, epochs=2, verbose=0, **o)):
            fit(ours, **how)
            theirs.fit(self.x, self.y, epochs=2, verbose=0, **how)
        for mine, other in zip(ours.get_weights(), theirs.get_weights()):
            self.assert_near(mine, other)

    def test_frames_and_several_inputs(self):
        frame = pandas.DataFrame(self.x, columns=[f"c{i}" for i in range(FEATURES)])
        models = [compiled(), compiled()]
        self.fit(models[0])
        lockstep.fit(models[1], frame, pandas.Series(self.y), epochs=2, verbose=0)
        self.assertEqual(digest(models[0]), digest(models[1]))
        a, b = keras.Input((FEATURES - 2,), name="left"), keras.Input((2,), name="right")
        model = keras.Model({"left": a, "right": b}, layers.Dense(CLASSES, activation="softmax")(
            layers.Concatenate()([a, b])))
        model.compile("sgd", "sparse_categorical_crossentropy")
        parts = {"right": self.x[:, -2:], "left": self.x[:, :-2]}
        history = self.fit(model, x=parts)
        self.assertLess(history.history["loss"][1], history.history["loss"][0])
        self.assert_near(lockstep.predict(model, parts), model.predict(parts, verbose=0))

    def test_lists_of_one_array_are_that_array(self):
        """As Keras takes them, where a model has one input and one output."""
        plain, listed = compiled(), compiled()
        weights = np.linspace(0, 2, ROWS)
        self.fit(plain, sample_weight=weights)
        lockstep.fit(listed, [self.x], [self.y], epochs=2, verbose=0, sample_weight=[weights],
                     validation_data=([self.x], [self.y]))
        self.assertEqual(digest(listed), digest(plain))
        self.assert_near(lockstep.predict(plain, [self.x]), plain.predict([self.x], verbose=0))
        self.assert_near(lockstep.evaluate(plain, (self.x,), [self.y], verbose=0),
                         plain.evaluate([self.x], [self.y], verbose=0))

    def test_a_node_is_killed(self):
        quiet, shot, killed = compiled(), compiled(), []

        def kill():
            killed.append(cluster()[1][0])
            os.kill(killed[0], signal.SIGKILL)

        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            history = self.fit(shot, epochs=40, nodes=2, callbacks=[
                Saboteur(kill), keras.callbacks.LambdaCallback(on_epoch_begin=self.pause)],
                verbose=2)
        self.assertEqual(len(killed), 1)
        self.assertRegex(said.getvalue(), r"node 'node-\d' left at step \d+: ")
        self.assertEqual(len(history.epoch), 40)
        self.fit(quiet, epochs=40)
        self.assertEqual(digest(shot), digest(quiet))

    @staticmethod
    def pause(*_):
        time.sleep(0.01)


class CallbackTest(PythonTest):
    def assert_as_keras(self, make_callbacks, epochs=6, **options):
        """The same learning rates, logs and weights as by Keras' own fit: our and its callbacks."""
        ours, theirs = (compiled(dropout=0.0, optimizer=keras.optimizers.SGD(0.1))
                        for _ in range(2))
        how = {"batch_size": 64, "shuffle": False, "epochs": epochs, "verbose": 0, **options}
        mine, others = make_callbacks(ours), make_callbacks(theirs)
        history = lockstep.fit(ours, self.x, self.y, nodes=2, callbacks=mine, **how).history
        expected = theirs.fit(self.x, self.y, callbacks=others, **how).history
        self.assertEqual(history.keys(), expected.keys())
        for key, values in expected.items():
            self.assert_near(history[key], values)
        for weights, other in zip(ours.get_weights(), theirs.get_weights()):
            self.assert_near(weights, other)
        self.assertEqual(float(ours.optimizer.learning_rate), float(theirs.optimizer.learning_rate))
        self.assertEqual(int(ours.optimizer.iterations), int(theirs.optimizer.iterations))
        return mine, others, history

    def test_epoch_hooks_see_each_epoch(self):
        watcher, log = Watcher(), self.folder / "log.csv"
        best = self.folder / "best.keras"
        model = compiled()
        history = self.fit(model, epochs=4, initial_epoch=1, callbacks=[
            watcher, keras.callbacks.CSVLogger(log),
            keras.callbacks.ModelCheckpoint(best, monitor="loss", save_best_only=True)])
        self.assertEqual([e for e, *_ in watcher.epochs], [1, 2, 3])
        self.assertEqual(watcher.epochs[-1][1], digest(model))
        self.assertEqual(len({sha256 for _, sha256, _ in watcher.epochs}), 3)
        self.assertEqual([i for *_, i in watcher.epochs], [8, 16, 24])
        self.assertEqual(history.epoch, [1, 2, 3])
        self.assertEqual(len(log.read_text().splitlines()), 4)
        self.assertEqual(digest(keras.models.load_model(best)), digest(model))

    def test_early_stopping_stops_where_it_should(self):
        model, short = compiled(), compiled()
        stopping = keras.callbacks.EarlyStopping("loss", min_delta=1.0, patience=2)
        history = self.fit(model, epochs=50, callbacks=[stopping])
        self.assertEqual(history.epoch, [0, 1, 2])
        self.assertEqual(stopping.stopped_epoch, 2)
        self.fit(short, epochs=3)
        self.assertEqual(digest(model), digest(short))
        self.assertEqual(int(model.optimizer.iterations), 24)

    def test_the_best_weights_come_back(self):
        (mine,), (other,), history = self.assert_as_keras(lambda _: [keras.callbacks.EarlyStopping(
            "loss", mode="max", patience=2, restore_best_weights=True)], epochs=20)
        self.assertEqual(mine.stopped_epoch, other.stopped_epoch)
        self.assertEqual(mine.best_epoch, 0)
        self.assertEqual(len(history["loss"]), 3)

    def test_any_function_may_schedule_the_learning_rate(self):
        _, _, history = self.assert_as_keras(lambda _: [keras.callbacks.LearningRateScheduler(
            lambda epoch, rate: rate * 0.5 if epoch % 2 else rate + 0.01)], validation_split=0.25)
        rates = history["learning_rate"]
        self.assertEqual(len(set(rates)), 6)
        self.assertEqual(rates[0], float(np.float32(0.11)))

    def test_the_learning_rate_goes_down_on_a_plateau(self):
        _, _, history = self.assert_as_keras(lambda _: [keras.callbacks.ReduceLROnPlateau(
            "loss", factor=0.3, patience=1, min_delta=0.5, cooldown=1)], epochs=7)
        self.assertGreater(len(set(history["learning_rate"])), 2)

    def test_a_hook_may_set_the_learning_rate_and_stop(self):
        def hooks(model):
            def act(epoch, _):
                model.optimizer.learning_rate = 0.2 / (epoch + 1)
                model.stop_training = epoch == 3

            return [keras.callbacks.LambdaCallback(on_epoch_end=act)]

        _, _, history = self.assert_as_keras(hooks, epochs=50)
        self.assertEqual(len(history["loss"]), 4)

    def test_decisions_outlive_a_node(self):
        def rates():
            return keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 / (epoch + 1))

        quiet, shot = compiled(), compiled()
        self.fit(quiet, epochs=10, callbacks=[rates()])
        self.fit(shot, epochs=10, nodes=2, callbacks=[
            rates(), Saboteur(lambda: os.kill(cluster()[1][0], signal.SIGKILL))])
        self.assertEqual(digest(shot), digest(quiet))

    def test_a_loss_that_is_no_number_ends_its_epoch(self):
        y = self.x[:, :1].copy()
        y[ROWS // 2] = np.nan
        for fit in (lockstep.fit, keras.Model.fit):
            for more in ([], [Watcher()]):
                model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(1)])
                model.compile("sgd", "mean_squared_error")
                history = fit(model, self.x, y, epochs=5, batch_size=64, shuffle=False, verbose=0,
                              callbacks=[keras.callbacks.TerminateOnNaN(), *more])
                self.assertEqual(history.epoch, [0])
                self.assertTrue(np.isnan(history.history["loss"][0]))
                self.assertEqual(int(model.optimizer.iterations), 3)

    def test_batch_hooks_are_thinned_with_a_warning(self):
        batches = []
        hook = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: batches.append((batch, logs["loss"])))
        with self.assertWarnsRegex(UserWarning, "LambdaCallback: batch hooks"):
            history = self.fit(compiled(), callbacks=[hook])
        self.assertEqual(batches[-1], (7, history.history["loss"][-1]))

    def test_what_cannot_be_carried_is_refused(self):
        def set_weights(*_, **__):
            model.set_weights([weight + 1 for weight in model.get_weights()])

        model = compiled()
        before = digest(model)
        with self.assertRaisesRegex(lockstep.LockstepError, "SwapEMAWeights.*save_freq"):
            self.fit(model, callbacks=[
                keras.callbacks.SwapEMAWeights(),
                keras.callbacks.ModelCheckpoint("x.keras", save_freq=10)])
        self.assertEqual(digest(model), before)
        for hook, where in (("on_epoch_end", "at an epoch's end"),
                            ("on_train_batch_end", "in a batch hook")):
            with (self.assertRaisesRegex(lockstep.LockstepError, f"changed the weights {where}"),
                  warnings.catch_warnings()):
                warnings.simplefilter("ignore")
                self.fit(model, callbacks=[keras.callbacks.LambdaCallback(**{hook: set_weights})])


class RefusalTest(PythonTest):
    def test_all_that_cannot_be_carried_is_in_one_message(self):
        class Own(layers.Layer):
            def call(self, x):
                return x

        def my_loss(truth, output):
            return keras.ops.mean(truth - output)

        model = keras.Sequential([
            keras.Input((FEATURES,)), Own(name="own"), layers.Lambda(lambda x: x, name="code"),
            layers.Dense(CLASSES, activation=my_loss, name="dense"),
            layers.Dense(CLASSES, name="last")])
        model.compile("adam", my_loss, metrics=[my_loss])
        with self.assertRaises(lockstep.LockstepError) as caught:
            self.fit(model)
        for what in ("'own': the class Own", "'code': Lambda", "'dense': the function my_loss",
                     "loss: the function my_loss", "metric: the function my_loss"):
            self.assertIn(what, str(caught.exception))

    def test_classes_called_as_keras_own_are_not_kerases(self):
        class Adam(keras.optimizers.Adam):
            pass

        with self.assertRaisesRegex(lockstep.LockstepError, "optimizer: the class Adam"):
            self.fit(compiled(optimizer=Adam()))
        # The binary looks at a file for itself.
        path = self.folder / "own.keras"
        keras.saving.register_keras_serializable("own")(Adam)
        compiled(optimizer=Adam()).save(path)
        np.savez(self.folder / "data.npz", x=self.x, y=self.y)
        done = runs.run("train", "--model", path, "--data", self.folder / "data.npz", "--output",
                        self.output())
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("optimizer Adam is code of 'own>Adam', which never runs here", done.stderr)

    def test_data(self):
        model = compiled()
        for x, words in ((np.array([["a"] * FEATURES] * ROWS), "x holds values of type <U1"),
                         (self.x[:10], "rows differ: x has 10, y has 256"),
                         (iter([]), "x holds values of type object"),
                         (self.x[:, :5], "shape")):
            with self.assertRaisesRegex(lockstep.LockstepError, words):
                self.fit(model, x=x)
        with self.assertRaisesRegex(lockstep.LockstepError, "must be between 1 and") as caught:
            self.fit(model, nodes=0)
        self.assertEqual(caught.exception.exit_code, 2)
        with self.assertRaisesRegex(lockstep.LockstepError, "not compiled"):
            self.fit(keras.Sequential([keras.Input((2,)), layers.Dense(1)]))

    def test_sums_of_gpus_alone_can_be_inexact(self):
        for options, words in (({"numerics": "cpu-avx2"}, "--exact off.*cpu-avx2 are always exact"),
                               ({"numerics": "cuda-fp32", "nodes": 2},
                                "--exact off: at most one node"),
                               ({"exact": "off"}, "exact='off': must be True or False")):
            with self.assertRaisesRegex(lockstep.LockstepError, words):
                self.fit(compiled(), **{"exact": False, **options})


class EndTest(PythonTest):
    def test_ctrl_c_ends_the_cluster_and_the_model_is_usable(self):
        model, watcher, pids = compiled(), Watcher(), []

        def interrupt(epoch, _):
            if epoch == 2:
                binary, nodes = cluster()
                pids.extend([binary, *nodes])
                self.begin = time.monotonic()
                threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()

        with self.assertRaises(KeyboardInterrupt):
            self.fit(model, epochs=100_000, nodes=2, callbacks=[
                watcher, keras.callbacks.LambdaCallback(on_epoch_end=interrupt)])
        self.assertLess(time.monotonic() - self.begin, 2.0)
        self.assertEqual(len(pids), 3)
        self.assertFalse([pid for pid in pids if runs.is_alive(pid)])
        self.assertGreaterEqual(int(model.optimizer.iterations), 24)
        self.assertGreater(model.evaluate(self.x, self.y, verbose=0)[1], 0.2)
        self.fit(model, epochs=1)

    def test_ctrl_c_leaves_the_last_step(self):
        """In the middle of an epoch of many steps."""
        x, y = np.tile(self.x, (400, 1)), np.tile(self.y, 400)
        model, seen = compiled(), []

        def interrupt(batch, logs):
            if batch > 20 and not seen:
                seen.append(batch)
                signal.raise_signal(signal.SIGINT)

        with self.assertRaises(KeyboardInterrupt), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lockstep.fit(model, x, y, nodes=2, epochs=100, verbose=0, callbacks=[
                keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)])
        done = int(model.optimizer.iterations)
        self.assertGreaterEqual(done, seen[0] + 1)
        self.assertNotEqual(done % (len(x) // 32), 0)
        # The bits are those of so many steps.
        again = compiled()
        again.save(self.folder / "model.keras")
        np.savez(self.folder / "data.npz", x=x, y=y)
        sha256, _ = self.train("--model", self.folder / "model.keras", "--data",
                               self.folder / "data.npz", "--epochs", 1, "--steps-per-epoch", done)
        self.assertEqual(digest(model), sha256)

    def test_ctrl_c_that_hits_a_finalizer_ends_it_too(self):
        class Finalized:
            def __del__(self):
                signal.raise_signal(signal.SIGINT)  # Python drops what is raised from here

        with self.assertRaises(KeyboardInterrupt):
            self.fit(compiled(), epochs=100_000, callbacks=[Saboteur(Finalized)])
        self.assertIs(signal.getsignal(signal.SIGINT), signal.default_int_handler)

    def test_the_binary_dies(self):
        def kill():
            os.kill(cluster()[0], signal.SIGKILL)

        model = compiled()
        with self.assertRaisesRegex(lockstep.LockstepError, "SIGKILL"):
            self.fit(model, epochs=100_000, callbacks=[Saboteur(kill)])
        self.assertEqual(int(model.optimizer.iterations), 8)

    def test_this_python_dies_while_the_nodes_wait_for_it(self):
        script = self.folder / "fit.py"
        script.write_text(
            "import time, keras, numpy as np, lockstep\n"
            "model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])\n"
            "model.compile('sgd', 'mse')\n"
            "hook = keras.callbacks.LambdaCallback(\n"
            "    on_epoch_end=lambda *_: (print('waits', flush=True), time.sleep(60)))\n"
            "lockstep.fit(model, np.ones((8, 2)), np.ones((8, 1)), callbacks=[hook], verbose=0)\n")
        process = subprocess.Popen(
            [sys.executable, script], stdout=subprocess.PIPE, text=True,
            env=runs.environment({"LOCKSTEP_BINARY": runs.LOCKSTEP,
                                  "PYTHONPATH": str(runs.ROOT / "python")}))
        self.addCleanup(runs.stop_processes, process)
        self.assertEqual(process.stdout.readline(), "waits\n")
        binary = runs.children_of(process.pid)[0]
        pids = [binary, *runs.children_of(binary)]
        process.kill()
        runs.wait_until(lambda: not any(map(runs.is_alive, pids)), "the cluster ends", 5)

    def test_the_binary_dies_within_an_event(self):
        path = self.folder / "lockstep"
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!{sys.executable}\nimport os, sys\n"
                       "os.write(int(sys.argv[-1]), b'{\"event\": \"st')\n"
                       "os.kill(os.getpid(), 9)\n")
        os.chmod(path, 0o755)
        os.environ["LOCKSTEP_BINARY"] = str(path)
        with self.assertRaisesRegex(lockstep.LockstepError, "SIGKILL"):
            with _binary.start("train") as process:
                list(process.events())

    def test_no_binary(self):
        os.environ["LOCKSTEP_BINARY"] = "/nowhere/lockstep"
        with self.assertRaisesRegex(lockstep.LockstepError, "LOCKSTEP_BINARY=/nowhere/lockstep"):
            self.fit(compiled())


@unittest.skipIf(keras is None, MISSING)
class ReadmeTest(runs.RunTest):
    def test_the_example_runs_as_it_stands(self):
        text = (runs.ROOT / "python" / "README.md").read_text()
        example = re.search(r"```python\n(.*?)```", text, re.S).group(1)
        self.assertIn(example, (runs.ROOT / "README.md").read_text())
        (self.folder / "example.py").write_text(example)
        done = subprocess.run(
            [sys.executable, "example.py"], cwd=self.folder, capture_output=True, text=True,
            timeout=runs.TIMEOUT_S, check=False,
            env=runs.environment({"LOCKSTEP_BINARY": runs.LOCKSTEP,
                                  "PYTHONPATH": str(runs.ROOT / "python")}))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("Epoch 2/2", done.stdout)
        self.assertGreater(float(done.stdout.split("accuracy: ")[-1].split()[0]), 0.85)


if __name__ == "__main__":
    main()
