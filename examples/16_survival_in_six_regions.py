"""Survival after breast cancer in six regions: Fed-TCGA-BRCA under the settings of the benchmark FLamby.

Run it with: python examples/16_survival_in_six_regions.py FOLDER, where FLamby's brca.csv and train_test_split.csv are.
Published over the seeds 42 to 46 (Ogier du Terrail et al., NeurIPS 2022), concordance averaged over the regions' test
sets: FedAvg 0.7353 +- 0.157, FedProx 0.7167 +- 0.145, FedAdam 0.8421 +- 0.015. They depend much on the order of the
batches: over 40 seeds of FedAvg plain PyTorch and fedlama both deviate by 0.15 to 0.16, FedAdam by 0.07 over 24.
"""

import csv
import statistics
import sys
from pathlib import Path

import torch
from torch import nn

import fedlama as fl

Region = tuple[list[list[float]], list[list[float]]]


def read(folder: Path) -> dict[str, Region]:
    """Return features (samples, 39), and event and time (samples, 2), by part, such as ``train_0``."""
    parts = {
        row["pid"]: row["fold2"] for row in csv.DictReader((folder / "train_test_split.csv").read_text().splitlines())
    }
    rows: dict[str, Region] = {}
    for pid, *numbers in csv.reader((folder / "brca.csv").read_text().splitlines()[1:]):
        if pid in parts:
            x, y = rows.setdefault(parts[pid], ([], []))
            x.append([float(number) for number in numbers[:-2]])
            y.append([float(number) for number in numbers[-2:]])
    return rows


def concordance(parts: dict[str, Region], seed: int, rate: float, **changes: object) -> float:
    """Return the mean over the regions' test sets of one run: 5 rounds of 100 steps on batches of 8."""
    torch.manual_seed(seed)
    model = nn.Linear(39, 1)  # with FLamby's initial values
    regions = [tuple(map(torch.tensor, parts[f"train_{region}"])) for region in range(6)]
    clients = [fl.ClientData(x, y, batch_size=8) for x, y in regions]
    settings = {"solver": fl.SGD(rate), "task": fl.Cox(), "seed": seed, "engine": "auto"} | changes
    model.load_state_dict(fl.Federation(model, clients, fl.FedAvg(100), local_steps=500, **settings).run().model)
    tests = [fl.TestSet(*map(torch.tensor, parts[f"test_{region}"])) for region in range(6)]
    return statistics.fmean(test.score(model, fl.Cox()).value for test in tests)


METHODS = {
    "FedAvg": {"rate": 0.1},
    "FedProx": {"rate": 0.1, "solver": fl.FedProx(0.1, proximal=0.1)},
    "FedAdam": {"rate": 0.01, "server_optimizer": fl.ServerAdam(0.1, beta1=0.9, beta2=0.999, epsilon=1e-8)},
}

if __name__ == "__main__":
    given = read(Path(sys.argv[1]))
    for name, options in METHODS.items():
        values = [concordance(given, seed, **options) for seed in range(42, 47)]
        listed = " ".join(f"{value:.4f}" for value in values)
        print(f"{name}: {statistics.fmean(values):.4f} +- {statistics.pstdev(values):.3f} ({listed})")
