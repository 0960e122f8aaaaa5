"""Call the command line in this process, as a terminal would, and keep what it said."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from fedlama.cli.app import main

SMALL = ("partition.clients=4", "strategy.base_interval=3", "strategy.increase_factor=2", "local_steps=12")
"""Overrides that make the digits take a second."""

RUN_KEYS = {
    "method",
    "hyperparameters",
    "seed",
    "accuracy",
    "loss",
    "cost_percent",
    "bytes_per_step",
    "bytes_up",
    "bytes_down",
    "rounds",
    "seconds",
    "run_folder",
    "reused",
    "metrics",
    "primary",
    "direction",
}
"""What the issue promises for each run in `--json`."""


@dataclass(frozen=True)
class Called:
    """What a command left behind: its exit code and its two streams."""

    code: int
    out: str
    err: str

    @property
    def problems(self) -> list[str]:
        """The lines of standard error; each must report one problem."""
        lines = self.err.splitlines()
        assert all(line.startswith("error: ") for line in lines), self.err
        return [line.removeprefix("error: ") for line in lines]

    @property
    def json(self) -> Any:  # noqa: ANN401
        """Standard output, which must be one JSON object, without NaN and infinity."""

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        assert (self.code, self.out.count("\n")) == (0, 1), self
        return json.loads(self.out, parse_constant=refuse)


def fedlama(*arguments: str | Path) -> Called:
    """Run `fedlama` with these arguments; any exception but an exit would be a traceback, and fails the test."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = ["fedlama", *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Called(code, out.getvalue(), err.getvalue())


def refused(*arguments: str | Path) -> list[str]:
    """Run `fedlama`, which must refuse in the right way, and return the problems."""
    called = fedlama(*arguments)
    assert (called.code, called.out) == (2, ""), called
    assert called.problems
    return called.problems
