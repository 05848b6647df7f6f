"""The small files that tests/keras reads, written by real Keras and h5py, and what Keras computes.

    python3 tests/keras/make_files.py      writes tests/keras/files; `./dev golden` runs it
"""

import hashlib
import json
import os
import pathlib
import sys
import zipfile

os.environ["KERAS_BACKEND"] = "jax"

import h5py  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402

FOLDER = pathlib.Path(__file__).parent / "files"
ROWS = 8


def sequential():
    """Convolution, normalization, pooling, a frozen layer, dropout; compiled with Adam."""
    model = keras.Sequential([
        keras.Input((6, 6, 1)),
        layers.Conv2D(3, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(5, activation="tanh", trainable=False),
        layers.Dropout(0.25),
        layers.Dense(3, activation="softmax"),
    ], name="small")
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy",
                  metrics=["accuracy"])
    return model


def functional():
    """A nested model that is called twice, branches, an open input shape; compiled with SGD."""
    image = keras.Input((None, None, 1), name="image")
    base = keras.Sequential([layers.Conv2D(2, 3, padding="same"), layers.BatchNormalization(),
                             layers.Activation("relu")], name="base")
    left = base(image)
    right = base(layers.Rescaling(0.5)(image), training=False)
    side = layers.Conv2D(2, 1)(image)
    x = layers.Concatenate()([left, right, side])
    x = layers.Add()([layers.Conv2D(6, 3, padding="same")(x), x])
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(3, activation="softmax")(x), name="branches")
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy",
                  metrics=["accuracy"])
    return model


def two_inputs():
    """Inputs in another order than their names; uncompiled."""
    b = keras.Input((3,), name="b")
    a = keras.Input((2,), name="a")
    x = layers.Concatenate()([a, b])
    return keras.Model([b, a], layers.Dense(2)(x), name="pair")


def lambda_model():
    return keras.Sequential([
        keras.Input((4,)),
        layers.Lambda(lambda x: x * 2, name="twice"),
        layers.Discretization(bin_boundaries=[0.0, 1.0], name="bins"),
        layers.Dense(2, name="fine"),
    ])


def train(model, x, y):
    keras.utils.set_random_seed(7)
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, shuffle=False)


def described(model, inputs):
    values = model.predict(inputs, verbose=0)
    digest = hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights()))
    arrays = inputs if isinstance(inputs, list) else [inputs]
    result = {
        "inputs": [array.reshape(ROWS, -1).tolist() for array in arrays],
        "outputs": values.reshape(ROWS, -1).tolist(),
        "weights_sha256": digest.hexdigest(),
        "parameters": model.count_params(),
    }
    if getattr(model, "optimizer", None) is not None:
        result["iterations"] = int(model.optimizer.iterations.numpy())
        result["slots"] = {v.path: np.asarray(v).ravel().tolist()
                           for v in model.optimizer.variables[2:]}
    return result


def strip_dates(path):
    """The same bytes for the same content."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            if name == "metadata.json":
                content = json.dumps({"keras_version": keras.__version__,
                                      "date_saved": "2026-01-01@00:00:00"}).encode()
            archive.writestr(zipfile.ZipInfo(name), content)
    return members


def deflated(path, to):
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(to, "w",
                                                           zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(zipfile.ZipInfo(name), archive.read(name), zipfile.ZIP_DEFLATED)


def save(model, name):
    model.save(FOLDER / f"{name}.keras")
    strip_dates(FOLDER / f"{name}.keras")


def write_models():
    rng = np.random.default_rng(3)
    images = rng.normal(size=(ROWS, 6, 6, 1)).astype("float32")
    labels = rng.integers(0, 3, size=ROWS)
    expected = {}
    keras.utils.set_random_seed(5)
    small = sequential()
    train(small, images, labels)
    save(small, "small")
    deflated(FOLDER / "small.keras", FOLDER / "small_deflated.keras")
    small.save(FOLDER / "small.h5")
    small.save_weights(FOLDER / "small.weights.h5")
    (FOLDER / "small.json").write_text(small.to_json())
    write_keras_2(small)
    expected["small"] = described(small, images)
    branches = functional()
    train(branches, images, labels)
    save(branches, "branches")
    branches.save(FOLDER / "branches.h5")
    expected["branches"] = described(branches, images)
    pair = two_inputs()
    save(pair, "pair")
    expected["pair"] = described(pair, [rng.normal(size=(ROWS, 3)).astype("float32"),
                                        rng.normal(size=(ROWS, 2)).astype("float32")])
    (FOLDER / "expected.json").write_text(json.dumps(expected))
    model = lambda_model()
    save(model, "lambda")


def plain(value):
    """As Keras 2 writes objects: without modules."""
    if isinstance(value, dict):
        if value.get("class_name") == "DTypePolicy":
            return value["config"]["name"]
        return {key: plain(each) for key, each in value.items()
                if key not in ("module", "registered_name", "build_config")}
    return [plain(each) for each in value] if isinstance(value, list) else value


def write_keras_2(model):
    """The form of Keras 2, made by hand: batch_input_shape, names that end in ":0"."""
    config = plain(json.loads(model.to_json()))
    config.pop("compile_config", None)
    first = config["config"]["layers"][0]["config"]
    first["batch_input_shape"] = first.pop("batch_shape")
    training = {"loss": "sparse_categorical_crossentropy", "metrics": [["accuracy"]],
                "weighted_metrics": None, "loss_weights": None,
                "optimizer_config": {"class_name": "Adam", "config": {
                    "name": "Adam", "learning_rate": 0.01, "beta_1": 0.9, "beta_2": 0.999,
                    "epsilon": 1e-07, "amsgrad": False}}}
    with h5py.File(FOLDER / "keras_2.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(config).encode()
        file.attrs["training_config"] = json.dumps(training).encode()
        group = file.create_group("model_weights")
        for place in (file, group):
            place.attrs["keras_version"] = b"2.11.0"
            place.attrs["backend"] = b"tensorflow"
        group.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            inner = group.create_group(layer.name)
            weights = layer.trainable_weights + layer.non_trainable_weights
            names = [f"{layer.name}/{weight.name}:0" for weight in weights]
            inner.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, weights):
                inner.create_dataset(name, data=np.asarray(weight))


def copy(name, **options):
    """An open copy of the small model's weights."""
    path = FOLDER / name
    path.write_bytes((FOLDER / "small.weights.h5").read_bytes())
    return h5py.File(path, "a", **options)


