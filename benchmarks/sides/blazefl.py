"""BlazeFL on the benchmark of its paper, in an environment of its own.

``PYTHON -m benchmarks.sides.blazefl MODEL DEVICE PARALLEL [tiny]`` prints the seconds. Its threads run in parallel on a
free-threaded Python only; with a global lock, processes take their part. The clock is that of BlazeFL's own script:
rounds and evaluations, without what is built before.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from blazefl.contrib import FedAvgBaseServerHandler, FedAvgProcessPoolClientTrainer, FedAvgThreadPoolClientTrainer
from blazefl.reproducibility import setup_reproducibility
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.published import RATE, TINY, Sizes, build, data


class Selector:
    """Builds the model."""

    def select_model(self, model_name: str) -> torch.nn.Module:
        """Return a new model."""
        return build(model_name)


class Images:
    """The clients' images and the test set, all in memory."""

    def __init__(self, sizes: Sizes) -> None:
        (x, y), test = data(sizes)
        each = sizes.samples
        self._sets: dict[int | None, TensorDataset] = {None: TensorDataset(*test)}
        for client in range(sizes.clients):
            mine = slice(client * each, (client + 1) * each)
            self._sets[client] = TensorDataset(x[mine], y[mine])

    def get_dataset(self, type_: str, cid: int | None) -> TensorDataset:
        """Return the images of a client, or the test set."""
        return self._sets[cid]

    def set_dataset(self, type_: str, cid: int | None, dataset: TensorDataset) -> None:
        """Replace them."""
        self._sets[cid] = dataset

    def get_dataloader(
        self, type_: str, cid: int | None, batch_size: int | None, generator: torch.Generator | None = None
    ) -> DataLoader[Any]:
        """Return the batches of a client, or of the test set."""
        if cid is None:
            return DataLoader(self._sets[cid], 500)
        return DataLoader(self._sets[cid], batch_size, shuffle=True, generator=generator)


def measure(model: str, device: str, parallel: int, sizes: Sizes) -> dict[str, float | str]:
    """Run all rounds and return their seconds."""
    setup_reproducibility(0)
    images, selector = Images(sizes), Selector()
    shared = {"model_selector": selector, "model_name": model, "dataset": images, "device": device}
    shared |= {"num_clients": sizes.clients, "batch_size": sizes.batch, "seed": 0}
    local: dict[str, Any] = shared | {"epochs": sizes.epochs, "lr": RATE, "num_parallels": parallel}
    handler = FedAvgBaseServerHandler(global_round=sizes.rounds, sample_ratio=1.0, **shared)
    free = not getattr(sys, "_is_gil_enabled", lambda: True)()
    trainer = (
        FedAvgThreadPoolClientTrainer(**local)
        if free
        else FedAvgProcessPoolClientTrainer(state_dir=Path(tempfile.mkdtemp()), **local)
    )
    start = time.perf_counter()
    while not handler.if_stop():
        trainer.local_process(handler.downlink_package(), handler.sample_clients())
        for package in trainer.uplink_package():
            handler.load(package)
        handler.get_summary()
    if device == "cuda":
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - start, "mode": "threads" if free else "processes"}


if __name__ == "__main__":
    torch.multiprocessing.set_start_method("spawn")
    chosen = TINY if "tiny" in sys.argv else Sizes()
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), chosen)))
