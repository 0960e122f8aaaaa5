"""FedLPA as a federation: one round, on every engine and deployed, with its factors in the ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.engines import LoopEngine, Recorded, Stacked, Workers
from fedlama.engines.factors import FactorPass
from fedlama.federation.presets import authors
from tests.engines.cases import assert_same, federation, network, run
from tests.flower.cases import assert_same_bits, deployed, in_process

ENGINES: list[Any] = [Stacked(), Stacked(chunk=2), Workers(threads=2), Recorded(share=2), fl.Auto()]
ONE_SHOT: dict[str, Any] = {
    "strategy": fl.FedAvg(3),
    "local_steps": None,
    "rounds": 1,
    "local_work": fl.LocalWork(epochs=2),
    "solver": fl.SGD(0.05, momentum=0.9),
    "sampler": fl.AllClients(),
    "layers": fl.by_module(network()),
    "aggregator": fl.FedLPA(),
}


@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize("solve", ["exact", "ea"])
def test_engines_agree(engine: Any, solve: Any) -> None:  # noqa: ANN401
    choices = ONE_SHOT | {"aggregator": fl.FedLPA(solve)}
    assert_same(run(engine, **choices), run("loop", **choices), 2e-3)


def test_the_model_is_that_of_an_independent_solve() -> None:
    """The dense layer of the network, from the clients' models and a plain version of the factors."""
    given = federation("loop", **ONE_SHOT)
    live, trained_models = fl.Run(given), dict[str, torch.Tensor]()
    inner: Any = live.engine
    inner, arrive = inner._inner, inner._inner.received

    def received(layer: fl.Layer) -> dict[str, torch.Tensor]:
        """Remember what arrives: afterwards every client has the server's model."""
        trained_models.update({name: value.clone() for name, value in arrive(layer).items()})
        return dict(arrive(layer))

    inner.received = received
    result, setup = live.to_end([]), given.engine_setup()
    system, right = torch.zeros(725, 725, dtype=torch.float64), torch.zeros(725, dtype=torch.float64)
    total = sum(setup.clients.samples(client) for client in range(5))
    for client in range(5):
        values = {name: stacked[client] for name, stacked in trained_models.items()}
        model = network().double()
        model.load_state_dict({name: value.double() for name, value in values.items()}, strict=False)
        model.train()
        inputs, outputs, samples = torch.zeros(145, 145).double(), torch.zeros(5, 5).double(), 0
        for step in range(-(-setup.clients.samples(client) // 4)):
            x, y = setup.clients.batch(client, step, 0)
            a = model[:4](x.double()).detach()
            output = model[4](a).requires_grad_()
            g = torch.autograd.grad(nn.functional.cross_entropy(output, y, reduction="sum"), output)[0]
            a = torch.cat([a, torch.ones(len(a), 1)], 1)
            inputs, outputs, samples = inputs + a.T @ a, outputs + g.T @ g, samples + len(a)
        damping = 0.001**0.5
        inputs = inputs / samples + damping * torch.eye(145)
        outputs = outputs / samples + damping * torch.eye(5)
        trained = torch.cat([values["4.weight"], values["4.bias"].unsqueeze(1)], 1).double()
        matrix = setup.clients.samples(client) / total * torch.kron(inputs, outputs)
        system, right = system + matrix, right + matrix @ trained.T.reshape(-1)
    expected = torch.linalg.solve(system, right).reshape(145, 5).T
    torch.testing.assert_close(result.model["4.weight"].double(), expected[:, :144], rtol=1e-3, atol=2e-4)
    torch.testing.assert_close(result.model["4.bias"].double(), expected[:, 144], rtol=1e-3, atol=2e-4)


def test_factors_come_up_and_never_go_down() -> None:
    ledger = run("loop", **ONE_SHOT).ledger
    down = {row.layer for row in ledger.rows() if row.direction == "down"}
    up = {row.layer: row.payload_bytes for row in ledger.rows() if row.direction == "up"}
    assert down == {"0", "1", "4"}
    assert up.keys() == {"0", "1", "4", "factors/0", "factors/4"}
    assert up["factors/0"] == 4 * (18 * 19 // 2 + 4 * 5 // 2)
    assert up["factors/4"] == 4 * (145 * 146 // 2 + 5 * 6 // 2)


@pytest.mark.parametrize("engine", ["loop", *ENGINES], ids=str)
def test_a_finished_run_is_restored(engine: Any) -> None:  # noqa: ANN401
    given = federation(engine, **ONE_SHOT)
    first = fl.Run(given)
    before = [first.advance()]
    second = fl.Run(given)
    second.load_state_dict(first.state_dict(), before)
    result = second.to_end([], before)
    assert all(torch.equal(result.model[name], value) for name, value in first.global_model().items())


def test_a_deployment_has_the_bits_of_a_simulation(tmp_path: Path) -> None:
    given = federation("loop", **(ONE_SHOT | {"keep_client_models": False}))
    assert_same_bits(deployed(given, in_process(given, tmp_path)).to_end([]), given.run())


def test_fedavg_goes_on_from_its_model() -> None:
    first = federation("loop", **ONE_SHOT).run()
    model = network()
    model.load_state_dict(first.model)
    result = federation("loop", model=model, strategy=fl.FedAvg(3), sampler=fl.AllClients()).run()
    assert len(result.rounds) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 2}, "the budget is 2 rounds, expected one; set rounds=1"),
        ({"codec": fl.Float16()}, "codec is 'float16', expected 'float32'"),
        ({"solver": fl.Scaffold(0.1)}, "which needs several rounds"),
        ({"server_optimizer": fl.ServerMomentum()}, "since the server solves for the model"),
        ({"availability": fl.RandomAbsence(away=0.1)}, "since there is no later round"),
        ({"layers": fl.by_mapping(network(), lambda _: "all")}, "no layer holds all parameters of one dense layer"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(fl.ConfigError, match=message):
        federation("loop", **(ONE_SHOT | changes)).run()


def test_the_forecast_has_the_bytes_of_the_run() -> None:
    given = federation("loop", **ONE_SHOT)
    run_ledger, setup = given.run().ledger, given.engine_setup()
    expected = fl.forecast(
        given.strategy,
        given.labelling(),
        codec=given.codec,
        sampler=given.sampler,
        population=5,
        local_steps=given.budget.local_steps,
        base_interval=3,
        uploads=setup.factor_layers,
    )
    assert (expected.low, expected.low.bytes_up) == (expected.high, run_ledger.total_bytes("up"))
    assert expected.low.bytes_down == run_ledger.total_bytes("down")


def test_the_authors_preset_takes_their_solve() -> None:
    given = authors(federation("loop", **(ONE_SHOT | {"weighting": "equal", "layers": None})))
    assert given.aggregator == fl.FedLPA("authors")
    assert (given.weighting, given.evaluate) == ("samples", "global")
    assert [layer.name for layer in given.full_labelling()] == ["0", "1", "4"]
    given.run()


class Calls(nn.Module):
    """Two dense layers, of which the first is used in a way of its own."""

    def __init__(self, use: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.square, self.out, self.use = nn.Linear(72, 72), nn.Linear(72, 5), use

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(self.use(self.square, x.flatten(1)))
        return logits


USES: dict[str, tuple[Callable[[Any, torch.Tensor], torch.Tensor], str]] = {
    "twice": (lambda module, x: module(module(x)), "layer 'square' is used twice in a forward pass"),
    "not at all": (lambda _, x: x, "the module of layer 'square' is not called in a forward pass"),
    "by its weight": (lambda module, x: x @ module.weight.T, "the module of layer 'square' is not called"),
    "on positions": (lambda module, x: module(x.unsqueeze(1)).squeeze(1), "one has an input of 3 dimensions"),
}


@pytest.mark.parametrize("use", USES)
def test_a_module_without_known_factors_is_refused_before_the_training(use: str) -> None:
    model, message = Calls(USES[use][0]), USES[use][1]
    given = federation("loop", **(ONE_SHOT | {"model": model, "layers": fl.by_module(model)}))
    with pytest.raises(fl.ConfigError, match=message):
        fl.Run(given)


def test_a_module_may_be_called_with_its_input_by_name() -> None:
    results = []
    for use in (lambda module, x: module(x), lambda module, x: module(input=x)):
        torch.manual_seed(0)
        model = Calls(use)
        results.append(run("loop", **(ONE_SHOT | {"model": model, "layers": fl.by_module(model)})).model)
    assert all(torch.equal(results[0][name], value) for name, value in results[1].items())


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_pass_takes_micro_batches(size: int) -> None:
    """Batches of 4, 4 and 2 samples in parts, with the factors of whole batches, as nothing compares samples."""
    seen: list[int] = []

    def use(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return torch.as_tensor(module(x)).relu()

    torch.manual_seed(0)
    model = Calls(use)
    choices = ONE_SHOT | {"model": model, "layers": fl.by_module(model)}
    values = {name: value.clone() for name, value in model.state_dict().items()}
    made = []
    for micro in (None, size):
        seen.clear()
        factor_pass = FactorPass.of(federation("loop", **choices, micro_batch_size=micro).engine_setup())
        assert factor_pass is not None
        made.append(factor_pass.factors(1, values, 0))
        assert max(seen) == (micro or 4)
        assert sum(seen) == 10
    for name, value in made[0].items():
        torch.testing.assert_close(made[1][name], value, rtol=1e-5, atol=1e-7)


def test_a_run_in_micro_batches_is_that_of_whole_batches_where_nothing_compares_samples() -> None:
    torch.manual_seed(0)
    model = Calls(lambda module, x: module(x).relu())
    choices = ONE_SHOT | {"model": model, "layers": fl.by_module(model)}
    assert_same(run("loop", **choices, micro_batch_size=2), run("loop", **choices), 2e-3)


class Elsewhere(LoopEngine):
    """An engine that shows no models and computes no factors."""

    holds_clients: ClassVar[bool] = False
    factors: ClassVar[bool] = False


def test_an_engine_without_factors_is_refused_in_one_sentence() -> None:
    with pytest.raises(fl.ConfigError, match="Elsewhere, which has no class attribute factors") as caught:
        fl.Run(federation(Elsewhere, **ONE_SHOT))
    assert len(caught.value.problems) == 1
