"""One client's cross-entropy and its gradient: logits (blocks, classes, 16), a block being a position of 16 samples."""

from __future__ import annotations

import math
from typing import Any

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import load, offset, store
from fedlama.kernels.vectors import exponential, larger, plus, times


@kernel
def cross_entropy(logits: Any, y: Any, room: Any, batch: int, positions: int, classes: int) -> float:
    """Return the mean loss of a batch over samples and positions, and replace the logits by their gradient.

    Args:
        logits: (blocks, classes, 16), overwritten.
        y: int64 classes, (batch, positions).
        room: Scratch of 32 elements.
        batch: Samples; lanes beyond them get a gradient of 0.
        positions: Of a sample; 1 for a class per sample.
        classes: How many.
    """
    loss = 0.0
    factors, count = offset(room, LANES), batch * positions
    for block in range(-(-batch // LANES) * positions):
        rows, first = offset(logits, block * classes * LANES), block // positions * LANES
        here, labels = min(batch - first, LANES), offset(y, first * positions + block % positions)
        for lane in range(here):
            loss -= rows[labels[lane * positions] * LANES + lane]
        largest = load(rows, 0)
        for c in range(1, classes):  # largest (16 samples) <- rows (classes, 16 samples)
            largest = larger(largest, load(rows, c * LANES))
        total = plus(largest, largest, -1.0)
        for c in range(classes):  # rows (classes, 16 samples) <- exponentials; total (16 samples) is their sum
            power = exponential(plus(load(rows, c * LANES), largest, -1.0))
            total = plus(total, power, 1.0)
            store(rows, c * LANES, LANES, power)
        store(room, 0, LANES, largest)
        store(factors, 0, LANES, total)
        for lane in range(LANES):
            if lane < here:
                loss += room[lane] + math.log(factors[lane])
                factors[lane] = 1.0 / (factors[lane] * count)
            else:
                factors[lane] = 0.0
        for c in range(classes):  # rows (classes, 16 samples) <- probabilities / (batch * positions)
            store(rows, c * LANES, LANES, times(load(rows, c * LANES), load(factors, 0)))
        for lane in range(here):
            rows[labels[lane * positions] * LANES + lane] -= 1.0 / count
    return loss / count
