"""A whole deployment on this machine in one call: SuperLink, byte counter, SuperNodes, and the run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedlama.errors import ConfigError, FedlamaError, printable
from fedlama.experiment import Experiment, prepare
from fedlama.flower.deploy.byte_counter import ByteCounter
from fedlama.flower.deploy.processes import Services, program
from fedlama.flower.deploy.server_process import FAILED
from fedlama.flower.deploy.submit import Operator, run_config, write_app, write_connection
from fedlama.flower.sites import node_keys
from fedlama.runs.network_log import NAME

_COARSE = 0.1  # seconds by which a file's time may be behind the clock
_CHECK_SECONDS = 20.0  # between two questions whether the run failed; each starts a Python process


def run_on_loopback(
    experiment: Experiment,
    out: Path,
    options: Mapping[str, str | float],
    *,
    seconds: float = 24 * 3600.0,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Deploy an experiment on loopback, one SuperNode per client, and wait until it ends.

    Args:
        experiment: The experiment.
        out: Folder for the run folders; Flower's logs and the clients' states go to ``<out>/services``.
        options: Other keys of the run's configuration; see :data:`fedlama.flower.settings.DEFAULTS`.
        seconds: How long at most.
        report: Called with a sentence for every round.

    Returns:
        The run's summary, with the bytes between nodes and SuperLink as ``socket_bytes_up`` and ``socket_bytes_down``.

    Raises:
        FedlamaError: The run was refused or did not end.
    """
    _refuse_sites(experiment)
    out = out.resolve()
    folder = out / "services"
    count = len(prepare(experiment).clients)
    node = {key: str(value) for key, value in options.items() if key == "plugins-dir" and value}
    app, config = folder / "app", folder / "run.toml"
    write_app(app)
    config.write_text(run_config(experiment, {**options, "out": str(out)}), encoding="utf-8")
    watcher, end = _Watcher(out, report), time.monotonic() + seconds
    with Services(folder, database=False) as services:  # nothing of it outlives this call but our own checkpoints
        services.start_link()
        write_connection(folder / "home-operator", "here", f"127.0.0.1:{services.port}")
        with ByteCounter(services.port, log=folder / "socket.jsonl") as counter:
            for number in range(count):
                services.start_node(number, port=counter.port, config=node, warm=True)
            report(f"SuperLink on port {services.port}, {count} SuperNodes; logs in {folder}")
            operator = Operator(program("flwr"), "here", services.environment("operator"))
            run_id = operator.submit(app, config)
            failure, next_check = "", time.monotonic() + _CHECK_SECONDS
            while (summary := watcher.look()) is None:
                if failure or time.monotonic() >= end or services.processes["link"].poll() is not None:
                    (folder / "serverapp.log").write_text(operator.log(run_id), encoding="utf-8")
                    reason = failure or "its SuperLink ended, or its time is over"
                    raise FedlamaError(
                        f"the deployment did not finish: {reason}; see {FAILED} in {out} and the logs in {folder}, and "
                        "repeat the same command to resume it"
                    )
                failure = watcher.failure()
                if not failure and time.monotonic() >= next_check:
                    failure = operator.failure(run_id)
                    next_check = time.monotonic() + _CHECK_SECONDS
                time.sleep(0.5)
    return {**summary, "socket_bytes_up": counter.up, "socket_bytes_down": counter.down}


def _refuse_sites(experiment: Experiment) -> None:
    """Refuse an experiment whose data are on the nodes: here all are on one machine."""
    for field, key in node_keys(experiment).items():
        raise ConfigError(
            f"data.{field} is 'node:{key}', but here all nodes are on one machine and have no configuration of their "
            f"own; give data.{field} a path, or start the nodes and use `fedlama flower run`"
        )


class _Watcher:
    """Follows a run by the files that its ServerApp writes.

    Args:
        out: Folder for the run folders.
        report: Called with a sentence for every round.
    """

    def __init__(self, out: Path, report: Callable[[str], None]) -> None:
        self._out, self._report, self._started, self._rounds = out, report, time.time(), 0

    def failure(self) -> str:
        """Return why the ServerApp failed, as it wrote it itself; empty where it did not."""
        file = self._out / FAILED
        try:
            text = file.read_text(encoding="utf-8") if file.stat().st_mtime >= self._started - _COARSE else ""
        except OSError:
            return ""
        return printable(" ".join(text.split()))

    def look(self) -> dict[str, Any] | None:
        """Report the rounds that have ended since the last look; return the summary once it is written."""
        for log in self._out.rglob(NAME):
            lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
            lines = list({line["round"]: line for line in lines}.values())  # one with scores replaces the one before
            new = [line for line in lines if line["ended"] >= self._started]
            for line in new[self._rounds :]:
                incidents = f" ({'; '.join(line['incidents'])})" if line["incidents"] else ""
                self._report(
                    f"round {line['round']}: {len(line['answered'])} answered, {line['seconds']:.1f} s{incidents}"
                )
            self._rounds = max(self._rounds, len(new))
        for file in self._out.rglob("summary.json"):
            if file.stat().st_mtime >= self._started:
                summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
                return summary
        return None
