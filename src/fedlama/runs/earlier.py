"""What a run folder holds already when a run is to be written to it: the same run, another, or one on other data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from fedlama.core.records import Result
from fedlama.errors import DataError, printable, without_remedy
from fedlama.federation.stored_description import shown_differences
from fedlama.runs.configuration import Comparison
from fedlama.runs.lock import NAME as LOCK
from fedlama.runs.reader import INITIAL_MODEL, Config, read_config
from fedlama.runs.stored import changed_files, load_run


def refuse_replaced_data(path: Path, replaced: Callable[[Config], list[str]], otherwise: str = "") -> None:
    """Refuse to reuse, continue or overwrite a run whose data were replaced since.

    Args:
        path: The run folder; it need not exist.
        replaced: Returns which data of the stored run were replaced, one clause each.
        otherwise: Another remedy, as a clause.

    Raises:
        DataError: The folder holds a finished or interrupted run on other data.
    """
    if not any((path / name).exists() for name in ("summary.json", "checkpoints")):
        return
    stored = read_config(path)
    if stored is not None and (changed := replaced(stored)):
        raise DataError(
            f"{printable(path)} has a run on other data: {shown_differences(changed, 1)}; restore the data of that "
            f"run, choose another folder (--out){otherwise}"
        )


def refuse_other_run(path: Path, differences: Callable[[Config], list[str]], *, replace_it: bool = False) -> None:
    """Refuse a folder that its user has named when it holds another run, or files that are of no run.

    Args:
        path: The run folder; it need not exist.
        differences: Returns what differs between the stored configuration and the run, one clause each.
        replace_it: Whether another run may be replaced.

    Raises:
        DataError: The folder holds something else.
    """
    try:
        held = {entry.name for entry in path.iterdir()} - {LOCK}
    except OSError:  # it does not exist, or the attempt to write to it will say what is wrong
        return
    if not held:
        return
    where = printable(path)
    if "config.json" not in held:
        raise DataError(f"{where} holds files that are of no run, such as {printable(min(held))}; give another name")
    stored = None if replace_it else read_config(path)
    if stored is not None and (changed := differences(stored)):
        raise DataError(
            f"{where} has the run of another federation: {shown_differences(changed)}; give another name, or replace "
            "that run with again=True"
        )


def finished_before(
    path: Path, comparison: Comparison, rounds: int, warn: Callable[[str], None]
) -> tuple[Result, dict[str, object]] | None:
    """Return a run that has finished already.

    Args:
        path: The run folder; it need not exist.
        comparison: Compares the folder's configuration with the run.
        rounds: Number of rounds of the run.
        warn: Called with a sentence when the folder holds a run with other settings, or when the user has to know
            something of the run that is returned.

    Returns:
        The run and its summary; None when the folder does not hold the whole run.
    """
    stored = read_config(path)
    if stored is None or not (path / "summary.json").exists():
        return None
    if changed := comparison.differences(stored):
        warn(f"{printable(path)} has a run with other settings ({shown_differences(changed)}); training again")
        return None
    if changed := changed_files(path):
        warn(f"{without_remedy(changed[0])}; training again")
        return None
    try:
        run = load_run(path)
        result = run.result()
    except DataError as error:
        warn(f"{without_remedy(error)}; training again")
        return None
    if len(result.rounds) != rounds and result.stopped is None:
        warn(f"{printable(path)} has {len(result.rounds)} rounds, expected {rounds}; training again")
        return None
    for sentence in comparison.provenance(stored):
        warn(f"{printable(path)}: {sentence}")
    return result, {**run.summary, "run_folder": str(path)}


def run_with_other_code(path: Path, config: Mapping[str, object]) -> Path | None:
    """Return the latest run of the same settings whose options of the user's own had other code.

    Args:
        path: The run folder of these settings; its neighbours are searched.
        config: The resolved configuration, with the digests of the code under ``sources``.

    Returns:
        The folder of that run; None if there is none, or no option is the user's own.
    """
    return _neighbour(path, config, "sources")


def run_with_other_values(path: Path, config: Mapping[str, object]) -> Path | None:
    """Return the latest run of a federation built in Python that differs in the model's initial values only.

    Args:
        path: The run folder of the federation; its neighbours are searched.
        config: Its configuration, see :mod:`fedlama.runs.configuration`.

    Returns:
        The folder of that run; None if there is none.
    """
    return _neighbour(path, config, INITIAL_MODEL)


def _neighbour(path: Path, config: Mapping[str, object], apart: str) -> Path | None:
    """Return the latest run beside a folder whose configuration differs in one key only, which both have."""
    wanted = json.loads(json.dumps(dict(config)))
    if not wanted.pop(apart, None):
        return None
    earlier: list[tuple[float, Path]] = []
    for file in path.parent.glob("*/config.json"):
        stored = read_config(file.parent) or {}
        if file.parent != path and stored.get(apart) and {key: stored.get(key) for key in wanted} == wanted:
            earlier.append((file.stat().st_mtime, file.parent))
    return max(earlier)[1] if earlier else None
