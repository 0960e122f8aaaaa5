"""The parts of the stacked engine, one at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedlama.choices.codecs import Float32
from fedlama.choices.solvers import SGD
from fedlama.choices.solvers.base import StateScope
from fedlama.choices.tasks import Classification
from fedlama.core.layers import by_tensor
from fedlama.data.clients import TensorClients
from fedlama.engines import Auto, EngineSetup, Stacked
from fedlama.engines.cohort.averaging import (
    flat_one,
    flat_rows,
    mean_and_discrepancy,
    physical_order,
    unflat_one,
    write_back,
)
from fedlama.engines.cohort.batches import CohortBatches
from fedlama.engines.cohort.cohort import Cohort
from fedlama.engines.cohort.storage import DeviceStorage
from fedlama.engines.cohort.threads import WorkerThreads, cores
from fedlama.engines.forward_cost import forward_multiply_adds
from fedlama.engines.options import choose
from fedlama.errors import ConfigError
from fedlama.models import char_transformer, mlp, resnet20
from tests.engines.cases import assert_same, clients, order_of, run


def _setup(model: nn.Module, source: TensorClients) -> EngineSetup:
    device = torch.device("cpu")
    return EngineSetup(model, by_tensor(model), source, SGD(0.1), Float32(), Classification(), 0, device)


@pytest.mark.parametrize("first", [(0, 0, 0, 0, 0), (5, 3, 0, 17, 2)])
def test_rows_of_a_cohort_are_those_of_each_client(first: tuple[int, ...]) -> None:
    source = clients(sizes=(12, 10, 14, 12, 3), short_clients=True)
    rows, lengths = source.cohort_rows(range(5), first, 7, seed=3)
    for client in range(5):
        for step in range(7):
            own = source.batch_rows(client, first[client] + step, 3)
            assert lengths[step, client] == len(own)
            assert np.array_equal(rows[step, client, : len(own)], own)


@pytest.mark.parametrize("first", [(0, 0, 0, 0, 0, 0), (5, 3, 0, 17, 2, 1000)])
@pytest.mark.parametrize("steps", [1, 9])
def test_rows_drawn_by_the_kernel_are_the_same(first: tuple[int, ...], steps: int) -> None:
    pytest.importorskip("numba", reason="the extra 'fast' is not installed")
    sizes, batch_sizes = (12, 1, 140, 2, 3, 257), (4, 1, 33, 5, 2, 16)
    ends = np.cumsum([0, *sizes])
    rows = [np.arange(end - size, end)[::-1] for size, end in zip(sizes, ends[1:], strict=True)]
    x = torch.arange(1.0, ends[-1] + 1)[:, None]
    source = TensorClients(x, torch.arange(ends[-1]), rows, batch_sizes, short_clients=True)
    clients = (5, 0, 1, 2, 4, 3)
    expected, expected_lengths = source.cohort_rows(clients, first, steps, seed=-3)
    (given,) = CohortBatches(source, torch.device("cpu"), -3).blocks(clients, first, steps)
    assert np.array_equal(given.y.numpy()[given.rows], expected)
    assert np.array_equal(given.x.squeeze(-1).numpy()[given.rows], expected + 1.0)
    assert np.array_equal(given.lengths, expected_lengths)


def test_mean_and_discrepancy_of_literal_numbers() -> None:
    stacked = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    mean, apart = mean_and_discrepancy(stacked, weights, True, WorkerThreads(1))
    assert mean.tolist() == [2.5, 5.0]
    assert apart == pytest.approx(0.25 * (1.5**2 + 3**2) + 0.75 * (0.5**2 + 1))
    assert mean_and_discrepancy(stacked, weights, False, WorkerThreads(1))[1] == 0.0
    counts = torch.tensor([[1, 9], [4, 9]])  # 0.25 + 3 = 3.25, rounded
    mean, apart = mean_and_discrepancy(counts, weights, True, WorkerThreads(1))
    assert (mean.tolist(), apart) == ([3, 9], 0.25 * 4 + 0.75 * 1)


def test_a_mean_has_the_shape_of_one_client_however_rows_lie() -> None:
    dense = torch.arange(48.0).reshape(2, 2, 3, 4)
    turned = dense.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    for stacked in (dense, turned):
        mean, apart = mean_and_discrepancy(stacked, weights, True, WorkerThreads(1))
        assert mean.is_contiguous()
        assert torch.equal(mean, torch.arange(12.0, 36.0).reshape(2, 3, 4))
        assert apart == 24 * 12.0**2  # every number is 12 from the mean
    mean, _ = mean_and_discrepancy(torch.tensor([1.0, 3.0]), weights, True, WorkerThreads(1))
    assert mean.shape == ()
    assert mean == 2.0


def test_blocks_cover_everything() -> None:
    stacked = torch.randn(3, 300_001, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    mean, apart = mean_and_discrepancy(stacked, weights, True, WorkerThreads(2))
    exact = weights @ stacked.double()
    torch.testing.assert_close(mean.double(), exact, atol=1e-6, rtol=1e-6)
    expected = float((weights[:, None] * (stacked.double() - exact) ** 2).sum())
    assert apart == pytest.approx(expected, rel=1e-6)
    write_back(stacked, mean, WorkerThreads(2))
    assert (stacked == mean).all()


def _started(scope: StateScope) -> tuple[Cohort, Callable[[float], dict[str, Tensor]]]:
    """A cohort of clients 4 and 7, all of whose numbers are 1, and a way to write such a model."""
    setup = replace(_setup(nn.Linear(2, 1), clients()), solver=SGD(0.1, momentum=0.9, state_scope=scope))
    cohort = Cohort(setup, DeviceStorage(setup.device), channels_last=False)

    def model(number: float) -> dict[str, Tensor]:
        return {"weight": torch.full((1, 2), number), "bias": torch.full((1,), number)}

    cohort.start_cohort([4, 7], model(1.0))
    return cohort, model


def _numbers(cohort: Cohort) -> list[list[float]]:
    """Every client's weights and bias."""
    state = cohort.state_dict()
    return torch.cat([state.values["weight"].flatten(1), state.values["bias"]], 1).tolist()


