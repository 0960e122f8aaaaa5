"""Algorithm 2 of the FedLAMA paper (arXiv 2110.10302, revised): which layers may be synchronised less often.

In sorted order d^_1, d^_2, ... with dims D_1, D_2, ...:

    delta_l  = sum_{i<=l} d^_i D_i / sum_all d_i D_i     (eq. 3: share of the discrepancy)
    lambda_l = sum_{i<=l} D_i      / sum_all D_i         (eq. 4: share of the parameters)

Line 9 is printed as ``delta_l < lambda_l``, which relaxes all but the last layer. The text, Figure 1 and the authors'
program cut where delta_l crosses 1 - lambda_l; that is the rule ``"crossing"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Cut: TypeAlias = Literal["crossing", "printed"]
DeltaOver: TypeAlias = Literal["all", "adaptive"]


@dataclass(frozen=True)
class CutPoint:
    """One step of the loop of Algorithm 2: a layer with its delta_l (eq. 3) and lambda_l (eq. 4)."""

    layer: int
    delta: float
    lam: float


def cut_curve(
    d: Sequence[float],
    dims: Sequence[int],
    adapt: Sequence[bool],
    delta_over: DeltaOver = "all",
    decreasing: bool = False,
) -> list[CutPoint]:
    """Lines 1 to 8: sort the adaptive layers by d and accumulate delta_l and lambda_l; ties keep the layers' order.

    The parameters are always counted over the adaptive layers; ``delta_over`` says which layers make up the whole
    discrepancy. When there is no discrepancy at all, every delta_l is 0.
    """
    adaptive = [layer for layer in range(len(d)) if adapt[layer]]
    counted = range(len(d)) if delta_over == "all" else adaptive
    all_discrepancy = sum(d[layer] * dims[layer] for layer in counted)  # line 4
    all_parameters = sum(dims[layer] for layer in adaptive)  # line 3
    curve: list[CutPoint] = []
    discrepancy, parameters = 0.0, 0
    for layer in sorted(adaptive, key=lambda index: -d[index] if decreasing else d[index]):
        discrepancy += d[layer] * dims[layer]
        parameters += dims[layer]
        delta = discrepancy / all_discrepancy if all_discrepancy else 0.0
        curve.append(CutPoint(layer, delta, parameters / all_parameters))
    return curve


def relaxed_layers(curve: Sequence[CutPoint], cut: Cut) -> set[int]:
    """Line 9: the layers that get phi * tau', from the curve in ascending order of d."""
    if cut == "printed":
        return {point.layer for point in curve if point.delta < point.lam}
    chosen: set[int] = set()
    for point in curve:
        chosen.add(point.layer)  # the crossing layer is included
        if 1 - point.lam < point.delta:
            break
    return chosen


def hastened_layers(curve: Sequence[CutPoint]) -> set[int]:
    """Section 4, the accelerating variant: the layers synchronised more often, from the curve in descending order.

    The shortest prefix up to and including the first layer with 1 - delta_l < lambda_l. Without any discrepancy there
    is nothing to gain, and no layer is chosen.
    """
    chosen: set[int] = set()
    if not curve or curve[-1].delta == 0:
        return chosen
    for point in curve:
        chosen.add(point.layer)
        if 1 - point.delta < point.lam:
            break
    return chosen


def adjust_intervals(
    d: Sequence[float],
    dims: Sequence[int],
    phi: int,
    adapt: Sequence[bool] | None = None,
    cut: Cut = "crossing",
    delta_over: DeltaOver = "all",
) -> list[int]:
    """Algorithm 2: phi for the relaxed layers, 1 for the others, in rounds of tau' local steps."""
    relaxed = relaxed_layers(cut_curve(d, dims, adapt or [True] * len(d), delta_over), cut)
    return [phi if layer in relaxed else 1 for layer in range(len(d))]


def accelerate_intervals(
    d: Sequence[float],
    dims: Sequence[int],
    phi: int,
    adapt: Sequence[bool] | None = None,
    delta_over: DeltaOver = "all",
) -> list[int]:
    """The accelerating variant: 1 for the hastened layers, phi for the others, in rounds of tau'/phi local steps."""
    hastened = hastened_layers(cut_curve(d, dims, adapt or [True] * len(d), delta_over, decreasing=True))
    return [1 if layer in hastened else phi for layer in range(len(d))]
