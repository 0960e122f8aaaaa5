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
"""Name to what makes a tracker of a run folder, a project's name, a run's name and a configuration."""


def trackers(
    names: Iterable[str], folder: Path, project: str, name: str, config: Mapping[str, object]
) -> list[Tracker]:
    """Make the trackers of one run; nothing is written or sent before its first round.

    Args:
        names: Names in :data:`TRACKERS`; ``"none"`` stands for no tracker.
        folder: The run folder.
        project: Name of the experiment.
        name: Name of the run.
        config: The resolved configuration.

    Returns:
        One tracker per name.

    Raises:
        ConfigError: An unknown name.
        MissingExtraError: A library is not installed.
    """
    wanted = [one for one in dict.fromkeys(names) if one != "none"]
    unknown = [one for one in wanted if one not in TRACKERS]
    if unknown:
        raise ConfigError([f"there is no tracker {one!r}{did_you_mean(one, [*TRACKERS, 'none'])}" for one in unknown])
    return [TRACKERS[one](folder, project, name, config) for one in wanted]
