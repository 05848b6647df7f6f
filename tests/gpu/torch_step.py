"""PyTorch training the seed's CNN on a GPU: the median step in each of its modes, as JSON.

A step is what Lockstep's is: the batch from pinned memory, forward, backward, fused Adam in FP32,
and the loss back on the host.
"""

import json
import statistics
import sys
import time

import torch
from torch import nn

BATCHES = (32, 128, 1024)
WARM_UP = 20
STEPS = 200


def seed_cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3),
        nn.ReLU(), nn.Flatten(), nn.Linear(12 * 22 * 22, 256), nn.ReLU(), nn.Linear(256, 10))


class Step:
    """One way to run a step; `mode` is eager, compiled or graph."""

    def __init__(self, mode, batch):
        torch.manual_seed(1)
        self.model = seed_cnn().cuda()
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True,
                                          capturable=mode == "graph")
        self.loss = nn.CrossEntropyLoss()
        self.images = torch.rand(batch, 1, 28, 28).pin_memory()
        self.labels = torch.randint(10, (batch,)).pin_memory()
        self.x = torch.zeros(batch, 1, 28, 28, device="cuda")
        self.y = torch.zeros(batch, dtype=torch.int64, device="cuda")
        self.forward = torch.compile(self.model) if mode == "compiled" else self.model
        self.graph = None
        if mode == "graph":
            self.capture()

    def compute(self):
        self.optimizer.zero_grad(set_to_none=True)
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

    def median_seconds(self):
        seconds = []
        for number in range(WARM_UP + STEPS):
            begin = time.perf_counter()
            self.run()
            if number >= WARM_UP:
                seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds)


def main():
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    found = {}
    for batch in BATCHES:
        for mode in ("eager", "graph", "compiled"):
            try:
                found[f"{mode} batch {batch}"] = Step(mode, batch).median_seconds()
            except Exception as error:  # one mode that fails must not hide the others
                print(f"{mode} batch {batch}: {error}", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
