"""The predicted time of transfers against a measured one: a Flower deployment through a rate-limited loopback device.

It needs Linux, root, iproute2 and the extra ``flower``, and runs in its own network namespace, so that nothing else is
slowed:

    unshare -n python -m benchmarks.flower_link --out /tmp/link --megabit 0.3

Every SuperNode has a port of its own before the SuperLink, shaped by `tc` to a rate each way. One deployment
without a limit gives the time of a round without the transfer (starting processes, training); nothing else is fitted.
Another with the limit is then measured and compared with what :mod:`fedlama.analysis.links` says from its ledger.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fedlama.analysis.links import Exchanges, Link, clock
from fedlama.experiment import read, resolve
from fedlama.flower.deploy import loopback
from fedlama.flower.deploy.byte_counter import ByteCounter
from fedlama.flower.deploy.processes import Services
from fedlama.runs.stored import StoredRun, find_runs, load_run

PORT = 19_100
NODES = 2
OVERHEAD = 0.04  # IP, TCP and HTTP around the payload; tc counts them all


def main() -> None:
    """Deploy twice, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--megabit", type=float, default=2.0)
    parser.add_argument("--settings", nargs="*", default=[])
    given = parser.parse_args()
    tc("ip link set lo up")
    free = deploy(given.out / "free", given.settings)
    others = [seconds - moving for seconds, moving in zip(measured(free), predicted(free, 1e9, [0.0]), strict=True)]
    rate = given.megabit * 1e6
    limit(given.megabit)
    limited = deploy(given.out / "limited", given.settings)
    expected, seen = predicted(limited, rate, others), measured(limited)
    report = {
        "rate_bits": rate,
        "bytes": limited.ledger.total_bytes("up") + limited.ledger.total_bytes("down"),
        "seconds_beside_the_transfer": others,
        "predicted": expected,
        "measured": seen,
        "predicted_total": sum(expected),
        "measured_total": sum(seen),
        "error_percent": 100 * (sum(expected) / sum(seen) - 1),
    }
    print(json.dumps(report))


def deploy(out: Path, settings: Sequence[str]) -> StoredRun:
    """Run the digits on SuperNodes behind the shaped ports and read the run back."""
    loopback.Services = OwnPorts  # type: ignore[misc]
    small = [f"partition.clients={NODES}", "model.hidden=[512,512]", "strategy.increase_factor=2", "local_steps=24"]
    experiment = resolve(read("digits", [*small, *settings]))
    loopback.run_on_loopback(experiment, out, {}, seconds=1800.0)
    return load_run(find_runs([out / experiment.settings.name])[0])


def measured(run: StoredRun) -> list[float]:
    """Seconds of each round, from the first request to the last reply."""
    lines = (run.path / "network.jsonl").read_text(encoding="utf-8").splitlines()
    return [float(json.loads(line)["seconds"]) for line in lines]


def predicted(run: StoredRun, rate: float, others: Sequence[float]) -> list[float]:
    """Return the seconds of each round: its transfers by the link model, and the mean of the other seconds."""
    link = Link("shaped", up=rate, down=rate, overhead=OVERHEAD)
    (times,) = clock(Exchanges.of_records(run.rounds), [link])
    return [float(seconds) + sum(others) / len(others) for seconds in times.rounds]


class OwnPorts(Services):
    """Services whose nodes reach the SuperLink, each through a byte counter on its own port."""

    def __init__(self, folder: Path, **settings: bool) -> None:
        super().__init__(folder, **settings)
        self._counters = ExitStack()

    def start_node(self, number: int, *arguments: str, port: int | None = None, **settings: Any) -> None:  # noqa: ANN401
        """Start a node behind its own byte counter, whatever port is given."""
        counter = self._counters.enter_context(ByteCounter(self.port, port=PORT + number))
        super().start_node(number, *arguments, port=counter.port, **settings)

    def __exit__(self, *details: object) -> None:
        """Stop the services, then the byte counters."""
        super().__exit__(*details)
        self._counters.close()


def limit(megabit: float) -> None:
    """Shape what goes to each port and what comes from it, each to the rate."""
    tc("tc qdisc add dev lo root handle 1: htb default 99 r2q 1000")
    tc("tc class add dev lo parent 1: classid 1:99 htb rate 10gbit")
    for node in range(NODES):
        for number, side in ((10 + node, "dport"), (50 + node, "sport")):
            shape = f"htb rate {megabit}mbit burst 64k cburst 64k quantum 60000"
            tc(f"tc class add dev lo parent 1: classid 1:{number} {shape}")
            tc(f"tc filter add dev lo parent 1: protocol ip u32 match ip {side} {PORT + node} 0xffff flowid 1:{number}")


def tc(command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command.split(), check=True)


if __name__ == "__main__":
    main()
