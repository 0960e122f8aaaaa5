"""Watch what goes to a device and what is read from it, with torch's meta device in the device's place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_SCALAR = torch.ops.aten._local_scalar_dense.default
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class DeviceWatch(TorchDispatchMode):
    """While active, counts transfers; a number that is looked at is 1, for the meta device holds none.

    Attributes:
        uploads: Shapes of the tensors that were sent to the device.
        looks: Shapes of those that were read from it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.uploads: list[tuple[int, ...]] = []
        self.looks: list[tuple[int, ...]] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's signature
        """Note transfers, and pass everything on but looks."""
        kwargs = kwargs or {}
        if func is _SCALAR and args[0].is_meta:
            self.looks.append(tuple(args[0].shape))
            return True if args[0].dtype == torch.bool else 1.0
        if func not in _COPIES:
            return func(*args, **kwargs)
        source: Tensor = args[1] if func is _COPIES[1] else args[0]
        target = args[0].device if func is _COPIES[1] else torch.device(kwargs.get("device") or source.device)
        if source.is_meta and target.type == "cpu":
            self.looks.append(tuple(source.shape))
            return torch.ones(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        if target.type == "meta" and not source.is_meta:
            self.uploads.append(tuple(source.shape))
        return func(*args, **kwargs)
