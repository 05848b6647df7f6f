"""Every bad input gets a message that names the thing and the remedy."""
import gzip
import json
import socket
import struct

import runs
from runs import run, start

GOOD = {"--model": "mlp", "--data": "digits:64", "--epochs": "1"}


def write_idx(folder, images=8, labels=8, size=28, label=lambda i: i % 10, count=None):
    """A small IDX data set, training and test files alike."""
    folder.mkdir(exist_ok=True)
    pixels = bytes(images * size * size)
    header = struct.pack(">IIII", 0x803, count or images, size, size)
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + pixels)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, labels) + bytes(label(i) for i in range(labels)))
    return folder


class BadInputTest(runs.RunTest):
    def train_with(self, changes=None, *more, env=None):
        options = {**GOOD, **(changes or {}), "--output": str(self.folder / "out")}
        arguments = [word for pair in options.items() for word in pair]
        return run("train", *arguments, *more, env=env)

    def test_names(self):
        cases = [
            ({"--model": "seed-cn"}, ("seed-cn", "did you mean 'seed-cnn'", "lenet")),
            ({"--data": "digit"}, ("digit", "digits")),
            ({"--data": "/no/such/folder"}, ("/no/such/folder",)),
            ({"--optimizer": "adm"}, ("adm", "did you mean 'adam'")),
            ({"--loss": "crossentropy"}, ("crossentropy", "sparse_categorical_crossentropy")),
            ({"--metrics": "acuracy"}, ("acuracy", "accuracy")),
            ({"--strategy": "synchronus"}, ("synchronus", "did you mean 'synchronous'")),
            ({"--numerics": "cpu-avx"}, ("cpu-avx", "did you mean 'cpu-avx2'")),
            ({"--exact": "of"}, ("of", "did you mean 'off'")),
            ({"--exact": "off", "--numerics": "cpu-avx2"}, ("--exact off", "always exact")),
            ({"--exact": "off", "--numerics": "cuda-fp32", "--nodes": "2"},
             ("--exact off", "at most one node", "--nodes 1")),
            ({"--device": "gpu"}, ("gpu", "cuda")),
        ]
        for changes, words in cases:
            with self.subTest(changes=changes):
                done = self.train_with(changes)
                self.assert_fails(done, done.returncode, *words)
                self.assertIn(done.returncode, (1, 2))

    def test_flags(self):
        done = self.train_with({"--batchsize": "3"})
        self.assert_fails(done, 2, "--batchsize", "did you mean '--batch-size'")
        self.assert_fails(self.train_with({"--epochs": "many"}), 2, "--epochs", "many")
        self.assert_fails(run("train", "--model"), 2, "--model", "needs a value")
        self.assert_fails(run("train", "model"), 2, "'model' is not a flag")
        self.assert_fails(run("trian"), 2, "trian", "did you mean 'train'")
        self.assert_fails(run("train", "--data", "digits"), 2, "--model is missing")
        done = self.train_with({}, env={"LOCKSTEP_EPOCHS": "x"})
        self.assertEqual(done.returncode, 2)
        self.assertIn("LOCKSTEP_EPOCHS", done.stderr)

    def test_numbers(self):
        cases = [
            ({"--batch-size": "0"}, ("--batch-size 0", "between 1 and")),
            ({"--batch-size": "-3"}, ("--batch-size -3",)),
            ({"--epochs": "0"}, ("--epochs 0", "between 1 and")),
            ({"--partitions": "3"}, ("--partitions 3", "power of two", "8")),
            ({"--partitions": "64"}, ("--partitions 64", "batch of 32", "--batch-size")),
            ({"--nodes": "0"}, ("--nodes 0", "between 1 and")),
            ({"--nodes": "two"}, ("--nodes two", "MIN:MAX")),
            ({"--nodes": "3:2"}, ("--nodes 3:2", "MIN must not be above MAX")),
            ({"--checkpoint-every": "5m"}, ("--checkpoint-every 5m", "60s", "500steps")),
            ({"--keep-checkpoints": "0"}, ("--keep-checkpoints 0", "between 1 and")),
            ({"--verify-every": "-1"}, ("--verify-every -1",)),
            ({"--devices": "0"}, ("--devices 0",)),
            ({"--validation-split": "1"}, ("--validation-split 1", "below 1")),
            ({"--learning-rate": "nan"}, ("--learning-rate",)),
            ({"--seed": "-1"}, ("--seed",)),
        ]
        for changes, words in cases:
            with self.subTest(changes=changes):
                self.assert_fails(self.train_with(changes), 2, *words)

    def test_resume(self):
        self.assert_fails(run("train", "--resume"), 2, "--resume", "--output")
        self.assert_fails(run("train", "--resume", "--output", self.folder / "none"), 2,
                          "none", "job.json")
        done = run("node", "--coordinator-timeout", "-1")
        self.assert_fails(done, 2, "--coordinator-timeout -1", "between 0 and")

    def test_job_files(self):
        job = self.folder / "job.json"
        cases = [("{", ("not JSON",)), ('{"epoch": 1}', ("epoch", "did you mean 'epochs'")),
                 ('{"epochs": "two"}', ("epochs", "two", "whole number")),
                 ('[1]', ("JSON object",)),
                 ('{"optimizer": {"name": "adam", "beta1": 0.9}}', ("beta1", "beta_1"))]
        for text, words in cases:
            with self.subTest(text=text):
                job.write_text(text)
                self.assert_fails(self.train_with({"--job": str(job)}), 2, str(words[0]), *words)
        self.assert_fails(self.train_with({"--job": "/no/job.json"}), 1, "/no/job.json")

    def test_idle_devices_are_said(self):
        done = self.train_with({"--nodes": "3", "--partitions": "2", "--devices": "1"})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("1 will idle", done.stderr)
        self.assertIn("spare", done.stderr)


