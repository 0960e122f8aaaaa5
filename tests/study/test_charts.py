"""The picture over several seeds: their mean, its interval, and a picture in which both can be seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedlama.analysis.front import Outcome, points
from fedlama.analysis.study import run_study
from fedlama.experiment import read, resolve
from fedlama.reporting.charts import Curve, front_chart, mean_curve, metric_charts
from fedlama.runs.execute import RunOptions
from tests.cli.call import SMALL, fedlama


def test_the_mean_and_its_interval_at_each_evaluation() -> None:
    mean, low, high = mean_curve([Curve((2.0, 4.0), (1.0, 50.0)), Curve((4.0, 6.0), (3.0, 50.0))])
    assert mean == Curve((3.0, 5.0), (2.0, 50.0))
    assert low.y == pytest.approx((2.0 - 12.706205, 50.0))  # t of one degree of freedom times sqrt(2) / sqrt(2)
    assert high.y == pytest.approx((2.0 + 12.706205, 50.0))


def test_one_seed_is_its_own_mean() -> None:
    curve = Curve((1.0,), (70.0,))
    assert mean_curve([curve]) == (curve, curve, curve)


def test_a_second_seed_changes_the_picture(tmp_path: Path) -> None:
    (finished, *_) = run_study(resolve(read("digits", list(SMALL))), options=RunOptions(tmp_path)).finished
    result = finished.result
    lower = [replace(one, score=one.score and replace(one.score, metrics={"accuracy": 0.1})) for one in result.rounds]
    pictures = {}
    for name, results in {"one": [result], "two": [result, replace(result, rounds=lower)]}.items():
        folder = tmp_path / name
        folder.mkdir()
        files = metric_charts({"FedAvg": results}, folder)
        assert [file.name for file in files] == [f"accuracy_{x}.png" for x in ("steps", "rounds", "megabytes")]
        pictures[name] = [file.read_bytes() for file in files]
    assert not set(pictures["one"]) & set(pictures["two"])


def test_it_is_said_when_runs_were_reused(tmp_path: Path) -> None:
    first, second = (fedlama("run", *SMALL, "--out", tmp_path).out for _ in range(2))
    assert "already finished" not in first
    assert "1 of 1 runs had already finished and were reused; --again retrains them" in second


@pytest.mark.parametrize(("sent", "seeds"), [(1e6, 1), (52_430, 2), (52_430, 3)])
def test_methods_that_sent_the_same_bytes_have_a_front_picture(sent: float, seeds: int, tmp_path: Path) -> None:
    """Also where the geometric mean of equal bytes differs from them in its last bits."""
    ends = {
        title: {seed: Outcome(sent, loss) for seed in range(seeds)} for title, loss in {"a": 0.5, "b" * 60: 0.4}.items()
    }
    assert front_chart(points(ends), tmp_path / "front.png").stat().st_size > 1000
