"""A run folder of version 0.1.0 (commit 209be6f) can still be reported, verified, reused and resumed.

`first_version/` holds a whole run of six rounds with the words of that version (`guard`, `server_step`, `memory_scope`,
`adaptivity`), and its checkpoint after four rounds. Another machine may compute other bits, so that numbers are
compared with a tolerance here; `test_exact.py` compares bits.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedlama import DataError, Run
from fedlama.experiment import assemble, prepare, read, resolve
from fedlama.reporting.html import report_page
from fedlama.runs.checkpoint import whole_snapshots
from fedlama.runs.execute import folder_of, plan_runs
from fedlama.runs.reader import read_config, read_records
from fedlama.runs.stored import load_run
from fedlama.runs.verify import verify
from tests.cli.call import fedlama

STORED = Path(__file__).parent / "first_version"
NAME = "fedlama-3-2-seed0-47d5e425"
ROUNDS_DONE = 4
COMMON = (
    "partition.clients=3",
    "strategy.base_interval=3",
    "strategy.increase_factor=2",
    "local_steps=18",
    "model.hidden=[2]",
    "solver.decay_at=[9]",
    "availability.name=trace",
    'availability.absences=[{client=1,first_round=1,last_round=2,fate="dies"}]',
    "sampler.name=uniform",
    "sampler.active=2",
)
OLD = (
    *COMMON,
    "server_step.name=adam",
    "server_step.first=0.9",  # its default at that time
    "server_step.adaptivity=0.01",
    "guard.name=median",
    "solver.memory_scope=round",
)
NEW = (
    *COMMON,
    "server_optimizer.name=adam",
    "server_optimizer.beta1=0.9",
    "server_optimizer.epsilon=0.01",
    "aggregator.name=median",
    "solver.state_scope=round",
)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The whole run, at its place in a folder of runs."""
    return Path(shutil.copytree(STORED, tmp_path / "digits" / NAME, ignore=shutil.ignore_patterns("checkpoints")))


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """The same run as its process left it after four rounds."""
    folder = Path(shutil.copytree(STORED, tmp_path / "digits" / NAME))
    (folder / "summary.json").unlink()
    (folder / "model.safetensors").unlink()
    for file in folder.glob("*.jsonl"):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:ROUNDS_DONE]))
    return folder


def assert_close(folder: Path) -> None:
    """Compare a run folder with the stored one: what was sent exactly, the model within rounding."""
    assert (folder / "ledger.jsonl").read_text() == (STORED / "ledger.jsonl").read_text()
    expected = load_file(STORED / "model.safetensors")
    for name, value in load_file(folder / "model.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("words", [OLD, NEW], ids=["old words", "new words"])
@pytest.mark.filterwarnings("ignore::fedlama.core.deprecations.RenamedWarning")
def test_the_same_settings_name_the_same_folder_and_nothing_differs(words: tuple[str, ...], finished: Path) -> None:
    experiment = resolve(read("digits", words))
    assert folder_of(experiment, finished.parents[1]).name != NAME  # evaluate_every is set when a run is planned
    (planned,) = plan_runs(experiment, [experiment.strategy], finished.parents[1])
    assert planned.folder == finished
    stored = read_config(finished)
    assert stored is not None
    assert planned.differences(stored) == []


def test_it_is_reported(finished: Path) -> None:
    run = load_run(finished)
    assert run.title == "FedLAMA(3, 2)"
    assert run.description["layers"]["dense0.weight"] == {"parameters": 128, "adaptive": True}
    page = report_page([finished])
    assert "aggregator.name" in page
    assert len(json.loads(page.partition('id="data">')[2].partition("</script>")[0])["runs"][0]["adjustments"]) == 3


def test_it_is_verified(finished: Path) -> None:
    verdict = verify(finished)
    assert verdict.difference is None or verdict.difference.startswith("round "), "settings differ, or all rounds do"
    assert verdict.rounds > 0


def test_its_checkpoint_is_verified(interrupted: Path) -> None:
    verdict = verify(interrupted)
    if verdict.difference is None:
        assert verdict.models == ("the checkpoint after round 3",)
    else:
        assert verdict.difference.startswith("round "), "the settings or the state differ, not only bits"


@pytest.mark.parametrize("words", [OLD, NEW], ids=["old words", "new words"])
def test_it_is_reused(words: tuple[str, ...], finished: Path) -> None:
    called = fedlama("run", "digits", *words, "--track", "none", "--out", finished.parents[1])
    assert "1 of 1 runs had already finished and were reused" in called.out
    assert called.err.count("it holds no digest of its data, as before version 0.2") == 1
    assert (finished / "model.safetensors").read_bytes() == (STORED / "model.safetensors").read_bytes()


@pytest.mark.parametrize("words", [OLD, NEW], ids=["old words", "new words"])
def test_it_is_resumed(words: tuple[str, ...], interrupted: Path) -> None:
    called = fedlama("run", "digits", *words, "--track", "none", "--out", interrupted.parents[1])
    assert called.code == 0, called.err
    assert f"note: {interrupted}: continuing after round {ROUNDS_DONE - 1}" in called.err
    assert_close(interrupted)


def test_a_folder_of_other_settings_is_not_continued_and_the_note_says_why(interrupted: Path) -> None:
    config = json.loads((interrupted / "config.json").read_text())
    config["guard"] = config["in_force"]["guard"] = {"name": "none"}
    (interrupted / "config.json").write_text(json.dumps(config))
    called = fedlama("run", "digits", *NEW, "--track", "none", "--out", interrupted.parents[1])
    assert "checkpoints of a run with other settings (aggregator was 'mean', and is 'median' now)" in called.err
    assert "continuing" not in called.err
    assert_close(interrupted)


def test_its_checkpoint_alone_says_too_little_of_the_federation() -> None:
    experiment = resolve(read("digits", [*NEW, "evaluate_every=6"]))
    run = Run(assemble(experiment, prepare(experiment)))
    (snapshot,) = whole_snapshots(STORED / "checkpoints", pytest.fail)
    with pytest.raises(DataError, match=r"lacks availability, aggregator, weighting, evaluate, .* its run folder"):
        run.load_state_dict(snapshot, read_records(STORED)[:ROUNDS_DONE])
    assert run.round_index == 0
