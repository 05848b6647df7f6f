"""`lockstep diff` computes the step at which two runs part again: which of them recorded what its
job gives, and in which partitions and layer the gradients differ."""
import json
import re
import shutil
import struct

import runs

ROWS, BATCH, PARTITIONS = 256, 32, 8
JOB = ["--model", "mlp", "--epochs", 2, "--batch-size", BATCH, "--partitions", PARTITIONS,
       "--optimizer", "sgd", "--seed", 5, "--devices", 1]
STEPS_PER_EPOCH = ROWS // BATCH
CHANGED_ROW = 77


def npy(path, kind, shape, values):
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() +
                     values)


def write_data(folder, changed=None):
    """Rows of 8 features whose class is that of the greatest of the first four."""
    folder.mkdir()
    rows = [[(row * 37 + feature * 91) % 101 / 101 for feature in range(8)] for row in range(ROWS)]
    classes = [max(range(4), key=lambda feature, row=row: row[feature]) for row in rows]
    if changed is not None:
        rows[changed][0] += 0.25
    flat = [value for row in rows for value in row]
    npy(folder / "x.npy", "<f4", (ROWS, 8), struct.pack(f"<{len(flat)}f", *flat))
    npy(folder / "y.npy", "<i8", (ROWS,), struct.pack(f"<{ROWS}q", *classes))
    return folder


class DiffTest(runs.RunTest):
    def setUp(self):
        super().setUp()
        self.data = write_data(self.folder / "data")

    def diff(self, *arguments):
        done = runs.run("diff", *arguments)
        self.assertEqual(done.returncode, 1, done.stderr + done.stdout)
        return done.stdout

    def place_of(self, row, ledger):
        """(step, partition, position in the batch) at which a row is first read."""
        for line in ledger.read_text().splitlines():
            entry = json.loads(line)
            if row in entry["samples"]:
                return entry["step"], entry["partition"], entry["samples"].index(row)
        raise AssertionError(f"row {row} is never read")

    def test_a_row_that_differs_is_found_in_its_partition(self):
        other = write_data(self.folder / "other", CHANGED_ROW)
        ledger = self.folder / "ledger.jsonl"
        _, left = self.train(*JOB, "--data", self.data, "--nodes", 2, "--ledger", ledger)
        _, right = self.train(*JOB, "--data", other)
        step, partition, position = self.place_of(CHANGED_ROW, ledger)
        out = self.diff(left, right)
        self.assertIn("data_digest", out)
        self.assertIn(f"the states differ first after step {step} ", out)
        self.assertEqual(out.count(": what it recorded"), 2, out)
        self.assertIn(f"the gradients of 1 partitions differ: {partition}\n", out)
        first, last = map(int, re.search(r"rows (\d+) to (\d+) of the batch: first in 'dense",
                                         out).groups())
        rows_each = BATCH // PARTITIONS
        self.assertEqual((first, last), (partition * rows_each, (partition + 1) * rows_each - 1))
        self.assertLess(position, rows_each)

    def test_it_says_that_the_update_differs(self):
        _, left = self.train(*JOB, "--data", self.data)
        _, right = self.train(*JOB, "--data", self.data, "--learning-rate", 0.02)
        out = self.diff(left, right)
        self.assertIn("the states differ first after step 0 ", out)
        self.assertIn("it is the update that differs", out)

    def test_it_says_which_run_is_wrong(self):
        """From a checkpoint, and with a rate that a callback has set."""
        rates = ["--callbacks", "LearningRateScheduler(schedule={1: 0.2})"]
        _, left = self.train(*JOB, *rates, "--data", self.data)
        right = self.folder / "right"
        shutil.copytree(left, right)
        wrong = STEPS_PER_EPOCH + 3
        digests = bytearray((right / "digests.bin").read_bytes())
        digests[8 * wrong] ^= 1
        (right / "digests.bin").write_bytes(digests)
        out = self.diff(left, right)
        self.assertIn(f"the states differ first after step {wrong} ", out)
        self.assertIn(f"'{left}', from its state {STEPS_PER_EPOCH}: what it recorded", out)
        self.assertIn(f"'{right}', from its state {STEPS_PER_EPOCH}: NOT what it recorded", out)
        self.assertIn("all partitions have the same gradients", out)
        self.assertNotIn("computed again", self.diff(left, right, "--no-replay"))

    def test_data_that_is_gone_is_named(self):
        _, left = self.train(*JOB, "--data", self.data)
        _, right = self.train(*JOB, "--data", self.data, "--seed", 6)
        moved = self.data.rename(self.folder / "moved")
        self.assertIn(f"not computed again: ", self.diff(left, right))
        self.assertIn("what it recorded", self.diff(left, right, "--data", moved))
        shutil.rmtree(moved)
        write_data(moved, CHANGED_ROW)
        out = self.diff(left, right, "--data", moved)
        self.assertIn("the data of", out)
        self.assertIn("--data says where", out)


if __name__ == "__main__":
    runs.main()
