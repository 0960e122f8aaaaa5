"""Numbers that belong to one client, in tensors that hold several: norms, and how to apply them.

They are for solvers that set `always_stacked` (see :mod:`~fedlama.choices.solvers.base`), whose tensors have a leading
dimension for clients in every engine. A norm over a whole such tensor would mix the clients; these keep them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def tensor_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the Euclidean norm of each tensor on each client.

    Args:
        tensors: Each of shape (clients, ...).

    Returns:
        For each tensor its norms, (clients,).

    >>> tensor_norms([torch.tensor([[3.0, 4.0], [0.0, 2.0]])])
    [tensor([5., 2.])]
    """
    return [torch.linalg.vector_norm(tensor.reshape(len(tensor), -1), dim=1) for tensor in tensors]


def client_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of all tensors together, on each client.

    Args:
        tensors: At least one, each of shape (clients, ...).

    Returns:
        The norms, (clients,).
    """
    norms = tensor_norms(tensors)  # of tensors of several dtypes, whose norms are real
    widest = max((norm.dtype for norm in norms), key=lambda dtype: dtype.itemsize)
    together: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(widest) for norm in norms]), dim=0)
    return together


def along_clients(numbers: Tensor, like: Tensor) -> Tensor:
    """Return one number for each client in a shape that multiplies a tensor of all clients.

    Args:
        numbers: (clients,), or () for a tensor of a single client without the leading dimension.
        like: (clients, ...); its real dtype is taken too, so that the product has it.

    Returns:
        (clients, 1, ..., 1).

    >>> along_clients(torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 4)).shape
    torch.Size([2, 1, 1])
    """
    shaped = numbers.reshape(numbers.shape + (1,) * (like.dim() - numbers.dim()))
    return shaped.to(like.real.dtype if like.is_complex() else like.dtype)
