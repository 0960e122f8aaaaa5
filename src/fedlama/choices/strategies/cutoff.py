"""How FedLAMA selects the layers that are synchronised less often (Algorithm 2).

Layers are sorted by unit discrepancy d_l. delta_l is the fraction of the discrepancy, and lambda_l the fraction of the
parameters, of the first l sorted layers (eqs. 3 and 4). The selection ends at the crossing of delta_l and 1 - lambda_l:
beyond it, one more layer would add a larger fraction of the discrepancy than remains of the cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Cutoff = Literal["crossing", "printed"]


@dataclass(frozen=True)
class Curves:
    """The two curves of the paper's Figure 1 and the layers that they select.

    Attributes:
        order: Layers in sorted order.
        delta: delta_l for l = 1, 2, ...: the fraction of the discrepancy in the first l layers of `order`.
        rest: 1 - lambda_l for l = 1, 2, ...: the fraction of the parameters in the layers after the first l.
        chosen: The selected layers.
    """

    order: tuple[str, ...]
    delta: tuple[float, ...]
    rest: tuple[float, ...]
    chosen: frozenset[str]


def least_critical(
    unit_discrepancy: Mapping[str, float],
    parameters: Mapping[str, int],
    *,
    rule: Cutoff = "crossing",
    total: float | None = None,
) -> Curves:
    """Select the layers that may be synchronised less often.

    Args:
        unit_discrepancy: d_l of every layer that may adapt.
        parameters: dim(u_l) of the same layers.
        rule: ``"crossing"`` selects the shortest prefix up to and including the first l with 1 - lambda_l < delta_l,
            as in the paper's text, its Figure 1 and the authors' program. ``"printed"`` applies line 9 of Algorithm 2
            as printed, delta_l < lambda_l. That holds for nearly every layer, because sorting makes
            delta_l <= lambda_l always, so the result is close to FedAvg with the long interval.
        total: Denominator of delta; None means the sum over these layers.

    Returns:
        The curves and the selection.

    >>> least_critical({"a": 1.0, "b": 4.0, "c": 2.0}, {"a": 60, "b": 10, "c": 30}).chosen == {"a", "c"}
    True
    """
    order = sorted(unit_discrepancy, key=lambda name: unit_discrepancy[name])
    delta, lam = _shares(order, unit_discrepancy, parameters, total)
    rest = [1.0 - share for share in lam]
    if rule == "printed":
        chosen = {name for name, d, share in zip(order, delta, lam, strict=True) if d < share}
    else:
        chosen = set(order[: _first(r < d for r, d in zip(rest, delta, strict=True))])
    return Curves(tuple(order), tuple(delta), tuple(rest), frozenset(chosen))


def most_critical(unit_discrepancy: Mapping[str, float], parameters: Mapping[str, int]) -> Curves:
    """Select the few layers that should be synchronised more often (the accelerating variant, section 4 of the paper).

    Layers are sorted by decreasing d_l; the selection ends at the crossing of 1 - delta_l and lambda_l. The layer at
    the crossing is included, as in :func:`least_critical`; the paper leaves that open.

    Args:
        unit_discrepancy: d_l of every layer that may adapt.
        parameters: dim(u_l) of the same layers.

    Returns:
        The curves (`rest` is 1 - lambda_l here too) and the selection.

    >>> most_critical({"a": 1.0, "b": 20.0, "c": 2.0}, {"a": 60, "b": 30, "c": 30}).chosen == {"b"}
    True
    """
    order = sorted(unit_discrepancy, key=lambda name: -unit_discrepancy[name])
    delta, lam = _shares(order, unit_discrepancy, parameters, None)
    # Without any discrepancy, or any layer that may adapt, no layer needs a shorter interval.
    crossing = _first(1.0 - d < share for d, share in zip(delta, lam, strict=True))
    chosen = order[:crossing] if any(delta) else []
    return Curves(tuple(order), tuple(delta), tuple(1.0 - share for share in lam), frozenset(chosen))


def _shares(
    order: list[str], unit_discrepancy: Mapping[str, float], parameters: Mapping[str, int], total: float | None
) -> tuple[list[float], list[float]]:
    """Return delta_l and lambda_l along the order, accumulated in float64 as in the authors' program."""
    if total is None:
        total = sum(unit_discrepancy[name] * parameters[name] for name in order)
    size = sum(parameters[name] for name in order)
    delta, lam = [], []
    held_discrepancy, held_parameters = 0.0, 0
    for name in order:
        held_discrepancy += unit_discrepancy[name] * parameters[name]
        held_parameters += parameters[name]
        # Without any discrepancy a longer interval costs nothing: the curve stays at 0 and never crosses.
        delta.append(held_discrepancy / total if total > 0.0 else 0.0)
        lam.append(held_parameters / size)
    return delta, lam


def _first(conditions: Iterable[bool]) -> int:
    """Return the length of the shortest prefix that includes the first true condition (all, when none is true)."""
    count = 0
    for condition in conditions:
        count += 1
        if condition:
            break
    return count
