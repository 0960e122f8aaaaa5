"""Fed-LAMB and Fed-AMS: two literal rounds, the length of every step, what stays on a client, and the bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedlama as fl
from fedlama.federation.presets import authors

ENGINES = ["loop", "stacked", "workers", "recorded"]
A = [[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]]
B = [[0.0, 2.0, 1.0], [1.0, 1.0, 1.0]]
MEAN = [
    ([2.514703274154466, 3.3576336397203868], [0.81]),
    ([1.9828371666290816, 2.831995674086569], [0.6561]),
]
OWN = [
    {
        0: ([2.18444996751966, 3.649388850371097], [0.81]),
        1: ([2.844956580789273, 3.065878429069677], [0.81]),
    },
    {
        0: ([1.7895106046787446, 3.0250637935036573], [0.6561]),
        1: ([2.176163728579419, 2.6389275546694804], [0.6561]),
    },
]
VHAT = [([0.00995, 0.0298], [0.03475]), ([0.019701995, 0.05900698], [0.068808475])]


class Two(nn.Module):
    """Two layers whose gradient is the input: ([3, 4], [1])."""

    def __init__(self, first: tuple[float, ...] = (3.0, 4.0), second: tuple[float, ...] = (1.0,)) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor(first, dtype=torch.float64))
        self.second = nn.Parameter(torch.tensor(second, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.cat([self.first, self.second])


def gradients(*steps: list[list[float]], rounds: int = 2) -> fl.ReplayedClients:
    """Clients with these gradients in each round."""
    return fl.ReplayedClients(
        [[(torch.tensor([g], dtype=torch.float64), torch.zeros(1)) for g in own * rounds] for own in steps]
    )


def federation(**changes: Any) -> fl.Federation:  # noqa: ANN401  (any field)
    settings: dict[str, Any] = {
        "model": Two(),
        "clients": gradients(A, B),
        "strategy": fl.FedAvg(2),
        "local_steps": 4,
        "solver": fl.FedLAMB(0.1, beta1=0.9, beta2=0.99, epsilon=1e-8, weight_decay=0.01),
        "weighting": "equal",
        "objective": lambda output, _: output.mean(),
    }
    return fl.Federation(**(settings | changes))


@pytest.mark.parametrize("engine", ENGINES)
def test_two_literal_rounds(engine: str) -> None:
    run = fl.Run(federation(engine=engine, keep_client_models=True))
    trained: list[dict[int, dict[str, Tensor]]] = []
    synchronise = run.server.synchronise

    def watched(*given: Any) -> Any:  # noqa: ANN401
        trained.append({client: run.engine.client_values(client) for client in (0, 1)})
        return synchronise(*given)

    run.server.synchronise = watched  # type: ignore[method-assign]
    for index in range(2):
        run.advance()
        for client, expected in OWN[index].items():
            for name, numbers in zip(("first", "second"), expected, strict=True):
                np.testing.assert_allclose(trained[index][client][name].numpy(), numbers, rtol=1e-12)
        for name, numbers, second in zip(("first", "second"), MEAN[index], VHAT[index], strict=True):
            np.testing.assert_allclose(run.values[name].numpy(), numbers, rtol=1e-12)
            np.testing.assert_allclose(run.values[f"second/{name}"].numpy(), second, rtol=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_every_step_is_as_long_as_the_rate_times_the_norm(weight_decay: float) -> None:
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    solver = fl.FedLAMB(weight_decay=weight_decay)
    x = [random(3, 4, 5), random(3, 7)]  # three clients
    state = {
        "mean": [random(3, 4, 5), random(3, 7)],
        "second": [random(3, 4, 5).abs(), random(3, 7).abs()],
        fl.server_value_of("second"): [random(4, 5).abs(), random(7).abs()],
    }
    for _ in range(5):
        before = [tensor.clone() for tensor in x]
        solver.step(x, [random(3, 4, 5), random(3, 7)], state, 0.03, [True, True], [])
        for moved, norm in zip(
            fl.tensor_norms([now - old for now, old in zip(x, before, strict=True)]),
            fl.tensor_norms(before),
            strict=True,
        ):
            torch.testing.assert_close(moved, 0.03 * norm, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(("zero_norm", "moved"), [("unit", 0.1), ("stay", 0.0)])
def test_a_tensor_of_norm_0(zero_norm: Any, moved: float) -> None:  # noqa: ANN401
    solver = fl.FedLAMB(0.1, beta2=0.99, zero_norm=zero_norm)
    given = federation(model=Two(second=(0.0,)), solver=solver, clients=gradients([A[0]]), strategy=fl.FedAvg(1))
    run = fl.Run(given)
    run.advance()
    assert abs(float(run.values["second"])) == pytest.approx(moved, rel=1e-12)


def test_a_direction_of_length_0_moves_nothing() -> None:
    solver = fl.FedLAMB(0.1)
    given = federation(solver=solver, clients=gradients([[0.0, 0.0, 0.0]]), strategy=fl.FedAvg(1), local_steps=2)
    assert given.run().model["first"].tolist() == [3.0, 4.0]


def test_one_client_and_one_step() -> None:
    # vhat_r = vhat_{r-1} + (1 - beta2) max(0, g^2 - vhat_{r-1}): it is not AMSGrad.
    steps = [[1.0, 0.1, 2.0], [0.2, 3.0, 0.0], [1.0, 1.0, -1.0]]
    clients = fl.ReplayedClients([[(torch.tensor([g], dtype=torch.float64), torch.zeros(1)) for g in steps]])
    run = fl.Run(federation(clients=clients, strategy=fl.FedAvg(1), local_steps=3))
    vhat = np.zeros(3)
    for g in steps:
        run.advance()
        vhat = vhat + 0.01 * np.maximum(0.0, np.square(g) - vhat)
        ours = np.concatenate([run.values["second/first"].numpy(), run.values["second/second"].numpy()])
        np.testing.assert_allclose(ours, vhat, rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_client_keeps_m_while_others_train(engine: str) -> None:
    turns = [(0,), (1,), (1,), (0,)]

    class Turns(fl.Sampler):
        name = "turns"

        def cohort_size(self, population: int) -> int:
            return 1

        def draw(self, population: int, round_index: int, seed: int) -> tuple[int, ...]:
            return turns[round_index]

    run = fl.Run(federation(engine=engine, sampler=Turns(), local_steps=8, clients=gradients(A, B, rounds=4)))
    for _ in range(3):
        run.advance()
    state = run.engine.state_dict()
    assert state.inactive[0]["mean"]["first"].tolist() == pytest.approx([0.09, 0.1])  # .9 * .1 * 1, and .1 * 1
    run.advance()
    # m = .9 m + .1 g for client 0's third and fourth step, not from zeros and not from client 1's.
    m = np.array([0.09, 0.1])
    for g in A:
        m = 0.9 * m + 0.1 * np.array(g[:2])
    kept = run.engine.state_dict().optimizer_state["mean"]["first"][0]
    assert kept.tolist() == pytest.approx(m.tolist(), rel=1e-12)


def test_twice_the_bytes_in_both_directions() -> None:
    ours, fedavg = federation().run(), federation(solver=fl.SGD(0.1)).run()
    for direction in ("up", "down"):
        assert ours.ledger.payload_bytes(direction) == 2 * fedavg.ledger.payload_bytes(direction)
    assert ours.cost == 2 * fedavg.cost
    assert ours.cost_percent == 200.0


def test_the_bytes_of_resnet18() -> None:
    from fedlama.choices.solvers.exchanged import exchanges_of, extra_layers
    from fedlama.engines.transfers import payload_bytes

    layers = (fl.Layer("all", (fl.TensorSpec("all", (11_181_642,), torch.float32, True),), adaptive=True),)
    sent = layers + extra_layers(layers, exchanges_of(fl.FedLAMB()))
    assert sum(payload_bytes(layer, fl.Float16()) for layer in layers) == 2 * 11_181_642
    assert sum(payload_bytes(layer, fl.Float32()) for layer in sent) == 89_453_136


@pytest.mark.parametrize("engine", ENGINES)
def test_the_second_moment_has_an_interval_of_its_own(engine: str) -> None:
    solver = fl.FedLAMB(0.1, beta2=0.99, interval=2)
    run = fl.Run(federation(engine=engine, solver=solver, local_steps=8, clients=gradients(A, B, rounds=4)))
    seen, sent = [], []
    for _ in range(4):
        record = run.advance()
        seen.append(run.values["second/first"].tolist())
        sent.append([{p.layer for p in t.payloads if "/" in p.layer} for t in record.transfers])
    assert seen[0] == [0.0, 0.0]
    assert seen[1] != seen[0]
    assert seen[2] == seen[1]
    both = {"second/first", "second/second"}
    assert sent == [[both, set()], [set(), both], [both, set()], [set(), both]]  # down and up
    # v of four steps without a restart at vhat: .99^3 g1^2 + .99^2 g2^2 + ... of each client.
    v = np.zeros((2, 3))
    for _ in range(2):
        for step in range(2):
            v = 0.99 * v + 0.01 * np.square([A[step], B[step]])
    np.testing.assert_allclose(seen[1], v.mean(0)[:2], rtol=1e-12)


def test_fed_ams_divides_by_the_clients_own_moment_before_there_is_another() -> None:
    solver = fl.FedAMS(0.1, beta1=0.9, beta2=0.99, epsilon=0.5)
    run = fl.Run(federation(solver=solver, clients=gradients([A[0]]), strategy=fl.FedAvg(1), local_steps=2))
    run.advance()
    expected = [3.0 - 0.1 * 0.1 / (0.1 + 0.5), 4.0]
    assert run.values["first"].tolist() == pytest.approx(expected, rel=1e-12)
    run.advance()  # now vhat is .01 where there was a gradient, though v is more
    expected[0] -= 0.1 * (0.09 + 0.1) / (0.1 + 0.5)
    assert run.values["first"].tolist() == pytest.approx(expected, rel=1e-12)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(fl.ConfigError, match="state_scope is 'slot'"):
        fl.FedLAMB(state_scope="slot")
    with pytest.raises(fl.ConfigError, match="did you mean 'unit'"):
        fl.FedLAMB(zero_norm="units")  # type: ignore[arg-type]
    layers = fl.tagged(fl.by_tensor(Two()), local=["second"])
    with pytest.raises(
        fl.ConfigError, match="exchanges 'second' of every parameter with the server, but layer 'second'"
    ):
        federation(layers=layers).run()
    with pytest.raises(
        fl.ConfigError, match=r"solver\.interval is 2, but the sampler 'uniform' draws new clients after 1"
    ):
        federation(solver=fl.FedLAMB(interval=2), sampler=fl.UniformSampler(1)).run()
    federation(solver=fl.FedLAMB(interval=2), sampler=fl.UniformSampler(1, hold_rounds=2)).run()


def test_the_forecast_counts_what_is_exchanged() -> None:
    given = federation(solver=fl.FedLAMB(0.1, interval=2), local_steps=8, clients=gradients(A, B, rounds=4))
    result = given.run()
    forecast = fl.forecast(
        given.strategy,
        given.labelling(),
        codec=given.codec,
        sampler=given.sampler,
        population=2,
        local_steps=8,
        base_interval=2,
        solver=given.solver,
    )
    assert forecast.low.bytes_up == forecast.high.bytes_up == result.ledger.total_bytes("up")
    assert forecast.low.bytes_down == forecast.high.bytes_down == result.ledger.total_bytes("down")


def test_the_program_of_the_authors_by_hand() -> None:
    # m = 0.1 * [0, 7 + 0.5 * 4] = [0, 0.9]; ||theta|| / ||m|| = 5 / 0.9; divided by sqrt(0.25): a step of 10 along y.
    solver = fl.FedLAMB(0.1, beta1=0.9, epsilon=1e-30, weight_decay=0.5, scale="mean", decay_in="gradient")
    theta = [torch.tensor([[3.0, 4.0]], dtype=torch.float64)]
    gradient = [torch.tensor([[-1.5, 7.0]], dtype=torch.float64)]
    state = solver.init(theta)
    state |= {"second": [torch.zeros(1, 2, dtype=torch.float64)]}
    state |= {"server second": [torch.full((2,), 0.25, dtype=torch.float64)]}
    solver.step(theta, gradient, state, 0.1, [True], [])
    torch.testing.assert_close(theta[0], torch.tensor([[3.0, 3.0]], dtype=torch.float64))
    # In the first round the client's own second moment divides: 0.001 * 9^2 in y; x keeps 0, whose direction is 0.
    first = fl.FedAMS(0.1, beta1=0.0, beta2=0.999, epsilon=1e-8, start=1e-8)
    theta = [torch.tensor([[1.0]], dtype=torch.float64)]
    state = first.init(theta)
    assert float(state["mean"][0]) == 1e-8
    state |= {"second": [torch.full((1, 1), 1e-8, dtype=torch.float64)]}
    state |= {"server second": [torch.full((1,), 1e-8, dtype=torch.float64)]}
    first.step(theta, [torch.tensor([[9.0]], dtype=torch.float64)], state, 0.1, [True], [])
    own = 0.999e-8 + 0.001 * 81.0
    assert float(theta[0]) == pytest.approx(1.0 - 0.1 * 9.0 / (own**0.5 + 1e-8), abs=1e-12)


def test_the_preset_of_the_authors() -> None:
    given = federation(weighting="samples")
    preset = authors(given)
    assert preset.weighting == "equal"
    assert preset.strategy == given.strategy
    assert (preset.solver.scale, preset.solver.zero_norm, preset.solver.start) == ("mean", "stay", 1e-8)  # type: ignore[attr-defined]
    assert (preset.solver.decay_in, preset.solver.first_round) == ("gradient", "own")  # type: ignore[attr-defined]
    ams = authors(federation(solver=fl.FedAMS(0.1))).solver
    assert (ams.decay_in, ams.start) == ("gradient", 1e-8)  # type: ignore[attr-defined]
    whole = preset.run()
    stacked = authors(federation(engine="stacked")).run()
    for name, value in whole.model.items():
        torch.testing.assert_close(stacked.model[name], value, atol=1e-12, rtol=1e-12)
    assert max(float(value.abs().max()) for value in whole.model.values()) > 0


def test_mime_lamb_has_no_such_program() -> None:
    with pytest.raises(fl.ConfigError, match="decay_in, start and scale are of the program"):
        fl.MimeLAMB(0.1, scale="mean")
