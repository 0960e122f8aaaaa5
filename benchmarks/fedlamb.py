"""Fed-LAMB against Fed-AMS and FedAvg, with the settings of its source: 50 clients, 25 of them in a round, batch 128.

    python -m benchmarks.fedlamb fedlamb.json --mnist FOLDER --fashion FOLDER
    python -m benchmarks.fedlamb fedlamb.json --show

Source: Karimi, Li and Li, UAI 2023. **mnist** are its 60,000 images, IID; a run ends when 90 % are reached. **fashion**
is Fashion-MNIST with one or two classes for each client. The network is the source's: two pooled convolutions with
dropout, 320-50-10. A run that the file holds already is not repeated, so the command can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fedlama as fl
from fedlama.core.records import RoundRecord
from fedlama.experiment import Material, assemble, prepare, read, resolve

Row = dict[str, Any]
ENOUGH = 0.9
_COMMON = [
    "sampler.name=uniform",
    "sampler.active=25",
    "batch_size=128",
    "weighting=equal",
    "strategy.name=fedavg",
    "strategy.base_interval=1",
    "evaluate_every=1",
    "data.name=idx",
    "data.test_rows=5000",
    f"model.name={__name__ if __name__ != '__main__' else 'benchmarks.fedlamb'}:SourceCNN",
]
SETTINGS: dict[str, list[str]] = {
    "mnist": ["partition.name=iid", "partition.clients=50", "rounds=25", "local_work.epochs=1"],
    "mnist, 3 epochs": ["partition.name=iid", "partition.clients=50", "rounds=15", "local_work.epochs=3"],
    **{
        f"fashion, {classes} of 10 classes{title}": [
            "partition.name=niid-labels",
            "partition.clients=50",
            f"partition.labels_per_client={classes}",
            f"rounds={rounds}",
            f"local_work.epochs={epochs}",
        ]
        for classes in (1, 2)
        for title, epochs, rounds in (("", 1, 20), (", 3 epochs", 3, 12))
    },
}
"""Title to the changes of an experiment."""

_LAMB, _AMS = ["solver.name=fed-lamb"], ["solver.name=fed-ams"]
_AUTHORS = ["preset=authors"]
_FROM_START = ["solver.first_round=global", "solver.start=1e-8"]
SOLVERS: dict[str, list[str]] = {
    "Fed-LAMB": _LAMB,
    "Fed-LAMB, preset authors": [*_LAMB, *_AUTHORS],
    "Fed-AMS": _AMS,
    "Fed-AMS, preset authors": [*_AMS, *_AUTHORS],
    "Fed-AMS, vhat from 1e-8": [*_AMS, *_FROM_START],
    "Fed-AMS, the text's rule": [*_AMS, "solver.first_round=global"],
    "FedAvg": ["solver.name=sgd", "solver.momentum=0.0", "solver.decay_at=[]"],
}
"""Title to the changes of an experiment. ``vhat from 1e-8`` divides by the server's second moment in the first round
too, which the program begins with 1e-8 and the text with 0."""

RUNS: list[tuple[str, str, float]] = [
    ("mnist", "Fed-AMS, preset authors", 0.001),
    ("mnist", "Fed-LAMB, preset authors", 0.0001),
    ("mnist", "Fed-AMS, vhat from 1e-8", 0.0001),
    ("fashion, 1 of 10 classes", "Fed-LAMB", 0.01),
    ("fashion, 1 of 10 classes", "FedAvg", 0.1),
    ("mnist", "Fed-AMS, preset authors", 0.0001),
    ("mnist", "Fed-AMS, the text's rule", 0.0001),
    ("fashion, 1 of 10 classes", "Fed-AMS", 0.001),
    ("mnist", "Fed-LAMB, preset authors", 0.001),
    ("fashion, 2 of 10 classes, 3 epochs", "Fed-LAMB", 0.01),
    ("fashion, 2 of 10 classes, 3 epochs", "FedAvg", 0.1),
    ("fashion, 1 of 10 classes", "Fed-LAMB", 0.003),
    ("fashion, 1 of 10 classes", "FedAvg", 0.03),
    ("mnist", "Fed-LAMB", 0.03),
    ("mnist", "Fed-AMS", 0.001),
    ("mnist, 3 epochs", "Fed-LAMB", 0.03),
    ("mnist, 3 epochs", "Fed-AMS, preset authors", 0.001),
]
"""Setting, solver and learning rate of each run, the most important ones first."""


class SourceCNN(nn.Sequential):
    """Two convolutions of 5x5 with pooling and dropout, and two dense layers, for images of 28x28."""

    def __init__(self) -> None:
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(1, 10, 5),
                pool1=nn.MaxPool2d(2),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(10, 20, 5),
                drop2=nn.Dropout(),
                pool2=nn.MaxPool2d(2),
                relu2=nn.ReLU(),
                flatten=nn.Flatten(),
                fc1=nn.Linear(320, 50),
                relu3=nn.ReLU(),
                drop3=nn.Dropout(),
                fc2=nn.Linear(50, 10),
            )
        )


class Watch(fl.Callback):
    """Keeps the accuracy after each round, and ends a run that has reached enough.

    Args:
        enough: The accuracy; None to go on to the end.
    """

    def __init__(self, enough: float | None) -> None:
        self._enough = enough
        self.accuracies: list[float] = []

    def on_evaluate(self, record: RoundRecord) -> None:
        """Keep the accuracy of a round, in percent."""
        assert record.score is not None
        assert record.score.accuracy is not None
        self.accuracies.append(round(100 * record.score.accuracy, 2))
        if self._enough is not None and record.score.accuracy >= self._enough:
            raise fl.StopRun("enough")


def main() -> None:
    """Run what is missing, or show what there is."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("output", type=Path, help="file of the results")
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's idx files")
    parser.add_argument("--fashion", type=Path, help="folder of Fashion-MNIST's idx files")
    parser.add_argument("--only", default="", help="run only settings whose title begins with this")
    parser.add_argument("--show", action="store_true", help="print the table of what has been run")
    given = parser.parse_args()
    rows: list[Row] = json.loads(given.output.read_text()) if given.output.exists() else []
    if given.show:
        print(table(rows))
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of losses that rise, which the table shows
    paths = {"mnist": given.mnist, "fashion": given.fashion}
    done = {(row["setting"], row["solver"], row["rate"]) for row in rows}

    @cache
    def material(setting: str) -> Material:
        return prepare(resolve(read("digits", lines_of(setting, paths[setting.partition(",")[0]]))))

    for setting, solver, rate in RUNS:
        if (setting, solver, rate) in done or not setting.startswith(given.only):
            continue
        lines = lines_of(setting, paths[setting.partition(",")[0]])
        rows.append(run([*lines, *SOLVERS[solver], f"solver.learning_rate={rate}"], material(setting), setting))
        rows[-1] |= {"setting": setting, "solver": solver, "rate": rate}
        given.output.write_text(json.dumps(rows, indent=0))
        print(setting, solver, rate, rows[-1].get("failed") or rows[-1]["accuracies"][-1], flush=True)


