"""A whole deployment on this machine in one call: SuperLink, counting relay, SuperNodes, and the run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedlama.errors import FedlamaError
from fedlama.experiment import Experiment, prepare
from fedlama.flower.deploy import submit as submission
from fedlama.flower.deploy.byte_counter import Relay
from fedlama.flower.deploy.processes import Services, program
from fedlama.runs.network_log import NAME


def run_here(
    experiment: Experiment,
    out: Path,
    options: Mapping[str, str | float],
    *,
    seconds: float = 24 * 3600.0,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Deploy an experiment on loopback, one SuperNode per client, and wait for its end.

    Args:
        experiment: The experiment.
        out: Folder for the run folders; Flower's logs and the clients' states go to ``<out>/services``.
        options: The run's other settings; see :data:`fedlama.flower.settings.DEFAULTS`.
        seconds: How long at most.
        tell: Told what happens.

    Returns:
        The run's summary, with the bytes that passed the relay as ``socket_bytes_up`` and ``socket_bytes_down``.

    Raises:
        FedlamaError: The run was refused or did not end.
    """
    out = out.resolve()
    folder = out / "services"
    count = len(prepare(experiment).clients)
    app, config = folder / "app", folder / "run.toml"
    submission.write_app(app)
    config.write_text(submission.run_config(experiment, {**options, "out": str(out)}), encoding="utf-8")
    started = time.time()
    with Services(folder, database=False) as services:  # all of it ends with this call; our own checkpoints remain
        services.start_link()
        submission.connection(folder / "home-operator", "here", f"127.0.0.1:{services.port}")
        with Relay(services.port, log=folder / "socket.jsonl") as relay:
            for number in range(count):
                services.start_node(number, port=relay.port)
            tell(f"SuperLink on port {services.port}, {count} SuperNodes; logs in {folder}")
            environment = services.environment("operator")
            answer = submission.submit(program("flwr"), app, "here", config, environment)
            if answer["returncode"] != 0:
                raise FedlamaError(f"flwr refused the run: {answer['stderr'] or answer['stdout']}")
            summary = _await(out, started, started + seconds, services, tell)
    return {**summary, "socket_bytes_up": relay.up, "socket_bytes_down": relay.down}


def _await(out: Path, started: float, end: float, services: Services, tell: Callable[[str], None]) -> dict[str, Any]:
    """Wait for a summary written since the start; tell of every round on the way."""
    seen = 0
    while time.time() < end:
        for log in out.rglob(NAME):
            lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
            fresh = [line for line in lines if line["ended"] >= started]
            for line in fresh[seen:]:
                incidents = f" ({'; '.join(line['incidents'])})" if line["incidents"] else ""
                tell(f"round {line['round']}: {len(line['answered'])} answered, {line['seconds']:.1f} s{incidents}")
            seen = max(seen, len(fresh))
        for summary in out.rglob("summary.json"):
            if summary.stat().st_mtime >= started:
                found: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
                return found
        if services.processes["link"].poll() is not None:
            break
        time.sleep(0.5)
    raise FedlamaError(
        f"the deployment did not end; see the logs in {services.folder}, and give the same command again to go on"
    )