def write_pieces():
    """Arrays stored in pieces, as h5py does where it is told so."""
    ways = {
        "layers/conv2d": {"chunks": (2, 3, 1, 2)},
        "layers/dense": {"chunks": (5, 2), "compression": "gzip", "shuffle": True},
        "layers/dense_1": {"compression": "gzip", "maxshape": (None, None)},
    }
    with copy("pieces.weights.h5") as file:
        for layer, way in ways.items():
            values = file[f"{layer}/vars/0"][:]
            del file[f"{layer}/vars/0"]
            file[f"{layer}/vars"].create_dataset("0", data=values, **way)
    with h5py.File(FOLDER / "many_pieces.h5", "w") as file:  # in a tree of two levels
        values = np.arange(40 * 30, dtype="<i2").reshape(40, 30)
        file.create_dataset("many", data=values, chunks=(4, 4), shuffle=True)
    for name, libver, way in [("lzf", None, {"compression": "lzf"}),
                              ("latest", "latest", {"chunks": (5, 2)})]:
        with copy(f"pieces_{name}.weights.h5", libver=libver) as file:
            values = file["layers/dense/vars/0"][:]
            del file["layers/dense/vars/0"]
            file["layers/dense/vars"].create_dataset("0", data=values, **way)


def write_hostile():
    """HDF5 files that reach for what is not theirs, or claim what is not there."""
    place = "layers/dense/vars"

    with copy("soft_link.weights.h5") as file:
        del file[place]["0"]
        file[place]["0"] = h5py.SoftLink(f"/{place}/1")
    with copy("external_link.weights.h5") as file:
        del file[place]["0"]
        file[place]["0"] = h5py.ExternalLink("small.weights.h5", f"/{place}/0")
    with copy("external_storage.weights.h5") as file:
        del file[place]["0"]
        file[place].create_dataset("0", (12, 5), "<f4", external=[("other.bin", 0, 240)])
    with copy("virtual.weights.h5") as file:
        del file[place]["0"]
        layout = h5py.VirtualLayout(shape=(12, 5), dtype="<f4")
        layout[:] = h5py.VirtualSource("small.weights.h5", f"{place}/0", shape=(12, 5))
        file[place].create_virtual_dataset("0", layout)
    with copy("claims.weights.h5") as file:
        del file[place]["0"]
        file[place].create_dataset("0", (1 << 14, 1 << 14), "<f4")  # nothing is stored
    with copy("claims_pieces.weights.h5") as file:
        del file[place]["0"]
        pieces = file[place].create_dataset("0", (12, 5), "<f4", chunks=(6, 5), compression="gzip")
        pieces[:6] = 1  # one of two
    for path, name in [("../../escape", "leaves.keras"), ("/etc/escape", "absolute.keras")]:
        with zipfile.ZipFile(FOLDER / name, "w") as archive:
            archive.writestr(zipfile.ZipInfo("config.json"), "{}")
            archive.writestr(zipfile.ZipInfo(path), "x")


def main():
    FOLDER.mkdir(exist_ok=True)
    write_models()
    write_pieces()
    write_hostile()
    return 0


if __name__ == "__main__":
    sys.exit(main())
