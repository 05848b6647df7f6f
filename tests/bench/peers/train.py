"""Peer: PyTorch training a model in one process, eager or compiled."""

import torch
from network import Trainer
from serve import serve


class Peer:
    def configure(self, model, batch_size, compiled, threads, channels_last):
        torch.set_num_threads(threads)
        torch.compiler.reset()
        self.trainer = Trainer(model, batch_size, channels_last, compiled)

    def run(self, steps):
        return self.trainer.time_steps(steps)


if __name__ == "__main__":
    peer = Peer()
    serve({"configure": peer.configure, "run": peer.run})
