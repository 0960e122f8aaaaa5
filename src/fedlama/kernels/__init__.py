"""Compiled CPU kernels over NumPy arrays, built with Numba; never knows PyTorch, an engine or a federation.

This file is the room's one door: NumPy arrays come in, are checked once, and are advanced in place. The kernels need
Numba (``pip install 'fedlama[fast]'``), and :func:`can_compile` says whether it is installed; importing this costs
nothing. Nothing here imports PyTorch or an engine. See README.md beside this file for the memory layouts.
"""

from fedlama.kernels.kernel import can_compile
from fedlama.kernels.model import Batches, Model, SGDSettings, StackedTensor, plan_model
from fedlama.kernels.modes import CHECKED
from fedlama.kernels.stacks import (
    Rounded,
    SampleTable,
    average_rows,
    fill_rows,
    round_differences,
    shuffle_rows,
    squared_norms,
)
from fedlama.kernels.steps import (
    Add,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    Mean,
    MeanPool,
    Norm,
    Operation,
    Pair,
    Relu,
    Step,
    pool_before_relu,
    uses,
)
from fedlama.kernels.table import Scratch

__all__ = [
    "CHECKED",
    "Add",
    "Batches",
    "Convolution",
    "Dense",
    "Dropout",
    "Flatten",
    "MaxPool",
    "Mean",
    "MeanPool",
    "Model",
    "Norm",
    "Operation",
    "Pair",
    "Relu",
    "Rounded",
    "SGDSettings",
    "SampleTable",
    "Scratch",
    "StackedTensor",
    "Step",
    "average_rows",
    "can_compile",
    "fill_rows",
    "plan_model",
    "pool_before_relu",
    "round_differences",
    "shuffle_rows",
    "squared_norms",
    "uses",
]