def lines_of(setting: str, path: Path) -> list[str]:
    """Return the changes of an experiment file that the runs of a setting have in common."""
    return [*_COMMON, *SETTINGS[setting], f"data.path={path}"]


def run(lines: list[str], material: Material, setting: str) -> Row:
    """Run one federation, and return the accuracy after each round."""
    watch, start = Watch(ENOUGH if setting.startswith("mnist") else None), time.perf_counter()
    failed: Row = {}
    try:
        assemble(resolve(read("digits", lines)), material).run([watch])
    except fl.FedlamaError as error:
        failed = {"failed": str(error)}
    return {"accuracies": watch.accuracies, "seconds": round(time.perf_counter() - start, 1)} | failed


def table(rows: list[Row]) -> str:
    """Return the runs as a table."""
    lines = ["| setting | solver | rate | rounds to 90 % | rounds | mean of the last ten, % |", "|---" * 6 + "|"]
    for row in sorted(rows, key=lambda row: (row["setting"], row["solver"], row["rate"])):
        curve = row["accuracies"]
        first = next((str(number) for number, value in enumerate(curve, 1) if value >= 100 * ENOUGH), "-")
        late = f"{statistics.fmean(curve[-10:]):.1f}" if len(curve) >= 10 else "-"
        late = f"diverged in round {len(curve) + 1}" if "failed" in row else late
        cells = [row["setting"], row["solver"], f"{row['rate']:g}", first, str(len(curve)), late]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
