"""What an operator is told: how far a run is, why it failed, and that nothing of a dead SuperLink stays behind."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fedlama as fl
from fedlama.cli.app import app
from fedlama.flower.deploy.loopback import _Watcher
from fedlama.flower.deploy.server_process import FAILED, end_with_parent, recorded_failure

PROGRAM = """\
#!/bin/sh
echo "$@" >> {folder}/calls
case "$1" in
  run) echo '{{"run-id": 77}}' ;;
  ls) head -1 {folder}/states; if [ "$(wc -l < {folder}/states)" -gt 1 ]; then sed -i 1d {folder}/states; fi ;;
  log) echo "the ServerApp's own words" ;;
  stop) cat {folder}/stopped ;;
esac
"""


@pytest.fixture
def flwr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `flwr` that answers as Flower's own does; it says the states in `states`, one after another."""
    program = tmp_path / "flwr"
    program.write_text(PROGRAM.format(folder=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr("fedlama.cli.flower._LOOK_SECONDS", 0.01)
    return tmp_path


def states(folder: Path, *seen: tuple[str, str]) -> None:
    lines = [json.dumps({"runs": [{"status": status, "status-details": details}]}) for status, details in seen]
    (folder / "states").write_text("\n".join(lines) + "\n")


def call(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["flower", *arguments])
    return done.exit_code, done.output + (str(done.exception) if done.exception else "")


def test_run_waits_and_fails_with_the_reason(flwr: Path) -> None:
    states(flwr, ("pending", "N/A"), ("running", "N/A"), ("finished:failed", "no \x1b[31mdata"))
    code, text = call("run", "digits", "--wait", "--superlink", "ours")
    assert code != 0
    assert "submitted run 77; see it with: fedlama flower status 77 --superlink ours" in text
    assert text.index("run 77 is pending") < text.index("run 77 is running") < text.index("finished:failed")
    assert r"finished:failed: no \x1b[31mdata; its whole log: flwr log 77" in text
    assert "ls ours --run-id 77 --format json" in (flwr / "calls").read_text()


def test_run_waits_for_the_end_and_streams(flwr: Path) -> None:
    states(flwr, ("running", "N/A"), ("finished:completed", "N/A"))
    code, text = call("run", "digits", "--stream")
    assert code == 0, text
    assert "run 77 is finished:completed" in text
    assert "log 77 --stream" in (flwr / "calls").read_text()
    (flwr / "calls").unlink()
    assert call("run", "digits")[0] == 0
    assert (flwr / "calls").read_text().startswith("run ")  # without --wait, nothing more is asked
    assert "ls" not in (flwr / "calls").read_text().split()


def test_status_and_stop(flwr: Path) -> None:
    states(flwr, ("running", "N/A"))
    assert call("status", "77") == (0, "run 77 is running\n")
    states(flwr, ("finished:stopped", "N/A"))
    assert call("status", "77")[0] == 1
    (flwr / "states").write_text("Connection refused\n")
    assert "the SuperLink knows no run 77, or does not answer; check" in call("status", "77")[1]
    (flwr / "stopped").write_text('{"success": true, "run-id": "77"}')
    assert call("stop", "77") == (0, "stopped run 77\n")
    (flwr / "stopped").write_text('{"success": false, "error-message": "Run ID not found"}')
    code, text = call("stop", "77")
    assert code != 0
    assert "flwr did not stop run 77" in text


def test_a_server_leaves_the_reason_in_a_file_that_up_reads_at_once(tmp_path: Path) -> None:
    out, seen = tmp_path / "runs", list[str]()
    watcher = _Watcher(out, seen.append)
    with pytest.raises(fl.ConfigError), recorded_failure(out):
        raise fl.ConfigError("first \x1b[31m\nsecond")
    assert (out / FAILED).read_text() == "first \\x1b[31m\nsecond\n"
    assert watcher.failure() == "first \\x1b[31m second"
    with pytest.raises(ZeroDivisionError), recorded_failure(out):
        raise ZeroDivisionError("by zero")
    assert watcher.failure() == "ZeroDivisionError: by zero"
    with recorded_failure(out):
        assert not (out / FAILED).exists()
    assert watcher.failure() == ""


def test_a_server_app_ends_when_its_parent_has_ended() -> None:
    """A SuperLink's ServerApp could hang for ever in a lock, and hold the lock of its run folder."""
    parents, codes, ended = iter([5, 5, 5, 1]), list[int](), threading.Event()

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    end_with_parent(lambda: next(parents), end, look=0.001, grace=0.001)
    assert ended.wait(10)
    assert codes == [1]
    quiet = end_with_parent(lambda: 5, end, look=0.01, grace=0.0)
    assert quiet.daemon
    assert codes == [1]


def test_a_node_forgets_its_states(tmp_path: Path) -> None:
    state = tmp_path / "digits-abc" / "client-0.safetensors"
    state.parent.mkdir()
    state.write_bytes(b"x")
    assert call("forget", str(tmp_path)) == (0, "0 runs deleted\n")
    assert call("forget", str(tmp_path), "--days", "0") == (0, f"deleted {state.parent}\n1 runs deleted\n")
    assert not state.parent.exists()
    assert "is not a folder; give the state-dir of a node" in call("forget", str(tmp_path / "nothing"))[1]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--rejoin", "foo", "--ban", "x,y"], "rejoin is 'foo'"),
        (["--rejoin", "foo", "--ban", "x,y"], "banned is 'x,y', expected clients' numbers"),
        (["--min-replies", "3"], "min_replies is 3"),
        (["--aggregation", "total"], "aggregation is 'total'"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_submitted(flwr: Path, options: list[str], problem: str) -> None:
    code, text = call("run", "digits", *options)
    assert code != 0
    assert problem in text
    assert not (flwr / "calls").exists()
