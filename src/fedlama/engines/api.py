"""The contract of engines: one request per round, and one reply that says what happened.

An engine holds the cohort's local models between rounds. The federation (:mod:`fedlama.federation.run`) sends a
:class:`RoundOrder` and receives a :class:`RoundReply`; then it averages the layers that are due and writes the new
global values back. Strategies, the ledger and the global model are outside of an engine's knowledge. It never changes
global values in place, so it may keep those that it receives and copy them when they are needed.

========================  ============================================================================================
``run_round(order)``      start a new cohort where one is due, bring every client up to date, train, and report
``average(layer, p)``     the layer as the server receives it, averaged; nothing is overwritten
``overwrite(layer, u)``   the layer's new value, for every client
========================  ============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from fedlama.choices.codecs import Codec
from fedlama.choices.personal import Personal
from fedlama.choices.privacy import Privacy
from fedlama.choices.solvers import LocalSolver
from fedlama.choices.strategies import Plan
from fedlama.choices.tasks import Task
from fedlama.core.budget import Budget
from fedlama.core.layers import Layer, Layers
from fedlama.core.ledger import Transfer
from fedlama.core.scores import Score
from fedlama.data.clients import ClientSource
from fedlama.data.local_sets import Part

Values = dict[str, Tensor]
"""Tensors by their name in the model's state dict."""

LOCAL_VALUES = "local values"
"""The kind under which a client that is outside of the cohort keeps the values of its local layers, and with personal
models those of its head."""

Scorer = Callable[[nn.Module, int, Part], Score | None]
"""Scores a model on one of a client's own sets; None where it has none."""


