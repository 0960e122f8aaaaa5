"""Every settings class takes NumPy's numbers as the Python numbers that they equal, and no boolean as a number."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any, get_type_hints

import numpy as np
import pytest

from fedlama.errors import ConfigError
from fedlama.experiment.sections import SECTIONS, options
from tests.structure.source import importable

REQUIRED: dict[str, Any] = {
    "absences": (),
    "active": 2,
    "alpha": 0.5,
    "base_interval": 3,
    "byzantine": 1,
    "chosen": 2,
    "client": 1,
    "clients": 4,
    "dataset": "name",
    "down": 1e6,
    "down_factor": 0.5,
    "first_round": 1,
    "increase_factor": 2,
    "intervals": {"a": 2},
    "last_round": 2,
    "learning_rate": 0.1,
    "local_steps": 12,
    "maximum": 1.0,
    "mu": 0.1,
    "name": "mine",
    "path": "folder",
    "penalty": 0.1,
    "recycled_layers": 1,
    "share": 0.1,
    "target": "y",
    "up": 1e6,
}
"""A value for each field without a default."""
NUMBERS = {int, float, int | None, float | None}


def settings_classes() -> list[type[Any]]:
    """Return every option that an experiment can name, and the frozen dataclasses whose numbers a user writes."""
    named = ["Settings", "Absence", "Link", "RoundPolicy", "Parts", "PadCropFlip"]
    named += ["Stacked", "Auto", "Workers", "Recorded", "Distributed"]
    classes = [option for section in SECTIONS for option in options(section).values()]
    for module in importable():
        found = vars(importlib.import_module(module)).values()
        classes += [value for value in found if getattr(value, "__name__", "") in named and isinstance(value, type)]
    return list(dict.fromkeys(classes))


def numeric_fields(cls: type[Any]) -> list[str]:
    hints = get_type_hints(cls)
    return [field.name for field in dataclasses.fields(cls) if field.init and hints[field.name] in NUMBERS]


def values(cls: type[Any]) -> dict[str, Any]:
    """Return keyword arguments that make an instance."""
    needed = [
        field.name
        for field in dataclasses.fields(cls)
        if field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return {name: REQUIRED[name] for name in needed}


CASES = [(cls, field) for cls in settings_classes() for field in numeric_fields(cls)]


def test_the_settings_are_found() -> None:
    names = {cls.__name__ for cls in settings_classes()}
    assert {"FedLAMA", "SGD", "Dirichlet", "Cifar", "MLPSettings", "Settings", "Absence", "Link", "Stacked"} <= names
    assert len(CASES) > 60


@pytest.mark.parametrize(("cls", "field"), CASES, ids=[f"{cls.__name__}.{field}" for cls, field in CASES])
def test_numpy_numbers_are_numbers_and_booleans_are_not(cls: type[Any], field: str) -> None:
    given = values(cls)
    if cls.__name__ == "Trace":
        pytest.skip("it takes absences only, which are tested by themselves")
    plain = cls(**given)
    value = getattr(plain, field)
    if value is None:
        other = 0.5 if "float" in str(get_type_hints(cls)[field]) else 4
        value = REQUIRED.get(field, other)
        value = value if isinstance(value, type(other)) else other  # one name may be a fraction here, a number there
        plain = cls(**{**given, field: value})
    for kind in (np.int64, np.int32) if isinstance(value, int) else (np.float64,):
        made = cls(**{**given, field: kind(value)})
        assert made == plain
        assert type(getattr(made, field)) is type(value)
    for truth in (True, np.True_):
        with pytest.raises(ConfigError, match=f"{field} is True, expected"):
            cls(**{**given, field: truth})
