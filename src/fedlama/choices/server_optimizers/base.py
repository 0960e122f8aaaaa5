"""The contract of server optimizers: how an average enters the global model.

A server optimizer treats "average minus previous value" as a pseudo-gradient and takes one step along it (Reddi et al.,
"Adaptive Federated Optimization", ICLR 2021, Algorithm 1). It works on single tensors, and only in rounds in which the
tensor's layer is synchronised. To write one, inherit from :class:`ServerOptimizer` and define `name` and `apply`:

    @dataclass(frozen=True)
    class HalfWay(ServerOptimizer):
        name: ClassVar[str] = "half-way"

        def apply(self, previous, average, optimizer_state):
            return (previous + average) / 2

What an optimizer remembers of a tensor is kept in `optimizer_state`, as tensors of any shape and dtype: a counter is
``optimizer_state.setdefault("count", torch.zeros(()))``, changed in place. A Python number is refused, because
checkpoints hold tensors only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import ClassVar, Protocol, Self

from torch import Tensor

from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.errors import did_you_mean, shown

ServerOptimizerState = dict[str, Tensor]
"""One tensor's buffers on the server, by name; empty at first. Their names are kept in checkpoints.

A buffer is a tensor of any shape and dtype, and its name a text without ``"/"``.
"""


class ServerOptimizer(Protocol):
    """Applied to every trainable tensor of a layer when that layer is synchronised; buffers are replaced.

    Attributes:
        name: The optimizer's name in configuration files.
    """

    name: ClassVar[str]

    def for_layer(self, layer: str) -> ServerOptimizer:
        """Return the optimizer of one layer; by default the same for all.

        Args:
            layer: The layer's name.
        """
        return self

    @abstractmethod
    def apply(self, previous: Tensor, average: Tensor, optimizer_state: ServerOptimizerState) -> Tensor:
        """Return the new global value.

        Args:
            previous: Global value before the round, of any shape; never changed.
            average: Weighted average of the clients' values, of the same shape and dtype; never changed.
            optimizer_state: This tensor's buffers, tensors of any shape and dtype; updated in place.
        """


def apply_problems(
    optimizer: ServerOptimizer, tensor: str, new: object, previous: Tensor, optimizer_state: Mapping[str, object]
) -> list[str]:
    """Return the problems of what `apply` returned and kept: a value of another shape, buffers that cannot be saved.

    Args:
        optimizer: The optimizer, maybe of a user's own class.
        tensor: The name of the tensor.
        new: What `apply` returned.
        previous: The tensor's value before.
        optimizer_state: Its buffers.

    >>> import torch; from fedlama import Replace
    >>> apply_problems(Replace(), "fc.bias", torch.zeros(2), torch.zeros(2), {"count": 1})[0].partition(";")[0]
    "Replace: the buffer 'count' of 'fc.bias' is 1, expected a tensor"
    """
    kind, problems = type(optimizer).__name__, []
    if not isinstance(new, Tensor):
        problems.append(f"{kind}: apply returned {shown(new)} for {tensor!r}, expected a tensor; return the new value")
    elif (new.shape, new.dtype) != (previous.shape, previous.dtype):
        problems.append(
            f"{kind}: apply returned {new.dtype} {tuple(new.shape)} for {tensor!r}, expected {previous.dtype} "
            f"{tuple(previous.shape)}; return the new value in the form of previous"
        )
    for name, value in optimizer_state.items():
        if not isinstance(name, str) or "/" in name:
            problems.append(
                f"{kind}: the name of a buffer of {tensor!r} is {shown(name)}, expected a text without '/'; rename it"
            )
        elif not isinstance(value, Tensor):
            problems.append(
                f"{kind}: the buffer {name!r} of {tensor!r} is {shown(value)}, expected a tensor; keep it as a tensor, "
                "such as torch.zeros(())"
            )
    return problems


Settings = Mapping[str, Mapping[str, float]]
"""A layer's name, or a shell-style pattern such as ``"*.bias"``, to the settings that differ there."""


@dataclass(frozen=True, kw_only=True)
class LayerSettings(ServerOptimizer):
    """A server optimizer with other settings for some layers; to be inherited from.

    Args:
        per_layer: Other settings for some layers, by name or pattern; the first entry that matches a layer counts.
    """

    per_layer: Settings = field(default_factory=dict, metadata=LEFT_OUT_AT_DEFAULT)

    def for_layer(self, layer: str) -> Self:
        """Return the optimizer with a layer's own settings."""
        for pattern, changes in self.per_layer.items():
            if fnmatchcase(layer, pattern):
                return replace(self, per_layer={}, **changes)
        return self

    def layer_problems(self) -> list[str]:
        """Return the problems of `per_layer`, one sentence each.

        Raises:
            ConfigError: A layer's value is out of range.
        """
        kind, given = type(self).__name__, self.per_layer
        if not isinstance(given, Mapping) or not all(isinstance(changes, Mapping) for changes in given.values()):
            example = '{"*.bias": {"learning_rate": 1.0}}'
            return [f"{kind}: per_layer is {shown(given)}, expected settings by layer; use such as {example}"]
        known = [item.name for item in fields(self) if item.name != "per_layer"]
        names = ", ".join(known)
        problems = [
            f"{kind}: per_layer sets {key!r} for {pattern!r}, expected one of {names}{did_you_mean(key, known)}"
            for pattern, changes in given.items()
            for key in changes
            if key not in known
        ]
        if not problems:
            for changes in given.values():
                replace(self, per_layer={}, **changes)  # refuses values out of range
        return problems
