"""Options of the user's own: by file, by import path, by plug-in and by entry point, through the command line."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedlama import Callback, ConfigError, RoundRecord
from fedlama.experiment import load_experiment as load
from fedlama.experiment import resolve
from fedlama.experiment.methods import parse_methods, written
from fedlama.runs.autosave import Interrupted
from fedlama.runs.execute import Observer, PlannedRun, RunOptions, plan_runs, run_one
from fedlama.runs.verify import verify
from tests.cli.call import SMALL, Called, fedlama, refused

OWN = Path(__file__).parent / "own"
FILE = "my_options.py"
EVERY_SECTION = [
    ("strategy", "LargestWaits", {"base_interval": 3, "wait": 2}),
    ("solver", "SignSGD", {"learning_rate": 0.02}),
    ("codec", "Whole", {}),
    ("sampler", "FirstClients", {"count": 3}),
    ("availability", "OddDays", {"rejoin": "next-cycle"}),
    ("aggregator", "FirstClient", {}),
    ("server_optimizer", "HalfWay", {"share": 0.25}),
    ("model", "Net", {"hidden": 7, "bias": False}),
    ("model", "build_net", {"widths": [9, 4]}),
    ("model", "Sized", {"hidden": 4}),
    ("data", "some_digits", {"rows": 300}),
    ("data", "ManyDigits", {"rows": 500}),
    ("partition", "Striped", {"clients": 4}),
    ("layers", "one_layer", {}),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the user's files, which is the current one; what was imported is forgotten afterwards."""
    for file in OWN.glob("my_*.py"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("fedlama_plugin_", "my_", "another_")):
            del sys.modules[name]


def override(section: str, name: str, settings: dict[str, object]) -> list[str]:
    return [f"{section}.name={name}", *(f"{section}.{key}={json.dumps(value)}" for key, value in settings.items())]


def run(*arguments: str) -> tuple[Path, dict[str, Any]]:
    """Run and return the run folder and its configuration."""
    small = [one for one in SMALL if one.partition(".")[0] not in {given.partition(".")[0] for given in arguments}]
    (summary,) = fedlama("run", "digits", *small, *arguments, "--json", "--out", "runs").json["runs"]
    path = Path(summary["run_folder"])
    return path, json.loads((path / "config.json").read_text())


@pytest.mark.parametrize(("section", "name", "settings"), EVERY_SECTION)
def test_every_section_takes_one_by_file(folder: Path, section: str, name: str, settings: dict[str, object]) -> None:
    path, config = run(*override(section, f"{FILE}:{name}", settings))
    assert config[section].items() >= {"name": f"{FILE}:{name}", **settings}.items()
    assert len(config["sources"][section]) == 64
    assert verify(path, plugins=[FILE]).difference is None
    again = resolve({key: value for key, value in config.items() if key not in ("in_force", "environment")})
    assert again.to_json()[section] == config[section]


def test_an_engine_by_file_computes_what_it_does(folder: Path) -> None:
    path, config = run(f"engine={FILE}:SlowEngine")
    assert (config["engine"], list(config["sources"])) == (f"{FILE}:SlowEngine", ["engine"])
    loop, _ = run("engine=loop")
    mine, theirs = (load_file(one / "model.safetensors") for one in (path, loop))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert verify(path, plugins=[FILE]).difference is None


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("def mine(setup):\n    return None\n", "returned None, expected a fedlama.engines.Engine; return one"),
        (
            "def mine(setup):\n    raise KeyError('cores')\n",
            "cannot be made: KeyError: 'cores' ({file}, line 2); correct it",
        ),
        ("class mine:\n    pass\n", "cannot be made: TypeError: mine() takes no arguments; correct it"),
    ],
)
def test_an_engine_that_cannot_be_made(folder: Path, code: str, sentence: str) -> None:
    (folder / "my_engine.py").write_text(code)
    problems = refused("run", *SMALL, "engine=my_engine.py:mine", "--out", "runs")
    assert problems == [f"engine 'my_engine.py:mine' {sentence.format(file=folder / 'my_engine.py')}"]


