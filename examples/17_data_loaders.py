"""Clients that are DataLoaders, as in plain PyTorch code: their data sets, batch sizes and collate functions are taken.

    python examples/17_data_loaders.py

Each data set shifts its pictures at random. The order of samples and the shifts are drawn from the run's seed, so the
same seed gives the same bits on every engine and after a restart. It takes some seconds and needs no download.
"""

import random

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import fedlama as fl

digits = fl.data.digits.load()


class Shifted(Dataset):
    """Some rows of the digits, each shifted by up to one pixel."""

    def __init__(self, rows: Tensor) -> None:
        self.x, self.y = digits.train_x[rows].float() / 255, digits.train_y[rows]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        shift = random.randint(-1, 1), random.randint(-1, 1)
        return torch.roll(self.x[index], shift, dims=(1, 2)), self.y[index]


order = torch.randperm(len(digits.train_y), generator=torch.Generator().manual_seed(0))
loaders = [DataLoader(Shifted(order[client::10]), batch_size=16, shuffle=True, drop_last=True) for client in range(10)]

torch.manual_seed(0)
federation = fl.Federation(
    model=nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)),
    clients=loaders,
    strategy=fl.FedLAMA(base_interval=4, increase_factor=2),
    local_steps=160,
    solver=fl.SGD(learning_rate=0.2, momentum=0.9),
    test_set=fl.TestSet(digits.test_x.float() / 255, digits.test_y),
    evaluate_every=80,
    engine="auto",
)
result, again = federation.run(), federation.run()

print(f"accuracy {result.score.accuracy:.1%}, cost C {result.cost_percent:.0f} % of FedAvg(4)")
print("the same bits again:", all(torch.equal(value, again.model[name]) for name, value in result.model.items()))
