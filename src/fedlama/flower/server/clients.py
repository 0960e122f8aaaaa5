"""The clients as the server of a real deployment knows them: by their number of samples alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedlama.data.clients import Batch
from fedlama.errors import ConfigError


@dataclass(frozen=True)
class RemoteClients:
    """Clients of whom the server knows only how many samples they have.

    Args:
        counts: n_i per client.
    """

    counts: Sequence[int]

    def __len__(self) -> int:
        """Number of clients."""
        return len(self.counts)

    def samples(self, client: int) -> int:
        """Number of training samples n_i."""
        return self.counts[client]

    def batch(self, client: int, step: int, seed: int) -> Batch:
        """Refuse: the data are on the client's machine.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"the data of client {client} are on its own machine; train there")
