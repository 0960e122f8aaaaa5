"""The solver's step, as far as kernels take part in it: gradients are added where the solver needs them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.operands import Target
from fedlama.kernels.table import (
    BATCH,
    BIAS,
    CLIENT,
    COUNT,
    DECAYS,
    ELEMENTS,
    FRESH,
    INPUT_ELEMENTS,
    INPUTS,
    LANES,
    MARGIN,
    MASK_ELEMENTS,
    MASKS,
    MOMENTUM,
    PARAMETER_COLUMNS,
    PARAMETERS,
    PROXIMAL,
    RATE,
    REFERENCE,
    SCRATCH,
    SCRATCH_ELEMENTS,
    SPARE,
    SPARE_ELEMENTS,
    TRAINED,
    VALUES,
    VELOCITIES,
    WEIGHT,
)
from fedlama.kernels.tiles import client_view, floats_at, integers_at, load_some, offset, parameter_field, store_some
from fedlama.kernels.vectors import full, plus, total


class Step(NamedTuple):
    """One local step of one client, as operations see it; see :mod:`~fedlama.kernels.table`.

    Attributes:
        scratch: Activations and gradients.
        spare: Scratch that an operation may use while it runs.
        masks: Dropout masks, one after another, each (batch, ...).
        inputs: The batch as gathered, (batch, features).
        parameters: int64, (parameters and running statistics, columns).
        decays: float32, each one's weight decay.
        tensors: Parameters and running statistics.
        client: The client's row in the stacks.
        batch: Samples.
        margin: Pixels of zeros beside images.
        fresh: Whether velocities of tensors that are trained within the backward pass count as zero; the others were
            set to it.
        rate: Learning rate, float32.
        momentum: m, float32.
        proximal: FedProx's mu, float32.
    """

    scratch: Any
    spare: Any
    masks: Any
    inputs: Any
    parameters: Any
    decays: Any
    tensors: int
    client: int
    batch: int
    margin: int
    fresh: int
    rate: float
    momentum: float
    proximal: float


@kernel
def step_of(context: Any, settings: Any) -> Any:
    """Read a :class:`Step` from its tables."""
    return Step(
        floats_at(context[SCRATCH], context[SCRATCH_ELEMENTS]),
        floats_at(context[SPARE], context[SPARE_ELEMENTS]),
        floats_at(context[MASKS], context[MASK_ELEMENTS]),
        floats_at(context[INPUTS], context[INPUT_ELEMENTS]),
        integers_at(context[PARAMETERS], context[COUNT] * PARAMETER_COLUMNS),
        floats_at(context[DECAYS], context[COUNT]),
        context[COUNT],
        context[CLIENT],
        context[BATCH],
        context[MARGIN],
        context[FRESH],
        settings[RATE],
        settings[MOMENTUM],
        settings[PROXIMAL],
    )


@kernel
def reference_view(s: Any, number: int) -> Any:
    """Return the global values of a parameter."""
    return floats_at(parameter_field(s, number, REFERENCE), parameter_field(s, number, ELEMENTS))


@kernel
def is_trained(s: Any, number: int) -> Any:
    """Return whether there is such a parameter, and it is trained."""
    return number >= 0 and parameter_field(s, number, TRAINED) != 0


@kernel
def target_of(s: Any, number: int) -> Any:
    """Return the :class:`~fedlama.kernels.operands.Target` of a parameter's gradient.

    With momentum m that is v <- m v + g, without it x <- (1 - eta (w + mu)) x - eta g; :func:`update` does the rest.
    """
    if s.momentum > 0.0:
        return Target(client_view(s, number, VELOCITIES), np.float64(s.momentum), np.float32(1.0))
    scale = 1.0 - s.rate * (s.decays[number] + s.proximal)
    return Target(client_view(s, number, VALUES), scale, -s.rate)


@kernel
def add_gradient(s: Any, number: int, gradient: Any) -> None:
    """Add a gradient that is in memory, (elements,), to its target."""
    target = target_of(s, number)
    for element in range(parameter_field(s, number, ELEMENTS)):
        target.memory[element] = target.scale * target.memory[element] + target.factor * gradient[element]


@kernel
def add_norm_gradients(s: Any, row: Any, channels: int) -> None:
    """Add the gradients of bias and weight, which a normalisation has left in the spare scratch, (2, channels).

    Args:
        s: The :class:`Step`.
        row: The operation's row of the program.
        channels: Channels or features that have a bias and a weight.
    """
    if is_trained(s, row[BIAS]):
        add_gradient(s, row[BIAS], s.spare)
    if is_trained(s, row[WEIGHT]):
        add_gradient(s, row[WEIGHT], offset(s.spare, channels))


@kernel
def add_feature_bias(s: Any, number: int, gradient: Any, features: int) -> None:
    """Add a bias' gradient to its target: the sum of (blocks, features, 16) over all but the features."""
    if not is_trained(s, number):
        return
    target = target_of(s, number)
    for feature in range(features):
        sum_ = np.float32(0.0)
        for block in range(-(-s.batch // LANES)):  # sum (1) += gradient (16) of a block's feature
            here = s.batch - block * LANES
            sum_ += total(load_some(gradient, (block * features + feature) * LANES, here))
        target.memory[feature] = target.scale * target.memory[feature] + target.factor * sum_


@kernel
def add_image_bias(s: Any, number: int, gradient: Any) -> None:
    """Add a bias' gradient to its target: the sum of images over all but the channels.

    Args:
        s: The :class:`Step`.
        number: The bias' position in the table of parameters.
        gradient: :class:`~fedlama.kernels.operands.Images`.
    """
    if not is_trained(s, number):
        return
    target, f = target_of(s, number), gradient.field
    for channel in range(f.channels):
        sum_ = np.float32(0.0)
        for y in range(f.height):
            start = channel * f.plane + y * f.row + f.left
            lanes = full(np.float32(0.0))
            for element in range(0, f.length, LANES):  # lanes (16) += gradient (16) of a row's (width * batch)
                lanes = plus(lanes, load_some(gradient.pixels, start + element, f.length - element), np.float32(1.0))
            sum_ += total(lanes)
        target.memory[channel] = target.scale * target.memory[channel] + target.factor * sum_


@kernel
def clear_velocities(s: Any) -> None:
    """Set the velocities of what the update trains to zero; an operation that trains its own need not read them."""
    for number in range(s.tensors):
        if parameter_field(s, number, TRAINED) == 1:
            velocities = client_view(s, number, VELOCITIES)
            for element in range(parameter_field(s, number, ELEMENTS)):
                velocities[element] = 0.0


@kernel
def update(s: Any) -> None:
    """Finish the step: v <- v + w x + mu (x - u) and x <- x - eta v; without momentum x <- x + eta mu u."""
    for number in range(s.tensors):
        if parameter_field(s, number, TRAINED) == 1 and (s.momentum > 0.0 or s.proximal > 0.0):
            _update_tensor(s, number)


@kernel
def _update_tensor(s: Any, number: int) -> None:
    values, velocities = client_view(s, number, VALUES), client_view(s, number, VELOCITIES)
    tensor, elements = (values, velocities, reference_view(s, number)), parameter_field(s, number, ELEMENTS)
    whole, decay = elements - elements % LANES, s.decays[number]  # read once: LLVM would read it for every vector
    for start in range(0, whole, LANES):
        _update_vector(s, decay, tensor, start, LANES)
    if whole < elements:
        _update_vector(s, decay, tensor, whole, elements - whole)


@kernel
def _update_vector(s: Any, decay: Any, tensor: Any, start: int, count: int) -> None:
    """Update up to sixteen elements of (values, velocities, reference)."""
    values, velocities, reference = tensor
    value = load_some(values, start, count)
    if s.momentum == 0.0:
        value = plus(value, load_some(reference, start, count), s.rate * s.proximal)
    else:
        velocity = load_some(velocities, start, count)
        if decay > 0.0:
            velocity = plus(velocity, value, decay)
        if s.proximal > 0.0:
            velocity = plus(velocity, plus(value, load_some(reference, start, count), np.float32(-1.0)), s.proximal)
        if decay > 0.0 or s.proximal > 0.0:
            store_some(velocities, start, LANES, velocity, count)
        value = plus(value, velocity, -s.rate)
    store_some(values, start, LANES, value, count)
