"""How an average enters the global model, by hand and inside a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from fedlama import (
    SGD,
    ConfigError,
    FedAvg,
    Federation,
    FixedIntervals,
    Replace,
    ServerAdagrad,
    ServerAdam,
    ServerMomentum,
    ServerNesterov,
    ServerYogi,
)
from fedlama.choices.server_optimizers import ServerOptimizer, ServerOptimizerState
from tests.core.helpers import Line, mlp, product, pushed, skewed_clients


def entered(step: ServerOptimizer, averages: list[float], start: float = 0.0) -> list[float]:
    """Global values of one number when the clients' averages are given."""
    value, optimizer_state = torch.tensor([start], dtype=torch.float64), {}
    places = []
    for average in averages:
        value = step.apply(value, torch.tensor([average], dtype=torch.float64), optimizer_state)
        places.append(float(value))
    return places


def test_replace() -> None:
    assert entered(Replace(), [3.0, -1.0]) == [3.0, -1.0]


def test_momentum_by_hand() -> None:
    # v = 4, value 2; then v = .5 * 4 + (4 - 2) = 4, value 4.
    assert entered(ServerMomentum(learning_rate=0.5, momentum=0.5), [4.0, 4.0]) == [2.0, 4.0]


def test_nesterov_by_hand() -> None:
    # m = 4, value 0.7 * (4 + 2) = 4.2; then D = -0.2, m = 1.8, value 4.2 + 0.7 * (-0.2 + 0.9) = 4.69.
    assert entered(ServerNesterov(), [4.0, 4.0]) == pytest.approx([4.2, 4.69], rel=1e-12)


def test_the_default_momentum_is_what_works_in_short_runs() -> None:
    assert (ServerMomentum().momentum, ServerNesterov().learning_rate, ServerNesterov().momentum) == (0.5, 0.7, 0.5)
    assert ServerAdam() == ServerAdam(learning_rate=0.01, beta1=0.5, beta2=0.99, epsilon=1e-3)


@pytest.mark.parametrize("kind", [ServerMomentum, ServerNesterov, ServerAdam, ServerAdagrad])
def test_layers_can_have_settings_of_their_own(
    kind: type[ServerMomentum | ServerNesterov | ServerAdam | ServerAdagrad],
) -> None:
    optimizer = kind(learning_rate=0.25, per_layer={"fc?.bias": {"learning_rate": 1.0}, "*": {"learning_rate": 0.5}})
    assert optimizer.for_layer("fc1.bias") == kind(learning_rate=1.0)
    assert optimizer.for_layer("fc1.weight") == kind(learning_rate=0.5)
    assert kind(learning_rate=0.25, per_layer={"a": {"learning_rate": 1.0}}).for_layer("b").learning_rate == 0.25


def refusal(optimizer: ServerOptimizer) -> Sequence[str]:
    """Return why a run with a server optimizer is refused."""
    federation = Federation(
        *(Line(0.0), pushed(-1.0, -3.0), FedAvg(1)),
        local_steps=2,
        solver=SGD(1.0),
        server_optimizer=optimizer,
        objective=product,
    )
    with pytest.raises(ConfigError) as error:
        federation.run()
    return error.value.problems


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        (
            "count",
            1,
            "Remembering: the buffer 'count' of 'free' is 1, expected a tensor; keep it as a tensor, such as "
            "torch.zeros(())",
        ),
        (
            "a/b",
            torch.zeros(()),
            "Remembering: the name of a buffer of 'free' is 'a/b', expected a text without '/'; rename it",
        ),
    ],
)
def test_buffers_that_no_checkpoint_can_hold_are_refused_in_the_first_round(
    name: str, value: object, problem: str
) -> None:
    class Remembering(ServerOptimizer):
        def apply(self, previous: Tensor, average: Tensor, optimizer_state: ServerOptimizerState) -> Tensor:
            optimizer_state[name] = value  # type: ignore[assignment]
            return average

    assert refusal(Remembering())[0] == problem


