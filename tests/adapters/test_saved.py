"""A run of a Hugging Face model or a PEFT adapter becomes the files that `from_pretrained` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fedlama as fl
from tests.adapters.test_lora import adapted, bert, clients, federation

peft = pytest.importorskip("peft", reason="the extra peft is not installed")
transformers = pytest.importorskip("transformers", reason="the extra peft is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")


def language_model() -> nn.Module:
    """A GPT-2 of one block, whose output layer is the table of its embeddings."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=12, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model: nn.Module = transformers.GPT2LMHeadModel(config)
    return model


def texts() -> list[fl.ClientData]:
    """The clients of the classifier, with the words themselves as labels."""
    return [fl.ClientData(x={**each.x, "labels": each.x["input_ids"]}, y=None, batch_size=4) for each in clients()]  # type: ignore[dict-item]


def trained(model: nn.Module, data: list[fl.ClientData], folder: Path) -> fl.Result:
    made = fl.Federation(model, data, fl.FedAvg(2), 4, fl.AdamW(0.05), task=fl.HuggingFace())
    return fl.run(made, folder.parent, folder.name, track=(), quiet=True)


@pytest.mark.parametrize(
    ("make", "data", "kind"),
    [(bert, clients, "BertForSequenceClassification"), (language_model, texts, "GPT2LMHeadModel")],
    ids=["classifier", "tied weights"],
)
def test_a_run_of_hugging_face_is_written_and_loaded_again(make: Any, data: Any, kind: str, tmp_path: Path) -> None:  # noqa: ANN401
    result = trained(make(), data(), tmp_path / "run")
    fl.load_run(tmp_path / "run").load_model(make()).save_pretrained(tmp_path / "saved")  # type: ignore[operator]
    assert {"config.json", "model.safetensors"} <= {file.name for file in (tmp_path / "saved").iterdir()}
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["architectures"] == [kind]
    again = getattr(transformers, kind).from_pretrained(tmp_path / "saved")
    first = make().state_dict()
    values = again.state_dict()
    assert {name for name, value in result.model.items() if not torch.equal(value, first[name])}
    assert [name for name, value in result.model.items() if not torch.equal(values[name], value)] == []
    automatic = transformers.AutoModel.from_pretrained(tmp_path / "saved")  # of the layout alone
    assert type(automatic).__name__ == kind.partition("For")[0].partition("LMHead")[0] + "Model"


def test_an_adapter_of_a_run_is_written_and_loaded_again(tmp_path: Path) -> None:
    result = fl.run(federation("fedit"), tmp_path, "run", track=(), quiet=True)
    run = fl.load_run(tmp_path / "run")
    assert any(name.endswith("word_embeddings.weight") for name in run.missing)  # the frozen base is in no file
    run.load_model(adapted()).save_pretrained(tmp_path / "by-peft")  # type: ignore[operator]
    fl.save_adapter(adapted(), tmp_path / "run", tmp_path / "by-fedlama")
    written = {path: load_file(tmp_path / path / "adapter_model.safetensors") for path in ("by-peft", "by-fedlama")}
    assert written["by-peft"].keys() == written["by-fedlama"].keys()
    assert all(torch.equal(value, written["by-fedlama"][name]) for name, value in written["by-peft"].items())
    settings = [json.loads((tmp_path / path / "adapter_config.json").read_text()) for path in written]
    assert settings[0] == settings[1]
    assert settings[0]["r"] == 2
    again = peft.PeftModel.from_pretrained(bert(), tmp_path / "by-peft").eval()
    trained_model = adapted()
    trained_model.load_state_dict(dict(result.model), strict=False)
    inputs = {key: value for key, value in clients()[0].x.items() if key != "labels"}  # type: ignore[union-attr]
    with torch.no_grad():
        expected, logits = trained_model.eval()(**inputs).logits, again(**inputs).logits
        untrained = adapted().eval()(**inputs).logits
    assert torch.equal(logits, expected)
    assert not torch.allclose(logits, untrained)


def test_an_adapter_is_merged_into_a_model_without_peft(tmp_path: Path) -> None:
    fl.run(federation("fedit"), tmp_path, "run", track=(), quiet=True)
    loaded: Any = fl.load_run(tmp_path / "run").load_model(adapted())
    inputs = {key: value for key, value in clients()[0].x.items() if key != "labels"}  # type: ignore[union-attr]
    with torch.no_grad():
        expected = loaded.eval()(**inputs).logits
        loaded.merge_and_unload().save_pretrained(tmp_path / "merged")
        model = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "merged")
        torch.testing.assert_close(model.eval()(**inputs).logits, expected, rtol=1e-4, atol=1e-5)
