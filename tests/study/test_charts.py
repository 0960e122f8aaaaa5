"""The picture over several seeds: their mean, its interval, and a picture in which both can be seen."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fedlama.analysis.front import Outcome, points
from fedlama.analysis.study import Study, StudyPlan, run_study
from fedlama.core.figures import method_colours
from fedlama.core.records import Result
from fedlama.experiment import read, resolve
from fedlama.experiment.methods import parse_methods
from fedlama.reporting.charts import Curve, Target, mean_curve, metric_charts
from fedlama.reporting.files import picture_files
from fedlama.reporting.front_chart import front_chart
from fedlama.reporting.observer import RunReporter, draw_study
from fedlama.runs.execute import RunOptions
from tests.cli.call import SMALL, fedlama


@pytest.fixture(scope="module", autouse=True)
def _pictures() -> None:
    """Draw them."""


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


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    """Return the folder of a comparison of three methods, the last of which learns nothing, and the study."""
    out = tmp_path_factory.mktemp("study")
    experiment = resolve(read("digits", list(SMALL)))
    methods = parse_methods(["fedavg fedlama fedavg,solver=sgd,solver.learning_rate=1e-9"], "digits", SMALL)
    with RunReporter(RunOptions(out, quiet=True)) as reporter:
        study = run_study(experiment, StudyPlan(tuple(methods)), RunOptions(out, quiet=True), reporter)
    draw_study(study, out / "digits")
    return out / "digits", study


def test_every_picture_is_written_as_png_svg_and_pdf(study: tuple[Path, Study]) -> None:
    folder, _ = study
    for path in (folder / "front.png", folder / "accuracy_megabytes.png", *folder.glob("*/intervals.png")):
        png, svg, pdf = (file.read_bytes() for file in picture_files(path))
        assert png.startswith(b"\x89PNG")
        assert b"<svg" in svg[:2000]
        assert pdf.startswith(b"%PDF")
    assert len(list(folder.glob("*/*.pdf"))) == 3 * 4
    assert not list(folder.rglob("*.partial"))


def test_the_same_figure_gives_the_same_bytes(study: tuple[Path, Study], tmp_path: Path) -> None:
    folder, again = study
    for file in draw_study(again, tmp_path):
        for new, old in zip(picture_files(file), picture_files(folder / file.name), strict=True):
            assert new.read_bytes() == old.read_bytes(), new.name


def test_a_method_has_its_title_and_colour_in_every_picture(study: tuple[Path, Study]) -> None:
    folder, content = study
    colours = method_colours(method.title for method in content.methods)
    assert len(set(colours.values())) == 3
    for name in ("accuracy_steps", "accuracy_megabytes", "front"):
        picture = html.unescape((folder / f"{name}.svg").read_text(encoding="utf-8"))
        for title, colour in colours.items():
            assert title in picture
            assert colour in picture
    for method in content.methods:
        ((_, run),) = method.runs.items()
        picture = html.unescape(
            (Path(str(run.summary["run_folder"])) / "accuracy_steps.svg").read_text(encoding="utf-8")
        )
        assert colours[method.title] in picture
        assert not any(colour in picture for title, colour in colours.items() if title != method.title)


def test_megabytes_to_the_target_are_marked(study: tuple[Path, Study], tmp_path: Path) -> None:
    _, content = study
    results = {method.title: [run.result for run in method.runs.values()] for method in content.methods}
    first, second, third = results
    metric_charts(results, tmp_path, target=Target(0.5, {first: 1.5, second: 0.25}))
    picture = (tmp_path / "accuracy_megabytes.svg").read_text(encoding="utf-8")
    assert f"{first}: 1.50 MB to 50 %" in picture
    assert f"{second}: 0.25 MB to 50 %" in picture
    assert f"{third}: 50 % not reached" in html.unescape(picture)
    assert "MB to" not in (tmp_path / "accuracy_rounds.svg").read_text(encoding="utf-8")


def test_what_would_squeeze_the_others_is_a_triangle_at_the_edge(study: tuple[Path, Study], tmp_path: Path) -> None:
    _, content = study
    runs = {method.title: next(iter(method.runs.values())).result for method in content.methods}
    values = {title: 0.9 + 0.01 * index for index, title in enumerate(runs)}
    values[list(values)[-1]] = 0.1

    def changed(result: Result, value: float) -> Result:
        rounds = [
            replace(one, score=one.score and replace(one.score, metrics={"accuracy": value + one.round_index / 100}))
            for one in result.rounds
        ]
        return replace(result, rounds=tuple(rounds))

    metric_charts({title: [changed(result, values[title])] for title, result in runs.items()}, tmp_path)
    picture = (tmp_path / "accuracy_rounds.svg").read_text(encoding="utf-8")
    assert "triangle: beyond the picture" in picture
    assert not re.search(r">\s*(0|20|40|50|60)\s*</text>", picture.partition("matplotlib.axis_2")[2])
