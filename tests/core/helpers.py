"""What the core's tests share: small models, small clients, and the bridge to the NumPy restatement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedlama import ClientData, Federation, Layer, Layers, Result, RoundRecord, Run
from fedlama.choices.strategies import Strategy
from fedlama.core.layers import TensorSpec
from tests.reference import Batch, Model, random_model

FEATURES, CLASSES = 6, 3
WIDTHS = [FEATURES, 8, 7, CLASSES]


def dense(initial: Sequence[npt.NDArray[np.floating]]) -> nn.Sequential:
    """Build dense layers with ReLU between them from variables of the restatement.

    Args:
        initial: Kernel (in, out), bias, kernel, bias, ...; torch keeps kernels as (out, in).
    """
    parts: list[nn.Module] = []
    for kernel, bias in zip(initial[::2], initial[1::2], strict=True):
        linear = nn.Linear(*kernel.shape, dtype=torch.from_numpy(kernel).dtype)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(kernel.T.copy()))
            linear.bias.copy_(torch.from_numpy(bias))
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def variables(values: Mapping[str, Tensor]) -> Model:
    """Return a dense model's tensors as the restatement orders and shapes them."""
    return [value.numpy().T if value.ndim == 2 else value.numpy() for value in values.values()]


def mlp(seed: int = 1, widths: Sequence[int] = WIDTHS, dtype: type[np.floating] = np.float64) -> nn.Sequential:
    """Return a small dense network with random weights."""
    return dense(random_model(list(widths), seed, dtype))


class Normed(nn.Module):
    """A dense network with BatchNorm, so with buffers that are synchronised."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Linear(FEATURES, 8)
            self.norm = nn.BatchNorm1d(8)
            self.second = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, features) to logits."""
        return self.second(torch.relu(self.norm(self.first(x))))


def random_batches(clients: int, steps: int, seed: int = 0) -> list[list[Batch]]:
    """Random batches of 5; each client has its own mean and prefers a class, so that the clients drift apart."""
    rng = np.random.default_rng(seed)
    return [
        [
            (
                rng.normal(size=(5, FEATURES)) + client,
                np.where(rng.random(5) < 0.5, client % CLASSES, rng.integers(CLASSES, size=5)),
            )
            for _ in range(steps)
        ]
        for client in range(clients)
    ]


def as_torch(batches: Sequence[Sequence[Batch]]) -> list[list[tuple[Tensor, Tensor]]]:
    """The same batches as tensors."""
    return [[(torch.from_numpy(x), torch.from_numpy(y)) for x, y in own] for own in batches]


def skewed_clients(
    count: int = 4, batch_size: int = 5, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[ClientData]:
    """Clients of 10, 15, 20, ... samples that differ in mean and labels."""
    generator = torch.Generator().manual_seed(seed)
    clients = []
    for client in range(count):
        samples = 10 + 5 * client
        x = torch.randn(samples, FEATURES, generator=generator, dtype=dtype) + client
        y = torch.randint(CLASSES, (samples,), generator=generator)
        clients.append(ClientData(x, y, batch_size))
    return clients


def parameter_layer(name: str, *shape: int, adaptive: bool = True) -> Layer:
    """A layer of one parameter tensor, for strategies that see only names and sizes."""
    return Layer(name, (TensorSpec(name, shape, torch.float32, True),), adaptive)


def layers_of(sizes: Sequence[int], adaptive: Sequence[bool] | None = None) -> Layers:
    """Layers named "0", "1", ... of the given sizes."""
    flags = [True] * len(sizes) if adaptive is None else adaptive
    return tuple(
        parameter_layer(str(index), size, adaptive=bool(flag))
        for index, (size, flag) in enumerate(zip(sizes, flags, strict=True))
    )


def play(federation: Federation, watch: Callable[[Run, RoundRecord], None]) -> Run:
    """Run a federation round by round and show each round's end to `watch`."""
    run = Run(federation)
    while run.round_index < federation.rounds:
        watch(run, run.advance())
    return run


class Line(nn.Module):
    """A model that is two numbers, ``free`` and ``held``; its output is their sum, whatever the input."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.free = nn.Parameter(torch.full((1, 1), start, dtype=torch.float64))
        self.held = nn.Parameter(torch.full((1, 1), start, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Return free + held for each sample."""
        return (self.free + self.held).expand(len(x), 1)


def pushed(*targets: float, samples: Sequence[int] | None = None) -> list[ClientData]:
    """Clients for :class:`Line` with :func:`product`: client c's gradient is its target in every step."""
    counts = [1] * len(targets) if samples is None else samples
    return [
        ClientData(torch.zeros(n, 1, dtype=torch.float64), torch.full((n, 1), target, dtype=torch.float64), n)
        for target, n in zip(targets, counts, strict=True)
    ]


def product(output: Tensor, target: Tensor) -> Tensor:
    """A linear loss: its gradient in the model's output is the target."""
    return (output * target).mean()


def assert_same_bits(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """The same names with exactly the same values."""
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def assert_same_run(first: Result, second: Result) -> None:
    """Two runs that agree bit for bit in models, losses and transfers."""
    assert_same_bits(first.model, second.model)
    for one, other in zip(first.rounds, second.rounds, strict=True):
        assert one.loss == other.loss
        assert one.cohort == other.cohort
        for client in one.client_models:
            assert_same_bits(one.client_models[client], other.client_models[client])


class _Point(nn.Module):
    """One parameter x and a sample (a, b) to a (x - b)^2 / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, sample: Tensor) -> Tensor:
        loss: Tensor = sample[:, 0] * (self.x - sample[:, 1]) ** 2 / 2
        return loss


def quadratics(strategy: Strategy[Any], **choices: Any) -> Federation:  # noqa: ANN401  (fields of a federation)
    """Two clients with a (x - b)^2 / 2, b = 0 and 1, a = 1 and 9.

    The optimum is the mean of b by a, 0.9; with many local steps FedAvg ends near the mean of b, 0.5.
    """
    data = [torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([[9.0, 1.0]], dtype=torch.float64)]
    clients = [ClientData(x, torch.zeros(1), 1) for x in data]
    return Federation(_Point(), clients, strategy, objective=lambda output, _: output.mean(), **choices)
