"""evaluate and predict on several nodes: the same bytes for any number, whoever of them dies."""
import json
import os
import pathlib
import shutil
import signal
import struct
import tempfile
import time
import unittest

import faults
import runs
from runs import run

ROWS = 150


def npy(descr, shape, values):
    """An NPY file, made without NumPy."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + values


def tensor(layer, features):
    return {"args": [{"class_name": "__keras_tensor__", "config": {
        "shape": [None, features], "dtype": "float32", "keras_history": [layer, 0, 0]}}],
        "kwargs": {}}


def layer(kind, name, config, *inbound):
    return {"class_name": kind, "config": {"name": name, **config}, "name": name,
            "inbound_nodes": list(inbound)}


def two_outputs():
    """A class and a number of each row."""
    return {"class_name": "Functional", "config": {
        "name": "two",
        "layers": [
            layer("InputLayer", "x", {"batch_shape": [None, 4]}),
            layer("Dense", "shared", {"units": 6, "activation": "tanh"}, tensor("x", 4)),
            layer("Dense", "kind", {"units": 3, "activation": "softmax"}, tensor("shared", 6)),
            layer("Dense", "size", {"units": 1}, tensor("shared", 6))],
        "input_layers": [["x", 0, 0]],
        "output_layers": [["kind", 0, 0], ["size", 0, 0]]}}


def write_rows(folder):
    """Rows of four numbers, two targets and a weight."""
    state, values = 1, []
    for _ in range(ROWS * 4):
        state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        values.append((state >> 40) / (1 << 23) - 1)
    rows = [values[i:i + 4] for i in range(0, len(values), 4)]
    kinds = [(a > b) + (c > 0) for a, b, c, _ in rows]
    folder.mkdir()
    for name, descr, shape, packed in (
            ("x", "<f4", (ROWS, 4), struct.pack(f"<{4 * ROWS}f", *values)),
            ("kind", "<i8", (ROWS,), struct.pack(f"<{ROWS}q", *kinds)),
            ("size", "<f4", (ROWS,), struct.pack(f"<{ROWS}f", *(sum(row) for row in rows))),
            ("sample_weight", "<f4", (ROWS,),
             struct.pack(f"<{ROWS}f", *(1 + abs(row[0]) for row in rows)))):
        (folder / f"{name}.npy").write_bytes(npy(descr, shape, packed))
    return folder


class PredictTest(runs.RunTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = pathlib.Path(tempfile.mkdtemp(prefix="lockstep-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.shared, ignore_errors=True)
        cls.digits = cls.shared / "digits"  # a trained model of some work a row
        done = run("train", "--model", "resnet20", "--data", "digits:64", "--epochs", 1,
                   "--output", cls.digits)
        assert done.returncode == 0, done.stderr
        cls.rows = write_rows(cls.shared / "rows")
        path = cls.shared / "two.json"
        path.write_text(json.dumps(two_outputs()))
        cls.two = cls.shared / "two"
        done = run("train", "--model", path, "--data", cls.rows, "--epochs", 2, "--loss",
                   '{"kind": "sparse_categorical_crossentropy", "size": "mse"}', "--metrics",
                   '{"kind": "accuracy", "size": "mae"}', "--weighted-metrics",
                   '{"kind": "accuracy"}', "--output", cls.two)
        assert done.returncode == 0, done.stderr

    def predict(self, *arguments, ending="npy"):
        self.runs += 1
        output = self.folder / f"{self.runs}.{ending}"
        done = run("predict", *arguments, "--output", output)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, rf"^\d+ rows of shape .* in {output}\n$")
        return output.read_bytes()

    def evaluate(self, *arguments):
        done = run("evaluate", *arguments, "--events", "-")
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_any_number_of_nodes_writes_the_same_bytes(self):
        """150 rows in batches of 16: the last has six."""
        job = ["--model", self.two, "--data", self.rows, "--batch-size", 16]
        predicted = self.predict(*job, ending="npz")
        measured = self.evaluate(*job)
        self.assertIn('"rows":150', measured)
        self.assertIn("kind_accuracy", measured)
        # Every digit, though the weights of the rows differ.
        unweighted = self.shared / "unweighted"
        shutil.copytree(self.rows, unweighted)
        (unweighted / "sample_weight.npy").unlink()
        self.assertNotEqual(self.evaluate("--model", self.two, "--data", unweighted), measured)
        for nodes in (2, "1:3", 5):
            self.assertEqual(self.predict(*job, "--nodes", nodes, ending="npz"), predicted)
            self.assertEqual(self.evaluate(*job, "--nodes", nodes), measured)

    def test_one_output_goes_into_any_file(self):
        job = ["--model", self.digits, "--data", "digits:300", "--batch-size", 7]
        for ending in ("npy", "csv", "npz"):
            one = self.predict(*job, ending=ending)
            self.assertEqual(self.predict(*job, "--nodes", 2, ending=ending), one)
        # Which batches there are makes no difference on a CPU either.
        self.assertEqual(self.predict("--model", self.digits, "--data", "digits:300"),
                         self.predict(*job))

    def test_a_model_file_needs_no_run(self):
        model = self.digits / "model.keras"
        job = ["--model", model, "--data", "digits:300"]
        self.assertEqual(self.predict(*job, "--nodes", 2),
                         self.predict("--model", self.digits, "--data", "digits:300"))
        self.assertEqual(self.evaluate(*job, "--nodes", 2), self.evaluate(*job))

    def start(self, *arguments, busy="node-0"):
        """On nodes, some of whose batches are done, and of which this one computes some."""
        process = faults.Running(*arguments)
        self.addCleanup(process.stop)
        address = process.address()

        def is_under_way():
            status = faults.status(address) or {"members": [], "batches_done": 0}
            held = {member["name"]: member["batches"] for member in status["members"]}
            begin, end = held.get(busy, (0, 0))
            return status["batches_done"] > 0 and begin < end

        runs.wait_until(is_under_way, f"{busy} computes batches")
        return process

    def test_others_compute_what_a_killed_node_had(self):
        job = ["--model", self.digits, "--data", "digits:4200", "--batch-size", 4, "--devices", 1]
        predicted = self.predict(*job)
        measured = run("evaluate", *job).stdout
        output = self.folder / "killed.npy"
        for command, more in (("predict", ["--output", output]), ("evaluate", [])):
            process = self.start(command, *job, *more, "--nodes", 3, busy="node-1")
            os.kill(process.nodes()["node-1"], signal.SIGKILL)
            code, out, log = process.finish()
            self.assertEqual(code, 0, log)
            self.assertRegex(log, r"node 'node-1' is gone: .*; others compute batch")
            self.assertIn("node 'node-1' was ended by signal 9: it is started again", log)
            if command == "predict":
                self.assertEqual(output.read_bytes(), predicted)
            else:
                self.assertEqual(out, measured)

    def test_signals_end_all_and_leave_no_file(self):
        job = ["--model", self.digits, "--data", "digits:12000", "--batch-size", 8]
        for nodes in (2, 1):
            for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
                command = ["predict", *job, "--output", self.folder / "p.npy", "--nodes", nodes]
                children = []
                if nodes == 1:
                    process = faults.Running(*command)
                    self.addCleanup(process.stop)
                    time.sleep(0.5)
                else:
                    process = self.start(*command)
                    children = list(process.nodes().values())
                    self.assertEqual(len(children), nodes)
                begin = time.monotonic()
                process.kill(number)
                self.assertEqual(process.finish(10)[0], code, process.log())
                self.assertLess(time.monotonic() - begin, 2)
                self.assertIn("error: ended by", process.log())
                runs.wait_until(lambda: not any(map(runs.is_alive, children)), "nodes end", 2)
                self.assertEqual(list(self.folder.iterdir()), [])

    def test_nodes_that_are_started_elsewhere(self):
        certificates = self.folder / "certificates"
        run("certs", "--output", certificates, "--job-name", "predictions")
        job = ["--model", self.digits, "--data", "digits:3000", "--batch-size", 16]
        predicted = self.predict(*job)
        output = self.folder / "elsewhere.npy"
        address = f"127.0.0.1:{runs.free_port()}"
        process = faults.Running("predict", *job, "--output", output, "--nodes", 2, "--listen",
                                 address, "--tls", certificates / "coordinator")
        self.addCleanup(process.stop)
        process.wait_for("waiting for nodes")
        other = run("node", "--coordinator", address, "--tls", certificates / "node", "--data",
                    "digits:600")
        self.assert_fails(other, 4, "the data digest", "point --data at the same data set")
        said = run("status", address, "--tls", certificates / "operator")
        self.assertIn("predict: 0 of 32 batches", said.stdout)
        nodes = [faults.Running("node", "--coordinator", address, "--tls", certificates / "node",
                                "--name", f"node-{i}", "--devices", 1) for i in range(2)]
        for node in nodes:
            self.addCleanup(node.stop)
        code, _, log = process.finish()
        self.assertEqual(code, 0, log)
        self.assertEqual(output.read_bytes(), predicted)
        self.assertIn(0, [node.finish()[0] for node in nodes])

    def test_what_cannot_be_is_refused_before_nodes_start(self):
        job = ["--model", self.two, "--data", self.rows]
        output = ["--output", self.folder / "p.npz"]
        for arguments, *words in (
                (["evaluate", *job, "--nodes", 6], "--nodes 6", "5 batches of 32", "at most 5"),
                (["evaluate", *job, "--nodes", 0], "--nodes 0", "between 1 and 1024"),
                (["predict", *job, *output, "--nodes", -1], "--nodes -1"),
                (["predict", *job, "--nodes", 2, "--output", self.folder / "p.npy"],
                 "2 outputs (kind, size)", ".npz"),
                (["predict", *job, *output, "--nodes", 2, "--listen", "nowhere"], "--listen"),
                (["predict", "--model", self.digits, "--data", self.rows, *output, "--nodes", 2],
                 "(4,)", "(28, 28, 1)")):
            done = run(*arguments)
            self.assert_fails(done, 2, *words)
            self.assertNotIn("joined", done.stderr)
        done = run("predict", *job, "--nodes", 2, "--output", self.folder / "none" / "p.npz")
        self.assert_fails(done, 1, self.folder / "none" / "p.npz", "No such file")
        self.assertEqual(list(self.folder.iterdir()), [])


if __name__ == "__main__":
    unittest.TestCase.maxDiff = None
    runs.main()
