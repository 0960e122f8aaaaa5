"""The mode that checks every access: the same bits as without it, and an access outside of an array is caught."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlama.kernels.modes import MODES, read_modes

ROOT = Path(__file__).parents[2]


def _python(arguments: list[str], modes: str, code: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in another process with some modes.

    Args:
        arguments: Those of Python.
        modes: Words of ``FEDLAMA_KERNELS``.
        code: A folder for machine code that LLVM has not optimised. With checks that would take minutes, and the bits
            do not depend on it.
    """
    environment = os.environ | {"FEDLAMA_KERNELS": modes}
    if code is not None:
        environment |= {"NUMBA_OPT": "0", "NUMBA_CACHE_DIR": str(code)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


_CHECKED = """
import sys

import numpy as np
import pytest
from fedlama.kernels.program import Program
from fedlama.engines import Stacked
from tests.engines.cases import federation
from tests.kernels.models import build, dense
from tests.kernels.results import results

np.savez(sys.argv[1], **results())
complete = Program._spans

def shorter(program, batch):
    spans, end = complete(program, batch)
    return [(begin, last - 65) for begin, last in spans], end

federation(Stacked(threads=1), model=build(dense)).run()
Program._spans = shorter
with pytest.raises(IndexError, match="^(enter_features|fedlama.kernels.images.enter_features|dense).* accesses memory"):
    federation(Stacked(threads=1), model=build(dense)).run()
print("caught")
"""


@pytest.mark.slow
def test_checked_mode_and_code_from_disk_give_the_same_bits(tmp_path: Path) -> None:
    """The same in checked mode, where afterwards an operation that leaves its region is caught."""
    pytest.importorskip("numba", reason="the extra 'fast' is not installed")
    from tests.kernels.results import recorded_run, results

    here = results()  # compiles, if nothing is on disk yet; the next process finds its code there
    file = tmp_path / "again.npz"
    run = _python(["-m", "tests.kernels.results", str(file)], "")
    assert run.returncode == 0, run.stderr
    assert _different(np.load(file), here | recorded_run()) == []
    file = tmp_path / "checked.npz"
    run = _python(["-c", _CHECKED, str(file)], "checked", tmp_path)
    assert run.stdout == "caught\n", run.stderr
    assert _different(np.load(file), here) == []


def _different(results: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return the names of results that differ, or that only some have."""
    both = results.keys() & expected.keys()
    differ = [name for name in both if not np.array_equal(results[name], expected[name], equal_nan=True)]
    return sorted([*differ, *(results.keys() ^ expected.keys())])


_MISTAKES = """
import numpy as np
import pytest
from fedlama.kernels.kernel import kernel
from fedlama.kernels.tiles import *
from fedlama.kernels.vectors import full

x, out = np.zeros(40, np.float32), np.zeros(40, np.float32)


@kernel
def number(memory, index):
    return floats(memory)[index]

@kernel
def write_number(memory, index):
    floats(memory)[index] = 1.0

@kernel
def vector(memory, index):
    store(floats(memory), 0, 16, load(floats(memory), index))

@kernel
def some(memory, index, count):
    store_some(floats(memory), index, 16, full(np.float32(1.0)), count)

@kernel
def rows(memory, index, stride):
    store(floats(memory), index, stride, tile(2, 1))

@kernel
def moved(memory, by, index):
    return offset(floats(memory), by)[index]

@kernel
def cut(memory, first, end, index):
    return part(floats(memory), first, end)[index]

@kernel
def past_caches(memory, index):
    stream(floats(memory), index, full(np.float32(1.0)))

@kernel
def ahead(memory):
    prefetch(floats(memory), 1 << 40)


right = [
    (number, 39), (write_number, 0), (vector, 24), (some, 39, 1), (some, 100, 0), (rows, 0, 24), (moved, 30, 9),
    (moved, 30, -30), (cut, 8, 24, 15), (ahead,),
]
wrong = [
    (number, 40), (number, -1), (write_number, 40), (vector, 25), (vector, -1), (some, 39, 2), (some, 25, 16),
    (rows, 0, 25), (rows, 0, -1), (moved, 30, 10), (moved, 30, -31), (cut, 8, 24, 16), (cut, 8, 24, -1),
]
for function, *arguments in right:
    function(x, *arguments)
for function, *arguments in wrong:
    before = x.copy()
    with pytest.raises(IndexError, match="accesses memory outside of the array"):
        function(x, *arguments)
    if function is not rows:
        assert np.array_equal(before, x), function
aligned = np.zeros(64, np.float32)
aligned = aligned[-aligned.ctypes.data // 4 % 16 :][:32]
past_caches(aligned, 16)
with pytest.raises(IndexError):
    past_caches(aligned, 8)
with pytest.raises(IndexError, match="__main__.number"):
    number(x, 40)
print("caught")
"""


def test_an_access_outside_of_an_array_is_caught(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="the extra 'fast' is not installed")
    run = _python(["-c", _MISTAKES], "checked", tmp_path)
    assert run.stdout == "caught\n", run.stderr


def test_modes_are_words_separated_by_commas() -> None:
    assert read_modes("") == frozenset()
    assert read_modes(" checked ,direct,") == {"checked", "direct"}
    with pytest.raises(ValueError, match="FEDLAMA_KERNELS has the word 'fast', expected some of checked, direct, off"):
        read_modes("checked,fast")


def test_kernels_can_be_switched_off() -> None:
    if "off" not in MODES:
        run = _python(["-c", "from fedlama.kernels import can_compile; print(can_compile())"], "off")
        assert run.stdout == "False\n", run.stderr


def test_winograds_algorithm_can_be_switched_off() -> None:
    code = "from fedlama.kernels.tiling import pays; print(pays((16, 32, 32), (16, 32, 32), 32, 3, 1))"
    assert [_python(["-c", code], modes).stdout for modes in ("", "direct")] == ["True\n", "False\n"]
