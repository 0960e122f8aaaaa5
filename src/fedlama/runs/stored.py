"""Run folders, read back: the configuration, the summary and the record of every round.

Of a run that still trains, or that was killed, the rounds up to the last whole one are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlama.core.deprecations import ignore_renamed, modernise
from fedlama.core.ledger import Ledger
from fedlama.core.paths import expanded
from fedlama.core.records import Best, Result, RoundRecord, layer_rows, metric_rows
from fedlama.core.rows import Rows
from fedlama.errors import DataError, cut, printable, shown
from fedlama.experiment.titles import stored_server_optimizer, stored_title
from fedlama.federation.stored_description import Description, modern
from fedlama.runs.files import check_regular, count_lines, file_digest, read_object
from fedlama.runs.reader import MISSING, STREAMS, file_digests, read_records, stored_description

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedlama.experiment.settings import Experiment

Line = Mapping[str, Any]
"""A JSON object of a run folder."""
_DIGESTED = (*(f"{name}.jsonl" for name in STREAMS), "model.safetensors", "best.safetensors", "summary.json")


@dataclass(frozen=True)
class StoredRun:
    """A run, as its folder describes it.

    Attributes:
        path: The run folder.
        config: The content of ``config.json`` in today's words; empty when the file is missing.
        summary: The content of ``summary.json``, the run's entry in ``--json``; empty when the run did not finish.
        rounds: The records of the rounds, without client models.
    """

    path: Path
    config: Line
    summary: Line
    rounds: tuple[RoundRecord, ...]

    @property
    def title(self) -> str:
        """The method with its intervals, such as ``FedLAMA(6, 4)``; the folder's name when it is not known."""
        return stored_title(self.config, self.summary, printable(self.path.name))

    @property
    def method(self) -> str:
        """The title and the server optimizer where it is not the default: what runs of the same method share."""
        return _method(self.title, self.config)

    @property
    def seed(self) -> int | None:
        """The run's seed; None when it is not known."""
        seed = self.summary.get("seed", self.config.get("seed"))
        return seed if isinstance(seed, int) else None

    @property
    def description(self) -> Description:
        """What ran, in today's form; see :mod:`fedlama.federation.describe`. Empty when it is not known."""
        return modern(stored_description(self.config))

    @property
    def ledger(self) -> Ledger:
        """All transfers of the run."""
        return Ledger(transfer for record in self.rounds for transfer in record.transfers)

    @property
    def metrics(self) -> Rows:
        """One row per round: losses, metrics, bytes and seconds."""
        return metric_rows(self.rounds)

    @property
    def layers(self) -> Rows:
        """One row per round and layer: intervals and discrepancies."""
        return layer_rows(self.rounds)

    @property
    def missing(self) -> tuple[str, ...]:
        """Tensors that ``model.safetensors`` does not hold because nothing trained them: a frozen base, local layers.

        Raises:
            DataError: The file cannot be read.
        """
        return missing_tensors(self.path / "model.safetensors")

    def experiment(self, plugins: Sequence[str] = ()) -> Experiment:
        """Return the experiment that ran, as it was resolved.

        Args:
            plugins: Files or modules with options of your own: a run folder is not trusted to name code.

        Raises:
            DataError: There is no configuration, or the federation was built in Python.
            ConfigError: Code of your own is missing or has changed.
        """
        from fedlama.runs.rebuild import stored_experiment

        return stored_experiment(self.path, self.config, plugins)

    def load_model(
        self, model: nn.Module | None = None, *, best: bool = False, plugins: Sequence[str] = ()
    ) -> nn.Module:
        """Return the trained global model; no data are loaded.

        Args:
            model: Your model, if the federation was built in Python; it is copied. By default the model of the
                experiment is built again.
            best: Whether to load the best model by the validation set instead of that of the last round.
            plugins: As for :meth:`experiment`.

        Returns:
            The model; one that was built here is in evaluation mode.

        Raises:
            DataError: The run did not finish, or has other tensors than the model.
            ConfigError: As for :meth:`experiment`.
        """
        from fedlama.runs.rebuild import Trained, loaded_into, rebuilt, stored_experiment

        result = self.result()
        if best and result.best is None:
            raise DataError(f"the run in {printable(self.path)} has no best model; leave best=False, or train with one")
        values = result.best.model if best and result.best is not None else result.model
        trained = Trained(printable(self.path), values, self.missing)
        if model is not None:
            return loaded_into(model, trained)
        return rebuilt(stored_experiment(self.path, self.config, plugins), self.description, trained)

    def result(self) -> Result:
        """Return the finished run, as the call that trained it did.

        Returns:
            The result, with the global model.

        Raises:
            DataError: The run did not finish, or its model cannot be read.
        """
        if not self.summary:
            raise DataError(f"the run in {printable(self.path)} did not finish; start the same command again")
        where, model, stopped = printable(self.path), self._model("model"), self.summary.get("stopped")
        try:
            cost_percent = float(self.summary.get("cost_percent") or 0.0)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{where}/summary.json is damaged ({cut(error)}); train the run again") from error
        ledger = self.ledger
        return Result(
            method=str(self.summary.get("method", "")),
            rounds=self.rounds,
            ledger=ledger,
            model=model,
            score=next((record.score for record in reversed(self.rounds) if record.score), None),
            cost=ledger.cost(),
            cost_percent=cost_percent,
            seconds=sum(record.seconds + record.evaluation_seconds for record in self.rounds),
            best=self._best(),
            stopped=None if stopped is None else str(stopped),
        )

    def _best(self) -> Best | None:
        """Return the best model by the validation set; None without one."""
        best = self.summary.get("best")
        if best is None:
            return None
        at = best.get("round") if isinstance(best, Mapping) else None
        score = self.rounds[at].validation if type(at) is int and 0 <= at < len(self.rounds) else None
        if score is None or type(at) is not int:
            raise DataError(f"{printable(self.path)}/summary.json names no round of a best model; train the run again")
        return Best(at, score, self._model("best"))

    def _model(self, name: str) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        file = self.path / f"{name}.safetensors"
        with _readable(file):
            return load_file(file)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn what safetensors says of a file into an error that names it."""
    from safetensors import SafetensorError

    try:
        check_regular(file)
        yield
    except (OSError, SafetensorError) as error:
        raise DataError(f"{printable(file)} cannot be read ({cut(error)}); train the run again") from error


def missing_tensors(file: Path) -> tuple[str, ...]:
    """Return the tensors that a model's file says it does not hold.

    Args:
        file: A ``model.safetensors``.

    Raises:
        DataError: It cannot be read, or says something else than names.
    """
    from safetensors import safe_open

    with _readable(file), safe_open(file, framework="pt") as opened:
        text = (opened.metadata() or {}).get(MISSING, "[]")
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{printable(file)} names its missing tensors as {shown(text)}; train the run again")
    return tuple(names)


def _method(title: str, config: Line) -> str:
    optimizer = stored_server_optimizer(config)
    return f"{title} + {optimizer}" if optimizer else title


def load_run(path: Path | str) -> StoredRun:
    """Read a run folder.

    Args:
        path: The folder; it needs ``ledger.jsonl`` and ``metrics.jsonl``, every other file may be missing.

    Returns:
        The run.

    Raises:
        DataError: There is no such folder, a file is missing, or a line is malformed, missing or one too many; the
            message names file and line.
    """
    path = expanded(path)
    where = printable(path)
    if not path.is_dir():
        raise DataError(f"there is no run folder {where}; give one that `fedlama run` or `fedlama compare` has written")
    config, summary = modernise(_object(path / "config.json"), ignore_renamed), _object(path / "summary.json")
    rounds = read_records(path, layers=_exists(path / "layers.jsonl"), summary=summary)
    if not rounds:
        raise DataError(f"the run in {where} has no whole round yet; wait for its first round")
    return StoredRun(path, config, summary, tuple(rounds))


def changed_files(path: Path) -> list[str]:
    """Return which files of a finished run were changed or removed after it had finished, one sentence each.

    Args:
        path: The run folder; before version 0.2 it did not hold the digests of its files.
    """
    if not (path / "summary.json").exists():
        return []
    try:
        digests = file_digests(read_object(path / "config.json"))
    except (OSError, DataError):
        return []
    return [
        f"{printable(path / name)} was changed or removed after the run had finished (its SHA-256 is not the one in "
        "config.json); `fedlama verify` shows the first difference"
        for name, digest in digests.items()
        if name in _DIGESTED and _digest(path / name) != digest
    ]


def _digest(path: Path) -> str | None:
    """Return the SHA-256 of a file; None when it cannot be read."""
    try:
        return file_digest(path)
    except (OSError, DataError):
        return None


def _exists(path: Path) -> bool:
    """Return whether there is something of that name, and be it a link to nothing."""
    return os.path.lexists(path)


def find_runs(paths: Iterable[Path | str] | Path | str, *, every: bool = False) -> list[Path]:
    """Return the run folders among and below some folders.

    Args:
        paths: Run folders, or folders that contain some. A folder with a ``comparison.json`` stands for the runs of its
            latest comparison, in their order; another one for all run folders below it, by name.
        every: Whether a folder stands for all run folders below it in any case.

    Returns:
        The run folders, each once.

    Raises:
        DataError: One of them is not a folder, or contains no run folder.
    """
    folders: dict[Path, None] = {}
    for path in map(expanded, [paths] if isinstance(paths, (str, Path)) else paths):
        if not path.is_dir():
            raise DataError(
                f"there is no folder {printable(path)}; give one that `fedlama run` or `fedlama compare` has written"
            )
        if (path / "metrics.jsonl").exists() or (path / "ledger.jsonl").exists():
            folders[path] = None
            continue
        below = ([] if every else _compared(path)) or _below(path)
        if not below:
            raise DataError(
                f"there is no run folder in {printable(path)} (no metrics.jsonl below it); train one with `fedlama run`"
            )
        folders.update(dict.fromkeys(below))
    return list(folders)


def left_out(paths: Iterable[Path], taken: Iterable[Path]) -> dict[Path, str]:
    """Return the run folders below some folders that are not among the ones taken, each with the reason.

    Args:
        paths: As for :func:`find_runs`.
        taken: What it returned, or the part of it that can be read.
    """
    known = {path.resolve() for path in taken}
    others = [folder for path in paths for folder in _below(path) if folder.resolve() not in known]
    return {folder: _reason(folder) for folder in dict.fromkeys(others)}


def left_out_sentences(left_out: Mapping[str, str]) -> Iterator[str]:
    """Yield one sentence for each reason for which run folders are left out, with their names.

    Args:
        left_out: Run folders, each with the reason.

    >>> list(left_out_sentences({"a": "no whole round yet", "b": "no whole round yet"}))
    ['2 run folders are left out (no whole round yet): a, b']
    """
    for reason in dict.fromkeys(left_out.values()):
        names = [printable(name) for name, why in left_out.items() if why == reason]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        what = "1 run folder is" if len(names) == 1 else f"{len(names)} run folders are"
        yield f"{what} left out ({reason}): {', '.join(names[:5])}{more}"


def _reason(folder: Path) -> str:
    if has_round(folder):
        return "not in the latest comparison, comparison.json; --all takes every run"
    return "no whole round yet"


def has_round(folder: Path) -> bool:
    """Return whether every file of a run folder has the line of a whole round.

    Args:
        folder: The run folder.
    """
    try:
        return all(count_lines(folder / f"{name}.jsonl")[0] for name in STREAMS[:2])
    except (OSError, DataError):
        return True  # reading it says what is wrong


def _below(folder: Path) -> list[Path]:
    """Return all run folders below a folder, by name."""
    return sorted(file.parent for file in folder.rglob("metrics.jsonl"))


def _compared(folder: Path) -> list[Path]:
    """Return the runs of a folder's latest comparison; none without one, or when its runs are elsewhere."""
    try:
        runs = _object(folder / "comparison.json").get("runs", [])
        paths = [folder / Path(str(run["run_folder"])).name for run in runs]
    except (DataError, TypeError, KeyError):
        return []
    return paths if all((path / "metrics.jsonl").exists() for path in paths) else []


def _object(path: Path) -> Line:
    """Return the JSON object in a file; an empty one when the file is missing."""
    try:
        return read_object(path)
    except FileNotFoundError:
        return {}
