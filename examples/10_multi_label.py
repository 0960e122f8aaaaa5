"""Several yes-or-no labels for each sample, from batches that are dicts.

    python examples/10_multi_label.py

The model is called by keyword with the entries of a batch but its labels. Half of the labels are rare, so evaluations
are compared by F1. It takes some seconds and needs no download.
"""

import torch
from torch import Tensor, nn

import fedlama as fl

torch.manual_seed(0)


class Tagger(nn.Module):
    """Two kinds of features, and one logit for each of six labels."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers, self.category = nn.Linear(10, 24), nn.Embedding(5, 24)
        self.head = nn.Linear(24, 6)

    def forward(self, numbers: Tensor, category: Tensor) -> Tensor:
        """Return the logits, (batch, labels)."""
        logits: Tensor = self.head(torch.relu(self.numbers(numbers) + self.category(category)))
        return logits


numbers, category = torch.randn(1200, 10), torch.randint(0, 5, (1200,))
scores = numbers @ torch.randn(10, 6) + torch.randn(5, 6)[category]
samples = {"numbers": numbers, "category": category, "labels": (scores > torch.tensor([0, 0, 0, 3, 3, 3])).long()}


def rows(start: int, end: int) -> dict[str, Tensor]:
    """Return some samples."""
    return {name: value[start:end] for name, value in samples.items()}


federation = fl.Federation(
    model=Tagger(),
    clients=[fl.ClientData(rows(100 * client, 100 * client + 100), None, batch_size=10) for client in range(10)],
    strategy=fl.FedLAMA(base_interval=5, increase_factor=2),
    local_steps=300,
    solver=fl.SGD(learning_rate=0.3),
    task=fl.MultiLabel(positive_weight=2),
    test_set=fl.TestSet(rows(1000, 1200)),
)
result = federation.run()
assert result.score is not None
print(f"f1 {result.score.value:.3f}, auroc {result.score.metrics['auroc']:.3f}")
print(f"C is {result.cost_percent:.1f} % of FedAvg's")
