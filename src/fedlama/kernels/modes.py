"""How the kernels work in this process, as the environment chooses when they are imported.

The environment variable ``FEDLAMA_KERNELS`` holds words separated by commas:

- ``checked``: every access to memory is compared with the bounds of the array that was handed in, and one outside of
  them raises an IndexError. The loops are the same; they take several times as long. For tests and for new kernels.
- ``direct``: convolutions never use Winograd's algorithm, whose rounding errors are about twice as large.
- ``off``: as if Numba were not installed.
"""

from __future__ import annotations

import os
from typing import Final

_WORDS = ("checked", "direct", "off")


def read_modes(text: str) -> frozenset[str]:
    """Read the words of ``FEDLAMA_KERNELS``.

    Args:
        text: Words separated by commas; may be empty.

    Raises:
        ValueError: A word is unknown.

    >>> sorted(read_modes("checked, direct"))
    ['checked', 'direct']
    """
    modes = frozenset(word.strip() for word in text.split(",") if word.strip())
    for word in sorted(modes):
        if word not in _WORDS:
            raise ValueError(f"FEDLAMA_KERNELS has the word {word!r}, expected some of {', '.join(_WORDS)}")
    return modes


MODES: Final = read_modes(os.environ.get("FEDLAMA_KERNELS", ""))
CHECKED: Final = "checked" in MODES
"""Whether every access to memory is checked; it is compiled into the kernels, so it holds for the whole process."""
