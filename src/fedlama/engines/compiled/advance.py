"""A whole round of local steps of one client after another, in one call: what Python would otherwise launch piecewise.

A model is a *program*: a table with a row per operation. One client's parameters, activations and gradients stay in
the processor's cache from its first step to its last, and no launch has to be paid for with many clients.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from fedlama.engines.compiled.convolution import Shape, add_weight_gradient, backward_input, forward
from fedlama.engines.compiled.dense import add_outer, multiply
from fedlama.engines.compiled.kernel import kernel
from fedlama.engines.compiled.lanes import ahead, floats, integers, load, store, turn, where_positive
from fedlama.engines.compiled.loss import cross_entropy
from fedlama.engines.compiled.pooling import Window, pool, unpool
from fedlama.engines.compiled.table import (
    ABOVE,
    ANCHOR,
    BELOW,
    BIAS,
    CONVOLUTION,
    DENSE,
    ELEMENTS,
    FIRST_SIZE,
    IN,
    KIND,
    LANES,
    OUT,
    POOL,
    TRAINED,
    VALUES,
    VELOCITIES,
    WEIGHT,
)


class Round(NamedTuple):
    """Sizes and settings of a round.

    Attributes:
        clients: How many.
        steps: Local steps.
        batch: The largest batch.
        features: Numbers of one input.
        classes: Logits of one sample.
        lowest: The first operation with something to train.
        scratch: Elements of activations and gradients of one block.
        momentum: m, float32.
        pull: FedProx's mu, float32.
    """

    clients: int
    steps: int
    batch: int
    features: int
    classes: int
    lowest: int
    scratch: int
    momentum: float
    pull: float


@kernel
def advance(
    program: Any, parameters: Any, decays: Any, rates: Any, x: int, y: int, lengths: Any, room: Any, losses: Any, r: Any
) -> None:
    """Take all local steps of some clients, in place.

    Args:
        program: int64, (operations, columns).
        parameters: int64, (parameters, columns).
        decays: float32, each parameter's weight decay.
        rates: float32, each step's learning rate.
        x: Address of the inputs, float32 (steps, clients, batch, features).
        y: Address of the classes, int64 (steps, clients, batch).
        lengths: int64, (steps, clients): how many samples of a batch count.
        room: float32 scratch.
        losses: float64, (clients,): every step's loss is added. A client stops at the first that is not finite.
        r: The :class:`Round`.
    """
    scratch = floats(room.ctypes.data)
    spare = ahead(scratch, r.scratch * (-(-r.batch // LANES)))
    for client in range(r.clients):
        for step in range(r.steps):
            batch, number = lengths[step, client], step * r.clients + client
            blocks = -(-batch // LANES)
            inputs = ahead(floats(x), number * r.batch * r.features)
            _interleave(ahead(scratch, program[0, IN] * blocks), inputs, batch, r.features)
            for place in range(len(program)):
                _forward(program[place], parameters, scratch, blocks, client)
            last = program[len(program) - 1]
            logits = ahead(scratch, last[OUT] * blocks)
            loss = cross_entropy(logits, ahead(integers(y), number * r.batch), spare, batch, r.classes)
            for place in range(len(program) - 1, r.lowest - 1, -1):
                own = program[place]
                wanted = place > r.lowest
                _backward(
                    own, parameters, decays, rates[step], scratch, spare, blocks, client, wanted, r.momentum, r.pull
                )
            _move(parameters, decays, rates[step], client, r.momentum, r.pull)
            losses[client] += loss
            if not math.isfinite(loss):
                break


@kernel
def _interleave(out: Any, x: Any, batch: int, features: int) -> None:
    """Bring (batch, features) into (blocks, features, 16); samples that are not there are 0."""
    for block in range(-(-batch // LANES)):
        here = min(batch - block * LANES, LANES)
        start, place = block * LANES * features, block * features * LANES
        full = features - features % LANES if here == LANES else 0
        for feature in range(0, full, LANES):
            turn(out, place + feature * LANES, LANES, x, start + feature, features)
        for feature in range(full, features):
            for lane in range(here):
                out[place + feature * LANES + lane] = x[start + lane * features + feature]
            for lane in range(here, LANES):
                out[place + feature * LANES + lane] = 0.0


@kernel
def _own(parameters: Any, number: int, client: int, column: int) -> Any:
    """Point to a client's share of a parameter, or of its velocity."""
    number = max(number, 0)
    return ahead(floats(parameters[number, column]), client * parameters[number, ELEMENTS])


@kernel
def _shape(own: Any) -> Any:
    s = FIRST_SIZE
    return Shape(
        own[s], own[s + 1], own[s + 2], own[s + 3], own[s + 4], own[s + 5], own[s + 6], own[s + 7], own[s + 8],
        own[s + 9], own[s + 10], own[s + 11], own[s + 12], own[s + 13],
    )  # fmt: skip


@kernel
def _window(own: Any) -> Any:
    s = FIRST_SIZE
    return Window(
        own[s], own[s + 1], own[s + 2], own[s + 3], own[s + 4], own[s + 5], own[s + 6], own[s + 7], own[s + 8],
        own[s + 9], own[s + 10],
    )  # fmt: skip


