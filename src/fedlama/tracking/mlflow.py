"""MLflow, through the extra ``fedlama[mlflow]``.

Runs go where MLFLOW_TRACKING_URI says, and without it into ``mlflow.db`` in the folder of the run folders; look at
it with ``mlflow ui --backend-store-uri sqlite:///runs/mlflow.db``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fedlama.errors import FedlamaError, MissingExtraError
from fedlama.records import RoundRecord
from fedlama.tracking.base import Scalars, flat

_LONGEST = 500  # characters of a parameter's value that every backend takes


class MLflow:
    """Reports a run to MLflow; use it as a context manager and as a callback.

    Args:
        folder: The run folder; its parent's parent holds the local database.
        project: Name of the experiment.
        name: Name of the run.
        config: The resolved configuration.

    Raises:
        MissingExtraError: The library is not installed.
    """

    def __init__(self, folder: Path, project: str, name: str, config: Mapping[str, object]) -> None:
        try:
            self._library: Any = import_module("mlflow")
        except ImportError as error:
            raise MissingExtraError("mlflow", "mlflow") from error
        self._store = folder.parent.parent / "mlflow.db"
        self._project, self._name, self._config = project, name, flat(config)
        self._scalars = Scalars()
        self._client: Any = None
        self._run = ""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run, as failed when it broke off."""
        if self._client is not None:
            self._client.set_terminated(self._run, "FINISHED" if kind is None else "FAILED")

    def on_round(self, record: RoundRecord) -> None:
        """Log the round's numbers at its local step.

        Raises:
            FedlamaError: The store does not answer.
        """
        try:
            if self._client is None:
                self._begin()
            metric = self._library.entities.Metric
            when = self._library.utils.time.get_current_time_millis()
            numbers = self._scalars.of(record)
            self._client.log_batch(
                self._run, metrics=[metric(name, value, when, record.local_steps) for name, value in numbers.items()]
            )
        except Exception as error:
            raise FedlamaError(
                f"mlflow does not take the run ({error}); check MLFLOW_TRACKING_URI, or use --track none"
            ) from error

    def _begin(self) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self._store.absolute()}"
        self._client = self._library.MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(self._project)
        experiment = known.experiment_id if known else self._client.create_experiment(self._project)
        self._run = self._client.create_run(experiment, run_name=self._name).info.run_id
        parameter = self._library.entities.Param
        parameters = [parameter(key, str(value)[:_LONGEST]) for key, value in self._config.items()]
        self._client.log_batch(self._run, params=parameters)
