"""The benchmark's network in PyTorch, and the timing of its training steps."""

import time

import torch
from torch import nn

IMAGES = 2048
WARM_UP_STEPS = 5


def seed_cnn():
    """The seed's CNN; its last layer gives logits, the loss holds the softmax."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(),
        nn.Conv2d(4, 8, 3), nn.ReLU(),
        nn.Conv2d(8, 12, 3), nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 22 * 22, 256), nn.ReLU(),
        nn.Linear(256, 10),
    )


class Trainer:
    """Trains a model on random data in memory and times each step."""

    def __init__(self, model, batch_size, channels_last=False, compiled=False, wrap=None):
        torch.manual_seed(1)
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.model = model
        self.initial = {name: value.clone() for name, value in model.state_dict().items()}
        self.optimizer = torch.optim.Adam(model.parameters(), fused=True)
        self.batches = make_batches(batch_size, channels_last)
        self.loss = nn.CrossEntropyLoss()
        wrapped = wrap(model) if wrap else model
        self.forward = torch.compile(wrapped) if compiled else wrapped

    def step(self, images, labels):
        self.optimizer.zero_grad()
        self.loss(self.forward(images), labels).backward()
        self.optimizer.step()

    def restart(self):
        """Back to the first weights: a net that has converged computes with denormals."""
        self.model.load_state_dict(self.initial)
        self.optimizer.state.clear()

    def time_steps(self, count):
        self.restart()
        seconds = []
        for number in range(WARM_UP_STEPS + count):
            images, labels = self.batches[number % len(self.batches)]
            start = time.perf_counter()
            self.step(images, labels)
            seconds.append(time.perf_counter() - start)
        return seconds[WARM_UP_STEPS:]


def make_batches(batch_size, channels_last):
    images = torch.rand(IMAGES, 1, 28, 28)
    labels = torch.randint(10, (IMAGES,))
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return list(zip(images.split(batch_size), labels.split(batch_size)))