@kernel
def _forward(own: Any, parameters: Any, scratch: Any, blocks: int, client: int) -> None:
    """Do one operation."""
    x, out = ahead(scratch, own[IN] * blocks), ahead(scratch, own[OUT] * blocks)
    weight, bias = _own(parameters, own[WEIGHT], client, VALUES), _own(parameters, own[BIAS], client, VALUES)
    if own[KIND] == DENSE:
        rows, columns = own[FIRST_SIZE], own[FIRST_SIZE + 1]
        multiply(out, weight, x, bias, own[BIAS] >= 0, blocks, rows, columns, columns, 1)
    elif own[KIND] == CONVOLUTION:
        forward(out, x, weight, bias, own[BIAS] >= 0, blocks, _shape(own))
    elif own[KIND] == POOL:
        pool(out, x, blocks * own[FIRST_SIZE], _window(own))
    else:
        for vector in range(blocks * own[FIRST_SIZE]):
            place = vector * LANES
            store(out, place, LANES, where_positive(load(x, place), load(x, place)))


@kernel
def _backward(
    own: Any,
    parameters: Any,
    decays: Any,
    rate: float,
    scratch: Any,
    spare: Any,
    blocks: int,
    client: int,
    wanted: bool,
    momentum: float,
    pull: float,
) -> None:
    """Undo one operation: the input's gradient first, as the parameters' may change the parameters themselves."""
    x, out = ahead(scratch, own[IN] * blocks), ahead(scratch, own[OUT] * blocks)
    below, above = ahead(scratch, own[BELOW] * blocks), ahead(scratch, own[ABOVE] * blocks)
    weight = _own(parameters, own[WEIGHT], client, VALUES)
    if own[KIND] == DENSE:
        rows, columns = own[FIRST_SIZE], own[FIRST_SIZE + 1]
        if wanted:
            multiply(below, weight, above, weight, False, blocks, columns, rows, 1, columns)
        if parameters[own[WEIGHT], TRAINED]:
            target, scale, factor = _target(parameters, decays, own[WEIGHT], client, rate, momentum, pull)
            add_outer(target, above, x, spare, blocks, rows, columns, scale, factor)
        _add_bias(own[BIAS], parameters, decays, rate, above, blocks, rows, 1, client, momentum, pull)
    elif own[KIND] == CONVOLUTION:
        s = _shape(own)
        if wanted:
            backward_input(below, above, weight, blocks, s)
        if parameters[own[WEIGHT], TRAINED]:
            target, scale, factor = _target(parameters, decays, own[WEIGHT], client, rate, momentum, pull)
            add_weight_gradient(target, above, x, spare, blocks, s, scale, factor)
        area = s.out_height * s.out_width
        _add_bias(own[BIAS], parameters, decays, rate, above, blocks, s.outputs, area, client, momentum, pull)
    elif own[KIND] == POOL:
        unpool(below, above, x, out, blocks * own[FIRST_SIZE], _window(own))
    else:
        for vector in range(blocks * own[FIRST_SIZE]):
            place = vector * LANES
            store(below, place, LANES, where_positive(load(out, place), load(above, place)))


@kernel
def _target(
    parameters: Any, decays: Any, number: int, client: int, rate: float, momentum: float, pull: float
) -> tuple[Any, float, float]:
    """Return what a gradient is added to, what that is scaled with first, and the gradient's factor.

    With momentum m that is v <- m v + g, without it x <- (1 - eta (w + mu)) x - eta g; what is left of the step
    :func:`_move` does.
    """
    if momentum > 0.0:
        return _own(parameters, number, client, VELOCITIES), momentum, type(momentum)(1.0)
    return _own(parameters, number, client, VALUES), 1.0 - rate * (decays[number] + pull), -rate


@kernel
def _add_bias(
    number: int,
    parameters: Any,
    decays: Any,
    rate: float,
    gradient: Any,
    blocks: int,
    outputs: int,
    area: int,
    client: int,
    momentum: float,
    pull: float,
) -> None:
    """Sum a gradient of (blocks, outputs, area, 16) over all but the outputs."""
    if number < 0 or not parameters[number, TRAINED]:
        return
    target, scale, factor = _target(parameters, decays, number, client, rate, momentum, pull)
    for output in range(outputs):
        total = 0.0
        for block in range(blocks):
            start = (block * outputs + output) * area * LANES
            for element in range(area * LANES):
                total += gradient[start + element]
        target[output] = scale * target[output] + factor * total


@kernel
def _move(parameters: Any, decays: Any, rate: float, client: int, momentum: float, pull: float) -> None:
    """Do what is left of the step: v <- v + w x + mu (x - u) and x <- x - eta v; without momentum x <- x + eta mu u."""
    for number in range(len(parameters)):
        if not parameters[number, TRAINED] or (momentum == 0.0 and pull == 0.0):
            continue
        values, decay = _own(parameters, number, client, VALUES), decays[number]
        anchor, elements = floats(parameters[number, ANCHOR]), parameters[number, ELEMENTS]
        if momentum == 0.0:
            for element in range(elements):
                values[element] += rate * pull * anchor[element]
            continue
        velocities = _own(parameters, number, client, VELOCITIES)
        for element in range(elements):
            velocity = velocities[element]
            if decay + pull > 0.0:
                velocity += decay * values[element]
                if pull > 0.0:
                    velocity += pull * (values[element] - anchor[element])
                velocities[element] = velocity
            values[element] -= rate * velocity