def test_a_path_counts_from_the_toml_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "study").mkdir()
    (folder / FILE).rename(folder / "study" / FILE)
    (folder / "my_helper.py").rename(folder / "study" / "my_helper.py")
    (folder / "study" / "mine.toml").write_text(
        f"name = 'mine'\nlocal_steps = 12\n[partition]\nname = 'iid'\nclients = 3\n"
        f"[strategy]\nname = '{FILE}:LargestWaits'\nbase_interval = 3\n"
    )
    strategy = load("study/mine.toml").strategy
    assert (type(strategy).__name__, strategy.name) == ("LargestWaits", "largest-waits")
    called = fedlama("run", "study/mine.toml", f"codec.name={FILE}:Whole", "--out", "runs", "--quiet")
    assert called.code == 0
    monkeypatch.chdir(folder / "study")
    assert load("mine.toml").to_json() == load(str(folder / "study" / "mine.toml")).to_json()
    (problem,) = refused("plan", "digits", f"codec.name=other/{FILE}:Whole")
    assert problem.endswith(
        f"a file of that name is in the current folder, but paths count from {folder}/study/other; correct the path"
    )
    monkeypatch.chdir(folder)
    (problem,) = refused("plan", "study/mine.toml", f"codec.name=study/{FILE}:Whole")
    assert problem.endswith(f"in the current folder, but paths count from {folder}/study; correct the path")
    monkeypatch.chdir(folder / "study")
    assert load("mine.toml", [f"strategy.name=./{FILE}:LargestWaits"]).to_json() == load("mine.toml").to_json()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (FILE, f"strategy.name is '{FILE}', a file without a class or function; use {FILE}:NAME"),
        (f"{FILE}:", f"strategy.name is '{FILE}:', a file without a class or function; use {FILE}:NAME"),
        (f"{FILE}:A:B", f"strategy.name is '{FILE}:A:B', expected one colon; use FILE.py:NAME"),
    ],
)
def test_a_name_that_is_almost_right(folder: Path, name: str, sentence: str) -> None:
    assert refused("plan", "digits", f"strategy.name={name}") == [sentence]


def test_a_class_of_another_section(folder: Path) -> None:
    assert refused("plan", "digits", f"strategy.name={FILE}:Whole") == [
        f"strategy.name is '{FILE}:Whole', but the class fits codec.name; use it there"
    ]


def test_a_class_that_lacks_methods(folder: Path) -> None:
    (folder / "few.py").write_text(
        "from dataclasses import dataclass\n\n\n@dataclass(frozen=True)\nclass Empty:\n    share: float = 0.5\n"
    )
    (problem,) = refused("plan", "digits", "data.name=few.py:Empty")
    assert problem.endswith("but the class lacks load; define it as in fedlama.data.arrays.DataSource")
    (problem,) = refused("plan", "digits", "codec.name=few.py:Empty")
    assert "but the class lacks decode, decode_with, download, encode" in problem
    assert problem.endswith("; inherit from fedlama.choices.codecs.base.Codec, which has most of them")


def test_a_method_that_a_plug_in_would_register(folder: Path) -> None:
    (folder / "broken.py").write_text("def (:")
    arguments = ("compare", "digits", "--methods", "fedavg mine")
    (problem,) = refused(*arguments, "--plugin", "broken.py")
    assert problem.startswith("method 'mine': broken.py cannot be imported: SyntaxError")
    assert refused(*arguments, "--plugin", "no.py") == [
        "the plug-in no.py does not exist; correct the path behind --plugin"
    ]
    path, _ = run()
    assert refused("verify", path, "--plugin", "no.py") == [
        "the plug-in no.py does not exist; correct the path behind --plugin"
    ]
    (problem,) = refused("compare", "digits", "--methods", "fedavg,codec.bits=4")
    assert problem == (
        "method 'fedavg,codec.bits=4': codec.bits is set, but no codec before it; write codec=NAME in front of it"
    )


