"""Peer: Keras' own fit() in one process, with PyTorch as its backend."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import time  # noqa: E402

import keras  # noqa: E402  the backend is chosen first
import numpy as np  # noqa: E402
import torch  # noqa: E402
from resnet import resnet20  # noqa: E402
from serve import serve  # noqa: E402

IMAGES = 1024


class Steps(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        self.begin = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds.append(time.perf_counter() - self.begin)


class Peer:
    def configure(self, batch_size, threads):
        torch.set_num_threads(threads)
        keras.utils.set_random_seed(1)
        self.batch_size = batch_size
        self.model = resnet20(10)
        self.model.compile("adam", "sparse_categorical_crossentropy")
        rng = np.random.default_rng(1)
        self.x = rng.random((IMAGES, 32, 32, 3), dtype="float32")
        self.y = rng.integers(10, size=IMAGES)
        self.run(1)

    def run(self, steps):
        """The seconds of each step but for the first few."""
        timer = Steps()
        epochs = -(-(steps + 2) * self.batch_size // IMAGES)
        self.model.fit(self.x, self.y, batch_size=self.batch_size, epochs=epochs, verbose=0,
                       callbacks=[timer])
        return timer.seconds[2:steps + 2]


if __name__ == "__main__":
    peer = Peer()
    serve({"configure": peer.configure, "run": peer.run})
