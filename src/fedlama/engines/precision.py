"""In which floating-point numbers a model's forward and backward pass compute.

Under ``"bfloat16"`` torch's autocast chooses, operation by operation, which ones compute in bfloat16: products do,
sums that need the digits do not. Parameters, gradients, solver buffers, BatchNorm's statistics, the loss and
everything the server does stay float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from fedlama.errors import ConfigError

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse what a device cannot do.

    Args:
        precision: What is asked for.
        device: Where to compute.

    Raises:
        ConfigError: torch has no autocast for this kind of device.
    """
    if precision != "float32" and not torch.amp.is_autocast_available(device.type):
        raise ConfigError(
            f"precision is {precision!r}, but torch has no mixed precision for device {str(device)!r}; "
            "set precision='float32'"
        )


def in_precision(precision: Precision, device: torch.device, compute: Callable[[], Tensor]) -> Tensor:
    """Compute a model's output in a precision.

    Args:
        precision: Which.
        device: Where it computes.
        compute: Runs the model.

    Returns:
        The output, never in a shorter format than float32, so that the loss is not either.
    """
    if precision == "float32":
        return compute()
    # The cache of converted weights is for modules that are called several times; under vmap it holds stale wrappers.
    with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
        output = compute()
    return output.float() if output.dtype == torch.bfloat16 else output
