"""Fixed intervals, slowly: layer l is synchronised every ``table[l]`` rounds, whatever happens."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.reference.federation import Federation, RoundRecord, Slot, Trace, seat_cohort, synchronise, train_locally


def train_fixed(federation: Federation, table: Sequence[int]) -> Trace:
    """Train; a cycle is the least common multiple of the intervals, where all layers meet and a cohort may change."""
    if len(table) != len(federation.layers):
        raise ValueError(f"one interval per layer: {len(federation.layers)} layers, {len(table)} intervals")
    trace, dims, cycle = Trace(federation.dims()), federation.dims(), math.lcm(*table)
    server, slots = federation.start(), list[Slot]()
    d, counts = [0.0 for _ in dims], [0 for _ in dims]
    for e in range(federation.rounds):
        if e % cycle == 0:
            slots = seat_cohort(federation, slots, federation.cohort(e // cycle), server)
        cohort = [slot.client for slot in slots]
        losses = [train_locally(federation, slot, e) for slot in slots]
        travelled = [(e + 1) % interval == 0 for interval in table]
        for layer, due in enumerate(travelled):
            if due:
                squares = synchronise(slots, federation.proportions(cohort), federation.layers[layer], server)
                d[layer] = squares / (table[layer] * federation.steps * dims[layer])
                counts[layer] += 1
        locals_ = [list(slot.model) for slot in slots]
        trace.rounds.append(
            RoundRecord(
                cohort, losses, travelled, list(d), list(table), list(table), locals_, list(server), list(counts)
            )
        )
    return trace
