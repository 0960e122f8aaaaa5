"""Partial model averaging on every engine, and from a checkpoint: layers are never all in sync."""

from __future__ import annotations

import pytest
import torch

import fedlama as fl
from tests.engines.cases import assert_same, run
from tests.resume.test_exact import ENGINES_HERE, assert_exact, federation

CHOICES = {"strategy": fl.PartialAveraging(2, parts=2), "sampler": fl.AllClients()}


@pytest.mark.parametrize("engine", [fl.Stacked(), fl.Stacked(chunk=2), fl.Workers(threads=2), fl.Recorded()], ids=str)
def test_engines_agree(engine: fl.Stacked | fl.Workers | fl.Recorded) -> None:
    assert_same(run(engine, **CHOICES), run("loop", **CHOICES))


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_a_run_goes_on_from_any_round(engine: str) -> None:
    assert_exact(federation(engine, **CHOICES))


def test_fednova_agrees_on_every_engine() -> None:
    choices = {
        "strategy": fl.FedAvg(3),
        "weighting": "fednova",
        "solver": fl.SGD(0.05),
        "local_work": fl.LocalWork(epochs=1, straggler_share=0.4),
    }
    expected = run("loop", **choices)
    for engine in (fl.Stacked(), fl.Workers(threads=2), fl.Recorded()):
        assert_same(run(engine, **choices), expected)
    plain = run("loop", **(choices | {"weighting": "samples"}))
    assert not all(torch.equal(plain.model[name], value) for name, value in expected.model.items())
