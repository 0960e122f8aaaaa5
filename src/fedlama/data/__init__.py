"""Data sets, their partition over clients, and each client's batches; never knows a model or a method.

Each loader is a module with a function ``load`` that returns a `Dataset`: ``fedlama.data.cifar.load(folder)``.
"""

from typing import TYPE_CHECKING

from fedlama.core.later import imported_later

if TYPE_CHECKING:
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

_HOMES = {
    "fedlama.data.arrays": "Dataset",
    "fedlama.data.cifar": "",
    "fedlama.data.digits": "",
    "fedlama.data.held_rows": "hold_out",
    "fedlama.data.huggingface": "",
    "fedlama.data.idx": "",
    "fedlama.data.leaf": "",
    "fedlama.data.mnist_writers": "",
    "fedlama.data.npz_folder": "",
    "fedlama.data.partition": "",
    "fedlama.data.text": "",
    "fedlama.data.transforms": "Normalise PadCropFlip",
}

__getattr__ = imported_later(globals(), _HOMES)
