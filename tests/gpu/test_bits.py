"""Bits that repeat on a GPU: from run to run, after an interruption, for any number of lanes and any share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedlama as fl
from fedlama.engines.api import RoundOrder, RoundReply
from tests.engines.cases import assert_same, clients, federation
from tests.gpu.device import DEVICE, ENGINES, ON_DEVICE, assert_same_bits, no_fallback, on_cpu, on_device
from tests.gpu.models import DRAWING, IMAGES, TEXT, seeded, texts

pytestmark = ON_DEVICE

EVERYONE: dict[str, Any] = {"sampler": fl.AllClients()}
MODELS: dict[str, dict[str, Any]] = {
    "dense": {"model": seeded(IMAGES["dense"])},
    "resnet": {"model": seeded(IMAGES["resnet"])},
    "lstm": {"model": seeded(TEXT["lstm"]), "clients": texts()},
    **{name: {"model": seeded(make)} for name, make in DRAWING.items()},
}
SHAPES = [fl.Recorded(lanes=lanes, share=share) for lanes, share in ((1, None), (3, None), (16, 1), (2, 2), (16, 4))]
RESUMED: dict[str, dict[str, Any]] = {
    "new cohorts": {},
    "client's state": {"solver": fl.Adam(0.01, epsilon=1e-3, state_scope="client")},
    "slot's state": {"solver": fl.SGD(0.05, momentum=0.9, state_scope="slot")},
    "differences": {"codec": fl.Differences(4), "strategy": fl.FedAvg(2)} | EVERYONE,
    "local layer": {"layers": fl.tagged(fl.by_module(seeded(IMAGES["dense"])), local=["3"]), **MODELS["dense"]},
    "dropout": MODELS["dropout"],
    "unequal steps": {"local_work": fl.LocalWork(epochs=0.5, straggler_share=0.5)},
    "absences": {"availability": fl.RandomAbsence(away=0.3)} | EVERYONE,
}


def made(engine: Any, changes: Mapping[str, Any]) -> fl.Federation:  # noqa: ANN401
    """Return a federation on the device under test."""
    return on_device(federation("loop", **changes), engine)


@pytest.mark.parametrize("engine", ["recorded", "stacked"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.filterwarnings("ignore")  # some models are computed in a slower way; here it is about their bits
def test_a_second_run_gives_the_same_bits(engine: str, model: str) -> None:
    given = made(ENGINES[engine], MODELS[model])
    assert_same_bits(given.run(), given.run())


@pytest.mark.parametrize("engine", SHAPES, ids=str)
@pytest.mark.parametrize("model", ["dense", "resnet", "dropout"])
def test_lanes_and_shares_change_no_bit(engine: Any, model: str) -> None:  # noqa: ANN401
    with no_fallback():
        expected = made(fl.Recorded(), MODELS[model] | EVERYONE).run()
        assert_same_bits(made(engine, MODELS[model] | EVERYONE).run(), expected)


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_of_the_stacked_engine_change_no_more_than_rounding(chunk: int) -> None:
    expected, ours = (made(fl.Stacked(chunk=size), EVERYONE).run() for size in (5, chunk))
    assert_same(on_cpu(ours), on_cpu(expected), 1e-4)


@pytest.mark.parametrize("engine", ["recorded", "auto", "stacked"])
@pytest.mark.parametrize("changes", RESUMED)
def test_a_resumed_run_goes_on_bit_for_bit(engine: str, changes: str) -> None:
    given = made(ENGINES[engine], RESUMED[changes])
    whole = given.run()
    first = fl.Run(given)
    before = [first.advance() for _ in range(3)]
    second = fl.Run(given)
    second.load_state_dict(first.state_dict(), before)
    assert_same_bits(second.to_end([], before), whole)


def test_a_run_of_the_device_goes_on_in_the_loop_engine() -> None:
    whole = federation("loop").run()
    first = fl.Run(made(fl.Recorded(), {}))
    before = [first.advance() for _ in range(3)]
    second = fl.Run(federation("loop"))
    second.load_state_dict(first.state_dict(), before)
    assert_same(on_cpu(second.to_end([], before)), whole, 1e-4)


class Kept(nn.Module):
    """Drops half of its 64 inputs, which are ones, and adds them: the loss shows the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 64) to (batch,)."""
        powers = 2.0 ** -torch.arange(x.shape[1], device=x.device).remainder(20)
        weighted: Tensor = self.scale * (self.drop(x) * powers).sum(1)
        return weighted


def losses_of_rounds(engine: Any, steps: int, rounds: int, seed: int = 0) -> list[tuple[float, ...]]:  # noqa: ANN401
    """Return every client's mean loss in each round; nothing is learnt, and all clients have the same data."""
    run = fl.Run(
        fl.Federation(
            model=Kept(),
            clients=[fl.ClientData(torch.ones(2, 64), torch.zeros(2), 2) for _ in range(4)],
            strategy=fl.FedAvg(steps),
            rounds=rounds,
            solver=fl.SGD(0.0),
            task=fl.FunctionTask(lambda output, target: output.mean() + 0 * target.sum()),
            engine=engine,
            device=str(DEVICE),
            seed=seed,
        )
    )
    replies: list[RoundReply] = []
    train = run.engine.run_round

    def watched(order: RoundOrder) -> RoundReply:
        replies.append(train(order))
        return replies[-1]

    run.engine.run_round = watched  # type: ignore[method-assign]
    for _ in range(rounds):
        run.advance()
    return [tuple(reply.losses.values()) for reply in replies]


@pytest.mark.parametrize("engine", ENGINES)
def test_masks_of_dropout_differ_between_clients_and_rounds(engine: str) -> None:
    with no_fallback():
        found = losses_of_rounds(ENGINES[engine], steps=1, rounds=3)
    everything = [loss for losses in found for loss in losses]
    assert len(set(everything)) == 12
    assert found != losses_of_rounds(ENGINES[engine], steps=1, rounds=3, seed=1)
    assert found == losses_of_rounds(ENGINES[engine], steps=1, rounds=3)


@pytest.mark.parametrize("engine", ENGINES)
def test_masks_of_dropout_differ_between_steps(engine: str) -> None:
    """A recording that replayed its first mask would give each client the loss of one step as its mean of two."""
    first, both = (losses_of_rounds(ENGINES[engine], steps=steps, rounds=1)[0] for steps in (1, 2))
    assert all(abs(one - mean) > 1e-6 for one, mean in zip(first, both, strict=True))


def test_a_share_of_two_draws_the_masks_of_a_share_of_all() -> None:
    few, all_of_them = (losses_of_rounds(fl.Recorded(share=share), 2, 2) for share in (2, None))
    assert few == all_of_them


def test_clients_that_return_keep_their_batches() -> None:
    """A cohort that changes must not train on what was left in the recordings of the one before."""
    choices: dict[str, Any] = {"sampler": fl.UniformSampler(2), "strategy": fl.FedAvg(1), "local_steps": 10}
    choices |= {"clients": clients((5, 9, 6, 7, 4), 3)}
    assert_same(on_cpu(made(fl.Recorded(), choices).run()), federation("loop", **choices).run(), 1e-4)
