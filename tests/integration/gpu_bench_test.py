"""`./dev bench gpu` on a machine without a GPU: each figure of one says so, the CPU's are there."""
import json
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

import runs

BENCH = pathlib.Path(__file__).resolve().parents[1] / "gpu" / "bench.py"


@unittest.skipIf(shutil.which("nvidia-smi"), "this machine may have a GPU")
class GpuBenchTest(runs.RunTest):
    def test_what_is_not_measured_says_why(self):
        folder = pathlib.Path(runs.LOCKSTEP).parent
        done = subprocess.run([sys.executable, "-B", BENCH, "--bin", folder, "--quick", "--output",
                               self.folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=300, check=False)
        self.assertEqual(done.returncode, 0, done.stdout)
        lines = dict(re.findall(r"(?m)^(.*?): +(.*)$", done.stdout))
        self.assertEqual(lines.pop("GPUs"), "none")
        for model in ("seed-cnn", "resnet20"):
            self.assertRegex(lines.pop(f"{model}, batch 32, CPU"), r"^[\d,.]+ images/s")
        self.assertIn("not measured", lines.pop("resnet50, batch 4, CPU"))
        self.assertEqual(set(lines.values()), {"not measured: no GPU"})
        for part in ("seed-cnn, batch 32, fp32", "resnet20, batch 128, tf32",
                     "resnet50, batch 64, bf16", "PyTorch, resnet50, bf16",
                     "exact and not, resnet50, batch 64", "graph and plain, seed-cnn, batch 32",
                     "bus bandwidth, 100 MiB"):
            self.assertIn(part, lines)
        self.assertIn(f"2 of {len(lines) + 3} figures measured, 0 failed", done.stdout)
        figures = json.loads((self.folder / "bench.json").read_text())["figures"]
        self.assertGreater(figures["seed-cnn, batch 32, CPU"]["images_per_second"], 0)
        self.assertIsNone(figures["bus bandwidth, 1 MiB"])


if __name__ == "__main__":
    runs.main()
