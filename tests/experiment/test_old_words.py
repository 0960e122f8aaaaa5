"""Old words in files, overrides and run folders: accepted, noted once, and never another run folder."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

import fedlama
from fedlama import ConfigError
from fedlama.core.deprecations import RenamedWarning, ignore_renamed, modernise, with_first_words
from fedlama.experiment import load_experiment, read, resolve
from fedlama.experiment.methods import parse_methods
from fedlama.runs.execute import folder_of
from tests.cli.call import SMALL
from tests.cli.call import fedlama as command

NAMES_OF_THE_FIRST_VERSION = [
    ([], "fedlama-6-4-seed0-ec897aad"),
    (["guard.name=median"], "fedlama-6-4-seed0-2236f3b4"),
    (["guard.name=trimmed-mean", "guard.share=0.1"], "fedlama-6-4-seed0-9af26ed1"),
    (["server_step.name=adam", "server_step.first=0.8"], "fedlama-6-4-seed0-da4020b1"),
    (
        [  # first was 0.9 by default in that version
            *("server_step.name=adam", "server_step.first=0.9", "server_step.second=0.8"),
            *("server_step.adaptivity=0.01", "guard.name=norm-bound"),
        ],
        "fedlama-6-4-seed0-1e02f6e4",
    ),
    (["server_step.name=momentum", "server_step.momentum=0.9"], "fedlama-6-4-seed0-eedd4ce1"),
    (["solver.memory_scope=slot"], "fedlama-6-4-seed0-c77f2202"),
    (["solver.name=fedprox", "solver.memory_scope=round"], "fedlama-6-4-seed0-ea018a49"),
    (
        ["availability.name=trace", "availability.absences=[{client=1,first_round=0,last_round=2}]"],
        "fedlama-6-4-seed0-ede38d2f",
    ),
    (["availability.name=random", "availability.away=0.2"], "fedlama-6-4-seed0-f4acf48a"),
    (["strategy.name=fedluar", "strategy.recycled_layers=1"], "fedluar-6-1-seed0-dfdb182c"),
    (["strategy.name=cyclic", "strategy.layers_per_turn=1"], "cyclic-6-1-seed0-64c3be7e"),
    (["strategy.name=fixed", 'strategy.intervals={"dense0.weight"=2}'], "fixed-6-seed0-1f419f1d"),
    (
        ["strategy.name=fedavg", "codec.name=float16", "sampler.name=uniform", "sampler.active=8"],
        "fedavg-6-seed0-b2b6c61a",
    ),
    (
        ["partition.name=iid", "model.name=small-cnn", "layers.name=module", "preset=authors", "engine=loop"],
        "fedlama-6-4-seed0-a68b3c4f",
    ),
    (
        [
            "partition.name=shards",
            "layers.name=mapping",
            'layers.groups={a=["dense0.weight","dense0.bias"],b=["dense1.weight","dense1.bias"]}',
        ],
        "fedlama-6-4-seed0-f8bed3ef",
    ),
]
"""Overrides of `digits`, and the folder's name that version 0.1.0 at commit 209be6f gave it."""

ALIASES = [
    ("guard.name=median", "aggregator.name=median"),
    ("guard.name=none", "aggregator.name=mean"),
    ("aggregator.name=none", "aggregator.name=mean"),
    ("server_step.name=momentum", "server_optimizer.name=momentum"),
    ("server-step.name=momentum", "server-optimizer.name=momentum"),
    ("solver.memory_scope=slot", "solver.state_scope=slot"),
    ("server_step={name='adam', first=0.5}", "server_optimizer={name='adam', beta1=0.5}"),
]


@pytest.fixture
def quiet() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RenamedWarning)
        yield


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("overrides", "name"), NAMES_OF_THE_FIRST_VERSION)
def test_the_folder_of_the_first_version_is_found(overrides: list[str], name: str, tmp_path: Path) -> None:
    assert folder_of(resolve(read("digits", overrides)), tmp_path) == tmp_path / "digits" / name


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cifar10-resnet20", "fedlama-6-4-seed0-53ec28b7"),
        ("mnist-writers", "fedlama-10-4-seed0-a2866e3b"),
        ("tinyshakespeare", "fedlama-10-4-seed0-41cccf10"),
    ],
)
def test_packaged_experiments_keep_their_folder(name: str, folder: str, tmp_path: Path) -> None:
    assert folder_of(resolve(read(name)), tmp_path).name == folder


@pytest.mark.parametrize(("old", "new"), ALIASES)
def test_an_old_override_means_the_new_one(old: str, new: str) -> None:
    with pytest.warns(RenamedWarning, match="is now called"):
        before = resolve(read("digits", [old]))
    assert before == resolve(read("digits", [new]))


