"""The run folder: the files of a run, in open formats, written while it trains.

==================  =================================================================================
file                content
==================  =================================================================================
config.json         the resolved configuration, what ran, versions and commit; see :mod:`fedlama.runs.configuration`
metrics.jsonl       one line per round: loss, metrics, bytes, seconds; see docs/reference/reports.md
ledger.jsonl        one line per round: every transfer, see :mod:`fedlama.core.ledger`
layers.jsonl        one line per round: interval, discrepancy and bytes of each layer
model.safetensors   the final global model; of a model with frozen parameters or local layers without these, which
                    ``missing`` in its metadata names
best.safetensors    with a validation set: the best global model by its primary metric
summary.json        the run's entry in `--json`
checkpoints/        until the run is finished: its state, see :mod:`fedlama.runs.checkpoint`
.lock               while a process writes to the folder: which one, see :mod:`fedlama.runs.lock`
*.png, *.svg, *.pdf accuracy over steps, rounds and MB, and the intervals of the layers over time
==================  =================================================================================

A run that stops early keeps all lines up to its last whole round. In the files a transfer is called a shipment, as in
the first version.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, TextIO

import torch
from safetensors.torch import save
from torch import Tensor

from fedlama.core.client_scores import ClientScores
from fedlama.core.records import Result, RoundRecord, Score
from fedlama.errors import FedlamaError, printable, write_remedy
from fedlama.federation.state import Snapshot
from fedlama.runs.checkpoint import write_atomically
from fedlama.runs.configuration import version
from fedlama.runs.files import lines_digest
from fedlama.runs.lock import FolderLock
from fedlama.runs.reader import FILES, MISSING, STREAMS

LINES = "lines"
"""Key in a checkpoint's facts: for each file with one line per round, the SHA-256 of its lines so far."""


