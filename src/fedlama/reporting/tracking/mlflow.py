"""MLflow, through the extra ``fedlama[mlflow]``.

Runs are sent to MLFLOW_TRACKING_URI, and without it written to ``mlflow.db`` in the folder of the run folders. The
extra is only the client; the full MLflow shows the runs with
``mlflow ui --backend-store-uri sqlite:///runs/mlflow.db``.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

from fedlama.core.records import RoundRecord
from fedlama.errors import FedlamaError
from fedlama.reporting.tracking.base import RemoteTracker

_LONGEST = 500  # characters of a parameter's value that every backend takes


class MLflow(RemoteTracker):
    """Tracks a run with MLflow; the local database is in the folder of all runs, two levels above the run folder."""

    library_name = "mlflow"
    _client: Any = None
    _run = ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run, as failed if it ended with an error."""
        if self._client is not None:
            self._client.set_terminated(self._run, "FINISHED" if kind is None else "FAILED")

    def on_round(self, record: RoundRecord) -> None:
        """Log the round's numbers at its local step.

        Raises:
            FedlamaError: The store refuses the numbers, or does not answer.
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
                f"mlflow cannot store the run ({error}); check MLFLOW_TRACKING_URI, or use --track none"
            ) from error

    def _begin(self) -> None:
        store = self._folder.parent.parent / "mlflow.db"
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.absolute()}"
        self._client = self._library.MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(self._project)
        experiment = known.experiment_id if known else self._client.create_experiment(self._project)
        self._run = self._client.create_run(experiment, run_name=self._name).info.run_id
        parameter = self._library.entities.Param
        parameters = [parameter(key, str(value)[:_LONGEST]) for key, value in self._config.items()]
        self._client.log_batch(self._run, params=parameters)
