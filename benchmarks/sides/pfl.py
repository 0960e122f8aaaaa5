"""pfl-research: its simulated backend and federated averaging, one process with all cores as it does by default."""

from __future__ import annotations

import types
from itertools import pairwise

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from benchmarks.clock import now
from benchmarks.workloads import Workload, loss


class _Clock(TrainingProcessCallback):
    """Stops when the time is over."""

    def __init__(self, seconds: float) -> None:
        self.stamps: list[float] = []
        self._seconds = seconds

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self.stamps.append(now())
        done = len(self.stamps) > 2 and self.stamps[-1] - self.stamps[0] > self._seconds
        return done, Metrics()


def _loss(self: nn.Module, inputs: Tensor, classes: Tensor, eval: bool = False) -> Tensor:
    self.train(not eval)
    return loss(self(inputs), classes)


def measure(workload: Workload, seconds: float) -> list[float]:
    """Time central iterations, the first left out."""
    module = workload.build()
    module.loss = types.MethodType(_loss, module)  # type: ignore[assignment]
    module.metrics = lambda *_, **__: {}  # type: ignore[assignment]
    x, y, rows = workload.data()
    users = [str(user) for user in range(workload.population)]
    rows_of = {user: torch.from_numpy(r) for user, r in zip(users, rows, strict=True)}
    data = {user: (x[r], y[r]) for user, r in rows_of.items()}
    federated = FederatedDataset(lambda user: Dataset(data[user]), get_user_sampler("minimize_reuse", users))
    model = PyTorchModel(
        module,
        lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=workload.momentum),
        torch.optim.SGD(module.parameters(), 1.0),
    )
    clock = _Clock(seconds)
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=1_000_000,
            evaluation_frequency=1_000_000_000,
            train_cohort_size=workload.cohort,
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(training_data=federated, val_data=None, postprocessors=[WeightByUser()]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=workload.learning_rate, local_batch_size=workload.batch
        ),
        callbacks=[clock],
    )
    return [after - before for before, after in pairwise(clock.stamps)]
