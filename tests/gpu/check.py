"""What only a GPU can show: runs the device suite, small jobs and a benchmark, in order of risk.

    python3 tests/gpu/check.py --bin build/release --output DIR [--data DIR] [--only NAME,...]

Needs no network. Each step has a time limit and none stops the next; at the end there is a table,
DIR/check.log with everything that was printed, and DIR/check.json with what was found. Exit 0 where
every step passed, 1 where one failed, 77 where there is no GPU.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import libraries

HERE = pathlib.Path(__file__).resolve().parent
NO_GPU = 77


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="a build's folder")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, help="MNIST's folder")
    parser.add_argument("--only", default="", help="names of steps, separated by commas")
    return parser.parse_args()


class Checks:
    def __init__(self, options):
        self.options = options
        self.work = options.output / "work"
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.log = open(options.output / "check.log", "w", encoding="utf-8")
        self.results = []
        self.facts = {}
        self.environment = libraries.environment(options.bin)

    def say(self, line):
        print(line, flush=True)
        self.log.write(line + "\n")
        self.log.flush()

    def program(self, name):
        for path in (self.options.bin / name, self.options.bin / "tests" / name):
            if path.exists():
                return str(path)
        raise FileNotFoundError(f"{name} is not in {self.options.bin}")

    def run(self, *command, timeout=60, quiet=True):
        """The finished process; everything it prints goes to the log."""
        words = [str(word) for word in command]
        self.log.write(f"$ {' '.join(words)}\n")
        self.log.flush()
        own = str(self.options.bin) in words[0] or "compute-sanitizer" in words[0]
        environment = self.environment if own else None
        done = subprocess.run(words, env=environment, timeout=timeout, text=True, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.log.write(done.stdout + f"\n[exit {done.returncode}]\n")
        self.log.flush()
        if not quiet or done.returncode != 0:
            print(done.stdout[-3000:], flush=True)
        return done

    def must(self, *command, **options):
        done = self.run(*command, **options)
        if done.returncode != 0:
            raise RuntimeError(f"{pathlib.Path(str(command[0])).name} exited {done.returncode}")
        return done.stdout

    def step(self, name, check):
        chosen = self.options.only.split(",") if self.options.only else [name]
        if name not in chosen:
            return
        begin = time.monotonic()
        try:
            verdict, what = "passed", check() or ""
        except subprocess.TimeoutExpired as error:
            verdict, what = "FAILED", f"took longer than {error.timeout} s"
            output = error.stdout or b""
            text = output if isinstance(output, str) else output.decode(errors="replace")
            print(text[-2000:], flush=True)
            self.log.write(text)
        except Exception as error:  # a failure of one check must not hide the others
            verdict, what = "FAILED", f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - begin
        self.results.append({"check": name, "verdict": verdict, "what": what, "seconds": seconds})
        self.say(f"{verdict:>7}  {name:<24} {seconds:6.1f} s  {what}")

    # --- the checks ---

    def device(self):
        text = self.must("nvidia-smi", "--query-gpu=name,driver_version,memory.total",
                         "--format=csv,noheader")
        self.facts["gpu"] = text.strip()
        return text.strip()

    def suite(self, program, pattern, timeout=90):
        def check():
            text = self.must(self.program(program), f"--gtest_filter={pattern}", timeout=timeout)
            passed = re.search(r"\[  PASSED  \] (\d+) test", text)
            count = int(passed.group(1)) if passed else 0
            if count == 0:
                raise RuntimeError("no test ran")
            skipped = re.search(r"\[  SKIPPED \] (\d+) test", text)
            return f"{count} tests" + (f", {skipped.group(1)} skipped" if skipped else "")
        return check

    def train(self, nodes, data, *arguments, timeout=90):
        output = self.work / f"run-{len(list(self.work.iterdir()))}"
        text = self.must(self.program("lockstep"), "train", "--model", "seed-cnn", "--data", data,
                         "--device", "cuda", "--nodes", nodes, "--output", output, *arguments,
                         timeout=timeout)
        return re.search(r"weights sha256: (\w+)", text).group(1), output

    def same_bits(self):
        hashes = {}
        for nodes in (1, 1, 2, 3):
            began = time.monotonic()
            found, _ = self.train(nodes, "digits:2000", "--epochs", 2)
            hashes.setdefault(found, []).append(f"{nodes} ({time.monotonic() - began:.1f} s)")
        self.facts["digits"] = hashes
        if len(hashes) != 1:
            raise RuntimeError(f"the weights differ: {hashes}")
        return f"nodes {', '.join(*hashes.values())}: {next(iter(hashes))[:16]}"

    def models(self):
        hashes = {}
        for model in ("lenet", "mlp", "resnet20"):
            for nodes in (1, 2):
                found, _ = self.train(nodes, "digits:2000", "--epochs", 1, "--model", model)
                hashes.setdefault(model, set()).add(found)
        if any(len(found) != 1 for found in hashes.values()):
            raise RuntimeError(f"the weights differ: {hashes}")
        return "lenet, mlp and resnet20 with 1 and 2 nodes"

    def mnist(self):
        data = self.options.data
        if data is None or not data.exists():
            raise RuntimeError("no MNIST: give --data")
        hashes = set()
        for nodes in (1, 2):
            found, output = self.train(nodes, data, "--epochs", 2, "--batch-size", 32,
                                       timeout=150)
            hashes.add(found)
        text = self.must(self.program("lockstep"), "evaluate", "--model", output, "--data", data,
                         "--device", "cuda")
        accuracy = float(re.search(r"accuracy[^0-9]*([0-9.]+)", text).group(1))
        self.facts["mnist"] = {"accuracy": accuracy, "hashes": sorted(hashes)}
        if len(hashes) != 1 or accuracy < (98 if accuracy > 1 else 0.98):
            raise RuntimeError(f"accuracy {accuracy}, hashes {hashes}")
        return f"1 and 2 nodes the same, {text.strip().splitlines()[-1]}"

    def killed(self):
        text = self.must(self.program("lockstep"), "demo", timeout=120)
        return text.strip().splitlines()[-1]

    def bench(self):
        done = self.run(sys.executable, HERE / "bench.py", "--bin", self.options.bin, "--output",
                        self.options.output, "--quick", quick=False, timeout=240)
        if done.returncode != 0:
            raise RuntimeError(f"bench.py exited {done.returncode}")
        self.facts["bench"] = json.loads((self.options.output / "bench.json").read_text())
        return done.stdout.strip().splitlines()[-1]

    def sanitizer(self):
        tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if not os.path.exists(tool):
            return "skipped: no compute-sanitizer"
        text = self.must(tool, "--error-exitcode", 9, self.program("lockstep_test_graph"),
                         "--gtest_filter=*grouping*cuda*:*naive_device*cuda*", timeout=100)
        if re.search(r"\[  PASSED  \] [1-9]", text) is None:
            raise RuntimeError("no test ran")
        return "memcheck: no error"

    def finish(self):
        shutil.rmtree(self.work, ignore_errors=True)
        with open(self.options.output / "check.json", "w", encoding="utf-8") as file:
            json.dump({"facts": self.facts, "checks": self.results}, file, indent=1)
        failed = [result["check"] for result in self.results if result["verdict"] != "passed"]
        self.say(f"{len(self.results) - len(failed)} of {len(self.results)} checks passed"
                 + (f"; FAILED: {', '.join(failed)}" if failed else ""))
        return 1 if failed else 0


def main():
    options = parse()
    options.bin = options.bin.resolve()
    options.output.mkdir(parents=True, exist_ok=True)
    if shutil.which("nvidia-smi") is None:
        print("skipped: no GPU (nvidia-smi is not here)")
        return NO_GPU
    checks = Checks(options)
    checks.step("device", checks.device)
    checks.step("programs", checks.suite("lockstep_test_graph", "*cuda*:-DeviceLink.*"))
    checks.step("golden", checks.suite("lockstep_test_nn", "*cuda*:GradientCheck*", 150))
    checks.step("optimizers", checks.suite("lockstep_test_optim", "*cuda*"))
    checks.step("same-bits", checks.same_bits)
    checks.step("models", checks.models)
    checks.step("mnist", checks.mnist)
    checks.step("killed", checks.killed)
    checks.step("links", checks.suite("lockstep_test_graph", "DeviceLink.*cuda"))
    checks.step("sanitizer", checks.sanitizer)
    checks.step("bench", checks.bench)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