class BadDataTest(runs.RunTest):
    def check(self, folder, *words):
        done = run("train", "--model", "mlp", "--data", folder, "--output", self.output())
        self.assert_fails(done, done.returncode, *words)
        self.assertIn(done.returncode, (1, 2))

    def test_missing_and_damaged_files(self):
        data = write_idx(self.folder / "data")
        images = data / "train-images-idx3-ubyte"
        good = images.read_bytes()
        images.write_bytes(good[:1000])
        self.check(data, "train-images-idx3-ubyte", "1000")
        images.write_bytes(b"\0\0\x0d\x03" + good[4:])
        self.check(data, "train-images-idx3-ubyte")
        images.write_bytes(b"not an IDX file at all")
        self.check(data, "train-images-idx3-ubyte", "no IDX file")
        images.write_bytes(gzip.compress(good)[:-20])
        self.check(data, "train-images-idx3-ubyte")
        images.unlink()
        self.check(data, "train-images-idx3-ubyte")

    def test_counts_and_labels(self):
        self.check(write_idx(self.folder / "counts", images=8, labels=7), "8", "7")
        self.check(write_idx(self.folder / "huge", count=2**31), "2147483648")

    def test_data_that_does_not_fit_the_model(self):
        data = write_idx(self.folder / "small", size=4)
        done = run("train", "--model", "seed-cnn", "--data", data, "--output", self.output())
        self.assert_fails(done, done.returncode, "conv2d", "(2, 2, 4)")

    def test_evaluate_on_other_data(self):
        _, output = self.train("--model", "mlp", "--data", "digits:64")
        data = write_idx(self.folder / "small", size=20)
        done = run("evaluate", "--model", output, "--data", data)
        self.assert_fails(done, 2, "(20, 20, 1)", "(28, 28, 1)")
        self.assert_fails(run("evaluate", "--model", self.folder), 2, "job.json")


class BadPeerTest(runs.RunTest):
    def coordinator(self, *more):
        port = runs.free_port()
        process = start("coordinator", "--model", "mlp", "--data", "digits:64", "--listen",
                        f"127.0.0.1:{port}", "--output", self.output(), *more)
        self.addCleanup(runs.stop_processes, process)
        line = ""
        while "waiting for" not in line:
            line = process.stderr.readline()
            self.assertTrue(line)
        return process, f"127.0.0.1:{port}"

    def test_port_in_use(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            done = run("coordinator", "--model", "mlp", "--data", "digits:64", "--listen", address,
                       "--output", self.output())
            self.assert_fails(done, 1, address.split(":")[1], "in use")

    def test_no_coordinator(self):
        done = run("node", "--coordinator", f"127.0.0.1:{runs.free_port()}", "--connect-timeout",
                   "1")
        self.assert_fails(done, 1, "no coordinator", "--coordinator")
        self.assert_fails(run("node", "--coordinator", "nowhere"), 2, "--coordinator", "HOST:PORT")
        done = run("node", "--coordinator", "here:1", "--advertise", "$(POD_IP):7071")
        self.assert_fails(done, 2, "--advertise", "$(POD_IP)", "host")

    def test_other_data_is_refused_and_the_job_goes_on(self):
        process, address = self.coordinator()
        node = run("node", "--coordinator", address, "--data", "digits:65", "--devices", "1")
        self.assert_fails(node, 4, "refused to join", "data digest", "--data")
        good = run("node", "--coordinator", address, "--devices", "1")
        self.assertEqual(good.returncode, 0, good.stderr)
        self.assertEqual(runs.finish(process)[0], 0)

    def test_garbage_does_not_stop_a_job(self):
        process, address = self.coordinator("--nodes", "2")
        host, port = address.split(":")
        hostile = [b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\x80\x01\x00\x01\x00\x00\x00\x05hello",
                   struct.pack(">I", 0xFFFFFFFF) * 4,
                   # a call of report_step whose struct holds a list of 2^31 - 1 elements
                   b"\x80\x01\x00\x01\x00\x00\x00\x0breport_step\x00\x00\x00\x01\x0c\x00\x01"
                   b"\x0f\x00\x06\x0c\x7f\xff\xff\xff"]
        before = self.resident_kib(process.pid)
        sockets = []
        for message in hostile:
            peer = socket.create_connection((host, int(port)))
            peer.sendall(message)
            sockets.append(peer)  # and then silence
        first = start("node", "--coordinator", address, "--devices", "1", "--name", "a")
        second = start("node", "--coordinator", address, "--devices", "1", "--name", "b")
        self.assertLess(self.resident_kib(process.pid) - before, 16 * 1024)
        for node in (first, second):
            code, _, err = runs.finish(node)
            self.assertEqual(code, 0, err)
        code, out, err = runs.finish(process)
        self.assertEqual(code, 0, err)
        runs.sha256_of(out)
        for peer in sockets:
            peer.close()

    def resident_kib(self, pid):
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            return int(next(line for line in status if line.startswith("VmRSS")).split()[1])

    def test_status(self):
        process, address = self.coordinator()
        status = run("status", address, "--json")
        self.assertEqual(json.loads(status.stdout)["phase"], "gathering")
        self.assertEqual(run("node", "--coordinator", address, "--devices", "1").returncode, 0)
        runs.finish(process)


if __name__ == "__main__":
    runs.main()
