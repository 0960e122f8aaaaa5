"""Kills at random moments: ServerApp, SuperLink, SuperNode and ClientApp of a live deployment, each by SIGKILL.

It needs Linux and the extra ``flower``::

    python -m benchmarks.flower_kills --out /tmp/kills --seed 1

A deployment with two warm nodes serves all runs; ``--deployments 2`` has two, each with its own SuperLink and nodes,
because most of the time is spent in waiting for Flower's heartbeats. The first run is undisturbed. In each of the
others one process is killed at a random moment of a round, and what an operator or a supervisor does follows: a
SuperLink or SuperNode is started again, and the same command is repeated where the run has ended. The final model's
digest and the ledger are compared with those of the undisturbed run; the ledger of a run in which a request was
repeated has more in it.

The kills of each kind are dealt over all rounds, and their moments within the rounds follow from ``--seed``. The length
of each round is that in the undisturbed run; the first one begins with the submission. One line of JSON is printed for
each kill and kept in ``kills.jsonl``; the same command goes on after the kills that are in it. The exit code is 1 if a
run did not end or ended with another model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import random
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file

from benchmarks.flower_processes import PAUSE, TARGETS, Deployment, wait
from fedlama.experiment import read, resolve
from fedlama.flower.deploy.server_process import FAILED
from fedlama.flower.protocol import model_digest

NODES, ROUNDS = 2, 6
EXPERIMENT = [
    "engine=loop", f"partition.clients={NODES}", f"local_steps={2 * ROUNDS}", "strategy.base_interval=2",
    "strategy.increase_factor=2",
]  # fmt: skip
LONGEST = 420.0  # seconds of a run


@dataclass(frozen=True)
class Plan:
    """What is killed, and when.

    Attributes:
        number: The kill, from 0.
        target: What is killed.
        after: How many rounds are complete before.
        part: The share of the next round that has passed, from 0 to 1.
    """

    number: int
    target: str
    after: int
    part: float


@dataclass(frozen=True)
class Undisturbed:
    """The run without a kill.

    Attributes:
        digest: Of its final model.
        ledger: Of its ledger.
        lengths: Seconds of each round; the first from the submission on.
        seconds: Of the whole run.
    """

    digest: str
    ledger: str
    lengths: Sequence[float]
    seconds: float


@dataclass(frozen=True)
class Kill:
    """What became of one run.

    Attributes:
        number: The kill, from 0.
        target: What was killed.
        after: How many rounds were complete when the moment began to be counted.
        moment: Seconds after the submission.
        rounds: Rounds that were complete at the kill.
        killed: Whether there was a process to kill; a run may have been over.
        seconds: Seconds from the submission to the end.
        commands: How often the run was submitted.
        digest: Of the final model; empty where the run did not end.
        same_model: Whether it equals the undisturbed run's.
        same_ledger: Whether the ledger does.
    """

    number: int
    target: str
    after: int
    moment: float
    rounds: int
    killed: bool
    seconds: float
    commands: int
    digest: str
    same_model: bool
    same_ledger: bool


def main() -> None:
    """Run all that is missing, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deployments", type=int, default=1)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    out: Path = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    file, lock = out / "kills.jsonl", threading.Lock()
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    kills = [Kill(**json.loads(line)) for line in lines]
    todo = [plan for plan in planned(given.seed, given.kills) if plan.number not in {kill.number for kill in kills}]
    experiment = resolve(read("digits", EXPERIMENT))
    with ExitStack() as stack, ThreadPoolExecutor(given.deployments) as pool:
        free: queue.SimpleQueue[Deployment] = queue.SimpleQueue()
        for number in range(given.deployments):
            free.put(stack.enter_context(Deployment(out / f"deployment-{number}", experiment, NODES)))
        reference = free.get()
        expected = undisturbed(reference, out)
        free.put(reference)
        print(json.dumps(asdict(expected)), flush=True)

        def work(plan: Plan) -> None:
            deployment = free.get()
            try:
                kill = disturbed(deployment, out / f"kill-{plan.number}", plan, expected, given.seed)
            finally:
                free.put(deployment)
            with lock:
                kills.append(kill)
                print(json.dumps(asdict(kill)), flush=True)
                with file.open("a", encoding="utf-8") as opened:
                    opened.write(json.dumps(asdict(kill)) + "\n")

        for _ in pool.map(work, todo):
            pass
    table(kills)
    sys.exit(0 if all(kill.same_model for kill in kills) else 1)


