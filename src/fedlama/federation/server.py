"""The server's part of a round: the global model, and how a synchronisation changes it."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedlama.choices.privacy import Privacy
from fedlama.choices.server_optimizers import ServerOptimizerState
from fedlama.choices.server_optimizers.base import apply_problems
from fedlama.choices.solvers.exchanged import exchanges_of, kind_of
from fedlama.core.layers import Layer, Layers, TensorSpec, layer_tensors, local_buffers, named_layers
from fedlama.core.plan import LayerStatistics, Plan
from fedlama.core.registry import is_ours
from fedlama.core.validation import refuse
from fedlama.engines.api import Average, Engine, EngineSetup, Values, averages_of
from fedlama.engines.cohort.kept import kept_values
from fedlama.engines.cohort.norms import squared_norms_of
from fedlama.engines.cohort.threads import WorkerThreads, cores
from fedlama.engines.divergence import average_divergence
from fedlama.errors import DataError, DivergenceError
from fedlama.federation.downloads import Downloads
from fedlama.federation.fednova import normalised
from fedlama.federation.settings import FederationSettings


class _Step(NamedTuple):
    """What a synchronisation does to one layer.

    Attributes:
        layer: The layer.
        average: Its average over the clients.
        values: Its new global values.
    """

    layer: Layer
    average: Average
    values: Values


class Server:
    """Holds the global model and everything else that the server keeps between rounds.

    Args:
        federation: The settings of the federation.
        setup: The parts that it shares with the engine; its model is copied.

    Attributes:
        values: The global values, by tensor name: what clients in sync hold. They are replaced, never changed in place.
        downloads: The codec of downloads, and its state.
        optimizer_state: The server optimizer's buffers, by tensor name.
        local: The initial values of what never leaves a client: of local layers, and of buffers in no layer.
        kept: The first values of what a client keeps while it is outside of the cohort, apart from buffers.
        last_update: The latest change of every tensor, which recycling repeats; empty for other strategies.
    """

    def __init__(self, federation: FederationSettings, setup: EngineSetup) -> None:
        self._federation, self._layers, self._clients = federation, setup.layers, setup.clients
        self._extra_layers = setup.extra_layers
        self._model = copy.deepcopy(setup.model)
        tensors = dict(self._model.state_dict(keep_vars=True))
        names = [spec.name for layer in self._layers for spec in layer.tensors]
        self.downloads = Downloads(setup)
        self.values: Values = self.downloads.first({name: tensors[name].detach().clone() for name in names})
        self._exchanges = {exchange.kind: exchange for exchange in exchanges_of(setup.solver)}
        for layer in setup.extra_layers:
            self.values |= self._first_extras(layer)
        optimizer = federation.server_optimizer
        for_layer = getattr(optimizer, "for_layer", lambda _: optimizer)  # a user's class may not inherit the default
        self._optimizers = {layer.name: for_layer(layer.name) for layer in self._layers}
        self._share = 1.0  # of all clients, those that answered
        self._positions = {name: position for position, name in enumerate(names)}
        self.optimizer_state: dict[str, ServerOptimizerState] = {}
        self.last_update: Values = {}
        local = local_buffers(self._model, setup.trained_layers)
        local |= {name: tensors[name] for name in layer_tensors(self._model, setup.local_layers)}
        self.local: Values = {name: value.detach().clone() for name, value in local.items() if name in tensors}
        self.kept: Values = kept_values(setup)
        self._threads = WorkerThreads(cores())  # for passes over large layers
        self._weighted: tuple[Sequence[int], tuple[float, ...]] = (), ()  # the latest cohort and its weights

    @property
    def needs_steps(self) -> bool:
        """Whether a synchronisation depends on how many clients answered, or on their local steps."""
        federation = self._federation
        shared = self._extra_layers or hasattr(federation.server_optimizer, "with_share")
        return federation.weighting == "fednova" or federation.privacy is not None or bool(shared)

    def synchronise(
        self,
        plan: Plan,
        engine: Engine,
        cohort: Sequence[int],
        steps: Mapping[int, int],
        senders: Mapping[str, frozenset[int]],
    ) -> dict[str, LayerStatistics]:
        """Average the layers that are due, move the recycled ones, and send the new values to the engine.

        Args:
            plan: The round's plan.
            engine: Holds the clients' models.
            cohort: The active clients.
            steps: Local steps in this round of the clients that answered; empty unless :attr:`needs_steps`.
            senders: The clients that uploaded a layer, for the layers that not all of them did.

        Returns:
            What was measured, by layer that was averaged.

        Raises:
            DivergenceError: A layer's values are not finite, or their squares overflow.
        """
        weights, scale = self.weights(cohort), 1.0
        if self._federation.weighting == "fednova":
            weights, scale = normalised(weights, cohort, steps, self._federation.solver)
        self.downloads.coded = {}
        self._share = len(steps) / len(self._clients)
        unsent = frozenset(name for name, clients in senders.items() if not clients)
        due = named_layers(self._layers, plan.upload - unsent)
        done: list[_Step] = []
        averages = list(_averages(engine, due, cohort, weights, senders))
        finite = _are_finite([average.values[s.name] for average, s in _buffers(due, averages)])
        for layer, average in zip(due, averages, strict=True):
            if not self._is_usable(layer, average, finite):
                self._statistics(done, plan, engine, cohort)  # an earlier layer may have overflowed
                raise self._divergence(layer, plan.round_index, engine, cohort)
            done.append(_Step(layer, average, self._new_values(layer, average, plan.round_index, scale)))
        statistics = self._statistics(done, plan, engine, cohort)
        for step in done:
            self._set(step.layer, step.values, engine)
        if self._extra_layers:
            self._synchronise_extras(plan, engine, cohort, weights)
        for layer in named_layers(self._layers, plan.upload & unsent):
            kept = {spec.name: self.values[spec.name] for spec in layer.tensors}
            self._set(layer, self.downloads.publish(layer, kept, self.values, plan.round_index), engine)
        for layer in named_layers(self._layers, plan.recycle):
            recycled = {spec.name: self._recycled(spec.name) for spec in layer.tensors}
            self._set(layer, self.downloads.publish(layer, recycled, self.values, plan.round_index), engine)
        for layer in named_layers(self._layers, plan.frozen):
            if any(not spec.trainable for spec in layer.tensors):
                engine.overwrite(layer, self.values)  # a forward pass changes statistics, also of what is not trained
        return statistics

    def _first_extras(self, layer: Layer) -> Values:
        """Return the first values of what the solver exchanges beside a layer of the model."""
        exchange = self._exchanges[kind_of(layer)]
        device = next(iter(self.values.values())).device
        return {
            spec.name: torch.full(spec.shape, exchange.start, dtype=spec.dtype, device=device) for spec in layer.tensors
        }

    def _synchronise_extras(self, plan: Plan, engine: Engine, cohort: Sequence[int], weights: Sequence[float]) -> None:
        """Average what the solver exchanges beside the model, and let it enter the server's values.

        Args:
            plan: The round's plan.
            engine: Holds the clients' tensors.
            cohort: The active clients.
            weights: p_i of every client of the cohort.

        Raises:
            DivergenceError: A value is not finite.
        """
        due = named_layers(self._extra_layers, plan.upload)
        for layer, average in zip(due, averages_of(engine, due, weights), strict=True):
            if not _are_finite(list(average.values.values())):
                raise self._divergence(layer, plan.round_index, engine, cohort)
            new = Values()
            for name, value in average.values.items():
                state = self.optimizer_state.setdefault(name, {})
                new[name] = self._exchanges[kind_of(layer)].reduced(self.values[name], value, self._share, state)
            self._set(layer, self.downloads.publish(layer, new, self.values, plan.round_index), engine)

    def buffer_like(self, name: str) -> Tensor | None:
        """Return a tensor with the shape and dtype that the buffers of a tensor have; None where they may have any.

        The buffers of a user's own class may have any.

        Args:
            name: The tensor's name.
        """
        makers = {spec.name: self._exchanges[kind_of(layer)] for layer in self._extra_layers for spec in layer.tensors}
        value, maker = self.values[name], makers.get(name, self._federation.server_optimizer)
        if not is_ours(type(maker)):
            return None
        return torch.view_as_real(value) if value.is_complex() and name not in makers else value

    def weights(self, cohort: Sequence[int]) -> tuple[float, ...]:
        """Return the weights p_i of a cohort's clients, which sum to 1."""
        if self._weighted[0] != cohort:
            self._weighted = cohort, self._weights(cohort)
        return self._weighted[1]

    def forget_weights(self) -> None:
        """Compute the cohort's weights again at their next use: its clients have other numbers of samples now."""
        self._weighted = (), ()

    def _weights(self, cohort: Sequence[int]) -> tuple[float, ...]:
        if self._federation.weighting == "equal":
            return (1.0 / len(cohort),) * len(cohort)
        samples = [self._clients.samples(client) for client in cohort]
        for client, count in zip(cohort, samples, strict=True):
            if not count > 0:
                raise DataError(f"client {client} has {count} samples; leave it out, or set weighting='equal'")
        total = sum(samples)
        return tuple(count / total for count in samples)

    def model_with(self, values: Mapping[str, Tensor]) -> nn.Module:
        """Return the server's own copy of the model, with some of its tensors replaced; it is overwritten next time."""
        self._model.load_state_dict(dict(values), strict=False)
        return self._model

    def global_model(self, values: Mapping[str, Tensor] | None = None) -> Values:
        """Return a copy of the global model as a state dict; what is frozen or local has its initial values.

        Args:
            values: The global values of another round, by tensor name; by default those of now.
        """
        values = self.values if values is None else dict(values)
        model = self.model_with(self.local | values)  # through the module, so that tied parameters stay tied
        return {name: value.detach().clone() for name, value in model.state_dict().items()}

    def _divergence(self, layer: Layer, round_index: int, engine: Engine, cohort: Sequence[int]) -> DivergenceError:
        """Return the error that says which client's values of a layer are not finite, and why."""
        models = ((client, engine.client_values(client)) for client in cohort)
        return average_divergence(layer, round_index, models, self._federation.codec_in_force())

    def _is_usable(self, layer: Layer, average: Average, finite: bool) -> bool:
        """Return whether an average is finite; statistics may keep an infinity, such as the -inf of a mask.

        Args:
            layer: The layer.
            average: Its average.
            finite: Whether the statistics of all layers are known to be finite.
        """
        if not math.isfinite(average.discrepancy):
            return False
        for spec in () if finite else layer.tensors:
            value = average.values[spec.name]
            if not spec.trainable and not (torch.isfinite(value) | (value == self.values[spec.name])).all():
                return False
        return True

    def _new_values(self, layer: Layer, average: Average, round_index: int, scale: float) -> Values:
        """Return a layer's new global values, from its average, the server optimizer and the codec of downloads.

        Args:
            layer: The layer.
            average: Its average.
            round_index: The round, from 0.
            scale: How far to move towards the average, before the server optimizer; 1 but for FedNova.
        """
        new = dict(average.values)
        for spec in layer.tensors:
            if spec.trainable:
                state, previous = self.optimizer_state.setdefault(spec.name, {}), self.values[spec.name]
                if self._federation.privacy is not None:
                    new[spec.name] = self._noisy(self._federation.privacy, spec.name, new[spec.name], round_index)
                target = new[spec.name] if scale == 1.0 else previous + scale * (new[spec.name] - previous)
                value = self._optimized(layer.name, previous, target, state)
                refuse(apply_problems(self._federation.server_optimizer, spec.name, value, previous, state))
                new[spec.name] = value
        new = self.downloads.publish(layer, new, self.values, round_index)
        if self._federation.strategy.recycles:
            for spec in layer.tensors:
                self.last_update[spec.name] = new[spec.name] - self.values[spec.name]
        return new

    def _noisy(self, privacy: Privacy, name: str, average: Tensor, round_index: int) -> Tensor:
        """Return a tensor's average with the noise of its round."""
        answered = round(self._share * len(self._clients))
        return privacy.noisy(average, answered, self._federation.seed, round_index, self._positions[name])

    def _statistics(
        self, steps: Sequence[_Step], plan: Plan, engine: Engine, cohort: Sequence[int]
    ) -> dict[str, LayerStatistics]:
        """Return what was measured, by layer, before the new values are set.

        Raises:
            DivergenceError: The squares of a layer's values overflow.
        """
        names = [spec.name for step in steps for spec in step.layer.tensors if spec.trainable]
        new = {name: value for step in steps for name, value in step.values.items()}
        norms = squared_norms_of([(new[name], self.values[name]) for name in names], self._threads)
        by_name = dict(zip(names, norms, strict=True))
        statistics: dict[str, LayerStatistics] = {}
        for layer, average, _ in steps:
            parts = [by_name[spec.name] for spec in layer.tensors if spec.trainable]
            update, value = math.sqrt(sum(part[0] for part in parts)), math.sqrt(sum(part[1] for part in parts))
            if not math.isfinite(update):  # all clients have the same infinity
                raise self._divergence(layer, plan.round_index, engine, cohort)
            statistics[layer.name] = LayerStatistics(average.discrepancy, update, value, average.refused)
        return statistics

    def _optimized(self, layer: str, previous: Tensor, average: Tensor, state: ServerOptimizerState) -> Tensor:
        """Return the server optimizer's new value; it sees a complex tensor as pairs of real numbers."""
        optimizer = self._optimizers[layer]
        with_share = getattr(optimizer, "with_share", None)
        apply = optimizer.apply if with_share is None else with_share(self._share).apply
        if not average.is_complex():
            return apply(previous, average, state)
        return torch.view_as_complex(apply(torch.view_as_real(previous), torch.view_as_real(average), state))

    def _recycled(self, name: str) -> Tensor:
        update = self.last_update.get(name)
        return self.values[name] if update is None else self.values[name] + update

    def _set(self, layer: Layer, values: Values, engine: Engine) -> None:
        self.values.update(values)
        engine.overwrite(layer, values)


