"""The Python API: any module, the clients' data, a strategy, a budget; and what the result holds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fedlama as fl

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(80, 6, generator=DRAW)
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()


class Residual(nn.Module):
    """A module of the user's own, with a tensor that no standard module holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 6) to three logits."""
        return self.second(x + self.scale * torch.tanh(self.first(x)))


def model() -> Residual:
    torch.manual_seed(0)
    return Residual()


def clients(count: int = 4, batch_size: int = 5) -> list[fl.ClientData]:
    return [fl.ClientData(X[i::count], Y[i::count], batch_size) for i in range(count)]


@pytest.fixture(scope="module")
def result() -> fl.Result:
    return fl.Federation(
        model=model(),
        clients=clients(),
        strategy=fl.FedLAMA(base_interval=2, increase_factor=2),
        local_steps=24,
        solver=fl.SGD(learning_rate=0.3, momentum=0.5),
        test_set=fl.TestSet(X, Y),
        keep_client_models=True,
    ).run()


def test_it_learns(result: fl.Result) -> None:
    assert result.score is not None
    before = fl.TestSet(X, Y).score(model())
    assert result.score.loss < before.loss
    assert result.score.accuracy > before.accuracy


def test_the_result_loads_into_the_users_model(result: fl.Result) -> None:
    own = model()
    own.load_state_dict(dict(result.model))
    assert fl.TestSet(X, Y).score(own) == result.score


def test_every_round_tells_every_layer(result: fl.Result) -> None:
    assert len(result.rounds) == 12
    for record in result.rounds:
        assert list(record.layers) == ["scale", "first.weight", "first.bias", "second.weight", "second.bias"]
        for layer in record.layers.values():
            assert layer.interval in (1, 2)
            assert layer.synchronised == (layer.discrepancy is not None) == (layer.bytes_up > 0)
    assert result.rounds[0].layers["first.weight"].bytes_up == 4 * 36 * 4  # clients, elements, bytes
    assert any(not layer.synchronised for record in result.rounds for layer in record.layers.values())


def test_client_models_on_request(result: fl.Result) -> None:
    held = next(record for record in result.rounds if not record.layers["first.weight"].synchronised)
    assert set(held.client_models) == {0, 1, 2, 3}
    own = [values["first.weight"] for values in held.client_models.values()]
    assert not torch.equal(own[0], own[1])
    shared = [values["first.bias"] for values in held.client_models.values()]
    assert all(torch.equal(value, shared[0]) for value in shared)
    assert fl.Federation(model(), clients(), fl.FedAvg(2), 2).run().rounds[0].client_models == {}


def test_the_models_weights_are_the_initial_ones_and_stay() -> None:
    own = model()
    with torch.no_grad():
        own.scale.fill_(3.0)
    done = fl.Federation(own, clients(), fl.FedAvg(2), 4, solver=fl.SGD(learning_rate=0.0)).run()
    assert torch.equal(done.model["scale"], torch.full((6,), 3.0))
    fl.Federation(own, clients(), fl.FedAvg(2), 4).run()
    assert torch.equal(own.scale.detach(), torch.full((6,), 3.0))
    assert own.scale.grad is None


def test_replayed_batches_give_the_run_that_they_were_recorded_from() -> None:
    source = fl.Run(fl.Federation(model(), clients(), fl.FedAvg(2), 8)).clients
    recorded = [[source.batch(client, step, 0) for step in range(8)] for client in range(4)]
    expected = fl.Federation(model(), clients(), fl.FedAvg(2), 8).run()
    replayed = fl.ReplayedClients([iter(batches) for batches in recorded], samples=[20] * 4)
    done = fl.Federation(model(), replayed, fl.FedAvg(2), 8).run()
    assert [record.loss for record in done.rounds] == [record.loss for record in expected.rounds]
    assert all(torch.equal(value, done.model[name]) for name, value in expected.model.items())


