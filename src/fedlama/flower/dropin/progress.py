"""The server's side of an app's run between Flower's calls: fedlama's run, its folder, and where it goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from fedlama.choices.solvers import LocalSolver
from fedlama.choices.solvers.base import OptimizerState
from fedlama.core.records import Result, RoundRecord
from fedlama.errors import ConfigError
from fedlama.federation.federation import Federation
from fedlama.federation.run import Run
from fedlama.flower.deploy.compared import Compared, refuse_other_settings, summary_of
from fedlama.runs import Checkpoints, RunFolder, resume_point
from fedlama.runs.checkpoint import save_snapshot, write_atomically
from fedlama.runs.lock import FolderLock

METRICS = "flower.json"
"""Name of the file in a run folder with the metrics that Flower's aggregation functions returned, by round."""
_LOG = logging.getLogger("fedlama.flower")

RoundMetrics = dict[str, dict[str, Any]]
"""The aggregated metrics of a round: of ``"train"``, ``"evaluate"`` and ``"server"``, each where there were any."""


@dataclass(frozen=True)
class OwnTraining(LocalSolver):
    """Stands for what a ClientApp does, which the server does not know.

    Example:
        >>> OwnTraining().name
        'app'
    """

    name: ClassVar[str] = "app"
    learning_rate: float = 0.0

    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        decayed: Sequence[bool],
        reference: Sequence[Tensor],
    ) -> None:
        """Refuse.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("the ClientApp trains by itself; run this federation on Flower")


class Progress:
    """A run of an app, from round to round; close it at the end.

    Args:
        federation: The federation.
        path: The run folder; None to keep nothing.
        settings: What decides the result beside the federation; a folder with a run of others is refused.

    Attributes:
        run: The run, which goes on where the folder ends.
        records: The records of the rounds done.
        metrics: Their metrics, as Flower aggregated them.

    Raises:
        DataError: The folder has a run with other settings.
        FedlamaError: Another server writes to the folder.
    """

    def __init__(self, federation: Federation, path: Path | None, settings: Mapping[str, object]) -> None:
        self._stack, self._path = ExitStack(), path
        self._folder: RunFolder | None = None
        self._checkpoints: Checkpoints | None = None
        self.records: list[RoundRecord] = []
        self.metrics: list[RoundMetrics] = []
        self.run = Run(federation)
        if path is not None:
            with ExitStack() as guard:
                guard.push(self._stack)
                self._open(path, Compared(federation, settings))
                guard.pop_all()

    def _open(self, path: Path, compared: Compared) -> None:
        """Lock the folder, and go on where it ends."""
        lock = self._stack.enter_context(FolderLock(path))
        refuse_other_settings(path, compared)
        point = resume_point(path, compared, warn=_LOG.warning)
        if point:
            self.run.load_state_dict(*point)
            self.records = point[1]
            self.metrics = _stored_metrics(path / METRICS, len(self.records))
            _LOG.info("%s has %d rounds of this run; going on", path, len(self.records))
        folder = self._folder = self._stack.enter_context(
            RunFolder(path, compared.config, len(self.records), lock=lock)
        )
        run = self.run
        self._checkpoints = Checkpoints(
            folder, lambda target: save_snapshot(folder.sealed(run.state_dict()), target, keep=2), 0.0
        )

    def add(self, record: RoundRecord, metrics: RoundMetrics) -> None:
        """Note a round that is complete; from now on a run that is interrupted goes on after it.

        Args:
            record: Its record.
            metrics: Its metrics.
        """
        self.records.append(record)
        self.metrics.append(metrics)
        if self._folder is None or self._path is None or self._checkpoints is None:
            return
        write_atomically(self._path / METRICS, json.dumps(self.metrics).encode())
        self._folder.on_round(record)
        self._checkpoints.on_round(record)

    def finish(self) -> Result:
        """Write the model and the summary; return the result."""
        result = self.run.result(self.records)
        if self._folder is not None:
            self._folder.finish(result, summary_of(result))
        return result

    def close(self) -> None:
        """Close the folder."""
        self._stack.close()


def _stored_metrics(path: Path, rounds: int) -> list[RoundMetrics]:
    """Return the metrics of the rounds done; empty ones where the file cannot be read."""
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError):
        stored = []
    known = [each if isinstance(each, dict) else {} for each in stored[:rounds]] if isinstance(stored, list) else []
    return known + [{} for _ in range(rounds - len(known))]
