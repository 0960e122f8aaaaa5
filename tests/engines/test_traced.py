"""Traced steps have the bits of usual ones; what cannot be traced is computed as usual, with the right result."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedlama as fl
from fedlama.engines import Stacked, Workers, forward_cost
from fedlama.engines.api import EngineSetup
from fedlama.engines.micro_batches import LossAndGradients
from fedlama.engines.trainers.traced.constants import varying_operations
from fedlama.engines.trainers.traced.program import Program
from fedlama.engines.trainers.traced.recorder import CannotTraceError, recorded
from fedlama.engines.trainers.traced.steps import StepTensors, TracedSteps
from fedlama.models import char_transformer
from tests.engines.cases import assert_same, clients, federation, network, run
from tests.tasks import cases as tasks


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[TracedSteps]:
    """Remember the traced steps of all engines that a test makes."""
    steps: list[TracedSteps] = []
    usual = TracedSteps.of

    def remembered(setup: EngineSetup) -> TracedSteps | None:
        result = usual(setup)
        if result is not None:
            steps.append(result)
        return result

    monkeypatch.setattr(TracedSteps, "of", remembered)
    return steps


def dense(*more: nn.Module) -> nn.Module:
    """A model that has no compiled form and is no chain of usual layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.SiLU(), *more, nn.LayerNorm(8), nn.Linear(8, 5))


def normalised() -> nn.Module:
    """The network of the other tests with a function that has no compiled kernel."""
    model = network()
    model[2] = nn.SiLU()  # type: ignore[operator] # a Sequential
    return model


def frozen_layers() -> nn.Module:
    """The same with a dense layer that is never trained."""
    model = dense(nn.Linear(8, 8))
    for parameter in model[3].parameters():  # type: ignore[index] # a Sequential
        parameter.requires_grad_(False)
    return model


class Changed(nn.Module):
    """A dense layer behind a function of the inputs."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.change, self.dense = change, nn.Linear(72, 5)
        self.register_buffer("mean", torch.zeros(72))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 2, 6, 6) to logits (B, 5)."""
        logits: Tensor = self.dense(self.change(x.flatten(1)))
        return logits


class ReplacedBuffer(Changed):
    """Keeps a running mean in a buffer that it replaces."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 2, 6, 6) to logits (B, 5)."""
        self.mean = 0.9 * self.mean + 0.1 * x.flatten(1).mean(0)
        return super().forward(x - self.mean.view(2, 6, 6))


class ShrinksWeights(Changed):
    """Changes a parameter in the forward pass, so a step must not be computed twice for the same client."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 2, 6, 6) to logits (B, 5)."""
        with torch.no_grad():
            self.dense.weight.mul_(0.9)
        return super().forward(x)


TRACED: dict[str, dict[str, Any]] = {
    "dense": {"model": dense},
    "batch norm": {"model": normalised},
    "dropout": {"model": lambda: dense(nn.Dropout(0.3))},
    "two dropouts": {"model": lambda: dense(nn.Dropout(0.3), nn.Linear(8, 8), nn.Dropout(0.5))},
    "frozen layer": {"model": frozen_layers},
    "layers in turns": {"model": dense, "strategy": fl.Cyclic(2, 2)},
    "a frozen group": {"model": dense, "solver": fl.SGD(0.05, groups=(fl.ParameterGroup("*.bias", frozen=True),))},
    "adam": {"model": dense, "solver": fl.Adam(0.01, epsilon=1e-3)},
    "micro-batches": {"model": dense, "micro_batch_size": 2},
    "shrinks weights": {"model": lambda: ShrinksWeights(torch.tanh)},
    "scattered": {"model": lambda: Changed(lambda x: torch.zeros_like(x).scatter_(1, (x > 0).long(), 1.0) + x)},
    "noise of a constant": {"model": lambda: Changed(lambda x: x + torch.arange(72) / 72)},
    "changes its batch": {"model": lambda: Changed(lambda x: x.mul_(0.5))},
    "integer indices": {"model": lambda: Changed(lambda x: x[:, torch.arange(72).flip(0)])},
}


