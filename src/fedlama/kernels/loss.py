"""One client's cross-entropy and its gradient: logits (blocks, classes, 16)."""

from __future__ import annotations

import math
from typing import Any

from fedlama.kernels.kernel import kernel
from fedlama.kernels.lanes import ahead, exponential, larger, load, plus, store, times
from fedlama.kernels.table import LANES


@kernel
def cross_entropy(logits: Any, y: Any, room: Any, batch: int, classes: int) -> float:
    """Return the mean loss of a batch and put the gradient in the place of the logits.

    Args:
        logits: (blocks, classes, 16), overwritten.
        y: int64 classes, (batch,).
        room: Scratch of 32 elements.
        batch: Samples; lanes beyond them get a gradient of 0.
        classes: How many.
    """
    loss = 0.0
    factors = ahead(room, LANES)
    for block in range(-(-batch // LANES)):
        own, here = ahead(logits, block * classes * LANES), min(batch - block * LANES, LANES)
        for lane in range(here):
            loss -= own[y[block * LANES + lane] * LANES + lane]
        largest = load(own, 0)
        for c in range(1, classes):
            largest = larger(largest, load(own, c * LANES))
        total = plus(largest, largest, -1.0)
        for c in range(classes):
            chance = exponential(plus(load(own, c * LANES), largest, -1.0))
            total = plus(total, chance, 1.0)
            store(own, c * LANES, LANES, chance)
        store(room, 0, LANES, largest)
        store(factors, 0, LANES, total)
        for lane in range(LANES):
            if lane < here:
                loss += room[lane] + math.log(factors[lane])
                factors[lane] = 1.0 / (factors[lane] * batch)
            else:
                factors[lane] = 0.0
        for c in range(classes):
            store(own, c * LANES, LANES, times(load(own, c * LANES), load(factors, 0)))
        for lane in range(here):
            own[y[block * LANES + lane] * LANES + lane] -= 1.0 / batch
    return loss / batch
