"""Losses and metrics of every task, against numbers that were computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedlama as fl


class Given(nn.Module):
    """A model whose output is its input."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x


def scored(task: fl.Task, output: Any, target: Any, batch_size: int = 2) -> fl.Score:  # noqa: ANN401
    """Return the score of an output, in batches of two."""
    return fl.TestSet(torch.as_tensor(output), torch.as_tensor(target), batch_size=batch_size).score(Given(), task)


def loss(task: fl.Task, output: Any, target: Any) -> float:  # noqa: ANN401
    """Return the loss of one batch."""
    return float(task.loss(torch.as_tensor(output), (None, torch.as_tensor(target))))


def test_binary() -> None:
    score = scored(fl.Binary(), [0.0, 2.0, -1.0, 1.0], [1, 1, 0, 0])
    terms = [math.log(2), math.log1p(math.exp(-2)), math.log1p(math.exp(-1)), math.log1p(math.exp(1))]
    assert score.loss == pytest.approx(sum(terms) / 4)
    # Predicted are 0 (0.5 is not above), 1, 0, 1: one true positive, one false positive, one false negative.
    assert score.metrics["f1"] == pytest.approx(0.5)
    assert score.accuracy == pytest.approx(0.5)
    assert score.metrics["auroc"] == pytest.approx(3 / 4)  # of four pairs, 0.0 < 1.0 is in the wrong order
    assert (score.primary, score.direction) == ("accuracy", "higher")
    assert loss(fl.Binary(positive_weight=3.0), [[0.0], [0.0]], [1, 0]) == pytest.approx(2 * math.log(2))


def test_targets_that_do_not_count() -> None:
    assert loss(fl.Binary(), [0.0, 9.0], [1, -100]) == pytest.approx(math.log(2))
    assert loss(fl.Binary(), [0.0, 9.0], [-100, -100]) == 0.0
    some = scored(fl.Binary(), [0.0, 9.0, 9.0, 0.0], [1, -100, -100, 0])
    assert some.loss == pytest.approx(math.log(2))
    assert some.accuracy == 0.5
    assert loss(fl.LanguageModel(shift=False), torch.zeros(1, 2, 3), [[-100, -100]]) == 0.0


