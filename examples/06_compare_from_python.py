"""Three methods over two seeds, compared from Python: what `fedlama compare --seeds 2` does, as values to work with.

    python examples/06_compare_from_python.py

The run folders are written below runs/. Started again, the script reads the finished runs instead of training them.
"""

from pathlib import Path

import fedlama as fl

experiment = fl.load_experiment("digits", ["local_steps=96", "partition.clients=16"])
plan = fl.StudyPlan(
    strategies=(fl.FedAvg(6), fl.FedLAMA(6, increase_factor=4), fl.FedLUAR(6, recycled_layers=1)),
    seeds=(0, 1),
)
study = fl.run_study(experiment, plan, fl.RunOptions(out=Path("runs")))

print(f"differences to {study.base}, paired by seed, with 95 % intervals")
for method in study.methods:
    assert method.accuracy is not None  # the experiment has a test set
    assert method.cost is not None  # some seed did not diverge
    line = f"{method.title}: accuracy {method.accuracy.mean:.1f} %, C {method.cost.mean:.1f} %"
    if method.difference is not None:  # it is None for the base itself
        verdict = "within noise" if method.difference.within_noise else "beyond noise"
        line += f", difference {method.difference.mean:+.1f} points, {verdict}"
    print(line)

for finished in study.finished:
    print("reused" if finished.reused else "trained", finished.summary["run_folder"])
