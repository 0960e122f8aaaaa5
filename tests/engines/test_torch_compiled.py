"""Steps through torch.compile give what the loop engine gives, and are compiled a bounded number of times."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from fedlama.choices.samplers import AllClients
from fedlama.choices.solvers import SGD, FedProx
from fedlama.choices.strategies import Cyclic
from fedlama.core.layers import by_tensor
from fedlama.core.losses import cross_entropy
from fedlama.data.clients import TensorClients
from fedlama.engines import Stacked
from fedlama.engines.api import Values
from fedlama.engines.trainers.torch_compiled import StepResult, TorchCompiledStep, check_compiler
from fedlama.errors import ConfigError
from fedlama.federation.run import Run
from tests.engines.cases import assert_same, clients, federation, network, run

# torch's compiler imports parts of torch that warn of their own deprecation.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

CPU = torch.device("cpu")
ENGINE = Stacked(compile_steps=True)


class Counting:
    """A backend that compiles nothing and counts how often it is asked to."""

    def __init__(self) -> None:
        self.programs = 0

    def __call__(self, program: fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
        """Return the program as it is."""
        self.programs += 1
        return program.forward


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """Let steps be traced but not compiled, which takes no compiler and less than a second."""
    backend = Counting()
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **kw: compiled(model, **(kw | {"backend": backend})))
    monkeypatch.setattr("fedlama.engines.options.check_compiler", lambda _: None)
    return backend


def _equal_clients() -> TensorClients:
    return clients(sizes=(12,) * 5)


@pytest.mark.parametrize(
    "solver",
    [
        SGD(0.05, momentum=0.9, warm_up_steps=9, decay_at=(10,)),
        FedProx(0.05, momentum=0.5, weight_decay=0.01, proximal=0.1),
    ],
)
def test_rates_of_every_step_take_one_program(solver: SGD, counting: Counting) -> None:
    choices = {"solver": solver, "clients": _equal_clients()}
    assert_same(run(ENGINE, **choices), run("loop", **choices))
    assert counting.programs == 1


def test_frozen_layers_take_no_program_of_their_own(counting: Counting) -> None:
    choices = {"strategy": Cyclic(2, layers_per_turn=2), "local_steps": 16, "clients": _equal_clients()}
    assert_same(run(ENGINE, **choices), run("loop", **choices))
    assert counting.programs == 1


def test_local_statistics(counting: Counting) -> None:
    choices = {"layers": by_tensor(network(), statistics="local")}
    assert_same(run(ENGINE, **choices), run("loop", **choices))
    assert counting.programs <= 3  # batches of 4, 3 and 2


def test_groups_with_short_batches_run_through_the_program_of_all_rows(counting: Counting) -> None:
    assert_same(run(ENGINE, sampler=AllClients()), run("loop", sampler=AllClients()))
    assert 1 <= counting.programs <= 3


@pytest.mark.thorough
def test_two_groups_of_half_the_rows(counting: Counting) -> None:
    choices = {"clients": clients(sizes=(10, 12, 10, 12)), "sampler": AllClients()}
    assert_same(run(ENGINE, **choices), run("loop", **choices))
    assert counting.programs == 2


def test_small_groups_are_not_torch_compiled(counting: Counting) -> None:
    choices = {"clients": clients(sizes=(4, 9, 10, 11, 12), batch=12, short_clients=True), "sampler": AllClients()}
    assert_same(run(ENGINE, **choices), run("loop", **choices))
    assert counting.programs == 0


@pytest.mark.thorough
def test_chunks(counting: Counting) -> None:
    choices = {"sampler": AllClients(), "clients": _equal_clients()}
    assert_same(run(Stacked(compile_steps=True, chunk=2), **choices), run("loop", **choices))
    assert counting.programs == 2  # slices of one and of two rows


def test_both_options_together(counting: Counting) -> None:
    choices = {"clients": _equal_clients()}
    ours = run(Stacked(compile_steps=True, precision="bfloat16"), **choices)
    assert_same(ours, run(Stacked(precision="bfloat16"), **choices), 1e-6)
    assert counting.programs == 1


def _dense(weight: Tensor, x: Tensor) -> Tensor:
    return x @ weight


def _loss(watched: Values, others: Values, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Values]:
    x, y = batch
    others["steps"].add_(1)
    return cross_entropy(_dense(watched["weight"], x), y), {"steps": others["steps"]}


def _step(program: TorchCompiledStep, batch: int) -> StepResult | None:
    values = {"weight": torch.zeros(2, 3, 2), "steps": torch.tensor([4, 7])}
    traced = program(values, (torch.ones(2, batch, 3), torch.ones(2, batch, dtype=torch.int64)))
    assert values["steps"].tolist() == [4, 7]  # only read
    return traced


def test_literal_losses_gradients_and_buffers() -> None:
    traced = _step(TorchCompiledStep(_loss, ["weight"], CPU, backend="eager"), 4)
    assert traced is not None
    assert traced.losses.tolist() == pytest.approx([0.6931472] * 2)
    assert traced.losses.dtype == torch.float64
    assert torch.equal(traced.gradients["weight"], torch.tensor([0.5, -0.5]).expand(2, 3, 2))
    assert traced.buffers["steps"].tolist() == [5, 8]


@pytest.mark.thorough
def test_the_ninth_shape_is_not_torch_compiled_and_the_first_ones_stay() -> None:
    program = TorchCompiledStep(_loss, ["weight"], CPU, backend="eager")
    answers = [_step(program, batch) for batch in (1, 2, 3, 4, 5, 6, 7, 8, 9, 1)]
    assert [answer is None for answer in answers] == [False] * 8 + [True, False]


def test_models_reach_the_compiler_as_parameters() -> None:
    kinds: list[type] = []

    def backend(program: fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
        kinds.extend(type(example) for example in examples)
        return program.forward

    # A CUDA graph reads parameters in place; plain tensors would be copied at every step.
    _step(TorchCompiledStep(_loss, ["weight"], CPU, backend=backend), 2)  # type: ignore[arg-type]
    assert kinds == [nn.Parameter, nn.Parameter, Tensor, Tensor]


@pytest.mark.thorough
def test_every_federation_of_a_process_is_torch_compiled() -> None:
    for _ in range(10):  # torch would give up at the ninth
        assert _step(TorchCompiledStep(_loss, ["weight"], CPU, backend="eager"), 2) is not None


def test_dropout_warns_once_and_runs_without_torch_compile(counting: Counting) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.Dropout(0.3), nn.Linear(16, 5))
    with pytest.warns(UserWarning, match="not torch-compiled.*dropout") as warned:
        ours = run(ENGINE, model=model)
    assert len(warned) == 1
    assert_same(ours, run("loop", model=model))
    assert counting.programs == 0


class Untraceable(nn.Module):
    """A model that vmap takes and the tracer does not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense = nn.Linear(72, 5)

    def forward(self, x: Tensor) -> Tensor:
        print(end="")
        output: Tensor = self.dense(x.flatten(1))
        torch.compiler.disable(lambda: None)()
        return output


