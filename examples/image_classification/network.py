"""A small convolutional network, and how it is trained and measured, federated or not."""

import torch
from images import CLASSES, Images
from torch import nn
from torch.nn import functional as F


class Network(nn.Module):
    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * (side // 4) ** 2, 64)
        self.out = nn.Linear(64, CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(pixels / 255)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.out(F.relu(self.hidden(x.flatten(1))))


def make(images: Images, seed: int) -> Network:
    """Return a new network for such images; one seed gives one network."""
    torch.manual_seed(seed)
    return Network(*images.pixels.shape[1:3])


def train(net: Network, images: Images, *, epochs: int, rate: float, batch: int, seed: int) -> float:
    """Go over the images so many times; return the mean loss of the last time."""
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
    for _ in range(epochs):
        losses = 0.0
        for chosen in torch.randperm(len(images)).split(batch):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images.pixels[chosen]), images.labels[chosen])
            loss.backward()
            optimizer.step()
            losses += loss.item() * len(chosen)
    return losses / len(images)


@torch.no_grad()
def measure(net: Network, images: Images) -> dict[str, float]:
    scores = torch.cat([net(pixels) for pixels in images.pixels.split(1000)])
    right = (scores.argmax(1) == images.labels).float().mean()
    return {"loss": F.cross_entropy(scores, images.labels).item(), "accuracy": right.item()}
