"""Makes the pictures of the pages again, by the commands that stand on these pages: `make pictures`.

    python docs/pictures.py [NAME ...]

Without names all are made, which takes some minutes because of the five seeds of the first one. Commands run in an
empty folder, in the order below; a command of several pictures runs once.
"""

from __future__ import annotations

import ast
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
FOLDER = DOCS / "pictures"
NOTEBOOK = "examples/notebook.ipynb"


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        name: Its file in ``docs/pictures``, without ``.png``.
        page: A page that shows it and has the command.
        command: What makes it: a command of ``fedlama``, ``python examples/...``, or the notebook.
        file: Where the command leaves it, as a pattern; for the notebook the code of the figure.
    """

    name: str
    page: str
    command: str
    file: str


METHODS = (
    "fedavg fedavg,base_interval=12 fedavg,base_interval=24 fedlama fedlama,server_optimizer=nesterov "
    "fedlama,codec=differences,bits=4 fedavg,server_optimizer=nesterov fedavg,codec=differences,bits=4"
)
FIRST, SEEDS = "fedlama compare", "fedlama compare local_steps=96 --seeds 3"
SWEEP = (
    "fedlama run local_steps=96 --sweep solver.learning_rate=0.05,0.1,0.2 --sweep strategy.increase_factor=2,4 "
    "--out runs/sweep"
)
PICTURES = (
    Picture("accuracy", "tutorial.md", FIRST, "runs/digits/accuracy_megabytes.png"),
    Picture("intervals", "tutorial.md", FIRST, "runs/digits/fedlama-6-4-seed0-*/intervals.png"),
    Picture("seeds", "tutorial.md", SEEDS, "runs/digits/accuracy_megabytes.png"),
    Picture("sweep", "tutorial.md", SWEEP, "runs/sweep/digits/sweep.png"),
    Picture("continued", "gallery.md", "python examples/14_run_from_python.py", "runs/mine/intervals.png"),
    Picture("compared", "gallery.md", "python examples/14_run_from_python.py", "runs/two-seeds/accuracy_megabytes.png"),
    Picture("notebook-metric", "gallery.md", NOTEBOOK, "result.plot()"),
    Picture("notebook-bytes", "gallery.md", NOTEBOOK, "result.ledger.plot()"),
    Picture(
        "front",
        "when-does-it-pay.md",
        f"fedlama compare digits-resnet --seeds 5 --methods '{METHODS}'",
        "runs/digits-resnet/front.png",
    ),
)


def main(names: Sequence[str]) -> None:
    """Make some pictures again, or all.

    Args:
        names: Names of pictures; none for all.
    """
    unknown = set(names) - {picture.name for picture in PICTURES}
    if unknown:
        sys.exit(f"there is no picture {', '.join(sorted(unknown))}; take {', '.join(each.name for each in PICTURES)}")
    chosen = [picture for picture in PICTURES if not names or picture.name in names]
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for command in dict.fromkeys(picture.command for picture in chosen):
            made = [picture for picture in chosen if picture.command == command]
            if command == NOTEBOOK:
                figures(Path(folder), made)
                continue
            run(command, Path(folder))
            for picture in made:
                (file,) = Path(folder).glob(picture.file)
                shutil.copyfile(file, FOLDER / f"{picture.name}.png")
                print(f"{picture.name}: {command}")


def run(command: str, folder: Path) -> None:
    """Run a command in a folder, with this checkout's package.

    Args:
        command: As it stands on a page.
        folder: Where it runs.
    """
    program, *words = shlex.split(command)
    start = ["-m", "fedlama"] if program == "fedlama" else [str(DOCS.parent / words.pop(0))]
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parent / "src")}
    quiet = subprocess.DEVNULL
    subprocess.run(
        [sys.executable, *start, *words], cwd=folder, env=environment, stdout=quiet, stderr=quiet, check=True
    )


def figures(folder: Path, pictures: Sequence[Picture]) -> None:
    """Run the notebook's cells, and save the figures that it shows.

    Args:
        folder: Where it runs.
        pictures: The pictures; `file` is the code of each figure.
    """
    before, names = Path.cwd(), dict[str, Any](__name__="notebook")
    content = json.loads((DOCS.parent / NOTEBOOK).read_text(encoding="utf-8"))
    os.chdir(folder)
    try:
        for cell in content["cells"]:
            if cell["cell_type"] == "code":
                exec(compile(ast.parse("".join(cell["source"])), NOTEBOOK, "exec"), names)
        for picture in pictures:
            figure = eval(picture.file, names)
            figure.savefig(FOLDER / f"{picture.name}.png", dpi=110)
            print(f"{picture.name}: {NOTEBOOK}")
    finally:
        os.chdir(before)


if __name__ == "__main__":
    main(sys.argv[1:])
