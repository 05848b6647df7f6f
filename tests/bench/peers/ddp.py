"""Peer: one rank of PyTorch's DistributedDataParallel over gloo on the loopback interface."""

import sys

import torch
import torch.distributed as dist
from network import Trainer
from serve import place, serve
from torch.nn.parallel import DistributedDataParallel


class Peer:
    def configure(self, batch_size, compiled, channels_last, pinned):
        """batch_size is the global one: each rank trains on its share."""
        place(dist.get_rank(), pinned)
        torch.compiler.reset()

        def wrap(model):
            return DistributedDataParallel(model, gradient_as_bucket_view=True)

        share = batch_size // dist.get_world_size()
        self.trainer = Trainer("seed-cnn", share, channels_last, compiled, wrap)

    def run(self, steps):
        dist.barrier()
        return self.trainer.time_steps(steps)


def main(rank, ranks, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=int(rank), world_size=int(ranks))
    peer = Peer()
    serve({"configure": peer.configure, "run": peer.run})
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