@pytest.mark.parametrize("name", TRACED)
def test_the_bits_are_those_of_usual_steps(name: str, made: list[TracedSteps]) -> None:
    settings = {**TRACED[name], "model": TRACED[name]["model"]()}
    result = run(Workers(threads=2), **settings)
    assert made[0].count >= 1 + (name != "micro-batches"), made[0].reasons  # full batches and short ones
    assert made[0].reasons == []
    assert_same(result, run(Workers(threads=2, trace_steps=False), **settings), 0.0)
    assert_same(result, run("loop", **settings))


@pytest.mark.parametrize("name", TRACED)
def test_the_bits_of_stacked_clients_are_those_of_usual_steps(name: str, made: list[TracedSteps]) -> None:
    if name == "scattered":
        pytest.skip("vmap has no rule for this operation and computes client by client, with a warning")
    settings = {**TRACED[name], "model": TRACED[name]["model"]()}
    result = run(Stacked(chunk=2), **settings)
    assert made[0].count >= 1, made[0].reasons
    assert_same(result, run(Stacked(chunk=2, trace_steps=False), **settings), 0.0)
    if name != "shrinks weights":  # rows with short batches compute on copies of their weights, traced or not
        assert_same(result, run("loop", **settings))


@pytest.mark.parametrize("model", [dense, normalised])
def test_the_bits_do_not_depend_on_the_number_of_cores(
    model: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"model": model(), "sampler": fl.AllClients()}
    results = []
    for count in (1, 2, 5):
        monkeypatch.setattr("fedlama.engines.options.cores", lambda count=count: count)
        engine = fl.Run(federation(Stacked(), **settings)).engine
        assert f" x {count}, " in str(getattr(engine, "label", ""))
        results.append(run(Stacked(), **settings))
    for result in results[1:]:
        assert_same(result, results[0], 0.0)


