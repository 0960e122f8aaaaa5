"""What needs no peft: adapters are recognised by the names of their parameters, and the extra is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.core.labelling import ByAdapter


class Adapter(nn.Module):
    """A frozen linear layer with an adapter whose parameters are named as PEFT names them."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(4, 3).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 3, bias=False)})


def adapted() -> nn.Module:
    return nn.ModuleDict({"block": nn.ModuleList([Adapter(), Adapter()])})


@pytest.mark.parametrize(
    ("method", "tags"),
    [("fedit", ["shared"] * 4), ("ffa", ["frozen", "shared"] * 2), ("fedsa", ["shared", "local"] * 2)],
)
def test_the_section_of_an_experiment(method: str, tags: list[str]) -> None:
    layers = ByAdapter(method=method).label(adapted())  # type: ignore[arg-type]
    assert [layer.name for layer in layers] == ["block.0.A", "block.0.B", "block.1.A", "block.1.B"]
    assert [layer.tag for layer in layers] == tags


def test_further_patterns() -> None:
    layers = ByAdapter(frozen=("block.0.*",), local=("block.1.B",)).label(adapted())
    assert [layer.tag for layer in layers] == ["frozen", "frozen", "shared", "local"]
    with pytest.raises(fl.ConfigError, match="method is 'lora'; known are: fedit"):
        ByAdapter(method="lora")  # type: ignore[arg-type]


def test_an_experiment_file_knows_the_labelling() -> None:
    experiment = fl.load_experiment("digits", ["layers.name=lora", "layers.method=fedsa"])
    assert experiment.layers == ByAdapter(method="fedsa")


def test_several_adapters_are_kept_apart() -> None:
    model = adapted()
    for module in model["block"]:  # type: ignore[index, union-attr]
        module.lora_A["second"] = nn.Linear(4, 2, bias=False)
    names = [layer.name for layer in fl.lora_layers(model)]
    assert names[:3] == ["block.0.default.A", "block.0.second.A", "block.0.default.B"]


def test_without_peft_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(fl.MissingExtraError, match=r"pip install 'fedlama\[peft\]'"):
        fl.save_adapter(adapted(), {"x": torch.zeros(1)}, tmp_path)
