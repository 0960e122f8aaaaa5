"""Segmentation: a class for every pixel, compared by the mean intersection over union.

    python examples/11_segmentation.py

Pictures show a bright disc and a bright square on noise; both have to be found. It takes some seconds and needs no
download.
"""

import torch
from torch import Tensor, nn

import fedlama as fl

torch.manual_seed(0)
SIZE = 16


def pictures(count: int) -> tuple[Tensor, Tensor]:
    """Return pictures (count, 1, SIZE, SIZE) and classes (count, SIZE, SIZE): 0 nothing, 1 disc, 2 square."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    middles = torch.randint(3, SIZE - 3, (count, 4, 1, 1))
    square = ((rows - middles[:, 2]).abs() <= 2) & ((columns - middles[:, 3]).abs() <= 2)
    disc = ((rows - middles[:, 0]) ** 2 + (columns - middles[:, 1]) ** 2 <= 8) & ~square
    classes = disc.long() + 2 * square.long()
    return torch.randn(count, 1, SIZE, SIZE) * 0.3 + torch.tensor([0.0, 1.0, 2.0])[classes][:, None], classes


model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
federation = fl.Federation(
    model=model,
    clients=[fl.ClientData(*pictures(40), batch_size=8) for _ in range(8)],
    strategy=fl.FedLAMA(base_interval=5, increase_factor=2),
    local_steps=120,
    solver=fl.SGD(learning_rate=0.1, momentum=0.9),
    task=fl.Segmentation(dice_weight=1.0),
    test_set=fl.TestSet(*pictures(80)),
    engine="auto",
)
result = federation.run()
assert result.score is not None
for name, value in result.score.metrics.items():
    print(f"{name} {value:.3f}")
