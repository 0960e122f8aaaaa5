"""How long finished runs take on given links: the content of `fedlama links`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedlama.analysis.links import Clock, Exchanges, Link, clock, money
from fedlama.core.ledger import round_bytes
from fedlama.core.records import RoundRecord
from fedlama.errors import printable
from fedlama.runs.compared import compared_titles, full_title
from fedlama.runs.stored import StoredRun, load_run


@dataclass(frozen=True)
class Timing:
    """One run on several links.

    Attributes:
        name: The method and the run's seed.
        method: The method as its comparison wrote it, where all runs are in one; or else :attr:`StoredRun.method` with
            what its comparison adds. Runs under other settings have another one.
        run: The run.
        clocks: Its time on each link.
    """

    name: str
    method: str
    run: StoredRun
    clocks: tuple[Clock, ...]

    @property
    def sent(self) -> int:
        """Bytes up and down of the whole run."""
        return bytes_until(self.run.rounds, len(self.run.rounds) - 1)

    def to_json(self, target: float | None = None, price_per_gb: float | None = None) -> dict[str, object]:
        """Return the times as plain JSON types.

        Args:
            target: Value of the primary metric, an accuracy in [0, 1]; bytes and time until it is first reached are
                added. None leaves them out.
            price_per_gb: Price of 10^9 bytes; None leaves the cost out.
        """
        reached = None if target is None else first_reaching(self.run.rounds, target)
        return {
            "run": self.name,
            "run_folder": str(self.run.path),
            "bytes": self.sent,
            "money": None if price_per_gb is None else money(self.sent, price_per_gb),
            "bytes_to_target": None if reached is None else bytes_until(self.run.rounds, reached),
            "links": [
                {
                    "link": times.link.name,
                    "seconds": times.total,
                    "seconds_down": float(times.down.sum()),
                    "seconds_compute": float(times.compute.sum()),
                    "seconds_up": float(times.up.sum()),
                    "seconds_to_target": None if reached is None else float(times.elapsed[reached]),
                }
                for times in self.clocks
            ],
        }


def time_runs(paths: Iterable[Path], links: Sequence[Link], *, seed: int = 0, evaluation: bool = False) -> list[Timing]:
    """Compute how long finished runs take on given links.

    Args:
        paths: Run folders.
        links: The links.
        seed: Decides what links draw; the same for all runs, so that they are compared on the same clients.
        evaluation: Include what is sent only for an evaluation.

    Returns:
        One timing per run.

    Raises:
        DataError: A folder cannot be read as a run.
        ConfigError: A link does not fit the clients.
    """
    folders = list(paths)
    titles = compared_titles(folders)
    together = titles.keys() >= set(folders) and len({path.parent for path in folders}) == 1
    seen: set[tuple[str, int | None]] = set()
    timings = []
    for path in folders:
        run = load_run(path)
        clocks = clock(Exchanges.of_records(run.rounds, evaluation=evaluation), links, seed=seed)
        heading = titles.get(path, run.method)
        if path in titles and not together:
            heading = full_title(heading, run.method)
        name = heading if run.seed is None else f"{heading} seed {run.seed}"
        method, count = heading, 1
        while (method, run.seed) in seen:  # a second run of a method and seed had other settings
            count += 1
            method = f"{heading} #{count}"
        seen.add((method, run.seed))
        timings.append(Timing(name, method, run, tuple(clocks)))
    counts = Counter(timing.name for timing in timings)
    return [
        replace(timing, name=f"{timing.name} ({printable(timing.run.path.name)})")
        if counts[timing.name] > 1
        else timing
        for timing in timings
    ]


def first_reaching(rounds: Sequence[RoundRecord], target: float) -> int | None:
    """Return the first round whose evaluation reached a target; None if there is none.

    Args:
        rounds: The records, from round 0.
        target: Value of the primary metric; an accuracy is in [0, 1].
    """
    for index, record in enumerate(rounds):
        if record.score and record.score.measure.reaches(record.score.value, target):
            return index
    return None


def bytes_until(rounds: Sequence[RoundRecord], last: int) -> int:
    """Return the bytes up and down of all rounds up to one.

    Args:
        rounds: The records, from round 0.
        last: The last round that is counted.
    """
    transfers = [transfer for record in rounds[: last + 1] for transfer in record.transfers]
    return round_bytes(transfers, "up") + round_bytes(transfers, "down")
