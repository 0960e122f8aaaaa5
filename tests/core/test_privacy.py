"""Clipping and noise: by hand, on every engine, in deployments, from checkpoints; epsilon by the accountant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.engines import LoopEngine
from fedlama.flower.client.function import FunctionTrainer
from fedlama.flower.client.respond import respond
from fedlama.flower.protocol import TrainRequest
from tests.core.helpers import mlp, skewed_clients
from tests.flower.cases import assert_same_bits, deployed, in_process
from tests.resume.test_exact import assert_exact

ENGINES = ["loop", "stacked", "workers", "recorded"]


def federation(**changes: Any) -> fl.Federation:  # noqa: ANN401  (any field)
    settings: dict[str, Any] = {
        "solver": fl.SGD(0.5),
        "weighting": "equal",
        "privacy": fl.Privacy(clip=0.1, noise=0.5),
        "sampler": fl.UniformSampler(2),
        "keep_client_models": False,
    }
    strategy = changes.pop("strategy", fl.FedAvg(2))
    return fl.Federation(mlp().float(), skewed_clients(4), strategy, 8, **(settings | changes))


def norm(changes: Sequence[torch.Tensor]) -> float:
    return math.sqrt(sum(float(change.double().square().sum()) for change in changes))


@pytest.mark.parametrize("per_layer", [False, True])
def test_no_client_moves_further_than_the_limit(per_layer: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    reference = [torch.randn(4, 3, generator=draw), torch.randn(3, generator=draw), torch.randn(5, generator=draw)]
    layers = [[0, 1], [2]]
    moved = [r + s * torch.randn(3, *r.shape, generator=draw) for r, s in zip(reference, (0.3, 0.3, 3.0), strict=True)]
    moved[0][0], moved[1][0], moved[2][0] = reference[0] + 1e-3, reference[1] + 1e-3, reference[2] + 1e-3
    before = [tensor.clone() for tensor in moved]
    fl.Privacy(clip=0.5, per_layer=per_layer).limit(moved, reference, layers)
    for client in range(3):
        changes = [tensor[client] - known for tensor, known in zip(moved, reference, strict=True)]
        assert norm(changes) <= 0.5 * (1 + 1e-5)
        if per_layer:
            assert all(norm([changes[i] for i in layer]) <= 0.5 / math.sqrt(2) * (1 + 1e-5) for layer in layers)
        whole = [tensor[client] - known for tensor, known in zip(before, reference, strict=True)]
        for change, old in zip(changes, whole, strict=True):  # shorter, in the same direction
            cosine = torch.dot(change.flatten(), old.flatten()) / (change.norm() * old.norm())
            assert float(cosine) == pytest.approx(1.0, abs=1e-4)
    assert all(torch.equal(tensor[0], old[0]) for tensor, old in zip(moved, before, strict=True))  # it was within


def test_noise_is_as_large_as_said_and_belongs_to_its_address() -> None:
    privacy = fl.Privacy(clip=2.0, noise=3.0)
    zeros = torch.zeros(200_000)
    drawn = privacy.noisy(zeros, 4, seed=0, round_index=1, position=2)
    assert float(drawn.std()) == pytest.approx(3.0 * 2.0 / 4, rel=0.01)
    assert abs(float(drawn.mean())) < 0.02
    assert torch.equal(drawn, privacy.noisy(zeros, 4, seed=0, round_index=1, position=2))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert not torch.equal(drawn, privacy.noisy(zeros, 4, *other))
    assert torch.equal(fl.Privacy(noise=0.0).noisy(zeros, 4, 0, 0, 0), zeros)


@pytest.mark.parametrize("value", [{"clip": 0.0}, {"delta": 0.0}, {"delta": 1.5}, {"noise": -1.0}, {"per_layer": 2}])
def test_bad_settings(value: dict[str, Any]) -> None:
    with pytest.raises(fl.ConfigError, match=f"{next(iter(value))} is "):
        fl.Privacy(**value)


def accountant() -> Any:  # noqa: ANN401  (a module)
    return pytest.importorskip("dp_accounting", reason="needs fedlama[privacy]")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("solver", [fl.SGD(0.5, momentum=0.9), fl.Adam(0.1)], ids=lambda solver: solver.name)
def test_engines_agree_and_the_model_moves_no_further(engine: str, solver: Any) -> None:  # noqa: ANN401
    accountant()
    quiet = fl.Privacy(clip=0.1, noise=0.0)
    run = fl.Run(federation(engine=engine, solver=solver, privacy=quiet))
    loop = fl.Run(federation(solver=solver, privacy=quiet))
    for _ in range(4):
        before = {name: value.clone() for name, value in run.values.items()}
        run.advance()
        loop.advance()
        assert norm([run.values[name] - value for name, value in before.items()]) <= 0.1 * (1 + 1e-5)
        for name, value in loop.values.items():
            torch.testing.assert_close(run.values[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.selection
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("strategy", [fl.FedAvg(2), fl.FedLUAR(2, 1), fl.Cyclic(2)], ids=lambda s: s.name)
def test_a_run_goes_on_from_any_round_with_the_same_noise(engine: str, strategy: Any) -> None:  # noqa: ANN401
    accountant()
    assert_exact(federation(engine=engine, strategy=strategy))


def test_the_noise_of_a_run() -> None:
    accountant()
    noisy, quiet = (federation(privacy=fl.Privacy(0.1, noise)) for noise in (0.5, 0.0))
    first, second = fl.Run(noisy), fl.Run(quiet)
    first.advance()
    second.advance()
    apart = torch.cat([(first.values[name] - value).flatten() for name, value in second.values.items()])
    assert float(apart.std()) == pytest.approx(0.5 * 0.1 / 2, rel=0.2)


def test_a_deployment_gives_the_same_bits(tmp_path: Path) -> None:
    accountant()
    given = federation()
    assert_same_bits(deployed(given, in_process(given, tmp_path)).to_end([]), given.run())


def test_a_function_that_limits_nothing_is_refused(tmp_path: Path) -> None:
    accountant()
    given = federation()
    channel = in_process(given, tmp_path)
    run = deployed(given, channel)
    run.advance()
    request: TrainRequest = channel.requests[-1]
    trainer = FunctionTrainer(mlp().float(), lambda *_: 0.0, samples=10)
    reply = respond(request, trainer, tmp_path / "function.safetensors")
    assert reply.status == "refused"
    assert "privacy" in reply.detail


class AlwaysTheSame(fl.UniformSampler):
    """Draws the first clients in every round."""

    def draw(self, population: int, round_index: int, seed: int) -> tuple[int, ...]:
        return tuple(range(self.active))


def test_epsilon_is_that_of_the_accountant() -> None:
    accounting = accountant()
    privacy = fl.Privacy(noise=4.0, delta=1e-5)
    everyone = privacy.epsilon(10, 100, fl.AllClients())
    # Renyi divergence of order a of 10 Gaussians with z = 2: 10 a / (2 * 4); the best a of the classical conversion.
    orders = np.arange(1.01, 200, 0.01)
    classical = float(np.min(10 * orders / 8 + math.log(1e5) / (orders - 1)))
    assert 0.8 * classical < everyone <= classical
    sampled = privacy.epsilon(10, 100, fl.UniformSampler(10))
    assert sampled < everyone / 2
    assert privacy.epsilon(10, 100, fl.UniformSampler(10, hold_rounds=2)) == everyone  # the same clients twice
    assert privacy.epsilon(10, 100, fl.WeightedSampler(10)) == everyone
    assert privacy.epsilon(10, 100, AlwaysTheSame(10)) == everyone  # it inherits, but draws otherwise
    assert privacy.epsilon(20, 100, fl.AllClients()) > everyone
    assert fl.Privacy(noise=0.0).epsilon(1, 10, fl.AllClients()) == math.inf
    event = accounting.dp_event.SelfComposedDpEvent(accounting.dp_event.GaussianDpEvent(2.0), 10)
    own = accounting.rdp.RdpAccountant(neighboring_relation=accounting.NeighboringRelation.REPLACE_ONE)
    assert everyone == pytest.approx(own.compose(event).get_epsilon(1e-5), rel=1e-12)


def test_epsilon_is_in_the_figures() -> None:
    accountant()
    result = federation().run()
    assert result.figures == {"epsilon": fl.Privacy(0.1, 0.5).epsilon(4, 4, fl.UniformSampler(2)), "delta": 1e-5}


class Normed(nn.Module):
    """A model with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dense = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.dense(self.norm(x))
        return logits


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"weighting": "samples"}, "weighting is 'samples'"),
        ({"aggregator": fl.Median()}, "noise is known for a mean alone"),
        ({"codec": fl.Float16()}, "codec is 'float16', which could make a contribution larger"),
        ({"strategy": fl.FedLAMA(2, 2), "sampler": fl.AllClients()}, "fedlama looks at clients beyond their average"),
        ({"solver": fl.Scaffold(0.1)}, "solver 'scaffold' sends 'control' too"),
        (
            {"sampler": fl.PowerOfChoice(2, candidates=3)},
            "'power-of-choice' may choose clients by their training losses",
        ),
        ({"privacy": fl.Privacy(delta=0.25)}, "privacy.delta is 0.25, expected less than 1 / 4"),
        ({"privacy": {"clip": 1.0}}, r"privacy is .*, expected fedlama.Privacy; use Privacy\(clip="),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(fl.ConfigError, match=problem):
        federation(**changes).run()


