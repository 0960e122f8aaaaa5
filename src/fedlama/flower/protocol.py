"""The messages between server and clients, and the channel that carries them, without any transport.

In every round the server sends each client a :class:`TrainRequest` with the layers that the client lacks. The client
returns a :class:`TrainReply` with the layers that are due. Where clients score the global model on test sets of their
own, an :class:`EvaluateRequest` with all layers follows. Under secure aggregation :class:`SecureRequest`s come before
and after the training request. The payloads of all are messages of
:mod:`fedlama.core.wire`, one flat run of bytes each, so what the ledger counts is what is sent. Before the first round
the server sends each node an :class:`InfoRequest` and learns from :class:`ClientInfo` which client the node serves.
Every message has its `kind`; those of requests are the types of Flower's messages.

:mod:`fedlama.flower.transport` implements the channel over Flower's Grid; the tests have one inside one process.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from fedlama.choices.availability.membership import NEVER as NEVER
from fedlama.choices.codecs import Codec
from fedlama.choices.personal import Personal
from fedlama.choices.privacy import Privacy
from fedlama.core.deprecations import is_left_out
from fedlama.core.layers import Layers
from fedlama.core.scores import Score

PROTOCOL = 7
"""Version of the messages. Both sides refuse another one with a sentence that names both; raise it with every change
of a record, a field or its meaning."""

REASON_CHARACTERS = 800
"""Length to which a node's own sentence is cut in the server's log."""

EVERYONE = 2**32 - 1
"""The client's number in downloads: all clients that lack the same layers get the same bytes, uploaded once."""


TrainStage = Literal["whole", "distances", "chosen"]
"""Which part of a round a training request is: all of it; training and a report of how far each layer moved; or, after
that, the upload of the layers that the server has chosen by these reports."""


@dataclass(frozen=True)
class TrainRequest:
    """The work of one client in one round.

    Attributes:
        run: The run's random name, and its attempt; see :func:`next_attempt`. A client's file of any other run is
            ignored; of another attempt, only what never leaves the client counts.
        fingerprint: See :func:`fingerprint`.
        round_index: The round, from 0.
        client: The client's number.
        answered_round: The latest round of which the server has this client's reply; :data:`NEVER` when the client
            must start from the full model.
        steps: Local steps.
        steps_done: Local steps of this client in earlier rounds that counted; they give its position in its data.
        upload: Indices of the layers to upload.
        evaluation: Indices of the layers to upload for an evaluation only.
        frozen: Indices of the layers that are not trained.
        scalars: Whether each uploaded layer carries ||x_i - r||^2.
        payload: The layers that the client lacks; all layers when it must start from the full model.
        seed: The run's seed, for codecs that draw random numbers.
        coded: Whether the payload holds changes that the codec of downloads wrote, for a client in sync; else it holds
            the values themselves.
        score: Whether the reply carries the score of the client's trained model on its own test set.
        agreement: Under secure aggregation, the agreement whose keys mask the upload; empty without.
        weight: p_i, the client's weight in the sum.
        members: The clients that take part in the sum, if their uploads arrive.
        shares: The encrypted shares of the others for this client; empty once it has them.
        stage: Which part of the round it is. For "distances" the reply reports on the layers of `upload` and holds none
            of them; for "chosen" the payload says which of them to upload (:mod:`fedlama.flower.choice`).
    """

    kind: ClassVar[Literal["train"]] = "train"

    run: str
    fingerprint: str
    round_index: int
    client: int
    answered_round: int
    steps: int
    steps_done: int
    upload: tuple[int, ...]
    evaluation: tuple[int, ...]
    frozen: tuple[int, ...]
    scalars: bool
    payload: bytes
    seed: int = 0
    coded: bool = False
    score: bool = False
    agreement: str = ""
    weight: float = 0.0
    members: tuple[int, ...] = ()
    shares: bytes = b""
    stage: TrainStage = "whole"


