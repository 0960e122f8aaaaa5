"""The ledger: all transfers by round, client, layer and direction, and everything that is computed from them.

What is counted: the payload of every layer as its codec serialises it (parameters and the statistics that belong to
them), the headers of the message and of each layer, the discrepancy scalars in uploads, and the first download of the
complete model by every client that joins a cohort. What only serves an evaluation is kept apart: uploads of layers that
are not due, and the global model that clients score on test sets of their own, uncompressed. The final
global model is not sent to the clients again. The sizes are those of the message format in :mod:`fedlama.core.wire`;
what a transport adds (HTTP, TLS, TCP) is not counted.

The paper's cost (eq. 9), C = sum_l dim(u_l) * kappa_l, is derived from the same records: kappa_l is the number of
rounds in which layer l was uploaded for training. Where only some of a round's clients upload a layer, the round counts
in proportion to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from fedlama.core.figures import byte_figure
from fedlama.core.rows import Rows
from fedlama.core.wire import LAYER_HEADER_BYTES, MESSAGE_HEADER_BYTES, SCALAR_BYTES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Direction = Literal["down", "up", "evaluation", "evaluation-down"]
"""From the server and to the server for training; to the server and from the server for an evaluation alone."""

MESSAGE = "(message)"
"""What stands for a layer in the row of the messages' own headers."""
DISTANCES = "(distances)"
"""What stands for a layer where clients report how far they moved, before the server asks for layers."""
CHOICE = "(choice)"
"""What stands for a layer where the server then says which layers a client uploads: one bit for each."""
MEGABYTE = 1_000_000
"""Bytes in a megabyte as tables and charts show it: 10^6."""
KILOBYTE = 1_000
"""Bytes in a kilobyte as tables show it: 10^3."""


@dataclass(frozen=True)
class LayerPayload:
    """One layer inside a message.

    Attributes:
        layer: The layer's name.
        parameters: Its trainable parameters, dim(u_l).
        payload_bytes: Its payload as serialised.
    """

    layer: str
    parameters: int
    payload_bytes: int


@dataclass(frozen=True)
class Transfer:
    """The same layers, sent to or by each of several clients, one message per client.

    One object for the whole cohort, not one per client and layer, keeps the ledger of a large federation small.

    Attributes:
        round_index: The round, from 0.
        direction: ``"down"`` and ``"up"`` for training; ``"evaluation"`` for uploads made only to evaluate, and
            ``"evaluation-down"`` for the global model that clients score.
        clients: The clients' numbers.
        payloads: The layers.
        scalars: Whether each layer carries its discrepancy scalar.

    Example:
        >>> sent = Transfer(0, "up", clients=(3, 5), payloads=(LayerPayload("conv", 10, 40),), scalars=True)
        >>> sent.payload_bytes, sent.header_bytes, sent.scalar_bytes, sent.total_bytes
        (80, 112, 16, 208)
    """

    round_index: int
    direction: Direction
    clients: tuple[int, ...]
    payloads: tuple[LayerPayload, ...]
    scalars: bool = False

    @property
    def payload_bytes(self) -> int:
        """Payload of all clients together, in bytes."""
        return len(self.clients) * sum(item.payload_bytes for item in self.payloads)

    @property
    def header_bytes(self) -> int:
        """Message and layer headers of all clients together, in bytes."""
        return len(self.clients) * (MESSAGE_HEADER_BYTES + LAYER_HEADER_BYTES * len(self.payloads))

    @property
    def scalar_bytes(self) -> int:
        """Discrepancy scalars of all clients together, in bytes."""
        return len(self.clients) * SCALAR_BYTES * len(self.payloads) if self.scalars else 0

    @property
    def total_bytes(self) -> int:
        """Everything together, in bytes."""
        return self.payload_bytes + self.header_bytes + self.scalar_bytes

    def to_json(self) -> dict[str, object]:
        """Return the record as plain JSON types."""
        return {
            "direction": self.direction,
            "clients": list(self.clients),
            "layers": {item.layer: [item.parameters, item.payload_bytes] for item in self.payloads},
            "scalars": self.scalars,
            "payload_bytes": self.payload_bytes,
            "header_bytes": self.header_bytes,
            "scalar_bytes": self.scalar_bytes,
        }

    @classmethod
    def from_json(cls, round_index: int, record: Mapping[str, object]) -> Transfer:
        """Read back what :meth:`to_json` wrote.

        Args:
            round_index: The round, from 0.
            record: The JSON object.

        Raises:
            KeyError, TypeError, ValueError: The object is not as :meth:`to_json` writes it.
        """
        layers, clients = record["layers"], record["clients"]
        if not isinstance(layers, dict) or not isinstance(clients, list):
            raise TypeError("a transfer has an object 'layers' and a list 'clients'")
        payloads = tuple(LayerPayload(name, int(sizes[0]), int(sizes[1])) for name, sizes in layers.items())
        direction: Direction = record["direction"]  # type: ignore[assignment]
        return cls(round_index, direction, tuple(int(c) for c in clients), payloads, bool(record["scalars"]))


