"""A client's secrets of one agreement on keys, in a file beside its state, and its answers about them.

The file is written before anything that follows from it is sent, so that a message that is repeated gets the same
answer: a second sharing of a secret, a second upload under the same masks or a second set of survivors would say what a
single one does not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedlama.errors import DataError
from fedlama.flower.client.state import exclusive, replaced
from fedlama.flower.protocol import SecureReply, SecureRequest, TrainRequest
from fedlama.flower.secure import masks
from fedlama.flower.secure.agreement import (
    LEAST_CLIENTS,
    MOST_ROUNDS,
    content_of,
    enveloped,
    keys_length,
    parts,
    point,
    route,
    sealed_length,
)
from fedlama.flower.secure.fixed_point import FixedPoint
from fedlama.flower.secure.shamir import SECRET_BYTES, SHARE_BYTES, split

_NO_KEYS = "this client has no keys of the agreement, or lost them; it takes part again after the next one"


@dataclass
class Secrets:
    """What a client keeps of an agreement.

    Attributes:
        agreement: Its name.
        client: The client's number.
        first: Its first round.
        sealing: The private key for encrypted shares.
        private: The private keys, one for each round.
        seeds: The seeds of the client's own masks likewise.
        publics: Client to its public keys, as they came; empty before the shares are made.
        threshold: t.
        sealed: The encrypted shares as they were sent.
        shares: Client to the shares that this one holds, for all rounds.
        uploads: Round to the digest of what was masked.
        survivors: Round to the clients whose uploads were to be unmasked.
    """

    agreement: str
    client: int
    first: int
    sealing: bytes
    private: list[bytes]
    seeds: list[bytes]
    publics: dict[int, bytes] = field(default_factory=dict)
    threshold: int = 0
    sealed: bytes = b""
    shares: dict[int, bytes] = field(default_factory=dict)
    uploads: dict[int, str] = field(default_factory=dict)
    survivors: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def new(cls, request: SecureRequest) -> Secrets:
        """Draw the secrets of an agreement."""
        count = request.rounds
        if not 1 <= count <= MOST_ROUNDS:
            raise DataError(f"the server wants keys for {count} rounds, expected 1 to {MOST_ROUNDS}")
        private, seeds = ([masks.new_secret() for _ in range(count)] for _ in range(2))
        return cls(request.agreement, request.client, request.round_index, masks.new_secret(), private, seeds)

    @property
    def keys(self) -> bytes:
        """The public keys."""
        rounds = zip(self.private, self.seeds, strict=True)
        pairs = [masks.public_key(private) + masks.commitment(seed) for private, seed in rounds]
        return masks.public_key(self.sealing) + b"".join(pairs)

    def share(self, request: SecureRequest) -> bytes:
        """Return the encrypted shares for all other clients of the agreement, in their order.

        Raises:
            DataError: There are too few clients, or it is the second time and they differ.
        """
        members, count = request.members, len(self.private)
        if len({*members}) < max(LEAST_CLIENTS, len(members)) or self.client not in members:
            raise DataError(
                f"the server wants shares for the clients {', '.join(map(str, members))}, expected "
                f"{LEAST_CLIENTS} or more different ones with this one; this client takes no part"
            )
        if not len(members) / 2 < request.threshold <= len(members):
            raise DataError(
                f"the server wants {request.threshold} of {len(members)} clients to be able to take masks out, "
                "expected more than half of them; raise secure-threshold"
            )
        publics = parts(content_of(request.payload), keys_length(count), members)
        if publics[self.client] != self.keys:
            raise DataError("the server sent other public keys for this client than its own; agree on new keys")
        if self.publics and (publics, request.threshold) != (self.publics, self.threshold):
            raise DataError("the secrets of this agreement are shared among other clients; agree on new keys")
        if not self.publics:
            self.publics, self.threshold = publics, request.threshold
            self.sealed = self._sealed_shares(members)
        return self.sealed

    def _sealed_shares(self, members: Sequence[int]) -> bytes:
        points = [point(member) for member in members]
        held = dict.fromkeys(members, b"")
        for private, seed in zip(self.private, self.seeds, strict=True):
            for secret in (private, seed):
                for member, share in zip(members, split(secret, points, self.threshold), strict=True):
                    held[member] += share
        self.shares[self.client] = held.pop(self.client)
        return b"".join(
            masks.sealed(self._sealing_key(member, self.client, member), content, route(self.client, member))
            for member, content in held.items()
        )

    def receive(self, members: Sequence[int], sealed: bytes) -> None:
        """Decrypt the other clients' shares, once.

        Args:
            members: The clients that take part, this one included.
            sealed: Their encrypted shares, in this order, without this client's own.

        Raises:
            DataError: They are not for this client, or of other clients.
        """
        if self.client not in members or not {*members} <= self.publics.keys():
            raise DataError(_NO_KEYS)
        if len(self.shares) > 1 or not sealed:  # it has them
            if set(members) != self.shares.keys():
                raise DataError("the masks of this agreement are for other clients; agree on new keys")
            return
        if len({*members}) < max(self.threshold, len(members)):
            raise DataError("too few clients share their secrets; agree on new keys")
        others = [member for member in members if member != self.client]
        for sender, data in parts(content_of(sealed), sealed_length(len(self.private)), others).items():
            key = self._sealing_key(sender, sender, self.client)
            self.shares[sender] = masks.opened(key, data, route(sender, self.client))

    def masked(self, round_index: int, layers: Mapping[int, FixedPoint]) -> dict[int, FixedPoint]:
        """Mask a client's numbers of one round, once.

        Args:
            round_index: The round.
            layers: Index of the layer to its numbers, :data:`fedlama.flower.secure.agreement.LOSS` for the loss.

        Raises:
            DataError: The keys are not for this round, or have masked something else.
        """
        at = self._at(round_index)
        digest = _digest(layers)
        if self.uploads.setdefault(round_index, digest) != digest:
            raise DataError("the keys of this round have masked another upload; agree on new keys")
        sums = dict(layers)
        for key, sign in self._mask_keys(at, round_index):
            for index, numbers in sums.items():
                mask = masks.mask(key, index, len(numbers.words))
                sums[index] = numbers + mask if sign > 0 else numbers - mask
        return sums

    def _mask_keys(self, at: int, round_index: int) -> Iterable[tuple[bytes, int]]:
        """Yield the keys of a round's masks, each with the sign of its mask."""
        yield masks.derived(self.seeds[at], self.agreement, f"own mask of round {round_index}"), 1
        for other in self.shares:
            if other != self.client:
                key = masks.pair_key(self.private[at], self.publics[other], self.agreement, round_index, at)
                yield key, masks.pair_sign(self.client, other)

    def unmask(self, request: SecureRequest) -> bytes:
        """Return this client's share of one secret of each client: of the seed of one whose upload arrived.

        Raises:
            DataError: The round was not uploaded, there are too few survivors, or others than the first time.
        """
        at, round_index = self._at(request.round_index), request.round_index
        members, survivors = request.members, sorted(request.survivors)
        if round_index not in self.uploads or set(members) != self.shares.keys():
            raise DataError(_NO_KEYS)
        known = {*survivors} <= {*members} and self.client in survivors
        if not known or len({*survivors}) < max(self.threshold, len(survivors)):
            raise DataError(
                f"the server wants the sum over the clients {', '.join(map(str, survivors))}, expected "
                f"{self.threshold} or more of the agreement, with this one; this client does not help"
            )
        if self.survivors.setdefault(round_index, survivors) != survivors:
            raise DataError("this client helped to take out the masks of other uploads of this round already")
        offset = 2 * SHARE_BYTES * at
        return b"".join(
            self.shares[member][offset + SHARE_BYTES * (member in survivors) :][:SHARE_BYTES] for member in members
        )

    def _at(self, round_index: int) -> int:
        at = round_index - self.first
        if not 0 <= at < len(self.private):
            raise DataError(_NO_KEYS)
        return at

    def _sealing_key(self, other: int, sender: int, receiver: int) -> bytes:
        public = self.publics[other][:SECRET_BYTES]
        return masks.shared_key(self.sealing, public, self.agreement, route(sender, receiver))

    def save(self, path: Path) -> None:
        """Write the file durably, readable for its owner alone."""
        record = {name: _to_json(value) for name, value in asdict(self).items()}
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with replaced(path) as fresh, os.fdopen(os.open(fresh, flags, 0o600), "w") as file:
            file.write(json.dumps(record))

    @classmethod
    def load(cls, path: Path) -> Secrets | None:
        """Read the file; None where it is missing or cannot be read."""
        try:
            record = json.loads(path.read_bytes())
            return cls(
                agreement=str(record["agreement"]),
                client=int(record["client"]),
                first=int(record["first"]),
                sealing=bytes.fromhex(record["sealing"]),
                private=[bytes.fromhex(each) for each in record["private"]],
                seeds=[bytes.fromhex(each) for each in record["seeds"]],
                publics={int(key): bytes.fromhex(value) for key, value in record["publics"].items()},
                threshold=int(record["threshold"]),
                sealed=bytes.fromhex(record["sealed"]),
                shares={int(key): bytes.fromhex(value) for key, value in record["shares"].items()},
                uploads={int(key): str(value) for key, value in record["uploads"].items()},
                survivors={int(key): [int(each) for each in value] for key, value in record["survivors"].items()},
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None


def secrets_path(path: Path) -> Path:
    """Return the file of a client's secrets, beside that of its state."""
    return path.with_suffix(".keys")


def agree(request: SecureRequest, path: Path) -> SecureReply:
    """Do what a request of the secure aggregation asks for.

    Args:
        request: The request.
        path: File of the client's state.
    """
    file = secrets_path(path)
    try:
        with exclusive(path):
            kept = Secrets.load(file)
            if kept is not None and kept.agreement != request.agreement:
                kept = None
            if kept is None and request.stage == "keys":
                kept = Secrets.new(request)
            if kept is None or kept.client != request.client:
                raise DataError(_NO_KEYS)
            if request.stage == "keys":
                payload = kept.keys
            elif request.stage == "shares":
                payload = kept.share(request)
            else:
                payload = kept.unmask(request)
            kept.save(file)
    except DataError as error:
        return SecureReply(request.agreement, request.stage, request.round_index, request.client, detail=str(error))
    payload = enveloped(request.round_index, request.client, payload)
    return SecureReply(request.agreement, request.stage, request.round_index, request.client, payload)


def masked_upload(path: Path, request: TrainRequest, layers: Mapping[int, FixedPoint]) -> dict[int, bytes]:
    """Mask the upload of a round with the keys of an agreement.

    Args:
        path: File of the client's state.
        request: The request, which names the agreement.
        layers: As for :meth:`Secrets.masked`.

    Raises:
        DataError: This client has no such keys, or may not use them.
    """
    file = secrets_path(path)
    kept = Secrets.load(file)
    if kept is None or kept.agreement != request.agreement or kept.client != request.client:
        raise DataError(_NO_KEYS)
    kept.receive(request.members, request.shares)
    masked = kept.masked(request.round_index, layers)
    kept.save(file)
    return {index: numbers.to_bytes() for index, numbers in masked.items()}


def _digest(layers: Mapping[int, FixedPoint]) -> str:
    digest = hashlib.sha256()
    for index, numbers in layers.items():
        digest.update(f"{index} {len(numbers.words)}\n".encode())
        digest.update(numbers.to_bytes())
    return digest.hexdigest()


def _to_json(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_to_json(each) for each in value]
    return {str(key): _to_json(each) for key, each in value.items()} if isinstance(value, dict) else value
