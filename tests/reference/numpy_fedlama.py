"""FedLAMA, slowly: Algorithm 1 of arXiv 2110.10302 (revised), counted in rounds of ``steps`` local steps.

The paper counts local iterations k; here round e ends at k = (e + 1) * steps, so that ``k mod tau_l == 0`` becomes
``(e + 1) mod interval_l == 0`` and a layer's tau_l is ``interval_l * steps``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.reference.federation import Federation, RoundRecord, Slot, Trace, seat_cohort, synchronise, train_locally
from tests.reference.intervals import Cut, DeltaOver, accelerate_intervals, adjust_intervals


@dataclass(frozen=True)
class FedLamaRules:
    """The hyper-parameters of FedLAMA, and a switch for each point where paper and program differ.

    Attributes:
        phi: The interval increase factor, in rounds; the whole model is synchronised every phi rounds.
        adapt: Per layer, whether its interval may change; None for all.
        cut: The rule of Algorithm 2, line 9.
        delta_over: The layers whose discrepancy is the denominator of eq. 3.
        adjust_after: Intervals are adjusted only after a round e > adjust_after, counted from 0 (authors: 5).
        accelerate: The variant of section 4: a round is then tau'/phi steps, layers start at phi rounds, those with
            the largest d get 1.
    """

    phi: int
    adapt: Sequence[bool] | None = None
    cut: Cut = "crossing"
    delta_over: DeltaOver = "all"
    adjust_after: int = -1
    accelerate: bool = False

    def __post_init__(self) -> None:
        """Refuse a combination the paper does not describe."""
        if self.accelerate and self.cut != "crossing":
            raise ValueError(f"the accelerating variant cuts at the crossing, got cut={self.cut!r}")

    def adjusted(self, d: Sequence[float], dims: Sequence[int]) -> list[int]:
        """Algorithm 2 under these rules."""
        if self.accelerate:
            return accelerate_intervals(d, dims, self.phi, self.adapt, self.delta_over)
        return adjust_intervals(d, dims, self.phi, self.adapt, self.cut, self.delta_over)


def train_fedlama(federation: Federation, rules: FedLamaRules) -> Trace:
    """Algorithm 1."""
    trace, dims = Trace(federation.dims()), federation.dims()
    layers = range(len(dims))
    server, slots = federation.start(), list[Slot]()
    intervals = [rules.phi if rules.accelerate else 1 for _ in layers]  # line 1: tau_l <- tau'
    d, counts = [0.0 for _ in layers], [0 for _ in layers]
    for e in range(federation.rounds):  # line 2
        if e % rules.phi == 0:  # clients are drawn at full synchronisations
            slots = seat_cohort(federation, slots, federation.cohort(e // rules.phi), server)
        cohort = [slot.client for slot in slots]
        losses = [train_locally(federation, slot, e) for slot in slots]  # line 3
        in_force = list(intervals)
        travelled = [(e + 1) % intervals[layer] == 0 for layer in layers]  # line 5
        for layer in layers:  # line 4
            if travelled[layer]:
                squares = synchronise(slots, federation.proportions(cohort), federation.layers[layer], server)  # line 6
                d[layer] = squares / (intervals[layer] * federation.steps * dims[layer])  # line 7, eq. 2
                counts[layer] += 1
        if (e + 1) % rules.phi == 0 and e > rules.adjust_after:  # line 8
            intervals = rules.adjusted(d, dims)  # line 9
        locals_ = [list(slot.model) for slot in slots]
        trace.rounds.append(
            RoundRecord(
                cohort, losses, travelled, list(d), in_force, list(intervals), locals_, list(server), list(counts)
            )
        )
    return trace
