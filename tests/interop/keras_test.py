"""Real Keras on one side, lockstep on the other: files, predictions, hashes, optimizers' states.

Needs Keras from PyPI, which `./dev test` installs: the newest, and as LOCKSTEP_TEST_KERAS says an
older one (support/real_keras.py). Skipped without it.
"""
import unittest
import zipfile

import runs
from real_keras import ALL, MISSING, before, digest, keras, layers, main, np
from runs import run

if keras is not None:
    import jax

ROWS = 32
CLASSES = 4
STEPS = 10


def sequential():
    return keras.Sequential([
        keras.Input((8, 8, 1)),
        layers.Conv2D(4, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(8, activation="tanh"),
        layers.Dense(CLASSES, activation="softmax"),
    ])


def dense():
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(),
                             layers.Dense(CLASSES, activation="softmax")])


def functional():
    """Branches of different depth, a nested model that is called twice, open input sizes."""
    image = keras.Input((None, None, 1), name="image")
    base = keras.Sequential([layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization(),
                             layers.Activation("relu")], name="base")
    x = layers.Concatenate()([base(image), base(layers.Rescaling(0.5)(image), training=False),
                              layers.Conv2D(2, 1)(image)])
    x = layers.Add()([x, layers.SeparableConv2D(10, 3, padding="same")(x)])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(CLASSES, activation="softmax")(x))


def wrapped():
    """A layer within a layer, and arithmetic on tensors."""
    image = keras.Input((8, 8, 1))
    x = layers.TimeDistributed(layers.Dense(3, activation="relu"))(layers.Reshape((8, 8))(image))
    x = layers.GroupNormalization(3)(2 * x - 1)
    x = layers.SpectralNormalization(layers.Conv1D(4, 2), power_iterations=2)(x)
    return keras.Model(image, layers.Dense(CLASSES, activation="softmax")(layers.Flatten()(x)))


def masked():
    """Steps that count not: Keras writes the mask, and what it is made of, into the config."""
    image = keras.Input((8, 8, 1))
    x = layers.Masking()(layers.Reshape((8, 8))(image))
    x = layers.Concatenate()([layers.Dense(3)(x), layers.LayerNormalization()(x)])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(image, layers.Dense(CLASSES, activation="softmax")(x))


