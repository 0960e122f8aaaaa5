"""How much arithmetic a model takes, counted rather than timed: a part of the rule of the engine `auto`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fedlama.core.modules import set_training
from fedlama.core.trees import map_leaves
from fedlama.data.clients import is_pure
from fedlama.engines.api import EngineSetup
from fedlama.engines.first_step.plain import undisturbed
from fedlama.engines.user_code import batch_loss

BUSY = 64_000_000
"""Multiply-adds of a batch's forward pass from which on one client per thread is faster than stacked clients.

It was measured (docs/performance.md) with transformers without compiled kernels, whose steps are traced: stacked
clients need less time of a core at 33 million, by a fifth, and more at 132 million, by a twentieth."""

_WORTH_A_CALL = 8_000_000
"""Multiply-adds of the forward passes of one call of a traced step that is vectorised over clients, at least.

With fewer the operations of a call are too small; with more there are too few calls for the threads. It was measured
(docs/log.md, 2026-11-27) with transformers and a BERT: with a quarter of all clients in a call, a client's step takes 5
to 30 % more time of a core."""
_FEWEST, _MOST = 4, 64


def rows_that_keep_a_thread_busy(setup: EngineSetup) -> int:
    """Return how many clients advance in one call of a traced step: 4 to 64, fewer the more a forward pass computes.

    Args:
        setup: The federation's fixed parts.
    """
    count = forward_multiply_adds(setup)
    return min(max(-(-_WORTH_A_CALL // count), _FEWEST), _MOST) if count else _MOST


def forward_multiply_adds(setup: EngineSetup) -> int:
    """Count the multiply-adds of the forward pass of client 0's first batch, about, on a copy of the model.

    Every matrix that a module owns is taken to be multiplied with each vector of the module's output, as dense layers
    and convolutions do; an embedding multiplies nothing. Products of two activations, as in attention, are not counted.

    Args:
        setup: The federation's fixed parts.

    Returns:
        The number; 0 where batches can be asked for only once, and where a model is scripted or fails.
    """
    if not is_pure(setup.clients):
        return 0
    total = 0

    def count(module: nn.Module, _: Any, output: Any) -> None:  # noqa: ANN401  (what modules take and return)
        nonlocal total
        elements = sum(leaf.numel() for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))
        for matrix in module.parameters(recurse=False):
            if matrix.dim() > 1:
                total += matrix.numel() * elements // len(matrix)

    model = set_training(copy.deepcopy(setup.model).to(setup.device))
    try:
        for module in model.modules():
            if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
                module.register_forward_hook(count)
        with torch.no_grad(), undisturbed(setup.device):
            batch = map_leaves(lambda leaf: leaf.clone().to(setup.device), setup.clients.batch(0, 0, setup.seed))
            batch_loss(setup.task, model, batch)
    except Exception:  # a scripted module takes no hooks; of what else fails the first step says whose it is and why
        return 0
    return total
