"""FedLAMA on handwritten digits in 30 lines: data, clients, model, federation, result.

    python examples/01_fedlama_in_30_lines.py

It takes some seconds and needs no download. `cost_percent` is the paper's C: parameters times synchronisations,
relative to FedAvg that averages every 6 local steps.
"""

import torch
from torch import nn

import fedlama as fl

torch.manual_seed(0)  # decides the initial weights; everything else follows from Federation(seed=...)
digits = fl.data.digits.load()
x, test_x = digits.train_x / 255, digits.test_x / 255  # (samples, 1, 8, 8)
rows = fl.data.partition.dirichlet(digits.train_y.numpy(), clients=16, seed=0, alpha=0.5)
clients = [fl.ClientData(x[mine], digits.train_y[mine], batch_size=16) for mine in rows]
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

federation = fl.Federation(
    model=model,
    clients=clients,
    strategy=fl.FedLAMA(base_interval=6, increase_factor=4),
    local_steps=240,
    solver=fl.SGD(learning_rate=0.1, momentum=0.9),
    test_set=fl.TestSet(test_x, digits.test_y),
)
result = federation.run()
model.load_state_dict(result.model)  # the aggregated global model

assert result.score is not None  # there is a test set
print(f"accuracy {result.score.accuracy:.1%}, cost C {result.cost_percent:.1f} % of FedAvg(6)")
print(f"{result.ledger.total_bytes('up') / 1e6:.1f} MB up, {result.ledger.total_bytes('down') / 1e6:.1f} MB down")
for name, layer in result.rounds[-1].layers.items():
    print(f"{name}: aggregated every {6 * layer.interval} local steps at the end")
