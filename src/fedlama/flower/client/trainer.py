"""One client's training: the contract, and its implementation with the project's own solvers.

:class:`~fedlama.flower.client.function.FunctionTrainer` is the other implementation, around a user's function.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from fedlama.choices.codecs import Codec, Float32
from fedlama.choices.personal import Personal
from fedlama.choices.privacy import Privacy
from fedlama.core.layers import Layers
from fedlama.core.plan import Plan
from fedlama.core.scores import Score
from fedlama.core.state_dicts import join, split
from fedlama.data.local_sets import held_out
from fedlama.engines.api import CohortState, EngineSetup, RoundOrder, Values
from fedlama.engines.cohort.kept import kept_values
from fedlama.engines.cohort.sizes import threads_for
from fedlama.engines.loop import LoopEngine
from fedlama.federation.own_score import own_score


@dataclass(frozen=True)
class LocalRound:
    """The local training of one client in one round.

    Attributes:
        client: The client's number.
        round_index: The round, from 0.
        steps: Local steps to take now.
        steps_done: Local steps that this client took in earlier rounds; they give its position in its data.
        frozen: Names of the layers that are not trained.
        arrived: Names of the layers that the client received for this round.
        scores_own: Whether a personal model is to be scored.
    """

    client: int
    round_index: int
    steps: int
    steps_done: int
    frozen: frozenset[str]
    arrived: frozenset[str] = frozenset()
    scores_own: bool = False


class ClientTrainer(Protocol):
    """A client's model and data. It keeps nothing between rounds: its state is passed in and returned."""

    @property
    def layers(self) -> Layers:
        """The layers of the model that are sent."""

    @property
    def codec(self) -> Codec:
        """How uploads are compressed."""

    @property
    def privacy(self) -> Privacy | None:
        """How the client limits its contributions; None for not at all."""

    @property
    def personal(self) -> Personal | None:
        """How the client blends and trains a head of its own; None for not at all."""

    @property
    def own_score(self) -> Score | None:
        """The score of a personal model, as it was before the local steps of the latest :meth:`train`."""

    @property
    def uses_reference(self) -> bool:
        """Whether training reads the values that the client received last."""

    @property
    def keeps_optimizer_state(self) -> bool:
        """Whether the optimizer state is the client's for the whole run, also when it starts from the full model."""

    @property
    def local_names(self) -> frozenset[str]:
        """The tensors that the client keeps for the whole run: of local layers, which are never sent, and of heads."""

    @property
    def samples(self) -> int:
        """Number of training samples n_i."""

    @property
    def has_test_set(self) -> bool:
        """Whether the client has a test set of its own, so that :meth:`score` returns a score."""

    @property
    def threads(self) -> int:
        """Threads that torch uses within a kernel; the simulation has the same number."""

    def score(self, values: Mapping[str, Tensor]) -> Score | None:
        """Return a model's score on the client's own test set; None where it has none.

        Args:
            values: The client's own model, or the global one; what is missing has its initial value.
        """

    def initial_state(self, values: Mapping[str, Tensor]) -> tuple[Values, Values]:
        """Return the state of a client that joins a cohort.

        Args:
            values: The full global model.

        Returns:
            The local model, including buffers that are never sent, and the solver's new optimizer state.
        """

    def train(
        self, values: Values, optimizer_state: Values, reference: Values, local_round: LocalRound
    ) -> tuple[Values, Values, float]:
        """Take one round's local steps.

        Args:
            values: The local model.
            optimizer_state: The solver's state, by kind and parameter.
            reference: The values that the client received last; empty unless :attr:`uses_reference`.
            local_round: The work.

        Returns:
            The trained model, the new optimizer state and the mean training loss.
        """


