"""Flower's simulation on the benchmark of BlazeFL's paper, in an environment of its own.

``PYTHON -m benchmarks.sides.flower_published MODEL DEVICE PARALLEL [tiny]`` prints the seconds from the start of the
strategy to its end: rounds and evaluations, without the start of Ray.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.nn import functional

from benchmarks.published import RATE, TINY, Sizes, build, data


def measure(model: str, device: str, parallel: int, sizes: Sizes) -> dict[str, float | str]:
    """Run all rounds on some actors at a time, and return the seconds."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    client, server, taken = ClientApp(), ServerApp(), []
    (x, y), test = data(sizes)  # captured by the actors, so that no client has to load anything

    @client.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(max((os.cpu_count() or 1) // parallel, 1))
        first = int(context.node_config["partition-id"]) * sizes.samples
        net = build(model).to(device).train()
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimiser = torch.optim.SGD(net.parameters(), RATE)
        mine = x[first : first + sizes.samples].to(device), y[first : first + sizes.samples].to(device)
        for _ in range(sizes.epochs):
            for part in torch.randperm(sizes.samples, device=device).split(sizes.batch):
                optimiser.zero_grad()
                functional.cross_entropy(net(mine[0][part]), mine[1][part]).backward()
                optimiser.step()
        metrics = MetricRecord({"num-examples": sizes.samples})
        return Message(
            content=RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message
        )

    @server.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's signature
        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
            net = build(model).to(device).eval()
            net.load_state_dict(arrays.to_torch_state_dict())
            with torch.no_grad():
                parts = zip(test[0].split(500), test[1].split(500), strict=True)
                right = sum(int((net(a.to(device)).argmax(1).cpu() == b).sum()) for a, b in parts)
            return MetricRecord({"round": server_round, "right": right})

        strategy = FedAvg(
            fraction_train=1.0,
            fraction_evaluate=0.0,
            min_train_nodes=sizes.clients,
            min_available_nodes=sizes.clients,
        )
        start = time.perf_counter()
        arrays = ArrayRecord(build(model).state_dict())
        strategy.start(grid=grid, initial_arrays=arrays, num_rounds=sizes.rounds, evaluate_fn=evaluate)
        taken.append(time.perf_counter() - start)

    share = 1 / parallel if device == "cuda" else 0.0
    resources = {"client_resources": {"num_cpus": max((os.cpu_count() or 1) / parallel, 1), "num_gpus": share}}
    run_simulation(server, client, num_supernodes=sizes.clients, backend_config=resources)
    return {"seconds": taken[0], "mode": "Ray actors"}


if __name__ == "__main__":
    chosen = TINY if "tiny" in sys.argv else Sizes()
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), chosen)))