def test_an_old_file_means_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "[server_step]\nname = 'adam'\nfirst = 0.5\nsecond = 0.6\nadaptivity = 0.7\n"
        "[guard]\nname = 'none'\n[solver]\nlearning_rate = 0.1\nmemory_scope = 'round'\n"
    )
    with pytest.warns(RenamedWarning):
        found = resolve(read(str(file)))
    assert found.server_optimizer == fedlama.ServerAdam(beta1=0.5, beta2=0.6, epsilon=0.7)
    assert found.aggregator == fedlama.Mean()
    assert found.solver == fedlama.SGD(0.1, state_scope="round")


def test_old_and_new_words_set_the_same_key(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[server_step]\nname = 'adam'\nfirst = 0.5\n[guard]\nname = 'trimmed-mean'\nshare = 0.1\n")
    with pytest.warns(RenamedWarning):
        found = resolve(read(str(file), ["server_optimizer.beta1=0.4", "aggregator.share=0.2"]))
    assert found.server_optimizer == fedlama.ServerAdam(beta1=0.4)
    assert found.aggregator == fedlama.TrimmedMean(0.2)
    file.write_text("[server_optimizer]\nname = 'adam'\nbeta1 = 0.5\n")
    with pytest.warns(RenamedWarning):
        assert resolve(read(str(file), ["server_step.first=0.4"])).server_optimizer == fedlama.ServerAdam(beta1=0.4)


@pytest.mark.usefixtures("quiet")
def test_a_choice_by_its_old_word_comes_before_its_keys() -> None:
    for overrides in (["server_step.first=0.7", "server_step=adam"], ["server_step=adam", "server_step.first=0.7"]):
        assert resolve(read("digits", overrides)).server_optimizer == fedlama.ServerAdam(beta1=0.7)
    assert resolve(read("digits", ["guard=median", "aggregator=mean"])).aggregator == fedlama.Mean()
    assert resolve(read("digits", ["aggregator=mean", "guard=median"])).aggregator == fedlama.Median()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("fedavg,guard=median", "fedavg,aggregator=median"),
        ("fedavg,guard.name=none", "fedavg,aggregator=mean"),
        ("fedavg,server_step=adam,first=0.7", "fedavg,server_optimizer=adam,beta1=0.7"),
        ("fedavg,server-step=adam,server-step.first=0.7", "fedavg,server_optimizer=adam,beta1=0.7"),
        ("fedavg,server_optimizer=adam,adaptivity=0.1", "fedavg,server_optimizer=adam,epsilon=0.1"),
        ("fedavg,solver=fedprox,memory_scope=slot", "fedavg,solver=fedprox,state_scope=slot"),
    ],
)
def test_a_method_with_old_words_means_the_new_one(old: str, new: str) -> None:
    assert parse_methods([old], "digits", []) == parse_methods([new], "digits", [])


@pytest.mark.usefixtures("quiet")
def test_overrides_with_old_words_reach_the_methods_that_have_them() -> None:
    overrides = ["guard=trimmed-mean", "guard.share=0.2"]
    assert parse_methods(["fedavg,aggregator=median"], "digits", overrides) == parse_methods(
        ["fedavg,aggregator=median"], "digits", []
    )
    assert resolve(read("digits", overrides)).aggregator == fedlama.TrimmedMean(0.2)


