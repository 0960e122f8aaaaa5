"""Flower's simulation: a ServerApp with FedAvg and a ClientApp on Ray actors, one core each."""

from __future__ import annotations

import logging
from itertools import pairwise

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.clock import now
from benchmarks.workloads import Workload, loss


def measure(workload: Workload, seconds: float) -> list[float]:
    """Time rounds: the clock between two calls of the server's evaluation function, the first round left out."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    stamps: list[float] = []
    rounds = 3
    while True:
        stamps.clear()
        _simulate(workload, rounds, stamps)
        taken = [after - before for before, after in pairwise(stamps[1:])]
        if sum(taken) >= seconds or rounds >= 24:
            return taken
        rounds = min(24, int(rounds * max(2.0, 1.3 * seconds / sum(taken))))


def _simulate(workload: Workload, rounds: int, stamps: list[float]) -> None:
    client = ClientApp()
    x, y, rows = workload.data()  # captured by the actors, so that no client has to load anything

    @client.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        mine = torch.tensor(rows[int(context.node_config["partition-id"])])
        model = workload.build().train()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimiser = torch.optim.SGD(model.parameters(), workload.learning_rate, momentum=workload.momentum)
        order = mine[torch.randperm(len(mine))]
        for part in order.split(workload.batch):
            optimiser.zero_grad()
            loss(model(x[part]), y[part]).backward()
            optimiser.step()
        metrics = MetricRecord({"num-examples": len(mine)})
        return Message(
            content=RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message
        )

    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's signature
        def stamp(server_round: int, arrays: ArrayRecord) -> MetricRecord:  # noqa: ARG001
            stamps.append(now())
            return MetricRecord({"round": server_round})

        strategy = FedAvg(
            fraction_train=workload.cohort / workload.population,
            fraction_evaluate=0.0,
            min_train_nodes=workload.cohort,
            min_available_nodes=workload.population,
        )
        arrays = ArrayRecord(workload.build().state_dict())
        strategy.start(grid=grid, initial_arrays=arrays, num_rounds=rounds, evaluate_fn=stamp)

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, client, num_supernodes=workload.population, backend_config=resources)
