"""The notebook of examples/ runs from top to bottom, and what a notebook shows of our objects is short.

With nbclient and ipykernel its cells run in a kernel; without them, in this process and in their order.
"""

from __future__ import annotations

import ast
import json
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress, TextColumn
from torch import nn

import fedlama as fl
from fedlama.core.figures import byte_figure, curve_figure
from fedlama.reporting.progress import LiveProgress, Notebook
from tests.docs.blocks import DOCS, ROOT
from tests.docs.test_public import attributes, teaches

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
CURVES = (((1.24, 1.7, 2.6), (58.3, 63.6, 81.4)), ((0.5, 1.0, 2.0), (float("nan"), 0.5, 0.9)))


def cells() -> list[str]:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def last_value(code: str, names: dict[str, Any]) -> object:
    """Run a cell and return the value of its last expression, which a notebook shows."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def test_every_cell_runs_and_shows_something_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    names: dict[str, Any] = {"__name__": "notebook"}
    shown = [last_value(code, names) for code in cells()]
    assert [type(value).__name__ for value in shown[:5]] == ["Federation", "Result", "Shown", "Shown", "Rows"]
    for value in shown:
        assert len(repr(value)) < 400
    for value in (*shown[:2], shown[4], names["result"].ledger):
        assert 50 < len(value._repr_html_()) < 4000
    for figure in shown[2:4]:
        assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert names["accuracy"] == names["result"].score.accuracy


@pytest.mark.slow
@pytest.mark.skipif(find_spec("nbclient") is None or find_spec("ipykernel") is None, reason="needs nbclient, ipykernel")
def test_the_notebook_runs_in_a_kernel(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_the_notebook_has_no_outputs_and_uses_what_fedlama_exports() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in content["cells"])
    for code in cells():
        assert (teaches(code), attributes(code)) == ([], [])
    for page in (ROOT / "README.md", DOCS / "index.md"):
        assert "`examples/notebook.ipynb`" in page.read_text(encoding="utf-8")


def federation(**changes: Any) -> fl.Federation:  # noqa: ANN401
    torch.manual_seed(0)
    clients = [fl.ClientData(torch.randn(40, 3), torch.arange(40) % 3, batch_size=8) for _ in range(4)]
    settings = {"model": nn.Linear(3, 3), "clients": clients, "strategy": fl.FedLAMA(2, 2), "local_steps": 8, **changes}
    return fl.Federation(**settings)


def test_a_federation_a_result_and_a_ledger_are_one_line() -> None:
    made = federation()
    assert repr(made) == (
        "Federation(strategy: FedLAMA(2, 2), model: Linear with 12 parameters, clients: 4, rounds: 4, solver: sgd, "
        "sampler: all, codec: float32, server_optimizer: replace, aggregator: mean, engine: loop, seed: 0)"
    )
    result = made.run()
    assert repr(result).startswith("Result(fedlama: 4 rounds, ")
    assert "\n" not in repr(result) + repr(result.ledger)
    up = result.ledger.total_bytes("up") / 1e6
    assert repr(result.ledger) == f"Ledger({len(result.ledger.transfers)} transfers, {up:.2f} MB up, {up:.2f} MB down)"
    assert f"{result.ledger.total_bytes('up'):,}" in result.ledger._repr_html_()
    assert "<caption>fedlama</caption>" in result._repr_html_()


def test_figures_hold_the_numbers_of_the_run() -> None:
    test_set = fl.TestSet(torch.randn(30, 3), torch.arange(30) % 3)
    result = federation(test_set=test_set, evaluate_every=2).run()
    for over in ("rounds", "steps", "megabytes"):
        (line,) = result.plot(over).axes[0].get_lines()  # type: ignore[arg-type]
        assert list(line.get_ydata()) == [100 * record.score.accuracy for record in result.rounds if record.score]
    assert list(result.plot("rounds").axes[0].get_lines()[0].get_xdata()) == [1.0, 2.0, 3.0, 4.0]
    with pytest.raises(fl.ConfigError, match="over is 'round'; did you mean 'rounds'"):
        result.plot("round")  # type: ignore[arg-type]
    figure = result.ledger.plot()
    widths = sum(patch.get_width() for patch in figure.axes[0].patches)
    assert widths == pytest.approx((result.ledger.total_bytes("up") + result.ledger.total_bytes("down")) / 1e6)
    without = federation().run().plot()
    assert without.axes[0].get_ylabel() == "training loss"


def test_the_axes_of_figures_begin_and_end_with_a_label() -> None:
    axes = [curve_figure(*curve, ("MB", "accuracy"), "").axes[0] for curve in CURVES]
    assert [list(each.get_xticks()) for each in axes] == [[0, 0.5, 1, 1.5, 2, 2.5, 3], [0, 0.5, 1, 1.5, 2]]
    assert [list(each.get_yticks()) for each in axes] == [[55, 60, 65, 70, 75, 80, 85], [0.5, 0.6, 0.7, 0.8, 0.9]]
    assert [(*each.get_xlim(), *each.get_ylim()) for each in axes] == [(0, 3, 55, 85), (0, 2, 0.5, 0.9)]
    rows = [{"layer": "weight", "direction": way, "bytes": 900_000} for way in ("up", "down")]
    (bars,) = byte_figure(rows, 10**6).axes
    assert (*bars.get_xlim(), bars.get_xticks()[-1]) == (0, 2, 2)
    assert curve_figure([], [], ("MB", "accuracy"), "").axes[0].get_xlabel() == "MB"


def test_progress_is_drawn_below_a_notebooks_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    class Handle:
        def update(self, shown: str) -> None:
            drawn.append(shown)

    def display(shown: str, *, display_id: bool) -> Handle:
        assert display_id
        drawn.append(shown)
        return Handle()

    shell = type("ZMQInteractiveShell", (), {})()
    kernel, output = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    kernel.get_ipython = lambda: shell  # type: ignore[attr-defined]
    output.display, output.HTML = display, str  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setitem(sys.modules, "IPython.display", output)
    progress = LiveProgress()
    progress.start()
    federation().run([progress.track("FedLAMA <2>", 4)])
    progress.stop()
    assert drawn[0].count("<tr>") == 1
    assert "1/4" in drawn[0]
    assert "4/4" in drawn[-1]
    assert "FedLAMA &lt;2&gt;" in drawn[-1]
    assert LiveProgress(quiet=True)._notebook is None
    kernel.get_ipython = lambda: None  # type: ignore[attr-defined]  # in a terminal's session, say
    assert Notebook.current(Progress(TextColumn(""))) is None
