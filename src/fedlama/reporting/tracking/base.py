"""What all trackers have in common: they get the settings once, and the same numbers in every round."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from fedlama.core.ledger import MEGABYTE
from fedlama.core.records import RoundRecord
from fedlama.errors import MissingExtraError

_OWN_KEYS = ("version", "model", "layers", "engine")
"""Keys of a description that a configuration uses for something else, or that say nothing new."""


class Tracker(Protocol):
    """A callback that is also a context manager; nothing is opened before the first round."""

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what was opened; `kind` is None unless the run ended with an error."""

    def on_round(self, record: RoundRecord) -> None:
        """Track the numbers of a round."""


class Scalars:
    """Turns rounds into named numbers; bytes are summed since round 0.

    The names are the same for every tracker: ``train/loss``, ``test/loss``, ``test/METRIC`` for each metric of the
    task, such as ``test/accuracy``, ``megabytes/up``, ``megabytes/down`` (since round 0), ``seconds/round``,
    ``interval/LAYER`` and ``discrepancy/LAYER``.
    """

    def __init__(self) -> None:
        self._up = self._down = 0

    def of(self, record: RoundRecord) -> dict[str, float]:
        """Return the numbers of a round; call it for every round in order.

        Args:
            record: The record of the round.
        """
        self._up += record.bytes_up
        self._down += record.bytes_down
        numbers = {
            "train/loss": record.loss,
            "megabytes/up": self._up / MEGABYTE,
            "megabytes/down": self._down / MEGABYTE,
            "seconds/round": record.seconds,
        }
        if record.score:
            numbers["test/loss"] = record.score.loss
            numbers |= {f"test/{name}": value for name, value in record.score.metrics.items()}
        for name, layer in record.layers.items():
            numbers[f"interval/{name}"] = float(layer.interval)
            if layer.unit_discrepancy is not None:
                numbers[f"discrepancy/{name}"] = layer.unit_discrepancy
        return numbers


def flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Flatten a configuration to dotted keys, as trackers show them.

    What ran (``in_force``) replaces what was set; versions, and the list of the layers, are left out.

    Args:
        settings: A configuration as ``config.json`` holds it, or the description of a federation.
        prefix: Put before every key.

    >>> flat({"seed": 0, "weighting": "samples", "data": {"name": "digits"}, "in_force": {"weighting": "equal"}})
    {'seed': 0, 'weighting': 'equal', 'data.name': 'digits'}
    """
    from fedlama.runs.reader import ADDED  # not above: it loads pydantic, which `fedlama --help` does without

    ran = settings.get("in_force")
    choices = ran if isinstance(ran, Mapping) and not prefix else {}
    merged = {**settings, **{key: value for key, value in choices.items() if key not in _OWN_KEYS}}
    flattened: dict[str, object] = {}
    for key, value in merged.items():
        if isinstance(value, Mapping) and key not in ADDED:
            flattened |= flat(value, f"{prefix}{key}.")
        elif not isinstance(value, Mapping):
            flattened[prefix + key] = value
    return flattened


class RemoteTracker:
    """A tracker that needs an optional library; the extra has the same name as the library.

    Args:
        folder: The run folder.
        project: Name of the experiment.
        name: Name of the run.
        config: The configuration, as :func:`flat` takes it.

    Raises:
        MissingExtraError: The library is not installed.
    """

    library_name: str

    def __init__(self, folder: Path, project: str, name: str, config: Mapping[str, object]) -> None:
        try:
            self._library: Any = import_module(self.library_name)
        except ImportError as error:
            raise MissingExtraError(self.library_name, self.library_name) from error
        self._folder, self._project, self._name, self._config = folder, project, name, flat(config)
        self._scalars = Scalars()

    def __enter__(self) -> Self:
        """Return itself."""
        return self
