"""Run folders for a federation built in Python: interrupted and continued, compared over seeds, verified, reported.

    python examples/14_run_from_python.py

Kill the script and start it again: runs that have finished are read, and the interrupted one continues bit for bit.
"""

from pathlib import Path

import torch
from torch import nn

import fedlama as fl


def make(seed: int) -> fl.Federation:
    """Make the federation of a seed, which decides the partition and the initial weights as well."""
    digits = fl.data.digits.load()
    rows = fl.data.partition.iid(digits.train_y.numpy(), clients=8, seed=seed)
    torch.manual_seed(seed)
    return fl.Federation(
        model=nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        clients=[fl.ClientData(digits.train_x[mine] / 255, digits.train_y[mine], batch_size=16) for mine in rows],
        strategy=fl.FedLAMA(base_interval=4, increase_factor=2),
        local_steps=96,
        solver=fl.SGD(learning_rate=0.1, momentum=0.9),
        test_set=fl.TestSet(digits.test_x / 255, digits.test_y),
        seed=seed,
    )


class StopAfter(fl.Callback):
    """A callback that fails in the middle of a run, as a machine may."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def on_round(self, record: fl.RoundRecord) -> None:
        """Fail after a number of rounds."""
        if record.round_index + 1 == self.rounds:
            raise RuntimeError(f"the machine failed in round {record.round_index}")


try:
    fl.run(make(0), name="mine", checkpoint_seconds=0, callbacks=[StopAfter(9)])
except fl.CallbackError as error:  # the state is saved
    print(error.__cause__)
result = fl.run(make(0), name="mine")  # continues after round 8
print(f"{len(result.rounds)} rounds; verified: {fl.verify('runs/mine', make(0)).difference is None}")

study = fl.compare(make, [fl.FedAvg(4), fl.FedLAMA(4, 2)], seeds=2, name="two-seeds")
for method in study.methods:
    score = "not evaluated" if method.accuracy is None else f"accuracy {method.accuracy.mean:.1f} %"
    cost = "no cost" if method.cost is None else f"C {method.cost.mean:.1f} %"  # None: all seeds diverged
    print(f"{method.title}: {score}, {cost} over {len(method.runs)} seeds")
print(fl.write_report(fl.find_runs([Path("runs/two-seeds")]), Path("runs/two-seeds.html")))
