"""What a GPU computes beside steps in float32: averages, uploads, tasks, bfloat16, torch-compiled steps; its memory."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.choices.codecs import Codec
from fedlama.core.plan import Plan
from fedlama.engines.api import Average, EngineSetup
from fedlama.engines.loop import LoopEngine
from tests.codecs.cases import CODECS
from tests.codecs.test_runs import apart, order
from tests.engines.cases import assert_same, clients, federation, network
from tests.gpu.device import DEVICE, ENGINES, ON_DEVICE, no_fallback, on_cpu, on_device
from tests.gpu.models import IMAGES, seeded
from tests.tasks.cases import CASES as TASKS
from tests.tasks.cases import federation as task_federation
from tests.tasks.test_every_engine import same

pytestmark = ON_DEVICE

WEIGHTS = [0.1, 0.3, 0.2, 0.25, 0.15]


def setup_on_device(**changes: Any) -> EngineSetup:  # noqa: ANN401
    """Return the fixed parts of a federation of five clients on the device under test."""
    return replace(federation("loop", **changes), device=str(DEVICE)).engine_setup()


def different(engine: Any, parts: EngineSetup) -> Any:  # noqa: ANN401
    """Build an engine whose five clients have models that differ, after an order for all layers."""
    built = engine(parts)
    values = {name: value.to(parts.device) for name, value in apart(built, parts).items()}
    due = frozenset(layer.name for layer in parts.layers)
    built.run_round(order(Plan(0, due, {}, cycle_start=False), values))
    return built


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_averages_are_those_of_float64(dtype: torch.dtype) -> None:
    """Mean, discrepancy and write-back of all layers, against sums in float64 on the CPU."""
    model = network().to(dtype)
    source = clients(prepare=lambda pixels: (pixels.float() / 128 - 1).to(dtype))
    parts = setup_on_device(model=model, clients=source, solver=fl.SGD(0.0))
    engine = different(ENGINES["recorded"], parts)
    state = {name: value.cpu().double() for name, value in engine.state_dict().values.items()}
    averages: list[Average] = list(engine.average_layers(parts.layers, WEIGHTS))
    assert len(averages) == len(parts.layers)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 8e-3}[dtype]
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    for layer, average in zip(parts.layers, averages, strict=True):
        total = 0.0
        for spec in layer.tensors:
            rows = state[spec.name]
            mean = torch.tensordot(weights, rows, dims=1)
            if spec.trainable:
                written = average.values[spec.name].cpu().double()
                torch.testing.assert_close(written, mean, atol=tolerance, rtol=tolerance)
                total += float(weights @ (rows - written).flatten(1).square().sum(1))
        assert average.discrepancy == pytest.approx(total, rel=max(tolerance, 1e-5))
        engine.overwrite(layer, average.values)
    for average in averages:
        for name, value in average.values.items():
            for client in range(5):
                assert torch.equal(engine.client_values(client)[name], value), name


@pytest.mark.parametrize("engine", ["recorded", "stacked"])
def test_all_layers_at_once_are_the_layers_one_by_one(engine: str) -> None:
    parts = setup_on_device(solver=fl.SGD(0.0))
    built = different(ENGINES[engine], parts)
    together = list(built.average_layers(parts.layers, WEIGHTS))
    for layer, average in zip(parts.layers, together, strict=True):
        single = built.average(layer, WEIGHTS)
        assert average.discrepancy == pytest.approx(single.discrepancy, rel=1e-6)
        for name, value in single.values.items():
            torch.testing.assert_close(average.values[name], value, atol=1e-6, rtol=1e-6)


def test_an_average_that_is_not_finite_names_client_and_layer() -> None:
    for value in (float("inf"), float("nan")):
        run = fl.Run(on_device(federation("loop", sampler=fl.AllClients()), fl.Recorded()))
        run.advance()
        state = run.engine.state_dict()
        state.values["4.bias"][3, 1] = value
        run.engine.load_state_dict(state)
        with pytest.raises(fl.DivergenceError) as caught:
            run.advance()
        assert caught.value.client == 3


def test_a_loss_that_is_not_finite_names_client_and_layer() -> None:
    source = clients()
    source.x = source.x.float()
    source.x[source.rows[3]] = 1e25
    choices: dict[str, Any] = {"clients": source, "sampler": fl.AllClients(), "model": seeded(IMAGES["dense"])}
    with pytest.raises(fl.DivergenceError) as expected:
        federation("loop", **choices).run()
    for engine in ("recorded", "stacked"):
        with pytest.raises(fl.DivergenceError) as ours:
            on_device(federation("loop", **choices), ENGINES[engine]).run()
        assert (ours.value.client, ours.value.round_index) == (expected.value.client, expected.value.round_index)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_uploads_and_states_are_those_of_the_loop_engine(codec: Codec) -> None:
    """With a learning rate of 0 both engines encode the same numbers."""
    parts = federation("loop", codec=codec, solver=fl.SGD(0.0)).engine_setup()
    theirs = different(LoopEngine, parts)
    ours = different(fl.Recorded(), setup_on_device(codec=codec, solver=fl.SGD(0.0)))
    for layer in parts.layers:
        received, expected = ours.received(layer), theirs.received(layer)
        for spec in layer.tensors:
            if spec.trainable:
                torch.testing.assert_close(received[spec.name].cpu(), expected[spec.name], atol=1e-5, rtol=1e-4)
    states, wanted = ours.state_dict().codec_state, theirs.state_dict().codec_state
    assert states.keys() == wanted.keys()
    for kind, named in wanted.items():
        for name, value in named.items():
            torch.testing.assert_close(states[kind][name].cpu(), value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("engine", ["recorded", "auto"])
def test_every_task(name: str, engine: str) -> None:
    with no_fallback():
        ours = on_cpu(on_device(task_federation(name), ENGINES[engine]).run())
    same(ours, task_federation(name, engine="loop").run())


@pytest.mark.parametrize("engine", [fl.Recorded(precision="bfloat16"), fl.Auto(precision="bfloat16")], ids=str)
@pytest.mark.parametrize("model", ["dense", "cnn", "resnet"])
def test_bfloat16_keeps_float32_and_is_near_it(engine: Any, model: str) -> None:  # noqa: ANN401
    choices: dict[str, Any] = {"model": seeded(IMAGES[model]), "solver": fl.SGD(0.02, momentum=0.9)}
    with no_fallback():
        run = fl.Run(on_device(federation("loop", **choices), engine))
        result = on_cpu(run.to_end([]))
    expected = federation("loop", **choices).run()
    state = run.engine.state_dict()
    assert {value.dtype for value in state.values.values() if value.is_floating_point()} == {torch.float32}
    apart_by = [float((result.model[n].double() - v.double()).abs().max()) for n, v in expected.model.items()]
    assert max(apart_by) > 0  # bfloat16 keeps 8 bits
    moved = [(v.double() - choices["model"].state_dict()[n].double()).abs().max() for n, v in expected.model.items()]
    assert max(apart_by) < max(3e-2, 0.3 * float(max(moved)))


@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_torch_compiled_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE.type == "cpu":  # traced and not compiled, which takes a minute less
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
        monkeypatch.setattr("fedlama.engines.options.check_compiler", lambda _: None)
    choices: dict[str, Any] = {"model": seeded(IMAGES["resnet"])}
    ours = on_device(federation("loop", **choices), fl.Recorded(compile_steps=True)).run()
    assert_same(on_cpu(ours), federation("loop", **choices).run(), 1e-3)


class Looking(nn.Module):
    """A model that looks at a number, which cannot be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(72, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images to logits."""
        x = x.flatten(1)
        logits: torch.Tensor = self.dense(x if float(x.sum()) > 0 else -x)
        return logits


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_cannot_be_recorded_is_trained_all_the_same() -> None:
    choices: dict[str, Any] = {"model": seeded(Looking)}
    ours = on_device(federation("loop", **choices), fl.Recorded()).run()
    assert_same(on_cpu(ours), federation("loop", **choices).run(), 1e-4)
    after = on_device(federation("loop"), fl.Recorded()).run()  # the device is well after the attempt
    assert_same(on_cpu(after), federation("loop").run(), 1e-4)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="the CPU's allocator does not count")
@pytest.mark.parametrize("engine", ["recorded", "stacked"])
def test_memory_does_not_grow(engine: str) -> None:
    choices: dict[str, Any] = {"clients": clients((12, 10, 14, 12, 7) * 8), "sampler": fl.UniformSampler(8)}
    given = on_device(federation("loop", keep_client_models=False, **choices), ENGINES[engine])
    run = fl.Run(replace(given, local_steps=60))
    used = []
    for _ in range(30):
        run.advance()
        torch.cuda.synchronize()
        used.append(torch.cuda.memory_allocated())
    assert max(used[15:]) <= max(used[5:15]) + (1 << 16)