@pytest.mark.parametrize(
    ("new", "problem"),
    [
        (None, "Strange: apply returned None for 'free', expected a tensor; return the new value"),
        (
            torch.zeros(3),
            "Strange: apply returned torch.float32 (3,) for 'free', expected torch.float64 (1, 1); return the new "
            "value in the form of previous",
        ),
    ],
)
def test_a_value_of_another_form_is_refused(new: Tensor | None, problem: str) -> None:
    class Strange(ServerOptimizer):
        def apply(self, previous: Tensor, average: Tensor, optimizer_state: ServerOptimizerState) -> Tensor:
            return new  # type: ignore[return-value]

    assert refusal(Strange()) == (problem,)


def test_a_layer_of_its_own_rate_moves_by_it() -> None:
    federation = Federation(
        Line(0.0),
        pushed(-1.0, -3.0),
        FedAvg(1),
        local_steps=1,
        solver=SGD(1.0),
        server_optimizer=ServerMomentum(learning_rate=0.5, momentum=0.0, per_layer={"held": {"learning_rate": 0.25}}),
        objective=product,
    )
    model = federation.run().model  # the average is 2 above for both
    assert (float(model["free"]), float(model["held"])) == (1.0, 0.5)


def test_settings_for_a_layer_that_does_not_exist_are_refused() -> None:
    optimizer = ServerNesterov(per_layer={"fre": {"momentum": 0.0}})
    with pytest.raises(ConfigError, match="'fre', which matches no layer; did you mean 'free'"):
        Federation(Line(0.0), pushed(1.0), FedAvg(1), 1, server_optimizer=optimizer, objective=product).run()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"a": {"rate": 1.0}}, "per_layer sets 'rate' for 'a', expected one of learning_rate, momentum"),
        ({"a": {"momentum": 1.5}}, "momentum is 1.5"),
        ({"a": 1.0}, "expected settings by layer"),
    ],
)
def test_bad_settings_of_a_layer(given: dict[str, dict[str, float]], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        ServerMomentum(per_layer=given)


def test_momentum_that_is_none_is_replace() -> None:
    assert entered(ServerMomentum(learning_rate=1.0, momentum=0.0), [3.0, -1.0]) == [3.0, -1.0]


def test_adam_by_hand() -> None:
    # Algorithm 2 of Reddi et al.: v starts at tau^2, and no bias is corrected.
    step = ServerAdam(learning_rate=0.1, beta1=0.5, beta2=0.75, epsilon=2.0)
    m, v = 0.5 * 4.0, 0.75 * 4.0 + 0.25 * 16.0
    first = 0.1 * m / (math.sqrt(v) + 2.0)
    change = 4.0 - first
    m, v = 0.5 * m + 0.5 * change, 0.75 * v + 0.25 * change**2
    assert entered(step, [4.0, 4.0]) == pytest.approx([first, first + 0.1 * m / (math.sqrt(v) + 2.0)], rel=1e-12)


def test_yogi_by_hand() -> None:
    # Algorithm 2 of Reddi et al.: v moves by (1 - beta2) D^2, up in the first round and down in the second.
    step = ServerYogi(learning_rate=0.1, beta1=0.5, beta2=0.75, epsilon=2.0)
    m, v = 0.5 * 4.0, 4.0 + 0.25 * 16.0
    first = 0.1 * m / (math.sqrt(v) + 2.0)
    change = 1.0 - first
    assert change**2 < v
    m, v = 0.5 * m + 0.5 * change, v - 0.25 * change**2
    assert entered(step, [4.0, 1.0]) == pytest.approx([first, first + 0.1 * m / (math.sqrt(v) + 2.0)], rel=1e-12)


def test_adagrad_by_hand() -> None:
    step = ServerAdagrad(learning_rate=0.1, beta1=0.5, epsilon=2.0)
    m, v = 0.5 * 4.0, 4.0 + 16.0
    first = 0.1 * m / (math.sqrt(v) + 2.0)
    change = 4.0 - first
    m, v = 0.5 * m + 0.5 * change, v + change**2
    assert entered(step, [4.0, 4.0]) == pytest.approx([first, first + 0.1 * m / (math.sqrt(v) + 2.0)], rel=1e-12)


def test_the_server_of_adp_fed_starts_at_zero() -> None:
    # Karimi et al., Algorithm 2: no bias correction, and v is (1 - beta2) D^2 after the first round.
    step = ServerAdam(learning_rate=0.1, beta1=0.9, beta2=0.99, epsilon=0.5, start=0.0)
    assert entered(step, [4.0]) == pytest.approx([0.1 * 0.1 * 4.0 / (math.sqrt(0.01 * 16.0) + 0.5)], rel=1e-12)


def test_clients_continue_from_what_the_server_made_of_it() -> None:
    # Clients walk up by 1 and 3, so averages are 2 above; half of that enters, without momentum.
    federation = Federation(
        Line(0.0),
        pushed(-1.0, -3.0),
        FedAvg(1),
        local_steps=3,
        solver=SGD(1.0),
        server_optimizer=ServerMomentum(learning_rate=0.5, momentum=0.0),
        objective=product,
        keep_client_models=True,
    )
    result = federation.run()
    for record, place in zip(result.rounds, (1.0, 2.0, 3.0), strict=True):
        assert [float(values["free"]) for values in record.client_models.values()] == [place, place]
        # The discrepancy is about the average, not about the new global value.
        assert record.layers["free"].discrepancy == 1.0
    assert float(result.model["free"]) == 3.0


def test_the_server_remembers_from_one_synchronisation_of_a_layer_to_the_next() -> None:
    # Averages are 2 per round above: v = 2, 1 + 2, 1.5 + 2. "held" meets every third round: v = 6, then 3 + 6.
    federation = Federation(
        Line(0.0),
        pushed(-1.0, -3.0),
        FixedIntervals(1, {"held": 3}),
        local_steps=6,
        solver=SGD(1.0),
        server_optimizer=ServerMomentum(learning_rate=1.0, momentum=0.5),
        objective=product,
        keep_client_models=True,
    )
    models = [record.client_models[0] for record in federation.run().rounds]
    assert [float(values["free"]) for values in models[:3]] == [2.0, 5.0, 8.5]
    assert [float(models[e]["held"]) for e in (2, 5)] == [6.0, 15.0]


@dataclass(frozen=True)
class HalfWay(ServerOptimizer):
    """The shortest server optimizer."""

    name: ClassVar[str] = "half-way"

    def apply(self, previous: Tensor, average: Tensor, optimizer_state: ServerOptimizerState) -> Tensor:
        return (previous + average) / 2


def test_a_new_server_optimizer_needs_only_one_method() -> None:
    assert entered(HalfWay(), [4.0, 4.0]) == [2.0, 3.0]
    given = Federation(mlp().float(), skewed_clients(2), FedAvg(1), 1, server_optimizer=HalfWay())
    plain = Federation(mlp().float(), skewed_clients(2), FedAvg(1), 1).run()
    for name, value in given.run().model.items():
        assert torch.equal(value, (mlp().float().state_dict()[name] + plain.model[name]) / 2)


def test_numbers_of_numpy_become_plain_ones() -> None:
    assert repr(ServerAdam(beta1=np.float64(0.5))) == repr(ServerAdam(beta1=0.5))
    assert repr(ServerMomentum(np.float32(0.5))) == repr(ServerMomentum(0.5))


def test_bad_settings() -> None:
    with pytest.raises(ConfigError) as caught:
        ServerAdam(learning_rate=-1, beta1=1.0, beta2=-0.1, epsilon=-1)
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError, match="momentum is 1"):
        ServerMomentum(momentum=1)
