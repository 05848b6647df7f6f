"""The benchmark's network in PyTorch, and the timing of its training steps."""

import time

import torch
from torch import nn

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


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the way around them, as models/resnet.cc has it."""

    def __init__(self, channels, filters, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.around = nn.Identity() if stride == 1 else nn.Sequential(
            nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))

    def forward(self, x):
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.around(x))


def resnet20():
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    channels = 16
    for filters in (16, 32, 64):
        for block in range(3):
            stride = 2 if block == 0 and filters > 16 else 1
            layers.append(BasicBlock(channels, filters, stride))
            channels = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and the way around them, as models/resnet.cc has it."""

    def __init__(self, channels, filters, stride):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, filters, 1, stride), nn.BatchNorm2d(filters), nn.ReLU(),
            nn.Conv2d(filters, filters, 3, 1, 1), nn.BatchNorm2d(filters), nn.ReLU(),
            nn.Conv2d(filters, 4 * filters, 1), nn.BatchNorm2d(4 * filters))
        self.around = nn.Identity() if channels == 4 * filters else nn.Sequential(
            nn.Conv2d(channels, 4 * filters, 1, stride), nn.BatchNorm2d(4 * filters))

    def forward(self, x):
        return torch.relu(self.inner(x) + self.around(x))


def resnet50():
    layers = [nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            filters = 64 << stage
            layers.append(Bottleneck(channels, filters, 2 if block == 0 and stage > 0 else 1))
            channels = 4 * filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 10))


# Of each model: what makes it, the shape of an image, how many different images.
MODELS = {"seed-cnn": (seed_cnn, (1, 28, 28), 2048), "resnet20": (resnet20, (3, 32, 32), 1024),
          "resnet50": (resnet50, (3, 224, 224), 64)}


class Trainer:
    """Trains a model on random data in memory and times each step."""

    def __init__(self, name, batch_size, channels_last=False, compiled=False, wrap=None):
        torch.manual_seed(1)
        make, shape, count = MODELS[name]
        model = make()
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.model = model
        self.initial = {name: value.clone() for name, value in model.state_dict().items()}
        self.optimizer = torch.optim.Adam(model.parameters(), fused=True)
        self.batches = make_batches(shape, count, batch_size, channels_last)
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


def make_batches(shape, count, batch_size, channels_last):
    images = torch.rand(count, *shape)
    labels = torch.randint(10, (count,))
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return list(zip(images.split(batch_size), labels.split(batch_size)))
