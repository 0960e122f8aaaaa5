"""Compiled kernels of sequences against the loop engine, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from fedlama.choices.samplers import AllClients
from fedlama.choices.solvers import SGD, FedProx
from fedlama.choices.strategies import Cyclic, FedLAMA
from fedlama.choices.tasks import Classification
from fedlama.core.layers import by_tensor
from fedlama.data.clients import TensorClients
from fedlama.engines import Stacked
from fedlama.engines.trainers import numba as compiled
from fedlama.engines.trainers.model_graph import read_graph
from fedlama.errors import ConfigError, DataError
from fedlama.federation.run import Run
from fedlama.kernels import AddPositions, Attention, Embedding, Step
from fedlama.models import char_transformer
from fedlama.models.char_transformer import CausalAttention
from tests.engines.cases import assert_same, federation, run, token_clients
from tests.kernels.models import SEQUENCE_MODELS, build, transformer

pytest.importorskip("numba", reason="the extra 'fast' is not installed")

SOLVERS = [
    SGD(0.05, weight_decay=0.02),
    SGD(0.05, momentum=0.9, weight_decay=0.01, warm_up_steps=5, decay_at=(7,)),
    FedProx(0.05, proximal=0.3),
    FedProx(0.05, momentum=0.8, weight_decay=0.01, proximal=0.3),
]


def _choices(make: Callable[[], nn.Module] = transformer, **others: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"model": build(make), "clients": token_clients()} | others


def _label(**choices: Any) -> str:  # noqa: ANN401
    return str(Run(federation(Stacked(), **choices)).engine.label)


@pytest.mark.selection
@pytest.mark.parametrize("make", SEQUENCE_MODELS)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_same_as_loop(make: Callable[[], nn.Module], solver: SGD) -> None:
    choices = _choices(make, solver=solver)
    assert _label(**choices).startswith("NumbaTrainer")
    assert_same(run(Stacked(), **choices), run("loop", **choices))


@pytest.mark.parametrize("batch", [1, 16, 21, 33])
def test_batches_that_fill_no_vector(batch: int) -> None:
    choices = _choices(clients=token_clients((40, 34, 71, 36, 33), batch), local_steps=8)
    assert_same(run(Stacked(), **choices), run("loop", **choices))


def test_frozen_layers() -> None:
    choices = _choices(strategy=Cyclic(2, layers_per_turn=1), local_steps=12)
    choices["layers"] = by_tensor(choices["model"])
    assert _label(**choices).startswith("NumbaTrainer")
    assert_same(run(Stacked(), **choices), run("loop", **choices))


def test_auto_takes_them() -> None:
    choices = _choices()
    assert "NumbaTrainer" in str(Run(federation("auto", **choices)).engine.label)


def test_any_chunk_and_any_number_of_threads_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_WORTH", 1)  # so that threads take part even in so small a slice
    choices = _choices(sampler=AllClients(), strategy=FedLAMA(2, 2))
    expected = run(Stacked(chunk=5, threads=1), **choices)
    for engine in (Stacked(chunk=1, threads=1), Stacked(chunk=2, threads=3)):
        assert_same(run(engine, **choices), expected, 0.0)


def test_prepared_tokens_give_the_same_bits() -> None:
    stored = token_clients()
    narrow = TensorClients(stored.x.byte(), stored.y, stored.rows, stored.batch_sizes, prepare=lambda x: x.long())
    assert_same(run(Stacked(), **_choices(clients=narrow)), run(Stacked(), **_choices()), 0.0)


class _Elsewhere(CausalAttention):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def _changed(change: Callable[[Any], None]) -> nn.Module:
    model = build(transformer)
    change(model)
    return model


def _other_attention(model: Any) -> None:  # noqa: ANN401
    model.blocks[0].attention = _Elsewhere(24, 4)


def _padded(model: Any) -> None:  # noqa: ANN401
    model.characters.padding_idx = 0


def _with_one_label() -> TensorClients:
    source = token_clients()
    return TensorClients(source.x, source.y[:, 0].contiguous(), source.rows, 4)


def _ignoring() -> TensorClients:
    source = token_clients()
    source.y[0, 0] = -100
    return source


class _LastPosition(nn.Module):
    """A class per sample."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.dense = nn.Embedding(19, 16), nn.Linear(16, 19)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.dense(self.tokens(x))[:, -1]
        return logits


@pytest.mark.parametrize(
    "choices",
    [
        {"model": _changed(_other_attention)},
        {"model": _changed(_padded)},
        {"model": char_transformer(19, 7, 8, 2, 4)},  # a narrow layer
        {"model": char_transformer(19, 7, 36, 2, 4)},  # heads with an odd number of features
        {"clients": _ignoring()},
        {"model": _LastPosition(), "clients": _with_one_label()},
        {"task": Classification(label_smoothing=0.1)},
    ],
    ids=["attention", "padding", "narrow", "odd", "ignored", "one label", "smoothing"],
)
def test_what_has_no_compiled_form_takes_the_other_way(choices: dict[str, Any]) -> None:
    assert not _label(**_choices(**choices)).startswith("NumbaTrainer")


def test_a_token_out_of_range_is_refused() -> None:
    source = token_clients()
    source.x[5] = 19
    with pytest.raises((IndexError, ConfigError, DataError)):
        run(Stacked(), **_choices(clients=source, sampler=AllClients()))


def test_the_steps_of_a_transformer() -> None:
    model = char_transformer(19, 9, 24, 2, 4)
    steps = read_graph(model, (7,))
    assert steps is not None
    assert steps[0] == Step(Embedding("characters.weight"), (0,))
    assert steps[1] == Step(AddPositions("positions.weight"), (1,))
    assert sum(step.operation == Attention(4) for step in steps) == 2
    assert read_graph(model) is None  # how many positions there are must be known
    assert read_graph(model, (10,)) is not None  # it is the program that refuses more positions than rows