def test_an_error_in_a_method_is_one_sentence(folder: Path) -> None:
    (folder / "late.py").write_text(
        "from dataclasses import dataclass\nimport fedlama as fl\n\n\n@dataclass(frozen=True)\n"
        "class Late(fl.FedAvg):\n    def plan(self, *_):\n        raise KeyError('my layer')\n"
    )
    small = ("local_steps=12", "partition.clients=3", "strategy.name=late.py:Late")
    called = fedlama("run", "digits", *small, "--out", "runs", "--quiet")
    file = folder / "late.py"
    assert (called.code, called.err.splitlines()[-1]) == (
        1,
        f"error: an option of your own failed: KeyError: 'my layer' ({file}, line 8); correct it there",
    )
    assert "Traceback" not in called.err


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_strategy_without_a_plan(folder: Path, command: str) -> None:
    (folder / "none.py").write_text(
        "from dataclasses import dataclass\nimport fedlama as fl\n\n\n@dataclass(frozen=True)\n"
        "class Nothing(fl.FedAvg):\n    def plan(self, *_):\n        return None\n"
    )
    arguments = ("digits", "local_steps=12", "partition.clients=3", "strategy.name=none.py:Nothing")
    output = () if command == "plan" else ("--out", "runs")
    assert refused(command, *arguments, *output) == [
        "the strategy's plan of a round is None, expected a fedlama.Plan; return one"
    ]


ODD_CODEC = """
from dataclasses import dataclass

import fedlama as fl
import torch


@dataclass(frozen=True)
class Odd(fl.Codec):
    def payload_bytes(self, spec):
        return 4 * spec.size

    def encode(self, tensor):
        return tensor.numpy().tobytes()ENCODED

    def decode(self, data, spec):
        return torch.frombuffer(bytearray(data)[: 4 * spec.size], dtype=spec.dtype).reshape(spec.shape)DECODED
"""


@pytest.mark.parametrize(
    ("encoded", "decoded", "sentence"),
    [
        (
            *(" + b'x'", ""),
            "Odd: a payload of a tensor of shape (10, 64) has 2561 bytes, expected 2560, as payload_bytes says; "
            "correct one of them, because the ledger counts these",
        ),
        (
            "",
            "[None]",
            "Odd: decode returned torch.float32 (1, 10, 64), expected torch.float32 (10, 64); return this form",
        ),
        ("", ".tolist()[:0]", "Odd: decode returned [], expected torch.float32 (10, 64); return this form"),
    ],
)
def test_a_codec_that_breaks_its_contract(folder: Path, encoded: str, decoded: str, sentence: str) -> None:
    (folder / "odd.py").write_text(ODD_CODEC.replace("ENCODED", encoded).replace("DECODED", decoded))
    small = ("digits", "local_steps=12", "partition.clients=3", "codec.name=odd.py:Odd", "model.hidden=[]")
    assert refused("run", *small, "--out", "runs") == [sentence]


def test_by_import_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "site" / "another_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    shutil.copy(OWN / FILE, package / "options.py")
    shutil.copy(OWN / "my_helper.py", folder / "site")
    monkeypatch.syspath_prepend(str(folder / "site"))
    path, config = run("strategy.name=another_package.options:LargestWaits", "strategy.base_interval=3")
    assert config["strategy"]["name"] == "another_package.options:LargestWaits"
    assert verify(path, plugins=["another_package.options"]).difference is None
    with pytest.raises(ConfigError, match=r"is not run because a run folder names it; .* --plugin another_package.opt"):
        verify(path)
    (problem,) = refused("plan", *SMALL, "codec.name=another_package.options:Whol")
    assert problem == "another_package.options has no 'Whol'; did you mean 'Whole'?"
    (problem,) = refused("plan", *SMALL, "codec.name=my_option:Whole")
    assert problem.startswith("the module 'my_option' is not installed; install it, or name a file")