def test_slices_are_smaller_the_more_a_forward_pass_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {0: 64, 1: 64, 125_000: 64, 250_000: 32, 1_000_000: 8, 2_000_001: 4, 10**9: 4}
    for multiply_adds, rows in counts.items():
        monkeypatch.setattr(forward_cost, "forward_multiply_adds", lambda _, made=multiply_adds: made)
        assert forward_cost.rows_that_keep_a_thread_busy(None) == rows  # type: ignore[arg-type] # it is only counted


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a branch": (lambda x: 2 * x if x.sum() > 0 else x, "looks at a number"),
    "an item": (lambda x: x * x.mean().item(), "looks at a number"),
    "a list": (lambda x: x * sum(x[0].tolist()), "looks at values with tolist"),
    "an array": (lambda x: x * float(x.detach().numpy().sum()), "looks at values with numpy"),
    "a check": (lambda x: x + nn.functional.one_hot((x > 0).long(), 2)[..., 1], "looks at a number"),
    "a mask": (lambda x: x - x[x > 0].mean(), "shape of a result depends on values"),
    "a comparison": (lambda x: x if torch.equal(x, x.abs()) else -x, "looks at a number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_depends_on_values_is_computed_as_usual(name: str, made: list[TracedSteps]) -> None:
    change, reason = REFUSED[name]
    result = run(Workers(threads=2), model=Changed(change))
    assert made[0].count == 0
    assert reason in made[0].reasons[0]
    assert_same(result, run(Workers(threads=2, trace_steps=False), model=Changed(change)), 0.0)
    assert_same(result, run("loop", model=Changed(change)))


def test_a_model_that_replaces_a_buffer_is_computed_as_usual(made: list[TracedSteps]) -> None:
    result = run(Workers(threads=2), model=ReplacedBuffer(torch.tanh))
    assert made[0].count == 0
    assert "replaces a buffer" in made[0].reasons[0]
    assert_same(result, run("loop", model=ReplacedBuffer(torch.tanh)))


def test_a_model_that_draws_beside_dropout_is_not_tried(made: list[TracedSteps]) -> None:
    model = Changed(lambda x: x + 0.1 * torch.rand_like(x))
    result = run(Workers(threads=2), model=model)
    assert (made[0].count, made[0].reasons) == (0, [])
    assert_same(result, run("loop", model=model))


def test_numbers_of_pythons_generator_are_not_kept(made: list[TracedSteps]) -> None:
    """A layer that Python's generator leaves out at random: the first draw must not become the rule."""
    draws: list[bool] = []

    def sometimes(x: Tensor) -> Tensor:
        draws.append(random.random() < 0.5)
        return 2 * x if draws[-1] else x

    run(Workers(threads=1), model=Changed(sometimes))
    assert made[0].count == 0
    assert "random" in made[0].reasons[0]
    assert len(draws) > 10


@pytest.mark.parametrize("name", tasks.CASES)
def test_every_task(name: str, made: list[TracedSteps]) -> None:
    usual = tasks.federation(name, engine=Workers(threads=2, trace_steps=False)).run()
    result = tasks.federation(name, engine=Workers(threads=2)).run()
    assert_same(result, usual, 0.0)
    # The loss of Cox's model takes as many rows as there are events.
    assert sum(steps.count for steps in made) >= (name not in ("cox", "classification"))


def test_a_transformer_that_vmap_takes_is_traced_in_workers(made: list[TracedSteps]) -> None:
    draw = torch.Generator().manual_seed(2)
    x = torch.randint(0, 11, (30, 8), generator=draw)
    source = fl.TensorClients(x[:, :-1], x[:, 1:], [range(0, 12), range(12, 30)], 4)
    settings: dict[str, Any] = {"clients": source, "task": fl.LanguageModel(), "sampler": fl.AllClients()}
    torch.manual_seed(0)
    settings["model"] = char_transformer(11, 7, width=16, blocks=1, heads=2)
    result = run(Workers(threads=2), **settings)
    assert made[0].count >= 1, made[0].reasons
    assert_same(result, run("loop", **settings))


def test_stacked_goes_on_with_traced_steps(made: list[TracedSteps]) -> None:
    """A padded embedding, which vmap computes wrongly, is left to one client per thread."""

    def padded() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(11, 6, padding_idx=0), nn.Flatten(), nn.Linear(42, 3))

    draw = torch.Generator().manual_seed(2)
    x, y = torch.randint(0, 11, (30, 7), generator=draw), torch.randint(0, 3, (30,), generator=draw)
    settings: dict[str, Any] = {"clients": fl.TensorClients(x, y, [range(0, 12), range(12, 30)], 4)}
    settings |= {"sampler": fl.AllClients(), "model": padded()}
    with pytest.warns(UserWarning, match="cannot be vectorised"):
        result = run(Stacked(), **settings)
    assert (made[0].count, made[1].count > 0) == (0, True), made[1].reasons
    assert_same(result, run("loop", **settings))


def test_the_padding_of_frozen_embeddings_is_no_reason_against_vmap(made: list[TracedSteps]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 6, padding_idx=0), nn.Flatten(), nn.Linear(42, 3))
    model[0].weight.requires_grad_(False)  # type: ignore[union-attr] # it is a parameter
    draw = torch.Generator().manual_seed(2)
    x, y = torch.randint(0, 11, (30, 7), generator=draw), torch.randint(0, 3, (30,), generator=draw)
    settings: dict[str, Any] = {"clients": fl.TensorClients(x, y, [range(0, 12), range(12, 30)], 4), "model": model}
    settings["sampler"] = fl.AllClients()
    result = run(Stacked(), **settings)  # a warning would be an error
    assert made[0].count >= 1, made[0].reasons
    assert_same(result, run("loop", **settings))


def test_recorded_batches_are_not_traced(made: list[TracedSteps]) -> None:
    """The first step cannot be rehearsed there, so nothing would show what a model remembers in Python."""
    source = clients()
    batches = [[source.batch(client, step, 5) for step in range(12)] for client in range(5)]
    choices = {"weighting": "equal", "sampler": fl.AllClients(), "model": dense()}
    run(Workers(threads=2), clients=fl.ReplayedClients(batches), **choices)
    assert made == []