@pytest.mark.parametrize(
    ("task", "output", "target"),
    [
        (fl.Classification(), (4, 3), torch.full((4,), -100)),
        (fl.Classification(label_smoothing=0.1), (4, 3), torch.full((4,), -100)),
        (fl.Classification(class_weights=(1.0, 2.0, 3.0), label_smoothing=0.1), (4, 3), torch.full((4,), -100)),
        (fl.Classification(class_weights=(0.0, 2.0, 3.0)), (4, 3), torch.zeros(4, dtype=torch.int64)),
        (fl.Classification(class_weights=(0.0, 2.0, 3.0), label_smoothing=0.1), (4, 3), torch.tensor([0, 0, -100, 0])),
        (fl.Classification(), (2, 5, 3), torch.full((2, 5), -100)),
        (fl.Binary(positive_weight=2.0), (4, 1), torch.full((4,), -100)),
        (fl.MultiLabel(), (4, 2), torch.full((4, 2), -100)),
        (fl.Segmentation(dice_weight=0.5), (2, 3, 2, 2), torch.full((2, 2, 2), -100)),
        (fl.LanguageModel(), (2, 4, 3), torch.full((2, 4), -100)),
        (fl.Cox(), (4, 1), torch.tensor([[0.0, 3.0], [0.0, 1.0], [0.0, 2.0], [0.0, 2.0]])),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_batch_in_which_nothing_counts_has_the_loss_0_and_the_gradient_0(
    task: fl.Task, output: tuple[int, ...], target: Tensor
) -> None:
    """Alone, and beside another batch under vmap, which must not learn of it."""
    logits = torch.randn(output, generator=torch.Generator().manual_seed(1))

    def value(logits: Tensor, target: Tensor) -> Tensor:
        return task.loss(logits, (None, target))

    gradient, loss = torch.func.grad_and_value(value)(logits, target)
    assert (float(loss), float(gradient.abs().sum())) == (0.0, 0.0)
    other = torch.ones_like(target)
    together, losses = torch.func.vmap(torch.func.grad_and_value(value))(
        torch.stack([logits, logits]), torch.stack([target, other])
    )
    alone, expected = torch.func.grad_and_value(value)(logits, other)
    assert (float(losses[0]), float(together[0].abs().sum())) == (0.0, 0.0)
    assert float(losses[1]) == pytest.approx(float(expected))
    assert float(expected) > 0
    torch.testing.assert_close(together[1], alone)


def test_a_class_of_weight_0_changes_nothing_where_others_count() -> None:
    logits, target = torch.tensor([[0.5, 1.0, -1.0], [2.0, 0.0, 1.0]]), torch.tensor([0, 2])
    weights = torch.tensor([0.0, 2.0, 3.0])
    for smoothing in (0.0, 0.1):
        expected = nn.functional.cross_entropy(logits, target, weights, label_smoothing=smoothing)
        task = fl.Classification(class_weights=(0.0, 2.0, 3.0), label_smoothing=smoothing)
        assert loss(task, logits, target) == pytest.approx(float(expected), rel=1e-6)


def test_multi_label() -> None:
    score = scored(fl.MultiLabel(), [[1.0, -1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]])
    assert score.accuracy == 0.75
    assert score.metrics["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1))
    assert score.primary == "f1"


def test_regression() -> None:
    output, target = [[1.0], [2.0], [4.0], [4.0]], [1.0, 4.0, 3.0, 4.0]  # errors 0, -2, 1, 0
    score = scored(fl.Regression(), output, target)
    assert score.loss == pytest.approx(5 / 4)
    assert score.metrics == pytest.approx({"rmse": math.sqrt(5 / 4), "mae": 3 / 4, "r2": 1 - 5 / 6})
    assert (score.value, score.rank) == (score.metrics["rmse"], -score.metrics["rmse"])
    assert score.accuracy is None
    assert loss(fl.Regression("absolute"), output, target) == pytest.approx(3 / 4)
    assert loss(fl.Regression("huber"), output, target) == pytest.approx((1.5 + 0.5) / 4)
    assert scored(fl.Regression(primary="r2"), output, target).direction == "higher"


def test_segmentation() -> None:
    logits = torch.zeros(2, 2, 1, 3)  # (samples, classes, height, width)
    logits[:, 1] = torch.tensor([[[1.0, 1.0, -1.0]], [[-1.0, -1.0, 1.0]]])  # classes 1 1 0 and 0 0 1
    target = torch.tensor([[[1, 0, 0]], [[0, 0, -100]]])
    score = scored(fl.Segmentation(), logits, target)
    assert score.accuracy == 4 / 5
    assert score.metrics["iou"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert score.metrics["dice"] == pytest.approx((6 / 7 + 2 / 3) / 2)
    low, high = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    assert score.loss == pytest.approx((4 * low + high) / 5)
    assert loss(fl.Segmentation(), logits[:, 1:], target) == pytest.approx(score.loss)  # one channel
    perfect, labels = torch.tensor([[[50.0, -50.0]], [[-50.0, 50.0]]]).permute(0, 2, 1)[..., None], [[[0]], [[1]]]
    assert loss(fl.Segmentation(dice_weight=1.0), perfect, labels) == pytest.approx(0.0, abs=1e-6)
    assert loss(fl.Segmentation(dice_weight=1.0), -perfect, labels) == pytest.approx(100 + 1, rel=1e-5)


def test_language_model() -> None:
    tokens = torch.tensor([[0, 1, 2], [2, 1, 0]])
    logits = torch.zeros(2, 3, 3)
    logits[0, 0, 1] = logits[0, 1, 0] = math.log(4)  # right, wrong; the others do not know
    task = fl.LanguageModel()
    right, wrong, even = math.log(6 / 4), math.log(6), math.log(3)
    assert loss(task, logits, tokens) == pytest.approx((right + wrong + 2 * even) / 4)
    score = scored(task, logits, tokens, batch_size=1)
    assert score.value == pytest.approx(math.exp(score.loss), rel=1e-5)
    assert score.loss == pytest.approx((right + wrong + 2 * even) / 4)
    masked = {"input_ids": tokens, "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}
    assert float(task.loss(logits, masked)) == pytest.approx((right + 2 * even) / 3)
    shifted = fl.LanguageModel(shift=False)
    assert loss(shifted, logits[:, :2], tokens[:, 1:]) == pytest.approx((right + wrong + 2 * even) / 4)


def flamby(scores: Tensor, events: Tensor, times: Tensor) -> Tensor:
    """The partial likelihood as the benchmark defines it: samples in descending order of time, mean over samples."""
    order = torch.argsort(times, descending=True)
    scores, events = scores[order], events[order]
    return ((torch.logcumsumexp(scores, 0) - scores) * events).mean()


def test_cox_is_the_benchmarks_loss() -> None:
    torch.manual_seed(0)
    scores, times = torch.randn(20, 1, requires_grad=True), torch.randperm(20).float()
    events = (torch.arange(20) % 3 > 0).float()
    ours = fl.Cox().loss(scores, (None, torch.stack([events, times], 1)))
    theirs = flamby(scores[:, 0], events, times)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(part, scores)[0] for part in (ours, theirs)))
    other = fl.Cox(columns="time, event").loss(scores, (None, torch.stack([times, events], 1)))
    assert torch.equal(ours, other)


def test_cox_by_hand_with_ties_and_without_events() -> None:
    # Times 1 1 2 with events at both 1: each has all three at risk (Breslow); scores 0, ln 2, ln 3 give exp 1, 2, 3.
    scores = torch.log(torch.tensor([1.0, 2.0, 3.0])).requires_grad_()
    targets = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 2.0]])
    value = fl.Cox().loss(scores, (None, targets))
    assert value.item() == pytest.approx((math.log(6) + math.log(6 / 2)) / 3)
    nobody = fl.Cox().loss(scores, (None, targets * torch.tensor([0.0, 1.0])))
    assert nobody.item() == 0.0
    assert torch.equal(torch.autograd.grad(nobody, scores)[0], torch.zeros(3))
    alone = fl.Cox().loss(scores[:1], (None, targets[:1]))
    assert (alone.item(), torch.autograd.grad(alone, scores)[0].abs().sum().item()) == (0.0, 0.0)


