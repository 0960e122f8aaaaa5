"""Models that a copy would change are refused in one sentence; what the user froze stays frozen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import fedlama as fl

ENGINES = ("loop", "stacked", "workers", "auto")


def clients() -> list[fl.ClientData]:
    torch.manual_seed(0)
    x, y = 3 + torch.randn(60, 6), torch.randint(0, 3, (60,))
    return [fl.ClientData(x[i::3], y[i::3], 10) for i in range(3)]


def hooked() -> nn.Module:
    model = nn.Linear(6, 3)
    model.weight.register_hook(lambda gradient: gradient * 0)
    return model


def pruned() -> nn.Module:
    model = nn.Linear(6, 3)
    prune.l1_unstructured(model, "weight", 0.5)
    model(torch.randn(2, 6))
    return model


class Keeps(nn.Module):
    """A model that keeps its last activation."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(6, 3)
        self.last = self.dense(torch.ones(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.dense(x)
        return self.last


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "gradient hook": (hooked, "the parameter weight has a gradient hook, .* freeze the parameter with requires_grad_"),
    "lazy": (lambda: nn.LazyLinear(3), "the tensor weight of the model has no shape yet; run the model once"),
    "meta": (lambda: nn.Linear(6, 3, device="meta"), "is on the device 'meta' and has no values; load or initialise"),
    "pruned": (pruned, "the model Linear cannot be copied .* prune.remove"),
    "kept activation": (Keeps, "the model Keeps cannot be copied .*run it under torch.no_grad"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", list(REFUSED))
def test_a_model_that_cannot_be_copied_is_refused(case: str, engine: str) -> None:
    make, sentence = REFUSED[case]
    with pytest.raises(fl.ConfigError, match=sentence):
        fl.Federation(make(), clients(), fl.FedAvg(2), 2, engine=engine).run()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_normalisation_that_the_user_froze_keeps_its_statistics(engine: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    model[1].eval()
    result = fl.Federation(model, clients(), fl.FedAvg(2), 4, engine=engine).run()
    assert torch.equal(result.model["1.running_mean"], torch.zeros(8))
    assert torch.equal(result.model["1.running_var"], torch.ones(8))
    assert int(result.model["1.num_batches_tracked"]) == 0
    assert not torch.equal(result.model["1.weight"], torch.ones(8))
    moved = fl.Federation(model.train(), clients(), fl.FedAvg(2), 4, engine=engine).run()
    assert not torch.equal(moved.model["1.running_mean"], torch.zeros(8))
    whole = fl.Federation(model.eval(), clients(), fl.FedAvg(2), 4, engine=engine).run()  # as it was loaded
    assert torch.equal(whole.model["1.running_mean"], moved.model["1.running_mean"])


class Stateful(nn.Module):
    """A model that stores a tensor in a plain attribute at every call, and reads it at the next."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(6, 3)
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        shift = torch.zeros(()) if self.scale is None else 0 * self.scale
        self.scale = x.detach().mean()
        logits: Tensor = self.dense(x) + shift
        return logits


def test_recording_a_model_leaves_nothing_in_it() -> None:
    model = Stateful()
    found = [fl.Federation(model, clients(), fl.FedAvg(2), 4, engine=engine).run() for engine in ("loop", "workers")]
    assert model.scale is None
    assert torch.allclose(found[0].model["dense.weight"], found[1].model["dense.weight"], atol=1e-6)