def test_running_statistics_are_refused() -> None:
    with pytest.raises(fl.ConfigError, match=r"'norm\.running_mean' is averaged without a limit"):
        fl.Federation(Normed(), skewed_clients(2), fl.FedAvg(2), 4, weighting="equal", privacy=fl.Privacy()).run()


def test_without_the_library_a_run_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    with pytest.raises(fl.MissingExtraError, match=r"pip install 'fedlama\[privacy\]'"):
        federation().run()


class NoEnd:
    """An engine of an earlier version: all of the loop engine but what happens at the end of a round."""

    holds_clients = True

    def __init__(self, setup: Any) -> None:  # noqa: ANN401
        self._inner = LoopEngine(setup)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name == "ends_rounds":
            raise AttributeError(name)
        return getattr(self._inner, name)


def test_an_engine_that_does_not_end_rounds_is_refused() -> None:
    accountant()
    with pytest.raises(fl.ConfigError, match="privacy is set, but NoEnd, which has no class attribute ends_rounds"):
        federation(engine=NoEnd).run()
    for solver in (fl.Scaffold(0.1), fl.MimeLAMB()):
        with pytest.raises(fl.ConfigError, match=f"solver is '{solver.name}', but NoEnd"):
            federation(engine=NoEnd, privacy=None, solver=solver).run()
    federation(engine=NoEnd, privacy=None).run()
