"""PyTorch training a model on a GPU in each of its modes: images a second, as JSON.

A step is what Lockstep's is: the batch from pinned memory, forward, backward, fused Adam in FP32,
and the loss back on the host.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "bench" / "peers")]

import network  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

BATCHES = {"seed-cnn": (32, 128, 1024), "resnet20": (128,), "resnet50": (64,)}
STEPS = {"seed-cnn": 200, "resnet20": 60, "resnet50": 20}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=BATCHES, default="seed-cnn")
    parser.add_argument("--numerics", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--quick", action="store_true", help="less is compiled, fewer steps")
    return parser.parse_args()


class Step:
    """One way to run a step; `mode` is eager, compiled or graph."""

    def __init__(self, mode, batch, options):
        torch.manual_seed(1)
        make, shape, _ = network.MODELS[options.model]
        memory = torch.channels_last if options.model != "seed-cnn" else torch.contiguous_format
        self.model = make().cuda().to(memory_format=memory)
        self.rounds = options.numerics == "bf16"
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True,
                                          capturable=mode == "graph")
        self.loss = nn.CrossEntropyLoss()
        self.images = torch.rand(batch, *shape).contiguous(memory_format=memory).pin_memory()
        self.labels = torch.randint(10, (batch,)).pin_memory()
        self.x = torch.zeros_like(self.images, device="cuda", memory_format=memory)
        self.y = torch.zeros(batch, dtype=torch.int64, device="cuda")
        self.forward = torch.compile(self.model) if mode == "compiled" else self.model
        self.graph = None
        if mode == "graph":
            self.capture()

    def compute(self):
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.rounds):
            loss = self.loss(self.forward(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return loss

    def capture(self):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(5):
                self.compute()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = self.compute()

    def run(self):
        self.x.copy_(self.images, non_blocking=True)
        self.y.copy_(self.labels, non_blocking=True)
        if self.graph is None:
            return self.compute().item()
        self.graph.replay()
        return self.result.item()

    def median_seconds(self, steps):
        seconds = []
        warm_up = max(5, steps // 10)
        for number in range(warm_up + steps):
            begin = time.perf_counter()
            self.run()
            if number >= warm_up:
                seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds)


def main():
    options = parse()
    torch.backends.cuda.matmul.allow_tf32 = options.numerics == "tf32"
    torch.backends.cudnn.allow_tf32 = options.numerics == "tf32"
    modes = ["eager", "graph", "compiled"]
    if options.quick and (options.model, options.numerics) != ("seed-cnn", "fp32"):
        modes.remove("compiled")  # takes up to a minute
    batches = BATCHES[options.model][:1 if options.quick else None]
    found = {}
    for batch in batches:
        for mode in modes:
            try:
                steps = STEPS[options.model] // (4 if options.quick else 1)
                seconds = Step(mode, batch, options).median_seconds(steps)
                found[f"{mode} batch {batch}"] = batch / seconds
            except Exception as error:  # one mode that fails must not hide the others
                print(f"{mode} batch {batch}: {error}", file=sys.stderr)
    print(json.dumps(found))
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
