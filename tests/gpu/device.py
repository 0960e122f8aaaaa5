"""The device under test, and runs on it that are compared with runs of the loop engine on the CPU.

``FEDLAMA_TEST_DEVICE=cpu`` lets the tests run without a GPU: on the CPU the same steps run unrecorded. It shows that
the tests are right, and little of what they are for.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import fedlama as fl

DEVICE = torch.device(os.environ.get("FEDLAMA_TEST_DEVICE", "cuda"))
MISSING = DEVICE.type == "cuda" and not torch.cuda.is_available()
ON_DEVICE = [
    pytest.mark.gpu,
    pytest.mark.skipif(MISSING, reason="needs a GPU; FEDLAMA_TEST_DEVICE=cpu runs this on the CPU instead"),
    pytest.mark.filterwarnings("default"),  # torch's other versions have other deprecations
    pytest.mark.usefixtures("plain_numbers"),
]
"""The marks of all tests of this folder."""
ENGINES: dict[str, Any] = {
    "auto": fl.Auto(),
    "recorded": fl.Recorded(),
    "recorded, 2 lanes, share of 2": fl.Recorded(lanes=2, share=2),
    "stacked": fl.Stacked(),
}
"""The engines under test. A share of 2 makes several shares of a cohort, and several clients use one recording."""
SLOWER = r".*(cannot be vectorised|goes on client by client|cannot be recorded|not recorded|without torch\.compile)"
"""Warnings that a model is computed in a slower way than the engine is for."""


@contextmanager
def no_fallback() -> Iterator[None]:
    """Fail where an engine warns that it goes on in a slower way."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=SLOWER)
        yield


@dataclass(frozen=True)
class Case:
    """A federation that is to give the same on the device as in the loop engine on the CPU.

    Attributes:
        changes: Makes the settings in which it differs from that of :mod:`tests.engines.cases`.
        tolerance: How far results may differ, absolute and relative.
        engines: Which of :data:`ENGINES` serve it.
    """

    changes: Callable[[], Mapping[str, Any]]
    tolerance: float = 1e-4
    engines: tuple[str, ...] = tuple(ENGINES)


def pairs(cases: Mapping[str, Case]) -> list[Any]:
    """Return each case with each of its engines, as pytest's parameters."""
    return [
        pytest.param(name, engine, id=f"{name}-{engine}") for name, case in cases.items() for engine in case.engines
    ]


def on_cpu(result: fl.Result) -> fl.Result:
    """Return a result whose tensors are on the CPU."""
    rounds = [
        replace(record, client_models={client: _moved(values) for client, values in record.client_models.items()})
        for record in result.rounds
    ]
    return replace(result, model=_moved(result.model), rounds=tuple(rounds))


def _moved(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in values.items()}


def on_device(given: fl.Federation, engine: Any) -> fl.Federation:  # noqa: ANN401
    """Return a federation that runs on the device under test."""
    return replace(given, engine=copy.copy(engine), device=str(DEVICE))


def assert_same_bits(first: fl.Result, second: fl.Result) -> None:
    """Compare the models, losses and layer records of two runs to the last bit."""
    first, second = on_cpu(first), on_cpu(second)
    assert [record.loss for record in first.rounds] == [record.loss for record in second.rounds]
    assert [record.layers for record in first.rounds] == [record.layers for record in second.rounds]
    for name, value in second.model.items():
        assert torch.equal(first.model[name], value), name
    for ours, theirs in zip(first.rounds, second.rounds, strict=True):
        for client, values in theirs.client_models.items():
            for name, value in values.items():
                assert torch.equal(ours.client_models[client][name], value), (client, name)
