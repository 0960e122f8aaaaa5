"""Kills at random moments: ServerApp, SuperLink, SuperNode and ClientApp of a live deployment, each by SIGKILL.

It needs Linux and the extra ``flower``, and takes about half an hour for 40 kills::

    python -m benchmarks.flower_kills --out /tmp/kills

One deployment with two warm nodes serves all runs. The first run is undisturbed. In each of the others one process is
killed at a random moment of a random round, and what an operator or a supervisor does follows: a SuperLink or SuperNode
is started again, and the same command is repeated where the run has ended. The final model's digest and the ledger are
compared with those of the undisturbed run; the ledger of a run in which a request was repeated has more in it. Rounds
and moments follow from ``--seed``. One line of JSON is printed for each kill, and then a table. The exit code is 1 if a
run did not end or ended with another model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file

from fedlama.experiment import read, resolve
from fedlama.flower.deploy.processes import Services, program
from fedlama.flower.deploy.server_process import FAILED
from fedlama.flower.deploy.submit import Operator, run_config, write_app, write_connection
from fedlama.flower.protocol import model_digest

NODES, ROUNDS = 2, 6
TARGETS = ("ServerApp", "SuperLink", "SuperNode", "ClientApp")
EXPERIMENT = [
    "engine=loop", f"partition.clients={NODES}", f"local_steps={2 * ROUNDS}", "strategy.base_interval=2",
    "strategy.increase_factor=2",
]  # fmt: skip
LONGEST = 420.0  # seconds of a run
PAUSE = 0.2


@dataclass
class Kill:
    """What became of one run.

    Attributes:
        number: The kill, from 0.
        target: What was killed.
        moment: Seconds after the submission.
        rounds: Rounds that were complete then.
        seconds: Seconds from the submission to the end.
        commands: How often the run was submitted.
        digest: Of the final model; empty where the run did not end.
        same_model: Whether it equals the undisturbed run's.
        same_ledger: Whether the ledger does.
    """

    number: int
    target: str
    moment: float
    rounds: int
    seconds: float
    commands: int
    digest: str
    same_model: bool
    same_ledger: bool


class Deployment:
    """A SuperLink and warm SuperNodes; use it as a context manager.

    Args:
        folder: For everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services = Services(folder / "services")
        self.operator = Operator(program("flwr"), "here", self.services.environment("operator"))
        self._app = folder / "app"

    def __enter__(self) -> Deployment:
        """Start everything."""
        self.services.__enter__()
        write_app(self._app)
        write_connection(self.services.folder / "home-operator", "here", f"127.0.0.1:{self.services.port}")
        self.services.start_link()
        for number in range(NODES):
            self.services.start_node(number, warm=True)
        return self

    def __exit__(self, *details: object) -> None:
        """Stop everything."""
        self.services.__exit__(*details)

    def submit(self, out: Path) -> None:
        """Submit the run of a folder; repeated, it resumes the run."""
        experiment = resolve(read("digits", EXPERIMENT))
        options: dict[str, str | float] = {"out": str(out), "deadline": 300.0, "join": 200.0, "min-replies": 1.0}
        config = self.folder / "run.toml"
        config.write_text(run_config(experiment, options), encoding="utf-8")
        self.operator.submit(self._app, config)

    def server_apps(self) -> list[int]:
        """Return the processes of ServerApps of this deployment; they are not in the SuperLink's process group."""
        home = f"FLWR_HOME={self.services.folder / 'home-link'}".encode()
        return [pid for pid, command in processes() if b"flwr-serverapp" in command and home in content(pid, "environ")]

    def client_apps(self, number: int) -> list[int]:
        """Return the processes of ClientApps of a node: the children of the process that forks."""
        (executor, *_) = [*children(self.services.processes[f"node{number}"].pid), 0]
        (forker, *_) = [*children(executor), 0]
        return children(forker)

    def kill(self, target: str, draw: random.Random) -> None:
        """Kill a process of a kind, and start again what a supervisor would start."""
        node = draw.randrange(NODES)
        if target == "SuperLink":
            self.services.stop("link", kill=True)
            self.services.start_link()
        elif target == "SuperNode":
            self.services.stop(f"node{node}", kill=True)
            self.services.start_node(node, warm=True)
        else:
            find = self.server_apps if target == "ServerApp" else lambda: self.client_apps(node)
            wait(lambda: bool(find()), 60.0, 0.002)
            for pid in find()[:1]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def keep_nodes(self) -> None:
        """Start nodes that have ended again, as a supervisor would."""
        for number in range(NODES):
            process = self.services.processes.get(f"node{number}")
            if process is not None and process.poll() is not None:
                self.services.stop(f"node{number}", kill=True)
                self.services.start_node(number, warm=True)


