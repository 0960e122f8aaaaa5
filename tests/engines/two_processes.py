"""One process of the distributed test, under torchrun: ``python -m tests.engines.two_processes OUTPUT INNER``."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from torch import distributed

from fedlama import (
    LBGM,
    SGD,
    AdamW,
    AllClients,
    Clipping,
    FedAvg,
    FedDyn,
    FedLDF,
    FedLP,
    LocalWork,
    MimeLAMB,
    ParameterGroup,
    Scaffold,
    Schedule,
    ServerFedDyn,
)
from fedlama.engines import Distributed, LoopEngine, Stacked
from tests.codecs.cases import CODECS
from tests.engines.cases import dataset_clients, run

_CODECS = [*(codec for codec in CODECS if codec.name in ("differences", "top-k", "directions")), LBGM(0.5)]
CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "training settings": {
        "solver": AdamW(
            0.01,
            epsilon=1e-3,
            schedule=Schedule("cosine"),
            clipping=Clipping(norm=0.5),
            groups=(ParameterGroup("*.bias", rate_factor=0.5),),
        ),
        "local_work": LocalWork(epochs=1, limits={1: 2}, straggler_share=0.3),
        "micro_batch_size": 3,
    },
    "data sets with random samples": {"clients": dataset_clients()},
    "control variates": {"solver": Scaffold(0.05, state_scope="cohort")},
    "full gradients": {"solver": MimeLAMB(0.01, epsilon=1e-3, weight_decay=0.1, state_scope="cohort")},
    "dynamic regularisation": {
        "strategy": FedAvg(2),
        "solver": FedDyn(0.05, state_scope="cohort"),
        "server_optimizer": ServerFedDyn(),
    },
    "the furthest clients": {"strategy": FedLDF(2, senders=1)},
    "layers kept at random": {"strategy": FedLP(2, keep=0.3)},
    "fednova": {
        "strategy": FedAvg(2),
        "solver": SGD(0.05),
        "weighting": "fednova",
        "local_work": LocalWork(epochs=1, straggler_share=0.3),
    },
    **{repr(codec): {"codec": codec, "sampler": AllClients()} for codec in _CODECS},
}
"""Changes of the small federation."""


def main(output: str, both: bool) -> None:
    """Run all cases, with both inner engines or with them in turn."""
    torch.set_num_threads(1)
    inner: tuple[Any, ...] = (Stacked(), LoopEngine)
    results = {
        case: [run(Distributed(inner[number % 2]), **CASES[case]) for number in ((0, 1) if both else (index,))]
        for index, case in enumerate(CASES)
    }
    if os.environ["RANK"] == "0":
        torch.save(results, output)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], both=sys.argv[2] == "both")
