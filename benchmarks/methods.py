"""All methods on two data sets, accuracy against megabytes, and how FedLAMA combines with other methods.

    python -m benchmarks.methods methods.json --mnist FOLDER --writers FOLDER --fashion FOLDER
    python -m benchmarks.methods methods.json --show --figure methods.png

Three seeds, with the settings of :mod:`benchmarks.methods_list`, chosen beforehand and not tuned. A run that the file
holds already is not repeated, and the file is written after each run, seed after seed, so the command can be stopped
and started again, and a new method costs its own runs alone. A method that is refused in a setting, or diverges, is a
row with the reason. Personal models are scored on test sets of the clients, in settings of their own.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from benchmarks.methods_list import (
    ALONE,
    COMBINED,
    EXPENSIVE,
    METHODS,
    PERSONAL,
    PERSONAL_SETTINGS,
    SETTINGS,
    THEN,
    TUNED,
)
from benchmarks.methods_tables import Row, all_methods, combinations, draw, personal_models
from fedlama.core.records import Result, Score
from fedlama.errors import FedlamaError
from fedlama.experiment import Material, assemble, prepare, read, resolve

SEEDS = (0, 1, 2)


def main() -> None:
    """Run what is missing, or show what there is."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("output", type=Path, help="file of the results")
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's idx files")
    parser.add_argument("--writers", type=Path, help="folder of QMNIST's tables")
    parser.add_argument("--fashion", type=Path, help="folder of Fashion-MNIST's idx files")
    parser.add_argument("--only", default="", help="run only methods whose title contains this")
    parser.add_argument("--show", action="store_true", help="print the tables of what has been run")
    parser.add_argument("--figure", type=Path, help="draw accuracy against megabytes")
    given = parser.parse_args()
    rows: list[Row] = json.loads(given.output.read_text()) if given.output.exists() else []
    if given.show or given.figure:
        if given.show:
            print("\n\n".join([all_methods(rows), combinations(rows), personal_models(rows)]))
        if given.figure:
            draw(rows, given.figure)
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of losses that rise, which the table shows
    data = {
        "writers": [f"data.path={given.mnist}", f"data.table={given.writers}"],
        "fashion": [f"data.path={given.fashion}"],
    }
    for is_last in (False, True):
        for seed in SEEDS:
            for setting, lines in (SETTINGS | PERSONAL_SETTINGS).items():
                chosen = {
                    name: more
                    for name, more in methods_of(setting).items()
                    if given.only in name and (name in EXPENSIVE) == is_last
                }
                paths = data[setting.partition(",")[0]]
                run_setting(given.output, rows, (setting, seed), [*lines, *paths, f"seed={seed}"], chosen)


def methods_of(setting: str) -> dict[str, list[str]]:
    """Return the methods that are run in a setting, by title.

    Args:
        setting: A key of :data:`SETTINGS` or :data:`PERSONAL_SETTINGS`.
    """
    if setting in PERSONAL_SETTINGS:
        return PERSONAL
    return METHODS | COMBINED if setting == "fashion" else METHODS


def run_setting(
    output: Path, rows: list[Row], cell: tuple[str, int], lines: Sequence[str], methods: Mapping[str, Sequence[str]]
) -> None:
    """Run what is missing of one data set and seed, and write the file after each run.

    Args:
        output: The file.
        rows: What it holds; new rows are added.
        cell: The setting and the seed.
        lines: The changes of an experiment file that all methods have in common.
        methods: Title to the changes of a method.
    """
    setting, seed = cell
    done = {(row["setting"], row["method"], row["seed"]) for row in rows}
    material = cache(lambda: prepare(resolve(read("digits", [*lines, "strategy.name=fedavg"]))))
    for name, more in methods.items():
        if (setting, name, seed) in done:
            continue
        shared, start = material(), time.perf_counter()
        row: Row = {"setting": setting, "method": name, "seed": seed}
        then = ALONE if name in TUNED else THEN.get(name)
        stages = [more] if then is None else [more, then]
        try:
            row |= measured(run_stages(lines, stages, shared), name in TUNED)
        except FedlamaError as error:
            row["failed"] = str(error)
        rows.append(row | {"seconds": time.perf_counter() - start})
        output.write_text(json.dumps(rows, indent=0))
        print(setting, seed, name, row.get("failed") or f"{row.get('pooled', row['accuracy']):.2f}", flush=True)


def run_stages(lines: Sequence[str], stages: Sequence[Sequence[str]], material: Material) -> list[Result]:
    """Run one federation after the other, each from the model of the one before.

    Args:
        lines: The changes of an experiment file that they have in common.
        stages: Those of each federation.
        material: Data, clients and first model.
    """
    results: list[Result] = []
    for more in stages:
        federation = assemble(resolve(read("digits", [*lines, *filled(lines, more)])), material)
        if results:
            model = copy.deepcopy(federation.model)
            model.load_state_dict(results[-1].model)
            federation = replace(federation, model=model)
        results.append(federation.run())
    return results


def measured(results: Sequence[Result], is_tuned: bool) -> Row:
    """Return what the file keeps of a method's runs.

    Args:
        results: One run, or two of which the second begins with the first one's model.
        is_tuned: Whether the last one is fine-tuning on the clients, who send nothing then.
    """
    last = results[-1]
    sent = results[:-1] if is_tuned else results
    row: Row = {
        "accuracy": 100 * last.score.accuracy if last.score and last.score.accuracy is not None else None,
        "up": sum(result.ledger.total_bytes("up") for result in sent) / 1e6,
        "down": sum(result.ledger.total_bytes("down") for result in results) / 1e6,
    }
    if len(results) == 1:
        row |= {"cost": last.cost_percent, "epsilon": last.figures.get("epsilon")}
    scores = last.client_scores
    of_clients: Sequence[Score] = [] if scores is None else [*(scores.own_model or scores.global_model).values()]
    if of_clients:
        pooled, values = Score.pooled(of_clients), [100 * score.value for score in of_clients]
        assert pooled is not None  # as the clients count their predictions
        row |= {"pooled": 100 * pooled.value, "mean": statistics.fmean(values), "worst": min(values)}
    return row


def filled(lines: Sequence[str], more: Sequence[str]) -> list[str]:
    """Return a method's changes in a setting.

    >>> lines = ["local_steps=240", "strategy.base_interval=5"]
    >>> filled(lines, ["strategy.base_interval={interval}", "local_steps={half}", "codec.feedback={feedback}"])
    ['strategy.base_interval=20', 'local_steps=120', 'codec.feedback=true']
    """
    numbers = dict(line.split("=") for line in lines if line.startswith(("strategy.base_interval=", "local_steps=")))
    base, budget = int(numbers.get("strategy.base_interval", 0)), int(numbers.get("local_steps", 0))
    feedback = "false" if any(line.startswith("sampler.") for line in [*lines, *more]) else "true"
    values = {"{interval}": 4 * base, "{budget}": budget, "{half}": budget // 2, "{feedback}": feedback}
    for mark, value in values.items():
        more = [line.replace(mark, str(value)) for line in more]
    return [*more]


if __name__ == "__main__":
    main()
