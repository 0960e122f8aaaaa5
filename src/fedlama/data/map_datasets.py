"""Samples by number: the forms in which users have them, and loaders of PyTorch taken apart."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any, Protocol, cast

import numpy as np
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from fedlama.errors import DataError, cut


class MapDataset(Protocol):
    """Samples by number, as ``torch.utils.data.Dataset`` and ``datasets.Dataset`` give them."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int, /) -> Any:  # noqa: ANN401  (what a sample is, is the user's matter)
        """Return a sample."""


class Columns:
    """A dict of arrays, or a pandas frame, as a data set whose samples are dicts.

    Args:
        columns: Arrays or lists of equal length, by name.
        where: Whose they are, for messages.

    Raises:
        DataError: The lengths differ; the message names the columns.
    """

    def __init__(self, columns: Mapping[str, Any], where: str) -> None:
        self._columns = {str(name): _column(values) for name, values in columns.items()}
        lengths = {name: len(values) for name, values in self._columns.items()}
        if len(set(lengths.values())) != 1:
            counted = ", ".join(f"{name!r} {length}" for name, length in lengths.items()) or "none"
            raise DataError(
                f"{where} has columns of different lengths ({counted}); give each one value for every sample"
            )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(next(iter(self._columns.values())))

    def __getitem__(self, index: int) -> dict[str, object]:
        """Return a sample."""
        return {name: values[index] for name, values in self._columns.items()}


def as_map(given: Any, where: str) -> MapDataset:  # noqa: ANN401  (what a user hands over)
    """Return what a user hands over as a data set of numbered samples.

    Args:
        given: A map-style data set, a dict of arrays, or a pandas frame, whose fractions of 64 bits become float32.
        where: Whose it is, for messages.

    Raises:
        DataError: It is something else, such as a stream.
    """
    if isinstance(given, Mapping):
        return Columns(given, where)
    if hasattr(given, "iloc") and hasattr(given, "columns"):
        arrays = {name: given[name].to_numpy() for name in given.columns}
        return Columns({n: a.astype(np.float32) if a.dtype == np.float64 else a for n, a in arrays.items()}, where)
    if isinstance(given, IterableDataset) or not (isinstance(given, Sized) and hasattr(given, "__getitem__")):
        raise DataError(
            f"{where} has data of the type {type(given).__name__}, whose samples have no numbers, expected a data set "
            "with len() and dataset[i]; collect the samples in a list first, or replay ready batches with "
            "fedlama.ReplayedClients"
        )
    return cast(MapDataset, given)


def is_dataset(given: object) -> bool:
    """Return whether an object is a data set, which needs a batch size, rather than an iterable of ready batches."""
    of_torch = isinstance(given, Dataset) and not isinstance(given, IterableDataset)
    of_hugging_face = all(hasattr(given, name) for name in ("column_names", "features", "__getitem__"))
    frame = hasattr(given, "iloc") and hasattr(given, "columns")
    return of_torch or of_hugging_face or frame or isinstance(given, Mapping)


def check_loader(client: int, loader: DataLoader[Any]) -> None:
    """Refuse a loader whose order of samples cannot be drawn from the run's seed.

    Args:
        client: Whose it is.
        loader: The loader.

    Raises:
        DataError: It reads a stream, or has a sampler of its own.
    """
    where = f"client {client}: its DataLoader"
    if isinstance(loader.dataset, IterableDataset):
        raise DataError(
            f"{where} reads the stream {type(loader.dataset).__name__}, whose samples have no numbers, so they cannot "
            "be drawn from the run's seed; give a map-style data set, or replay it with fedlama.ReplayedClients"
        )
    drawn = loader.sampler
    usual = type(drawn) is SequentialSampler or (
        type(drawn) is RandomSampler and not drawn.replacement and drawn.num_samples == len(drawn.data_source)
    )
    if not usual or type(loader.batch_sampler) is not BatchSampler:
        sampler = type(loader.batch_sampler if usual else drawn).__name__
        raise DataError(
            f"{where} has the sampler {sampler}, but the order of samples is drawn from the run's seed, so that a run "
            "can be resumed; give it a batch_size and no sampler, or replay its batches with "
            "fedlama.ReplayedClients"
        )


def read_samples(where: str, dataset: MapDataset, rows: list[int]) -> list[Any]:
    """Return samples by their numbers, in one call where the data set has ``__getitems__``.

    Args:
        where: Which batch they are for, for messages.
        dataset: The data set.
        rows: The numbers.

    Raises:
        DataError: One cannot be read; the message names it.
    """
    several = getattr(dataset, "__getitems__", None)
    try:
        return list(several(rows)) if several is not None else [dataset[row] for row in rows]
    except Exception as failure:
        for row in rows:
            try:
                dataset[row]
            except Exception as error:
                raise DataError(
                    f"{where}: sample {row} of {type(dataset).__name__} cannot be read: {type(error).__name__}: "
                    f"{cut(error)}; correct the data set"
                ) from error
        raise DataError(
            f"{where}: {type(dataset).__name__}.__getitems__ failed: {type(failure).__name__}: {cut(failure)}; correct "
            "the data set"
        ) from failure


def _column(values: Any) -> Any:  # noqa: ANN401
    """Return a column with plain row numbers; a Series of pandas would look rows up by their labels."""
    return values.to_numpy() if hasattr(values, "iloc") else values
