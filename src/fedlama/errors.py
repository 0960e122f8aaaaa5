"""The errors that fedlama raises for a person to read, and the wording helpers they share.

Every message says what was given, what was expected and what to do about it.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable, Sequence


class FedlamaError(Exception):
    """Base of every error that fedlama raises on purpose.

    Attributes:
        exit_code: What the command line ends with after it.
    """

    exit_code = 2


class ConfigError(FedlamaError, ValueError):
    """A configuration that cannot be run; holds every problem found, not only the first.

    Args:
        problems: One sentence per problem.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(FedlamaError, ValueError):
    """Data that cannot be used: missing, truncated, mislabelled or not finite."""


class DivergenceError(FedlamaError, ArithmeticError):
    """A run that left the finite numbers, with the place where it happened.

    Args:
        round_index: The round, counted from 0.
        client: The client whose values are not finite.
        layer: The first layer that is not finite on that client.
        detail: What was seen there.
        remedy: What to do about it.
    """

    def __init__(
        self,
        round_index: int,
        client: int,
        layer: str,
        detail: str,
        remedy: str = "lower the learning rate, warm it up over more steps, or check that client's data",
    ) -> None:
        self.detail = detail
        self.round_index = round_index
        self.client = client
        self.layer = layer
        super().__init__(f"round {round_index}: client {client} diverged in layer {layer!r} ({detail}); {remedy}")


class MissingExtraError(FedlamaError, ImportError):
    """An optional library is not installed; names the extra that brings it.

    Args:
        library: The library that could not be imported.
        extra: The extra of fedlama that installs it.
    """

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed; install it with: pip install 'fedlama[{extra}]'")


class TrainingWarning(UserWarning):
    """A run goes on, or has ended, but its figures say that it learns nothing."""


class ExplodedLossWarning(TrainingWarning):
    """The loss of a run is far above what it began with."""


class ChanceAccuracyWarning(TrainingWarning):
    """The accuracy of a run is not above that of a constant answer."""


_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, marks that reorder text, line separators, and halves of surrogate pairs."""
_LISTED = 330
"""Characters of a list of known names in a message; a longer one is cut."""
_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP, errno.ENXIO)


def printable(text: object) -> str:
    r"""Return a text with the characters escaped that a terminal obeys, or that no file can be encoded with.

    File and folder names, and what files of other people hold, may contain the escape codes of a terminal.

    Args:
        text: Any text, or what has one, such as a path.

    >>> printable("red \x1b[31m\tü \udcff")
    'red \\x1b[31m\tü \\udcff'
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), str(text))


def write_remedy(error: OSError, elsewhere: str = "choose another folder (--out, or out in Python)") -> str:
    """Return what to do about a file that cannot be written, by the reason.

    Args:
        error: The error of the operating system.
        elsewhere: What the user can do instead.

    >>> write_remedy(OSError(errno.EISDIR, "Is a directory", "."))
    '. is in the way: remove or rename it, or choose another folder (--out, or out in Python)'
    >>> write_remedy(OSError(errno.ENOSPC, "No space left on device"), "give another file")
    'free some disk space, or give another file'
    """
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return f"free some disk space, or {elsewhere}"
    if error.errno in _IN_THE_WAY:
        return f"{_obstacle(error.filename2 or error.filename)} is in the way: remove or rename it, or {elsewhere}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"allow writing there, or {elsewhere}"
    return f"check the path and the disk, or {elsewhere}"


def _obstacle(given: str | bytes | None) -> str:
    """Return what is where a file or folder is wanted: the path, or the first above it that exists."""
    if not given:
        return "another file or folder of that name"
    path = os.fsdecode(given)
    while not os.path.lexists(path) and os.path.dirname(path) not in ("", path):
        path = os.path.dirname(path)
    return printable(path)


def without_remedy(error: object) -> str:
    """Return what an error says without its remedy, for a caller that does the remedy itself.

    >>> without_remedy("the line is cut off; train the run again")
    'the line is cut off'
    """
    return str(error).rpartition("; ")[0] or str(error)


def shown(value: object) -> str:
    """Return what was given for a message, cut where it is too long to read."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def cut(error: object, limit: int = 300) -> str:
    """Return what another library says of an error, on one line and cut where it is too long to read."""
    text = printable(" ".join(str(error).split()))
    return text if len(text) <= limit else f"{text[:limit]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Word the nearest known name as a suffix for a message, or list all when none is near.

    Args:
        name: What was given.
        known: The names that would have been accepted.

    Returns:
        A clause that starts with ``"; "``.

    >>> did_you_mean("momentun", ["momentum", "learning_rate"])
    "; did you mean 'momentum'?"
    >>> did_you_mean("zzz", ["a", "b"])
    '; known are: a, b'
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    listed = ", ".join(names) or "(none)"
    if len(listed) > _LISTED:  # whole names only
        listed = f"{listed[:_LISTED].rpartition(', ')[0]}, ... ({len(names)} in all)"
    return f"; known are: {listed}"
