"""A client around a ClientApp: it trains a full model, and its metrics are kept for a reply that is asked for again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fedlama.choices.codecs import Codec
from fedlama.choices.personal import Personal
from fedlama.choices.privacy import Privacy
from fedlama.core.layers import Layers
from fedlama.core.scores import Score
from fedlama.engines.api import Values
from fedlama.flower.client.trainer import LocalRound
from fedlama.flower.dropin.layout import Layout
from fedlama.flower.dropin.metrics import loss_of
from fedlama.flower.transport import flower_module

_METRICS = "app/metrics"  # in a client's file: the metrics of its latest reply, as the bytes of JSON


class AppTrainer:
    """A client around a ClientApp; see :class:`fedlama.flower.client.trainer.ClientTrainer`.

    Args:
        layout: The app's arrays.
        call: Calls the ClientApp with a full model.

    Attributes:
        others: The records of the ClientApp's reply without its arrays; None where it was not called.
    """

    uses_reference, keeps_optimizer_state, has_test_set = True, False, False
    privacy: Privacy | None = None
    personal: Personal | None = None
    own_score: Score | None = None
    local_names: frozenset[str] = frozenset()
    samples = 0

    def __init__(self, layout: Layout, call: Callable[[Layout, Values], tuple[Values, dict[str, Any]]]) -> None:
        self._layout, self._call = layout, call
        self.others: dict[str, Any] | None = None

    @property
    def layers(self) -> Layers:
        """The layers that are sent."""
        return self._layout.layers

    @property
    def codec(self) -> Codec:
        """How uploads are compressed."""
        return self._layout.codec

    @property
    def threads(self) -> int:
        """The number that the process has: the ClientApp may set it."""
        return torch.get_num_threads()

    def score(self, values: Mapping[str, Tensor]) -> Score | None:
        """None: evaluations are messages of their own."""
        return None

    def initial_state(self, values: Mapping[str, Tensor]) -> tuple[Values, Values]:
        """Start from the full model."""
        return dict(values), {}

    def train(
        self, values: Values, optimizer_state: Values, reference: Values, local_round: LocalRound
    ) -> tuple[Values, Values, float]:
        """Call the ClientApp; the state holds its metrics, for a reply that is asked for again."""
        trained, self.others = self._call(self._layout, values)
        metrics = {name: dict(record) for name, record in self.others.items() if _is_metrics(record)}
        stored = torch.frombuffer(bytearray(json.dumps(metrics).encode()), dtype=torch.uint8)
        return trained, {_METRICS: stored}, loss_of(metrics) or 0.0  # a message needs a number


def _is_metrics(record: object) -> bool:
    kind = flower_module("app").MetricRecord
    return isinstance(record, kind)


def metrics_from(stored: Values) -> dict[str, Any]:
    """Return the metrics of a client's latest reply, as records by name.

    Args:
        stored: What :meth:`AppTrainer.train` returned as the optimizer state.
    """
    app, text = flower_module("app"), bytes(stored[_METRICS].tolist()) if _METRICS in stored else b"{}"
    return {name: app.MetricRecord(values) for name, values in json.loads(text).items()}
