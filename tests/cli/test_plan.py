"""`fedlama plan`: model, layers, sizes, rounds and bytes before any training."""

from __future__ import annotations

from tests.cli.call import SMALL, fedlama
from tests.cli.conftest import Compared


def test_json_holds_model_layers_and_methods() -> None:
    seen = fedlama("plan", *SMALL, "--json").json
    assert set(seen) == {"model", "parameters", "clients", "active", "layers", "methods"}
    assert (seen["model"], seen["parameters"], seen["clients"], seen["active"]) == ("mlp", 9610, 4, 4)
    assert seen["layers"][0] == {
        "layer": "dense0.weight",
        "parameters": 8192,
        "payload_bytes": 32768,
        "adaptive": True,
    }
    assert [one["method"] for one in seen["methods"]] == ["FedAvg(3)", "FedAvg(6)", "FedLAMA(3, 2)"]
    assert [one["rounds"] for one in seen["methods"]] == [4, 2, 4]


def test_the_comparison_moves_what_the_plan_says(compared: Compared) -> None:
    methods = fedlama("plan", *SMALL, "--json").json["methods"]
    for foreseen, run in zip(methods, compared.called.json["runs"], strict=True):
        low, high = foreseen["low"], foreseen["high"]
        for key in ("bytes_up", "bytes_down", "cost_percent"):
            assert low[key] <= run[key] <= high[key]
    assert methods[0]["low"] == methods[0]["high"]
    assert methods[2]["low"]["bytes_up"] < methods[2]["high"]["bytes_up"]


def test_table_names_layers_and_methods() -> None:
    shown = fedlama("plan", *SMALL)
    assert shown.code == 0
    for word in ("dense0.weight", "32,768", "9,610 parameters", "FedAvg(6)", "FedLAMA(3, 2)", "4 of 4 clients"):
        assert word in shown.out


def test_bytes_per_round_are_the_total_over_the_rounds() -> None:
    for method in fedlama("plan", *SMALL, "--json").json["methods"]:
        for bound, mean in zip(("low", "high"), method["bytes_per_round"], strict=True):
            assert mean * method["rounds"] == method[bound]["bytes_up"] + method[bound]["bytes_down"]


def test_a_half_precision_codec_halves_the_payload() -> None:
    layers = fedlama("plan", *SMALL, "codec.name=float16", "--json").json["layers"]
    assert [layer["payload_bytes"] for layer in layers] == [2 * layer["parameters"] for layer in layers]