@pytest.mark.usefixtures("quiet")
def test_old_keys_of_two_files_meet(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("name = 'base'\n[server_step]\nname = 'adam'\nfirst = 0.7\n")
    (tmp_path / "mine.toml").write_text("extends = 'base.toml'\n[server_step]\nfirst = 0.6\n")
    found = resolve(read(str(tmp_path / "mine.toml")))
    assert found.server_optimizer == fedlama.ServerAdam(beta1=0.6)


@pytest.mark.parametrize(("word", "new"), [("server-step", "server_optimizer"), ("guards", "aggregator")])
def test_a_misspelt_old_word_leads_to_the_new_one(word: str, new: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown key '{word}'; did you mean '{new}'"):
        resolve({word: {"name": "adam"}})


def test_both_words_in_one_file_are_refused() -> None:
    with pytest.raises(ConfigError, match="guard and aggregator are both given, but they mean the same; remove guard"):
        resolve({"guard": {"name": "median"}, "aggregator": {"name": "mean"}})
    with pytest.raises(ConfigError, match=r"server_optimizer\.first and server_optimizer\.beta1 are both given"):
        resolve({"server_optimizer": {"name": "adam", "first": 0.1, "beta1": 0.2}})


def test_a_key_of_that_name_elsewhere_is_left_alone() -> None:
    raw = {"server_optimizer": {"name": "mine.py:Mine", "first": 1}, "guard": 3}
    assert modernise(raw, ignore_renamed) == {"server_optimizer": {"name": "mine.py:Mine", "first": 1}, "aggregator": 3}
    assert with_first_words(raw)["server_step"] == {"name": "mine.py:Mine", "first": 1}
    with pytest.raises(ConfigError, match=r"unknown key 'server_optimizer\.first'"):
        resolve({"server_optimizer": {"name": "momentum", "first": 1}})


def test_the_command_line_says_the_new_word_once(tmp_path: Path) -> None:
    called = command("plan", "digits", *SMALL, "guard.name=median", "guard.name=none", "server_step.name=momentum")
    assert called.code == 0
    assert called.err.splitlines() == [
        "note: guard is now called aggregator (since version 0.2); write aggregator, version 1.0 will refuse guard",
        "note: aggregator.name = 'none' is now called aggregator.name = 'mean' (since version 0.2); write "
        "aggregator.name = 'mean', version 1.0 will refuse aggregator.name = 'none'",
        "note: server_step is now called server_optimizer (since version 0.2); write server_optimizer, "
        "version 1.0 will refuse server_step; its defaults changed as well: write momentum = 0.9 for 'momentum', and "
        "beta1 = 0.9 for 'adam', to keep those of before",
    ]


OLD = ("guard.name=median", "server_step.name=adam", "server_step.first=0.8", "solver.memory_scope=round")


def test_a_run_folder_with_old_words_is_reported_verified_and_taken(tmp_path: Path) -> None:
    new = ("aggregator.name=median", "server_optimizer.name=adam", "server_optimizer.beta1=0.8")
    (summary,) = command("run", *SMALL, *new, "solver.state_scope=round", "--json", "--out", tmp_path).json["runs"]
    file = Path(summary["run_folder"]) / "config.json"
    config = json.loads(file.read_text())
    old = with_first_words(config)
    old["in_force"] = with_first_words(old["in_force"])
    assert set(old) - set(config) == {"guard", "server_step"}
    file.write_text(json.dumps(old))
    for words in ([*new, "solver.state_scope=round"], OLD):
        before = file.with_name("metrics.jsonl").stat().st_mtime_ns
        assert command("run", *SMALL, *words, "--out", tmp_path).code == 0
        assert file.with_name("metrics.jsonl").stat().st_mtime_ns == before  # the finished run was taken
    assert command("verify", tmp_path).code == 0
    assert command("report", tmp_path, "--out", tmp_path / "report.html").err == ""  # no notes on what a program wrote


def test_keys_that_came_later_move_no_run_folder() -> None:
    digests = {"data.name=huggingface": "bd16dc89c845f0d1", "data.name=text": "d366649ea203bb97"}  # those of 0.1.0
    keys = {"data.name=huggingface": "data.dataset=x", "data.name=text": "data.path=x"}
    for name, digest in digests.items():
        assert load_experiment("digits", [name, keys[name]]).digest(8) == digest
        assert load_experiment("digits", [name, keys[name], "data.test_share=0.3"]).digest(8) != digest


def test_a_run_folder_from_before_a_key_is_taken(tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_text("".join(f"{name}:\n{'to be or not ' * 40}\n\n" for name in "ABAB"))
    text = ("data.name=text", f"data.path={tmp_path / 'play.txt'}", "data.sequence_length=20", "batch_size=4")
    model = ("model.name=char-transformer", "model.width=8", "model.blocks=1", "model.heads=2")
    run = ("run", *SMALL[1:], "partition.name=natural", "partition.clients=2", *text, *model, "--out", tmp_path)
    (summary,) = command(*run, "--json").json["runs"]
    file = Path(summary["run_folder"]) / "config.json"
    config = json.loads(file.read_text())
    assert not {"test_share", "min_sequences", "small"} & config["data"].keys()  # as 0.1.0 wrote it
    before = file.with_name("metrics.jsonl").stat().st_mtime_ns
    assert command(*run).code == 0
    assert file.with_name("metrics.jsonl").stat().st_mtime_ns == before  # the finished run was taken
    assert command("verify", tmp_path).code == 0


def test_renamed_python_names_warn() -> None:
    with pytest.warns(RenamedWarning, match=r"fedlama\.NoGuard is now called fedlama\.Mean \(since version 0\.2\)"):
        assert fedlama.NoGuard is fedlama.Mean
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        fedlama.Nothing  # noqa: B018
