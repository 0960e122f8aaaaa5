"""Mixed precision: the model computes in bfloat16, and all that is kept and averaged stays float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedlama.core.losses import cross_entropy
from fedlama.engines import Auto, Recorded, Stacked, Workers
from fedlama.engines.trainers.gradients import check_precision, in_precision
from fedlama.errors import ConfigError
from fedlama.federation.run import Run
from tests.engines.cases import assert_same, federation, run


class Recording(nn.Module):
    """A dense model that records the dtype it computes in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense = nn.Linear(72, 5)
        self.seen: set[torch.dtype] = set()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.dense(x.flatten(1))
        self.seen.add(output.dtype)
        return output


def test_the_model_computes_in_bfloat16_and_the_loss_in_float32() -> None:
    dtypes: set[torch.dtype] = set()

    def objective(output: Tensor, target: Tensor) -> Tensor:
        dtypes.add(output.dtype)
        return cross_entropy(output, target)

    model = Recording()
    output = in_precision("bfloat16", torch.device("cpu"), lambda: model(torch.randn(2, 72)))
    assert model.seen == {torch.bfloat16}
    assert output.dtype == torch.float32
    run(Stacked(precision="bfloat16"), model=Recording(), objective=objective)
    assert dtypes == {torch.float32}


def test_all_that_is_kept_stays_float32_and_near_the_loop() -> None:
    started = Run(federation(Stacked(precision="bfloat16")))
    for _ in range(3):
        started.advance()
    state = started.engine.state_dict()
    assert {value.dtype for value in state.optimizer_state["velocity"].values()} == {torch.float32}
    assert {value.dtype for value in state.values.values()} == {torch.float32, torch.int64}  # int64 counts batches
    result, expected = run(Stacked(precision="bfloat16")), run("loop")
    assert any(not torch.equal(result.model[name], value) for name, value in expected.model.items())
    for name, value in expected.model.items():  # bfloat16 keeps 8 bits, so products are off by up to 2 ** -8
        torch.testing.assert_close(result.model[name], value, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("choices", [{}, {"model": nn.Sequential(nn.Flatten(), nn.Linear(72, 5))}])
def test_it_takes_the_vectorised_trainer(choices: dict[str, Any]) -> None:
    assert "VmapTrainer" in str(Run(federation(Stacked(precision="bfloat16"), **choices)).engine.label)


def test_float32_is_the_default_and_changes_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.Tanh(), nn.Linear(8, 5))
    assert_same(run(Stacked(precision="float32"), model=model), run(Stacked(), model=model), 0.0)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Stacked: precision is 'bfloat'.*bfloat16"):
        Stacked(precision="bfloat")  # type: ignore[arg-type]


def test_a_device_without_mixed_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="no mixed precision for device 'meta'; set precision='float32'"):
        check_precision("bfloat16", torch.device("meta"))
    check_precision("float32", torch.device("meta"))


def test_workers_and_auto_in_bfloat16_are_near_stacked() -> None:
    expected = run(Stacked(precision="bfloat16"))
    for engine in (
        Workers(precision="bfloat16", threads=2),
        Recorded(precision="bfloat16"),
        Auto(precision="bfloat16"),
    ):
        result = run(engine)
        for name, value in expected.model.items():
            torch.testing.assert_close(result.model[name], value, atol=2e-2, rtol=2e-2)
    assert any(not torch.equal(value, run("loop").model[name]) for name, value in expected.model.items())
