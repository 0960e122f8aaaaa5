"""The rows, in order of importance: a run that is cut short has the first ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.gpu.central import central
from benchmarks.gpu.cohorts import engine_of, resident, resnet_clients, rounds, unequal
from benchmarks.gpu.models import SMALL, small, text, wide
from benchmarks.gpu.setting import Numbers, Setting, Values
from benchmarks.gpu.state import repeated_bits, synchronisation


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        numbers: What it computes in.
        measure: Measures it.
        limit: Seconds after which it is ended.
    """

    numbers: Numbers
    measure: Callable[[Setting], Values]
    limit: float = 30.0


def _resnet(kind: str, numbers: Numbers, limit: float = 30.0, **options: Any) -> Row:  # noqa: ANN401
    def measure(setting: Setting) -> Values:
        # The loop's rate does not depend on the number of clients.
        clients = setting.size(16, 2) if kind == "loop" else None
        return rounds(setting, resnet_clients(setting, clients), engine_of(kind, numbers, **options))

    return Row(numbers, measure, limit)


def _central(numbers: Numbers, compiled: bool = False) -> Row:
    return Row(numbers, partial(central, numbers=numbers, compiled=compiled), 90.0 if compiled else 30.0)


def _unequal(numbers: Numbers, skewed: bool) -> Row:
    return Row(numbers, partial(unequal, numbers=numbers, skewed=skewed), 40.0)


def _small(name: str, kind: str, numbers: Numbers) -> Row:
    return Row(numbers, partial(small, numbers=numbers, name=name, kind=kind), 20.0)


def _text(model: str, kind: str, numbers: Numbers) -> Row:
    return Row(numbers, partial(text, numbers=numbers, model=model, kind=kind))


def _wide(kind: str, numbers: Numbers) -> Row:
    return Row(numbers, partial(wide, numbers=numbers, kind=kind))


_KINDS: tuple[tuple[str, Numbers], ...] = (
    ("recorded", "float32"),
    ("stacked", "float32"),
    ("recorded", "bfloat16"),
    ("stacked", "bfloat16"),
)

ROWS: dict[str, Row] = {
    "central/bfloat16": _central("bfloat16"),
    "resnet20/recorded/bfloat16": _resnet("recorded", "bfloat16"),
    "central/tf32": _central("tf32"),
    "resnet20/recorded/tf32": _resnet("recorded", "tf32"),
    "resnet20/loop/tf32": _resnet("loop", "tf32"),
    "synchronisation/wrn-28-10": Row("float32", partial(synchronisation, model="wrn")),
    "unequal/equal/bfloat16": _unequal("bfloat16", skewed=False),
    "unequal/skewed/bfloat16": _unequal("bfloat16", skewed=True),
    "unequal/equal/tf32": _unequal("tf32", skewed=False),
    "unequal/skewed/tf32": _unequal("tf32", skewed=True),
    "central/bfloat16/compiled": _central("bfloat16", compiled=True),
    "resnet20/recorded/bfloat16/compiled": _resnet("recorded", "bfloat16", 90.0, compile_steps=True),
    "resident/recorded/bfloat16": Row("bfloat16", partial(resident, numbers="bfloat16"), 40.0),
    "repeat/recorded": Row("float32", partial(repeated_bits, kind="recorded")),
    "repeat/stacked": Row("float32", partial(repeated_bits, kind="stacked")),
    "resnet20/recorded/bfloat16/8-lanes": _resnet("recorded", "bfloat16", lanes=8),
    "resnet20/recorded/bfloat16/32-lanes": _resnet("recorded", "bfloat16", lanes=32),
    "wrn-28-10/recorded/bfloat16": _wide("recorded", "bfloat16"),
    "gpt/recorded/bfloat16": _text("gpt", "recorded", "bfloat16"),
    "lstm/recorded/bfloat16": _text("lstm", "recorded", "bfloat16"),
    **{f"{name}/{kind}/{numbers}": _small(name, kind, numbers) for name in SMALL for kind, numbers in _KINDS},
    "leaf-cnn/recorded/tf32": _small("leaf-cnn", "recorded", "tf32"),
    "leaf-cnn/stacked/tf32": _small("leaf-cnn", "stacked", "tf32"),
    "wrn-28-10/loop/tf32": _wide("loop", "tf32"),
    "gpt/loop/tf32": _text("gpt", "loop", "tf32"),
    "lstm/loop/tf32": _text("lstm", "loop", "tf32"),
    "central/float32": _central("float32"),
    "resnet20/recorded/float32": _resnet("recorded", "float32"),
    "resnet20/stacked/tf32": _resnet("stacked", "tf32"),
    "resnet20/stacked/float32": _resnet("stacked", "float32"),
    "resnet20/auto/bfloat16": _resnet("auto", "bfloat16"),
    "resnet20/auto/tf32": _resnet("auto", "tf32"),
    "mlp-64/auto/float32": _small("mlp-64", "auto", "float32"),
    "synchronisation/resnet20": Row("float32", partial(synchronisation, model="resnet20")),
    "gpt/recorded/tf32": _text("gpt", "recorded", "tf32"),
    "lstm/recorded/tf32": _text("lstm", "recorded", "tf32"),
    "wrn-28-10/recorded/tf32": _wide("recorded", "tf32"),
    "resnet20/recorded/tf32/compiled": _resnet("recorded", "tf32", 90.0, compile_steps=True),
    "central/tf32/compiled": _central("tf32", compiled=True),
}
"""The rows by name: what is trained, how, and in which numbers."""


def chosen(prefixes: list[str]) -> list[str]:
    """Return the rows whose names begin with one of these words; all of them without words.

    >>> chosen(["repeat"])
    ['repeat/recorded', 'repeat/stacked']
    """
    return [name for name in ROWS if not prefixes or name.startswith(tuple(prefixes))]
