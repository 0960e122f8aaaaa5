"""Runs the command line in forks of one process that has imported everything, so that a start takes milliseconds.

``python -m tests.resume.forks`` reads one JSON list of jobs per line, runs them at the same time, and answers with one
JSON list of their exit codes (negative: the signal) and seconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_LONGEST = 60.0
"""Seconds after which a job that hangs is killed."""


@dataclass(frozen=True)
class Job:
    """A call of the command line.

    Attributes:
        arguments: Its arguments.
        messages: The file that gets its standard output and error.
        after: Seconds until it is sent a signal.
        number: The signal.
        out: A folder of run folders.
        signal_round: Number of rounds in `out` after which it is sent the signal.
        start_round: Number of rounds in `out` after which it starts.
    """

    arguments: tuple[str, ...]
    messages: Path
    after: float | None = None
    number: int = signal.SIGKILL
    out: Path = Path()
    signal_round: int | None = None
    start_round: int = 0


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        code: Its exit code; the negative number of the signal that killed it.
        messages: Its standard output and error.
        seconds: How long it took.
    """

    code: int
    messages: str
    seconds: float

    def one_sentence(self) -> bool:
        """Return whether it was refused with one sentence."""
        errors = [line for line in self.messages.splitlines() if line.startswith("error: ")]
        return self.code > 0 and len(errors) == 1 and "Traceback" not in self.messages


class Forks:
    """The process from which the jobs are forked; use it as a context manager."""

    def __enter__(self) -> Self:
        """Start it."""
        root = Path(__file__).parents[2]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(root / "src"), *sys.path]),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.resume.forks"],
            cwd=root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self._process.communicate(timeout=30)

    def run(self, *jobs: Job) -> list[Ended]:
        """Run jobs at the same time, and wait for all of them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        content = [vars(job) | {"messages": str(job.messages), "out": str(job.out)} for job in jobs]
        print(json.dumps(content), file=self._process.stdin, flush=True)
        ends = json.loads(self._process.stdout.readline())
        return [
            Ended(code, job.messages.read_text("utf-8"), seconds)
            for job, (code, seconds) in zip(jobs, ends, strict=True)
        ]


def _child(arguments: list[str], messages: str) -> None:
    """Be the command line; never returns."""
    from fedlama.cli.app import main

    file = os.open(messages, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, file), (2, file)):
        os.dup2(source, target)
    sys.argv = ["fedlama", *arguments]
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _rounds(out: str) -> int:
    """Return the number of rounds in the run folder below a folder of runs."""
    return sum(len(file.read_bytes().splitlines()) for file in Path(out).glob("*/fedlama-*/metrics.jsonl"))


def _serve() -> None:
    # What commands import at their first use is imported before the forks, once.
    import fedlama.analysis.study
    import fedlama.cli.app
    import fedlama.cli.tables
    import fedlama.experiment.methods
    import fedlama.reporting.charts
    import fedlama.reporting.html
    import fedlama.reporting.observer
    import fedlama.runs.verify  # noqa: F401
    from tests.pictures import not_drawn

    not_drawn().start()
    for line in sys.stdin:
        jobs = json.loads(line)
        waiting = set(range(len(jobs)))
        running: dict[int, tuple[int, float]] = {}
        ends: dict[int, tuple[int, float]] = {}
        while len(ends) < len(jobs):
            now = time.monotonic()
            for index in sorted(waiting):
                if jobs[index]["start_round"] > _rounds(jobs[index]["out"]):
                    continue
                waiting.remove(index)
                pid = os.fork()
                if not pid:
                    _child(jobs[index]["arguments"], jobs[index]["messages"])
                running[index] = (pid, now)
            for index, (pid, started) in list(running.items()):
                after, rounds = jobs[index]["after"], jobs[index]["signal_round"]
                in_time = after is not None and now - started >= after
                if in_time or (rounds is not None and _rounds(jobs[index]["out"]) >= rounds):
                    os.kill(pid, jobs[index]["number"])
                    jobs[index] |= {"after": None, "signal_round": None}
                elif now - started >= _LONGEST:
                    os.kill(pid, signal.SIGKILL)
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    ends[index] = (os.waitstatus_to_exitcode(status), time.monotonic() - started)
                    del running[index]
            time.sleep(0.001)
        print(json.dumps([ends[index] for index in range(len(jobs))]), flush=True)


if __name__ == "__main__":
    _serve()