def test_one_of_ours_by_import_path_is_ours() -> None:
    own = load("digits", ["codec.name=fedlama.choices.codecs.float16:Float16"])
    assert own.to_json()["codec"] == {"name": "float16"}
    assert "sources" not in own.to_json()


def test_a_module_in_the_current_folder_is_to_be_named_as_a_file(folder: Path) -> None:
    (folder / "another_one.py").write_text("")
    (problem,) = refused("plan", *SMALL, "codec.name=another_one:Whole")
    assert problem == "the module 'another_one' is not installed; to name its file, write 'another_one.py:...'"


def test_by_plugin_file(folder: Path) -> None:
    (folder / "run.toml").write_text("local_steps = 12\nengine = 'slow'\n[partition]\nname = 'iid'\nclients = 3\n")
    change = ("strategy.name=largest-waits", "strategy.base_interval=3", "codec.name=plain")
    called = fedlama("run", "run.toml", *change, "--plugin", FILE, "--json", "--out", "runs")
    path = Path(called.json["runs"][0]["run_folder"])
    config = json.loads((path / "config.json").read_text())
    assert (config["strategy"]["name"], config["codec"]["name"]) == ("largest-waits", "plain")
    assert set(config["sources"]) == {"strategy", "codec", "engine"}
    assert fedlama("verify", path, "--plugin", FILE).code == 0
    (problem,) = refused("verify", path)[:1]
    assert "give the file or module that registers it with --plugin" in problem
    assert "strategy.name is 'largest-wait'; did you mean 'largest-waits'?" in refused(
        "plan", "run.toml", "strategy.name=largest-wait", "--plugin", FILE
    )
    assert any(problem.startswith("strategy.name is 'largest-waits'") for problem in refused("plan", *change[:2]))


def test_a_plugin_cannot_take_a_name_of_ours(folder: Path) -> None:
    (folder / "my_thief.py").write_text(
        "from fedlama.core.registry import register\n\n@register('codec', 'float32')\nclass Mine:\n    pass\n"
    )
    problems = refused("plan", *SMALL, "codec.name=mine", "--plugin", "my_thief.py")
    assert problems == ["my_thief.py registers codec 'float32', a name of fedlama's own; rename it"]


def test_two_plugins_with_one_name_are_refused(folder: Path) -> None:
    shutil.copy(FILE, "my_copy.py")
    problems = refused("plan", *SMALL, "codec.name=plain", "--plugin", FILE, "--plugin", "my_copy.py")
    assert problems == [f"codec 'plain' is registered by {FILE} and by my_copy.py; use one of them"]


class _EntryPoints:
    """What `entry_points` returns for installed packages: one that works and one that is broken."""

    def __init__(self, *values: str) -> None:
        self.values = values

    def __call__(self, *, group: str) -> list[importlib.metadata.EntryPoint]:
        assert group == "fedlama.plugins"
        return [importlib.metadata.EntryPoint(value.partition(":")[0], value, group) for value in self.values]


