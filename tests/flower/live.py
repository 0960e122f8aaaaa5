"""A real deployment on loopback: SuperLink, byte counter and SuperNodes, each its own process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from fedlama.experiment import Experiment, read, resolve
from fedlama.flower.deploy.byte_counter import ByteCounter
from fedlama.flower.deploy.processes import Services, program
from fedlama.flower.deploy.server_process import FAILED
from fedlama.flower.deploy.submit import Operator, run_config, write_app, write_connection


def small(*changes: str) -> Experiment:
    """Digits on four clients."""
    return resolve(
        read("digits", ["engine=loop", "partition.clients=4", "partition.alpha=1.0", "local_steps=12", *changes])
    )


class Live:
    """A SuperLink behind a byte counter, and SuperNodes; a context manager that stops what it started.

    Args:
        folder: For everything.
        nodes: Number of SuperNodes.
        warm: Start them by `fedlama flower node`.
        database: Keep the SuperLink's state on the disk, so that it can be started again; every request then takes it
            several times as long.
    """

    def __init__(self, folder: Path, nodes: int = 4, *, warm: bool = False, database: bool = False) -> None:
        self.folder, self.nodes, self.warm = folder, nodes, warm
        self.services = Services(folder, database=database)
        self.counter = ByteCounter(self.services.port)
        self.app = folder / "app"
        self.run_ids: dict[str, str] = {}

    def __enter__(self) -> Live:
        self.services.__enter__()
        write_app(self.app)
        self.services.start_link()
        self.counter.__enter__()
        for number in range(self.nodes):
            self.node(number)
        home = self.folder / "home-operator"
        write_connection(home, "live", f"127.0.0.1:{self.services.port}")
        return self

    def __exit__(self, *_: object) -> None:
        self.services.__exit__()
        self.counter.__exit__()

    def node(self, number: int, **config: str) -> None:
        """Start a SuperNode; further keys of its configuration are given with ``_`` for ``-``."""
        settings = {key.replace("_", "-"): value for key, value in config.items()}
        self.services.start_node(number, port=self.counter.port, config=settings, warm=self.warm)

    def submit(self, experiment: Experiment, name: str, **options: str | float) -> Path:
        """Submit a run; the same name submitted again resumes it.

        Returns:
            Folder below which its run folder will be.
        """
        out, config = self.folder / "runs" / name, self.folder / f"{name}.toml"
        (out / FAILED).unlink(missing_ok=True)  # of the run before
        settings: dict[str, str | float] = {"out": str(out), "deadline": 300.0, "join": 200.0, **options}
        config.write_text(run_config(experiment, settings), encoding="utf-8")
        self.run_ids[name] = self.operator.submit(self.app, config)
        return out

    @property
    def operator(self) -> Operator:
        """Calls of `flwr`."""
        return Operator(program("flwr"), "live", self.services.environment("operator"))

    def log(self, name: str) -> str:
        """The log of a run's ServerApp so far."""
        return self.operator.log(self.run_ids[name])

    def finish(self, out: Path, seconds: float = 420.0) -> Path:
        """Wait for a run's end; return its run folder."""
        failure = out / FAILED
        wait(lambda: failure.exists() or any(out.rglob("summary.json")), seconds, f"{out} to finish")
        assert not failure.exists(), failure.read_text()
        return next(out.rglob("summary.json")).parent

    def rounds(self, out: Path) -> int:
        """Number of rounds that a run has logged."""
        return sum(len(file.read_text().splitlines()) for file in out.rglob("metrics.jsonl"))


def wait(until: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until a condition holds; fail when three times the seconds that it may take on a quiet machine are over."""
    end = time.monotonic() + 3 * seconds
    while not until():
        assert time.monotonic() < end, f"waited {3 * seconds:g} s for {what}"
        time.sleep(0.3)


def model(run_folder: Path) -> dict[str, Tensor]:
    """The final model of a run."""
    return load_file(run_folder / "model.safetensors")


def lines(run_folder: Path, name: str, drop: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A run's lines without the keys that differ between equal runs."""
    read = [json.loads(line) for line in (run_folder / f"{name}.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in drop} for line in read]


def assert_same_folders(one: Path, other: Path) -> None:
    """The same model bit for bit, the same intervals, ledger and metrics."""
    first, second = model(one), model(other)
    assert list(first) == list(second)
    for name in first:
        assert first[name].equal(second[name]), name
    assert lines(one, "ledger") == lines(other, "ledger")
    assert lines(one, "layers") == lines(other, "layers")
    drop = ("seconds", "evaluation_seconds")
    assert lines(one, "metrics", drop) == lines(other, "metrics", drop)
