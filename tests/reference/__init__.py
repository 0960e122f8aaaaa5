"""A slow, independent NumPy restatement of the methods, to hold the library against.

It shares no code with the library. Read it beside the paper: ``intervals`` is Algorithm 2, ``numpy_fedlama`` is
Algorithm 1, ``federation`` is what all methods share.
"""

from __future__ import annotations

from tests.reference.federation import Federation, MomentumLife, RoundRecord, Slot, Trace, consolidated
from tests.reference.intervals import CutPoint, accelerate_intervals, adjust_intervals, cut_curve
from tests.reference.network import Array, Batch, Model, loss_and_gradient, random_model
from tests.reference.numpy_fedavg import train_fedavg
from tests.reference.numpy_fedlama import FedLamaRules, train_fedlama
from tests.reference.numpy_fedluar import FedLuarTrace, recycling_probabilities, train_fedluar
from tests.reference.numpy_fixed import train_fixed

__all__ = [
    "Array",
    "Batch",
    "CutPoint",
    "FedLamaRules",
    "FedLuarTrace",
    "Federation",
    "Model",
    "MomentumLife",
    "RoundRecord",
    "Slot",
    "Trace",
    "accelerate_intervals",
    "adjust_intervals",
    "consolidated",
    "cut_curve",
    "loss_and_gradient",
    "random_model",
    "recycling_probabilities",
    "train_fedavg",
    "train_fedlama",
    "train_fedluar",
    "train_fixed",
]