def concordance(risk: list[float], events: list[int], times: list[float]) -> float:
    """Count the pairs one by one."""
    pairs = right = 0.0
    for i in range(len(risk)):
        for j in range(len(risk)):
            if events[i] and (times[i] < times[j] or (times[i] == times[j] and not events[j])):
                pairs += 1
                right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return right / pairs


def test_concordance() -> None:
    # Comparable are (0, 1), (0, 2), (0, 3), (1, 3), and (1, 2) at the same time; (1, 3) is tied, (0, 2) wrong.
    risk, events, times = [2.0, 1.0, 3.0, 1.0], [1, 1, 0, 0], [1.0, 2.0, 2.0, 4.0]
    score = scored(fl.Cox(), risk, list(zip(map(float, events), times, strict=True)))
    assert score.metrics["concordance"] == pytest.approx((1 + 0 + 1 + 0.5 + 0) / 5)
    assert score.metrics["concordance"] == pytest.approx(concordance(risk, events, times))
    draw = torch.Generator().manual_seed(1)
    many = torch.randint(0, 9, (3, 50), generator=draw)
    expected = concordance(many[0].tolist(), (many[1] > 4).tolist(), many[2].tolist())  # type: ignore[arg-type]
    target = torch.stack([(many[1] > 4).float(), many[2].float()], 1)
    assert scored(fl.Cox(), many[0].float(), target, 7).value == pytest.approx(expected)


def test_classification_with_weights_and_smoothing_is_torchs() -> None:
    torch.manual_seed(0)
    output, target = torch.randn(12, 4), torch.randint(0, 4, (12,))
    target[3] = 9
    for smoothing in (0.0, 0.2):
        for weights in (None, (1.0, 0.5, 2.0, 0.0)):
            task = fl.Classification(ignore_index=9, class_weights=weights, label_smoothing=smoothing)
            expected = nn.functional.cross_entropy(
                output, target, weights and torch.tensor(weights), ignore_index=9, label_smoothing=smoothing
            )
            assert loss(task, output, target) == pytest.approx(float(expected), rel=1e-5)
            assert scored(task, output, target, 5).loss == pytest.approx(float(expected), rel=1e-5)
            right = (output.argmax(1) == target).sum() / 11
            assert scored(task, output, target, 5).accuracy == pytest.approx(float(right))


def test_values_do_not_depend_on_the_batch_size() -> None:
    from tests.tasks.cases import CASES

    for name, case in CASES.items():
        if name in ("cox", "segmentation"):  # the loss of Cox and of Dice is that of a batch
            continue
        torch.manual_seed(1)
        model = case.model()
        parts, whole = (fl.TestSet(case.x, case.y, batch_size=size).score(model, case.task) for size in (7, 60))
        assert parts.loss == pytest.approx(whole.loss, rel=1e-5), name
        assert parts.metrics == pytest.approx(whole.metrics, rel=1e-4), name