def test_whoever_looks_at_a_row_finds_what_is_due() -> None:
    cohort, model = _started("cohort")
    assert cohort.client_values(7)["weight"].tolist() == [[1.0, 1.0]]
    cohort.overwrite({"bias": torch.full((1,), 5.0)})
    assert cohort.stacked("bias").tolist() == [[5.0], [5.0]]
    cohort.overwrite(model(2.0))
    cohort.overwrite({"bias": torch.full((1,), 3.0)})
    assert cohort.stacked("weight").tolist() == [[[2.0, 2.0]]] * 2
    assert _numbers(cohort) == [[2.0, 2.0, 3.0]] * 2
    cohort.overwrite({"bias": torch.full((1,), 4.0)})
    cohort.start_cohort([1, 4], model(6.0))  # the bias of 4 must not come after this
    assert _numbers(cohort) == [[6.0, 6.0, 6.0]] * 2


def test_what_is_due_is_written_once() -> None:
    cohort, model = _started("cohort")
    cohort.overwrite(model(2.0))
    cohort.flush()
    cohort.view().part(slice(0, 1)).values["weight"].fill_(8.0)  # a client trains
    cohort.flush()
    assert _numbers(cohort) == [[8.0, 8.0, 2.0], [2.0, 2.0, 2.0]]


def test_a_state_taken_up_is_not_overwritten_by_what_was_due_before() -> None:
    cohort, model = _started("cohort")
    cohort.flush()
    cohort.view().optimizer_state["velocity"][0].fill_(3.0)
    state = cohort.state_dict()
    cohort.overwrite(model(2.0))
    cohort.reset_optimizer_state()
    cohort.load_state_dict(state)
    assert _numbers(cohort) == [[1.0, 1.0, 1.0]] * 2
    assert cohort.state_dict().optimizer_state["velocity"]["weight"].tolist() == [[[3.0, 3.0]]] * 2


@pytest.mark.parametrize(
    ("scope", "left"), [("cohort", [0.0, 0.0, 0.0]), ("slot", [3.0, 3.0, 0.0]), ("round", [0.0, 0.0, 0.0])]
)
def test_velocities_of_a_new_cohort(scope: StateScope, left: list[float]) -> None:
    cohort, model = _started(scope)
    cohort.flush()
    cohort.view().optimizer_state["velocity"][1].fill_(3.0)
    cohort.start_cohort([0, 1], model(2.0))
    cohort.start_cohort([0, 1, 2], model(2.0))
    assert cohort.state_dict().optimizer_state["velocity"]["bias"].flatten().tolist() == left


def test_optimizer_state_that_a_trainer_starts_itself_is_left_to_it() -> None:
    cohort, _ = _started("round")
    cohort.flush()
    cohort.view().optimizer_state["velocity"][0].fill_(3.0)
    cohort.view().optimizer_state["velocity"][1].fill_(3.0)
    assert not cohort.flush([0])  # nothing is pending
    cohort.reset_optimizer_state()
    assert cohort.flush([0])
    rows = cohort.view(fresh=True)
    assert rows.fresh
    assert rows.part(slice(1, 2)).fresh
    assert [buffer.flatten().unique().tolist() for buffer in rows.optimizer_state["velocity"]] == [[3.0], [0.0]]
    rows.optimizer_state["velocity"][0].fill_(4.0)  # a trainer sets it
    assert not cohort.flush([0])
    assert cohort.state_dict().optimizer_state["velocity"]["weight"].flatten().unique().tolist() == [4.0]


def test_rows_that_keep_their_momentum_do_not_start_fresh() -> None:
    cohort, model = _started("slot")
    cohort.flush()
    cohort.view().optimizer_state["velocity"][0].fill_(3.0)
    cohort.start_cohort([0, 1, 2], model(2.0))
    assert not cohort.flush([0, 1])
    assert cohort.state_dict().optimizer_state["velocity"]["weight"][:, 0, 0].tolist() == [3.0, 3.0, 0.0]


