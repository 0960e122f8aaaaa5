"""The command as its own process: exit codes, the two streams, warnings as errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.cli.call import RUN_KEYS, SMALL


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "fedlama.cli.app", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_run_prints_json_and_nothing_else(tmp_path: Path) -> None:
    done = process("run", *SMALL, "--json", "--out", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads(done.stdout)
    assert [set(run) for run in content["runs"]] == [RUN_KEYS]
    assert Path(content["runs"][0]["run_folder"]).is_dir()


def test_a_mistake_gives_sentences_and_no_traceback() -> None:
    done = process("plan", "digits", "local_stps=5", "solver.momentum=2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: unknown key 'local_stps'; did you mean 'local_steps'?",
        "error: SGD: momentum is 2.0, expected a number in [0, 1); use one in this range",
    ]
