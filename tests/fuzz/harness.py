"""One attempt: give a target an input and see that it is accepted or refused, in bounded memory and time."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fedlama.errors import ConfigError, FedlamaError

MEMORY = 512 << 20
"""Bytes that reading one input may take on top of what the process has. All inputs are smaller than 1 MiB."""
SECONDS = 20
"""Seconds of processor time after which reading one input counts as a hang."""
_STATM = Path("/proc/self/statm")
LONGEST = 2000
"""Characters that the message of one problem may have."""


@dataclass(frozen=True)
class Target:
    """A reader under attack.

    Attributes:
        name: What to call it.
        make: Draws an input: a valid one, usually damaged afterwards.
        read: Reads an input, any bytes at all. It raises FedlamaError to refuse; whatever else it raises is a defect.
    """

    name: str
    make: Callable[[Random], bytes]
    read: Callable[[bytes], object]


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes:
        says: The refusal; empty when the input was accepted.
    """

    says: str


class Defect(AssertionError):  # noqa: N818  (an error of the reader, not of this program)
    """A reader let something else through than a refusal."""


def attempt(target: Target, data: bytes) -> Outcome:
    """Read an input.

    Args:
        target: Who reads.
        data: What.

    Raises:
        Defect: With the exception that should not have come out as its cause.
    """
    try:
        with _bounded():
            target.read(data)
    except FedlamaError as error:
        problems = error.problems if isinstance(error, ConfigError) else (str(error),)
        if not all(0 < len(problem) <= LONGEST for problem in problems):
            raise Defect(f"{target.name}: a message of {max(map(len, problems))} characters") from error
        return Outcome(str(error))
    except Exception as error:
        raise Defect(f"{target.name}: {type(error).__name__}: {error}"[:500]) from error
    return Outcome("")


def draw(target: Target, seed: object) -> bytes:
    """Return the input of a seed."""
    return target.make(Random(f"{target.name}/{seed}"))


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Refuse memory and processor time beyond what any of these inputs can need."""

    def hang(_number: int, _frame: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s of processor time")

    if not _STATM.exists():
        yield  # only Linux reports how much a process has
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(_STATM.read_text(encoding="ascii").split()[0])
    before = signal.signal(signal.SIGVTALRM, hang)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGVTALRM, before)
