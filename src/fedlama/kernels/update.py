"""The solver's step, as far as kernels take part in it: gradients go straight where the solver wants them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.lanes import ahead, floats, full, integers, load_some, plus, store_some, total
from fedlama.kernels.table import (
    ANCHOR,
    BATCH,
    CLIENT,
    COUNT,
    DECAYS,
    ELEMENTS,
    FRESH,
    LANES,
    MARGIN,
    MASKS,
    MOMENTUM,
    PARAMETER_COLUMNS,
    PARAMETERS,
    PULL,
    RATE,
    SCRATCH,
    SPARE,
    TRAINED,
    VALUES,
    VELOCITIES,
)


class Step(NamedTuple):
    """One local step of one client, as operations see it; see :mod:`~fedlama.kernels.table`.

    Attributes:
        scratch: Activations and gradients.
        spare: Scratch for a while.
        masks: Dropout masks, one after another, each (batch, ...).
        parameters: int64, (parameters and buffers, columns).
        decays: float32, each one's weight decay.
        entries: Parameters and buffers.
        client: Which row of the share.
        batch: Samples.
        margin: Pixels of zeros beside images.
        fresh: Whether velocities that a kernel of their own moves count as zero; the others were set to it.
        rate: Learning rate, float32.
        momentum: m, float32.
        pull: FedProx's mu, float32.
    """

    scratch: Any
    spare: Any
    masks: Any
    parameters: Any
    decays: Any
    entries: int
    client: int
    batch: int
    margin: int
    fresh: int
    rate: float
    momentum: float
    pull: float


@kernel
def step_of(context: Any, settings: Any) -> Any:
    """Read what an operation is told."""
    return Step(
        floats(context[SCRATCH]),
        floats(context[SPARE]),
        floats(context[MASKS]),
        integers(context[PARAMETERS]),
        floats(context[DECAYS]),
        context[COUNT],
        context[CLIENT],
        context[BATCH],
        context[MARGIN],
        context[FRESH],
        settings[RATE],
        settings[MOMENTUM],
        settings[PULL],
    )


@kernel
def about(s: Any, number: int, column: int) -> Any:
    """Look into the table of parameters."""
    return s.parameters[number * PARAMETER_COLUMNS + column]


@kernel
def own(s: Any, number: int, column: int) -> Any:
    """Point to a client's share of a parameter, or of its velocity."""
    number = max(number, 0)
    return ahead(floats(about(s, number, column)), s.client * about(s, number, ELEMENTS))


@kernel
def is_trained(s: Any, number: int) -> Any:
    """Tell whether there is such a parameter, and it is trained."""
    return number >= 0 and about(s, number, TRAINED) != 0


@kernel
def target(s: Any, number: int) -> tuple[Any, float, float]:
    """Return what a gradient is added to, what that is scaled with first, and the gradient's factor.

    With momentum m that is v <- m v + g, without it x <- (1 - eta (w + mu)) x - eta g; what is left of the step
    :func:`move` does.
    """
    if s.momentum > 0.0:
        return own(s, number, VELOCITIES), s.momentum, type(s.momentum)(1.0)
    return own(s, number, VALUES), 1.0 - s.rate * (s.decays[number] + s.pull), -s.rate


@kernel
def add_gradient(s: Any, number: int, gradient: Any) -> None:
    """Take a gradient that lies in memory."""
    goal, scale, factor = target(s, number)
    for element in range(about(s, number, ELEMENTS)):
        goal[element] = scale * goal[element] + factor * gradient[element]


@kernel
def add_feature_bias(s: Any, number: int, gradient: Any, features: int) -> None:
    """Take a bias' gradient: the sum of (blocks, features, 16) over all but the features."""
    if not is_trained(s, number):
        return
    goal, scale, factor = target(s, number)
    for feature in range(features):
        sum_ = np.float32(0.0)
        for block in range(-(-s.batch // LANES)):
            here = s.batch - block * LANES
            sum_ += total(load_some(gradient, (block * features + feature) * LANES, here))
        goal[feature] = scale * goal[feature] + factor * sum_


@kernel
def add_image_bias(s: Any, number: int, gradient: Any, f: Any) -> None:
    """Take a bias' gradient: the sum of images over all but the channels."""
    if not is_trained(s, number):
        return
    goal, scale, factor = target(s, number)
    for channel in range(f.channels):
        sum_ = np.float32(0.0)
        for y in range(f.height):
            start = channel * f.plane + y * f.row + f.left
            own_row = full(np.float32(0.0))
            for place in range(0, f.length, LANES):
                own_row = plus(own_row, load_some(gradient, start + place, f.length - place), np.float32(1.0))
            sum_ += total(own_row)
        goal[channel] = scale * goal[channel] + factor * sum_


@kernel
def begin(s: Any) -> None:
    """Set the velocities of what is trained to zero, but for weights whose own kernel need not read them."""
    for number in range(s.entries):
        if about(s, number, TRAINED) == 1:
            velocities = own(s, number, VELOCITIES)
            for element in range(about(s, number, ELEMENTS)):
                velocities[element] = 0.0


@kernel
def move(s: Any) -> None:
    """Do what is left of the step: v <- v + w x + mu (x - u) and x <- x - eta v; without momentum x <- x + eta mu u."""
    for number in range(s.entries):
        if about(s, number, TRAINED) == 1 and (s.momentum > 0.0 or s.pull > 0.0):
            _move_one(s, number)


@kernel
def _move_one(s: Any, number: int) -> None:
    values, decay, velocities = own(s, number, VALUES), s.decays[number], own(s, number, VELOCITIES)
    anchor, elements = floats(about(s, number, ANCHOR)), about(s, number, ELEMENTS)
    whole = elements - elements % LANES
    for place in range(0, whole, LANES):
        _move_vector(s, decay, values, velocities, anchor, place, LANES)
    if whole < elements:
        _move_vector(s, decay, values, velocities, anchor, whole, elements - whole)


@kernel
def _move_vector(s: Any, decay: Any, values: Any, velocities: Any, anchor: Any, place: int, count: int) -> None:
    """Move up to sixteen numbers."""
    value = load_some(values, place, count)
    if s.momentum == 0.0:
        value = plus(value, load_some(anchor, place, count), s.rate * s.pull)
    else:
        velocity = load_some(velocities, place, count)
        if decay > 0.0:
            velocity = plus(velocity, value, decay)
        if s.pull > 0.0:
            velocity = plus(velocity, plus(value, load_some(anchor, place, count), np.float32(-1.0)), s.pull)
        if decay > 0.0 or s.pull > 0.0:
            store_some(velocities, place, LANES, velocity, count)
        value = plus(value, velocity, -s.rate)
    store_some(values, place, LANES, value, count)
