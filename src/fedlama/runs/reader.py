"""Read the files of a run folder: the record of every round, and the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

from fedlama.core.deprecations import ignore_renamed, modernise
from fedlama.core.records import RoundRecord
from fedlama.errors import DataError, cut, printable, shown
from fedlama.federation.stored_description import Description
from fedlama.runs.files import count_lines, read_lines, read_object
from fedlama.runs.lock import is_locked
from fedlama.runs.schema import MalformedLine, round_record

STREAMS = ("metrics", "ledger", "layers")
"""The files that get one line per round, in the order in which a round is written to them."""
FROZEN = "frozen_layers"
"""Key of the layers that are neither trained nor sent: what runs has no other trace of them."""
SETTINGS = "run_config"
"""Key of the run's configuration of a deployment of an app of the user's own, as far as it decides the result."""
ADDED = ("in_force", "environment", FROZEN, SETTINGS)
"""Keys of ``config.json`` beside the experiment."""
INITIAL_MODEL = "initial_model"
"""Key of the digests of a model that was built in Python: no other setting decides its initial values."""
MISSING = "missing"
"""Key in the metadata of a model's file: the tensors that are not in it because nothing trained them."""
FILES = "files"
"""Key of its environment: the digests of a finished run's files."""
Config = Mapping[str, Any]
"""The content of ``config.json``; see :mod:`fedlama.runs.configuration`."""


def read_records(
    folder: Path, *, layers: bool = True, first: int | None = None, summary: Mapping[str, Any] | None = None
) -> list[RoundRecord]:
    """Read the rounds of a run folder.

    Args:
        folder: The run folder.
        layers: Whether to read the records of the layers, from layers.jsonl.
        first: Number of rounds to read, whatever follows them; None for all.
        summary: The content of ``summary.json``; empty or None when the run has not finished. Then the last round may
            be missing in the files that are written last, and a last line may be cut off.

    Returns:
        The records of all rounds that are whole in every file.

    Raises:
        DataError: A file is missing; a line is malformed, missing, or one too many; the message names file and line.
    """
    files = [folder / f"{name}.jsonl" for name in (STREAMS if layers else STREAMS[:2])]
    # The files that are written last are counted first, since a run may write while they are counted.
    counts = {file: count_lines(file) for file in reversed(files)} if first is None else {}
    whole = [counts[file][0] for file in files] if first is None else [first]
    rounds = min(whole)
    lines = [_lines(file, rounds) for file in files]
    third = lines[2] if layers else repeat({"layers": {}}, rounds)
    records = [_record(files, *content) for content in zip(lines[0], lines[1], third, strict=True)]
    if summary:
        recorded = summary.get("rounds")
        _check_finished(counts, recorded if type(recorded) is int else max(whole))
    elif max(whole) > rounds + 1 and not is_locked(folder):
        file = files[whole.index(rounds)]
        raise DataError(
            f"{printable(file)}, line {rounds + 1} is missing, expected {max(whole)} lines as in "
            f"{files[whole.index(max(whole))].name}; start the run's command again, which continues from its last "
            "checkpoint"
        )
    return records


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's ``config.json`` in today's words; None when it cannot be read.

    Args:
        folder: The run folder.
    """
    try:
        content = read_object(folder / "config.json")
    except (OSError, DataError):
        return None
    return modernise(content, ignore_renamed)


def is_built_in_python(stored: Config) -> bool:
    """Return whether a configuration is of a federation that was built in Python, which only its code can make again.

    Args:
        stored: The content of ``config.json``.
    """
    return "partition" not in stored  # a section of every experiment


def stored_description(stored: Config) -> Description:
    """Return the description of the federation in a stored configuration; empty when it has none.

    Before version 0.2 a deployment of the user's own federation wrote it at the top level.
    """
    description = stored.get("in_force", stored)
    return dict(description) if isinstance(description, Mapping) else {}


def file_digests(stored: Config) -> dict[str, object]:
    """Return the digests of a finished run's files by name; none when it has not finished, or before version 0.2.

    Args:
        stored: The content of ``config.json``.
    """
    environment = stored.get("environment")
    digests = environment.get(FILES) if isinstance(environment, Mapping) else None
    return dict(digests) if isinstance(digests, Mapping) else {}


def _check_finished(counts: Mapping[Path, tuple[int, bool]], rounds: int) -> None:
    """Check that all files of a finished run end with its last round.

    Raises:
        DataError: A line is missing, or one too many.
    """
    for file, (lines, cut_off) in counts.items():
        where = printable(file)
        if lines < rounds:
            what = "is cut off" if cut_off else "is missing"
            raise DataError(f"{where}, line {lines + 1} {what}, expected {rounds} lines; train the run again")
        if lines > rounds or cut_off:
            raise DataError(f"{where}, line {rounds + 1} is one too many, expected {rounds} lines; train the run again")


def _lines(file: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the first lines of a file, each with the round that its number stands for.

    Raises:
        DataError: There are fewer, one is malformed, or one is of another round.
    """
    number = 0
    for number, line in read_lines(file, rounds):
        if type(line["round"]) is not int or line["round"] != number - 1:
            raise DataError(
                f"{printable(file)}, line {number}: round is {shown(line['round'])}, expected round {number - 1}, so "
                "the lines are of different runs; train the run again"
            )
        yield line
    if number < rounds:
        raise DataError(
            f"{printable(file)}, line {number + 1} is missing or cut off, expected {rounds} lines; train the run again"
        )


def _record(
    files: Sequence[Path], metrics: Mapping[str, Any], ledger: Mapping[str, Any], layers: Mapping[str, Any]
) -> RoundRecord:
    try:
        return round_record(metrics, ledger, layers)
    except MalformedLine as error:
        index = metrics["round"]
        where = f"{printable(files[error.stream])}, line {index + 1}"
        raise DataError(f"{where}: round {index} is malformed ({cut(error)}); train the run again") from error
