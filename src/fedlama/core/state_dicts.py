"""Flat state dicts with names such as ``"group/name"``: files hold one level of names, states have two.

Either part of a name may contain a stroke itself, but not both: a module's name may, the name of a group may not. The
reader therefore says which of the two parts the group is.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_STROKE = "/"


def join(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return groups of named tensors as one flat dict.

    Args:
        groups: Tensors by name, by group.

    >>> import torch
    >>> list(join({"velocity": {"fc.weight": torch.ones(1)}, "empty": {}}))
    ['velocity/fc.weight']
    """
    return {f"{group}{_STROKE}{name}": tensor for group, named in groups.items() for name, tensor in named.items()}


def split(tensors: Mapping[str, Tensor], *, at_last: bool = False) -> dict[str, dict[str, Tensor]]:
    """Return the groups that :func:`join` has joined; empty groups are not among them.

    Args:
        tensors: The flat dict.
        at_last: Split names at the last stroke, because the groups' names may contain one; otherwise at the first.

    >>> import torch
    >>> list(split({"velocity/block/1": torch.ones(1)})["velocity"])
    ['block/1']
    >>> list(split({"block/1/velocity": torch.ones(1)}, at_last=True)["block/1"])
    ['velocity']
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        group, _, name = path.rpartition(_STROKE) if at_last else path.partition(_STROKE)
        groups.setdefault(group, {})[name] = tensor
    return groups
