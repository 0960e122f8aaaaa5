"""The contract of aggregators: how the clients' values of one layer become one value.

The plain weighted mean is computed by the engines themselves. Every other aggregator sees single clients' values, so it
does not work where only sums are visible. Values that are not finite are refused before. A robust aggregator limits
what a few clients can do; it does not make training private, and with as many attackers as honest clients none of them
helps.

An aggregator may have an attribute ``counts_elements = True``: then a number that its client did not send is NaN.
Codecs that leave numbers out need such an aggregator.

To write one, inherit from :class:`Aggregator` and define `name` and `combine`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from fedlama.core.layers import Layer


@dataclass(frozen=True)
class Combined:
    """What an aggregator makes of a layer.

    Attributes:
        values: The layer's tensors by name, each of one client's shape and dtype.
        discrepancy: sum_i p_i ||u - x_i||^2 over the trainable parameters, or the aggregator's counterpart of it, which
            attackers can move as little as the values.
        refused: Rows of the clients whose values were left out, in ascending order.
    """

    values: dict[str, Tensor]
    discrepancy: float
    refused: tuple[int, ...] = ()


class Aggregator(Protocol):
    """Combines a layer's values.

    A class with the same members need not inherit, but then it has no defaults.

    Attributes:
        name: The aggregator's name in configuration files.
    """

    name: ClassVar[str]

    @property
    def orders_values(self) -> bool:
        """Whether :meth:`combine` sorts values, which complex numbers do not allow; by default False."""
        return False

    @property
    def is_plain_mean(self) -> bool:
        """Whether :meth:`combine` is the weighted mean, which engines compute by themselves; by default False."""
        return False

    @abstractmethod
    def combine(
        self, layer: Layer, received: Mapping[str, Tensor], weights: Sequence[float], reference: Mapping[str, Tensor]
    ) -> Combined:
        """Combine a layer.

        Args:
            layer: The layer.
            received: Its tensors by name, of shape (clients, ...), all finite, but for NaN where an
                aggregator counts elements; never changed.
            weights: p_i of each client, summing to 1.
            reference: The layer's global value before the round, from which all clients once started.
        """
