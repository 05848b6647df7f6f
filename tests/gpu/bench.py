"""What Lockstep does on this machine's GPUs, beside PyTorch and beside the CPU.

    python3 tests/gpu/bench.py --bin build/release [--quick] [--output DIR]

Each line is a figure, or why it was not measured. Exit 1 where a measurement failed; DIR/bench.json
holds the figures. Needs no network.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

import libraries

HERE = pathlib.Path(__file__).resolve().parent

# Model, batch, partitions (0: the default), numerics of the GPU.
CASES = [("seed-cnn", batch, partitions, numerics)
         for numerics in ("fp32", "tf32", "bf16")
         for batch, partitions in ((32, 0), (32, 1), (128, 0), (128, 1), (1024, 0), (1024, 1))]
CASES += [("resnet20", 128, partitions, numerics)
          for numerics in ("fp32", "tf32", "bf16") for partitions in (0, 1)]
CASES += [("resnet50", 64, partitions, numerics)
          for numerics in ("fp32", "tf32", "bf16") for partitions in (0, 1)]
STEPS = {"seed-cnn": 300, "resnet20": 50, "resnet50": 20}
CPU_BATCH = {"seed-cnn": 32, "resnet20": 32, "resnet50": 4}
CPU_STEPS = {"seed-cnn": 100, "resnet20": 20, "resnet50": 3}
# TFLOP/s without sparsity as NVIDIA's data sheets have them: FP32, TF32, bfloat16.
PEAKS = {"H200": (67, 494.5, 989.5), "H100 80GB HBM3": (67, 494.5, 989.5),
         "H100 PCIe": (51, 378, 756), "A100": (19.5, 156, 312), "B200": (75, 1125, 2250)}


class NotMeasured(Exception):
    """Says why."""


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="a build's folder")
    parser.add_argument("--output", type=pathlib.Path, help="where bench.json is put")
    parser.add_argument("--quick", action="store_true", help="fewer cases and shorter rounds")
    return parser.parse_args()


class Bench:
    def __init__(self, options):
        self.binary = options.bin.resolve() / "lockstep"
        self.quick = options.quick
        self.environment = libraries.environment(options.bin)
        self.gpus = self.find_gpus()
        self.figures = {}
        self.failures = 0

    @staticmethod
    def find_gpus():
        """The names of this machine's GPUs."""
        if shutil.which("nvidia-smi") is None:
            return []
        done = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
                              stdout=subprocess.PIPE, text=True, check=False)
        return done.stdout.splitlines() if done.returncode == 0 else []

    def need_gpus(self, count=1):
        if not self.gpus:
            raise NotMeasured("no GPU")
        if len(self.gpus) < count:
            raise NotMeasured("one GPU alone")

    def lockstep(self, *arguments, timeout=120):
        words = [str(self.binary), "bench", *map(str, arguments)]
        done = subprocess.run(words, env=self.environment, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip().splitlines()[-1:] or done.returncode)
        return json.loads(done.stdout.strip().splitlines()[-1])

    def step(self, model, batch, partitions, numerics, devices, *more):
        steps = (CPU_STEPS if numerics.startswith("cpu") else STEPS)[model]
        return self.lockstep("step", "--model", model, "--batch-size", batch, "--partitions",
                             partitions, "--numerics", numerics, "--devices", devices, "--steps",
                             max(3, steps // 10) if self.quick else steps, *more)

    def figure(self, name, measure):
        """Prints what `measure` returns: a text, and what is kept of it."""
        try:
            text, self.figures[name] = measure()
        except NotMeasured as why:
            text, self.figures[name] = f"not measured: {why}", None
        except Exception as error:  # one figure that fails must not hide the others
            self.failures += 1
            text, self.figures[name] = f"FAILED: {type(error).__name__}: {error}", None
        print(f"{name + ':':<44} {text}", flush=True)
        return self.figures[name]

    # --- the figures ---

    def share_of_peak(self, numerics, flops_per_second):
        place = ("fp32", "tf32", "bf16").index(numerics)
        peaks = [peaks for name, peaks in PEAKS.items() if name in self.gpus[0]]
        if not peaks:
            return "the peak of this GPU is not known here"
        return f"{100 * flops_per_second / 1e12 / peaks[0][place]:.1f} % of the peak"

    def on_gpu(self, model, batch, partitions, numerics):
        self.need_gpus()
        found = self.step(model, batch, partitions, f"cuda-{numerics}", 1)
        rate = found["flops_per_step"] / found["seconds_per_step"]
        return (f"{found['images_per_second']:,.0f} images/s "
                f"({1e6 * found['seconds_per_step']:,.0f} us a step, of which update "
                f"{1e6 * found['update_seconds']:,.0f}; P = {found['partitions']}; "
                f"{self.share_of_peak(numerics, rate)})"), found

    def on_cpu(self, model):
        if self.quick and model == "resnet50":
            raise NotMeasured("takes a minute: not with --quick")
        cores = len(os.sched_getaffinity(0))
        found = self.step(model, CPU_BATCH[model], 0, "cpu-avx2", cores)
        return f"{found['images_per_second']:,.1f} images/s ({cores} threads)", found

    def exact_and_fast(self, model, batch):
        self.need_gpus(2)
        rates = {}
        for exact in ("on", "off"):
            found = self.step(model, batch, 0, "cuda-fp32", len(self.gpus), "--exact", exact)
            rates[exact] = found["images_per_second"]
        return (f"{rates['on']:,.0f} images/s exact, {rates['off']:,.0f} with --exact off "
                f"({len(self.gpus)} GPUs)"), rates

    def graph_and_plain(self, model, batch):
        self.need_gpus()
        microseconds = {}
        for way in ("--graphs", "--no-graphs"):
            found = self.step(model, batch, 0, "cuda-fp32", 1, way)
            microseconds[way] = 1e6 * found["seconds_per_step"]
        return (f"{microseconds['--graphs']:,.0f} us a step replayed, "
                f"{microseconds['--no-graphs']:,.0f} launched one by one"), microseconds

    def links(self, megabytes):
        self.need_gpus(2)
        found = self.lockstep("links", "--numerics", "cuda-fp32", "--devices", len(self.gpus),
                              "--megabytes", megabytes)
        rates = [found[f"{name}_bus_bytes_per_second"] / 1e9
                 for name in ("all_gather", "all_reduce")]
        return (f"{rates[0]:,.1f} GB/s all-gather, {rates[1]:,.1f} GB/s all-reduce "
                f"({found['way']})"), found

    def pytorch(self, model, numerics):
        """All modes in one process: it takes seconds to start."""
        self.need_gpus()
        words = [sys.executable, str(HERE / "torch_step.py"), "--model", model, "--numerics",
                 numerics] + (["--quick"] if self.quick else [])
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=240, check=False)
        if "No module named 'torch'" in done.stderr:
            raise NotMeasured("no PyTorch")
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip().splitlines()[-1:] or done.returncode)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        return "; ".join(f"{name} {rate:,.0f}" for name, rate in found.items()) + " images/s", found

    def cases(self):
        chosen = CASES
        if self.quick:
            chosen = [case for case in CASES
                      if case[1] != 1024 and case[2] == 0 or case[0] == "resnet50"]
        for model, batch, partitions, numerics in chosen:
            share = "" if partitions == 0 else f", P = {partitions}"
            yield f"{model}, batch {batch}, {numerics}{share}", (model, batch, partitions, numerics)

    def run(self):
        print(f"GPUs: {', '.join(self.gpus) or 'none'}")
        for model in CPU_BATCH:
            self.figure(f"{model}, batch {CPU_BATCH[model]}, CPU", lambda m=model: self.on_cpu(m))
        for name, case in self.cases():
            self.figure(name, lambda c=case: self.on_gpu(*c))
        for model in STEPS:
            for numerics in ("fp32", "tf32", "bf16"):
                self.figure(f"PyTorch, {model}, {numerics}",
                            lambda m=model, n=numerics: self.pytorch(m, n))
        for model, batch in (("seed-cnn", 1024), ("resnet50", 64)):
            self.figure(f"exact and not, {model}, batch {batch}",
                        lambda m=model, b=batch: self.exact_and_fast(m, b))
        for model, batch in (("seed-cnn", 32), ("resnet20", 128)):
            self.figure(f"graph and plain, {model}, batch {batch}",
                        lambda m=model, b=batch: self.graph_and_plain(m, b))
        for megabytes in (1, 100):
            self.figure(f"bus bandwidth, {megabytes} MiB", lambda m=megabytes: self.links(m))


def main():
    options = parse()
    bench = Bench(options)
    bench.run()
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        with open(options.output / "bench.json", "w", encoding="utf-8") as file:
            json.dump({"gpus": bench.gpus, "figures": bench.figures}, file, indent=1)
    measured = sum(figure is not None for figure in bench.figures.values())
    print(f"{measured} of {len(bench.figures)} figures measured, {bench.failures} failed")
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
