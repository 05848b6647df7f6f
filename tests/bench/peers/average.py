"""Peer: one rank of gloo's all_reduce (sum, then a division) on the loopback interface."""

import sys
import time

import torch
import torch.distributed as dist
from serve import place, serve

BYTES_PER_MEGABYTE = 1_000_000
WARM_UP_ROUNDS = 5


def average(tensor):
    dist.all_reduce(tensor)
    tensor.div_(dist.get_world_size())


def run(megabytes, repetitions, pinned):
    place(dist.get_rank(), pinned)
    tensor = torch.rand(megabytes * BYTES_PER_MEGABYTE // 4)
    seconds = []
    for _ in range(WARM_UP_ROUNDS + repetitions):
        dist.barrier()
        start = time.perf_counter()
        average(tensor)
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP_ROUNDS:]


def main(rank, ranks, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=int(rank), world_size=int(ranks))
    serve({"run": run})
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
