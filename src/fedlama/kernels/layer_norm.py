"""One client's layer normalisation: over the features of each sample, or of each position of its sequences.

Activations are (blocks, features, 16), so a vector holds a feature of sixteen samples, and no sum runs over lanes but
those of the gradients of scale and shift.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import load, offset, store
from fedlama.kernels.vectors import add_product, divide, full, plus, square_root, times, total


class LayerNorm(NamedTuple):
    """A layer normalisation.

    Attributes:
        weight: Memory, (features,).
        bias: Memory, (features,).
        statistics: Means, then 1 / sqrt(variance + epsilon); memory, (blocks, 2, 16).
        features: How many are normalised together.
        blocks: Vectors of samples, at all positions.
        epsilon: Keeps the root away from 0.
    """

    weight: Any
    bias: Any
    statistics: Any
    features: int
    blocks: int
    epsilon: float


@kernel
def normalise_features(out: Any, x: Any, norm: Any) -> None:
    """Normalise the features of each sample at each position, scale and shift them.

    Args:
        out: (blocks, features, 16).
        x: (blocks, features, 16).
        norm: The :class:`LayerNorm`; its statistics are written.
    """
    share = full(np.float32(1.0 / norm.features))
    for block in range(norm.blocks):
        inputs, outputs = offset(x, block * norm.features * LANES), offset(out, block * norm.features * LANES)
        sum_, squares = full(np.float32(0.0)), full(np.float32(norm.epsilon))
        for feature in range(norm.features):  # sum (16 samples) += inputs (features, 16 samples)
            sum_ = plus(sum_, load(inputs, feature * LANES), np.float32(1.0))
        mean = times(sum_, share)
        for feature in range(norm.features):  # squares (16 samples) += inputs (features, 16 samples)
            apart = plus(load(inputs, feature * LANES), mean, np.float32(-1.0))
            squares = add_product(squares, times(apart, share), apart)
        scale = divide(full(np.float32(1.0)), square_root(squares))
        store(norm.statistics, 2 * block * LANES, LANES, mean)
        store(norm.statistics, (2 * block + 1) * LANES, LANES, scale)
        for feature in range(norm.features):  # outputs (features, 16 samples) <- inputs (features, 16 samples)
            apart = times(plus(load(inputs, feature * LANES), mean, np.float32(-1.0)), scale)
            value = add_product(full(norm.bias[feature]), apart, full(norm.weight[feature]))
            store(outputs, feature * LANES, LANES, value)


@kernel
def undo_normalise_features(below: Any, gradient: Any, x: Any, norm: Any, sums: Any, wanted: bool, add: bool) -> None:
    """Make the gradients of bias and weight, and of the input if it is wanted.

    With g the gradient, n = (x - mean) s the normalised input, s = 1 / sqrt(variance + epsilon), and means over the
    features: dx = s (weight g - mean(weight g) - n mean(weight g n)).

    Args:
        below: The input's gradient, (blocks, features, 16).
        gradient: (blocks, features, 16); 0 in lanes without a sample.
        x: The normalisation's input, (blocks, features, 16).
        norm: The :class:`LayerNorm`, with the statistics that :func:`normalise_features` wrote.
        sums: Gets the gradients of bias and weight, (2, features); scratch of (2, features, 16) after them.
        wanted: Whether the input's gradient is.
        add: Whether it is added to what is there.
    """
    shifts = offset(sums, 2 * norm.features)
    slopes, share = offset(shifts, norm.features * LANES), full(np.float32(-1.0 / norm.features))
    for start in range(0, 2 * norm.features * LANES, LANES):
        store(shifts, start, LANES, full(np.float32(0.0)))
    for block in range(norm.blocks):
        start = block * norm.features * LANES
        inputs, above = offset(x, start), offset(gradient, start)
        mean, scale = load(norm.statistics, 2 * block * LANES), load(norm.statistics, (2 * block + 1) * LANES)
        lift, pull = full(np.float32(0.0)), full(np.float32(0.0))
        for feature in range(norm.features):  # lift, pull (16 samples), shifts, slopes (features, 16) += above, inputs
            at = feature * LANES
            slope, weight = load(above, at), full(norm.weight[feature])
            apart = times(plus(load(inputs, at), mean, np.float32(-1.0)), scale)
            weighted = times(slope, weight)
            lift, pull = plus(lift, weighted, np.float32(1.0)), add_product(pull, weighted, apart)
            store(shifts, at, LANES, plus(load(shifts, at), slope, np.float32(1.0)))
            store(slopes, at, LANES, add_product(load(slopes, at), slope, apart))
        if wanted:
            lift, pull = times(lift, share), times(pull, share)
            _undo_block(offset(below, start), above, inputs, norm, (mean, scale, lift, pull), add)
    for feature in range(norm.features):
        sums[feature] = total(load(shifts, feature * LANES))
        sums[norm.features + feature] = total(load(slopes, feature * LANES))


@kernel
def _undo_block(below: Any, above: Any, inputs: Any, norm: Any, line: Any, add: bool) -> None:
    """Write or add scale * (weight * g + lift + pull * (x - mean) * scale) for the gradients g of a block."""
    mean, scale, lift, pull = line
    for feature in range(norm.features):  # below (features, 16 samples) <- above, inputs (features, 16 samples)
        at = feature * LANES
        apart = times(plus(load(inputs, at), mean, np.float32(-1.0)), scale)
        value = add_product(add_product(lift, apart, pull), load(above, at), full(norm.weight[feature]))
        value = times(value, scale)  # rounded here, whether it is added or not
        store(below, at, LANES, plus(value, load(below, at), np.float32(1.0)) if add else value)
