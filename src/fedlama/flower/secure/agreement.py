"""The protocol of secure aggregation: who sends what, and the lengths of the parts.

K. Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017, with keys for
several rounds at once. Clients u < v share a random mask that u adds and v subtracts, so the masks cancel in the sum.
Each client also adds a mask of its own. All secrets are shared among the clients (:mod:`.shamir`), t of whom can take
out the masks that do not cancel.

=========  ==================================================================  =====================================
stage      a client sends                                                      once for
=========  ==================================================================  =====================================
keys       a public key for the shares; for each round a public key and the    an agreement: some rounds, as long as
           SHA-256 of a seed                                                   the cohort stays
shares     to each other client, encrypted: for each round its shares of the   an agreement
           private key and of the seed
upload     the layers that are due, masked, and the masked loss                a round
unmask     for each client whose upload arrived its share of the seed, for     a round
           each other one its share of the round's private key
=========  ==================================================================  =====================================

A client that vanishes before "keys" or "shares" is left out. One that vanishes before its upload is taken out in the
last stage by its private key of that round. One that vanishes afterwards is in the sum. Keys and seeds are those of one
round, so what is revealed says nothing about other rounds. Never are both a client's private key and its seed of a
round revealed: each client answers "unmask" for one set of uploads of a round, and t is more than half of the clients.

Deviations: training is between "shares" and "upload"; no signatures and no consistency check, so a server that deviates
from the protocol is not detected (docs/how-to/secure-aggregation.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedlama.core import wire
from fedlama.core.validation import normalise_numbers, refuse, whole
from fedlama.errors import DataError
from fedlama.flower.secure.shamir import SECRET_BYTES, SHARE_BYTES

LEAST_CLIENTS = 3
"""With two clients, each could subtract its own value from the sum."""
MOST_ROUNDS = 64
LOSS = 2**32 - 1
"""In place of a layer's index: the loss."""
TAG_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class SecureRules:
    """The settings of secure aggregation.

    Args:
        threshold: Share of the clients of an agreement whose answers are needed to take the masks out, more than 0.5
            and at most 1. The lower, the more clients may vanish; the server and as many clients together could take
            single clients' masks out.
        rounds: Rounds for which keys are agreed at a time.

    Raises:
        ConfigError: A value is out of range.
    """

    threshold: float = 0.6
    rounds: int = 8

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = whole(self, "rounds", minimum=1)
        if not problems and self.rounds > MOST_ROUNDS:
            problems.append(f"SecureRules: rounds is {self.rounds}, expected at most {MOST_ROUNDS}; lower it")
        share = self.threshold
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.5 < share <= 1:
            problems.append(f"secure-threshold is {share!r}, expected more than 0.5 and at most 1; choose 0.6")
        refuse(problems)

    def needed(self, clients: int) -> int:
        """Return t for a number of clients: always more than half of them.

        >>> [SecureRules().needed(clients) for clients in (3, 4, 5, 10)]
        [2, 3, 3, 6]
        """
        return max(math.ceil(self.threshold * clients - 1e-9), clients // 2 + 1)


def keys_length(rounds: int) -> int:
    """Return the bytes of a client's public keys for a number of rounds."""
    return SECRET_BYTES + 2 * SECRET_BYTES * rounds


def sealed_length(rounds: int) -> int:
    """Return the bytes of the encrypted shares from one client to another."""
    return 2 * SHARE_BYTES * rounds + TAG_BYTES


def parts(data: bytes, length: int, owners: Sequence[int]) -> dict[int, bytes]:
    """Cut bytes into parts of one length, one for each client.

    Args:
        data: The parts, one after another.
        length: Of each.
        owners: The clients, in the order of the parts.

    Raises:
        DataError: There are more bytes or fewer.

    >>> parts(b"aabb", 2, [3, 5])
    {3: b'aa', 5: b'bb'}
    """
    if len(data) != length * len(owners):
        raise DataError(
            f"a message of the secure aggregation has {len(data)} bytes, expected {length * len(owners)}; install the "
            "same version of fedlama on both sides"
        )
    return {owner: data[at * length : (at + 1) * length] for at, owner in enumerate(owners)}


def enveloped(round_index: int, client: int, content: bytes) -> bytes:
    """Write bytes of the secure aggregation as a message, whose length the ledger counts.

    Args:
        round_index: The round.
        client: The client.
        content: The bytes.
    """
    return wire.pack(wire.Message(round_index, client, {0: content}))


def content_of(data: bytes) -> bytes:
    """Read back what :func:`enveloped` wrote.

    Raises:
        DataError: The bytes are not such a message.
    """
    payloads = wire.unpack(data).payloads
    if payloads.keys() != {0}:
        raise DataError("a message of the secure aggregation holds layers; install the same version on both sides")
    return payloads[0]


def route(sender: int, receiver: int) -> str:
    """Return the purpose of the key of one client's shares for another, which also addresses them."""
    return f"shares of client {sender} for client {receiver}"


def point(client: int) -> int:
    """Return the point of a client's shares."""
    return client + 1
