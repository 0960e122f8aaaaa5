"""The model, the data and the two functions of an app that knows nothing of FedLAMA."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """A small convolutional network with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.fc1 = nn.Linear(8 * 4 * 4, 32)
        self.fc2 = nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, (batch, 3)."""
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.fc1(torch.max_pool2d(x, 2).flatten(1)))
        return self.fc2(x)


def load_data(partition_id: int, batch_size: int) -> tuple[DataLoader, DataLoader]:
    """Return a client's batches for training and for evaluation; in a real federation they are on its own disk."""
    patterns = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1000))
    draw = torch.Generator().manual_seed(partition_id)
    y = torch.randint(0, 3, (100,), generator=draw)
    x = patterns[y] + torch.randn(100, 1, 8, 8, generator=draw)
    train, test = TensorDataset(x[:80], y[:80]), TensorDataset(x[80:], y[80:])
    return DataLoader(train, batch_size=batch_size), DataLoader(test, batch_size=batch_size)


def train(net: nn.Module, batches: DataLoader, epochs: int, learning_rate: float) -> float:
    """Train a model in place; return the mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=0.9)
    net.train()
    total = 0.0
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
    return total / (epochs * len(batches))


def test(net: nn.Module, batches: DataLoader) -> tuple[float, float]:
    """Return the mean loss and the accuracy."""
    net.eval()
    loss = correct = count = 0.0
    with torch.no_grad():
        for x, y in batches:
            output = net(x)
            loss += float(nn.functional.cross_entropy(output, y, reduction="sum"))
            correct += float((output.argmax(1) == y).sum())
            count += len(y)
    return loss / count, correct / count
