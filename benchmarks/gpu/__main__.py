"""Measure the rows and print a table: ``python -m benchmarks.gpu --output gpu.json``.

    python -m benchmarks.gpu --rows resnet20 central             # the rows whose names begin so
    python -m benchmarks.gpu --device cpu --tiny                 # does the script itself work?

The rows are measured by :mod:`benchmarks.gpu.worker` in a process of its own. This process starts it again when it ends
early or a row takes longer than its limit, ends everything at ``--limit`` seconds, and writes the JSON after every row.
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.goals import GOALS, row_line
from benchmarks.gpu.rows import ROWS, chosen
from benchmarks.gpu.setting import Values
from benchmarks.gpu.worker import MARK

START_SECONDS = 60.0
"""How long a process may take to import and to reach the device."""


class Worker:
    """A process that measures rows one after another.

    Args:
        options: Its arguments but the rows.
        rows: The rows.
    """

    def __init__(self, options: list[str], rows: list[str]) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (as long as the process)
        command = [sys.executable, "-m", "benchmarks.gpu.worker", *options, *rows]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, text=True, cwd=Path(__file__).resolve().parents[2]
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                self._lines.put(line.removeprefix(MARK))
        self._lines.put(None)

    def answer(self, seconds: float) -> dict[str, Any]:
        """Return the next answer, or ``{"error": ...}`` if there is none within this time."""
        try:
            line = self._lines.get(timeout=max(seconds, 0.1))
        except queue.Empty:
            return {"error": f"ended after {seconds:.0f} s"}
        if line is None:
            self._process.wait()
            self._log.seek(0)
            return {"error": f"the process ended with {self._process.returncode}: {self._log.read()[-2000:]}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


class Report:
    """The results so far.

    Args:
        file: Where they are written as JSON; None for nowhere.
        facts: How the run was started.
    """

    def __init__(self, file: Path | None, facts: Values) -> None:
        self.rows: dict[str, Values] = {}
        self._file, self._facts, self._start = file, facts, time.monotonic()

    def machine(self, facts: Values) -> None:
        """Note what is measured on."""
        if "machine" not in self._facts:
            self._facts["machine"] = facts
            print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
            print("| row | samples/s | first round, s | peak MiB | |\n|---|---|---|---|---|", flush=True)

    def add(self, name: str, values: Values) -> None:
        """Add a row: print it, and write everything."""
        self.rows[name] = values
        print(row_line(name, values), flush=True)
        self.write()

    def leave_out(self, names: list[str], reason: str) -> None:
        """Note the rows that were not measured."""
        self.rows |= {name: {"error": f"left out: {reason}"} for name in names}
        print(f"left out, {reason}: {', '.join(names)}", flush=True)
        self.write()

    def write(self) -> None:
        """Write everything."""
        if self._file is not None:
            goals = [{"goal": g.words, "expected": g.goal, "reached": g.reached(self.rows)} for g in GOALS]
            whole = self._facts | {"seconds": time.monotonic() - self._start, "rows": self.rows, "goals": goals}
            self._file.write_text(json.dumps(whole, indent=1) + "\n")


def measure(options: list[str], names: list[str], report: Report, limit: float) -> None:
    """Measure rows until the time is over.

    Args:
        options: Arguments of the worker but the rows.
        names: The rows.
        report: Where the results go.
        limit: Seconds for all of them.
    """
    end, waiting = time.monotonic() + limit, list(names)
    failed_starts = 0
    while waiting and time.monotonic() < end and failed_starts < 2:
        worker = Worker(options, waiting)
        answer = worker.answer(min(START_SECONDS, end - time.monotonic()))
        if "error" in answer:
            failed_starts += 1
            report.add(f"start {failed_starts}", answer)
        else:
            report.machine(answer["machine"])
        while waiting and "error" not in answer and not answer.get("broken") and time.monotonic() < end:
            name = waiting.pop(0)
            answer = worker.answer(min(ROWS[name].limit, end - time.monotonic()))
            report.add(name, answer.get("values", {"error": answer.get("error", "")}))
        worker.end()
    if waiting:
        report.leave_out(waiting, "no process started" if failed_starts == 2 else f"the {limit:.0f} s were over")


def main() -> None:
    """Measure, print the rows and the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, help="JSON file, written after every row")
    parser.add_argument("--rows", nargs="+", default=[], help="beginnings of the rows' names; all rows by default")
    parser.add_argument("--tiny", action="store_true", help="all sizes so small that a CPU takes a second for a row")
    parser.add_argument("--seconds", type=float, default=1.5, help="for how long a row repeats")
    parser.add_argument("--limit", type=float, default=270, help="seconds of the whole run")
    parser.add_argument("--no-autotune", action="store_true", help="leave cudnn.benchmark off")
    given = parser.parse_args()
    options = [given.device, str(given.seconds)]
    options += ["--tiny"] * given.tiny + ["--no-autotune"] * given.no_autotune
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
    report = Report(given.output, {"arguments": sys.argv[1:]})
    measure(options, chosen(given.rows), report, given.limit)
    print("\n| goal | reached | expected | |\n|---|---|---|---|")
    print("\n".join(goal.line(report.rows) for goal in GOALS))


if __name__ == "__main__":
    main()
