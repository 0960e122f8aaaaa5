"""In which order layers are relaxed: by discrepancy as in FedLAMA, and controls that show what the choice is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from fedlama.core.randomness import permutation

Order = Literal["discrepancy", "size", "random", "round-robin", "inverse"]
"""Which layers are relaxed first: "discrepancy" those with the smallest d_l, "size" the largest, "random" a new draw at
each adjustment, "round-robin" the model's order from one layer further on at each adjustment, "inverse" those with the
largest d_l. All but the first are controls: they ignore or reverse the paper's criterion."""
ORDERS: tuple[str, ...] = get_args(Order)


def scores(
    order: Order, unit_discrepancy: Mapping[str, float], parameters: Mapping[str, int], seed: int, adjustment: int
) -> dict[str, float]:
    """Return a score for every layer that takes the place of d_l: layers with the smallest are relaxed first.

    Args:
        order: The order.
        unit_discrepancy: d_l of the layers that may adapt.
        parameters: dim(u_l), at least of the same layers.
        seed: The run's seed.
        adjustment: The number of the adjustment in its run, which gives each one a draw of its own.

    >>> scores("size", {"a": 2.0, "b": 1.0}, {"a": 10, "b": 40}, seed=0, adjustment=0)
    {'a': 0.1, 'b': 0.025}
    """
    if order == "discrepancy":
        return dict(unit_discrepancy)
    if order == "size":
        return {name: 1.0 / max(parameters[name], 1) for name in unit_discrepancy}
    if order == "inverse":
        return {name: 1.0 / value if value > 0.0 else float("inf") for name, value in unit_discrepancy.items()}
    if order == "round-robin":
        total = len(unit_discrepancy)
        return {name: 1.0 + (position - adjustment) % total for position, name in enumerate(unit_discrepancy)}
    drawn = permutation(seed, "order", len(unit_discrepancy), adjustment)
    return {name: 1.0 + float(position) for name, position in zip(unit_discrepancy, drawn, strict=True)}


def same_share(
    order: Order,
    chosen: frozenset[str],
    unit_discrepancy: Mapping[str, float],
    parameters: Mapping[str, int],
    seed: int,
    adjustment: int,
) -> frozenset[str]:
    """Return layers with about as many parameters as a selection has, chosen in another order.

    Layers are added in the order of their :func:`scores` until one more would miss the selection's number of parameters
    by more than leaving it out.

    Args:
        order: The order.
        chosen: The selection to compare with.
        unit_discrepancy: d_l of the layers that may adapt.
        parameters: dim(u_l), at least of the same layers.
        seed: The run's seed.
        adjustment: The number of the adjustment in its run.

    >>> same_share("size", frozenset({"a"}), {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 50, "b": 10, "c": 45}, 0, 0)
    frozenset({'a'})
    """
    if order == "discrepancy":
        return chosen
    goal, total, picked = sum(parameters[name] for name in chosen), 0, set[str]()
    by_name = scores(order, unit_discrepancy, parameters, seed, adjustment)
    for name in sorted(by_name, key=lambda name: by_name[name]):
        if abs(total + parameters[name] - goal) >= abs(total - goal):
            break
        total += parameters[name]
        picked.add(name)
    return frozenset(picked)
