"""Whether a model's kernels are long enough to be worth a thread: the rule behind `auto`, and behind torch's threads.

Measurements stand behind it (docs/performance.md): convolutions on images of 16x16 and more and models of a million
parameters and more fill a core by themselves; everything smaller is bound by launches, and a second thread only waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fedlama.data.clients import ClientSource, TensorClients

_LARGE_IMAGE = 16 * 16
_LARGE_MODEL = 1_000_000


def is_large(model: nn.Module, clients: ClientSource) -> bool:
    """Tell whether the kernels of one client fill a core.

    Args:
        model: The model.
        clients: Everyone's data, for the size of the images; unknown data count as large images.
    """
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    convolves = any(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules())
    return parameters >= _LARGE_MODEL or (convolves and _pixels(clients) >= _LARGE_IMAGE)


def _pixels(clients: ClientSource) -> int:
    """Count the places of an input at which a convolution is computed."""
    if not isinstance(clients, TensorClients):
        return _LARGE_IMAGE
    return int(torch.Size(clients.x.shape[2:]).numel())


@contextmanager
def intra_op_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads inside a kernel for a while."""
    usual = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
