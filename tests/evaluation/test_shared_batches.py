"""A large test set is shared out over the cores, and its scores do not depend on how many there are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fedlama as fl
from fedlama.federation import held_out


def _scores(monkeypatch: pytest.MonkeyPatch, model: nn.Module, samples: int, task: fl.Task) -> list[fl.Score]:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(samples, 6, generator=draw), torch.randint(0, 3, (samples,), generator=draw)
    scores = []
    for count in (1, 2, 3):
        monkeypatch.setattr(held_out, "cores", lambda count=count: count)
        torch.manual_seed(5)
        scores.append(fl.TestSet(x, y, batch_size=7).score(model, task))
    return scores


@pytest.mark.parametrize("samples", [7, 27, 28, 29, 400])
def test_scores_are_the_same_for_any_number_of_cores(monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).train()
    task = fl.Classification()
    one, *others = _scores(monkeypatch, model, samples, task)
    assert all(score == one for score in others)
    assert model.training


def test_a_model_that_draws_numbers_has_one_batch_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    class Noisy(nn.Module):
        """Adds noise, also when it is evaluated."""

        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.dense(x)
            return logits + torch.randn(logits.shape)

    one, *others = _scores(monkeypatch, Noisy(), 200, fl.Classification())
    assert all(score == one for score in others)


def test_threads_do_not_share_what_a_model_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    class Keeps(nn.Module):
        """Keeps its input from one line to the next, as some modules do."""

        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(6, 3)
            self.last = torch.zeros(0)

        def forward(self, x: Tensor) -> Tensor:
            self.last = x
            slow: Tensor = torch.stack([self.dense(self.last) for _ in range(20)]).mean(0)
            assert self.last is x
            return slow

    one, *others = _scores(monkeypatch, Keeps(), 300, fl.Classification())
    assert all(score == one for score in others)


def test_a_model_that_writes_a_buffer_has_one_batch_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scratch(nn.Module):
        """Computes in a buffer, also when it is evaluated."""

        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(6, 3)
            self.register_buffer("room", torch.zeros(7, 6), persistent=False)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            room = self.get_buffer("room")[: len(x)]
            room[:] = x
            logits: Tensor = self.dense(room)
            return logits

    model = Scratch()
    one, *others = _scores(monkeypatch, model, 700, fl.Classification())
    assert all(score == one for score in others)
    assert model.calls == 300  # a hundred batches, three times
