"""What server and client say to each other in a round, free of any transport.

An order carries what the client lacks; an answer carries what is due. Their payloads are messages of
:mod:`fedlama.core.wire`, one flat run of bytes each, so that what is counted in the ledger is what is sent.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from fedlama.choices.availability.membership import NEVER as NEVER
from fedlama.choices.codecs import Codec
from fedlama.core.layers import Layers

EVERYONE = 2**32 - 1
"""The client's number in downloads: the same bytes serve all who lack the same layers, and are uploaded once."""


@dataclass(frozen=True)
class Order:
    """One client's round.

    Attributes:
        run: The run's own random name; state of any other run counts for nothing.
        fingerprint: See :func:`fingerprint`.
        round_index: The round, from 0.
        client: The client's number.
        expected: The latest round that the server has of this client; :data:`NEVER` when it must begin anew.
        steps: Local steps.
        steps_done: Local steps that the client did in rounds that counted, for its place in its data.
        upload: Indices of the layers that come up.
        evaluation: Indices of the layers that come up for an evaluation alone.
        frozen: Indices of the layers that are not trained.
        scalars: Whether each uploaded layer carries ||x_i - r||^2.
        payload: The layers that the client lacks, all of them when it begins anew.
    """

    run: str
    fingerprint: str
    round_index: int
    client: int
    expected: int
    steps: int
    steps_done: int
    upload: tuple[int, ...]
    evaluation: tuple[int, ...]
    frozen: tuple[int, ...]
    scalars: bool
    payload: bytes


@dataclass(frozen=True)
class Answer:
    """What a client makes of an order.

    Attributes:
        status: ``"done"``; ``"stale"`` when its state is missing or too old and it needs the full model;
            ``"mismatch"`` when its model or codec is not the server's.
        round_index: The order's round.
        client: The client's number.
        have: The latest round that the client has trained in this run.
        replayed: Whether the round had been trained before and is only sent again.
        payload: The uploaded layers.
        evaluation: The layers for evaluation; empty when none were asked for.
        detail: A sentence for the log.
    """

    status: Literal["done", "stale", "mismatch"]
    round_index: int
    client: int
    have: int
    replayed: bool = False
    payload: bytes = b""
    evaluation: bytes = b""
    detail: str = ""


@dataclass(frozen=True)
class Question:
    """Asks a node which client it serves."""


@dataclass(frozen=True)
class Introduction:
    """A node's answer to :class:`Question`.

    Attributes:
        client: The client's number.
        samples: Its number of training samples n_i.
    """

    client: int
    samples: int


@dataclass(frozen=True)
class Failure:
    """What came instead of a reply.

    Attributes:
        reason: What the transport says.
        final: Whether asking again cannot help in this round, as when the client's program raised an error.
    """

    reason: str
    final: bool


def fingerprint(layers: Layers, codec: Codec) -> str:
    """Return a digest of all that both sides must agree on: layers, their tensors, and the codec.

    Args:
        layers: The labelling.
        codec: How uploads are compressed.
    """
    described = [[(t.name, t.shape, str(t.dtype), t.trainable) for t in layer.tensors] for layer in layers]
    text = repr(([layer.name for layer in layers], described, repr(codec)))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
