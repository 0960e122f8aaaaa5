"""Compiled chains against the loop engine, their kernels against PyTorch's, and the way without Numba."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedlama.choices.samplers import AllClients
from fedlama.choices.solvers import SGD, FedProx
from fedlama.choices.solvers.base import StateScope
from fedlama.choices.strategies import Cyclic, FedLAMA
from fedlama.engines import Stacked
from fedlama.engines.cohort.cohort import Cohort
from fedlama.engines.trainers import numba as compiled
from fedlama.errors import DivergenceError
from fedlama.federation.run import Run
from tests.engines.cases import assert_same, clients, federation, run
from tests.kernels.models import MODELS, Residual, build, convolutions, dense, dropout, long, strided, wide

pytest.importorskip("numba", reason="the extra 'fast' is not installed")


SOLVERS = [
    SGD(0.05),
    SGD(0.05, weight_decay=0.02),
    SGD(0.05, momentum=0.9, weight_decay=0.01, warm_up_steps=5, decay_at=(7,)),
    FedProx(0.05, proximal=0.3),
    FedProx(0.05, momentum=0.8, weight_decay=0.01, proximal=0.3),
]


def _label(**choices: Any) -> str:  # noqa: ANN401
    return str(Run(federation(Stacked(), **choices)).engine.label)


@pytest.mark.selection
@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_same_as_loop(make: Callable[[], nn.Module], solver: SGD) -> None:
    choices = {"model": build(make), "solver": solver}
    assert _label(**choices).startswith("NumbaTrainer")
    assert_same(run(Stacked(), **choices), run("loop", **choices))


@pytest.mark.selection
@pytest.mark.parametrize("batch", [1, 15, 16, 21, 33])
@pytest.mark.parametrize("make", [convolutions, strided, long, dropout])
def test_batches_that_fill_no_vector(make: Callable[[], nn.Module], batch: int) -> None:
    sizes = (40, 34, 71, 36, 33)
    choices = {"model": build(make), "clients": clients(sizes, batch), "local_steps": 8}
    assert_same(run(Stacked(), **choices), run("loop", **choices))


def test_frozen_layers() -> None:
    choices = {"model": build(wide), "strategy": Cyclic(2, layers_per_turn=1), "local_steps": 12}
    assert _label(**choices).startswith("NumbaTrainer")
    assert_same(run(Stacked(), **choices), run("loop", **choices))


@pytest.mark.parametrize("make", [long, convolutions, Residual])
@pytest.mark.parametrize("scope", ["round", "cohort"])
def test_fresh_velocities_need_not_be_written(
    make: Callable[[], nn.Module], scope: StateScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = FedProx(0.05, momentum=0.8, weight_decay=0.01, proximal=0.3, state_scope=scope)
    choices = {"model": build(make), "solver": solver, "strategy": Cyclic(2, layers_per_turn=1), "local_steps": 12}
    loop = run("loop", **choices)
    flush, left_out = Cohort.flush, []

    def flush_among_nonsense(cohort: Cohort, caller_starts: Sequence[int] = ()) -> bool:
        if caller_starts and cohort._pending_from == 0:
            for buffer in cohort._optimizer_state["velocity"]:
                buffer.fill_(torch.nan)
        left_out.append(flush(cohort, caller_starts))
        return left_out[-1]

    monkeypatch.setattr(Cohort, "flush", flush_among_nonsense)
    unwritten = run(Stacked(), **choices)
    assert any(left_out)
    assert_same(unwritten, loop)
    monkeypatch.setattr(Cohort, "flush", lambda cohort, **_: flush(cohort))
    assert_same(unwritten, run(Stacked(), **choices), 0.0)


def test_velocities_of_layers_that_are_not_trained_are_fresh_in_an_export() -> None:
    solver = SGD(0.05, momentum=0.9, state_scope="round")
    states = []
    for engine in ("loop", Stacked()):
        choices = {"model": build(long), "solver": solver, "strategy": Cyclic(2, layers_per_turn=1)}
        advanced = Run(federation(engine, **choices, local_steps=12))
        for _ in range(4):
            advanced.advance()
        states.append(advanced.engine.state_dict().optimizer_state["velocity"])
    still = [name for name, velocity in states[0].items() if not velocity.any()]
    assert still
    assert still == [name for name, velocity in states[1].items() if not velocity.any()]


def test_a_parameter_that_is_never_trained() -> None:
    model = build(dense)
    next(model.parameters()).requires_grad_(False)
    assert_same(run(Stacked(), model=model), run("loop", model=model))


@pytest.mark.parametrize("make", [convolutions, dropout])
def test_any_chunk_and_any_number_of_threads_give_the_same_bits(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_WORTH", 1)  # so that threads take part even in so small a slice
    choices = {"model": build(make), "sampler": AllClients(), "strategy": FedLAMA(2, 2)}
    expected = run(Stacked(chunk=5, threads=1), **choices)
    for engine in (Stacked(chunk=1, threads=1), Stacked(chunk=2, threads=3), Stacked(chunk=5, threads=4)):
        other = run(engine, **choices)
        assert all(torch.equal(value, expected.model[name]) for name, value in other.model.items())
        assert_same(other, expected, 0.0)


def test_steps_gathered_in_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = {"model": build(dense), "strategy": FedLAMA(6, 2)}
    expected = run(Stacked(), **choices)
    monkeypatch.setattr("fedlama.engines.cohort.batches._ROOM", 1)
    assert_same(run(Stacked(), **choices), expected, 0.0)


@pytest.mark.parametrize("make", [dense, dropout, Residual])
def test_data_that_lie_as_the_model_takes_them_give_the_same_bits(make: Callable[[], nn.Module]) -> None:
    prepared, plain = clients(), clients(prepare=None)
    plain.x = plain.x.float() / 128 - 1
    choices = {"model": build(make), "sampler": AllClients()}
    expected = run(Stacked(), clients=prepared, **choices)
    assert_same(run(Stacked(), clients=plain, **choices), expected, 0.0)
    plain.x = plain.x.transpose(2, 3).contiguous().transpose(2, 3)  # not dense, so they have to be gathered
    assert_same(run(Stacked(), clients=plain, **choices), expected, 0.0)


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_that_share_clients_take_each_of_them_once(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_WORTH", 1)
    source = clients((8,) * 40, prepare=None)
    source.x = source.x.float() / 128 - 1
    choices = {"model": build(dense), "clients": source, "sampler": AllClients(), "local_steps": 4}
    assert_same(run(Stacked(threads=threads), **choices), run(Stacked(threads=threads, chunk=1), **choices), 0.0)


@pytest.mark.parametrize("threads", [1, 3])
def test_divergence_stops_the_client_at_the_step_at_which_loop_stops(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_WORTH", 1)
    source = clients()
    source.x = source.x.float()
    source.x[np.concatenate(source.rows[3:])] = 1e25
    choices = {"clients": source, "sampler": AllClients(), "model": build(dense)}
    errors = []
    for engine in ("loop", Stacked(threads=threads)):
        with pytest.raises(DivergenceError) as raised:
            run(engine, **choices)
        errors.append((raised.value.client, raised.value.layer, raised.value.round_index))
    assert errors[0] == errors[1]


def test_without_numba_the_chain_of_torch_kernels_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = {"model": build(convolutions)}
    expected = run(Stacked(), **choices)
    monkeypatch.setattr(compiled, "can_compile", lambda: False)
    monkeypatch.setattr("fedlama.engines.cohort.averaging.can_compile", lambda: False)
    assert _label(**choices).startswith("TorchChainTrainer")
    assert_same(run(Stacked(), **choices), expected)


@pytest.mark.parametrize(
    "choices",
    [
        {"solver": SGD(0.05, momentum=0.9, velocity="step")},
        {"model": nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 5))},
    ],
    ids=["velocity", "groups"],
)
def test_what_has_no_compiled_form_takes_the_other_way(choices: dict[str, Any]) -> None:
    assert _label(**({"model": build(dense)} | choices)).startswith("TorchChainTrainer")


def test_batch_norm_of_a_single_number_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 6), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5))
    choices = {"model": model, "clients": clients((40, 34, 71, 36, 33), 1)}
    assert _label(**choices).startswith("NumbaTrainer")
    for engine in ("loop", Stacked()):
        with pytest.raises(ValueError, match=r"more than (1|one)"):
            run(engine, **choices)
