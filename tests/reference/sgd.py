"""SGD with momentum in its two customary spellings; they differ as soon as the learning rate changes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeAlias

from tests.reference.network import Model

Convention: TypeAlias = Literal["torch", "keras"]


def decay(gradient: Model, model: Model, weight_decay: float, decayed: Collection[int] | None) -> Model:
    """Add weight_decay * w to the gradient of the decayed variables (None: of all).

    Keras writes its penalty as l2 * ||w||^2 without the half, so weight_decay is 2 * l2 there.
    """
    return [
        g + weight_decay * w if weight_decay and (decayed is None or index in decayed) else g
        for index, (g, w) in enumerate(zip(gradient, model, strict=True))
    ]


def torch_step(model: Model, buffer: Model, gradient: Model, rate: float, momentum: float) -> tuple[Model, Model]:
    """The step buf <- m buf + g, w <- w - lr buf: the learning rate acts on the whole buffer at once."""
    buffer = [momentum * b + g for b, g in zip(buffer, gradient, strict=True)]
    return [w - rate * b for w, b in zip(model, buffer, strict=True)], buffer


def keras_step(model: Model, velocity: Model, gradient: Model, rate: float, momentum: float) -> tuple[Model, Model]:
    """The step v <- m v - lr g, w <- w + v: old gradients keep the learning rate they came with."""
    velocity = [momentum * v - rate * g for v, g in zip(velocity, gradient, strict=True)]
    return [w + v for w, v in zip(model, velocity, strict=True)], velocity


STEPS = {"torch": torch_step, "keras": keras_step}