class LoopTrainer:
    """A client that trains as the loop engine does, bit for bit.

    Args:
        setup: The federation's fixed parts.
        client: The client's number.
    """

    def __init__(self, setup: EngineSetup, client: int) -> None:
        self._setup, self._client = setup, client
        self._scored = copy.deepcopy(setup.model)  # the engine overwrites its own; this one has the initial values
        self._engine = LoopEngine(replace(setup, codec=Float32()))  # the codec is applied to the reply
        self._kept = frozenset(kept_values(setup))
        self._own_score: Score | None = None

    @property
    def layers(self) -> Layers:
        """The labelling of the model, and what the solver exchanges beside it."""
        return self._setup.sent_layers

    @property
    def codec(self) -> Codec:
        """How uploads are compressed."""
        return self._setup.codec

    @property
    def privacy(self) -> Privacy | None:
        """How the client limits its contributions; None for not at all."""
        return self._setup.privacy

    @property
    def personal(self) -> Personal | None:
        """How the client blends and trains a head of its own; None for not at all."""
        return self._setup.personal

    @property
    def own_score(self) -> Score | None:
        """The score of a personal model, as it was before the local steps of the latest :meth:`train`."""
        return self._own_score

    @property
    def uses_reference(self) -> bool:
        """Whether the solver reads the values that the client received last."""
        setup = self._setup
        limits = setup.privacy is not None or setup.personal is not None
        return setup.solver.uses_reference or bool(setup.extra_layers) or limits

    @property
    def keeps_optimizer_state(self) -> bool:
        """Whether the solver's `state_scope` is ``"client"``."""
        return self._setup.solver.state_scope == "client"

    @property
    def local_names(self) -> frozenset[str]:
        """The tensors of local layers, and with a personal model those of the head, and its share."""
        return self._kept

    @property
    def samples(self) -> int:
        """Number of training samples n_i."""
        return self._setup.clients.samples(self._client)

    @property
    def has_test_set(self) -> bool:
        """Whether the source of the clients holds a test set of this client back."""
        return held_out(self._setup.clients, self._client, "test") is not None

    @property
    def threads(self) -> int:
        """The number of :func:`fedlama.engines.cohort.sizes.threads_for`, as in a simulation."""
        return threads_for(self._setup.model, self._setup.clients)

    def score(self, values: Mapping[str, Tensor]) -> Score | None:
        """Score a model as a simulation does."""
        model = copy.deepcopy(self._scored)
        model.load_state_dict(dict(values), strict=False)
        return own_score(self._setup.task, model, self._setup.clients, self._client)

    def initial_state(self, values: Mapping[str, Tensor]) -> tuple[Values, Values]:
        """Start from the full model with a new optimizer state, and from the initial values of local layers."""
        self._engine.load_state_dict(CohortState((), {}, {}, {}))  # without what an earlier run left
        self._engine.start_cohort([self._client], values)
        return self._state()

    def train(
        self, values: Values, optimizer_state: Values, reference: Values, local_round: LocalRound
    ) -> tuple[Values, Values, float]:
        """Take the local steps in a loop engine whose cohort is this client."""
        kinds = split({name: value.unsqueeze(0) for name, value in optimizer_state.items()})
        stacked = {name: value.unsqueeze(0) for name, value in values.items()}
        steps_done, budget = {self._client: local_round.steps_done}, self._setup.budget
        self._engine.load_state_dict(CohortState((self._client,), stacked, kinds, steps_done))
        order = RoundOrder(
            plan=Plan(local_round.round_index, frozenset(), {}, cycle_start=False, frozen=local_round.frozen),
            steps=local_round.steps if budget is None else budget.local_steps // budget.rounds,
            cohort=(self._client,),
            new_cohort=False,
            values=reference,
            lacking=local_round.arrived,
            scores_own=local_round.scores_own,
            client_steps={self._client: local_round.steps},
        )
        # A client's process may end after every message, and its model was checked at its first step.
        self._engine.first_step_checked = local_round.steps_done > 0
        reply = self._engine.run_round(order)
        (loss,) = reply.losses.values()
        self._own_score = reply.own_scores.get(self._client)
        return *self._state(), loss

    def _state(self) -> tuple[Values, Values]:
        """Return the local model and the optimizer state, the latter by ``kind/parameter``."""
        state = self._engine.state_dict()
        optimizer_state = {name: value[0] for name, value in join(state.optimizer_state).items()}
        return {name: value[0] for name, value in state.values.items()}, optimizer_state
