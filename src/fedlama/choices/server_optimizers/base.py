"""The contract of server optimizers: how an average enters the global model.

A server optimizer treats "average minus previous value" as a pseudo-gradient and takes one step along it (Reddi et al.,
"Adaptive Federated Optimization", ICLR 2021, Algorithm 1). It works on single tensors, and only in rounds in which the
tensor's layer is synchronised. To write one, inherit from :class:`ServerOptimizer` and define `name` and `apply`:

    @dataclass(frozen=True)
    class HalfWay(ServerOptimizer):
        name: ClassVar[str] = "half-way"

        def apply(self, previous, average, optimizer_state):
            return (previous + average) / 2
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from fedlama.errors import did_you_mean, shown

ServerOptimizerState = dict[str, Tensor]
"""One tensor's buffers on the server, by name; empty at first. Their names are kept in checkpoints."""


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
            optimizer_state: This tensor's buffers; updated in place.
        """


Settings = Mapping[str, Mapping[str, float]]
"""A layer's name, or a shell-style pattern such as ``"*.bias"``, to the settings that differ there."""
_Optimizer = TypeVar("_Optimizer", bound=Any)


def settings_for(optimizer: _Optimizer, layer: str) -> _Optimizer:
    """Return a server optimizer with the settings of the first entry of its `per_layer` that matches a layer.

    Args:
        optimizer: A frozen dataclass with a field `per_layer`.
        layer: The layer's name.
    """
    for pattern, changes in optimizer.per_layer.items():
        if fnmatchcase(layer, pattern):
            changed: _Optimizer = replace(optimizer, per_layer={}, **changes)
            return changed
    return optimizer


def check_per_layer(optimizer: Any) -> list[str]:  # noqa: ANN401  (a dataclass with the field per_layer)
    """Return the problems of a server optimizer's `per_layer`: unknown settings, and values out of range.

    Args:
        optimizer: A frozen dataclass with a field `per_layer`.
    """
    kind, given = type(optimizer).__name__, optimizer.per_layer
    if not isinstance(given, Mapping) or not all(isinstance(changes, Mapping) for changes in given.values()):
        example = '{"*.bias": {"learning_rate": 1.0}}'
        return [f"{kind}: per_layer is {shown(given)}, expected settings by layer; use such as {example}"]
    known = [field.name for field in fields(optimizer) if field.name != "per_layer"]
    problems = [
        f"{kind}: per_layer sets {key!r} for {pattern!r}, expected one of {', '.join(known)}{did_you_mean(key, known)}"
        for pattern, changes in given.items()
        for key in changes
        if key not in known
    ]
    if not problems:
        for changes in given.values():
            replace(optimizer, per_layer={}, **changes)  # refuses values out of range
    return problems
