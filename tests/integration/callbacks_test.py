"""Callbacks, fit arguments and optimizers in whole jobs: decisions for any number of nodes, through
deaths of nodes and of everything, and what they leave in the output folder."""
import csv
import math
import os
import signal
import struct

import runs
from runs import children_of, finish, start

JOB = ["--model", "mlp", "--data", "digits:900", "--validation-split", "0.25", "--batch-size", "32",
       "--optimizer", "adam", "--partitions", "8"]
STOPS = "EarlyStopping(patience=2, min_delta=0.3, restore_best_weights=True)"
SLOWS = "ReduceLROnPlateau(patience=1, factor=0.5, min_delta=0.2)"


def scalars_of(path):
    """(step, tag) -> value, of an event file: TFRecord's framing, then protocol buffers."""
    def fields(data):
        at = 0
        while at < len(data):
            key, at = varint(data, at)
            size = {0: 0, 1: 8, 5: 4}.get(key & 7)
            if size == 0:
                value, at = varint(data, at)
                yield key >> 3, value
                continue
            if size is None:
                size, at = varint(data, at)
            yield key >> 3, data[at:at + size]
            at += size

    def varint(data, at):
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            shift += 7
            at += 1
            if data[at - 1] < 128:
                return value, at

    data = path.read_bytes()
    found = {}
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = dict(fields(data[12:12 + length]))
        for _, value in fields(event.get(5, b"")):
            scalar = dict(fields(value))
            if 2 in scalar:  # else it is the model
                found[event.get(2, 0), scalar[1].decode()] = struct.unpack("<f", scalar[2])[0]
        data = data[16 + length:]
    return found