def test_a_wrong_program_is_noticed(made: list[TracedSteps], monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Program.__call__

    def wrong(self: Program, inputs: Any, generators: Any) -> list[Tensor]:  # noqa: ANN401
        return [2 * result for result in usual(self, inputs, generators)]

    monkeypatch.setattr(Program, "__call__", wrong)
    result = run(Workers(threads=2), model=dense())
    assert made[0].count == 0
    assert "other bits" in made[0].reasons[0]
    assert_same(result, run("loop", model=dense()))


def _step(batch: Tensor, weight: Tensor) -> tuple[StepTensors, Callable[[], LossAndGradients]]:
    """A step of a dense layer without bias."""

    def compute() -> LossAndGradients:
        parameter = weight.data.requires_grad_()
        loss = (batch @ parameter).square().mean()
        return LossAndGradients(loss, torch.autograd.grad(loss, [parameter]))

    return StepTensors({"weight": weight}, ("weight",), batch, ()), compute


def test_other_threads_compute_as_usual_while_a_step_is_learnt() -> None:
    traced = TracedSteps()
    step, compute = _step(torch.randn(4, 3), torch.randn(3, 2))
    with traced._learning:
        for _ in range(3):
            assert torch.equal(traced(step, compute, lambda: True).loss, compute().loss)
    assert (traced.count, traced.reasons) == (0, [])
    for _ in range(2):
        traced(step, compute, lambda: True)
    assert traced.count == 1


def test_a_bounded_number_of_shapes_is_traced() -> None:
    traced, weight = TracedSteps(), torch.randn(3, 2)
    for rows in range(1, 12):
        for _ in range(3):
            step, compute = _step(torch.randn(rows, 3), weight)
            assert torch.equal(traced(step, compute, lambda: True).gradients[0], compute().gradients[0])
    assert traced.count == 8


def test_programs_are_released_with_their_engine() -> None:
    traced = TracedSteps()
    step, compute = _step(torch.randn(4, 3), torch.randn(3, 2))
    for _ in range(2):
        traced(step, compute, lambda: True)
    (attempt,) = traced._attempts.values()
    program = weakref.ref(attempt.program)  # type: ignore[arg-type] # it is in use
    del traced, attempt
    gc.collect()
    assert program() is None


def test_constants_are_computed_once() -> None:
    weight, batch, kept = torch.randn(3, 2), torch.randn(4, 3), torch.randn(2, 2)

    def compute() -> Tensor:
        scale = torch.arange(4.0).add(1).unsqueeze(1)
        return (batch * scale) @ weight @ kept.t()

    output, operations = recorded(compute)
    names = [operation.name for operation in varying_operations(operations, [weight, batch], [output])]
    assert names == ["aten::mul", "aten::mm", "aten::mm"]


def test_memory_that_is_written_is_made_in_every_step() -> None:
    batch = torch.tensor([1, 0, 2])

    def compute() -> Tensor:
        zeros = torch.zeros(3, 3)
        view = zeros[:, :]
        view.scatter_(1, batch.unsqueeze(1), 1.0)
        return zeros * torch.ones(3)

    output, operations = recorded(compute)
    program = Program(varying_operations(operations, [batch], [output]), [batch], [output])
    for values in ([1, 0, 2], [2, 2, 1], [1, 0, 2]):
        (result,) = program([torch.tensor(values)])
        assert torch.equal(result, nn.functional.one_hot(torch.tensor(values), 3).float())


def test_a_constant_output_belongs_to_the_caller() -> None:
    """A parameter that is not used has a gradient of zeros, which the solver may overwrite."""
    batch = torch.ones(2)
    outputs, operations = recorded(lambda: [batch.sum(), torch.zeros(3)])
    program = Program(varying_operations(operations, [batch], outputs), [batch], outputs)
    program([batch])[1].add_(5)
    assert torch.equal(program([batch])[1], torch.zeros(3))


def test_a_tensor_outside_of_the_model_must_not_be_changed() -> None:
    counter, batch = torch.zeros(1), torch.ones(2)
    _, operations = recorded(lambda: batch.sum() + counter.add_(1))
    with pytest.raises(CannotTraceError, match="not one of its parameters"):
        varying_operations(operations, [batch], [])


def test_a_constant_that_changes_after_its_use_is_refused() -> None:
    batch = torch.ones(2)

    def compute() -> Tensor:
        constant = torch.zeros(2)
        used = batch + constant
        constant.add_(1)
        return used

    output, operations = recorded(compute)
    with pytest.raises(CannotTraceError, match="changed after it has been used"):
        varying_operations(operations, [batch], [output])
