"""The benchmarks' clock of CPU time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_CHILDREN = """
import subprocess, sys
from benchmarks.clock import MARK, now

busy = "import time\\nwhile time.process_time() < 0.4: pass\\nprint('done', flush=True)\\ninput()"
start = now()
environments = [None, {}]  # the second child has no mark, so it does not count
children = [
    subprocess.Popen([sys.executable, "-c", busy], env=given, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for given in environments
]
for child in children:
    child.stdout.readline()
taken = now() - start
for child in children:
    child.communicate(b"\\n")
print(taken)
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="CPU time of other processes is read as on Linux")
def test_cpu_time_counts_the_processes_with_the_mark() -> None:
    environment = os.environ | {"FEDLAMA_BENCHMARK_CPU": "a mark", "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", _CHILDREN]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert 0.35 < float(done.stdout) < 0.75  # 0.4 of CPU time of one child; both would be 0.8
