"""Data sets, their partition over clients, and each client's batches; never knows a model or a method.

Each loader is a module with a function ``load`` that returns a `Dataset`: ``fedlama.data.cifar.load(folder)``.
"""

from __future__ import annotations

from fedlama.data import cifar, digits, huggingface, idx, leaf, mnist_writers, npz_folder, partition, text
from fedlama.data.arrays import Dataset
from fedlama.data.held_rows import hold_out
from fedlama.data.transforms import Normalise, PadCropFlip

__all__ = [
    "Dataset",
    "Normalise",
    "PadCropFlip",
    "cifar",
    "digits",
    "hold_out",
    "huggingface",
    "idx",
    "leaf",
    "mnist_writers",
    "npz_folder",
    "partition",
    "text",
]
