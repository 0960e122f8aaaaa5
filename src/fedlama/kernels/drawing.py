"""Sample numbers of many clients' batches, drawn in one call: the same as those of `TensorClients.cohort_rows`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.core.randomness import FIRST, INCREMENT, LAST_SHIFT, SECOND
from fedlama.kernels.kernel import kernel


@kernel
def draw_rows(clients: Any, first: Any, steps: int, held: Any, begins: Any, batch_sizes: Any, key: Any) -> Any:
    """Draw some steps of some clients.

    Args:
        clients: int64, (clients,): the clients' numbers.
        first: int64, (clients,): each one's first step.
        steps: How many.
        held: int64, (samples,): all clients' sample numbers, one client after another.
        begins: int64, (all clients + 1,): where each client's begin in `held`, and where the last one's end.
        batch_sizes: int64, (all clients,).
        key: uint64: the address of all shuffles.

    Returns:
        int64, (steps, clients, width): sample numbers, short batches filled up with their first one; int64, (steps,
        clients): how many samples each batch has; and the longest batch, -1 if an argument does not fit the others.
    """
    count, known = len(clients), len(batch_sizes)
    largest, width, longest = 0, 0, 0
    for position in range(count):
        client = clients[position]
        fits = 0 <= client < known and first[position] >= 0 and batch_sizes[client] >= 1
        if not fits or not 0 <= begins[client] < begins[client + 1] <= len(held):
            longest = -1
            break
        size = begins[client + 1] - begins[client]
        largest, width = max(largest, size), max(width, min(size, batch_sizes[client]))
    count, steps = (0, 0) if longest < 0 else (count, steps)
    rows, lengths = np.empty((steps, count, width), np.int64), np.empty((steps, count), np.int64)
    order, unsorted = np.empty(largest, np.uint64), np.empty(largest, np.uint64)
    ends, hashed = np.empty(2 * largest + 2, np.int64), np.empty(largest, np.uint64)
    for number in range(largest):  # every shuffle hashes these
        hashed[number] = mixed(np.uint64(number))
    for position in range(count):
        client = clients[position]
        samples = held[begins[client] : begins[client + 1]]
        batch, shuffled = batch_sizes[client], -1
        for step in range(steps):
            epoch, turn = divmod(first[position] + step, -(-len(samples) // batch))
            if epoch != shuffled:
                of_epoch = mixed(mixed(key ^ mixed(np.uint64(client))) ^ mixed(np.uint64(epoch)))
                _shuffle(order[: len(samples)], unsorted, ends, hashed, of_epoch)
                shuffled = epoch
            start = turn * batch
            length = min(batch, len(samples) - start)
            lengths[step, position] = length
            longest = max(longest, length)
            for number in range(length):  # rows (width) of a step and client <- order (samples)
                rows[step, position, number] = samples[order[start + number]]
            for number in range(length, width):
                rows[step, position, number] = samples[order[start]]
    return rows, lengths, longest


@kernel
def _shuffle(order: Any, unsorted: Any, ends: Any, hashed: Any, key: Any) -> None:
    """Write the positions in the order of their hashed keys, as :func:`fedlama.core.randomness.ranked` does.

    Keys are distributed evenly, so each goes close to its final position at once, by its highest bits, and moves few
    positions from there: several times faster than a sort that compares.

    Args:
        order: uint64, (size,), written.
        unsorted: uint64, scratch of as many.
        ends: int64, scratch of twice as many and two.
        hashed: uint64: every position, mixed.
        key: uint64: the address of the epoch.
    """
    size, bits = len(order), 0
    while 1 << bits < size:
        bits += 1
    low, shift = np.uint64((1 << bits) - 1), np.uint64(64 - max(bits, 1))
    bins = 1 << max(bits, 1)
    ends[:bins] = 0
    for position in range(size):
        marked = (mixed(key ^ hashed[position]) & ~low) | np.uint64(position)
        unsorted[position] = marked
        ends[marked >> shift] += 1
    for number in range(1, bins):
        ends[number] += ends[number - 1]
    for position in range(size):
        marked = unsorted[position]
        ends[marked >> shift] -= 1
        order[ends[marked >> shift]] = marked
    for position in range(1, size):
        marked, free = order[position], position
        while free > 0 and order[free - 1] > marked:
            order[free] = order[free - 1]
            free -= 1
        order[free] = marked
    for position in range(size):
        order[position] &= low


@kernel
def mixed(value: Any) -> Any:
    """Mix a whole number; see :mod:`fedlama.core.randomness`."""
    value = almost_mixed(value)
    return value ^ (value >> np.uint64(LAST_SHIFT))


@kernel
def almost_mixed(value: Any) -> Any:
    """Do all of :func:`mixed` but its last step, which changes none of the first 31 bits."""
    value = value + np.uint64(INCREMENT)
    value = (value ^ (value >> np.uint64(FIRST[0]))) * np.uint64(FIRST[1])
    return (value ^ (value >> np.uint64(SECOND[0]))) * np.uint64(SECOND[1])
