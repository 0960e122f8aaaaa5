"""Weights & Biases, through the extra ``fedlama[wandb]``.

Its own settings apply: log in beforehand, or set WANDB_MODE=offline and send the run later with ``wandb sync``.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from fedlama.core.records import RoundRecord
from fedlama.errors import FedlamaError
from fedlama.reporting.tracking.base import RemoteTracker


class WeightsAndBiases(RemoteTracker):
    """Tracks a run with Weights & Biases; the library writes its files into the run folder."""

    library_name = "wandb"
    _run: Any = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run, as failed if it ended with an error."""
        if self._run is not None:
            self._run.finish(exit_code=0 if kind is None else 1)

    def on_round(self, record: RoundRecord) -> None:
        """Log the round's numbers at its local step.

        Raises:
            FedlamaError: The library refuses, for instance without a login.
        """
        if self._run is None:
            self._run = self._begin()
        self._run.log(self._scalars.of(record), step=record.local_steps)

    def _begin(self) -> Any:  # noqa: ANN401  (the library's own type)
        try:
            return self._library.init(
                project=self._project, name=self._name, config=self._config, dir=str(self._folder), reinit="create_new"
            )
        except Exception as error:
            raise FedlamaError(
                f"wandb cannot start a run ({error}); call `wandb login`, set WANDB_MODE=offline, or use --track none"
            ) from error