def main() -> None:
    """Run all, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    out: Path = given.out.resolve()
    draw, kills = random.Random(given.seed), list[Kill]()
    targets = [TARGETS[number % len(TARGETS)] for number in range(given.kills)]
    draw.shuffle(targets)
    with Deployment(out) as deployment:
        start = time.monotonic()
        deployment.submit(out / "undisturbed")
        finish(deployment, out / "undisturbed", start)
        length, expected = time.monotonic() - start, result(out / "undisturbed")
        print(json.dumps({"undisturbed": expected, "seconds": round(length, 1)}), flush=True)
        for number, target in enumerate(targets):
            kills.append(disturbed(deployment, out / f"kill-{number}", number, target, draw, length, expected))
            print(json.dumps(asdict(kills[-1])), flush=True)
    table(kills)
    sys.exit(0 if all(kill.same_model for kill in kills) else 1)


def disturbed(
    deployment: Deployment,
    out: Path,
    number: int,
    target: str,
    draw: random.Random,
    length: float,
    expected: tuple[str, str],
) -> Kill:
    """Run once with a kill.

    Args:
        deployment: The deployment.
        out: Folder of the run.
        number: The kill's number.
        target: What to kill.
        draw: Gives the moment.
        length: Seconds of an undisturbed run.
        expected: Its digests.
    """
    wait(lambda: not deployment.server_apps(), 60.0)  # of the run before, whose summary is written before it ends
    after, delay, start = draw.randrange(ROUNDS), draw.uniform(0.0, length / ROUNDS), time.monotonic()
    deployment.submit(out)
    wait(lambda: rounds_of(out) >= after, LONGEST)
    time.sleep(delay)
    deployment.kill(target, draw)
    at, rounds = time.monotonic() - start, rounds_of(out)
    commands = finish(deployment, out, start, again=target in ("ServerApp", "SuperLink"))
    digest, ledger = result(out)
    same = digest == expected[0], ledger == expected[1]
    return Kill(number, target, round(at, 2), rounds, round(time.monotonic() - start, 1), commands, digest, *same)


def finish(deployment: Deployment, out: Path, start: float, *, again: bool = False) -> int:
    """Wait until a run ends, and repeat the command where its ServerApp has ended; return how often it was submitted.

    Args:
        deployment: The deployment.
        out: Folder of the run.
        start: When it was submitted first.
        again: Whether the ServerApp is known to end.
    """
    commands = 1
    while not any(out.rglob("summary.json")) and time.monotonic() - start < LONGEST:
        deployment.keep_nodes()
        if again or (out / FAILED).exists():
            wait(lambda: not deployment.server_apps(), 60.0)  # an orphan ends by itself, and holds the lock until then
            (out / FAILED).unlink(missing_ok=True)
            if not any(out.rglob("summary.json")):
                deployment.submit(out)
                commands += 1
            again = False
        time.sleep(PAUSE)
    return commands


def result(out: Path) -> tuple[str, str]:
    """Return the digests of a run's final model and of its ledger; empty where it did not end."""
    for summary in out.rglob("summary.json"):
        model = model_digest(load_file(summary.with_name("model.safetensors")))
        ledger = hashlib.sha256(summary.with_name("ledger.jsonl").read_bytes()).hexdigest()
        return model[:16], ledger[:16]
    return "", ""


def rounds_of(out: Path) -> int:
    """Return the number of rounds that a run has completed."""
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in out.rglob("metrics.jsonl"))


def table(kills: list[Kill]) -> None:
    """Print one row for each kind of process."""
    print("\n| killed | kills | after rounds | ended | same model | same ledger | commands | seconds, median |")
    print("|---|---|---|---|---|---|---|---|")
    for target in TARGETS:
        rows = [kill for kill in kills if kill.target == target]
        if rows:
            after = ", ".join(str(count) for count in sorted(kill.rounds for kill in rows))
            seconds = sorted(kill.seconds for kill in rows)[len(rows) // 2]
            ended, same = sum(bool(kill.digest) for kill in rows), sum(kill.same_model for kill in rows)
            ledgers, most = sum(kill.same_ledger for kill in rows), max(kill.commands for kill in rows)
            print(f"| {target} | {len(rows)} | {after} | {ended} | {same} | {ledgers} | at most {most} | {seconds} |")


def processes() -> list[tuple[int, bytes]]:
    """Return all processes with their command lines."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return [(pid, content(pid, "cmdline")) for pid in pids]


def content(pid: int, name: str) -> bytes:
    """Return a file of a process in /proc; empty when the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def children(pid: int) -> list[int]:
    """Return the children of a process that still run."""
    files = [content(pid, f"task/{task}/children") for task in tasks(pid)]
    return [int(child) for file in files for child in file.split() if b") Z " not in content(int(child), "stat")]


def tasks(pid: int) -> list[str]:
    """Return the threads of a process."""
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def wait(until: Callable[[], bool], seconds: float, pause: float = PAUSE) -> None:
    """Wait until a condition holds, or the time is over."""
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        time.sleep(pause)


if __name__ == "__main__":
    main()
