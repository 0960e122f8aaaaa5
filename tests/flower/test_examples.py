"""The apps that come with the project: `examples/flower` is the output of `fedlama flower app`."""

from __future__ import annotations

from pathlib import Path

from fedlama.flower.deploy.submit import write_app
from tests.docs.blocks import ROOT


def test_the_published_app_is_the_written_one(tmp_path: Path) -> None:
    write_app(tmp_path)
    shipped = ROOT / "examples" / "flower"
    written = [file for file in sorted(tmp_path.rglob("*")) if file.is_file()]
    assert len(written) == 4
    for file in written:
        assert (shipped / file.relative_to(tmp_path)).read_text(encoding="utf-8") == file.read_text(encoding="utf-8")