def test_layout_goes_there_and_back() -> None:
    stacked = torch.randn(2, 3, 5, 5, 4).permute(0, 1, 4, 2, 3)
    order = physical_order(stacked)
    rows = flat_rows(stacked, order)
    assert rows.data_ptr() == stacked.data_ptr()
    assert torch.equal(flat_one(stacked[1], order), rows[1])
    assert torch.equal(unflat_one(rows[1], stacked.shape[1:], order), stacked[1])


def test_auto_takes_the_compiled_form_where_there_is_one() -> None:
    pytest.importorskip("numba", reason="the extra 'fast' is not installed")
    images = TensorClients(torch.zeros(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64), [np.arange(8)], 4)
    assert choose(_setup(resnet20(), images)) == "stacked"
    assert "NumbaTrainer" in Auto()(_setup(resnet20(), images)).label
    assert choose(_setup(resnet20(same_padding="tensorflow"), images)) == "workers"


def test_auto_chooses_by_model_and_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedlama.engines.trainers.numba.can_compile", lambda: False)
    images = TensorClients(torch.zeros(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64), [np.arange(8)], 4)
    assert choose(_setup(resnet20(), images)) == "workers"
    assert choose(_setup(mlp(3072, (32,)), images)) == "stacked"
    assert choose(_setup(mlp(3072, (512,)), images)) == "workers"
    assert "SerialTrainer" in Auto()(_setup(resnet20(), images)).label
    assert_same(run("auto"), run("loop"))


def _tokens(batch: int) -> TensorClients:
    return TensorClients(torch.zeros(16, 20, dtype=torch.int64), torch.zeros(16, 20).long(), [np.arange(16)], batch)


class _Recurrent(nn.Module):
    """Tokens (B, T) to logits (B, T, 5) by a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.recurrent, self.dense = nn.Embedding(30, 4), nn.GRU(4, 4, batch_first=True), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.dense(self.recurrent(self.tokens(x))[0])
        return logits


def test_auto_counts_the_arithmetic_of_models_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedlama.engines.trainers.numba.can_compile", lambda: False)
    small, large = char_transformer(30, 20, 16), char_transformer(30, 20, 96, heads=4)
    # Per position: two blocks of attention (4 w^2) and perceptron (8 w^2), and the dense layer to 30 characters.
    per_position = 2 * 12 * 96**2 + 96 * 30
    assert forward_multiply_adds(_setup(large, _tokens(16))) == 16 * 20 * per_position == 71_700_480
    assert choose(_setup(small, _tokens(16))) == "stacked"
    assert choose(_setup(large, _tokens(16))) == "workers"
    assert choose(_setup(_Recurrent(), _tokens(4))) == "workers"
    assert forward_multiply_adds(_setup(nn.Linear(3, 2), _tokens(4))) == 0  # it fails: the first step says why


def test_a_model_that_cannot_be_vectorised_is_trained_one_client_per_thread() -> None:
    class Looks(nn.Module):
        """Looks at a number, which vmap refuses."""

        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(72, 5)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.dense(x.flatten(1).float())
            return logits if float(logits.detach().sum()) > -1e9 else -logits

    setup, model = _setup(Looks(), clients()), Looks()
    for threads in (None, 1):
        engine = Stacked(threads=threads)(setup)
        with pytest.warns(UserWarning, match="cannot be vectorised over clients, so they are computed one by one"):
            engine.run_round(order_of(range(5), 2, dict(setup.model.state_dict()), new_cohort=True))
        assert engine.label.startswith(f"SerialTrainer x {threads or cores()}, ordinary kernels")
    with pytest.warns(UserWarning, match="cannot be vectorised"):
        assert_same(run("stacked", model=model), run("loop", model=model))


def test_state_files_go_with_the_engine(tmp_path: Path) -> None:
    setup = _setup(mlp(72, (8,), 5), clients())
    engine = Stacked(state_dir=str(tmp_path))(setup)
    engine.start_cohort([0, 1], {name: value.detach() for name, value in setup.model.named_parameters()})
    assert list(tmp_path.iterdir())
    del engine
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_missing_state_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected an existing folder"):
        run(Stacked(state_dir="nowhere/at/all"))


def test_threads_raise_the_first_error_once_all_have_ended() -> None:
    ended = []

    def job(index: int) -> int:
        ended.append(index)
        if index:
            raise ValueError(str(index))
        return index

    with pytest.raises(ValueError, match="1"):
        WorkerThreads(3).map(job, [0, 1, 2])
    assert sorted(ended) == [0, 1, 2]


def test_memory_of_a_round_does_not_grow_with_the_population() -> None:
    def bytes_held(population: int) -> int:
        x, y = torch.zeros(population, 4), torch.zeros(population, dtype=torch.int64)
        rows = [np.array([client]) for client in range(population)]
        setup = _setup(mlp(4, (3,), 2), TensorClients(x, y, rows, 1))
        engine = Stacked()(setup)
        cohort, values = tuple(range(0, population, population // 8)), dict(setup.model.named_parameters())
        engine.run_round(order_of(cohort, 2, values, new_cohort=True))
        state = engine.state_dict()
        return sum(value.nbytes for value in state.values.values()) + len(state.steps_done)

    assert bytes_held(10_000) == bytes_held(80)
