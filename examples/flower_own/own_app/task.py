"""The parts that you already have: a model, data, a training function and one that scores."""

import torch
from torch import nn

import fedlama as fl

Data = tuple[torch.Tensor, torch.Tensor]


def build() -> nn.Module:
    """Return the model; the server and the clients must build the same one."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 3))


def load(client: int) -> tuple[Data, Data]:
    """Return a client's training and test data; in a real federation they are on its own disk."""
    draw = torch.Generator().manual_seed(client)
    x = torch.randn(250, 20, generator=draw)
    y = x[:, :3].argmax(dim=1)
    return (x[:200], y[:200]), (x[200:], y[200:])


def fit(model: nn.Module, data: Data, epochs: int) -> float:
    """Train for some epochs and return the mean loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(epochs):
        for x, y in zip(data[0].split(20), data[1].split(20), strict=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return sum(losses) / len(losses)


def score(model: nn.Module, data: Data) -> fl.Score:
    """Return loss and accuracy on a client's own test data."""
    output = model(data[0])
    loss = nn.functional.cross_entropy(output, data[1])
    accuracy = (output.argmax(dim=1) == data[1]).double().mean()
    return fl.Score(float(loss), {"accuracy": float(accuracy)}, "accuracy", "higher", weight=len(data[0]))
