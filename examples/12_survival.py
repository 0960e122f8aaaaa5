"""Survival: the risk of an event from times that are partly censored, with the model of Cox.

    python examples/12_survival.py

Six hospitals of very different size follow their patients for different times. The loss is the partial likelihood
within a batch, the metric is the concordance index: 0.5 is chance, 1 is a perfect order. It takes some seconds and
needs no download.
"""

import torch
from torch import Tensor, nn

import fedlama as fl

torch.manual_seed(0)
TRUE = torch.randn(8)


def patients(count: int, followed: float) -> tuple[Tensor, Tensor]:
    """Return features (count, 8), and (count, 2): 1 if the event was seen or 0 if the patient left, and the time."""
    x = torch.randn(count, 8)
    event_time = torch.distributions.Exponential(torch.exp(x @ TRUE)).sample()
    left = torch.empty(count).uniform_(0, followed)
    return x, torch.stack([(event_time <= left).float(), torch.minimum(event_time, left)], dim=1)


sizes = [200, 120, 80, 60, 40, 24]
federation = fl.Federation(
    model=nn.Linear(8, 1),
    clients=[fl.ClientData(*patients(size, 1 + index), batch_size=8) for index, size in enumerate(sizes)],
    strategy=fl.FedAvg(10),
    local_steps=100,
    solver=fl.SGD(learning_rate=0.1),
    task=fl.Cox(),
    test_set=fl.TestSet(*patients(300, 3.0)),
    evaluate_every=20,
)
result = federation.run()

for record in result.rounds:
    if record.score is not None:
        print(f"after {record.local_steps} local steps: concordance {record.score.value:.3f}")
direction = torch.nn.functional.cosine_similarity(result.model["weight"][0], TRUE, dim=0)
print(f"cosine between the learnt and the true risk: {direction:.2f}")
