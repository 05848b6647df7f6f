"""Jobs on arrays and tables: the same bits for any number of nodes, and from any kind of file."""
import json
import struct
import zipfile

import runs
from runs import run

ROWS = 150


def npy(descr, shape, values):
    """An NPY file, made without NumPy."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + values


def numbers():
    """Rows of four numbers and the class of each: which of the first two is greater, and their
    signs."""
    state, rows, classes = 1, [], []
    for _ in range(ROWS):
        row = []
        for _ in range(4):
            state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
            row.append((state >> 40) / (1 << 23) - 1)
        rows.append(row)
        classes.append((row[0] > row[1]) + (row[2] > 0))
    return rows, classes


def write_npz(path, x, y, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x.npy", x)
        archive.writestr("y.npy", y)
    return path


def arrays():
    rows, classes = numbers()
    x = npy("<f4", (ROWS, 4), b"".join(struct.pack("<4f", *row) for row in rows))
    return x, npy("<i8", (ROWS,), struct.pack(f"<{ROWS}q", *classes))


def write_csv(path, hole=False):
    rows, classes = numbers()
    lines = ["a,b,c,d,kind"]
    for row, kind in zip(rows, classes):
        lines.append(",".join(map(repr, row)) + f",{kind}")
    if hole:
        lines[3] = "," + lines[3].split(",", 1)[1]
    path.write_text("\n".join(lines) + "\n")
    return path


class DataTest(runs.RunTest):
    def weights(self, data, *more, nodes=1):
        done = run("train", "--model", "mlp", "--data", data, "--epochs", "2", "--batch-size", "16",
                   "--validation-split", "0.2", "--nodes", nodes, "--output", self.output(), *more)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.split()[-1]

    def test_any_kind_of_file_and_any_number_of_nodes(self):
        x, y = arrays()
        folder = self.folder / "arrays"
        folder.mkdir()
        (folder / "x_train.npy").write_bytes(x)
        (folder / "y_train.npy").write_bytes(y)
        stored = write_npz(self.folder / "x.npz", x, y)
        deflated = write_npz(self.folder / "deflated.npz", x, y, zipfile.ZIP_DEFLATED)
        hashes = {self.weights(stored), self.weights(stored, nodes=2),
                  self.weights(deflated, nodes=2), self.weights(folder),
                  self.weights(write_csv(self.folder / "x.csv"), nodes=2)}
        self.assertEqual(len(hashes), 1, hashes)

    def test_what_the_recipe_holds(self):
        table = write_csv(self.folder / "x.csv", hole=True)
        done = run("train", "--model", "mlp", "--data", table, "--output", self.output())
        self.assert_fails(done, 1, "line 4, column 1 ('a')", "--missing")
        first = self.weights(table, "--missing", "0.5", "--target", "kind")
        out = self.folder / "again"
        done = run("train", "--model", "mlp", "--data", table, "--epochs", "2", "--batch-size",
                   "16", "--validation-split", "0.2", "--missing", "0.5", "--target", "kind",
                   "--nodes", "2", "--output", out)
        self.assertEqual(done.stdout.split()[-1], first)
        job = json.loads((out / "job.json").read_text())
        self.assertEqual((job["missing"], job["target"]), (0.5, ["kind"]))
        self.assertNotEqual(self.weights(table, "--missing", "-0.5"), first)
        done = run("evaluate", "--model", out, "--data", table)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"{ROWS} rows - loss: ", done.stdout)

    def test_validation_steps(self):
        x, y = arrays()
        data = write_npz(self.folder / "x.npz", x, y)
        out = self.folder / "out"
        done = run("train", "--model", "mlp", "--data", data, "--batch-size", "8",
                   "--validation-split", "0.5", "--validation-steps", "3", "--output", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads((out / "job.json").read_text())["validation_rows"], 24)

    def test_refused(self):
        x, y = arrays()
        data = write_npz(self.folder / "x.npz", x, y)
        table = write_csv(self.folder / "x.csv")
        other = write_npz(self.folder / "other.npz", x, x)
        cases = [
            ((data, "--target", "z"), ("no array z_train or z", "x, y")),
            ((data, "--missing", "0"), ("--missing is for CSV files",)),
            ((table, "--target", "knd"), ("did you mean 'kind'",)),
            ((table, "--target", "b"), ("reads classes", "not whole numbers")),
            ((other,), ("tells classes apart", "not whole numbers")),
            ((data, "--class-weight", "{"), ("is not JSON",)),
            ((data, "--class-weight", '{"one": 1}'), ("'one' is no class",)),
            ((data, "--class-weight", '{"1": -1}'), ("class 1 has the weight -1",)),
            ((data, "--validation-steps", "-1"), ("--validation-steps -1",)),
            ((data, "--validation-data", other), ("targets have the shape (4,)",)),
        ]
        for arguments, words in cases:
            with self.subTest(arguments=arguments):
                done = run("train", "--model", "mlp", "--output", self.output(), "--data",
                           *arguments)
                self.assert_fails(done, done.returncode, *words)
                self.assertIn(done.returncode, (1, 2))


if __name__ == "__main__":
    runs.main()