class RunFolder:
    """Writes the files of a run; use it as a context manager and as a callback.

    Args:
        path: The folder; made if it does not exist. Files of an earlier run in it are replaced.
        config: The configuration, as plain JSON types.
        rounds: Number of rounds that the folder holds already and that are kept.
        lock: The folder's lock when the caller holds it; by default the folder is locked until it is closed.

    Raises:
        FedlamaError: The folder cannot be written, or another process writes to it.
    """

    def __init__(
        self, path: Path, config: Mapping[str, object], rounds: int = 0, *, lock: FolderLock | None = None
    ) -> None:
        self.path = path
        self._lock = FolderLock(path) if lock is None else None
        self._files: dict[str, TextIO] = {}
        self._digests = {name: hashlib.sha256() for name in STREAMS}
        try:
            for leftover in (
                "summary.json",
                "model.safetensors",
                "best.safetensors",
                *(file.name for ending in ("png", "svg", "pdf") for file in path.glob(f"*.{ending}")),
            ):
                (path / leftover).unlink(missing_ok=True)
            if not rounds:
                shutil.rmtree(path / "checkpoints", ignore_errors=True)
                self._write("config.json", {**config, "environment": environment()})
            else:
                self._forget_digests()
            for name in STREAMS:
                stream = path / f"{name}.jsonl"
                if rounds:
                    self._digests[name] = lines_digest(stream, rounds, cut=True)
                self._files[name] = _open(stream, "a" if rounds else "w")
        except OSError as error:
            self.__exit__(None, None, None)
            raise _unwritable(path, error) from error

    def __enter__(self) -> RunFolder:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files and release the lock."""
        for file in self._files.values():
            file.close()
        if self._lock is not None:
            self._lock.release()

    def on_round(self, record: RoundRecord) -> None:
        """Append a line to every file.

        Raises:
            FedlamaError: The folder cannot be written.
        """
        self._line("metrics", metrics_line(record))
        self._line(
            "ledger", {"round": record.round_index, "shipments": [transfer.to_json() for transfer in record.transfers]}
        )
        self._line(
            "layers",
            {"round": record.round_index, "layers": {name: asdict(layer) for name, layer in record.layers.items()}},
        )

    def flush(self) -> None:
        """Flush all lines to the disk, so that a power cut does not lose them.

        Raises:
            FedlamaError: The folder cannot be written.
        """
        try:
            for file in self._files.values():
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def sealed(self, snapshot: Snapshot) -> Snapshot:
        """Return a run's state together with a digest of the lines so far, for a checkpoint.

        Args:
            snapshot: The state of the run after the round of the last line.
        """
        lines = {name: digest.hexdigest() for name, digest in self._digests.items()}
        return replace(snapshot, facts={**snapshot.facts, LINES: lines})

    def finish(
        self,
        result: Result,
        summary: Mapping[str, object],
        untrained: Collection[str] = (),
        *,
        keep_checkpoints: bool = False,
    ) -> None:
        """Write the model and the summary, and delete the checkpoints.

        Args:
            result: The finished run.
            summary: The run's entry in ``--json``.
            untrained: Tensors of the model that are not written, such as a frozen base: the files name them instead.
            keep_checkpoints: Leave them, so that the run can be taken back to an earlier round.

        Raises:
            FedlamaError: The folder cannot be written.
        """
        models = {"model": result.model} | ({} if result.best is None else {"best": result.best.model})
        try:
            digests = {f"{name}.jsonl": digest.hexdigest() for name, digest in self._digests.items()}
            for name, model in models.items():
                content = _saved(model, untrained)
                write_atomically(self.path / f"{name}.safetensors", content)
                digests[f"{name}.safetensors"] = hashlib.sha256(content).hexdigest()
            config = json.loads((self.path / "config.json").read_bytes())  # of this run, or its beginning
            digests["summary.json"] = hashlib.sha256(_json(summary)).hexdigest()
            self._write("config.json", {**config, "environment": {**config.get("environment", {}), FILES: digests}})
            self._write("summary.json", summary)  # last: it says that the run has finished
            if not keep_checkpoints:
                shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _forget_digests(self) -> None:
        """Remove the digests of a run that had finished and is continued: its files change."""
        try:
            config = json.loads((self.path / "config.json").read_bytes())
        except ValueError:  # it is not what was written; its readers say so
            return
        kept = {name: value for name, value in config.get("environment", {}).items() if name != FILES}
        if kept != config.get("environment", {}):
            self._write("config.json", {**config, "environment": kept})

    def _line(self, name: str, record: Mapping[str, object]) -> None:
        try:
            line = json.dumps(record) + "\n"
            self._files[name].write(line)
            self._files[name].flush()
            self._digests[name].update(line.encode())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _write(self, name: str, content: Mapping[str, object]) -> None:
        write_atomically(self.path / name, _json(content))


def _saved(model: Mapping[str, Tensor], untrained: Collection[str]) -> bytes:
    # safetensors refuses tensors that share memory; contiguous clones never do.
    trained = {name: value for name, value in model.items() if name not in untrained}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in trained.items()}
    left_out = {MISSING: json.dumps([name for name in model if name in untrained])} if len(trained) < len(model) else {}
    return save(tensors, metadata={"format": "pt", **left_out})


def _json(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _open(path: Path, mode: Literal["a", "w"]) -> TextIO:
    """Open a file for writing; on all systems a line ends with a line feed alone."""
    if path.exists() and not path.is_file() and not path.is_dir():  # opening a pipe would block
        raise OSError(errno.EEXIST, "it is not a regular file", str(path))
    return path.open(mode, encoding="utf-8", newline="\n")


def _unwritable(path: Path, error: OSError) -> FedlamaError:
    return FedlamaError(f"the run folder {printable(path)} cannot be written ({error.strerror}); {write_remedy(error)}")


def metrics_line(record: RoundRecord) -> dict[str, object]:
    """Return the line of metrics.jsonl of a round.

    Args:
        record: The record of the round.
    """
    unequal = {"client_steps": {str(client): steps for client, steps in record.client_steps.items()}}
    return {
        "round": record.round_index,
        "local_steps": record.local_steps,
        "clients": len(record.cohort),
        "missing": list(record.missing),
        "train_loss": finite(record.loss),
        "accuracy": _finite_accuracy(record.score),
        "test_loss": finite(record.score.loss) if record.score else None,
        **score_keys(record.score),
        **({} if record.validation is None else {"validation": score_json(record.validation)}),
        **({} if record.client_scores is None else {"client_scores": client_scores_json(record.client_scores)}),
        "bytes_up": record.bytes_up,
        "bytes_down": record.bytes_down,
        "seconds": record.seconds,
        "evaluation_seconds": record.evaluation_seconds,
    } | (unequal if record.client_steps else {})


def score_keys(score: Score | None) -> dict[str, object]:
    """Return what metrics.jsonl and summary.json say of a score beside accuracy and loss, which have keys of their own.

    Args:
        score: The score.
    """
    if score is None:
        return {"metrics": {}, "primary": None, "direction": None}
    values = {name: finite(value) for name, value in score.metrics.items() if name != "accuracy"}
    return {"metrics": values, "primary": score.primary, "direction": score.direction}


def _finite_accuracy(score: Score | None) -> float | None:
    return None if score is None or score.accuracy is None else finite(score.accuracy)


def score_json(score: Score) -> dict[str, object]:
    """Return a score as plain JSON types, its accuracy among its metrics.

    Args:
        score: The score.
    """
    metrics = {name: finite(value) for name, value in score.metrics.items()}
    weight = {"weight": score.weight} if score.weight else {}
    return {
        "loss": finite(score.loss),
        "metrics": metrics,
        "primary": score.primary,
        "direction": score.direction,
        **weight,
    }


def client_scores_json(scores: ClientScores) -> dict[str, object]:
    """Return the scores of single clients as plain JSON types.

    Args:
        scores: The scores.
    """
    parts = {"global": scores.global_model, "own": scores.own_model}
    return {name: {str(client): score_json(score) for client, score in part.items()} for name, part in parts.items()}


def decision_keys(result: Result) -> dict[str, object]:
    """Return what summary.json says of single clients, the best model and a stop, each where it applies.

    Args:
        result: The run.
    """
    keys: dict[str, object] = {}
    if result.client_scores is not None:
        keys["client_scores"] = {name: spread.to_json() for name, spread in result.client_scores.spreads().items()}
        if result.client_scores.pooled is not None:
            keys["pooled"] = score_json(result.client_scores.pooled)
    if result.best is not None:
        keys["best"] = {"round": result.best.round_index, "validation": score_json(result.best.score)}
    if result.stopped is not None:
        keys["stopped"] = result.stopped
    if result.figures:
        keys["figures"] = {label: finite(value) for label, value in result.figures.items()}
    return keys


def finite(value: float) -> float | None:
    """Return a number, or None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def environment() -> dict[str, object]:
    """Return versions, platform, number of threads and commit; None for what is not known."""
    libraries = ("fedlama", "torch", "numpy", "numba", "pydantic", "safetensors")
    return {
        "versions": {"python": platform.python_version(), **{library: version(library) for library in libraries}},
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Return the commit of the checkout that contains this file; None for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        described = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", __file__],
            capture_output=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None if described.returncode == 0 and tracked.returncode == 0 else None
