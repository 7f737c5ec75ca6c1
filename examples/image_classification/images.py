"""Labelled images, and how they are spread over the agents."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

SIDE, CHANNELS, CLASSES = 32, 3, 10  # of CIFAR-10
RECORD_BYTES = 1 + CHANNELS * SIDE * SIDE  # a label, then the red, green and blue planes


class DataError(Exception):
    """The images cannot be read; the text says why."""


@dataclass
class Images:
    """Pixels from 0 to 255, uint8 of shape (images, channels, height, width), and a label each."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen) -> "Images":
        return Images(self.pixels[chosen], self.labels[chosen])


def load(cifar10: Path | None, seed: int) -> tuple[Images, Images]:
    """Return training and test images: CIFAR-10 of a folder, or scikit-learn's digits."""
    return read_cifar10(cifar10) if cifar10 else read_digits(seed)


def read_digits(seed: int) -> tuple[Images, Images]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    grey = torch.tensor(pixels * (255 / 16), dtype=torch.uint8).view(-1, 1, 8, 8)
    images = Images(grey, torch.tensor(labels))
    order = np.random.default_rng(seed).permutation(len(images))
    return images[order[len(images) // 4 :]], images[order[: len(images) // 4]]


def read_cifar10(folder: Path) -> tuple[Images, Images]:
    """Read the binary version; the Python version is pickled, and unpickling can run anything."""
    if not (folder / "test_batch.bin").exists():
        raise DataError(
            f"{folder}: there is no test_batch.bin; CIFAR-10 is wanted in its binary version, "
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
        )
    batches = [_batch(folder / f"data_batch_{number}.bin") for number in range(1, 6)]
    train = Images(torch.cat([b.pixels for b in batches]), torch.cat([b.labels for b in batches]))
    return train, _batch(folder / "test_batch.bin")


def _batch(path: Path) -> Images:
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if raw.size == 0 or raw.size % RECORD_BYTES or (raw[::RECORD_BYTES] >= CLASSES).any():
        raise DataError(f"{path}: not a batch of CIFAR-10's binary version")
    records = torch.from_numpy(raw).view(-1, RECORD_BYTES)
    return Images(records[:, 1:].reshape(-1, CHANNELS, SIDE, SIDE), records[:, 0].long())


def part(train: Images, agent: int, agents: int, label_skew: float, seed: int) -> tuple[Images, Images]:
    """Return what one agent has: images to train on, and a fifth of them held out.

    Args:
        label_skew: Alpha of a Dirichlet distribution, by which the images of each label are
            divided (Hsu et al. 2019, arXiv:1909.06335); small is very uneven, 0 is even.
    """
    chance = np.random.default_rng(seed)  # the same at every agent: each image has one owner
    owned = []
    for label in range(CLASSES):
        indices = chance.permutation(np.flatnonzero(train.labels.numpy() == label))
        shares = chance.dirichlet([label_skew] * agents) if label_skew else np.full(agents, 1 / agents)
        cuts = np.rint(np.cumsum(shares)[:-1] * len(indices)).astype(int)
        owned.append(np.split(indices, cuts)[agent])
    mine = chance.permutation(np.concatenate(owned))
    if len(mine) < 10:
        raise DataError(f"agent {agent} has only {len(mine)} images: larger --label-skew, or fewer agents")
    return train[mine[len(mine) // 5 :]], train[mine[: len(mine) // 5]]
