"""Whether the kernels of one client keep a core busy: the rule of `auto`, and of the number of torch's threads.

It was measured (docs/performance.md): convolutions on images of 16x16 and more and models of a million parameters and
more keep a core busy by themselves. Everything smaller is limited by starting kernels, and a second thread only waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fedlama.core.trees import leaves
from fedlama.data.clients import ClientSource, tensor_clients

_LARGE_IMAGE = 16 * 16
_LARGE_MODEL = 1_000_000


def is_large(model: nn.Module, clients: ClientSource) -> bool:
    """Return whether the kernels of one client keep a core busy.

    Args:
        model: The model.
        clients: All clients' data, for the size of the images; data that are not tensors count as large images.
    """
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    convolves = any(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules())
    return parameters >= _LARGE_MODEL or (convolves and _pixels(clients) >= _LARGE_IMAGE)


def threads_for(model: nn.Module, clients: ClientSource) -> int:
    """Return the number of threads that torch uses within a kernel: one rule for simulations and deployments.

    The number decides the order in which a kernel adds numbers, and with it the last bits of a result. A second thread
    inside the kernels of a small model only waits, for long where the machine is busy.

    Args:
        model: The model.
        clients: As for :func:`is_large`.
    """
    return torch.get_num_threads() if is_large(model, clients) else 1


def _pixels(clients: ClientSource) -> int:
    """Return the number of pixels of one input."""
    tensors = tensor_clients(clients)
    if tensors is None:
        return _LARGE_IMAGE
    return max(int(torch.Size(leaf.shape[2:]).numel()) for leaf in leaves(tensors.x))


@contextmanager
def intra_op_threads(count: int) -> Iterator[None]:
    """Set the number of threads that torch uses within a kernel, and restore it afterwards."""
    usual = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
