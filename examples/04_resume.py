"""Stop a run, and resume it later with the same results, bit for bit.

    python examples/04_resume.py

On the command line this needs no code: start the same command again after an interruption. In Python the rounds are
written to a run folder, and the state between two rounds to a checkpoint: tensors and JSON, never pickled.
"""

from pathlib import Path

import torch
from torch import nn

import fedlama as fl

torch.manual_seed(0)
digits = fl.data.digits.load()
rows = fl.data.partition.iid(digits.train_y.numpy(), clients=8, seed=0)
federation = fl.Federation(
    model=nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
    clients=[fl.ClientData(digits.train_x[mine] / 255, digits.train_y[mine], batch_size=16) for mine in rows],
    strategy=fl.FedLAMA(base_interval=4, increase_factor=2),
    local_steps=64,
    solver=fl.SGD(learning_rate=0.1, momentum=0.9),
)
folder = Path("runs/resumed")

# The first process stops after 7 of 16 rounds, in the middle of a cycle: clients hold different values of some layers.
with fl.RunFolder(folder, federation.describe()) as files:
    run = fl.Run(federation)
    for _ in range(7):
        files.on_round(run.advance())
    fl.save_snapshot(run.state_dict(), folder / "checkpoints")
print(f"stopped after {run.round_index} of {federation.rounds} rounds")

# The second process reads the newest whole checkpoint and the records of the rounds before it.
snapshot = next(fl.whole_snapshots(folder / "checkpoints", warn=print))
before = fl.load_run(folder).rounds[: snapshot.rounds_done]
resumed = fl.Run(federation)
resumed.load_state_dict(snapshot, before)
with fl.RunFolder(folder, federation.describe(), rounds=snapshot.rounds_done) as files:
    result = resumed.to_end([files], before)

uninterrupted = federation.run()
same = all(torch.equal(value, uninterrupted.model[name]) for name, value in result.model.items())
print(f"{len(result.rounds)} rounds, {len(before)} of them before the interruption")
print("the model is the same bit for bit" if same else "the models differ")
