"""Random small models: the same bits by one node, by three, and by three of which one is killed."""
import json
import os
import random
import signal

import runs

CHOICES = [
    ("Conv2D", {"filters": 4, "kernel_size": 3, "padding": "same", "activation": "relu"}),
    ("DepthwiseConv2D", {"kernel_size": 2, "padding": "same"}),
    ("SeparableConv2D", {"filters": 3, "kernel_size": 2, "padding": "same"}),
    ("SpectralNormalization", {"layer": {"class_name": "Conv2D", "config": {
        "name": "inner", "filters": 3, "kernel_size": 2, "padding": "same"}}}),
    ("Dense", {"units": 5, "activation": "tanh", "kernel_regularizer": "l2"}),
    ("BatchNormalization", {}),
    ("LayerNormalization", {}),
    ("GroupNormalization", {"groups": -1}),
    ("Dropout", {"rate": 0.25}),
    ("SpatialDropout2D", {"rate": 0.25}),
    ("GaussianNoise", {"stddev": 0.1}),
    ("AlphaDropout", {"rate": 0.1}),
    ("PReLU", {"shared_axes": [1, 2]}),
    ("Activation", {"activation": "gelu"}),
    ("MaxPooling2D", {"pool_size": 2, "strides": 1, "padding": "same"}),
    ("ZeroPadding2D", {"padding": 1}),
    ("ActivityRegularization", {"l1": 0.001}),
]
OPTIMIZERS = ["adam", "sgd", "rmsprop", "lamb", "adamw", "nadam"]
FIXED_SEEDS = (1, 9, 27)  # with SpectralNormalization, batches, noise
EPOCHS = 8


def random_model(draw):
    """The config of a Sequential model for the digits, of two to five random layers."""
    chosen = [("AveragePooling2D", {"pool_size": 5}),
              *draw.choices(CHOICES, k=draw.randint(2, 5)),
              ("Flatten", {}), ("Dense", {"units": 10, "activation": "softmax"})]
    layers = [{"class_name": "InputLayer",
               "config": {"name": "image", "batch_shape": [None, 28, 28, 1]}}]
    for number, (kind, config) in enumerate(chosen):
        layers.append({"class_name": kind, "config": {**config, "name": f"layer_{number}"}})
    return {"class_name": "Sequential", "config": {"name": "random", "layers": layers}}


class RandomModelsTest(runs.RunTest):
    def test_nodes_and_a_death_change_no_bit(self):
        for seed in (*FIXED_SEEDS, random.SystemRandom().randrange(1 << 31)):
            draw = random.Random(seed)
            path = self.folder / f"{seed}.json"
            model = random_model(draw)
            path.write_text(json.dumps(model))
            job = ["--model", path, "--data", "digits:300", "--loss",
                   "sparse_categorical_crossentropy", "--optimizer", draw.choice(OPTIMIZERS),
                   "--batch-size", draw.randint(9, 33), "--partitions", draw.choice((2, 4, 8)),
                   "--seed", seed, "--devices", 1]
            what = [layer["class_name"] for layer in model["config"]["layers"]]
            with self.subTest(seed=seed, layers=what, job=job):
                expected, _ = self.train(*job, "--epochs", EPOCHS)
                self.assertEqual(self.train(*job, "--epochs", EPOCHS, "--nodes", 3)[0], expected)
                self.assertEqual(self.train_with_a_death(*job), expected)

    def train_with_a_death(self, *job):
        """The hash of a job of three nodes, one of which dies behind the first epoch."""
        output = self.output()
        process = runs.start("train", *job, "--epochs", EPOCHS, "--nodes", 3, "--output", output)
        self.addCleanup(runs.stop_processes, process)
        log = ""
        while "Epoch 1/" not in log:
            line = process.stderr.readline()
            self.assertTrue(line, log)
            log += line
        os.kill(runs.children_of(process.pid)[1], signal.SIGKILL)
        code, out, err = runs.finish(process)
        self.assertEqual(code, 0, log + err)
        self.assertEqual(len(self.report(output)["recoveries"]), 1, log + err)
        return runs.sha256_of(out)


if __name__ == "__main__":
    runs.main()
