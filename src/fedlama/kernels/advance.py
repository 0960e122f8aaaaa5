"""A whole round of local steps of one client after another, in one call: what Python would otherwise launch piecewise.

A model is a *program*: a table with a row per operation. One client's parameters, activations and gradients stay in
the processor's cache from its first step to its last, and no launch has to be paid for with many clients.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fedlama.kernels.images import enter, enter_features, field
from fedlama.kernels.kernel import kernel
from fedlama.kernels.lanes import ahead, call, floats, integers, take
from fedlama.kernels.loss import cross_entropy
from fedlama.kernels.table import (
    ACTIVE,
    BATCH,
    CLIENT,
    COLUMNS,
    DO,
    FRESH,
    IN,
    MARGIN,
    MASKS,
    OUT,
    RATE,
    SCRATCH,
    SPARE,
    UNDO,
)
from fedlama.kernels.update import begin, move, step_of

_REFUSED = -(1 << 62)
"""The counter of clients when a thread has refused its input: every thread stops at a negative client."""


class Round(NamedTuple):
    """Sizes and settings of a round.

    Attributes:
        clients: How many.
        steps: Local steps.
        batch: The largest batch.
        samples: Samples in the pool that batches are gathered from.
        channels: Of one input, or its features if it is no image.
        height: Of one input, 0 if it is no image.
        width: Of one input, 0 if it is no image.
        classes: Logits of one sample.
        masks: Numbers of one sample's dropout masks.
        scratch: Elements of activations and gradients.
        spare: Elements of scratch for a while; a batch's inputs are brought together behind them.
        fresh: Whether velocities begin as zero, whatever lies in their memory.
    """

    clients: int
    steps: int
    batch: int
    samples: int
    channels: int
    height: int
    width: int
    classes: int
    masks: int
    scratch: int
    spare: int
    fresh: bool


@kernel
def advance(
    program: Any, reals: Any, context: Any, settings: Any, rates: Any, x: int, y: int, rows: Any, lengths: Any,
    masks: Any, room: Any, state: Any, losses: Any, turn: Any, r: Any,
) -> None:  # fmt: skip
    """Take all local steps of one client after another, in place, until none is left for whoever does the same.

    Args:
        program: int64, (operations, columns).
        reals: float32, (operations, 2).
        context: int64; what the operations are told of a step. Scratch, client, batch and masks are filled in here.
        settings: float32; the same of what is not whole. The rate is filled in here.
        rates: float32, each step's learning rate.
        x: Address of the inputs, float32 (samples, features).
        y: Address of the classes, int64 (samples,).
        rows: int64, (steps, clients, batch): which samples are in a batch.
        lengths: int64, (steps, clients): how many of them count.
        masks: float32, every batch's dropout masks, (steps, clients, batch times masks); empty without dropout.
        room: float32 scratch; its first element lies at a multiple of 64 bytes.
        state: int64, (1,): the batch that the zeros in the scratch were laid out for.
        losses: float64, (clients,): every step's loss is added. A client stops at the first that is not finite.
        turn: int64, (1,): the next client; threads that advance the same clients share it. It is negative at the end if
            a batch names a sample or a class that does not exist.
        r: The :class:`Round`.
    """
    scratch = floats(room.ctypes.data)
    spare = ahead(scratch, r.scratch)
    told, set_ = integers(context.ctypes.data), floats(settings.ctypes.data)
    context[SCRATCH], context[SPARE] = room.ctypes.data, room.ctypes.data + 4 * r.scratch
    features = r.channels * max(r.height, 1) * max(r.width, 1)
    classes = np.empty(r.batch, np.int64)
    inputs, y_own = ahead(spare, r.spare), integers(classes.ctypes.data)
    client = take(integers(turn.ctypes.data))
    while 0 <= client < r.clients:
        for step in range(r.steps):
            batch, number = lengths[step, client], step * r.clients + client
            if state[0] != batch:
                state[0] = batch
                room[:] = 0.0
            context[CLIENT], context[BATCH] = client, batch
            context[MASKS] = masks.ctypes.data + 4 * number * r.batch * r.masks
            settings[RATE] = rates[step]
            context[FRESH] = step == 0 and r.fresh
            if context[FRESH]:
                begin(step_of(told, set_))
            if not _gather(inputs, y_own, floats(x), integers(y), rows[step, client, :batch], features, r):
                turn[0] = _REFUSED
                return
            if r.height > 0:
                f = field(r.channels, r.height, r.width, context[MARGIN], batch)
                enter(ahead(scratch, program[0, IN]), inputs, f)
            else:
                enter_features(ahead(scratch, program[0, IN]), inputs, batch, features)
            for place in range(len(program)):
                row, own_reals = _row(program, place), ahead(floats(reals.ctypes.data), 2 * place)
                call(program[place, DO], row, own_reals, told, set_)
            logits = ahead(scratch, program[len(program) - 1, OUT])
            loss = cross_entropy(logits, y_own, spare, batch, r.classes)
            for place in range(len(program) - 1, -1, -1):
                if program[place, ACTIVE]:
                    row, own_reals = _row(program, place), ahead(floats(reals.ctypes.data), 2 * place)
                    call(program[place, UNDO], row, own_reals, told, set_)
            move(step_of(told, set_))
            losses[client] += loss
            if not math.isfinite(loss):
                break
        client = take(integers(turn.ctypes.data))


@kernel
def _gather(inputs: Any, classes: Any, x: Any, y: Any, rows: Any, features: int, r: Any) -> bool:
    """Bring a batch's samples together; return whether all of them and their classes exist."""
    for sample in range(len(rows)):
        row = rows[sample]
        if not (0 <= row < r.samples and 0 <= y[row] < r.classes):
            return False
        classes[sample] = y[row]
        own, to = ahead(x, row * features), ahead(inputs, sample * features)
        for feature in range(features):
            to[feature] = own[feature]
    return True


@kernel
def _row(program: Any, place: int) -> Any:
    return integers(program.ctypes.data + 8 * place * COLUMNS)
