"""One client's training, whoever wrote it: the contract, and the project's own solver behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedlama.choices.codecs import Codec
from fedlama.core.layers import Layers
from fedlama.engines.api import CohortState, EngineSetup, Values
from fedlama.engines.loop import LoopEngine


@dataclass(frozen=True)
class Assignment:
    """A round's work on one client.

    Attributes:
        client: The client's number.
        round_index: The round, from 0.
        steps: Local steps.
        steps_done: Local steps that this client has done before.
        frozen: Names of the layers that are not trained.
    """

    client: int
    round_index: int
    steps: int
    steps_done: int
    frozen: frozenset[str]


class Local(Protocol):
    """A client's model and data."""

    @property
    def layers(self) -> Layers:
        """The labelling of the model."""

    @property
    def codec(self) -> Codec:
        """How uploads are compressed."""

    @property
    def uses_reference(self) -> bool:
        """Whether training looks back at the values last received."""

    @property
    def samples(self) -> int:
        """Number of training samples n_i."""

    def begin(self, values: Mapping[str, Tensor]) -> tuple[Values, Values]:
        """Join a cohort.

        Args:
            values: The full global model.

        Returns:
            The local model, buffers that never travel included, and fresh buffers of the solver.
        """

    def train(
        self, values: Values, optimizer_state: Values, reference: Values, work: Assignment
    ) -> tuple[Values, Values, float]:
        """Take a round's local steps.

        Args:
            values: The local model.
            optimizer_state: The solver's buffers.
            reference: Values last received; empty unless :attr:`uses_reference`.
            work: What to do.

        Returns:
            The trained model, the buffers and the mean training loss.
        """


class LoopLocal:
    """A client that trains as the loop engine does, in its arithmetic to the last bit.

    Args:
        work: The federation's fixed parts.
        client: The client's number.
    """

    def __init__(self, work: EngineSetup, client: int) -> None:
        self._work, self._client = work, client
        self._engine = LoopEngine(work)

    @property
    def layers(self) -> Layers:
        """The labelling of the model."""
        return self._work.layers

    @property
    def codec(self) -> Codec:
        """How uploads are compressed."""
        return self._work.codec

    @property
    def uses_reference(self) -> bool:
        """As the solver says."""
        return self._work.solver.uses_reference

    @property
    def samples(self) -> int:
        """Number of training samples n_i."""
        return self._work.clients.samples(self._client)

    def begin(self, values: Mapping[str, Tensor]) -> tuple[Values, Values]:
        """Start from the full model with fresh buffers."""
        self._engine.start_cohort([self._client], values)
        return self._carried()

    def train(
        self, values: Values, optimizer_state: Values, reference: Values, work: Assignment
    ) -> tuple[Values, Values, float]:
        """Take the local steps in the loop engine."""
        kinds: dict[str, Values] = {}
        for key, value in optimizer_state.items():
            kind, _, name = key.partition("/")
            kinds.setdefault(kind, {})[name] = value.unsqueeze(0)
        own = {name: value.unsqueeze(0) for name, value in values.items()}
        self._engine.load_state_dict(CohortState((self._client,), own, kinds, {self._client: work.steps_done}))
        (loss,) = self._engine.train(work.round_index, work.steps, work.frozen, reference)
        return *self._carried(), loss

    def _carried(self) -> tuple[Values, Values]:
        """Take the one seat's content out of the engine."""
        state = self._engine.state_dict()
        optimizer_state = {
            f"{kind}/{name}": value[0] for kind, named in state.optimizer_state.items() for name, value in named.items()
        }
        return {name: value[0] for name, value in state.values.items()}, optimizer_state