def test_what_cannot_be_traced_warns_once_and_runs_without_torch_compile(counting: Counting) -> None:
    with pytest.warns(UserWarning, match="Untraceable are not torch-compiled") as warned:
        ours = run(ENGINE, model=Untraceable())
    assert len(warned) == 1
    assert_same(ours, run("loop", model=Untraceable()))


def test_a_missing_compiler_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"C\+\+ compiler.*install one.*or set compile_steps=False"):
        Run(federation(ENGINE))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="no-such-compiler was not found"):
        Run(federation(ENGINE))


def test_cuda_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs Triton"):
        check_compiler(torch.device("cuda"))


def test_the_vectorised_trainer_is_taken() -> None:
    try:
        check_compiler(CPU)
    except ConfigError as error:
        pytest.skip(str(error))
    chain = nn.Sequential(nn.Flatten(), nn.Linear(72, 5))
    assert "VmapTrainer" in str(Run(federation(ENGINE, model=chain)).engine.label)


@pytest.mark.slow
def test_machine_code_agrees_with_the_loop() -> None:
    try:
        check_compiler(CPU)
    except ConfigError as error:
        pytest.skip(str(error))
    choices = {"clients": _equal_clients(), "solver": SGD(0.05, momentum=0.9, warm_up_steps=9)}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # nothing falls back to uncompiled steps
        ours = run(ENGINE, **choices)
    assert_same(ours, run("loop", **choices))
