"""A whole deployment on this machine in one call: SuperLink, byte counter, SuperNodes, and the run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedlama.errors import FedlamaError
from fedlama.experiment import Experiment, prepare
from fedlama.flower.deploy.byte_counter import ByteCounter
from fedlama.flower.deploy.processes import Services, program
from fedlama.flower.deploy.submit import run_config, submit, write_app, write_connection
from fedlama.runs.network_log import NAME


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
    out = out.resolve()
    folder = out / "services"
    count = len(prepare(experiment).clients)
    app, config = folder / "app", folder / "run.toml"
    write_app(app)
    config.write_text(run_config(experiment, {**options, "out": str(out)}), encoding="utf-8")
    started = time.time()
    with Services(folder, database=False) as services:  # nothing of it outlives this call but our own checkpoints
        services.start_link()
        write_connection(folder / "home-operator", "here", f"127.0.0.1:{services.port}")
        with ByteCounter(services.port, log=folder / "socket.jsonl") as counter:
            for number in range(count):
                services.start_node(number, port=counter.port)
            report(f"SuperLink on port {services.port}, {count} SuperNodes; logs in {folder}")
            environment = services.environment("operator")
            reply = submit(program("flwr"), app, "here", config, environment)
            if reply["returncode"] != 0:
                raise FedlamaError(f"flwr refused the run: {reply['stderr'] or reply['stdout']}")
            summary = _wait_for_summary(out, started, started + seconds, services, report)
    return {**summary, "socket_bytes_up": counter.up, "socket_bytes_down": counter.down}


def _wait_for_summary(
    out: Path, started: float, end: float, services: Services, report: Callable[[str], None]
) -> dict[str, Any]:
    """Wait for a summary that is written after the start; report every round on the way."""
    reported = 0
    while time.time() < end:
        for log in out.rglob(NAME):
            lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
            new = [line for line in lines if line["ended"] >= started]
            for line in new[reported:]:
                incidents = f" ({'; '.join(line['incidents'])})" if line["incidents"] else ""
                report(f"round {line['round']}: {len(line['answered'])} answered, {line['seconds']:.1f} s{incidents}")
            reported = max(reported, len(new))
        for summary in out.rglob("summary.json"):
            if summary.stat().st_mtime >= started:
                result: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
                return result
        if services.processes["link"].poll() is not None:
            break
        time.sleep(0.5)
    raise FedlamaError(
        f"the deployment did not end; see the logs in {services.folder}, and repeat the same command to resume it"
    )
