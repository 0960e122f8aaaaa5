"""The targets under the guidance of coverage: ``python -m tests.fuzz.guided upload``, with atheris installed.

Further arguments are libFuzzer's, such as ``-max_total_time=600``.
"""

from __future__ import annotations

import importlib
import logging
import sys


def main() -> None:
    """Fuzz one target until libFuzzer has enough; a defect ends it with its traceback."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["fedlama"]):  # only what is imported in here is watched
        from tests.fuzz.harness import attempt, draw
        from tests.fuzz.targets import TARGETS

    logging.disable()
    target = {target.name: target for target in TARGETS}[sys.argv.pop(1)]

    def look(data: bytes) -> None:
        # Noise alone never gets far, so that a byte chooses: the rest is an input, or the seed of a damaged valid one.
        attempt(target, data[1:] if data[:1] < b"\x80" else draw(target, data[1:].hex()))

    atheris.Setup(sys.argv, look)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