@unittest.skipIf(keras is None, MISSING)
class KerasTest(runs.RunTest):
    def setUp(self):
        super().setUp()
        keras.utils.set_random_seed(11)
        rng = np.random.default_rng(2)
        self.x = rng.normal(size=(ROWS, 8, 8, 1)).astype("float32")
        self.x[::2, 5:] = 0  # steps that masked() leaves out
        self.y = rng.integers(0, CLASSES, size=ROWS)
        self.data = self.folder / "data.npz"
        np.savez(self.data, x=self.x, y=self.y)

    def compiled(self, model, optimizer="adam"):
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    def fit(self, model, epochs, batch_size=8):
        model.fit(self.x, self.y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0)

    def fit_by_steps(self, model, steps):
        """fit() of one batch an epoch; Keras' own on JAX fails with averages and accumulators."""
        def loss(weights):
            state = [variable.value for variable in model.non_trainable_variables]
            y, _ = model.stateless_call(weights, state, self.x)
            return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(self.y, y))

        for _ in range(steps):
            weights = model.trainable_variables
            gradients = jax.grad(loss)([weight.value for weight in weights])
            model.optimizer.apply(gradients, weights)
        model.optimizer.finalize_variable_values(model.trainable_variables)

    def predict(self, model):
        """What lockstep puts out."""
        output = self.folder / "predictions.npy"
        done = run("predict", "--model", model, "--data", self.data, "--output", output)
        self.assertEqual(done.returncode, 0, done.stderr)
        return np.load(output)

    def assert_near(self, ours, theirs, tolerance=1e-5):
        self.assertEqual(ours.shape, theirs.shape)
        self.assertLessEqual(np.abs(ours - theirs).max(), tolerance)

    def skip_where_masks_are_lost(self, make):
        if make is masked and before("3.10"):
            self.skipTest("Keras 3.3 loses masks in a functional model, which today's reads from "
                          "the same file; 3.9 cannot read the masks that it writes")

    def test_keras_writes_and_we_predict(self):
        for make in (sequential, functional, wrapped, masked):
            with self.subTest(model=make.__name__):
                self.skip_where_masks_are_lost(make)
                model = self.compiled(make())
                self.fit(model, 2)
                expected = model.predict(self.x, verbose=0)
                # Keras itself cannot read arithmetic on tensors from an .h5 file.
                for ending in (".keras",) if make in (wrapped, masked) else (".h5", ".keras"):
                    path = self.folder / f"{make.__name__}{ending}"
                    model.save(path)
                    self.assert_near(self.predict(path), expected)
                done = run("evaluate", "--model", path, "--data", self.data)
                self.assertEqual(done.returncode, 0, done.stderr)
                loss = float(done.stdout.split("loss: ")[1].split()[0])
                self.assertAlmostEqual(loss, model.evaluate(self.x, self.y, verbose=0)[0],
                                       delta=1e-4)

    def test_we_train_and_keras_loads(self):
        for make in (sequential, functional, wrapped, masked):
            with self.subTest(model=make.__name__):
                self.skip_where_masks_are_lost(make)
                model = self.compiled(make())
                path = self.folder / f"{make.__name__}.keras"
                model.save(path)
                sha256, output = self.train("--model", path, "--data", self.data, "--epochs", 2,
                                            "--batch-size", 8, "--nodes", 2)
                trained = keras.models.load_model(output / "model.keras")
                self.assertEqual(digest(trained), sha256)
                self.assertEqual(trained.optimizer.iterations.numpy(), 8)
                self.assert_near(self.predict(output), trained.predict(self.x, verbose=0))
                self.assert_near(self.predict(output / "model.keras"),
                                 trained.predict(self.x, verbose=0))
                with zipfile.ZipFile(path) as before, \
                        zipfile.ZipFile(output / "model.keras") as after:
                    self.assertEqual(before.read("config.json"), after.read("config.json"))

    def test_mixed_precision(self):
        """A CPU computes such layers in float32; Keras goes on in bfloat16.

        Keras 3.9 casts by operations of the model.
        """
        keras.config.set_dtype_policy("mixed_bfloat16")
        self.addCleanup(keras.config.set_dtype_policy, "float32")
        for make in (sequential, functional):
            with self.subTest(model=make.__name__):
                path = self.folder / f"{make.__name__}.keras"
                self.compiled(make()).save(path)
                sha256, output = self.train("--model", path, "--data", self.data, "--epochs", 1,
                                            "--batch-size", 8, "--numerics", "cpu-avx2")
                trained = keras.models.load_model(output / "model.keras")
                self.assertEqual(digest(trained), sha256)
                self.assertEqual(trained.layers[-1].dtype_policy.name, "mixed_bfloat16")
                self.assert_near(self.predict(output),
                                 trained.predict(self.x, verbose=0).astype("float32"), 0.02)

    def test_config_and_weights_in_files_of_their_own(self):
        """model.to_json() and save_weights(), and what is trained of them."""
        for make in (sequential, functional, wrapped, masked):
            with self.subTest(model=make.__name__):
                self.skip_where_masks_are_lost(make)
                model = make()
                path, weights = self.folder / "model.json", self.folder / "model.weights.h5"
                path.write_text(model.to_json())
                model.save_weights(weights)
                whole = self.folder / "whole.keras"
                done = run("convert", weights, whole, "--model", path, "--rows", "8,8,1")
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(digest(keras.models.load_model(whole)), digest(model))
                self.assert_near(self.predict(whole), model.predict(self.x, verbose=0))
                sha256, output = self.train("--model", path, "--data", self.data, "--epochs", 1)
                trained = self.folder / "trained.weights.h5"
                done = run("convert", output, trained, "--rows", "8,8,1")
                self.assertEqual(done.returncode, 0, done.stderr)
                model.load_weights(trained)
                self.assertEqual(digest(model), sha256)

    def test_models_by_name_load(self):
        for name in ("lenet", "resnet20"):
            with self.subTest(model=name):
                sha256, output = self.train("--model", name, "--data", "digits:64", "--epochs", 1,
                                            "--batch-size", 32)
                model = keras.models.load_model(output / "model.keras")
                self.assertEqual(digest(model), sha256)
                x = np.random.default_rng(4).random((6, 28, 28, 1)).astype("float32")
                np.savez(self.data, x=x)
                self.assert_near(self.predict(output), model.predict(x, verbose=0))

    def optimizers(self):
        return {
            "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
            "rmsprop": lambda: keras.optimizers.RMSprop(0.002, momentum=0.5, centered=True),
            "nadam": lambda: keras.optimizers.Nadam(0.01),
            "schedule_free": lambda: keras.optimizers.ScheduleFreeAdamW(0.01, warmup_steps=8),
            "adafactor": lambda: keras.optimizers.Adafactor(0.05),
            "muon": lambda: keras.optimizers.Muon(0.02),
            "keeps_all": lambda: keras.optimizers.Adam(0.01, amsgrad=True, use_ema=True,
                                                       gradient_accumulation_steps=2),
            "average": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.8,
                                                     ema_overwrite_frequency=4),
            "accumulated": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
            "both": lambda: keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True,
                                                 ema_momentum=0.8, ema_overwrite_frequency=3,
                                                 gradient_accumulation_steps=3),
            "schedule": lambda: keras.optimizers.AdamW(
                keras.optimizers.schedules.ExponentialDecay(0.01, 5, 0.9)),
        }

    def test_optimizers_go_on_here_and_there(self):
        """Ten steps by Keras, ten here, ten by Keras: as thirty by Keras alone."""
        classes = {"schedule_free": "ScheduleFreeAdamW", "muon": "Muon"}  # of later versions
        optimizers = self.optimizers()
        if not ALL:
            # Those whose variables lie in an order of their own, and with older versions another.
            names = ["nadam", "both", "schedule"]
            names += [] if before("3.10") else ["amsgrad", "rmsprop", "adafactor", "muon"]
            optimizers = {name: optimizers[name] for name in names}
        for name, make in optimizers.items():
            with self.subTest(optimizer=name):
                if name in classes and not hasattr(keras.optimizers, classes[name]):
                    self.skipTest(f"Keras {keras.__version__} has no {classes[name]}")
                keras.utils.set_random_seed(3)
                model = self.compiled(dense(), make())
                if before("3.9") and model.optimizer.gradient_accumulation_steps:
                    self.skipTest("Keras 3.3 counts each step of an accumulation as an update")
                model.optimizer.build(model.trainable_variables)
                by_steps = model.optimizer.use_ema or model.optimizer.gradient_accumulation_steps
                fit = self.fit_by_steps if by_steps else lambda m, n: self.fit(m, n, ROWS)
                fit(model, STEPS)
                path = self.folder / f"{name}.keras"
                model.save(path)
                sha256, output = self.train("--model", path, "--data", self.data, "--epochs", STEPS,
                                            "--batch-size", ROWS, "--no-shuffle")
                fit(model, STEPS)
                ours = keras.models.load_model(output / "model.keras")
                self.assertEqual(digest(ours), sha256)
                self.assertEqual(np.asarray(ours.optimizer.iterations),
                                 np.asarray(model.optimizer.iterations))
                for mine, theirs in zip(ours.get_weights(), model.get_weights()):
                    self.assert_near(mine, theirs)
                fit(model, STEPS)
                fit(ours, STEPS)
                for mine, theirs in zip(ours.get_weights(), model.get_weights()):
                    self.assert_near(mine, theirs)

    def test_averages_and_accumulators_go_on(self):
        """What all optimizers keep. Keras on JAX fits such a model once: files carry it."""
        optimizers = {
            "average": lambda: keras.optimizers.Adam(0.01, use_ema=True),
            "accumulation": lambda: keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True,
                                                         gradient_accumulation_steps=2),
        }
        for name, make in optimizers.items():
            with self.subTest(optimizer=name):
                path = self.folder / f"{name}.keras"
                model = self.compiled(dense(), make())
                self.fit(model, 5, ROWS)
                model.save(path)
                sha256, output = self.train("--model", path, "--data", self.data, "--epochs", 5,
                                            "--batch-size", ROWS, "--no-shuffle")
                theirs = keras.models.load_model(path)
                self.fit(theirs, 5, ROWS)
                ours = keras.models.load_model(output / "model.keras")
                self.assertEqual(digest(ours), sha256)
                for mine, other in zip(ours.optimizer.variables, theirs.optimizer.variables):
                    self.assert_near(np.asarray(mine), np.asarray(other))
                for mine, other in zip(ours.get_weights(), theirs.get_weights()):
                    self.assert_near(mine, other)

    def test_spectral_normalization_trains_as_keras(self):
        """Keras on JAX leaves the kernel itself as it is; sums of P = 1 are those of the batch."""
        if before("3.9"):
            self.skipTest("Keras 3.3 trains through the power iterations")
        spectral = layers.SpectralNormalization
        model = self.compiled(keras.Sequential([
            keras.Input((8, 8, 1)), spectral(layers.Conv2D(3, 3, activation="relu"), 2),
            layers.Flatten(), spectral(layers.Dense(CLASSES, activation="softmax"))]),
            keras.optimizers.SGD(0.1))
        for ending in (".keras", ".h5"):
            with self.subTest(ending=ending):
                path = self.folder / f"spectral{ending}"
                model.save(path)
                self.assert_near(self.predict(path), model.predict(self.x, verbose=0))
                # Keras does not train what it has loaded from an .h5 file as it stands.
                theirs = self.compiled(keras.models.load_model(path), keras.optimizers.SGD(0.1))
                self.fit(theirs, 6)
                sha256, output = self.train(
                    "--model", path, "--data", self.data, "--epochs", 6, "--batch-size", 8,
                    "--no-shuffle", "--partitions", 1)
                ours = keras.models.load_model(output / "model.keras")
                self.assertEqual(digest(ours), sha256)
                for mine, other in zip(ours.get_weights(), theirs.get_weights()):
                    self.assert_near(mine, other)
                out = self.folder / f"out{ending}"
                done = run("convert", output / "model.keras", out)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(digest(keras.models.load_model(out)), sha256)

    def test_convert(self):
        model = self.compiled(functional(), keras.optimizers.SGD(0.05, momentum=0.9))
        self.fit(model, 1)
        path = self.folder / "model.keras"
        model.save(path)
        rows = ["--rows", "8,8,1"]
        for ending in (".h5", ".weights.h5", ".safetensors"):
            done = run("convert", path, self.folder / f"out{ending}", *rows)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_near(
            keras.models.load_model(self.folder / "out.h5").predict(self.x, verbose=0),
            model.predict(self.x, verbose=0))
        other = functional()
        other.load_weights(self.folder / "out.weights.h5")
        self.assertEqual(digest(other), digest(model))
        for name in ("out.weights.h5", "out.safetensors", "out.h5"):
            back = self.folder / f"back-{name}.keras"
            done = run("convert", self.folder / name, back, "--model", path, *rows)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(digest(keras.models.load_model(back)), digest(model))


if __name__ == "__main__":
    main()
