"""Models, losses and solvers that a stacked engine may compute differently, or that remember something."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlama.choices.solvers import SGD, LocalSolver, OptimizerState

_calls = [0]


class Model(nn.Module):
    """A small classifier of six numbers; the cases below change its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 8)
        self.output = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output(torch.relu(self.hidden(x)))
        return logits


class Padded(nn.Module):
    """Mean embeddings, whose row 0 is not trained; `direct` calls the operator that the module calls."""

    def __init__(self, direct: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 8, padding_idx=0)
        self.output = nn.Linear(8, 3)
        self.direct = direct

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.embedding(self.table.weight, x, 0) if self.direct else self.table(x)  # (batch, tokens, 8)
        logits: Tensor = self.output(rows.mean(1))
        return logits


class Keeps(Model):
    """Keeps its last activation, which it writes before it reads it."""

    last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = torch.relu(self.hidden(x))
        logits: Tensor = self.output(self.last)
        return logits


class Counts(Model):
    """Counts its calls, and uses the number in no result."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Totals(Model):
    """Adds up its outputs for a log."""

    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        self.total = self.total + logits.detach().sum()
        return logits


class Teaches(Model):
    """Moves a frozen module after a trained one, as a momentum encoder does."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Linear(6, 8).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.teacher.weight.lerp_(self.hidden.weight, 0.1)
        logits: Tensor = super().forward(x) + self.output(self.teacher(x))
        return logits


class Caches(Model):
    """Keeps a table that is always the same."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "table"):
            self.table = torch.arange(6, dtype=x.dtype).cos()
        return super().forward(x * self.table)


class Anneals(Model):
    """Scales its logits by the number of training steps so far."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        return super().forward(x) * min(1.0, self.steps / 20)


class Thaws(Model):
    """Changes after a hundred steps."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()
        self.inner.seen = 0  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        self.inner.seen += 1  # type: ignore[assignment, operator]
        return super().forward(x) * (2.0 if int(self.inner.seen) > 100 else 1.0)  # type: ignore[arg-type]


class Recurs(nn.Module):
    """Starts each batch from the hidden state of the batch before."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNNCell(6, 8)
        self.output = nn.Linear(8, 3)
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        before = self.state if self.state is not None and len(self.state) == len(x) else None
        state = self.cell(x, before)
        self.state = state.detach()
        logits: Tensor = self.output(state)
        return logits


class Centres(Model):
    """Subtracts a running mean of all batches so far."""

    mean: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        now = x.mean(0).detach()
        self.mean = now if self.mean is None else 0.9 * self.mean + 0.1 * now
        return super().forward(x - self.mean)


class Remembers(Model):
    """Adds to a list, and reads from it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(float(x.detach().mean()))
        return super().forward(x + sum(self.seen))


class Normalises(Model):
    """Divides by a norm of the weights that it has computed once."""

    norm: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is None:
            self.norm = self.hidden.weight.detach().norm()
        return super().forward(x / self.norm)


class Global(Model):
    """Counts in a variable of its file."""

    def forward(self, x: Tensor) -> Tensor:
        _calls[0] += 1
        return super().forward(x) * (1 + _calls[0] % 7)


class InPlace(Model):
    """Overwrites its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(0.5))


class Drops(Model):
    """Drops activations by torch's function, and adds noise if it is asked to."""

    def __init__(self, noise: bool = False) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.dropout(torch.relu(self.hidden(x)), 0.5, self.training)
        if self.noise:
            hidden = hidden + 0.1 * torch.randn_like(hidden)
        logits: Tensor = self.output(hidden)
        return logits


class Elsewhere(Model):
    """Draws from the generators of Python and NumPy."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + random.random() + float(np.random.rand()))


class Balances:
    """A loss that is divided by a running mean of itself."""

    def __init__(self) -> None:
        self.mean = 1.0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        loss = functional.cross_entropy(output, target) / self.mean
        self.mean = 0.9 * self.mean + 0.2
        return loss


@dataclass(frozen=True)
class ClipByNorm(SGD):
    """Limits the norm of all gradients together."""

    def step(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], *others: Any) -> None:  # noqa: ANN401
        norm = torch.stack([gradient.pow(2).sum() for gradient in gradients]).sum().sqrt()
        super().step(parameters, [gradient * min(1.0, 0.05 / float(norm)) for gradient in gradients], *others)


@dataclass(frozen=True)
class CentresGradients(SGD):
    """Subtracts the mean over the first dimension, which is the clients' where they are stacked."""

    def step(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], *others: Any) -> None:  # noqa: ANN401
        centred = [gradient - gradient.mean(0, keepdim=True) for gradient in gradients]
        super().step(parameters, centred, *others)


@dataclass(frozen=True)
class Transposes(SGD):
    """Fails on stacked matrices, which have three dimensions."""

    def step(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], *others: Any) -> None:  # noqa: ANN401
        super().step(parameters, [gradient.t().contiguous().t() for gradient in gradients], *others)


@dataclass(frozen=True)
class Signs(SGD):
    """Steps by signs, so that the rounding of a gradient near zero becomes a whole step."""

    def step(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], *others: Any) -> None:  # noqa: ANN401
        super().step(parameters, [gradient.sign() for gradient in gradients], *others)


@dataclass
class CountsSteps(LocalSolver):
    """Counts all steps of all clients in one number."""

    name: ClassVar[str] = "counts-steps"
    learning_rate: float = 0.05
    steps: list[int] = field(default_factory=lambda: [0])

    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        decayed: Sequence[bool],
        reference: Sequence[Tensor],
    ) -> None:
        self.steps[0] += 1
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(gradient, alpha=rate / self.steps[0])