@dataclass(frozen=True)
class TrainReply:
    """A client's reply to a :class:`TrainRequest`.

    Attributes:
        status: ``"done"``; ``"stale"`` when the client's state is missing or too old, so that it needs the full model;
            ``"refused"`` when the client cannot do the work at all, for the reason in `detail`.
        round_index: The round of the request.
        client: The client's number.
        trained_round: The latest round of this run that the client has trained; :data:`NEVER` when there is none.
        replayed: Whether the client had trained the round before and only sends its result again.
        payload: The uploaded layers.
        evaluation: The layers for evaluation; empty when none were requested.
        detail: A sentence for the log.
        score: The trained model's score on the client's own test set, where the request asks for it and there is one.
        masked_loss: Under secure aggregation, the mean training loss, masked.
    """

    kind: ClassVar[Literal["trained"]] = "trained"

    status: Literal["done", "stale", "refused"]
    round_index: int
    client: int
    trained_round: int
    replayed: bool = False
    payload: bytes = b""
    evaluation: bytes = b""
    detail: str = ""
    score: Score | None = None
    masked_loss: bytes = b""


@dataclass(frozen=True)
class EvaluateRequest:
    """Asks a client for the score of the global model on its own test set.

    Attributes:
        fingerprint: See :func:`fingerprint`.
        round_index: The round, from 0, after which the model is scored.
        client: The client's number.
        payload: All layers that are sent, each with the values themselves.
        digest: Of the run's final model, the digest that the client must find (:func:`model_digest`): it keeps the
            model, and scores nothing. Empty for a score.
    """

    kind: ClassVar[Literal["evaluate"]] = "evaluate"

    fingerprint: str
    round_index: int
    client: int
    payload: bytes
    digest: str = ""


@dataclass(frozen=True)
class EvaluateReply:
    """A client's reply to an :class:`EvaluateRequest`.

    Attributes:
        round_index: The round of the request.
        client: The client's number.
        score: The score; None where the client cannot give one.
        detail: Why not, a sentence for the log.
        digest: Of the final model that the client has kept; empty for a score.
    """

    kind: ClassVar[Literal["evaluated"]] = "evaluated"

    round_index: int
    client: int
    score: Score | None = None
    detail: str = ""
    digest: str = ""


Stage = Literal["keys", "shares", "unmask"]
"""Of the secure aggregation, beside the upload; see :mod:`fedlama.flower.secure.agreement`."""


@dataclass(frozen=True)
class SecureRequest:
    """Asks a client for its part of one stage of the secure aggregation.

    Attributes:
        agreement: The agreement's random name.
        stage: The stage.
        round_index: The round, from 0; before "unmask", the first one for which the keys are.
        client: The client's number.
        payload: For "shares", the public keys of the members in order; else empty.
        members: The clients that have keys, in order, for "shares"; those that take part in the sum, for "unmask".
        rounds: Number of rounds for which the keys are.
        threshold: How many clients must be able to take masks out.
        survivors: For "unmask", the clients whose uploads arrived.
    """

    kind: ClassVar[Literal["query.secure"]] = "query.secure"

    agreement: str
    stage: Stage
    round_index: int
    client: int
    payload: bytes
    members: tuple[int, ...] = ()
    rounds: int = 0
    threshold: int = 0
    survivors: tuple[int, ...] = ()


@dataclass(frozen=True)
class SecureReply:
    """A client's reply to a :class:`SecureRequest`.

    Attributes:
        agreement: As in the request.
        stage: As in the request.
        round_index: As in the request.
        client: The client's number.
        payload: What the stage asks for; empty where the client takes no part.
        detail: Why not, a sentence for the log.
    """

    kind: ClassVar[Literal["secured"]] = "secured"

    agreement: str
    stage: Stage
    round_index: int
    client: int
    payload: bytes = b""
    detail: str = ""


@dataclass(frozen=True)
class InfoRequest:
    """Asks a node which client it serves."""

    kind: ClassVar[Literal["query"]] = "query"


