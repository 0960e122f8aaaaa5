"""Compiled CPU kernels over NumPy arrays, built with Numba; never knows PyTorch, an engine or a federation.

This file is the room's one door: NumPy arrays come in, are checked once, and are advanced in place. The kernels need
Numba (``pip install 'fedlama[fast]'``), and :func:`can_compile` says whether it is installed; importing this costs
nothing. Nothing here imports PyTorch or an engine. See README.md beside this file for the memory layouts.
"""

from fedlama.kernels.choosing import (
    LeastHashes,
    bound_of_largest,
    keep_differences,
    largest_of,
    positions_of_largest,
    put_numbers,
)
from fedlama.kernels.codecs import (
    Chance,
    Rounded,
    multiply_transposed,
    put_product,
    round_differences,
    round_floats,
    round_rows,
    round_stochastically,
    round_to_signs,
    take_product,
)
from fedlama.kernels.kernel import can_compile
from fedlama.kernels.model import Batches, Model, SGDSettings, StackedTensor, plan_model
from fedlama.kernels.modes import CHECKED
from fedlama.kernels.stacks import SampleTable, average_rows, fill_rows, shuffle_rows, squared_norms
from fedlama.kernels.steps import (
    Add,
    AddPositions,
    Attention,
    Convolution,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Gelu,
    GroupNorm,
    LayerNorm,
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
    "AddPositions",
    "Attention",
    "Batches",
    "Chance",
    "Convolution",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "Gelu",
    "GroupNorm",
    "LayerNorm",
    "LeastHashes",
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
    "bound_of_largest",
    "can_compile",
    "fill_rows",
    "keep_differences",
    "largest_of",
    "multiply_transposed",
    "plan_model",
    "pool_before_relu",
    "positions_of_largest",
    "put_numbers",
    "put_product",
    "round_differences",
    "round_floats",
    "round_rows",
    "round_stochastically",
    "round_to_signs",
    "shuffle_rows",
    "squared_norms",
    "take_product",
    "uses",
]
