"""What the user gives stays as it is, and what cannot be right is refused in one sentence or has the right value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset, random_split

import fedlama as fl

ENGINES = ("loop", "stacked", "workers", "auto")


class InPlace(nn.Module):
    """A model whose forward pass changes its input."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.dense(x.div_(2.0))
        return logits


def halved(x: Tensor) -> Tensor:
    """Prepare in place."""
    return x.mul_(0.5)


def loss_in_place(output: Tensor, target: Tensor) -> Tensor:
    """Overwrite the targets after use."""
    loss = functional.cross_entropy(output, target.clone())
    target.zero_()
    return loss


class OwnSource:
    """A source of the user's own whose batches are views of its tensors."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return 3

    def samples(self, client: int) -> int:
        return 30

    def batch(self, client: int, step: int, seed: int) -> tuple[Tensor, Tensor]:
        start = 30 * client + 10 * (step % 3)
        return self.x[start : start + 10], self.y[start : start + 10]


def given() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(90, 6) * 4, torch.arange(90) % 3


def tensor_clients(x: Tensor, y: Tensor, prepare: Callable[[Tensor], Tensor] | None = None) -> fl.TensorClients:
    return fl.TensorClients(x, y, [np.arange(i, 90, 3) for i in range(3)], 10, prepare=prepare)


def recorded(x: Tensor, y: Tensor) -> list[list[tuple[Tensor, Tensor]]]:
    return [[(x[i : i + 10], y[i : i + 10]) for i in range(30 * c, 30 * c + 30, 10)] * 2 for c in range(3)]


SOURCES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tensors": tensor_clients,
    "preparation in place": lambda x, y: tensor_clients(x, y, halved),
    "client data": lambda x, y: [fl.ClientData(x[i::3], y[i::3], 10) for i in range(3)],
    "recorded batches": recorded,
    "own source": OwnSource,
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("source", list(SOURCES))
@pytest.mark.parametrize("objective", [functional.cross_entropy, loss_in_place], ids=["loss", "loss in place"])
def test_no_tensor_of_the_user_changes(engine: str, source: str, objective: Callable[..., Tensor]) -> None:
    if objective is loss_in_place and engine != "loop":
        pytest.skip("torch.func does not vectorise a loss that overwrites its targets")
    x, y = given()
    test_x, test_y = x.clone(), y.clone()
    clients = SOURCES[source](x, y)
    prepare = halved if source == "preparation in place" else None
    test_set = fl.TestSet(test_x, test_y, prepare=prepare, batch_size=40)
    federation = fl.Federation(
        InPlace(), clients, fl.FedAvg(2), 4, solver=fl.SGD(0.1), test_set=test_set, engine=engine, objective=objective
    )
    result = federation.run()
    assert result.score is not None
    for now, before in zip((x, y, test_x, test_y), (*given(), *given()), strict=True):
        assert torch.equal(now, before)
    if source == "recorded batches":
        repeated = fl.Federation(
            federation.model,
            SOURCES[source](x, y),
            fl.FedAvg(2),
            4,
            solver=fl.SGD(0.1),
            engine=engine,
            objective=objective,
        ).run()
        assert [record.loss for record in repeated.rounds] == [record.loss for record in result.rounds]


def scored(
    y: Tensor, model: nn.Module, objective: Callable[..., Tensor] | None = None, x: Tensor | None = None
) -> fl.Score:
    x = given()[0] if x is None else x
    settings = {} if objective is None else {"objective": objective}
    clients = [fl.ClientData(x[i::3], y[i::3], 10) for i in range(3)]
    test_set = fl.TestSet(x, y, batch_size=7)
    score = (
        fl.Federation(model, clients, fl.FedAvg(1), 1, solver=fl.SGD(0.0), test_set=test_set, **settings).run().score
    )
    assert score is not None
    assert score.accuracy is None or 0 <= score.accuracy <= 1
    return score


def test_a_column_of_labels_is_one_label_per_sample() -> None:
    x, y = given()
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    expected = float((model(x).argmax(1) == y).float().mean())
    assert scored(y, model).accuracy == pytest.approx(expected)
    assert scored(y[:, None], model).accuracy == pytest.approx(expected)
    assert scored(y[:, None].int(), model).accuracy == pytest.approx(expected)


@pytest.mark.parametrize(("height", "width", "classes"), [(8, 8, 3), (8, 12, 3), (8, 8, 8), (5, 3, 3), (3, 5, 3)])
@pytest.mark.parametrize("objective", [None, nn.CrossEntropyLoss()], ids=["default", "torch"])
def test_pictures_have_their_classes_in_the_second_dimension(
    height: int, width: int, classes: int, objective: Callable[..., Tensor] | None
) -> None:
    torch.manual_seed(0)
    x = torch.randn(90, 1, height, width)
    y, model = (x[:, 0] > 0).long(), nn.Conv2d(1, classes, 1)
    expected = float((model(x).argmax(1) == y).float().mean())
    assert scored(y, model, objective, x).accuracy == pytest.approx(expected)


@pytest.mark.parametrize("classes_last", [True, False])
def test_where_a_shape_allows_two_readings_the_loss_decides(classes_last: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(90, 4, 4)  # (samples, positions, classes), or (samples, classes, positions)
    y = x.argmax(-1 if classes_last else 1)

    def last(output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output.flatten(0, 1), target.flatten())

    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    assert scored(y, Same(), last if classes_last else functional.cross_entropy, x).accuracy == 1.0


def test_padding_does_not_count() -> None:
    tokens = torch.arange(90 * 6).view(90, 6) % 20
    y = tokens.clone()
    y[:, 3:] = -100
    y[4] = -100  # a batch may hold samples without any label
    model = nn.Embedding(20, 20)
    with torch.no_grad():
        model.weight.copy_(10 * torch.eye(20))
        model.weight[:5] = model.weight[:5].flip(1)  # classes 0 to 4 are predicted wrongly
    wanted = y[y != -100]
    assert scored(y, model, x=tokens).accuracy == pytest.approx(float((wanted >= 5).float().mean()))
    loss = float(functional.cross_entropy(model.weight.detach()[tokens].flatten(0, 1), y.flatten()))
    assert scored(y, model, x=tokens).loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("labels", [1, 4])
def test_targets_that_are_no_classes_have_no_accuracy(labels: int) -> None:
    x, _ = given()
    y = (x[:, :labels] > 0).float()
    score = scored(y, nn.Linear(6, labels), functional.binary_cross_entropy_with_logits)
    assert score.accuracy is None
    assert (score.primary, score.direction, score.value, score.rank) == ("loss", "lower", score.loss, -score.loss)


def test_the_command_line_shows_no_accuracy_where_there_is_none() -> None:
    assert fl.Score.of_accuracy(None, 0.5).percent is None
    assert fl.Score.of_accuracy(0.25, 0.5).percent == 25.0


class Dictionary(nn.Module):
    """A model that returns something else than a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.dense(x)}