@dataclass(frozen=True)
class ClientInfo:
    """A node's reply to an :class:`InfoRequest`.

    Attributes:
        client: The client's number.
        samples: Its number of training samples n_i.
        has_test_set: Whether it has a test set of its own.
    """

    kind: ClassVar[Literal["info"]] = "info"

    client: int
    samples: int
    has_test_set: bool = False


@dataclass(frozen=True)
class Failure:
    """What the server gets in place of a reply.

    Attributes:
        reason: A sentence, from the node or the transport.
        final: Whether a second request in the same round cannot help, as when the client's program raised an error.
    """

    kind: ClassVar[Literal["failure"]] = "failure"

    reason: str
    final: bool


@dataclass(frozen=True)
class Outgoing:
    """One message to one node.

    Attributes:
        node: The node.
        content: The message.
        reply_bytes: Bytes of payloads that the reply may have; a channel that sees more before it has fetched them
            refuses the reply.
    """

    node: int
    content: TrainRequest | EvaluateRequest | SecureRequest | InfoRequest
    reply_bytes: int = 0


@dataclass(frozen=True)
class Incoming:
    """The reply to one message.

    Attributes:
        ticket: The ticket that :meth:`Channel.push` returned for the message.
        content: The reply, or the failure that came in its place.
    """

    ticket: str
    content: TrainReply | EvaluateReply | SecureReply | ClientInfo | Failure


class Channel(Protocol):
    """Sends messages and fetches replies; never waits for a reply."""

    def nodes(self) -> tuple[int, ...]:
        """Return the nodes that are online now, in ascending order."""

    def push(self, outgoing: Sequence[Outgoing], lifetime: float) -> list[str]:
        """Send messages.

        Args:
            outgoing: The messages.
            lifetime: Seconds after which neither the messages nor their replies are of use.

        Returns:
            One ticket per message; empty where the node is not known.
        """

    def pull(self, tickets: Collection[str]) -> list[Incoming]:
        """Fetch the replies that have arrived for some tickets; each reply is returned once."""


def model_digest(values: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a model's tensors: of their names in order, types, shapes and bytes.

    Args:
        values: Tensors by name.
    """
    digest = hashlib.sha256()
    for name in sorted(values):
        value = values[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def next_attempt(run: str) -> str:
    """Return a run's name for the rounds after it was taken back to an earlier one; no attempt has the name of another.

    >>> is_same_run(next_attempt("5b1e"), next_attempt("5b1e.08cf")), next_attempt("5b1e") == next_attempt("5b1e")
    (True, False)
    """
    return f"{run.partition('.')[0]}.{secrets.token_hex(4)}"


def is_same_run(name: str, other: str) -> bool:
    """Return whether two names are of one run, whatever their attempts."""
    return name.partition(".")[0] == other.partition(".")[0]


def _written(codec: Any) -> str:  # noqa: ANN401  (a codec, which need not be a dataclass)
    """Return a codec's `repr` without the fields that older versions did not have, where they have their default."""
    if not is_dataclass(codec) or not any(is_left_out(codec, item) for item in fields(codec)):
        return repr(codec)
    shown = [item for item in fields(codec) if item.repr and not is_left_out(codec, item)]
    return f"{type(codec).__qualname__}({', '.join(f'{item.name}={getattr(codec, item.name)!r}' for item in shown)})"


def fingerprint(layers: Layers, codec: Codec, privacy: Privacy | None = None, personal: Personal | None = None) -> str:
    """Return a digest of what both sides must agree on: the layers, their tensors and the codec.

    Args:
        layers: The labelling.
        codec: How uploads are compressed; it names the codec of downloads.
        privacy: How clients limit their contributions, which the server's noise relies on.
        personal: How clients blend and train heads of their own.

    Returns:
        16 hexadecimal digits.
    """
    described = [[(t.name, t.shape, str(t.dtype), t.trainable) for t in layer.tensors] for layer in layers]
    parts = [layer.name for layer in layers], described, _written(codec)
    text = repr((*parts, *(setting for setting in (privacy, personal) if setting is not None)))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
