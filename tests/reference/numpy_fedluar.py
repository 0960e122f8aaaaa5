"""FedLUAR, slowly (arXiv 2503.11146): some layers are not sent, the server applies their previous update again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tests.reference.federation import (
    Federation,
    RoundRecord,
    Slot,
    Trace,
    seat_cohort,
    train_locally,
    weighted_mean,
)
from tests.reference.network import Model


@dataclass(frozen=True)
class FedLuarTrace:
    """A training with FedLUAR; in ``training`` the rounds' d and intervals are not used (0 and 1).

    Attributes:
        training: The rounds; ``travelled`` and the counts say which layers the clients sent up.
        scores: Per round and layer, s_l after the round.
        probabilities: Per round and layer, p_l after the round: for drawing the next recycling set.
        updates: Per round, the applied update of every variable.
    """

    training: Trace
    scores: list[list[float]]
    probabilities: list[list[float]]
    updates: list[Model]


def norm(model: Model, layer: Sequence[int]) -> float:
    """Euclidean norm of a layer's variables taken together, in float64."""
    return float(np.sqrt(sum(np.sum(np.square(model[variable], dtype=np.float64)) for variable in layer)))


def score(update: Model, start: Model, layer: Sequence[int], epsilon: float) -> float:
    """s_l = ||Delta_l|| / (||x_l|| + epsilon); x is the model at the start of the round. Authors: epsilon 1e-6."""
    return norm(update, layer) / (norm(start, layer) + epsilon)


def recycling_probabilities(scores: Sequence[float]) -> list[float]:
    """p_l = (1/s_l) / sum_j (1/s_j): a layer that moves little for its size is likely to be recycled."""
    inverse = [1.0 / value for value in scores]
    return [value / sum(inverse) for value in inverse]


def train_fedluar(federation: Federation, recycled: Sequence[Collection[int]], epsilon: float = 1e-6) -> FedLuarTrace:
    """Train; ``recycled[e]`` holds the layers of R_e (the first is empty) and every round has its own cohort.

    x_{e+1} = x_e + Delta^_e, where Delta^_{e,l} = Delta^_{e-1,l} for l in R_e, else sum_i p_i (x^i_l - x_{e,l}). The
    score of a recycled layer is not refreshed.
    """
    if recycled[0]:
        raise ValueError(f"no layer can be recycled in the first round, got {sorted(recycled[0])}")
    result = FedLuarTrace(Trace(federation.dims()), [], [], [])
    layers = list(federation.layers)
    server, slots = federation.start(), list[Slot]()
    update: Model = []
    scores, counts = [0.0 for _ in layers], [0 for _ in layers]
    for e in range(federation.rounds):
        slots = seat_cohort(federation, slots, federation.cohort(e), server)
        losses = [train_locally(federation, slot, e) for slot in slots]
        p = federation.proportions([slot.client for slot in slots])
        fresh = mean_update([slot.model for slot in slots], server, p)
        stale = {variable for layer in recycled[e] for variable in layers[layer]}
        update = [update[v] if v in stale else fresh[v] for v in range(len(server))]
        for index, layer in enumerate(layers):
            if index not in recycled[e]:
                scores[index] = score(update, server, layer, epsilon)
                counts[index] += 1
        server = [x + delta for x, delta in zip(server, update, strict=True)]
        for slot in slots:
            slot.model = list(server)
        append_round(result, slots, losses, server, recycled[e], counts)
        result.scores.append(list(scores))
        result.probabilities.append(recycling_probabilities(scores))
        result.updates.append(update)
    return result


def mean_update(clients: Sequence[Model], start: Model, proportions: Sequence[float]) -> Model:
    """Delta = sum_i p_i (x^i - x), variable by variable."""
    return [
        weighted_mean([client[variable] - start[variable] for client in clients], proportions)
        for variable in range(len(start))
    ]


def append_round(
    result: FedLuarTrace,
    slots: Sequence[Slot],
    losses: list[float],
    server: Model,
    recycled: Collection[int],
    counts: Sequence[int],
) -> None:
    """Record a round."""
    layers = range(len(counts))
    result.training.rounds.append(
        RoundRecord(
            cohort=[slot.client for slot in slots],
            losses=losses,
            travelled=[layer not in recycled for layer in layers],
            d=[0.0 for _ in layers],
            in_force=[1 for _ in layers],
            adjusted=[1 for _ in layers],
            clients=[list(slot.model) for slot in slots],
            server=list(server),
            counts=list(counts),
        )
    )
