"""The clients' scores of the global model: send it to each client that has a test set, and collect what they measured.

A client that gives no score is left out of the record of the round; it never ends or spoils a run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from fedlama.choices.codecs import Float32
from fedlama.core import wire
from fedlama.core.layers import Layers
from fedlama.core.scores import Score
from fedlama.errors import cut
from fedlama.flower.payloads import encode_layer
from fedlama.flower.protocol import EVERYONE, REASON_CHARACTERS, Channel, EvaluateRequest, Incoming, Outgoing
from fedlama.flower.server.nodes import NodeRegistry
from fedlama.flower.server.round import RoundPolicy

_LOG = logging.getLogger("fedlama.flower")
_ATTEMPTS = 3  # requests to one client
_EXTRA_LIFETIME = 60.0  # seconds that a message outlives the deadline


@dataclass
class ScoreResult:
    """The messages of one evaluation by the clients.

    Attributes:
        scores: Client to its score, in the order of the clients' numbers once complete.
        kept: The clients that have kept the final model.
        asked: Client to how many requests it was sent.
        incidents: What went wrong, one sentence each.
    """

    scores: dict[int, Score] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    asked: dict[int, int] = field(default_factory=dict)
    incidents: list[str] = field(default_factory=list)

    @property
    def sent(self) -> list[tuple[int, ...]]:
        """The clients that were sent the model, and then those that were sent it once more, and so on."""
        most = max(self.asked.values(), default=0)
        return [tuple(sorted(c for c, count in self.asked.items() if count > again)) for again in range(most)]

    def note(self, round_index: int, incident: str) -> None:
        """Record an incident, and log it."""
        self.incidents.append(incident)
        _LOG.warning("round %d: %s", round_index, incident)


class ScoreCollector:
    """Collects scores from the clients that are online.

    Args:
        channel: How the nodes are reached.
        registry: Which node serves which client.
        policy: How long a round waits.
        layers: The labelling.
        fingerprint: See :func:`fedlama.flower.protocol.fingerprint`.
    """

    def __init__(
        self, channel: Channel, registry: NodeRegistry, policy: RoundPolicy, layers: Layers, fingerprint: str
    ) -> None:
        self._channel, self._registry, self._policy = channel, registry, policy
        self._layers, self._fingerprint = layers, fingerprint

    def collect(self, values: Mapping[str, Tensor], round_index: int, digest: str = "") -> ScoreResult:
        """Ask every client that is online and has a test set, and wait for the scores until the deadline.

        Args:
            values: The global values, by tensor name.
            round_index: The round, from 0, after which they are scored.
            digest: Of the run's final model, its digest: then every client that is online is sent it, to keep it.
        """
        payloads = {index: encode_layer(layer, values, Float32()) for index, layer in enumerate(self._layers)}
        payload = wire.pack(wire.Message(round_index, EVERYONE, payloads))
        request = EvaluateRequest(self._fingerprint, round_index, EVERYONE, payload, digest)
        result, waiting, done = ScoreResult(), dict[str, int](), set[int]()
        end = time.monotonic() + self._policy.deadline
        while True:
            open_clients = self._send(request, result, waiting, done, end)
            for incoming in self._channel.pull(list(waiting)) if waiting else []:
                client = waiting.pop(incoming.ticket, None)
                if client is not None and self._take(incoming, client, result, round_index):
                    done.add(client)
            if not (waiting or open_clients - done or self._registry.is_asking):
                break
            if time.monotonic() >= end:
                result.note(round_index, f"the deadline of {self._policy.deadline:g} s for scores has passed")
                break
            time.sleep(self._policy.poll)
        for client in sorted(self._wanted(request) - set(result.scores) - result.kept - done):
            result.note(round_index, f"client {client} {'did not keep the final model' if digest else 'gave no score'}")
        result.scores = dict(sorted(result.scores.items()))
        return result

    def _send(
        self, request: EvaluateRequest, result: ScoreResult, waiting: dict[str, int], done: set[int], end: float
    ) -> set[int]:
        """Send the request to clients that have none on its way; return those that are online and may reply."""
        online = self._registry.online()
        able = {c for c in online if c in self._wanted(request) and c not in done}
        able = {c for c in able if result.asked.get(c, 0) < _ATTEMPTS or c in waiting.values()}
        idle = sorted(able - set(waiting.values()))
        if idle:
            lifetime = max(end - time.monotonic(), 1.0) + _EXTRA_LIFETIME
            outgoing = [Outgoing(online[c], replace(request, client=c)) for c in idle]
            for ticket, client in zip(self._channel.push(outgoing, lifetime), idle, strict=True):
                if ticket:
                    waiting[ticket] = client
                    result.asked[client] = result.asked.get(client, 0) + 1
        return able

    def _wanted(self, request: EvaluateRequest) -> set[int]:
        """Return the clients that are asked if they are online."""
        return set(self._registry.samples) if request.digest else set(self._registry.with_test_set)

    @staticmethod
    def _take(incoming: Incoming, client: int, result: ScoreResult, round_index: int) -> bool:
        """Take a score in, or note why not; return whether the client is not asked again."""
        content = incoming.content
        if content.kind == "failure":
            result.note(round_index, f"client {client}: {content.reason}")
            return content.final
        if content.kind != "evaluated" or (content.round_index, content.client) != (round_index, client):
            result.note(round_index, f"client {client}: its score is refused: it is not a reply to the request")
        elif content.digest:
            result.kept.add(client)
        elif content.score is None:
            result.note(round_index, f"client {client} gives no score: {cut(content.detail, REASON_CHARACTERS)}")
        else:
            result.scores[client] = content.score
        return True
