"""Settings on the command line: one per line of the input, the experiment's name first."""

from __future__ import annotations

import json
from random import Random

from fedlama.experiment import read, resolve
from fedlama.experiment.sections import SECTIONS, options
from tests.fuzz.damage import damage_text
from tests.fuzz.harness import Target
from tests.fuzz.targets.words import CHOICES, KEYS, TOML


def _make(draw: Random) -> bytes:
    lines = [draw.choice([b"digits"] * 8 + [b"cifar10-resnet20", b"nothing"])]
    for _ in range(draw.choice((1, 1, 2, 3))):
        section = draw.choice(sorted(SECTIONS))
        choice = draw.choice(list(options(section).values()))
        key = draw.choice(["name", *choice.__dataclass_fields__, draw.choice(KEYS)])
        usual = getattr(choice, key, None)  # a field's default
        value = json.dumps(usual).encode() if isinstance(usual, (bool, int, float, str)) else b"1"
        strange = (b"0", b"4", b"0.5", b"true", b"[1]", b"{a=[1]}", draw.choice(CHOICES).encode())
        lines.append(f"{section}.{key}=".encode() + draw.choice((value, value, draw.choice(strange))))
    settings = b"\n".join(lines[1:])
    return lines[0] + b"\n" + (settings if draw.random() < 0.3 else damage_text(draw, settings, TOML))


def _read(data: bytes) -> None:
    name, *given = data.decode("utf-8", "surrogateescape").split("\n")  # as Python decodes a command line
    json.dumps(resolve(read(name, given)).to_json(), allow_nan=False)


TARGET = Target("overrides", _make, _read)
