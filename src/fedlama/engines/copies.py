"""Copies of many tensors in few launches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each tensor to its target; on a GPU the small tensors of one dtype share a launch.

    Args:
        targets: Overwritten.
        sources: Of the same shapes and dtypes.
    """
    for dtype in dict.fromkeys(target.dtype for target in targets):
        chosen = [place for place, target in enumerate(targets) if target.dtype == dtype]
        torch._foreach_copy_([targets[place] for place in chosen], [sources[place] for place in chosen])
