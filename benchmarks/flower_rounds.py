"""Seconds per round and CPU seconds per order of a deployment with next to no training, beside stock Flower's FedAvg.

It needs Linux and the extra ``flower``::

    python -m benchmarks.flower_rounds --out /tmp/rounds

Two deployments on this machine, one after the other, each with its own SuperLink and the same number of nodes: ours
with `fedlama flower node` and FedAvg of this package, and Flower's own `flower-supernode` with its FedAvg and an app
that takes one step with PyTorch. Both send a small dense model in full in every round. A round's time is that between
the ends of two rounds, so the first round, in which all processes start, does not count. CPU seconds are those of the
nodes' processes over the same rounds, divided by the orders. The goals are a median of 3 s a round and 0.3 CPU seconds
an order.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from importlib.metadata import version
from pathlib import Path

from fedlama.experiment import read, resolve
from fedlama.flower.deploy.processes import Services, program
from fedlama.flower.deploy.submit import Operator, run_config, write_app, write_connection

LONGEST = 900.0  # seconds of a run
GOAL_SECONDS, GOAL_CPU = 3.0, 0.3
_TICKS = os.sysconf("SC_CLK_TCK")
_PROJECT = """\
[project]
name = "stock-app"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "stock_app.server_app:app"
clientapp = "stock_app.client_app:app"

[tool.flwr.app.config]
rounds = 5
out = ""
"""
_MODEL = '''"""A dense model of the size of ours."""

import torch
from torch import nn


def model() -> nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
'''
_CLIENT = '''"""One step of SGD on random numbers."""

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.nn.functional import cross_entropy

from stock_app.task import model

app = ClientApp()


@app.train()
def train(message, context):
    net = model()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loss = cross_entropy(net(torch.randn(32, 64)), torch.randint(0, 10, (32,)))
    loss.backward()
    torch.optim.SGD(net.parameters(), lr=0.01).step()
    metrics = MetricRecord({"loss": float(loss), "num-examples": 32})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)
'''
_SERVER = '''"""Flower's FedAvg, which notes when each round ended."""

import time
from pathlib import Path

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from stock_app.task import model

app = ServerApp()


@app.main()
def main(grid, context):
    out = Path(context.run_config["out"])

    def ended(server_round, arrays):
        with out.open("a") as file:
            file.write(f"{time.time()}\\n")
        return MetricRecord({})

    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0)
    rounds = int(context.run_config["rounds"])
    strategy.start(grid, ArrayRecord(model().state_dict()), num_rounds=rounds, evaluate_fn=ended)
    out.with_suffix(".done").touch()
'''


def main() -> None:
    """Run both, and print one JSON object with the goals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12, help="of ours; 0 leaves it out")
    parser.add_argument("--stock-rounds", type=int, default=5, help="of Flower's FedAvg; 0 leaves it out")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    out: Path = given.out.resolve()
    versions = {name: version(name) for name in ("fedlama", "flwr", "torch")}
    print(json.dumps({"versions": versions, "nodes": given.nodes, "load": os.getloadavg(), "cores": os.cpu_count()}))
    measured: dict[str, dict[str, float]] = {}
    for name, warm, rounds in (("ours", True, given.rounds), ("stock", False, given.stock_rounds)):
        if rounds:
            measured[name] = Deployment(out / name, given.nodes, warm=warm).measured(rounds)
            print(json.dumps({name: measured[name], "load": os.getloadavg()}), flush=True)
    if "ours" in measured:
        ours = measured["ours"]
        print(json.dumps({"goals reached": [ours["seconds"] <= GOAL_SECONDS, ours["cpu"] <= GOAL_CPU]}))
    if len(measured) == 2:
        ratio = {key: round(measured["stock"][key] / measured["ours"][key], 1) for key in ("seconds", "cpu")}
        print(json.dumps({"ratio": ratio}))


class Deployment:
    """A SuperLink and nodes.

    Args:
        folder: For everything.
        nodes: Number of nodes.
        warm: Whether it is ours.
    """

    def __init__(self, folder: Path, nodes: int, *, warm: bool) -> None:
        self._folder, self._nodes, self._warm = folder, nodes, warm
        self._services = Services(folder / "services", database=False)

    def measured(self, rounds: int) -> dict[str, float]:
        """Run a number of rounds, and return the median of their seconds, the range, and CPU seconds per order."""
        with self._services as services:
            services.start_link()
            write_connection(services.folder / "home-operator", "here", f"127.0.0.1:{services.port}")
            for number in range(self._nodes):
                services.start_node(number, warm=self._warm)
            operator = Operator(program("flwr"), "here", services.environment("operator"))
            app, config = self._folder / "app", self._folder / "run.toml"
            (self._write_ours if self._warm else self._write_stock)(app, config, rounds)
            operator.submit(app, config)
            before, counted = None, 0
            limit = time.monotonic() + LONGEST
            while len(self._ends()) < rounds and time.monotonic() < limit:
                if before is None and self._ends():
                    counted, before = len(self._ends()), self._cpu()
                time.sleep(0.05)
            after = self._cpu()
        ends = self._ends()
        seconds = [later - sooner for sooner, later in itertools.pairwise(ends)]
        orders = self._nodes * (len(ends) - counted)
        return {
            "seconds": round(statistics.median(seconds), 2),
            "fastest": round(min(seconds), 2),
            "slowest": round(max(seconds), 2),
            "cpu": round((after - (before or 0.0)) / orders, 3),
            "rounds": len(seconds),
        }

    def _write_ours(self, app: Path, config: Path, rounds: int) -> None:
        write_app(app)
        sizes = [f"partition.clients={self._nodes}", f"local_steps={rounds}", "strategy.base_interval=1"]
        experiment = resolve(read("digits", ["engine=loop", "strategy.name=fedavg", *sizes]))
        options: dict[str, str | float] = {"out": str(self._folder / "runs"), "min-replies": 1.0}
        config.write_text(run_config(experiment, options), encoding="utf-8")

    def _write_stock(self, app: Path, config: Path, rounds: int) -> None:
        package = app / "stock_app"
        package.mkdir(parents=True, exist_ok=True)
        (app / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
        files = {"__init__": "", "task": _MODEL, "client_app": _CLIENT, "server_app": _SERVER}
        for name, content in files.items():
            (package / f"{name}.py").write_text(content, encoding="utf-8")
        text = f"rounds = {rounds}\nout = {json.dumps(str(self._folder / 'ends.txt'))}\n"
        config.write_text(text, encoding="utf-8")

    def _ends(self) -> list[float]:
        """Return when the rounds so far ended."""
        if not self._warm:
            file = self._folder / "ends.txt"
            lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
            return [float(line) for line in lines[1:]]  # Flower calls evaluate_fn before the first round, too
        logs = self._folder.rglob("network.jsonl")
        lines = [line for log in logs for line in log.read_text(encoding="utf-8").splitlines()]
        return [float(json.loads(line)["ended"]) for line in lines]

    def _cpu(self) -> float:
        """Return the CPU seconds of the nodes' processes so far, those included that have ended."""
        roots = [process.pid for name, process in self._services.processes.items() if name.startswith("node")]
        return sum(map(cpu_of, roots))


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process, its children that run, and all that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        spent = sum(int(ticks) for ticks in fields[11:15]) / _TICKS
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return 0.0
    return spent + sum(map(cpu_of, children))


if __name__ == "__main__":
    main()
