"""FedNova: clients that take unequal numbers of local steps pull the average in proportion to their data alone.

Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization", NeurIPS 2020, eqs.
8 to 10. With a_i the length of client i's accumulated steps (its number of steps, for plain SGD) and
a_eff = sum_i p_i a_i the mean length, the global model moves by

    u_new - u = a_eff sum_i p_i (x_i - u) / a_i = scale * sum_i w_i (x_i - u),   w_i = (p_i / a_i) / sum_j p_j / a_j,

so the engines compute a weighted mean as ever, with other weights, and the server moves by `scale` times the distance
to it. It costs no bytes: the server knows the clients' steps. Where all take the same number of steps it is FedAvg.

Deviations: normalisation statistics are the weighted mean, without `scale`; rates that change within a round count
alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedlama.choices.solvers import LocalSolver
from fedlama.choices.solvers.sgd import plain_sgd


def accumulated_length(momentum: float, steps: int) -> float:
    """Return the length of a client's accumulated steps, ||a_i||_1.

    Args:
        momentum: rho, the momentum of SGD, whose velocity begins with zeros in each round.
        steps: tau_i, the local steps of the round.

    >>> accumulated_length(0.0, 4), accumulated_length(0.5, 2)  # 1 and 1 + 0.5
    (4.0, 2.5)
    """
    return (steps - momentum * (1.0 - momentum**steps) / (1.0 - momentum)) / (1.0 - momentum)


def normalised(
    weights: Sequence[float], cohort: Sequence[int], steps: Mapping[int, int], solver: LocalSolver
) -> tuple[tuple[float, ...], float]:
    """Return FedNova's weights and the factor by which the server moves towards the mean that they give.

    Args:
        weights: p_i of every client of the cohort, in order, summing to 1.
        cohort: The clients.
        steps: Local steps in this round of those that answered.
        solver: SGD, plain or with momentum.

    Returns:
        w_i of every client, summing to 1 (those of clients that did not answer are not used), and the scale.
    """
    if len(set(steps.values())) <= 1:
        return tuple(weights), 1.0
    plain = plain_sgd(solver)
    momentum = 0.0 if plain is None else plain.momentum
    answered = {client: weight for client, weight in zip(cohort, weights, strict=True) if client in steps}
    total = sum(answered.values())
    lengths = {client: accumulated_length(momentum, steps[client]) for client in answered}
    mean = sum(weight / total * lengths[client] for client, weight in answered.items())
    parts = {client: weight / total / lengths[client] for client, weight in answered.items()}
    whole = sum(parts.values())
    return tuple(parts.get(client, 0.0) / whole for client in cohort), mean * whole
