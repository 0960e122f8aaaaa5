"""Evaluation: what a score is, which model is scored, and when."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedlama import SGD, FedAvg, Federation, FixedIntervals, RoundRecord, Run, Score, TestSet, UniformSampler
from fedlama.core.losses import Objective, correct, cross_entropy
from fedlama.data import Normalise
from tests.core.helpers import CLASSES, FEATURES, Normed, play, skewed_clients
from tests.engines.watch import DeviceWatch


def held_out(samples: int = 60) -> TestSet:
    """Test data that no client has."""
    generator = torch.Generator().manual_seed(4)
    return TestSet(
        2 * torch.randn(samples, FEATURES, generator=generator), torch.randint(CLASSES, (samples,), generator=generator)
    )


class Echo(nn.Module):
    """Logits that are given; there is one parameter because a model has one."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the inputs."""
        return x


def test_accuracy_and_loss_by_hand() -> None:
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    score = TestSet(x, torch.tensor([0, 1, 1])).score(Echo())
    loss = torch.log1p(torch.exp(torch.tensor([-2.0, -1.0, 3.0]))).mean()
    assert score.accuracy == 2 / 3
    assert score.loss == pytest.approx(float(loss), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 60, 500])
def test_the_batch_size_is_of_no_matter(batch_size: int) -> None:
    whole, parts = held_out().score(Normed()), replace(held_out(), batch_size=batch_size).score(Normed())
    assert parts.accuracy == whole.accuracy
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)


def test_inputs_are_prepared_as_for_training() -> None:
    plain = held_out()
    scaled = TestSet(plain.x / 8, plain.y, prepare=lambda x: 8 * x)
    assert scaled.score(Normed()) == plain.score(Normed())


def one_number_of_one(output: Tensor, target: Tensor) -> Tensor:
    """A loss that is a vector of one number."""
    return cross_entropy(output, target).reshape(1)


@pytest.mark.parametrize("objective", [cross_entropy, one_number_of_one, lambda o, t: cross_entropy(o, t).half()])
def test_sums_are_those_of_plain_numbers_to_the_last_bit(objective: Objective) -> None:
    test, model = replace(held_out(61), batch_size=7), Normed().eval()
    loss, hits = 0.0, 0
    with torch.no_grad():
        for x, y in zip(test.x.split(7), test.y.split(7), strict=True):
            mean = objective(model(x), y)
            counts = correct(model(x), y, mean)
            assert counts is not None
            loss += float(mean) * len(y)
            hits += int(counts[0])
    assert test.score(model, objective) == Score.of_accuracy(hits / 61, loss / 61)


def test_a_device_is_sent_the_data_once_and_looked_at_once_per_evaluation() -> None:
    half, model = torch.full((1, 1, 1), 0.5), Echo().to("meta")
    images = torch.zeros(20, 1, 1, 3, dtype=torch.uint8)  # the model takes the columns for classes
    test = TestSet(images, torch.zeros(20, 1, 1, dtype=torch.int64), Normalise(half, half), batch_size=6)
    with DeviceWatch() as watch:
        test.score(model)
        test.score(model)
    assert watch.uploads == [(1, 1, 1), (1, 1, 1), (20, 1, 1, 3), (20, 1, 1)]
    assert watch.looks == [(3,), (3,)]  # loss, correct predictions and positions that count, in one read
    assert test.x.device == torch.device("cpu")
    with DeviceWatch() as watch:
        replace(test, x=images + 1).score(model)  # other data are sent again
    assert (20, 1, 1, 3) in watch.uploads


def test_pixels_go_to_a_device_as_they_are_stored() -> None:
    seen: set[tuple[torch.dtype, str]] = set()

    def prepare(x: Tensor) -> Tensor:
        seen.add((x.dtype, x.device.type))
        return x.float()

    test = TestSet(torch.zeros(5, 3, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64), prepare)
    with DeviceWatch():
        test.score(Echo().to("meta"))
    assert seen == {(torch.uint8, "meta")}


def test_a_model_is_put_into_evaluation_mode_and_back() -> None:
    model = Normed().train()
    before = copy.deepcopy(model.state_dict())
    held_out().score(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    held_out().score(model)
    assert not model.training


def scored(values: dict[str, Tensor]) -> Score:
    """Score a state dict."""
    model = Normed()
    model.load_state_dict(values)
    return held_out().score(model)


def close(score: Score | None, exact: Score) -> bool:
    """Compare scores up to the rounding of an average."""
    return score is not None and score.accuracy == exact.accuracy and score.loss == pytest.approx(exact.loss, rel=1e-5)


FEDERATION = Federation(
    Normed(),
    skewed_clients(6),
    FixedIntervals(2, {"first.*": 3, "norm.weight": 3}),
    18,
    solver=SGD(0.2, momentum=0.5),
    sampler=UniformSampler(5),
    test_set=held_out(),
    evaluate_every=2,
    keep_client_models=True,
)


def test_between_full_synchronisations_the_clients_average_is_scored() -> None:
    def compare(run: Run, record: RoundRecord) -> None:
        mean: dict[str, Tensor] = {}
        for weight, values in zip(run.server.weights(run.cohort), record.client_models.values(), strict=True):
            for name, value in values.items():
                mean[name] = mean.get(name, 0.0) + weight * value.double()
        rounded = {name: value.float() if "tracked" not in name else value.round() for name, value in mean.items()}
        assert close(record.score, scored(rounded))

    play(FEDERATION, compare)


def test_evaluation_leaves_no_trace_in_the_run() -> None:
    watched, alone = FEDERATION.run(), replace(FEDERATION, test_set=None).run()
    assert [record.loss for record in watched.rounds] == [record.loss for record in alone.rounds]
    for name, value in watched.model.items():
        assert torch.equal(value, alone.model[name])
    assert alone.score is None
    assert watched.score == watched.rounds[-1].score
    assert close(watched.score, scored(dict(watched.model)))


def test_the_authors_way_takes_the_best_of_every_fourth_slot() -> None:
    result = replace(FEDERATION, evaluate="best_client", test_set=held_out()).run()
    for record in result.rounds:
        models = [dict(record.client_models[client]) for client in record.cohort]
        slots = [scored(models[0]), scored(models[4])]
        best = max(slots, key=lambda score: score.accuracy)
        assert record.score is not None
        assert record.score.accuracy == best.accuracy
        assert record.score in slots
    assert result.ledger.total_bytes("evaluation") == 0


@pytest.mark.parametrize(
    ("every", "rounds"), [(1, [0, 1, 2, 3, 4]), (2, [0, 1, 2, 3, 4]), (3, [1, 3, 4]), (4, [1, 3, 4]), (99, [4])]
)
def test_evaluation_steps_are_rounded_up_to_whole_rounds(every: int, rounds: list[int]) -> None:
    result = replace(FEDERATION, strategy=FedAvg(2), local_steps=10, evaluate_every=every).run()
    assert [record.round_index for record in result.rounds if record.score] == rounds