@dataclass(frozen=True)
class EngineSetup:
    """The parts of a federation that an engine needs, the same in every round.

    Made by :meth:`fedlama.federation.settings.FederationSettings.engine_setup`.

    Attributes:
        model: A model whose tensors the engine may overwrite; it gives the shape of the computation.
        layers: The layers of the model that are sent.
        clients: The data of all clients.
        solver: How a client trains.
        codec: How uploads are compressed; it names the codec of downloads.
        task: What is learnt: the loss of a batch, and the metrics.
        seed: The run's seed.
        device: Where to compute.
        budget: The length of the run; None where it is not known.
        local_layers: Layers that are trained too, but never leave a client; each client keeps its own values.
        micro_batch_size: Samples that are computed at a time, at most; None for whole batches.
        extra_layers: What the solver exchanges beside the model, as layers; see
            :mod:`fedlama.choices.solvers.exchanged`.
        privacy: How clients limit their contributions at the end of a round; None for not at all.
        personal: How clients blend and train heads of their own; None for no personal models.
        scorer: Scores personal models; None without.
        factor_layers: The Kronecker factors that clients send after their training, as layers; see
            :mod:`fedlama.core.factors`.
    """

    model: nn.Module
    layers: Layers
    clients: ClientSource
    solver: LocalSolver
    codec: Codec
    task: Task
    seed: int
    device: torch.device
    budget: Budget | None = None
    local_layers: Layers = ()
    micro_batch_size: int | None = None
    extra_layers: Layers = ()
    privacy: Privacy | None = None
    personal: Personal | None = None
    scorer: Scorer | None = None
    factor_layers: Layers = ()

    @property
    def sent_layers(self) -> Layers:
        """All layers that are in messages, those of the model first."""
        return self.layers + self.extra_layers + self.factor_layers

    @property
    def parameter_names(self) -> list[str]:
        """The names of all parameters that require a gradient, in the model's order."""
        return [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    @property
    def trained_layers(self) -> Layers:
        """All layers that are trained, those that are sent first."""
        return self.layers + self.local_layers


@dataclass(frozen=True, kw_only=True)
class RoundOrder:
    """What the federation asks of an engine in one round.

    What a solver exchanges beside the model is in `plan`, `values` and `lacking` as layers of their own; see
    :mod:`fedlama.choices.solvers.exchanged`.

    Attributes:
        plan: The round's plan: which layers come up, which are not trained, whether a cycle begins.
        steps: Local steps of a round on the run's clock, and of every client that `client_steps` does not name.
        cohort: The active clients, in ascending order.
        new_cohort: Whether the cohort replaces another one; its members then start from the complete global model.
        values: The global values before the round, by tensor name. Solvers that look back take them as reference, and
            so do codecs that send differences.
        lacking: Layers that the members of the cohort do not have yet, given that all of them answered in every round
            before: those that the server changed since, or all layers for a new cohort.
        evaluation: Layers that come up only to evaluate the global model, in addition to those of the plan.
        client_steps: Local steps of clients that take another number; see :mod:`fedlama.core.local_work`.
        senders: Layer to the clients that upload it, where not all do; None where that is decided once all have
            trained, so that the reply holds no upload yet but the distances that decide it.
        scalars: Whether every uploaded layer carries its discrepancy scalar.
        coded: Layer to what brings a client that is in sync to its value in `values`, as the codec of downloads wrote
            it; empty for codecs that write the value itself.
        scores_own: Whether the clients' own models are scored on their own test sets before they are averaged; only an
            engine whose clients are on other machines needs to know, or one with personal models.
        weights: p_i of the cohort's clients, in order; only an engine whose clients weigh their own uploads needs them.
    """

    plan: Plan
    steps: int
    cohort: tuple[int, ...]
    new_cohort: bool
    values: Mapping[str, Tensor]
    lacking: frozenset[str]
    evaluation: frozenset[str] = frozenset()
    scalars: bool = False
    coded: Mapping[str, bytes] = field(default_factory=dict)
    scores_own: bool = False
    client_steps: Mapping[int, int] = field(default_factory=dict)
    senders: Mapping[str, frozenset[int]] | None = field(default_factory=dict)
    weights: tuple[float, ...] = ()

    def layers_of(self, client: int) -> frozenset[str]:
        """Return the layers that a client uploads for training: none before that is decided."""
        if self.senders is None:
            return frozenset()
        return frozenset(name for name in self.plan.upload if client in self.senders.get(name, (client,)))

    def steps_of(self, client: int) -> int:
        """Return the local steps of a client."""
        return self.client_steps.get(client, self.steps)

    def steps_of_all(self, clients: Sequence[int]) -> list[int]:
        """Return the local steps of some clients, in their order."""
        if not self.client_steps:  # as usual; in small models a call for each client is felt
            return [self.steps] * len(clients)
        return [self.steps_of(client) for client in clients]

    def by_steps(self, clients: Sequence[int]) -> list[tuple[int, Sequence[int]]]:
        """Return numbers of local steps, each with those of some clients that take it; usually there is one.

        Args:
            clients: The clients.
        """
        if not self.client_steps:
            return [(self.steps, clients)] if clients else []
        groups: dict[int, list[int]] = {}
        for client in clients:
            groups.setdefault(self.steps_of(client), []).append(client)
        return list(groups.items())


@dataclass(frozen=True)
class RoundReply:
    """What happened in a round, before any layer is averaged.

    Attributes:
        losses: Mean training loss by client, of those that answered, in the cohort's order. Empty when too few
            answered for an average: the round is void, and the server changes nothing.
        transfers: All that was sent, to and by which clients, in the order in which it happened.
        own_scores: With personal models the score of each client's own model on its own test set, after its head was
            blended and trained and before its local steps; empty where none is due.
    """

    losses: Mapping[int, float]
    transfers: tuple[Transfer, ...]
    own_scores: Mapping[int, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class Average:
    """One layer, averaged over the clients, before anything is overwritten.

    Attributes:
        values: u = sum_i p_i x_i for every tensor of the layer.
        discrepancy: sum_i p_i ||u - x_i||^2 over its trainable parameters.
        refused: Clients whose values the aggregator left out.
    """

    values: Values
    discrepancy: float
    refused: tuple[int, ...] = ()


@dataclass(frozen=True)
class CohortState:
    """All that an engine holds between two rounds, in a form that every engine can load.

    Attributes:
        clients: The cohort, in order.
        values: Local models, stacked in that order: (clients, ...) by tensor name.
        optimizer_state: Solver buffers likewise, by kind and parameter name.
        steps_done: Local steps that each client has made since the run began, also of clients no longer active.
        facts: What else an engine must remember, as plain JSON types; most have nothing.
        codec_state: The states of the codec of uploads likewise, by the codec's name of the state and tensor name;
            empty for codecs without one.
        inactive: What clients outside of the cohort keep, by client, kind and tensor name, each of one client's shape:
            solver buffers where `state_scope` is ``"client"``, and the values of local layers and of personal models,
            whose kind is :data:`LOCAL_VALUES`. They are never changed in place.
    """

    clients: tuple[int, ...]
    values: Values
    optimizer_state: dict[str, Values]
    steps_done: dict[int, int]
    facts: Mapping[str, Any] = field(default_factory=dict)
    codec_state: dict[str, Values] = field(default_factory=dict)
    inactive: Mapping[int, Mapping[str, Values]] = field(default_factory=dict)


class Engine(Protocol):
    """Holds and advances the cohort's local models.

    Attributes:
        holds_clients: Whether all local models are in this process, so that clients can be taken out of the cohort
            and put back, and their models compared. Without it, no availability and no aggregator can be wrapped
            around the engine.

    An engine may have a class attribute ``ends_rounds = True``: at the end of a round it limits contributions as
    :attr:`EngineSetup.privacy` says, and it serves solvers that exchange more than the model, end rounds or ask for a
    pass over a client's data (:mod:`fedlama.choices.solvers.exchanged`). With ``personalises = True`` it serves
    personal models (:mod:`fedlama.engines.personal`), and with ``factors = True`` its clients send Kronecker factors
    (:mod:`fedlama.engines.factors`). Other engines are refused for these.

    With a codec whose payloads differ in length (:mod:`fedlama.choices.codecs.varying`) it needs a method
    ``sent_bytes()``. It returns the payload bytes of the round's uploads by layer and client, once the layers have been
    averaged, and leaves out what its transfers say already.

    An engine whose clients are elsewhere, and report how far they moved where a plan's senders depend on it, has
    methods ``distances()``, by layer and in the order of the clients that answered, and ``ask(senders)``, which asks
    for the layers and returns the clients by layer that sent it, where not all did, and what moved.

    What makes an engine may have a method ``misfits(federation)``, which returns the choices of a federation that the
    engine cannot serve, one sentence each; a run with any is refused.
    """

    holds_clients: ClassVar[bool]

    def start_cohort(self, clients: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Replace the cohort; every member starts from the complete global model.

        :meth:`run_round` does this itself where the order says so.

        Args:
            clients: The new members, in ascending order.
            values: The global values, by tensor name.
        """

    def run_round(self, order: RoundOrder) -> RoundReply:
        """Run the clients' part of one round.

        Args:
            order: What to do.

        Returns:
            The clients' losses, and the transfers as they happened.

        Raises:
            DivergenceError: A client's loss is not finite.
        """

    def average(self, layer: Layer, weights: Sequence[float]) -> Average:
        """Average a layer over the clients that answered, as the server receives it; overwrites no local model.

        The states of the codec move on for a layer of the round's plan, and not for one of its evaluation.

        Args:
            layer: A layer of the round's plan, or of its evaluation.
            weights: p_i of every client of the cohort, in order, summing to 1; re-scaled over those that answered.
        """

    def received(self, layer: Layer) -> Values:
        """Return a layer of every client as the server receives it, (clients, ...) by tensor name.

        Aggregators ask for it, so only an engine that holds its clients needs it. The states of the codec move on as in
        :meth:`average`; the caller must not change the tensors.

        Args:
            layer: As for :meth:`average`.
        """

    def overwrite(self, layer: Layer, values: Mapping[str, Tensor]) -> None:
        """Set a layer to one value on every client."""

    def client_values(self, client: int) -> Values:
        """Return a copy of one client's local model."""

    def state_dict(self) -> CohortState:
        """Return a copy of the cohort's state."""

    def load_state_dict(self, state: CohortState) -> None:
        """Load a state that an engine of the same federation returned."""


class LocalEngine(Engine, Protocol):
    """An engine that holds all its clients in this process, so that it can also hold a part of a cohort."""

    def count_steps(self, clients: Sequence[int], steps: int) -> None:
        """Count local steps that clients made elsewhere, so that their data continue from there.

        Args:
            clients: Clients outside of this engine's part of the cohort.
            steps: How many steps each of them made.
        """


def sent_bytes_of(engine: Engine) -> Mapping[tuple[str, int], int]:
    """Return the payload bytes of the round's uploads, by layer and client; empty for an engine that measures none."""
    measure: Callable[[], Mapping[tuple[str, int], int]] = getattr(engine, "sent_bytes", dict)
    return measure()


def averages_of(engine: Engine, layers: Sequence[Layer], weights: Sequence[float]) -> Iterator[Average]:
    """Average layers one after another, or all at once where an engine can, which has a method `average_layers`.

    Args:
        engine: The engine.
        layers: Layers of the round's plan, or of its evaluation.
        weights: As for :meth:`Engine.average`.

    Yields:
        The average of each layer.
    """
    together = getattr(engine, "average_layers", None)
    if together is not None:
        yield from together(layers, weights)
        return
    for layer in layers:
        yield engine.average(layer, weights)
