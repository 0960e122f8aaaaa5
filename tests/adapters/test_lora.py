"""Adapters of a tiny BERT that is built from a configuration; needs peft and transformers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedlama as fl
from fedlama.core import wire
from fedlama.flower.client.state import load
from tests.flower.cases import deployed, in_process

peft = pytest.importorskip("peft", reason="the extra peft is not installed")
transformers = pytest.importorskip("transformers", reason="the extra peft is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")

QUERIES = [f"bert.encoder.layer.{block}.attention.self.{module}" for block in (0, 1) for module in ("query", "value")]


def bert() -> nn.Module:
    """A BERT with two blocks of width 16, before it has adapters."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=50, max_position_embeddings=12, num_labels=3, **sizes)
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def adapted() -> Any:  # noqa: ANN401
    """The same with adapters of rank 2."""
    model = bert()
    return peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"]))


def clients(count: int = 4) -> list[fl.ClientData]:
    draw = torch.Generator().manual_seed(1)
    batches = [
        {
            "input_ids": torch.randint(1, 50, (8, 6), generator=draw),
            "attention_mask": torch.ones(8, 6, dtype=torch.int64),
            "labels": torch.randint(0, 3, (8,), generator=draw),
        }
        for _ in range(count)
    ]
    return [fl.ClientData(x=batch, y=None, batch_size=4) for batch in batches]


def federation(method: Any = "fedit", **changes: Any) -> fl.Federation:  # noqa: ANN401
    model = adapted()
    settings: dict[str, Any] = {"strategy": fl.FedAvg(2), "local_steps": 8, "solver": fl.AdamW(0.05)}
    settings |= {"layers": fl.lora_layers(model, method), "task": fl.HuggingFace(), "sampler": fl.UniformSampler(2)}
    return fl.Federation(model=model, clients=clients(), **(settings | changes))


def start() -> dict[str, Tensor]:
    return dict(adapted().state_dict())


def test_a_layer_for_each_module_and_matrix() -> None:
    layers = fl.lora_layers(adapted())
    expected = [f"{path}.{matrix}" for path in QUERIES for matrix in "AB"] + ["classifier"]
    assert [layer.name for layer in layers] == expected
    assert [layer.parameters for layer in layers] == [32] * 8 + [3 * 16 + 3]
    assert [layer.tag for layer in layers] == ["shared"] * 8 + ["head"]
    assert all(layer.adaptive for layer in layers)


@pytest.mark.parametrize(
    ("method", "matrix", "tag"), [("ffa", ".A", "frozen"), ("fedsa", ".B", "local"), ("fedit", ".A", "shared")]
)
def test_methods_are_tags(method: Any, matrix: str, tag: str) -> None:  # noqa: ANN401
    layers = fl.lora_layers(adapted(), method)
    assert {layer.tag for layer in layers if layer.name.endswith(matrix)} == {tag}
    assert {layer.tag for layer in layers if layer.name[-2:] in {".A", ".B"} - {matrix}} == {"shared"}


@pytest.mark.parametrize("attribute", ["module", "_module", "_orig_mod"])
def test_names_survive_wrappers(attribute: str) -> None:
    wrapped = nn.Module()
    wrapped.add_module(attribute, adapted())
    names = [(layer.name, layer.tag) for layer in fl.lora_layers(wrapped, "fedsa")]
    assert names == [(layer.name, layer.tag) for layer in fl.lora_layers(adapted(), "fedsa")]
    assert fl.lora_layers(wrapped)[0].tensors[0].name.startswith(f"{attribute}.base_model.model.bert")


@pytest.mark.parametrize("method", ["fedit", "ffa", "fedsa"])
def test_only_what_is_trained_is_sent(method: Any) -> None:  # noqa: ANN401
    result = federation(method).run()
    matrices = {"fedit": "AB", "ffa": "B", "fedsa": "A"}[method]
    sizes = {f"{path}.{matrix}": 4 * 32 for path in QUERIES for matrix in matrices} | {"classifier": 4 * 51}
    assert {(row.layer, row.payload_bytes) for row in result.ledger.rows()} == set(sizes.items())
    first = start()
    changed = {name for name, value in result.model.items() if not torch.equal(value, first[name])}
    assert {name.split(".lora_")[1][0] for name in changed if ".lora_" in name} == set(matrices)
    assert all(".lora_" in name or ".modules_to_save." in name for name in changed)