def refused(clients: object, model: nn.Module | None = None, **changes: Any) -> str:  # noqa: ANN401  (any setting)
    with pytest.raises((fl.DataError, fl.ConfigError)) as caught:
        fl.Federation(model or nn.Linear(6, 3), clients, fl.FedAvg(3), 9, **changes).run()
    return str(caught.value)


def test_recorded_batches_hold_several_samples() -> None:
    x, y = given()
    parts = random_split(TensorDataset(x, y), [30, 30, 30])
    assert "give clients=fedlama.DatasetClients(clients, batch_size=16)" in refused(parts, weighting="equal")
    singles = [list(part) for part in parts]
    assert "client 0, batch 0 is a single sample" in refused(singles, weighting="equal")
    named = refused([[{"ids": x, "mask": y}]])
    assert "a batch of ['ids'] (90, 6) (float32) and ['mask'] (90,) (int64): TypeError" in named
    assert "unexpected keyword argument 'ids'" in named
    assert "expected tensors with the same number of samples" in refused([[{"ids": x, "mask": y[:3]}]])
    assert "holds something else than tensors" in refused([[{"ids": x, "text": "a"}]])
    assert "has 10 inputs and 9 targets" in refused([[(x[:10], y[:9])]])


def test_rows_may_be_lists_and_masks_but_not_fractions() -> None:
    x, y = given()
    mask = np.zeros(90, dtype=bool)
    mask[::3] = True
    assert fl.TensorClients(x, y, [mask, [1, 2, 4]], np.int64(3)).samples(0) == 30
    assert fl.TensorClients(x, y, [mask], 3).rows[0].tolist() == list(range(0, 90, 3))
    with pytest.raises(fl.DataError, match=r"client 0 has a mask of shape \(5,\), expected \(90,\)"):
        fl.TensorClients(x, y, [mask[:5]], 3)
    with pytest.raises(fl.DataError, match=r"client 0 has rows of shape \(2,\) \(float64\), expected a list"):
        fl.TensorClients(x, y, [np.array([0.0, 1.5])], 1)  # type: ignore[list-item]


def test_numpy_arrays_are_data() -> None:
    x, y = given()
    clients = [fl.ClientData(x.numpy()[i::3], y.numpy()[i::3], 10) for i in range(3)]  # type: ignore[arg-type]
    same = [fl.ClientData(x[i::3], y[i::3], 10) for i in range(3)]
    model = nn.Linear(6, 3)
    losses = [[r.loss for r in fl.Federation(model, data, fl.FedAvg(2), 4).run().rounds] for data in (clients, same)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_that_fails_in_training_names_client_step_and_shapes(engine: str) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(84, 6), torch.randint(0, 3, (84,))
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    message = refused([fl.ClientData(x[i::4], y[i::4], 10) for i in range(4)], model, engine=engine)  # 10 + 10 + 1
    assert message.startswith(
        "client 0, local step 2: the model or the objective failed on a batch of inputs (1, 6) (float32)"
    )
    assert "Expected more than 1 value per channel" in message
    assert message.endswith("or give that client more or fewer samples")


def test_outputs_and_losses_of_another_kind_are_named() -> None:
    x, y = given()
    clients = [fl.ClientData(x[i::3], y[i::3], 10) for i in range(3)]
    assert "the model Dictionary returns dict, expected a tensor of logits" in refused(clients, Dictionary())
    one_hot = [fl.ClientData(x[i::3], functional.one_hot(y[i::3], 3).float(), 10) for i in range(3)]
    assert "convert one-hot labels with y.argmax(-1)" in refused(one_hot)
    message = refused(clients, objective=lambda o, t: functional.cross_entropy(o, t, reduction="none"))
    assert "the objective returned a tensor of shape (10,) (torch.float32), expected the batch's mean loss" in message


class Empty(OwnSource):
    """A source whose clients claim no samples."""

    def samples(self, client: int) -> int:
        return 0


def test_a_source_without_samples_is_refused() -> None:
    assert "client 0 has 0 samples; leave it out, or set weighting='equal'" in refused(Empty(*given()))


def test_short_clients_names_remedies_that_exist() -> None:
    x, y = given()
    with pytest.raises(fl.DataError, match=r"TensorClients\(..., short_clients=True\) in Python"):
        fl.TensorClients(x, y, [np.arange(7)], 10)
    assert fl.TensorClients(x, y, [np.arange(7)], 10, short_clients=True).samples(0) == 7
