"""A digest of a tensor's content, as fast as the machine's cores can hash it: data are recognised by it."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from fedlama.core.trees import Tree, named_leaves

_BLOCK = 1 << 22
"""Bytes that are hashed in one call, about; part of the definition of the digest."""
_THREADS = 16


def content_digest(value: Tensor) -> str:
    """Return a SHA-256 of a tensor's shape, dtype and values, in hexadecimal.

    The values are hashed in blocks of whole rows by several threads, and the digests of the blocks are hashed in their
    order. The result depends on neither the device, the strides, the threads nor the process.

    Args:
        value: Any dense tensor, (rows, ...).

    >>> content_digest(torch.arange(3)) == content_digest(torch.arange(6)[::2] // 2)
    True
    >>> content_digest(torch.arange(3)) == content_digest(torch.arange(3).double())
    False
    """
    digest = hashlib.sha256(json.dumps([list(value.shape), str(value.dtype)]).encode())
    rows = value.detach().reshape(1) if value.dim() == 0 else value.detach()
    if not rows.numel():
        return digest.hexdigest()
    step = max(1, _BLOCK // (rows[0].numel() * rows.element_size()))
    starts = range(0, len(rows), step)
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1, len(starts))) as pool:
        for block in pool.map(lambda start: _hashed(rows[start : start + step]), starts):
            digest.update(block)
    return digest.hexdigest()


def tensor_facts(value: Tensor) -> dict[str, object]:
    """Return a tensor's shape, dtype and digest as plain JSON types.

    Args:
        value: Any dense tensor, (rows, ...).
    """
    return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": content_digest(value)}


def data_facts(x: Tree, y: Tree | None) -> dict[str, object]:
    """Return the facts of inputs and targets; of a nested structure those of every tensor, by its path.

    Args:
        x: Inputs.
        y: Targets; None where the inputs hold all.
    """
    given = {"inputs": x} if y is None else {"inputs": x, "targets": y}
    return {
        kind: tensor_facts(tree)
        if isinstance(tree, Tensor)
        else {name: tensor_facts(leaf) for name, leaf in named_leaves(tree).items()}
        for kind, tree in given.items()
    }


def _hashed(rows: Tensor) -> bytes:
    """Return the SHA-256 of rows; hashlib lets other threads run in the meantime."""
    plain = rows.cpu().resolve_conj().resolve_neg().contiguous()
    return hashlib.sha256(plain.reshape(-1).view(torch.uint8).numpy().data).digest()
