"""At the first step an engine is compared with plain PyTorch: its run equals the plain one, or a sentence says why."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedlama as fl
from fedlama.engines import loop, stacked
from fedlama.engines.api import RoundOrder
from fedlama.engines.cohort.cohort import CohortSlice
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.first_step.batches import RepeatableBatches
from fedlama.engines.trainers.base import LocalSteps, Trainer
from fedlama.engines.trainers.numba import NumbaTrainer
from fedlama.engines.trainers.serial import SerialTrainer
from fedlama.engines.trainers.torch_chain.trainer import TorchChainTrainer
from fedlama.engines.trainers.vmapped import VmapTrainer
from fedlama.models import resnet20
from tests.engines import awkward

Make = Callable[[], nn.Module]
ENGINES = ("loop", "stacked", "workers", "auto")
NOT_VECTORISED = "cannot be vectorised over clients"
SOLVER = "cannot use the solver .*, which does not move each client of a stack by itself"


def numbers() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(120, 6)


def tokens(lowest: int = 0) -> Tensor:
    torch.manual_seed(0)
    return torch.randint(lowest, 30, (120, 5))


def clients(x: Tensor, count: int = 4) -> list[fl.ClientData]:
    y = torch.arange(120) % 3
    return [fl.ClientData(x[i::count], y[i::count], 10) for i in range(count)]


def run(make: Make, engine: Any, x: Tensor | None = None, **choices: Any) -> fl.Result:  # noqa: ANN401
    torch.manual_seed(1)
    given = {"strategy": fl.FedAvg(3), "local_steps": 12, "solver": fl.SGD(0.05, momentum=0.9), "engine": engine}
    return fl.Federation(model=make(), clients=clients(numbers() if x is None else x), **(given | choices)).run()


def apart(result: fl.Result, expected: fl.Result) -> float:
    return max(float((result.model[name] - value).double().abs().max()) for name, value in expected.model.items())


def late_padding() -> Tensor:
    """Tokens among which the padding is not in any client's first batches."""
    x = tokens(lowest=1)
    x[60:, 3:] = 0
    return x


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and still used
        module: nn.Module = torch.jit.script(awkward.Model())
    return module


def batch_norm(**settings: Any) -> nn.Module:  # noqa: ANN401
    # The bias before batch norm has a gradient that is nothing but rounding.
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, **settings), nn.ReLU(), nn.Linear(8, 3))


def recycled_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.AlphaDropout(0.5), nn.Linear(8, 3))


SAME: dict[str, tuple[Make, Callable[[], Tensor], str | None]] = {
    "padding": (awkward.Padded, tokens, NOT_VECTORISED),
    "padding that comes late": (awkward.Padded, late_padding, NOT_VECTORISED),
    "padding by operator": (
        lambda: awkward.Padded(direct=True),
        tokens,
        "does not compute the model Padded as PyTorch",
    ),
    "data parallel": (lambda: nn.DataParallel(awkward.Model()), numbers, NOT_VECTORISED),
    "kept activation": (awkward.Keeps, numbers, None),
    "number of calls": (awkward.Counts, numbers, None),
    "running total": (awkward.Totals, numbers, None),
    "table": (awkward.Caches, numbers, None),
    "in place": (awkward.InPlace, numbers, None),
    "dropout": (awkward.Drops, numbers, None),
    "noise": (lambda: awkward.Drops(noise=True), numbers, NOT_VECTORISED),
    "another dropout": (recycled_dropout, numbers, NOT_VECTORISED),
    "batch norm": (batch_norm, numbers, None),
    "batch norm over all steps": (lambda: batch_norm(momentum=None), numbers, NOT_VECTORISED),
}


@pytest.mark.selection
@pytest.mark.parametrize("engine", ["stacked", "workers", "auto"])
@pytest.mark.parametrize("case", list(SAME))
def test_awkward_models_give_the_plain_run(case: str, engine: str) -> None:
    make, data, warning = SAME[case]
    expected = run(make, "loop", data())
    if warning is None or engine == "workers":
        assert apart(run(make, engine, data()), expected) < 1e-6
        return
    with pytest.warns(UserWarning, match=warning):
        result = run(make, engine, data())
    assert apart(result, expected) < 1e-6


