"""What trackers with a server of their own share: the library, looked up when asked for, and the run's description."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from fedlama.errors import MissingExtraError
from fedlama.tracking.base import Scalars, flat


class RemoteTracker:
    """A tracker behind an optional library, whose extra is called as the library is.

    Args:
        folder: The run folder.
        project: Name of the experiment.
        name: Name of the run.
        config: The resolved configuration.

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
