"""A source of batches that the first step of a run can look at before its turn.

Clients whose samples are tensors give any batch at any time. Recorded batches, and sources of a user's own, may give
out each batch once. This wrapper keeps what was looked at until the engine asks for it, and it is also the one place
where such a batch is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedlama.core.trees import map_leaves
from fedlama.data.clients import Batch, ClientSource, checked_batch, is_pure
from fedlama.engines.user_code import NamedFailures
from fedlama.errors import FedlamaError


class RepeatableBatches:
    """Gives out the batches of a source, and while it is rehearsed, any batch as often as it is asked for.

    Args:
        source: Gives out each batch once, in each client's order.
    """

    def __init__(self, source: ClientSource) -> None:
        self._source = source
        self._kept: dict[tuple[int, int], Batch | Exception] = {}
        self._rehearsed = False

    @property
    def fresh_batches(self) -> bool:
        """Whether a batch may be overwritten; see :meth:`fedlama.data.clients.ClientSource.batch`."""
        return bool(getattr(self._source, "fresh_batches", False))

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self._source)

    def samples(self, client: int) -> int:
        """Return a client's number of training samples, n_i."""
        return self._source.samples(client)

    def batch(self, client: int, step: int, seed: int) -> Batch:
        """Return one batch of a client; see :meth:`fedlama.data.clients.ClientSource.batch`."""
        kept = self._kept.pop((client, step), None)
        if kept is None:
            kept = self._next(client, step, seed)
        if self._rehearsed:
            self._kept[client, step] = kept
        if isinstance(kept, Exception):
            raise kept
        return map_leaves(torch.clone, kept) if self._rehearsed else kept

    def _next(self, client: int, step: int, seed: int) -> Batch | Exception:
        """Return a batch of the source, or what it raised: a source may not be asked again for that batch either."""
        try:
            with NamedFailures(client, step):
                return checked_batch(self._source.batch(client, step, seed), client, step)
        except FedlamaError as error:
            return error

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Keep every batch that is asked for inside the block, so that it can be asked for again."""
        self._rehearsed = True
        try:
            yield
        finally:
            self._rehearsed = False


def repeatable(source: ClientSource) -> ClientSource:
    """Return a source whose batches can be looked at before their turn."""
    return source if hasattr(source, "rehearsal") or is_pure(source) else RepeatableBatches(source)


@contextmanager
def rehearsal(source: ClientSource) -> Iterator[bool]:
    """Let a source's batches be asked for again after the block.

    Args:
        source: What :func:`repeatable` returned, or any other source.

    Yields:
        Whether that is possible; if not, no batch may be asked for.
    """
    if is_pure(source):
        yield True
    elif rehearse := getattr(source, "rehearsal", None):
        with rehearse():
            yield True
    else:
        yield False