def _averages(
    engine: Engine,
    layers: Layers,
    cohort: Sequence[int],
    weights: Sequence[float],
    senders: Mapping[str, frozenset[int]],
) -> Iterator[Average]:
    """Average layers, each over the clients that uploaded it, whose weights then sum to 1.

    Args:
        engine: Holds the clients' models.
        layers: The layers.
        cohort: The active clients.
        weights: p_i of each.
        senders: One client at least for each of the layers that not all clients uploaded.
    """
    if not senders:
        yield from averages_of(engine, layers, weights)
        return
    for layer in layers:
        sent = senders.get(layer.name)
        yield engine.average(layer, weights if sent is None else _shares(cohort, weights, sent))


def _shares(cohort: Sequence[int], weights: Sequence[float], sent: Collection[int]) -> list[float]:
    """Return the weights of the clients that sent a layer, summing to 1, and 0 for the others."""
    total = math.fsum(weight for client, weight in zip(cohort, weights, strict=True) if client in sent)
    return [weight / total if client in sent else 0.0 for client, weight in zip(cohort, weights, strict=True)]


def _buffers(layers: Layers, averages: Sequence[Average]) -> Iterator[tuple[Average, TensorSpec]]:
    """Yield the tensors of some layers that are not trained, each with the average that holds it."""
    for layer, average in zip(layers, averages, strict=True):
        yield from ((average, spec) for spec in layer.tensors if not spec.trainable)


def _are_finite(values: Sequence[Tensor]) -> bool:
    """Return whether all numbers are finite; a device is looked at once."""
    floats = [value.reshape(-1).abs().float() for value in values if value.is_floating_point() or value.is_complex()]
    return not floats or bool(torch.isfinite(torch.cat(floats)).all())
