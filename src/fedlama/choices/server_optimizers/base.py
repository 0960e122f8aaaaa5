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
from typing import ClassVar, Protocol

from torch import Tensor

ServerOptimizerState = dict[str, Tensor]
"""One tensor's buffers on the server, by name; empty at first. Their names are kept in checkpoints."""


class ServerOptimizer(Protocol):
    """Applied to every trainable tensor of a layer when that layer is synchronised; buffers are replaced.

    Attributes:
        name: The optimizer's name in configuration files.
    """

    name: ClassVar[str]

    @abstractmethod
    def apply(self, previous: Tensor, average: Tensor, optimizer_state: ServerOptimizerState) -> Tensor:
        """Return the new global value.

        Args:
            previous: Global value before the round, of any shape; never changed.
            average: Weighted average of the clients' values, of the same shape and dtype; never changed.
            optimizer_state: This tensor's buffers; updated in place.
        """
