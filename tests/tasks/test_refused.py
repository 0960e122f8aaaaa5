"""What cannot be right is one sentence with shapes and a remedy, before training where it can be known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fedlama as fl
from tests.tasks.cases import CLASSES, MASK, MORE, TIMES, TOKENS, OwnLoss, Tokens, Two, X


def refused(model: nn.Module, x: Any, y: Any = None, task: fl.Task | None = None, **changes: Any) -> str:  # noqa: ANN401
    """Return the sentence with which a federation is refused before its first round."""

    def start() -> None:
        clients = fl.TensorClients(x, y, [np.arange(0, 30), np.arange(30, 60)], 10)
        fl.Run(fl.Federation(model, clients, fl.FedAvg(1), 2, task=task or fl.Classification(), **changes))

    with pytest.raises((fl.DataError, fl.ConfigError)) as error:
        start()
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


def test_leaves_that_disagree() -> None:
    sentence = refused(Two(), {"left": X, "right": MORE[:50], "labels": CLASSES})
    assert "['left'] (60, 6) (float32), ['right'] (50, 2) (float32) and ['labels'] (60,) (int64)" in sentence
    assert "there are 60 inputs but 50 targets" in refused(nn.Linear(6, 3), X, CLASSES[:50])


def test_a_model_called_with_wrong_names() -> None:
    sentence = refused(Two(), {"left": X, "other": MORE, "labels": CLASSES})
    assert "the model Two cannot take inputs of ['left'] (60, 6) (float32), ['other'] (60, 2)" in sentence
    assert "unexpected keyword argument 'other'" in sentence
    assert "name them as in forward(left, right)" in sentence
    missing = refused(Two(), {"left": X, "right": MORE})
    assert "the batch has the entries left, right, expected a target for the task 'classification'" in missing


@pytest.mark.parametrize(
    ("model", "x", "y", "task", "sentence"),
    [
        (
            nn.Linear(6, 3),
            X,
            CLASSES,
            fl.Regression(),
            r"the clients have shape \(60,\) \(torch.int64\), but",
        ),
        (nn.Linear(6, 2), X, MORE[:, :1], fl.Regression(), r"the model returns \('samples', 2\), expected one target"),
        (nn.Linear(6, 1), X, CLASSES, fl.Binary(), "a target of the clients is 2, expected 0 or 1"),
        (nn.Linear(6, 3), X, CLASSES, fl.MultiLabel(), r"but the model returns \('samples', 3\)"),
        (nn.Linear(6, 1), X, MORE, fl.Cox(), "an event that is not 0 or 1, or a time that is not finite; correct them"),
        (nn.Linear(6, 2), X, TIMES, fl.Cox(), r"returns shape \('samples', 2\), expected one risk score"),
        (nn.Linear(6, 1), X, TIMES * torch.tensor([0.0, 1.0]), fl.Cox(), "no sample of the clients has an event"),
        (nn.Linear(6, 3), X, CLASSES, fl.LanguageModel(), r"expected \(samples, positions, vocabulary\)"),
        (Tokens(), TOKENS, TOKENS + 9, fl.LanguageModel(), "run from 9 to 19, but the model has 11 classes"),
        (nn.Linear(6, 3), X, CLASSES, fl.Segmentation(), "expected .samples, classes, height, width."),
        (nn.Linear(6, 3), X, CLASSES, fl.HuggingFace(), "the batch is tuple, expected a dict"),
        (OwnLoss(), {"features": X}, None, fl.HuggingFace(), "returned Output without a loss for the entries features"),
        (nn.Linear(6, 3), X, CLASSES, fl.Classification(class_weights=(1.0, 2.0)), "class_weights has 2 weights, but"),
        (nn.Linear(6, 3), X, CLASSES * 0 - 100, fl.Classification(), "every label of the clients is -100"),
    ],
)
def test_data_that_do_not_fit(model: nn.Module, x: Any, y: Any, task: fl.Task, sentence: str) -> None:  # noqa: ANN401
    import re

    assert re.search(sentence, refused(model, x, y, task))


class Never:
    """A metric that is not defined on these data."""

    def update(self, output: Tensor) -> None:
        """Do nothing."""

    def compute(self) -> float:
        """Return NaN."""
        return float("nan")

    def to(self, device: torch.device) -> Never:
        """Return itself."""
        return self


@dataclass(frozen=True)
class Mine(fl.Task):
    """A task that can be wrong in several ways."""

    name: ClassVar[str] = "mine"
    primary = "thing"
    direction = "lower"
    wrong: str = ""

    def loss(self, output: Tensor, batch: Any) -> Tensor:  # noqa: ANN401
        """Return the loss."""
        if self.wrong == "loss":
            raise ValueError("no such loss")
        losses = functional.mse_loss(output, self.target(batch), reduction="none")
        return losses if self.wrong == "scalar" else losses.mean()

    def metrics(self) -> dict[str, Any]:
        """Return a metric that may be wrong."""
        from torchmetrics import MeanMetric

        if self.wrong == "metrics":
            raise ImportError("no such library")
        if self.wrong == "nan":
            return {"thing": Never()}
        return {"loss" if self.wrong == "called loss" else "other" if self.wrong == "name" else "thing": MeanMetric()}

    def update(self, metrics: Any, output: Tensor, batch: Any, loss: Tensor) -> None:  # noqa: ANN401
        """Update it with something."""
        for metric in metrics.values():
            if self.wrong == "update":
                raise RuntimeError("shapes differ")
            metric.update(output)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            "loss",
            "the loss of the task 'mine' failed on a model's output of shape (2, 2) and a batch of inputs (2, 6) ",
        ),
        ("scalar", "the objective returned a tensor of shape (2, 2) (torch.float32), expected the batch's mean loss"),
        ("metrics", "the metrics of the task 'mine': cannot be made: ImportError: no such library; correct the metric"),
        ("called loss", "the task 'mine' has a metric called 'loss', which is the name of the loss; call it otherwise"),
        ("name", "task 'mine': primary is 'thing'; known are: loss, other"),
        (
            "update",
            "failed on a batch of inputs (2, 6) (float32) and targets (2, 2) (float32): RuntimeError: shapes differ",
        ),
    ],
)
def test_a_task_of_the_users_own_that_fails(wrong: str, sentence: str) -> None:
    test_set = fl.TestSet(X, MORE)
    found = refused(nn.Linear(6, 2), X, MORE, Mine(wrong), test_set=test_set)
    assert sentence in found
    without = Mine(wrong)
    if wrong in ("loss", "scalar"):
        assert "client 0" in refused(nn.Linear(6, 2), X, MORE, without) or wrong == "scalar"


def test_a_primary_metric_that_is_nan_is_refused_at_its_evaluation() -> None:
    clients = [fl.ClientData(X, MORE, 10)]
    given = fl.Federation(nn.Linear(6, 2), clients, fl.FedAvg(1), 2, task=Mine("nan"), test_set=fl.TestSet(X, MORE))
    with pytest.raises(fl.DataError) as error:
        given.run()
    assert str(error.value).startswith(
        "the test set: the metric 'thing' is NaN, expected a number by which evaluations"
    )
    assert "inputs (60, 6) (float32) and targets (60, 2) (float32)" in str(error.value)


def test_a_test_set_without_comparable_pairs() -> None:
    clients = [fl.ClientData(X, TIMES, 10)]
    last = torch.tensor([[1.0, 9.0], [0.0, 3.0]])  # the one with an event has the longest time
    given = fl.Federation(nn.Linear(6, 1), clients, fl.FedAvg(1), 1, task=fl.Cox(), test_set=fl.TestSet(X[:2], last))
    with pytest.raises(fl.DataError, match="the metric 'concordance' is NaN"):
        given.run()


def test_a_loss_that_overflows_is_told_as_before() -> None:
    given = fl.Federation(
        nn.Linear(6, 1),
        [fl.ClientData(1e20 * X, X.sum(1), 10)],
        fl.FedAvg(2),
        4,
        solver=fl.SGD(1e20),
        task=fl.Regression(),
        test_set=fl.TestSet(X, X.sum(1)),
    )
    with pytest.raises(fl.DivergenceError, match="client 0 diverged"):
        given.run()


def test_masked_tokens_alone_are_a_batch_with_loss_0() -> None:
    batch = {"input_ids": TOKENS, "attention_mask": MASK * 0}
    model = Tokens()
    loss = fl.LanguageModel().loss(model(TOKENS), batch)
    assert loss.item() == 0.0
    assert all(float(part.abs().sum()) == 0 for part in torch.autograd.grad(loss, list(model.parameters())))


@dataclass(frozen=True)
class Percent(Mine):
    """A task whose accuracy is in percent."""

    name: ClassVar[str] = "percent"
    primary = "accuracy"

    def metrics(self) -> dict[str, Any]:
        """Return a metric called accuracy."""
        from torchmetrics import MeanMetric

        return {"accuracy": MeanMetric()}

    def update(self, metrics: Any, output: Tensor, batch: Any, loss: Tensor) -> None:  # noqa: ANN401
        """Update it with a percentage."""
        metrics["accuracy"].update(93.0)


def test_an_accuracy_is_a_fraction() -> None:
    clients, test_set = [fl.ClientData(X, MORE, 10)], fl.TestSet(X, MORE)
    with pytest.raises(fl.DataError, match=r"the metric 'accuracy' is 93, expected a fraction in \[0, 1\]"):
        fl.Federation(nn.Linear(6, 2), clients, fl.FedAvg(1), 1, task=Percent(), test_set=test_set).run()


@pytest.mark.parametrize("task", [fl.Cox(), fl.Segmentation(dice_weight=1.0)])
def test_losses_that_do_not_add_up_take_whole_batches(task: fl.Task) -> None:
    sentence = refused(nn.Linear(6, 1), X, TIMES, task, micro_batch_size=5)
    assert f"the loss of task {task.name!r} compares all samples of a batch" in sentence
    assert fl.Segmentation().loss_adds_up
    assert fl.FunctionTask(functional.mse_loss).loss_adds_up
