"""What :func:`~fedlama.kernels.advance.advance` takes: arrays and sizes under names, instead of fifteen arguments."""

from __future__ import annotations

from typing import Any, NamedTuple


class Sizes(NamedTuple):
    """Sizes and settings of a block of steps.

    Attributes:
        clients: How many.
        steps: Local steps.
        batch: The largest batch.
        samples: Samples in the pool that batches are gathered from.
        channels: Of one input, or its features if it is not an image.
        height: Of one input, 0 if it is not an image.
        width: Of one input, 0 if it is not an image.
        classes: Logits of one sample, or of one position.
        positions: Positions of a sample that have a class; 1 for a class per sample.
        vocabulary: How many tokens there are; 0 if the inputs are numbers.
        masks: Elements of one sample's dropout masks.
        scratch: Elements of activations and gradients.
        spare: Elements of scratch that an operation may use while it runs; a batch's inputs come after them.
        fresh: Whether velocities begin as zero, whatever is in their memory.
    """

    clients: int
    steps: int
    batch: int
    samples: int
    channels: int
    height: int
    width: int
    classes: int
    positions: int
    vocabulary: int
    masks: int
    scratch: int
    spare: int
    fresh: bool


class Block(NamedTuple):
    """The data of a block of steps.

    Attributes:
        rates: float32, (steps,): learning rates.
        x: float32, (samples * features,): inputs of the pool; empty if they are tokens.
        tokens: int64, (samples * features,): inputs of the pool; empty if they are numbers.
        y: int64, (samples * positions,): their classes.
        rows: int64, (steps, clients, batch): which samples are in a batch.
        lengths: int64, (steps, clients): how many of them count.
        masks: float32, (steps * clients * batch * masks,): every batch's dropout masks.
    """

    rates: Any
    x: Any
    tokens: Any
    y: Any
    rows: Any
    lengths: Any
    masks: Any


class Thread(NamedTuple):
    """What belongs to one thread.

    Attributes:
        context: int64, (CONTEXT,): what operations need to know of the step; scratch, client, batch and masks are
            written here.
        settings: float32, (3,): the settings of the step; the rate is written here.
        room: float32 scratch; its first element is at a multiple of 64 bytes.
        state: int64, (1,): the batch for which the zeros in the scratch were written.
    """

    context: Any
    settings: Any
    room: Any
    state: Any