@pytest.mark.selection
@pytest.mark.parametrize("engine", [fl.Stacked(chunk=1), fl.Workers(threads=2), fl.Auto()], ids=str)
@pytest.mark.parametrize("method", ["ffa", "fedsa"])
def test_engines_agree(engine: Any, method: Any) -> None:  # noqa: ANN401
    # With a large epsilon, rounding in a gradient near zero cannot become a whole step.
    changes: dict[str, Any] = {"solver": fl.AdamW(0.05, epsilon=1e-2), "keep_client_models": True}
    expected = federation(method, **changes).run()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*cannot be vectorised", category=UserWarning)
        result = federation(method, engine=engine, **changes).run()
    for ours, theirs in zip(result.rounds, expected.rounds, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
        for client, values in theirs.client_models.items():
            for name, value in values.items():
                torch.testing.assert_close(ours.client_models[client][name], value, rtol=1e-3, atol=1e-5)
    assert result.ledger.transfers == expected.ledger.transfers


def test_fedlama_sets_an_interval_for_each_matrix() -> None:
    strategy = fl.FedLAMA(2, increase_factor=2)
    result = federation(strategy=strategy, local_steps=24, sampler=fl.AllClients()).run()
    last = result.rounds[-1].layers
    assert last.keys() == {layer.name for layer in fl.lora_layers(adapted())}
    assert {record.interval for record in last.values()} == {1, 2}


def test_a_deployment_sends_no_byte_of_a_local_matrix(tmp_path: Path) -> None:
    given = federation("fedsa")
    channel = in_process(given, tmp_path)
    result = deployed(given, channel).to_end([])
    expected = given.run()
    assert all(torch.equal(result.model[name], value) for name, value in expected.model.items())
    assert result.ledger.transfers == expected.ledger.transfers
    parts = [request.payload for request in channel.requests] + [reply.payload for reply in channel.replies]
    sent = b"".join(parts)
    assert {index for part in parts for index in wire.unpack(part).payloads} == set(range(5))  # four A, the classifier
    states = [state for client in range(4) if (state := load(channel.path(client))) is not None]
    names = [name for name in states[0].values if ".lora_B." in name]
    assert len(names) == 4
    for state in states:
        for name in names:
            rows = state.values[name]
            assert rows.any()
            assert not any(row.numpy().tobytes() in sent for row in rows.reshape(-1, 4) if row.all())


@pytest.mark.parametrize("method", ["fedit", "ffa", "fedsa"])
def test_after_every_round_peft_loads_the_adapter(method: Any, tmp_path: Path) -> None:  # noqa: ANN401
    run = fl.Run(federation(method))
    model, batch = adapted(), clients()[0].x
    for _ in range(4):
        run.advance()
        for values in (run.global_model(), run.engine.client_values(run.cohort[0])):
            folder = fl.save_adapter(adapted(), values, tmp_path / "adapter")
            assert {path.name for path in folder.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
            loaded = peft.PeftModel.from_pretrained(bert(), folder).eval()
            model.load_state_dict(values, strict=False)
            model.eval()
            with torch.no_grad():
                assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert any(value.any() for name, value in values.items() if ".lora_B." in name)


def test_the_adapter_of_a_wrapped_model_and_of_a_run_folder(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    result = federation().run()
    wrapped = nn.Module()
    wrapped.add_module("module", adapted())
    prefixed = {f"module.{name}": value for name, value in result.model.items()}
    fl.save_adapter(wrapped, prefixed, tmp_path / "wrapped")
    (tmp_path / "run").mkdir()
    save_file({name: value.clone() for name, value in result.model.items()}, tmp_path / "run" / "model.safetensors")
    fl.save_adapter(adapted(), tmp_path / "run", tmp_path / "stored")
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("wrapped", "stored"))
    assert first.keys() == second.keys()
    assert len(first) == 10
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        fl.ConfigError, match="no parameter of a LoRA adapter that is trained, expected a model to which"
    ):
        fl.lora_layers(bert())
    with pytest.raises(fl.ConfigError, match=r"layers\.method is 'fedsaa'; did you mean 'fedsa'"):
        fl.lora_layers(adapted(), "fedsaa")  # type: ignore[arg-type]
    with pytest.raises(fl.ConfigError, match="has no adapter of PEFT"):
        fl.save_adapter(bert(), {}, tmp_path)
    with pytest.raises(fl.ConfigError, match=r"adapter is 'mine', expected one of the model's adapters \(default\)"):
        fl.save_adapter(adapted(), start(), tmp_path, adapter="mine")
    with pytest.raises(fl.DataError, match="hold no tensor of the model"):
        fl.save_adapter(adapted(), {"weight": torch.zeros(1)}, tmp_path)
    with pytest.raises(fl.DataError, match="cannot be read"):
        fl.save_adapter(adapted(), tmp_path / "missing", tmp_path)
