"""A block of local steps of one client after another, in one call: what Python would otherwise launch piece by piece.

A model is a *program*: a table with a row per operation. One client's parameters, activations and gradients stay in
the processor's cache from its first step to its last, and with many small clients no launch has to be paid for.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedlama.kernels.images import enter, enter_features
from fedlama.kernels.kernel import kernel
from fedlama.kernels.loss import cross_entropy
from fedlama.kernels.modes import CHECKED
from fedlama.kernels.operands import field
from fedlama.kernels.table import (
    ACTIVE,
    BACKWARD,
    BATCH,
    CLIENT,
    COLUMNS,
    FAILED,
    FORWARD,
    FRESH,
    IN,
    INPUT_ELEMENTS,
    INPUTS,
    LANES,
    MARGIN,
    MASK_ELEMENTS,
    MASKS,
    OUT,
    RATE,
    SCRATCH,
    SCRATCH_ELEMENTS,
    SPARE,
    SPARE_ELEMENTS,
)
from fedlama.kernels.tiles import address_of, call, fetch_add, floats, integers, offset, part, region
from fedlama.kernels.update import clear_velocities, step_of, update

_STOP = -(1 << 62)
"""The counter of clients when a thread has refused a batch: every thread stops at a negative client."""


@kernel
def advance(program: Any, constants: Any, block: Any, thread: Any, losses: Any, turn: Any, sizes: Any) -> None:
    """Take all steps of one client after another, in place, until the shared counter of clients is exhausted.

    Args:
        program: int64, (operations, COLUMNS); see :mod:`~fedlama.kernels.table`.
        constants: float32, (operations, 2).
        block: The :class:`~fedlama.kernels.arguments.Block`.
        thread: The :class:`~fedlama.kernels.arguments.Thread`.
        losses: float64, (clients,): every step's loss is added. A client stops at the first that is not finite.
        turn: int64, (1,): the next client; threads that advance the same clients share it. It is negative at the end if
            a batch names a sample, a class or a token that does not exist.
        sizes: The :class:`~fedlama.kernels.arguments.Sizes`.
    """
    context, settings, room = integers(thread.context), floats(thread.settings), floats(thread.room)
    features, spare_end = sizes.channels * max(sizes.height, 1) * max(sizes.width, 1), sizes.scratch + sizes.spare
    input_elements = sizes.batch * features + LANES  # the last vector may be read to its end
    spare, inputs = part(room, sizes.scratch, spare_end), part(room, spare_end, spare_end + input_elements)
    classes, masks = np.empty(sizes.batch * sizes.positions, np.int64), sizes.batch * sizes.masks
    context[SCRATCH], context[SCRATCH_ELEMENTS] = address_of(room), sizes.scratch
    context[SPARE], context[SPARE_ELEMENTS] = address_of(spare), sizes.spare
    context[INPUTS], context[INPUT_ELEMENTS] = address_of(inputs), input_elements
    client = fetch_add(integers(turn))
    while 0 <= client < sizes.clients:
        for step in range(sizes.steps):
            batch = block.lengths[step, client]
            if thread.state[0] != batch:
                thread.state[0] = batch
                thread.room[:] = 0.0
            context[CLIENT], context[BATCH], settings[RATE] = client, batch, block.rates[step]
            context[MASKS] = address_of(offset(floats(block.masks), (step * sizes.clients + client) * masks))
            context[MASK_ELEMENTS], context[FRESH] = masks, step == 0 and sizes.fresh
            if context[FRESH]:
                clear_velocities(step_of(context, settings))
            rows = offset(integers(block.rows), (step * sizes.clients + client) * sizes.batch)
            if not _gather(inputs, integers(classes), block, rows, batch, sizes):
                turn[0] = _STOP
                return
            data = region(room, integers(program), IN)
            if sizes.height > 0:
                enter(data, inputs, field(sizes.channels, sizes.height, sizes.width, context[MARGIN], batch))
            else:
                enter_features(data, inputs, batch, features)
            loss = _train(program, constants, thread, classes, spare, sizes)
            losses[client] += loss
            if not math.isfinite(loss):
                break
        client = fetch_add(integers(turn))


@kernel
def _gather(inputs: Any, classes: Any, block: Any, rows: Any, batch: int, sizes: Any) -> bool:
    """Copy a batch's samples next to each other; return whether all of them, their classes and tokens exist."""
    y, features = integers(block.y), sizes.channels * max(sizes.height, 1) * max(sizes.width, 1)
    for sample in range(batch):
        row = rows[sample]
        if not 0 <= row < sizes.samples:
            return False
        for position in range(sizes.positions):  # classes (batch, positions) <- y (samples, positions)
            label = y[row * sizes.positions + position]
            if not 0 <= label < sizes.classes:
                return False
            classes[sample * sizes.positions + position] = label
        goal = offset(inputs, sample * features)
        if sizes.vocabulary > 0:
            if not _gather_tokens(goal, offset(integers(block.tokens), row * features), features, sizes.vocabulary):
                return False
        else:
            source = offset(floats(block.x), row * features)
            for feature in range(features):  # inputs (batch, features) <- x (samples, features)
                goal[feature] = source[feature]
    return True


@kernel
def _gather_tokens(goal: Any, source: Any, count: int, vocabulary: int) -> bool:
    """Copy a sample's tokens, int64, to float32 numbers; return whether all of them exist."""
    for position in range(count):
        token = source[position]
        if not 0 <= token < vocabulary:
            return False
        goal[position] = np.float32(token)
    return True


@kernel
def _train(program: Any, constants: Any, thread: Any, classes: Any, spare: Any, sizes: Any) -> float:
    """Go forward and backward through the operations and update the parameters; return the loss."""
    last, context, settings = len(program) - 1, integers(thread.context), floats(thread.settings)
    for number in range(last + 1):
        row, row_constants = offset(integers(program), number * COLUMNS), offset(floats(constants), 2 * number)
        call(row[FORWARD], row, row_constants, context, settings)
        if CHECKED and context[FAILED]:
            raise IndexError(number, FORWARD)  # the door says which operation that is
    logits = region(floats(thread.room), offset(integers(program), last * COLUMNS), OUT)
    loss = cross_entropy(logits, integers(classes), spare, context[BATCH], sizes.positions, sizes.classes)
    for number in range(last, -1, -1):
        row, row_constants = offset(integers(program), number * COLUMNS), offset(floats(constants), 2 * number)
        if row[ACTIVE]:
            call(row[BACKWARD], row, row_constants, context, settings)
            if CHECKED and context[FAILED]:
                raise IndexError(number, BACKWARD)
    update(step_of(context, settings))
    return loss
