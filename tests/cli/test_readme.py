"""The README's commands and code: they parse, and what needs no data runs."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from fedlama.analysis.study import baselines
from fedlama.cli.app import app
from fedlama.experiment import Experiment, names, read, resolve
from tests.cli.call import fedlama

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """The words behind `fedlama` of every command in the README's shell blocks."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    found = [words[1:] for words in split if len(words) > 1 and Path(words[0]).name == "fedlama"]
    return [words for words in found if words[0] in ("plan", "run", "compare")]


def settings(words: list[str]) -> list[str]:
    """Return a command's experiment and overrides, as the command line itself separates them from the options."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    given = group.commands[words[0]].make_context(words[0], words[1:]).params
    return [given["experiment"], *(given["overrides"] or [])]


def experiment(plain: list[str], folder: Path) -> Experiment:
    """Resolve a command's settings; a TOML file of the reader's own is the README's example of one."""
    name, *overrides = ["digits", *plain] if "=" in plain[0] else plain
    if name.endswith(".toml") and not (ROOT / name).exists():
        name = str(folder / "mine.toml")
        Path(name).write_text(blocks("toml")[0], encoding="utf-8")
    return resolve(read(name, overrides))


def test_there_are_shell_blocks_with_each_command() -> None:
    assert {words[0] for words in commands()} == {"plan", "run", "compare"}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_settings_are_accepted(words: list[str], tmp_path: Path) -> None:
    assert experiment(settings(words), tmp_path)


def cheap() -> list[list[str]]:
    """Commands that need no data, those that differ in their options only once."""
    found: dict[tuple[str, ...], list[str]] = {}
    for words in sorted(commands(), key=len):
        plain = settings(words)
        if (plain[0] == "digits" or "=" in plain[0]) and "data." not in " ".join(plain):
            found[words[0], *plain] = words
    return list(found.values())


@pytest.mark.parametrize("words", cheap(), ids=" ".join)
def test_commands_without_data_run(words: list[str], tmp_path: Path) -> None:
    own = experiment(settings(words), tmp_path)
    budget = max(one.local_steps for one in baselines(own.strategy))  # one round of the longest
    less = [f"local_steps={budget}", "partition.clients=4", "batch_size=8"]
    out = [] if words[0] == "plan" else ["--out", str(tmp_path)]
    called = fedlama(*words, *less, *out)
    assert (called.code, called.err) == (0, "")


@pytest.mark.parametrize("block", blocks("toml"))
def test_example_files_are_accepted(block: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(block, encoding="utf-8")
    assert resolve(read(str(tmp_path / "mine.toml")))


def test_packaged_experiments_are_named() -> None:
    assert [name for name in names() if name not in README] == []


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    assert blocks("python")
    with contextlib.redirect_stdout(io.StringIO()):
        for block in blocks("python"):
            exec(compile(block, "README.md", "exec"), names)


def rows(text: str) -> dict[str, list[str]]:
    """Return the numbers of each row of a printed comparison, by method."""
    return {
        name: numbers.split() for name, numbers in re.findall(r"^  (Fed\w+\([\d, ]+\)) +([\d. ]+)$", text, re.MULTILINE)
    }


@pytest.mark.thorough
def test_make_run_prints_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # in 80 columns the longest names take two lines
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (methods,) = re.findall(r"^METHODS := (.*)$", makefile, re.MULTILINE)
    assert "fedlama compare digits-resnet --methods '$(METHODS)'" in makefile
    printed = fedlama("compare", "digits-resnet", "--methods", methods, "--out", tmp_path).out.partition("test loss")[2]
    shown = README.partition("<!-- table: make run -->")[2].partition("`FedLAMA(6, 4)` has")[0]
    line = re.compile(r"^  (Fed\w+\([\d, ]+\)(?: \+ [\w(=)]+)?) +([\d.]+) +([\d.]+) +(.*)$", re.MULTILINE)
    rows_printed = {name: (float(mb), float(loss), rest) for name, mb, loss, rest in line.findall(printed)}
    rows_shown = {name: (float(mb), float(loss), rest) for name, mb, loss, rest in line.findall(shown)}
    assert list(rows_printed) == list(rows_shown)
    assert len(rows_shown) == 6
    for name, (megabytes, loss, rest) in rows_shown.items():
        computed_mb, computed_loss, computed_rest = rows_printed[name]
        # The last bits of sums differ between processors, and FedLAMA's intervals with them.
        assert computed_mb == pytest.approx(megabytes, rel=0.1 if "LAMA" in name else 1e-9)
        assert computed_loss == pytest.approx(loss, rel=0.25)
        assert ("yes" in computed_rest) == ("yes" in rest)


@pytest.mark.slow
def test_the_first_table_is_what_the_first_command_prints(tmp_path: Path) -> None:
    printed = rows(fedlama("compare", "--out", tmp_path).out)
    shown = rows(README.partition("<!-- table: fedlama compare -->")[2].partition("## ")[0])
    assert list(printed) == list(shown) == ["FedAvg(6)", "FedAvg(24)", "FedLAMA(6, 4)"]
    for method, (accuracy, loss, *counted, _) in shown.items():
        computed_accuracy, computed_loss, *computed, _ = printed[method]
        assert computed == counted  # C, MB up, MB down, rounds
        assert abs(float(computed_accuracy) - float(accuracy)) < 1  # the last bits of sums differ between processors
        assert abs(float(computed_loss) - float(loss)) < 0.01