class CallbacksTest(runs.RunTest):
    def decided(self, *arguments, callbacks, output=None):
        return self.train(*JOB, "--callbacks", callbacks, *arguments, output=output)

    def test_decisions_are_the_same_for_any_number_of_nodes(self):
        both = f"{STOPS}, {SLOWS}"
        expected, output = self.decided("--epochs", 30, callbacks=both)
        report = self.report(output)
        self.assertLess(report["epochs"], 30)
        self.assertIn("early stopping", report["stop_reason"])
        self.assertEqual(report["samples_consumed"], report["samples_assigned"])
        self.assertGreater(len(set(report["history"]["learning_rate"])), 1)
        for nodes in (2, 3):
            again, other = self.decided("--epochs", 30, "--nodes", nodes, callbacks=both)
            self.assertEqual(again, expected)
            self.assertEqual(self.report(other)["history"], report["history"])
        # The weights are those of the best epoch: a run that ends there has them.
        best = report["best_epoch"]
        self.assertLess(best, report["epochs"])
        alone, _ = self.decided("--epochs", best, callbacks=SLOWS)
        self.assertEqual(alone, expected)

    def test_decisions_outlive_a_node_and_the_coordinator(self):
        job = ["--model", "seed-cnn", "--data", "digits:1500", "--validation-split", "0.2",
               "--epochs", "9", "--callbacks",
               "LearningRateScheduler(schedule={0: 0.002, 3: 0.0005}),"
               "EarlyStopping(monitor=loss, patience=2, min_delta=0.5, restore_best_weights=True)"]
        expected, reference = self.train(*job)
        output = self.output()
        process = start("train", *job, "--nodes", 2, "--devices", 1, "--output", output,
                        "--keep-checkpoints", 1)
        self.addCleanup(runs.stop_processes, process)
        log = ""
        while "Epoch 1/" not in log:
            log += process.stderr.readline()
        os.kill(children_of(process.pid)[0], signal.SIGKILL)
        while "Epoch 2/" not in log:
            log += process.stderr.readline()
        process.kill()
        finish(process)
        done = runs.run("train", "--resume", "--nodes", 2, "--output", output)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(runs.sha256_of(done.stdout), expected)
        for key in ("history", "best_epoch", "stop_reason"):
            self.assertEqual(self.report(output)[key], self.report(reference)[key])
        self.assertEqual(runs.run("diff", reference, output).returncode, 0)
        # A decision to stop is for good.
        done = runs.run("train", "--resume", "--epochs", 20, "--output", output)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(runs.sha256_of(done.stdout), expected)

    def test_the_best_checkpoint_is_not_deleted(self):
        _, output = self.decided("--epochs", 5, "--keep-checkpoints", 1, callbacks=(
            "ModelCheckpoint(save_best_only=True, monitor=val_loss, mode=max)"))
        self.assertEqual(self.report(output)["kept_epochs"], [1])
        steps = math.ceil(900 * 0.75 / 32)
        shown = runs.run("inspect", output)
        self.assertEqual(shown.returncode, 0, shown.stdout)
        self.assertRegex(shown.stdout, rf"step +{steps}\b")
        self.assertRegex(shown.stdout, rf"step +{5 * steps}\b")

    def test_a_loss_that_is_no_number_ends_the_job_within_the_epoch(self):
        job = ["--model", "mlp", "--data", "digits:900", "--optimizer", "sgd", "--learning-rate",
               "1e20", "--epochs", "3", "--callbacks", "TerminateOnNaN()"]
        expected, output = self.train(*job)
        report = self.report(output)
        self.assertIn("terminated", report["stop_reason"])
        self.assertLess(report["steps"], 900 // 32)
        self.assertEqual(report["samples_consumed"], report["samples_assigned"])
        again, other = self.train(*job, "--nodes", 3)
        self.assertEqual(again, expected)
        self.assertEqual(self.report(other)["steps"], report["steps"])

    def test_files_of_the_observers(self):
        _, output = self.decided("--epochs", 3, "--validation-freq", 2, callbacks=(
            "CSVLogger(filename=logs/my.csv, separator=';'), TensorBoard(log_dir=board)"))
        history = self.report(output)["history"]
        with open(output / "logs" / "my.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter=";"))
        self.assertEqual([float(row["loss"]) for row in rows], history["loss"])
        self.assertEqual([row["val_loss"] == "NA" for row in rows], [True, False, True])
        (train,) = (output / "board" / "train").iterdir()
        (validation,) = (output / "board" / "validation").iterdir()
        found = scalars_of(train)
        self.assertEqual(len(found), 6)
        for epoch in range(3):
            self.assertAlmostEqual(found[epoch, "epoch_loss"], history["loss"][epoch], 5)
        self.assertEqual(set(scalars_of(validation)), {(1, "epoch_loss"), (1, "epoch_accuracy")})

    def test_what_callbacks_refuse(self):
        for callbacks, words in (("EarlyStoping", ["EarlyStopping"]),
                                 ("EarlyStopping(patiense=1)", ["patience"]),
                                 ("EarlyStopping(monitor=val_acc)", ["val_accuracy"]),
                                 ("CSVLogger(filename=/etc/x)", ["inside the output folder"])):
            done = runs.run("train", *JOB, "--callbacks", callbacks, "--output", self.output())
            self.assert_fails(done, 2, *words)


class FitTest(runs.RunTest):
    def test_steps_per_epoch_goes_on_with_the_data(self):
        job = ["--model", "mlp", "--data", "digits:320"]
        expected, _ = self.train(*job, "--epochs", 3)  # 10 steps each
        again, output = self.train(*job, "--epochs", 5, "--steps-per-epoch", 6, "--nodes", 2)
        self.assertEqual(again, expected)
        report = self.report(output)
        self.assertEqual((report["epochs"], report["steps"]), (5, 30))
        self.assertEqual(report["samples_consumed"], 960)

    def test_initial_epoch(self):
        job = ["--model", "mlp", "--data", "digits:320", "--epochs", "4", "--initial-epoch", "2"]
        expected, output = self.train(*job)
        report = self.report(output)
        self.assertEqual((report["epochs"], report["steps"]), (2, 20))
        self.assertEqual((output / "history.csv").read_text().splitlines()[1][:2], "2,")
        self.assertEqual(self.train(*job, "--nodes", 2)[0], expected)
        done = runs.run("train", *job, "--initial-epoch", 4, "--output", self.output())
        self.assert_fails(done, 2, "--initial-epoch", "--epochs 4")


class OptimizersTest(runs.RunTest):
    def test_norms_averages_and_accumulation_are_the_same_for_any_number_of_nodes(self):
        for optimizer in ('{"name": "adam", "clipnorm": 0.1, "gradient_accumulation_steps": 3}',
                          '{"name": "sgd", "global_clipnorm": 0.5, "use_ema": true}',
                          '{"name": "lamb", "weight_decay": 0.1, '
                          '"exclude_from_weight_decay": ["bias"]}',
                          '{"name": "lars", "learning_rate": 1.0}',
                          '{"name": "adafactor", "learning_rate": 0.01}',
                          '{"name": "muon", "global_clipnorm": 0.5, "use_ema": true, '
                          '"gradient_accumulation_steps": 2}'):
            job = ["--model", "mlp", "--data", "digits:320", "--optimizer", optimizer,
                   "--epochs", "2"]
            expected, output = self.train(*job, "--devices", 1)
            losses = self.report(output)["history"]["loss"]
            self.assertLess(losses[1], losses[0], optimizer)
            self.assertEqual(self.train(*job, "--nodes", 3)[0], expected, optimizer)
            self.assertEqual(self.train(*job, "--devices", 2)[0], expected, optimizer)


if __name__ == "__main__":
    runs.main()
