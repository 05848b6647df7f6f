"""What a run leaves behind, and that nothing is overwritten."""
import hashlib
import json
import os
import pathlib
import struct
import subprocess
import sys

import runs
from runs import ROOT, run

SMALL = ["--model", "seed-cnn", "--data", "digits:200", "--epochs", "2"]


def read_safetensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__")
    body = data[8 + size:]
    return {name: body[slice(*entry["data_offsets"])] for name, entry in header.items()}


class FilesTest(runs.RunTest):
    def test_the_output_folder(self):
        sha256, output = self.train(*SMALL, "--nodes", 2, "--validation-split", 0.1)
        report = self.report(output)
        self.assertEqual(report["status"], "completed")
        self.assertEqual(report["weights_sha256"], sha256)
        self.assertEqual(report["samples_assigned"], 180 * 2)
        self.assertEqual(report["samples_consumed"], 180 * 2)
        self.assertEqual(report["steps"], 2 * 6)
        self.assertEqual(len(report["nodes"]), 2)
        self.assertTrue(report["exact"])
        tensors = read_safetensors(output / "weights.safetensors")
        self.assertEqual(hashlib.sha256(b"".join(tensors.values())).hexdigest(), sha256)
        self.assertEqual(next(iter(tensors)), "conv2d/kernel")
        history = (output / "history.csv").read_text().splitlines()
        self.assertEqual(history[0], "epoch,accuracy,loss,val_accuracy,val_loss")
        self.assertEqual(len(history), 3)
        job = json.loads((output / "job.json").read_text())
        self.assertEqual(job["recipe_sha256"], report["recipe_sha256"])

    def test_evaluate_and_inspect(self):
        sha256, output = self.train(*SMALL)
        one = run("evaluate", "--model", output, "--data", "digits:200", "--devices", 1)
        two = run("evaluate", "--model", output, "--data", "digits:200", "--devices", 2)
        self.assertEqual(one.returncode, 0, one.stderr)
        self.assertRegex(one.stdout, r"^33 rows - loss: \d\.\d+ - accuracy: [01]\.\d+\n$")
        self.assertEqual(one.stdout, two.stdout)
        self.assertIn(sha256, run("inspect", output).stdout)

    def test_the_ledger(self):
        for nodes in (1, 3, 5):
            ledger = self.folder / f"ledger-{nodes}"
            self.train(*SMALL, "--nodes", nodes, "--ledger", ledger, "--seed", 7)
            check = subprocess.run(
                [sys.executable, ROOT / "tests/interop/check_ledger.py", ledger, "--rows", "200",
                 "--batch-size", "32", "--epochs", "2", "--partitions", "8", "--seed", "7"],
                capture_output=True, text=True, timeout=60)
            self.assertEqual(check.returncode, 0, check.stdout + check.stderr)

    def test_another_recipe_is_refused(self):
        _, output = self.train(*SMALL)
        before = self.contents(output)
        done = run("train", *SMALL, "--batch-size", 16, "--output", output)
        self.assert_fails(done, 1, output, "batch_size: 32 there, 16 here", "--output")
        again = run("train", *SMALL, "--output", output)
        self.assert_fails(again, 1, output, "completed run", "--output")
        self.assertEqual(before, self.contents(output))

    def contents(self, folder):
        return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def test_a_folder_that_cannot_be_written(self):
        done = run("train", *SMALL, "--output", "/proc/no-such-folder/x")
        self.assert_fails(done, 1, "/proc/no-such-folder/x", "choose")

    def test_a_full_disk(self):
        mount = self.folder / "small"
        mount.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount],
                                 capture_output=True)
        if mounted.returncode != 0:
            self.skipTest("only root can mount the small disk of this test")
        self.addCleanup(subprocess.run, ["umount", "-l", mount])
        done = run("train", *SMALL, "--output", mount / "run")
        self.assert_fails(done, 3, "No space left", "--resume")
        self.assertEqual(list(pathlib.Path(mount / "run").glob("*.tmp")), [])
        self.assertFalse((mount / "run" / "weights.safetensors").exists())

    def test_job_file_environment_and_flags(self):
        job = self.folder / "job.json"
        job.write_text(json.dumps({"model": "mlp", "data": "digits:64", "epochs": 3,
                                   "batch_size": 8,
                                   "optimizer": {"name": "sgd", "momentum": 0.5}}))
        _, output = self.train("--job", job, "--epochs", 1,
                               env={"LOCKSTEP_BATCH_SIZE": "16", "LOCKSTEP_EPOCHS": "2"})
        resolved = json.loads((output / "job.json").read_text())
        self.assertEqual((resolved["epochs"], resolved["batch_size"]), (1, 16))
        self.assertEqual(resolved["optimizer"]["momentum"], 0.5)

    def test_the_default_folder(self):
        done = run("train", *SMALL, "--epochs", 1, cwd=self.folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        made = os.listdir(self.folder / "lockstep-runs")
        self.assertEqual(len(made), 1)
        self.assertTrue(made[0].endswith("-seed-cnn"))


if __name__ == "__main__":
    runs.main()
