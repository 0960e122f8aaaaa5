"""The end of a round on the clients: their contributions to a private average are limited."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fedlama.choices.privacy import Privacy
from fedlama.core.layers import Layers
from fedlama.engines.api import EngineSetup, Values


class Contributions:
    """Limits what clients have changed, for federations that ask for it.

    Args:
        setup: The federation's fixed parts.
        privacy: The limits.
    """

    def __init__(self, setup: EngineSetup, privacy: Privacy) -> None:
        self._privacy = privacy
        self._names, self._layers = _positions(setup.layers)

    @classmethod
    def of(cls, setup: EngineSetup) -> Contributions | None:
        """Return the limits of a federation; None where there are none."""
        return None if setup.privacy is None else cls(setup, setup.privacy)

    def limit(self, stacked: Mapping[str, Tensor], values: Values | Mapping[str, Tensor]) -> None:
        """Limit what clients changed in a round, in place.

        Args:
            stacked: Their local models, (clients, ...) by tensor name.
            values: The global values with which the round began.
        """
        reference = [values[name] for name in self._names]
        self._privacy.limit([stacked[name] for name in self._names], reference, self._layers)


def _positions(layers: Layers) -> tuple[list[str], list[list[int]]]:
    """Return the names of all parameters that are sent, and the positions of each layer's among them."""
    names: list[str] = []
    positions: list[list[int]] = []
    for layer in layers:
        trained = [spec.name for spec in layer.tensors if spec.trainable]
        if trained:
            positions.append(list(range(len(names), len(names) + len(trained))))
            names += trained
    return names, positions
