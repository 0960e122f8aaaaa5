"""A strategy of your own in one class: layers with many parameters are synchronised less often.

    python examples/02_own_strategy.py

A strategy is a frozen dataclass. It sees names, sizes and scalars, never tensors, so the same object drives every
engine and a deployment. `init` and `plan` are all that a fixed schedule needs; docs/how-to/strategy.md shows an
adaptive one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

import fedlama as fl


@dataclass(frozen=True)
class LargeLayersWait(fl.Strategy[Mapping[str, int]]):
    """Layers with more than `threshold` parameters are synchronised in every `wait`-th round, the others in each."""

    name: ClassVar[str] = "large-layers-wait"
    base_interval: int
    threshold: int
    wait: int = 3

    @property
    def cycle_rounds(self) -> int:
        """After `wait` rounds every layer is in sync, and a new cohort may start."""
        return self.wait

    def init(self, layers: fl.Layers, seed: int) -> Mapping[str, int]:
        """Return each layer's interval in rounds."""
        return {layer.name: self.wait if layer.parameters > self.threshold else 1 for layer in layers}

    def plan(self, state: Mapping[str, int], round_index: int) -> fl.Plan:
        """Upload the layers whose interval ends with this round."""
        due = frozenset(name for name, interval in state.items() if (round_index + 1) % interval == 0)
        return fl.Plan(round_index, due, state, cycle_start=round_index % self.wait == 0)


torch.manual_seed(0)
digits = fl.data.digits.load()
x, test_x = digits.train_x / 255, digits.test_x / 255  # (samples, 1, 8, 8)
rows = fl.data.partition.iid(digits.train_y.numpy(), clients=8, seed=0)
clients = [fl.ClientData(x[mine], digits.train_y[mine], batch_size=16) for mine in rows]
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
test_set = fl.TestSet(test_x, digits.test_y)

for strategy in (fl.FedAvg(4), LargeLayersWait(base_interval=4, threshold=1000)):
    result = fl.Federation(model, clients, strategy, local_steps=96, test_set=test_set).run()
    assert result.score is not None
    print(f"{result.method}: accuracy {result.score.accuracy:.1%}, {result.ledger.total_bytes('up')} bytes up")
