"""Where FedLAMA cuts the layers into those that travel often and those that travel seldom (Algorithm 2).

Layers are sorted by unit discrepancy d_l; delta_l is the share of the discrepancy and lambda_l the share of the
parameters that the first l sorted layers hold (eqs. 3 and 4). The cut is where relaxing one more layer would add a
larger share of discrepancy than of the cost that is left: the crossing of delta_l and 1 - lambda_l.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Cutoff = Literal["crossing", "printed"]


@dataclass(frozen=True)
class Curves:
    """The two curves of the paper's Figure 1 and the layers they select.

    Attributes:
        order: Layers in sorted order.
        delta: Share of the discrepancy held by the first l layers of `order`.
        rest: 1 - lambda_l, the share of the parameters held by the layers after the first l.
        chosen: The layers selected by the cut.
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
    """Select the layers that may travel seldom.

    Args:
        unit_discrepancy: d_l of every layer that may adapt.
        parameters: dim(u_l) of the same layers.
        rule: ``"crossing"`` selects the shortest prefix up to and including the first l with 1 - lambda_l < delta_l,
            as the paper's text and Figure 1 say and as its program does. ``"printed"`` applies line 9 of Algorithm 2
            as printed, delta_l < lambda_l, which holds for nearly every layer because sorting makes
            delta_l <= lambda_l always: it amounts to FedAvg with the long interval.
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
    """Select the few layers that should travel more often (the accelerating variant, section 4 of the paper).

    Layers are sorted by decreasing d_l; the cut is the crossing of 1 - delta_l and lambda_l. The crossing layer is
    included, as in :func:`least_critical`; the paper leaves that open.

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
    # Without any discrepancy, or any layer that may adapt, there is nothing to hasten.
    crossing = _first(1.0 - d < share for d, share in zip(delta, lam, strict=True))
    chosen = order[:crossing] if any(delta) else []
    return Curves(tuple(order), tuple(delta), tuple(1.0 - share for share in lam), frozenset(chosen))


def _shares(
    order: list[str], unit_discrepancy: Mapping[str, float], parameters: Mapping[str, int], total: float | None
) -> tuple[list[float], list[float]]:
    """Accumulate both shares along the order, in float64 as the authors' program does."""
    if total is None:
        total = sum(unit_discrepancy[name] * parameters[name] for name in order)
    size = sum(parameters[name] for name in order)
    delta, lam = [], []
    held_discrepancy, held_parameters = 0.0, 0
    for name in order:
        held_discrepancy += unit_discrepancy[name] * parameters[name]
        held_parameters += parameters[name]
        # Without any discrepancy nothing is lost by relaxing everything: the curve stays at 0 and never crosses.
        delta.append(held_discrepancy / total if total > 0.0 else 0.0)
        lam.append(held_parameters / size)
    return delta, lam


def _first(conditions: Iterable[bool]) -> int:
    """Length of the shortest prefix that includes the first true condition (all, when none is true)."""
    count = 0
    for condition in conditions:
        count += 1
        if condition:
            break
    return count
