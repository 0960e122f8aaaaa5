"""What robust aggregators gain: FedLAMA on the embedded digits, with a fifth of the clients attacking.

    python -m benchmarks.poisoned

Every attacker trains as the others do, and then sends something else: the opposite of its update, ten times as
long, or noise ten times as large as its update, or an honest update from changed labels. One row per aggregator,
one column per attack; accuracy in percent of the global model on the test set.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import fedlama as fl
from fedlama.choices.aggregators import Aggregator
from fedlama.core.layers import Layer
from fedlama.core.randomness import permutation, seed_of
from fedlama.data.clients import TensorClients
from fedlama.engines.api import Average, EngineSetup, RoundOrder, RoundReply, Values
from fedlama.engines.loop import LoopEngine
from fedlama.experiment import assemble, prepare, read, resolve
from fedlama.flower.server.aggregation import from_models

SHARE = 0.2
SIZE = 10.0
AGGREGATORS: dict[str, Aggregator] = {
    "mean": fl.Mean(),
    "norm-bound, clip": fl.NormBound(2.0),
    "norm-bound, refuse": fl.NormBound(2.0, excess="refuse"),
    "median": fl.Median(),
    "trimmed-mean": fl.TrimmedMean(0.25),
}
Attack = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Makes what an attacker sends from what it trained, from the global value it started from, and at random."""


def turned(value: Tensor, start: Tensor, _: torch.Generator) -> Tensor:
    """Return the update's opposite, ten times as long."""
    return start - SIZE * (value - start)


def noise(value: Tensor, start: Tensor, draw: torch.Generator) -> Tensor:
    """Return noise whose root mean square is ten times the update's."""
    spread = SIZE * (value - start).square().mean().sqrt()
    return start + spread * torch.randn(value.shape, generator=draw)


class Attacked(LoopEngine):
    """The loop engine, some of whose clients send something else than what they trained."""

    def __init__(self, work: EngineSetup, attackers: frozenset[int], attack: Attack) -> None:
        super().__init__(work)
        self._attackers, self._attack = attackers, attack
        self._seed, self._round = work.seed, 0
        self._global: Mapping[str, Tensor] = {}

    def run_round(self, order: RoundOrder) -> RoundReply:
        """Train, and keep the global values it started from."""
        self._round, self._global = order.plan.round_index, order.values
        return super().run_round(order)

    def client_values(self, client: int) -> Values:
        """Return what the client sends."""
        values = super().client_values(client)
        if client not in self._attackers:
            return values
        draw = torch.Generator().manual_seed(seed_of(self._seed, "attack", self._round, client))
        return {name: self._attack(value, self._global[name], draw) for name, value in values.items()}

    def received(self, layer: Layer) -> Values:
        """Return what the server receives, (clients, ...) by tensor name."""
        models = [self.client_values(slot.client) for slot in self._slots]
        return {spec.name: torch.stack([model[spec.name] for model in models]) for spec in layer.tensors}

    def average(self, layer: Layer, weights: Sequence[float]) -> Average:
        """Average what was sent."""
        return from_models(layer, [self.client_values(slot.client) for slot in self._slots], weights)


def with_false_labels(clients: TensorClients, attackers: frozenset[int]) -> TensorClients:
    """Return the clients, the attackers' label c changed to 9 - c."""
    labels = clients.y.clone()
    for client in attackers:
        rows = torch.from_numpy(clients.rows[client])
        labels[rows] = 9 - labels[rows]
    return TensorClients(clients.x, labels, clients.rows, clients.batch_sizes, prepare=clients.prepare)


def accuracy(federation: fl.Federation, aggregator: Aggregator, attack: str, attackers: frozenset[int]) -> str:
    """Run one cell of the table."""
    changes: dict[str, Any] = {"aggregator": aggregator, "engine": "loop"}
    if attack == "false labels" and isinstance(federation.clients, TensorClients):
        changes["clients"] = with_false_labels(federation.clients, attackers)
    elif attack != "no attack":
        corrupt = {"turned x10": turned, "noise x10": noise}[attack]
        changes["engine"] = lambda work: Attacked(work, attackers, corrupt)
    try:
        score = replace(federation, **changes).run().score
    except fl.DivergenceError:
        return "diverged"
    return f"{100 * score.accuracy:.2f}" if score else "-"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("overrides", nargs="*", help="settings of the experiment `digits` to change")
    torch.set_num_threads(1)
    experiment = resolve(read("digits", parser.parse_args().overrides))
    federation = assemble(experiment, prepare(experiment))
    population = experiment.partition.clients  # type: ignore[attr-defined]
    count = round(SHARE * population)
    attackers = frozenset(permutation(experiment.settings.seed, "attackers", population)[:count].tolist())
    attacks = ("no attack", "turned x10", "noise x10", "false labels")
    print(f"{count} of {population} clients attack; accuracy in %")
    print(f"{'aggregator':20}" + "".join(f"{attack:>14}" for attack in attacks))
    for name, aggregator in AGGREGATORS.items():
        cells = [accuracy(federation, aggregator, attack, attackers) for attack in attacks]
        print(f"{name:20}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
