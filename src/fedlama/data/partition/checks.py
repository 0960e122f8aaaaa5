"""What all partitions check first, and the types they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedlama.errors import ConfigError, DataError

Labels: TypeAlias = Tensor | NDArray[np.integer] | Sequence[int]
"""One integer per training row."""

Partition: TypeAlias = list[NDArray[np.int64]]
"""One array of row numbers per client."""


def as_labels(labels: Labels, what: str = "labels") -> NDArray[np.int64]:
    """Bring labels to an int64 array.

    Args:
        labels: One integer per row, as tensor, array or sequence.
        what: What to call them in the message.

    Returns:
        int64 array of shape (N,).

    Raises:
        DataError: If they are not one integer per row, or there are none.
    """
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim != 1 or len(array) == 0:
        raise DataError(f"{what} have shape {array.shape}, expected (rows,) with at least one row: one integer per row")
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{what} are {array.dtype}, expected integers; convert class names to numbers first")
    return array.astype(np.int64)


def check_counts(rows: int, clients: int, min_size: int, extra: Sequence[str] = ()) -> None:
    """Refuse counts that no partition can satisfy.

    Args:
        rows: Training rows.
        clients: Clients asked for.
        min_size: Rows that each client must get.
        extra: Problems already found by the caller, to be reported together.

    Raises:
        ConfigError: With all problems found.
    """
    problems = list(extra)
    if clients < 1:
        problems.append(f"clients is {clients}, expected at least 1")
    if min_size < 1:
        problems.append(f"min_size is {min_size}, expected at least 1: a client without rows cannot train")
    if not problems and clients * min_size > rows:
        problems.append(
            f"{clients} clients with at least {min_size} rows each need {clients * min_size} rows, but there are "
            f"{rows}; use fewer clients or a smaller min_size"
        )
    if problems:
        raise ConfigError(problems)
