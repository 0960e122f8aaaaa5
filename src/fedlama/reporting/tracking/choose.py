"""Trackers by name, as the command line's ``--track`` takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from fedlama.errors import ConfigError, did_you_mean
from fedlama.reporting.tracking.base import Tracker
from fedlama.reporting.tracking.mlflow import MLflow
from fedlama.reporting.tracking.tensorboard import TensorBoard
from fedlama.reporting.tracking.wandb import WeightsAndBiases

Maker = Callable[[Path, str, str, Mapping[str, object]], Tracker]

TRACKERS: Final[Mapping[str, Maker]] = {
    "tensorboard": lambda folder, _project, _name, _config: TensorBoard(folder / "tensorboard"),
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}
"""Functions that make a tracker from a run folder, a project's name, a run's name and a configuration, by name."""


def trackers(
    names: Iterable[str], folder: Path, project: str, name: str, config: Mapping[str, object]
) -> list[Tracker]:
    """Make the trackers of one run; they write and send nothing before its first round.

    Args:
        names: Names in :data:`TRACKERS`; ``"none"`` is ignored.
        folder: The run folder.
        project: Name of the experiment.
        name: Name of the run.
        config: The configuration of the run.

    Returns:
        One tracker for each different name.

    Raises:
        ConfigError: An unknown name.
        MissingExtraError: A library is not installed.
    """
    wanted = [tracker for tracker in dict.fromkeys(names) if tracker != "none"]
    problems = [
        f"there is no tracker {tracker!r}{did_you_mean(tracker, [*TRACKERS, 'none'])}"
        for tracker in wanted
        if tracker not in TRACKERS
    ]
    if problems:
        raise ConfigError(problems)
    return [TRACKERS[tracker](folder, project, name, config) for tracker in wanted]