@pytest.mark.parametrize("engine", ["stacked", "workers", "auto"])
def test_dropout_of_images_gives_the_plain_run(engine: str) -> None:
    """`workers` stores filters channels-last, so images come out so, and torch's own dropout draws in that order."""
    torch.manual_seed(0)
    x = torch.randn(120, 3, 6, 6)  # (samples, channels, height, width)

    def network() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Dropout(0.4), nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Linear(36, 3)
        )

    result, expected = run(network, engine, x), run(network, "loop", x)
    assert apart(result, expected) <= 1e-6


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and reads gradients of its own tensors
@pytest.mark.parametrize("engine", ["stacked", "workers", "auto"])
def test_a_scripted_model_gives_the_plain_run(engine: str) -> None:
    assert apart(run(scripted, engine), run(scripted, "loop")) < 1e-6


REFUSED: dict[str, tuple[Make, str]] = {
    "annealing": (awkward.Anneals, "the attribute 'steps' of the model Anneals changes in the forward pass"),
    "late change": (awkward.Thaws, "the attribute 'inner.seen' of the model Thaws"),
    "hidden state": (awkward.Recurs, "the attribute 'state' of the model Recurs .*self.register_buffer"),
    "running mean": (awkward.Centres, "the attribute 'mean' of the model Centres"),
    "list": (awkward.Remembers, "the attribute 'seen' of the model Remembers"),
    "stale norm": (awkward.Normalises, "the attribute 'norm' of the model Normalises"),
    "teacher": (awkward.Teaches, "the attribute 'teacher.weight' of the model Teaches"),
    "global": (awkward.Global, "the model Global gives other results for the same weights, batch and seed"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", list(REFUSED))
def test_a_model_that_remembers_is_refused(case: str, engine: str) -> None:
    make, sentence = REFUSED[case]
    with pytest.raises(fl.ConfigError, match=sentence):
        run(make, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_or_solver_that_remembers_is_refused(engine: str) -> None:
    with pytest.raises(fl.ConfigError, match="the objective Balances remembers something from step to step"):
        run(awkward.Model, engine, objective=awkward.Balances())
    with pytest.raises(fl.ConfigError, match=r"the solver CountsSteps remembers .* make its buffers in init\(\)"):
        run(awkward.Model, engine, solver=awkward.CountsSteps())


def test_the_remedy_for_a_counter_is_accepted() -> None:
    class Buffered(awkward.Model):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            return super().forward(x) * torch.clamp(self.steps / 20, max=1.0)

    expected = run(Buffered, "loop")
    assert float(expected.model["steps"]) == 12
    for engine in ("stacked", "workers", "auto"):
        assert apart(run(Buffered, engine), expected) < 1e-6


@pytest.mark.parametrize("one_client", [False, True])
def test_recorded_batches_are_looked_at_and_not_used_up(one_client: bool) -> None:
    x, y = numbers(), torch.arange(120) % 3

    class Counted:
        asked = 0

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for step in range(12):
                Counted.asked += 1
                yield x[10 * step : 10 * step + 10], y[10 * step : 10 * step + 10]

    count = 1 if one_client else 3
    results = []
    for engine in ("loop", "stacked", "workers"):
        Counted.asked = 0
        source = fl.ReplayedClients([Counted() for _ in range(count)], samples=[120] * count)
        torch.manual_seed(1)
        results.append(fl.Federation(awkward.Drops(), source, fl.FedAvg(3), 12, engine=engine).run())
        assert Counted.asked == 12 * count
    assert max(apart(result, results[0]) for result in results) < 1e-6


SOLVERS: dict[str, tuple[fl.LocalSolver, str | None]] = {
    "clip by norm": (awkward.ClipByNorm(0.5), SOLVER),
    "centred gradients": (awkward.CentresGradients(0.5, momentum=0.9), SOLVER),
    "transposed": (awkward.Transposes(0.5), "cannot compute the model"),
    "signs": (awkward.Signs(0.01, momentum=0.9), None),
}


@pytest.mark.selection
@pytest.mark.parametrize("model", [awkward.Model, batch_norm, lambda: awkward.Drops()])
@pytest.mark.parametrize("case", list(SOLVERS))
def test_awkward_solvers_give_the_plain_run(case: str, model: Make) -> None:
    solver, warning = SOLVERS[case]
    if case == "transposed":
        model = lambda: nn.Linear(6, 3, bias=False)  # noqa: E731
    expected = run(model, "loop", solver=solver)
    # The sign of a gradient that is nothing but rounding is arbitrary, so only the absence of a warning is a result.
    tolerance = 1e-6 if case != "signs" else 1.0
    with warnings.catch_warnings():
        # A chain gives the solver stacks of one client, too.
        warnings.filterwarnings("ignore", message=".*cannot use the solver|.*cannot compute the model")
        assert apart(run(model, "workers", solver=solver), expected) < tolerance
    if warning is None:
        assert apart(run(model, "stacked", solver=solver), expected) < tolerance
        return
    with pytest.warns(UserWarning, match=warning):
        result = run(model, "stacked", solver=solver)
    assert apart(result, expected) < tolerance


def images(classes: int = 10) -> list[fl.ClientData]:
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(32, 3, 32, 32, generator=draw), torch.randint(0, classes, (32,), generator=draw)
    return [fl.ClientData(x[i::2], y[i::2], 8) for i in range(2)]


@pytest.mark.selection
@pytest.mark.slow
@pytest.mark.parametrize("engine", [fl.Stacked(), fl.Workers(), fl.Recorded(), fl.Stacked(precision="bfloat16")])
@pytest.mark.parametrize("seed", range(3))
def test_rounding_of_a_residual_network_is_no_alarm(engine: Any, seed: int) -> None:  # noqa: ANN401
    torch.manual_seed(seed)
    fl.Federation(resnet20(), images(), fl.FedAvg(1), 1, engine=engine).run()  # a warning would be an error


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("engine", ENGINES)
def test_rounding_of_a_dtype_is_no_alarm(engine: str, dtype: torch.dtype) -> None:
    run(lambda: batch_norm().to(dtype), engine, numbers().to(dtype))


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def faulty(monkeypatch: pytest.MonkeyPatch, trainer: type[Trainer]) -> None:
    """Let a trainer move one tensor of its last row a thousandth too far."""
    right = trainer.run

    def wrong(self: Trainer, rows: CohortSlice, work: LocalSteps, threads: WorkerThreads) -> list[float]:
        before = {name: value[-1].clone() for name, value in rows.values.items()}
        losses = right(self, rows, work, threads)
        name = work.names[0]
        rows.values[name][-1] += (rows.values[name][-1] - before[name]) * 1e-3
        return losses

    monkeypatch.setattr(trainer, "run", wrong)


@pytest.mark.parametrize(
    ("trainer", "make", "engine", "solver"),
    [
        (NumbaTrainer, dense, "stacked", fl.SGD(0.05, momentum=0.9)),
        (NumbaTrainer, dense, "auto", fl.FedProx(0.05)),
        (TorchChainTrainer, dense, "stacked", fl.SGD(0.05, momentum=0.9, velocity="step")),
        (TorchChainTrainer, dense, "workers", fl.SGD(0.05)),
        (VmapTrainer, batch_norm, "stacked", fl.SGD(0.05, momentum=0.9, warm_up_steps=1000)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_faulty_trainer_is_replaced(
    monkeypatch: pytest.MonkeyPatch, trainer: type[Trainer], make: Make, engine: str, solver: fl.LocalSolver
) -> None:
    if trainer is NumbaTrainer:
        pytest.importorskip("numba")
    expected = run(make, "loop", solver=solver)
    faulty(monkeypatch, trainer)
    with pytest.warns(UserWarning, match=f"{trainer.__name__} does not compute the model .* 0.weight .Linear. differs"):
        result = run(make, engine, solver=solver)
    assert apart(result, expected) < 1e-6


def test_layers_that_are_frozen_at_first_are_compared_too() -> None:
    setup = fl.Federation(awkward.Padded(direct=True), clients(tokens()), fl.FedAvg(3), 3).engine_setup()
    values = {name: value.detach().clone() for name, value in setup.model.named_parameters()}
    plan = fl.Plan(0, frozenset(), {}, cycle_start=True, frozen=frozenset({"table.weight"}))
    order = RoundOrder(plan=plan, steps=3, cohort=(0, 1, 2, 3), new_cohort=True, values=values, lacking=frozenset())
    engine = fl.Stacked()(setup)
    with pytest.warns(UserWarning, match="client 1, table.weight .Embedding. differs"):
        engine.run_round(order)
    assert torch.equal(engine.client_values(1)["table.weight"], values["table.weight"])


def test_without_a_plain_way_the_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, SerialTrainer)
    with pytest.raises(fl.ConfigError, match=r"SerialTrainer does not compute the model .*; set engine='loop'"):
        run(batch_norm, "workers")


def test_a_trainer_that_fails_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Trainer, rows: CohortSlice, work: LocalSteps, threads: WorkerThreads) -> list[float]:
        raise TypeError("no such layer")

    expected = run(batch_norm, "loop")
    monkeypatch.setattr(VmapTrainer, "run", fails)
    with pytest.warns(
        UserWarning, match=r"cannot compute the model Sequential .TypeError: no such layer.*SerialTrainer"
    ):
        result = run(batch_norm, "stacked")
    assert apart(result, expected) < 1e-6


def test_the_label_says_what_took_over() -> None:
    source, solver = clients(numbers()), awkward.ClipByNorm(0.5)
    going = fl.Run(fl.Federation(dense(), source, fl.FedAvg(3), 6, solver=solver, engine="stacked"))
    with pytest.warns(UserWarning, match=SOLVER):
        going.advance()
    assert "SerialTrainer" in going.engine.label  # type: ignore[attr-defined]
    assert "one client at a time" in going.engine.label  # type: ignore[attr-defined]


@pytest.mark.selection
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "make", [dense, batch_norm, awkward.Drops, lambda: awkward.Drops(noise=True), awkward.Elsewhere]
)
def test_the_check_changes_nothing(monkeypatch: pytest.MonkeyPatch, engine: str, make: Make) -> None:
    if make is awkward.Elsewhere and engine != "loop":
        pytest.skip("how often a vectorised model is called is not defined")

    def state() -> tuple[bytes, object, object]:
        return torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[union-attr]

    def once() -> tuple[fl.Result, object]:
        random.seed(3)
        np.random.seed(3)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*cannot be vectorised")
            return run(make, engine), state()

    checked, left = once()
    for module in (loop, stacked):
        monkeypatch.setattr(module, "check_first_step", lambda *_: None)
    unchecked, left_unchecked = once()
    assert all(torch.equal(checked.model[name], value) for name, value in unchecked.model.items())
    assert [record.loss for record in checked.rounds] == [record.loss for record in unchecked.rounds]
    assert left == left_unchecked


@pytest.mark.parametrize("engine", ENGINES)
def test_the_users_model_and_loss_are_not_touched(engine: str) -> None:
    model, loss = awkward.Keeps(), nn.CrossEntropyLoss()
    model.output.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fl.Federation(model, clients(numbers()), fl.FedAvg(3), 3, objective=loss, engine=engine).run()
    assert model.last is None
    assert [module.training for module in (model, model.hidden, model.output)] == [True, True, False]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_resumed_run_is_checked_too(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    seen: list[tuple[int, int]] = []
    for module in (loop, stacked):
        check = module.check_first_step

        def watched(setup: Any, rows: CohortSlice, order: RoundOrder, *others: Any, check: Any = check) -> Any:  # noqa: ANN401
            seen.append((order.plan.round_index, len(rows.clients)))
            return check(setup, rows, order, *others)

        monkeypatch.setattr(module, "check_first_step", watched)
    federation = fl.Federation(dense(), clients(numbers()), fl.FedAvg(3), 12, engine=engine)
    first, second = fl.Run(federation), fl.Run(federation)
    records = [first.advance(), first.advance()]
    second.load_state_dict(first.state_dict(), records)
    second.advance()
    second.advance()
    assert [round_index for round_index, _ in seen] == [0, 2]
    assert max(count for _, count in seen) <= 2


@pytest.mark.parametrize("engine", ENGINES)
def test_a_source_of_the_users_own_fails_in_one_sentence(engine: str) -> None:
    class Own:
        def __init__(self, fails_at: int) -> None:
            self.fails_at = fails_at

        def __len__(self) -> int:
            return 2

        def samples(self, client: int) -> int:
            return 10

        def batch(self, client: int, step: int, seed: int) -> tuple[Tensor, Tensor]:
            if step == self.fails_at:
                raise KeyError("no file")
            count = 0 if step == 5 else 10
            return torch.zeros(count, 6), torch.zeros(count, dtype=torch.int64)

    for step in (0, 1):
        with pytest.raises(fl.DataError, match=f"client 0, local step {step}: its batch cannot be made: KeyError"):
            fl.Federation(dense(), Own(step), fl.FedAvg(3), 12, engine=engine).run()
    with pytest.raises(fl.DataError, match="client 0, batch 5 has 0 inputs and 0 targets"):
        fl.Federation(dense(), Own(-1), fl.FedAvg(3), 12, engine=engine).run()


def test_an_error_of_a_source_is_kept_for_its_turn() -> None:
    source = RepeatableBatches(fl.ReplayedClients([[]], samples=[1]))
    sentences = []
    with source.rehearsal(), pytest.raises(fl.DataError) as error:
        source.batch(0, 0, 0)
    sentences.append(str(error.value))
    with pytest.raises(fl.DataError) as error:
        source.batch(0, 0, 0)
    assert sentences == [str(error.value)]
    assert "has no batch left for local step 0" in sentences[0]


def test_an_optimizer_of_torch_is_refused_in_one_sentence() -> None:
    model = dense()
    given: list[Any] = [torch.optim.Adam(model.parameters()), torch.optim.SGD, "sgd", None, fl.SGD]
    expected = ["torch's optimizer Adam", "torch's optimizer SGD", "solver is 'sgd'", "solver is None", "the class SGD"]
    for solver, words in zip(given, expected, strict=True):
        with pytest.raises(
            fl.ConfigError, match=rf"{words}.*use fedlama.{'Adam' if 'Adam' in words else 'SGD'}\(learning_rate="
        ) as error:
            fl.Federation(model, clients(numbers()), fl.FedAvg(3), 3, solver=solver).run()
        assert len(error.value.problems) == 1


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("engine", ENGINES)
def test_sizes_of_zero_are_refused_in_one_sentence(engine: str) -> None:
    y = torch.zeros(20, dtype=torch.int64)
    cases: list[tuple[nn.Module, Any, str]] = [
        (nn.Linear(0, 3), [fl.ClientData(torch.zeros(20, 0), y, 10)], "an input of the clients has shape"),
        (nn.Linear(6, 0), clients(numbers()), r"the parameter weight of the model has shape \(0, 6\)"),
        (dense(), [], "there are no clients"),
        (dense(), [[(torch.zeros(0, 6), y[:0])]], "client 0, batch 0 has 0 inputs"),
        (dense(), [fl.ClientData(torch.zeros(0, 6), y[:0], 1)], "client 0 has no samples"),
    ]
    for model, source, sentence in cases:
        with pytest.raises((fl.ConfigError, fl.DataError), match=sentence) as error:
            fl.Federation(model, source, fl.FedAvg(3), 3, engine=engine).run()
        assert len(str(error.value).splitlines()) == 1


def test_a_single_number_is_no_data() -> None:
    with pytest.raises(fl.DataError, match="the data are a single number"):
        fl.ClientData(torch.tensor(1.0), torch.tensor(1), 1)
