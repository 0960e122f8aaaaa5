"""What each client sent and received in each round, from a ledger into arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedlama.core.ledger import Transfer
from fedlama.core.records import RoundRecord

Ints = NDArray[np.int64]
_TRAINING = ("up", "down")


@dataclass(frozen=True)
class Exchanges:
    """One entry for each client of each round that took part; entries are sorted by round. All arrays are (entries,).

    Attributes:
        rounds: Round of each entry, counted from the first round given.
        clients: Client of each entry.
        bytes_down: Bytes that it received in that round.
        bytes_up: Bytes that it sent.
        messages_down: Messages that it received, 0 or 1.
        messages_up: Messages that it sent.
        steps: Local steps of each entry's round.
        count: Number of rounds.
    """

    rounds: Ints
    clients: Ints
    bytes_down: Ints
    bytes_up: Ints
    messages_down: Ints
    messages_up: Ints
    steps: Ints
    count: int

    @classmethod
    def of(
        cls,
        rounds: Iterable[Sequence[Transfer]],
        steps: Sequence[int],
        *,
        evaluation: bool = False,
        client_steps: Sequence[Mapping[int, int]] = (),
    ) -> Exchanges:
        """Collect the entries.

        Args:
            rounds: The transfers of each round.
            steps: Local steps of each round.
            evaluation: Include what is sent only for an evaluation.
            client_steps: For each round the clients that took another number of local steps; empty for none.

        Returns:
            The entries.
        """
        names = ("rounds", "clients", "bytes_down", "bytes_up", "messages_down", "messages_up", "steps")
        columns: list[tuple[Ints, ...]] = []
        count = 0
        for index, (transfers, length) in enumerate(zip(rounds, steps, strict=True)):
            count += 1
            wanted = [item for item in transfers if item.clients and (evaluation or item.direction in _TRAINING)]
            if not wanted:
                continue
            clients = np.unique(np.concatenate([np.asarray(transfer.clients, dtype=np.int64) for transfer in wanted]))
            table = np.zeros((4, len(clients)), dtype=np.int64)  # bytes down, bytes up, messages down, messages up
            for transfer in wanted:
                columns_of = np.searchsorted(clients, np.asarray(transfer.clients, dtype=np.int64))
                row = 1 if transfer.direction in ("up", "evaluation") else 0
                table[row, columns_of] += transfer.total_bytes // len(transfer.clients)
                table[row + 2, columns_of] += 1
            here, long = np.full(len(clients), index), np.full(len(clients), length)
            for client, taken in (client_steps[index] if client_steps else {}).items():
                long[clients == client] = taken
            columns.append((here, clients, table[0], table[1], table[2], table[3], long))
        empty: Ints = np.zeros(0, dtype=np.int64)
        parts = [np.concatenate(part) for part in zip(*columns, strict=True)] if columns else [empty] * len(names)
        return cls(**dict(zip(names, parts, strict=True)), count=count)

    @classmethod
    def of_records(cls, records: Sequence[RoundRecord], *, evaluation: bool = False) -> Exchanges:
        """Collect the entries of a run's records.

        Args:
            records: The rounds, from the first.
            evaluation: As in :meth:`of`.
        """
        ends = [0, *(record.local_steps for record in records)]
        steps = [after - before for before, after in pairwise(ends)]
        unequal = [record.client_steps for record in records]
        return cls.of([record.transfers for record in records], steps, evaluation=evaluation, client_steps=unequal)
