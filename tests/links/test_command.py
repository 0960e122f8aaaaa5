"""`fedlama links` and the times of `fedlama plan`."""

from __future__ import annotations

from pathlib import Path

from tests.cli.call import SMALL, fedlama, refused


def test_json(folder: Path) -> None:
    seen = fedlama("links", folder, "--link", "fibre", "--link", "4g,up=5Mbit/s", "--price", "2", "--json").json
    (run,) = seen["runs"]
    assert (run["run"], run["run_folder"]) == ("FedLAMA(3, 2) seed 0", str(folder))
    assert [one["link"] for one in run["links"]] == ["fibre", "4g,up=5Mbit/s"]
    for one in run["links"]:
        assert one["seconds"] > one["seconds_down"] + one["seconds_up"] > 0
    assert run["money"] == run["bytes"] * 2e-9


def test_table(folder: Path) -> None:
    shown = fedlama("links", folder.parent, "--target", "10")
    assert shown.code == 0
    for word in ("FedAvg(6) seed 0", "lora-like", "MB to 10 %", "transfer %", "10 Gbit/s", "LoRa at SF7"):
        assert word in shown.out


def test_plan_tells_times_and_money() -> None:
    shown = fedlama("plan", *SMALL, "--link", "fibre", "--price", "3")
    assert shown.code == 0
    for word in ("fibre", "(price)", "least", "most"):
        assert word in shown.out
    methods = fedlama("plan", *SMALL, "--price", "3", "--json").json["methods"]
    assert set(methods[0]["low"]["seconds"]) == {"data-centre", "fibre", "home-dsl", "4g", "lora-like"}
    assert methods[0]["low"]["money"] > 0


def test_mistakes_are_told(folder: Path, tmp_path: Path) -> None:
    assert refused("links", tmp_path)[0].startswith("there is no run folder in")
    assert "did you mean 'fibre'" in refused("links", folder, "--link", "fiber")[0]
    assert refused("links", folder, "--target", "0")[0].startswith("--target is 0.0")
    assert refused("links", folder, "--price", "-1")[0].startswith("--price is -1.0")
    assert refused("links", folder, "--links", tmp_path / "none.toml")[0].endswith("one table per link")
