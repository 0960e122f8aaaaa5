"""Buffers of a module whose tensors an engine swaps for a client's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn


def keep_reassigned_buffers(
    model: nn.Module, slots: Mapping[str, Tensor], names: Iterable[str], values: Mapping[str, Tensor]
) -> None:
    """Copy back buffers that a module replaced instead of updating in place, and put the old ones back.

    Args:
        model: The module that has just run.
        slots: The tensors that belong in it, by name.
        names: Its buffers.
        values: The client's own tensors, overwritten where a buffer was replaced.
    """
    for name in names:
        module, _, short = name.rpartition(".")
        owner = model.get_submodule(module)
        current = owner.get_buffer(short)
        if current is not slots[name]:
            values[name].copy_(current)
            setattr(owner, short, slots[name])
