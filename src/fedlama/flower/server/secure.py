"""The server's side of secure aggregation: agree on keys, collect masked uploads, and take the masks out of their sum.

The protocol is in :mod:`fedlama.flower.secure.agreement`. An agreement is kept in memory only: after a restart of the
server the clients agree on new keys, which mask the round's uploads again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from fedlama.core.layers import Layers
from fedlama.core.ledger import Transfer
from fedlama.errors import DataError, FedlamaError
from fedlama.flower.protocol import SecureRequest, TrainRequest
from fedlama.flower.secure import masks
from fedlama.flower.secure.agreement import (
    LEAST_CLIENTS,
    LOSS,
    SecureRules,
    content_of,
    enveloped,
    keys_length,
    parts,
    point,
    sealed_length,
)
from fedlama.flower.secure.fixed_point import SCALAR_BYTES, FixedPoint, number_of, total
from fedlama.flower.secure.shamir import SECRET_BYTES, SHARE_BYTES, combine
from fedlama.flower.server.exchange import Exchange, Stage, Traffic
from fedlama.flower.server.replies import ClientUpdate, Held, uploads
from fedlama.flower.server.round import MakeRequest, RoundResult, RoundRunner

_ATTEMPTS = 3  # times that a round is tried before the run stops


@dataclass(frozen=True)
class RoundWork:
    """The work of one round.

    Attributes:
        round_index: The round, from 0.
        cohort: The clients to ask.
        weights: p_i by client.
        make_request: Makes a client's request, without what is special here.
        absent: Clients that missed a round and may still be away.
        current: The global values, by tensor name.
        new_cohort: Whether it replaces another one.
        cycle_start: Whether a cycle begins, so that clients without keys may come in.
    """

    round_index: int
    cohort: Sequence[int]
    weights: Mapping[int, float]
    make_request: MakeRequest
    absent: frozenset[int]
    current: Mapping[str, Tensor]
    new_cohort: bool
    cycle_start: bool


@dataclass(frozen=True)
class SecureRound:
    """What a round came to.

    Attributes:
        result: Its requests and replies, of all attempts; each reply has the mean loss of all.
        totals: Layer to the sum of the clients' numbers.
        transfers: What was sent beside the requests and the accepted uploads.
        facts: For the log.
    """

    result: RoundResult
    totals: dict[str, FixedPoint]
    transfers: list[Transfer]
    facts: dict[str, Any]


@dataclass
class _Agreement:
    """Keys for some rounds.

    Attributes:
        name: A random name.
        first: The first round.
        rounds: For how many rounds.
        threshold: How many clients can take masks out.
        publics: The public keys of all clients that sent some.
        sealed: Client that shared its secrets to the encrypted shares for it, from the others, in their order.
        has_shares: Clients that have them.
        failed: Clients whose upload of the latest round did not arrive.
    """

    name: str
    first: int
    rounds: int
    threshold: int = 0
    publics: dict[int, bytes] = field(default_factory=dict)
    sealed: dict[int, bytes] = field(default_factory=dict)
    has_shares: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)

    @property
    def members(self) -> tuple[int, ...]:
        """The clients whose uploads are masked."""
        return tuple(self.sealed)

    def serves(self, round_index: int) -> bool:
        """Return whether the keys are for a round."""
        return 0 <= round_index - self.first < self.rounds

    def request(self, work: RoundWork, made: TrainRequest) -> TrainRequest:
        """Return a training request with what is special here."""
        client = made.client
        shares = b"" if client in self.has_shares else enveloped(work.round_index, client, self.sealed[client])
        weight = work.weights[client]
        return replace(made, agreement=self.name, weight=weight, members=self.members, shares=shares)

    def ask(self, stage: Any, round_index: int, client: int, content: bytes = b"", **more: Any) -> SecureRequest:  # noqa: ANN401
        """Return a request of a stage."""
        given = {"rounds": self.rounds, "threshold": self.threshold, **more}
        return SecureRequest(self.name, stage, round_index, client, enveloped(round_index, client, content), **given)


class SecureRounds:
    """Runs rounds of which the server learns sums only.

    Args:
        exchange: Carries the stages beside the uploads.
        runner: Carries the uploads.
        rules: The settings.
        layers: The labelling.
    """

    def __init__(self, exchange: Exchange, runner: RoundRunner, rules: SecureRules, layers: Layers) -> None:
        self._exchange, self._runner, self._rules, self._layers = exchange, runner, rules, layers
        self._agreement: _Agreement | None = None

    def run(self, work: RoundWork) -> SecureRound:
        """Run a round; if it fails, it is repeated with new keys.

        Args:
            work: The round's work.

        Raises:
            FedlamaError: It failed several times.
        """
        result = RoundResult()
        traffic, start = Traffic(work.round_index, result), time.perf_counter()
        self._agreement = None if work.new_cohort else self._agreement
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                agreement = self._agreed(work, traffic)
                self._upload(agreement, work, result)
                totals = self._unmasked(agreement, work, traffic)
                break
            except FedlamaError as error:
                self._agreement = None
                if attempt == _ATTEMPTS:
                    raise FedlamaError(
                        f"round {work.round_index}: the secure aggregation failed {_ATTEMPTS} times, at last because "
                        f"{error}; nothing is lost: start the clients again and repeat the same command, or lower "
                        "min-replies or secure-threshold"
                    ) from error
                traffic.note(f"the secure aggregation failed ({error}); the round is repeated with new keys")
                traffic.transfers += uploads(work.round_index, result.updates, scalars=False)  # they count for nothing
                _count_losses(traffic)
                result.updates.clear()
        _count_losses(traffic)
        for request in result.sent:
            if request.shares:
                traffic.add("down", {request.client: len(content_of(request.shares))})
        result.missing = set(work.cohort) - result.updates.keys()
        loss = number_of(totals.pop(LOSS).scalar) / len(result.updates)
        result.updates |= {client: replace(update, loss=loss) for client, update in result.updates.items()}
        agreement.has_shares |= result.updates.keys()
        agreement.failed = set(agreement.members) - result.updates.keys()
        facts = {
            "members": list(agreement.members),
            "threshold": agreement.threshold,
            "recovered": sorted(agreement.failed),
            "attempts": attempt,
            "bytes_down": traffic.total_bytes("down"),
            "bytes_up": traffic.total_bytes("up"),
            "seconds": time.perf_counter() - start,
        }
        named = {self._layers[index].name: numbers for index, numbers in totals.items()}
        return SecureRound(result, named, traffic.transfers, facts)

    def _agreed(self, work: RoundWork, traffic: Traffic) -> _Agreement:
        """Return the agreement for a round: the latest one, or a new one where it does not serve."""
        agreement = self._agreement
        if agreement is not None and agreement.serves(work.round_index):
            outside = set(self._exchange.online()) & (set(work.cohort) - set(agreement.members) | agreement.failed)
            if not (work.cycle_start and outside):
                return agreement
        self._agreement = self._new_agreement(work, traffic)
        return self._agreement

    def _new_agreement(self, work: RoundWork, traffic: Traffic) -> _Agreement:
        """Let the cohort agree on keys: the stages "keys" and "shares"."""
        new = _Agreement(secrets.token_hex(16), work.round_index, self._rules.rounds)
        least = max(self._exchange.policy.needed(len(work.cohort)), LEAST_CLIENTS)
        asked = {client: new.ask("keys", work.round_index, client) for client in work.cohort}
        stage = Stage(asked, keys_length(new.rounds), least, set(work.absent))
        new.publics = self._exchange.collect(stage, traffic)
        _check_enough(len(new.publics), len(asked), least, "sent keys")
        new.threshold = self._rules.needed(len(new.publics))
        everyone, publics = tuple(new.publics), b"".join(new.publics.values())
        asked = {client: new.ask("shares", work.round_index, client, publics, members=everyone) for client in everyone}
        least = max(new.threshold, least)
        stage = Stage(asked, sealed_length(new.rounds) * (len(everyone) - 1), least)
        sent = self._exchange.collect(stage, traffic)
        _check_enough(len(sent), len(asked), least, "shared their secrets")
        cut = {sender: _by_receiver(sender, data, everyone, new.rounds) for sender, data in sent.items()}
        new.sealed = {client: b"".join(cut[sender][client] for sender in sent if sender != client) for client in sent}
        return new

    def _upload(self, agreement: _Agreement, work: RoundWork, result: RoundResult) -> None:
        """Let the members train and send their masked uploads."""
        self._runner.run(
            work.round_index,
            [client for client in work.cohort if client in agreement.sealed],
            lambda client, full: agreement.request(work, work.make_request(client, full)),
            work.absent,
            Held(work.current),
            least=agreement.threshold,
            result=result,
        )

    def _unmasked(self, agreement: _Agreement, work: RoundWork, traffic: Traffic) -> dict[int, FixedPoint]:
        """Return the sum of the uploads without its masks, by layer index: the stage "unmask"."""
        round_index, updates = work.round_index, traffic.result.updates
        members, survivors = agreement.members, tuple(c for c in agreement.members if c in updates)
        asked = {
            client: agreement.ask("unmask", round_index, client, members=members, survivors=survivors)
            for client in survivors
        }
        stage = Stage(asked, SHARE_BYTES * len(members), agreement.threshold, waits_for_all=False)
        sent = self._exchange.collect(stage, traffic)
        _check_enough(len(sent), len(asked), agreement.threshold, "helped to take the masks out")
        shares = {client: parts(data, SHARE_BYTES, members) for client, data in sent.items()}
        revealed = {}
        for member in members:
            revealed[member] = combine({point(client): held[member] for client, held in shares.items()})
            _check_secret(agreement, member, revealed[member], round_index, is_seed=member in updates)
        totals = {
            index: total(FixedPoint.from_bytes(updates[client].masked[index]) for client in survivors)
            for index in updates[survivors[0]].masked
        }
        for key, sign in _left_masks(agreement, revealed, survivors, round_index):
            for index, numbers in totals.items():
                mask = masks.mask(key, index, len(numbers.words))
                totals[index] = numbers - mask if sign > 0 else numbers + mask
        return totals


def _left_masks(
    agreement: _Agreement, revealed: Mapping[int, bytes], survivors: Sequence[int], round_index: int
) -> Iterator[tuple[bytes, int]]:
    """Yield the keys of the masks that are left in the sum, each with the sign of its mask."""
    for member, secret in revealed.items():
        if member in survivors:
            yield masks.derived(secret, agreement.name, f"own mask of round {round_index}"), 1
            continue
        for other in survivors:  # its mask with the one whose upload is missing has not cancelled
            public, at = agreement.publics[other], round_index - agreement.first
            key = masks.pair_key(secret, public, agreement.name, round_index, at)
            yield key, masks.pair_sign(other, member)


def _check_secret(agreement: _Agreement, member: int, secret: bytes, round_index: int, *, is_seed: bool) -> None:
    """Refuse a secret that is not the one whose shares were sent.

    Raises:
        DataError: A client sent a wrong share.
    """
    start = SECRET_BYTES * (1 + 2 * (round_index - agreement.first) + is_seed)
    made = masks.commitment(secret) if is_seed else masks.public_key(secret)
    if agreement.publics[member][start : start + SECRET_BYTES] != made:
        raise DataError(f"the shares of client {member}'s secret do not fit together: a client sent a wrong one")


def _by_receiver(sender: int, data: bytes, everyone: Sequence[int], rounds: int) -> dict[int, bytes]:
    """Cut a client's encrypted shares into those for each other client."""
    return parts(data, sealed_length(rounds), [client for client in everyone if client != sender])


def _check_enough(count: int, asked: int, needed: int, what: str) -> None:
    if count < needed:
        raise FedlamaError(f"{count} of {asked} clients {what}, {needed} are needed")


def _count_losses(traffic: Traffic) -> None:
    """Count the masked losses that came with the uploads."""
    updates: Mapping[int, ClientUpdate] = traffic.result.updates
    traffic.add("up", dict.fromkeys(updates, SCALAR_BYTES))