@dataclass(frozen=True)
class Row:
    """One layer of one client in one round and direction, the smallest entry of the ledger.

    Attributes:
        round_index: The round, from 0.
        client: The client's number.
        layer: The layer's name.
        direction: As in :class:`Transfer`.
        parameters: Trainable parameters of the layer.
        payload_bytes: Payload as serialised, without headers and scalar.
    """

    round_index: int
    client: int
    layer: str
    direction: Direction
    parameters: int
    payload_bytes: int


class Ledger:
    """The transfers of a run, in the order in which they happened.

    Args:
        transfers: The transfers so far.

    Example:
        >>> conv, dense = LayerPayload("conv", 10, 40), LayerPayload("dense", 100, 400)
        >>> ledger = Ledger([Transfer(0, "up", (0, 1), (conv,)), Transfer(1, "up", (0, 1), (conv, dense))])
        >>> ledger.synchronisations(), ledger.cost()  # 2 * 10 + 100
        ({'conv': 2, 'dense': 1}, 120)
        >>> ledger.payload_bytes("up")
        960
    """

    def __init__(self, transfers: Iterable[Transfer] = ()) -> None:
        self.transfers: list[Transfer] = list(transfers)

    def extend(self, transfers: Iterable[Transfer]) -> None:
        """Append a round's transfers.

        Args:
            transfers: In the order in which they happened.
        """
        self.transfers.extend(transfers)

    def rows(self) -> Iterator[Row]:
        """Yield every (round, client, layer, direction) with its parameters and payload bytes."""
        for transfer in self.transfers:
            for client in transfer.clients:
                for item in transfer.payloads:
                    yield Row(
                        transfer.round_index,
                        client,
                        item.layer,
                        transfer.direction,
                        item.parameters,
                        item.payload_bytes,
                    )

    def table(self) -> Rows:
        """Return one row per round, direction and layer, all clients together.

        The headers of the messages belong to no layer; their row names :data:`MESSAGE`, so that the column ``bytes``
        adds up to :meth:`total_bytes`.
        """
        rows: dict[tuple[int, str, str], dict[str, Any]] = {}
        for transfer in self.transfers:
            clients = len(transfer.clients)
            parts = [(MESSAGE, 0, 0, MESSAGE_HEADER_BYTES, 0)]
            scalar = SCALAR_BYTES if transfer.scalars else 0
            parts += [
                (item.layer, item.parameters, item.payload_bytes, LAYER_HEADER_BYTES, scalar)
                for item in transfer.payloads
            ]
            for layer, parameters, payload, header, scalars in parts:
                key = (transfer.round_index, transfer.direction, layer)
                row = rows.setdefault(
                    key,
                    dict(zip(("round", "direction", "layer"), key, strict=True))
                    | {
                        "clients": 0,
                        "parameters": parameters,
                        "payload_bytes": 0,
                        "header_bytes": 0,
                        "scalar_bytes": 0,
                    },
                )
                row["clients"] += clients
                row["payload_bytes"] += clients * payload
                row["header_bytes"] += clients * header
                row["scalar_bytes"] += clients * scalars
        return Rows(
            row | {"bytes": row["payload_bytes"] + row["header_bytes"] + row["scalar_bytes"]} for row in rows.values()
        )

    def plot(self) -> Figure:
        """Return a figure of the MB of each layer, up and down; save it with ``savefig``, or let a notebook show it."""
        return byte_figure(self.table(), MEGABYTE)

    def __repr__(self) -> str:
        """Return how much was sent: the transfers themselves may be thousands."""
        megabytes = ", ".join(f"{self.total_bytes(way) / MEGABYTE:.2f} MB {way}" for way in ("up", "down"))
        return f"Ledger({len(self.transfers)} transfers, {megabytes})"

    def _repr_html_(self) -> str:
        """Return the bytes by direction and kind, for notebooks."""
        rows = []
        for way in get_args(Direction):
            sent = list(self._of(way))
            kinds = (
                sum(getattr(each, f"{kind}_bytes") for each in sent)
                for kind in ("payload", "header", "scalar", "total")
            )
            if sent:
                cells = "".join(f"<td style='text-align:right'>{count:,}</td>" for count in kinds)
                rows.append(f"<tr><th>{way}</th>{cells}</tr>")
        head = "".join(f"<th>{name}</th>" for name in ("direction", "payload", "headers", "scalars", "bytes"))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"

    def total_bytes(self, direction: Direction) -> int:
        """Return the bytes of one direction over the whole run: payload, headers and scalars.

        Args:
            direction: As in :class:`Transfer`.
        """
        return sum(transfer.total_bytes for transfer in self._of(direction))

    def payload_bytes(self, direction: Direction) -> int:
        """Return the payload bytes of one direction over the whole run.

        Args:
            direction: As in :class:`Transfer`.
        """
        return sum(transfer.payload_bytes for transfer in self._of(direction))

    def synchronisations(self) -> dict[str, int]:
        """Return the number of rounds in which each layer was uploaded for training, the paper's kappa_l."""
        rounds: dict[str, set[int]] = {}
        for transfer in self._of("up"):
            for item in transfer.payloads:
                if item.layer == DISTANCES:
                    continue
                rounds.setdefault(item.layer, set()).add(transfer.round_index)
        return {layer: len(seen) for layer, seen in rounds.items()}

    def cost(self) -> int:
        """Return the paper's cost C = sum_l dim(u_l) * kappa_l (eq. 9), in parameters, rounded.

        Example:
            >>> conv, dense = LayerPayload("conv", 10, 40), LayerPayload("dense", 100, 400)
            >>> Ledger([Transfer(0, "up", (0,), (conv,)), Transfer(0, "up", (1,), (conv, dense))]).cost()
            60
        """
        clients: dict[int, set[int]] = {}
        senders: dict[tuple[int, str], set[int]] = {}
        sizes: dict[str, int] = {}
        for transfer in self._of("up"):
            clients.setdefault(transfer.round_index, set()).update(transfer.clients)
            for item in transfer.payloads:
                senders.setdefault((transfer.round_index, item.layer), set()).update(transfer.clients)
                sizes[item.layer] = item.parameters
        shares = ((index, sizes[layer], len(sent)) for (index, layer), sent in senders.items())
        return round(math.fsum(size * count / len(clients[index]) for index, size, count in shares))

    def _of(self, direction: Direction) -> Iterator[Transfer]:
        return (transfer for transfer in self.transfers if transfer.direction == direction)


def cost_percent(cost: int, parameters: int, local_steps: int, base_interval: int) -> float:
    """Return a cost relative to FedAvg with the base interval over the same local steps.

    Args:
        cost: C of the run, in parameters.
        parameters: Trainable parameters of the whole model.
        local_steps: Local iterations K of the run.
        base_interval: The interval tau' of the FedAvg that counts as 100 %.

    Returns:
        Percent.

    >>> cost_percent(cost=300, parameters=100, local_steps=24, base_interval=4)
    50.0
    """
    return 100.0 * cost / (parameters * (local_steps / base_interval))


def round_bytes(transfers: Sequence[Transfer], direction: Direction) -> int:
    """Return the bytes of one direction in one round's transfers: payload, headers and scalars.

    Args:
        transfers: The round's transfers.
        direction: As in :class:`Transfer`.
    """
    return sum(transfer.total_bytes for transfer in transfers if transfer.direction == direction)