def planned(seed: int, kills: int) -> list[Plan]:
    """Return the kills in the order in which they are done: every kind in turn over all rounds, shuffled.

    >>> plans = planned(1, 24)
    >>> sorted((plan.target, plan.after) for plan in plans) == sorted((t, r) for t in TARGETS for r in range(ROUNDS))
    True
    """
    plans = [
        Plan(n, TARGETS[n % 4], (n // 4 + 3 * n) % ROUNDS, random.Random(f"{seed} part {n}").random())
        for n in range(kills)
    ]
    random.Random(f"{seed} order").shuffle(plans)
    return plans


def undisturbed(deployment: Deployment, out: Path) -> Undisturbed:
    """Run once without a kill, or read back what that run gave."""
    file, folder = out / "undisturbed.json", out / "undisturbed"
    if file.exists():
        return Undisturbed(**json.loads(file.read_text(encoding="utf-8")))
    shutil.rmtree(folder, ignore_errors=True)
    start, clock = time.monotonic(), time.time()
    deployment.submit(folder)
    finish(deployment, folder, start)
    seconds = round(time.monotonic() - start, 1)
    (log,) = folder.rglob("network.jsonl")
    ends = [float(json.loads(line)["ended"]) for line in log.read_text(encoding="utf-8").splitlines()]
    lengths = [round(end - before, 2) for before, end in zip([clock, *ends], ends, strict=False)]
    done = Undisturbed(*result(folder), lengths, seconds)
    file.write_text(json.dumps(asdict(done)), encoding="utf-8")
    return done


def disturbed(deployment: Deployment, out: Path, plan: Plan, expected: Undisturbed, seed: int) -> Kill:
    """Run once with a kill.

    Args:
        deployment: The deployment.
        out: Folder of the run.
        plan: What to kill, and when.
        expected: The undisturbed run.
        seed: Of the series.
    """
    shutil.rmtree(out, ignore_errors=True)  # what an interrupted series left
    deployment.keep_nodes()
    wait(lambda: not deployment.server_apps(), 60.0)  # of the run before, whose summary is written before it ends
    start = time.monotonic()
    deployment.submit(out)
    wait(lambda: rounds_of(out) >= plan.after, LONGEST, 0.05)
    time.sleep(plan.part * expected.lengths[plan.after])
    draw = random.Random(f"{seed} process {plan.number}")
    killed = deployment.kill(plan.target, draw, lambda: any(out.rglob("summary.json")))
    at, rounds = time.monotonic() - start, rounds_of(out)
    commands = finish(deployment, out, start, again=plan.target in ("ServerApp", "SuperLink"))
    digest, ledger = result(out)
    same = digest == expected.digest, ledger == expected.ledger
    seconds = round(time.monotonic() - start, 1)
    return Kill(
        plan.number, plan.target, plan.after, round(at, 2), rounds, killed, seconds, commands, digest, *same
    )  # fmt: skip


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


def table(kills: Sequence[Kill]) -> None:
    """Print one row for each kind of process."""
    print(
        "\n| killed | kills | after rounds | ended | same model | same ledger | commands | seconds, median and most |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for target in TARGETS:
        rows = [kill for kill in kills if kill.target == target and kill.killed]
        if rows:
            after = ", ".join(f"{r} ({sum(k.rounds == r for k in rows)})" for r in sorted({k.rounds for k in rows}))
            seconds = sorted(kill.seconds for kill in rows)
            ended, same = sum(bool(kill.digest) for kill in rows), sum(kill.same_model for kill in rows)
            ledgers, most = sum(kill.same_ledger for kill in rows), max(kill.commands for kill in rows)
            print(
                f"| {target} | {len(rows)} | {after} | {ended} | {same} | {ledgers} | at most {most} | "
                f"median {seconds[len(seconds) // 2]}, most {seconds[-1]} |"
            )
    print(f"\nmodels: {sorted({kill.digest for kill in kills})}")


if __name__ == "__main__":
    main()
