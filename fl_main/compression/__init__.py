"""Codecs: updates and global models in fewer bytes, at a loss; off unless a run's settings say so."""

from collections.abc import Callable, Mapping

import numpy as np

from fl_main.compression.base import Check, Codec
from fl_main.compression.feedback import left_of
from fl_main.compression.half import BFloat16, Float16
from fl_main.compression.int8 import Int8
from fl_main.compression.qsgd import Qsgd
from fl_main.compression.random_k import RandomK
from fl_main.compression.top_k import TopK
from fl_main.compression.vector import Signal
from fl_main.settings import CompressionSettings

__all__ = [
    "CODECS",
    "Check",
    "Codec",
    "Signal",
    "chance_of",
    "download_codec_of",
    "left_of",
    "update_codec_of",
]

# What null stands for in the settings.
FRACTION = 0.01
LEVELS = 127
BLOCK = 512

CODECS: Mapping[str, Callable[[CompressionSettings], Codec]] = {
    "float16": lambda settings: Float16(),
    "bfloat16": lambda settings: BFloat16(),
    "int8": lambda settings: Int8(settings.block or BLOCK, settings.rounding or "stochastic"),
    "qsgd": lambda settings: Qsgd(settings.block or BLOCK, settings.levels or LEVELS),
    "top-k": lambda settings: TopK(settings.fraction or FRACTION),
    "random-k": lambda settings: RandomK(settings.fraction or FRACTION, settings.feeds_back),
}

# Of global models: rounded to the nearest, so that they are the same for everybody.
DOWNLOADS: Mapping[str, Codec] = {
    "float16": Float16(),
    "bfloat16": BFloat16(),
    "int8": Int8(BLOCK, "nearest"),
}


def update_codec_of(settings: CompressionSettings) -> Codec | None:
    """Return the codec of updates, from agents to the aggregator; None if they travel as they are."""
    return None if settings.codec == "none" else CODECS[settings.codec](settings)


def download_codec_of(settings: CompressionSettings) -> Codec | None:
    """Return the codec of the global model on its way to agents; None if it travels as it is."""
    return None if settings.download == "none" else DOWNLOADS[settings.download]


def chance_of(seed: int) -> np.random.Generator:
    """Return the chance with which an update is encoded: never for privacy, it can be known.

    Args:
        seed: Of the task. Training draws from the same number, and must not meet the same chance.
    """
    return np.random.default_rng([seed, 0x636F646563])  # "codec"