def test_generators_of_batches_are_clients() -> None:
    def batches(client: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield X[client::4], Y[client::4]

    done = fl.Federation(model(), [batches(i) for i in range(4)], fl.FedAvg(2), 4, weighting="equal").run()
    assert len(done.rounds) == 2
    with pytest.raises(fl.ConfigError, match="numbers of samples are unknown"):
        fl.Federation(model(), [batches(i) for i in range(4)], fl.FedAvg(2), 4).run()


def test_too_few_batches_are_told() -> None:
    with pytest.raises(fl.DataError, match="client 0 has no batch left for local step 1"):
        fl.Federation(model(), [[(X, Y)], [(X, Y)]], fl.FedAvg(2), 2).run()


def test_a_loss_and_a_preparation_of_the_users_own() -> None:
    seen = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return functional.mse_loss(output, functional.one_hot(target, 3).float())

    def halve(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x / 2

    rows = [np.arange(20 * i, 20 * i + 20) for i in range(4)]
    x, y = torch.cat([X[i::4] for i in range(4)]), torch.cat([Y[i::4] for i in range(4)])
    own = fl.TensorClients(x, y, rows, 5, prepare=halve)
    done = fl.Federation(model(), own, fl.FedAvg(2), 4, objective=loss, test_set=fl.TestSet(X, Y, halve)).run()
    plain = fl.Federation(model(), clients(), fl.FedAvg(2), 4, test_set=fl.TestSet(X, Y)).run()
    assert done.score is not None
    assert done.score.loss != plain.score.loss
    assert 5 in seen


def test_regression_needs_no_labels() -> None:
    target = X.sum(dim=1, keepdim=True)
    own = [fl.ClientData(X[i::4], target[i::4], 5) for i in range(4)]
    network = nn.Linear(6, 1)
    done = fl.Federation(network, own, fl.FedAvg(2), 40, solver=fl.SGD(0.1), objective=functional.mse_loss).run()
    assert done.rounds[-1].loss < done.rounds[0].loss / 10
    assert done.score is None


def test_clients_of_different_sizes_weigh_by_their_samples() -> None:
    own = [fl.ClientData(X[:10], Y[:10], 5), fl.ClientData(X[10:40], Y[10:40], 5)]
    assert len(fl.Federation(model(), own, fl.FedAvg(1), 1).run().rounds) == 1
    run = fl.Run(fl.Federation(model(), own, fl.FedAvg(1), 1))
    run.advance()
    assert run.server.weights(run.cohort) == (0.25, 0.75)


def test_callbacks_see_every_round() -> None:
    class Watch:
        """Counts."""

        seen: list[int]

        def on_round(self, record: fl.RoundRecord) -> None:
            self.seen.append(record.round_index)

    watch = Watch()
    watch.seen = []
    fl.Federation(model(), clients(), fl.FedAvg(2), 6).run([watch])
    assert watch.seen == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"local_steps": 3}, "local_steps is 3, but a round of fedavg lasts 2"),
        ({"seed": 2**63}, "expected an integer that fits into 64 bits"),
        ({"device": "abacus"}, "device is 'abacus', but torch cannot compute there"),
        ({"engine": "lop"}, "did you mean 'loop'"),
        ({"sampler": fl.UniformSampler(9)}, "there are only 4 clients"),
        ({"clients": []}, "there are no clients"),
        ({"clients": [fl.ClientData(X[:3], Y[:3], 5)]}, "fewer than one batch of 5"),
        ({"clients": [fl.ClientData(X[:0], Y[:0], 5)]}, "client 0 has no samples"),
        ({"clients": [fl.ClientData(X[:9], Y[:8], 5)]}, "client 0 has 9 inputs but 8 targets"),
        ({"clients": [fl.ClientData(X[:9] / 0, Y[:9], 5)]}, "holds NaN or infinite values"),
        ({"clients": [fl.ClientData(X[:9], Y[:9] + 2, 5)]}, "the model has 3 classes"),
        ({"clients": [fl.ClientData(X[:9, :5], Y[:9], 5)]}, "cannot take inputs of shape"),
        ({"test_set": fl.TestSet(X, Y - 1)}, "the labels of the test set run from -1"),
        ({"model": nn.ReLU()}, "has no trainable parameter"),
    ],
)
def test_misuse_is_told_in_one_sentence(changes: dict[str, object], part: str) -> None:
    settings = {"model": model(), "clients": clients(), "strategy": fl.FedAvg(2), "local_steps": 2} | changes
    with pytest.raises(fl.FedlamaError, match=part) as caught:
        fl.Federation(**settings).run()  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