@pytest.mark.parametrize("value", ["my_options", "my_options:LargestWaits"])
def test_by_entry_point(folder: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr("fedlama.experiment.catalogue.entry_points", _EntryPoints(value, "my_missing"))
    path, config = run("strategy.name=largest-waits", "strategy.base_interval=3")
    assert config["strategy"]["name"] == "largest-waits"
    (strategy,) = parse_methods(["largest-waits,wait=3"], "digits", list(SMALL))
    assert (strategy.base_interval, strategy.wait) == (3, 3)
    assert verify(path, plugins=["my_options"]).difference is None
    (problem,) = refused("plan", *SMALL, "strategy.name=largest-wait")
    assert problem.startswith("strategy.name is 'largest-wait'; did you mean 'largest-waits'?; the entry point")
    assert "'my_missing' is broken: the module 'my_missing' is not installed" in problem
    with pytest.raises(ConfigError, match="give the file or module that registers it with --plugin"):
        verify(path)


def test_methods_and_seeds(folder: Path) -> None:
    called = fedlama(
        *("compare", "digits", *SMALL, "--methods", f"fedavg {FILE}:LargestWaits,wait=4", "--seeds", "2"),
        *("--json", "--out", "runs"),
    )
    assert [one["method"] for one in called.json["methods"]] == ["FedAvg(3)", "LargestWaits(3, 4)"]
    assert called.json["methods"][1]["written"] == f"{FILE}:LargestWaits,base_interval=3,wait=4"
    assert len(called.json["runs"]) == 4
    (strategy,) = parse_methods([f"{FILE}:LargestWaits,wait=4"], "digits", list(SMALL))
    assert parse_methods([written(strategy)], "digits", []) == [strategy]
    assert refused("compare", *SMALL, "--methods", f"{FILE}:LargestWait") == [
        f"method '{FILE}:LargestWait': {FILE} has no 'LargestWait'; did you mean 'LargestWaits'?"
    ]
    assert refused("compare", *SMALL, "--methods", f"{FILE}:LargestWaits,weit=4") == [
        f"method '{FILE}:LargestWaits,weit=4': unknown key 'strategy.weit'; did you mean 'wait'?"
    ]


def test_a_path_with_spaces(folder: Path) -> None:
    (folder / "my files").mkdir()
    for file in (FILE, "my_helper.py"):
        (folder / file).rename(folder / "my files" / file)
    (strategy,) = parse_methods([f"'my files/{FILE}:LargestWaits',wait=4"], "digits", list(SMALL))
    assert written(strategy) == f'"my files/{FILE}:LargestWaits",base_interval=3,wait=4'
    assert parse_methods([written(strategy)], "digits", []) == [strategy]


def test_plan_compare_and_report(folder: Path) -> None:
    change = (f"strategy.name={FILE}:LargestWaits", "strategy.base_interval=3")
    planned = fedlama("plan", *_others(change), *change, "--json").json["methods"]
    compared = fedlama("compare", "digits", *_others(change), *change, "--json", "--out", "runs").json["runs"]
    for forecast, summary in zip(planned, compared, strict=True):
        assert forecast["low"]["bytes_up"] == forecast["high"]["bytes_up"] == summary["bytes_up"]
    (folder / FILE).write_text("raise SystemExit('this file must not be run')")
    (folder / "my_helper.py").unlink()
    for command in (["report", "runs", "--out", "report.html"], ["links", "runs", "--link", "4g"]):
        called = fedlama(*command)
        assert (called.code, called.err) == (0, "")
    assert "LargestWaits(3) seed 0" in (folder / "report.html").read_text()  # as the comparison writes it


def test_a_run_folder_is_not_trusted_to_name_code(folder: Path) -> None:
    path, config = run(f"strategy.name={FILE}:LargestWaits", "strategy.base_interval=3")
    (folder / FILE).write_text("import pathlib\npathlib.Path('executed').touch()\n")
    (problem,) = refused("verify", path)
    assert problem == (
        f"strategy.name names code outside fedlama ({FILE}), which is not run because a run folder names it; "
        f"read that code, and give it yourself with --plugin {FILE}"
    )
    assert "has changed: the" in refused("verify", path, "--plugin", FILE)[0]  # refused before it is run
    config["strategy"]["name"], config["engine"] = f"{folder}/{FILE}:LargestWaits", f"{FILE}:SlowEngine"
    (path / "config.json").write_text(json.dumps(config))
    assert len(refused("verify", path)) == 2
    assert not (folder / "executed").exists()


def test_changed_code_is_another_run(folder: Path) -> None:
    change = (f"strategy.name={FILE}:LargestWaits", "strategy.base_interval=3")
    first, _ = run(*change)
    before = (first / "ledger.jsonl").read_bytes()
    text = (folder / FILE).read_text()
    (folder / FILE).write_text(text.replace("(round_index + 1) % interval == 0", "True"))
    called = fedlama("run", "digits", *_others(change), *change, "--out", "runs", "--quiet")
    assert called.err.startswith(f"note: your own code has changed since the run in {first} ({FILE}:LargestWaits)")
    folders = sorted(first.parent.iterdir())
    assert (len([one for one in folders if one.is_dir()]), (first / "ledger.jsonl").read_bytes()) == (2, before)
    (problem,) = refused("verify", first, "--plugin", FILE)
    assert problem.startswith(f"{FILE} has changed: the configuration was written with SHA-256 ")
    (folder / FILE).write_text(text)
    assert fedlama("verify", first, "--plugin", FILE).code == 0


def test_a_changed_helper_counts_as_changed_code(folder: Path) -> None:
    path, config = run(f"model.name={FILE}:Net")
    assert config["model"]["hidden"] == 6
    (folder / "my_helper.py").write_text("HIDDEN = 12\n")
    assert "has changed: the" in refused("verify", path, "--plugin", FILE)[0]
    again, config = run(f"model.name={FILE}:Net")
    assert again != path
    assert config["model"]["hidden"] == 12  # the helper was imported again


def test_an_interrupted_run_goes_on_with_the_same_code_only(folder: Path) -> None:
    change = (f"strategy.name={FILE}:LargestWaits", "strategy.base_interval=3")
    whole, _ = run(*change)
    expected = load_file(whole / "model.safetensors")
    shutil.rmtree("runs")
    interrupt_after(2, *_others(change), *change)
    (path,) = [one for one in Path("runs/digits").iterdir() if one.is_dir()]
    assert not (path / "summary.json").exists()
    text = (folder / FILE).read_text()
    (folder / FILE).write_text(text + "\n# another comment\n")
    called = fedlama("run", "digits", *_others(change), *change, "--out", "runs", "--quiet")
    assert called.err.startswith(f"note: your own code has changed since the run in {path}")
    (folder / FILE).write_text(text)
    called = fedlama("run", "digits", *_others(change), *change, "--out", "runs", "--quiet")
    assert f"note: {path}: continuing after round 1" in called.err
    resumed = load_file(path / "model.safetensors")
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def _others(change: tuple[str, ...]) -> list[str]:
    return [one for one in SMALL if not one.startswith("strategy.")]


def interrupt_after(rounds: int, *arguments: str) -> None:
    """Train some rounds and stop as after Ctrl-C, with a checkpoint after each."""
    own = load("digits", arguments)
    (planned,) = plan_runs(own, [own.strategy], Path("runs"))
    with pytest.raises(Interrupted):
        run_one(planned, RunOptions(checkpoint_seconds=0.0), _Stopping(rounds))


class _Stopping(Observer):
    """Stops a run after some rounds."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def watch(self, run: PlannedRun) -> AbstractContextManager[Sequence[Callback]]:
        return nullcontext([self])

    def on_round(self, record: RoundRecord) -> None:
        if record.round_index == self.rounds:
            raise Interrupted("stopped by the test")


PROBLEMS = [
    ("codec.name=my_missing.py:Mine", "my_missing.py cannot be read: No such file or directory ("),
    ("codec.name=my_options.py:Hole", "my_options.py has no 'Hole'; did you mean 'Whole'?"),
    ("codec.name=my_options.py:Nothing", "my_options.py has no 'Nothing'; known are: "),
    (
        "strategy.name=my_options.py:Net",
        "strategy.name is 'my_options.py:Net', which is a class, but not a dataclass; write @dataclass(frozen=True) "
        "above a class with the settings as its fields",
    ),
    ("strategy.name=my_options.py:build_net", "which is a function; write @dataclass(frozen=True) above a class"),
    ("model.name=my_options.py:NUMBER", "which is an object of the class int; write @dataclass(frozen=True) above"),
    ("engine=my_options.py:NUMBER", "engine is 'my_options.py:NUMBER', which cannot be called; it must be a function"),
    (
        "codec.name=my_options.py:HalfWay",
        "codec.name is 'my_options.py:HalfWay', but the class fits server_optimizer.name; use it there",
    ),
    ("data.name=my_options.py:Sized", "but the class fits model.name; use it there"),
    ("model.hiden=3", "unknown key 'model.hiden'; did you mean 'hidden'?"),
    ("model.hidden=x", "model.hidden is 'x': input should be a valid integer"),
    ("model.hidden=true", "model.hidden is True: expected a number or a name, got a boolean; change it"),
    ("model.name=:Net", "model.name is ':Net'"),
    ("model.name=my_options.py:", "model.name is 'my_options.py:'"),
]


@pytest.mark.parametrize(("change", "message"), PROBLEMS)
def test_problems_are_sentences(folder: Path, change: str, message: str) -> None:
    given = [] if change.startswith("model.name") else [f"model.name={FILE}:Net"]
    (problem,) = refused("plan", *SMALL, *given, change)
    assert message in problem


BROKEN = [
    ("import missing_library", "ModuleNotFoundError: No module named 'missing_library'", 3),
    ("x = 1 / 0", "ZeroDivisionError: division by zero", 3),
    ("class X(:\n    pass", "SyntaxError: invalid syntax", 3),
    ("raise SystemExit(3)", "SystemExit: 3", 3),
    ("from my_helper import nothing", "ImportError: cannot import name 'nothing' from 'my_helper'", 3),
]


@pytest.mark.parametrize(("line", "message", "number"), BROKEN)
def test_an_error_in_the_file_is_shown_with_its_line(folder: Path, line: str, message: str, number: int) -> None:
    file = folder / "my_broken.py"
    file.write_text(f'"""A file."""\n\n{line}\n')
    (problem,) = refused("plan", *SMALL, "codec.name=my_broken.py:Mine")
    assert problem.startswith(f"my_broken.py cannot be imported: {message}")
    assert problem.endswith(f"({file}, line {number}); correct it there")
    assert not any("my_broken" in name for name in sys.modules)


CALLS = [
    ("data", "def mine():\n    raise KeyError('x')", "data 'my_calls.py:mine' failed: KeyError: 'x' (", "line 5"),
    ("data", "def mine():\n    return 3", "data 'my_calls.py:mine' returned an object of the class int, expected", ""),
    ("model", "def mine():\n    pass", "model 'my_calls.py:mine' returned nothing, expected a torch.nn.Module", ""),
    (
        "model",
        "def mine(dataset):\n    return dataset.x",
        "AttributeError: 'Dataset' object has no attribute",
        "line 5",
    ),
    ("model", "def mine(size, /):\n    pass", "the parameter 'size' takes a position only; remove the '/'", ""),
    ("model", "def mine(name):\n    pass", "a setting cannot be called 'name', which chooses the option", ""),
    ("model", "def mine(size: 'Missing' = 3):\n    pass", "the type of a setting is not known (name 'Missing'", ""),
    (
        "partition",
        "def mine(dataset):\n    return 1 / 0",
        "partition 'my_calls.py:mine' failed: ZeroDivision",
        "line 5",
    ),
    (
        "partition",
        "def mine(dataset):\n    pass",
        "partition 'my_calls.py:mine' returned nothing, expected a list with the row numbers of each client",
        "",
    ),
    (
        "partition",
        "def mine(dataset):\n    return [[0, 1, 2], [0.5]]",
        "partition 'my_calls.py:mine': client 1 has rows of shape (1,) (float64), expected a list of integer row",
        "",
    ),
    (
        "partition",
        "def mine(dataset):\n    return [None]",
        "partition 'my_calls.py:mine': client 0 has rows of shape () (object), expected a list of integer row",
        "",
    ),
    ("layers", "def mine(model):\n    return 1 / 0", "layers 'my_calls.py:mine' failed: ZeroDivisionError", "line 5"),
    (
        "data",
        "@dataclass\nclass mine:\n    name: str\n    def load(self):\n        pass",
        "'name' is a field; write name: ClassVar[str] = '...' instead",
        "",
    ),
    (
        "data",
        "@dataclass\nclass mine:\n    size: object = 3\n    where: Thing = None\n    def load(self):\n        pass",
        "but its field 'where' has the type <class",
        "which a configuration cannot give",
    ),
    (
        "data",
        "@dataclass\nclass mine:\n    what: object = print\n    def load(self):\n        pass",
        "data: the settings of mine hold something that config.json cannot",
        "",
    ),
    (
        "data",
        "@dataclass\nclass mine:\n    def __post_init__(self):\n        raise KeyError(3)\n    def load(self): 3",
        "data mine: KeyError: 3 (",
        "line 7",
    ),
    (
        "data",
        "@dataclass\nclass mine:\n    def __post_init__(self):\n        raise ValueError('no')\n    def load(self): 3",
        "data mine: ValueError: no (",
        "my_calls.py, line 7); correct the settings, or the class",
    ),
    (
        "data",
        "@dataclass\nclass mine:\n    def __post_init__(self):\n        assert 0, 'no'\n    def load(self): 3",
        "data mine: AssertionError: no (",
        "my_calls.py, line 7); correct the settings, or the class",
    ),
    (
        "data",
        "@dataclass\nclass mine:\n    name = 'a/b'\n    def load(self):\n        pass",
        "the attribute name is 'a/b', but it names a folder",
        "",
    ),
]


@pytest.mark.parametrize(("section", "code", "message", "place"), CALLS)
def test_what_the_code_does_wrong(folder: Path, section: str, code: str, message: str, place: str) -> None:
    lines = "from dataclasses import dataclass\nclass Thing:\n    pass\n"
    (folder / "my_calls.py").write_text(f"{lines}{code}\n")
    settings = ["model.size=3"] if "size: 'Missing'" in code or "size, /" in code else []
    (problem,) = refused("plan", *_without(section), f"{section}.name=my_calls.py:mine", *settings)
    assert message in problem
    assert place in problem


def test_a_partition_may_return_lists(folder: Path) -> None:
    (folder / "my_lists.py").write_text(
        "import numpy as np\n\ndef listed(dataset):\n    return [list(range(c, 900, 3)) for c in range(3)]\n\n"
        "def arrays(dataset):\n    return [np.array(rows) for rows in listed(dataset)]\n"
    )
    shares = "validation_share=0.2", "client_test_share=0.1"
    (listed, arrays) = (
        load_file(run(f"partition.name=my_lists.py:{name}", *shares)[0] / "model.safetensors")
        for name in ("listed", "arrays")
    )
    assert all(torch.equal(listed[name], value) for name, value in arrays.items())


def _without(section: str) -> list[str]:
    return [one for one in SMALL if not one.startswith(f"{section}.")]


def test_two_helpers_of_one_name_are_refused(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "my_helper.py").write_text("HIDDEN = 1\n")
    shutil.copy(FILE, folder / "other" / "my_model.py")
    (problem,) = refused("plan", *SMALL, f"codec.name={FILE}:Whole", "model.name=other/my_model.py:Net")
    assert "imports 'my_helper' from" in problem
    assert "rename one of them" in problem


def test_the_same_file_gives_the_same_folder_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine.toml").write_text(f"[codec]\nname = '{FILE}:Whole'\n")
    here = load("mine.toml").digest()
    monkeypatch.chdir("/")
    assert load(str(folder / "mine.toml")).digest() == here
    assert here != load("digits").digest()


def test_called_is_a_process_of_its_own(folder: Path) -> None:
    """In a real process, where the current folder is not on the path of imports."""
    source = str(Path(__file__).parents[2] / "src")
    command = [sys.executable, "-P", "-c", "from fedlama.cli.app import main; main()", "run", *_others(())]
    change = [f"strategy.name={FILE}:LargestWaits", "strategy.base_interval=3", f"model.name={FILE}:build_net"]
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run([*command, *change, "--quiet"], env=environment, capture_output=True, text=True, check=False)
    assert Called(done.returncode, done.stdout, done.stderr) == Called(0, "", "")
