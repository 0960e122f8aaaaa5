"""Regression: predict a number, and compare evaluations by the root of the mean squared error.

    python examples/09_regression.py

Clients hold noisy measurements of one curve, each over its own range. It takes some seconds and needs no download.
"""

import torch
from torch import nn

import fedlama as fl

torch.manual_seed(0)


def measured(low: float, high: float, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return positions (samples, 1) and measurements (samples,)."""
    x = torch.empty(samples, 1).uniform_(low, high)
    return x, torch.sin(3 * x[:, 0]) + 0.1 * torch.randn(samples)


clients = [fl.ClientData(*measured(-1 + client / 8, -0.5 + client / 8, 80), batch_size=16) for client in range(12)]
model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
federation = fl.Federation(
    model=model,
    clients=clients,
    strategy=fl.FedLAMA(base_interval=5, increase_factor=2),
    local_steps=400,
    solver=fl.SGD(learning_rate=0.1, momentum=0.9),
    task=fl.Regression(),
    test_set=fl.TestSet(*measured(-1, 0.875, 400)),
)
result = federation.run()

for record in result.rounds[9::20]:
    if record.score is not None:
        print(f"after {record.local_steps} local steps: rmse {record.score.value:.3f}")
assert result.score is not None
print(f"at the end: {', '.join(f'{name} {value:.3f}' for name, value in result.score.metrics.items())}")
