"""Every client's loss and gradients for any module, vectorised over clients with ``torch.func``.

One forward and one backward pass serve all rows. Nothing is assumed of the model; what it does in place to its buffers
(BatchNorm's statistics) goes to the stacked buffers directly. A model that vmap cannot vectorise is said to be so once,
and its rows are then taken one after another.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from fedlama.engines.api import EngineSetup, Values
from fedlama.engines.cohort.batches import StackedBatch
from fedlama.engines.trainers.dropout import ClientDropout, borrowed_generator
from fedlama.errors import ConfigError

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse what a device cannot do.

    Args:
        precision: What is asked for.
        device: Where to compute.

    Raises:
        ConfigError: torch has no autocast for this kind of device.
    """
    if precision != "float32" and not torch.amp.is_autocast_available(device.type):
        raise ConfigError(
            f"precision is {precision!r}, but torch has no mixed precision for device {str(device)!r}; "
            "set precision='float32'"
        )


def in_precision(precision: Precision, device: torch.device, compute: Callable[[], Tensor]) -> Tensor:
    """Compute a model's output in a precision.

    Args:
        precision: Which.
        device: Where it computes.
        compute: Runs the model.

    Returns:
        The output, never in a shorter format than float32, so that the loss is not either.
    """
    if precision == "float32":
        return compute()
    # The cache of converted weights is for modules that are called several times; under vmap it holds stale wrappers.
    with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
        output = compute()
    return output.float() if output.dtype == torch.bfloat16 else output


Gradients = tuple[Tensor, list[Tensor]]
Generators = Sequence[torch.Generator]


class ClientGradients:
    """Computes the gradients of all rows.

    Args:
        setup: The federation's fixed parts.
        precision: In which numbers the model computes.

    Attributes:
        form: How it is done, once the first batch has shown it: all rows at once, without or with dropout, or one after
            another.
    """

    def __init__(self, setup: EngineSetup, precision: Precision) -> None:
        self._setup, self._precision = setup, precision
        self._model = copy.deepcopy(setup.model).to(setup.device).train()
        self._compute: Callable[[Values, Sequence[str], StackedBatch, Generators], Gradients] = self._first
        self.form: Literal["vectorised", "dropout", "one by one"] | None = None

    def __call__(self, values: Values, trained: Sequence[str], batch: StackedBatch, draws: Generators) -> Gradients:
        """Return every row's loss, float64 (rows,), and the gradients of its own loss, (rows, ...) each.

        Args:
            values: Stacked tensors of these rows; buffers are updated in place.
            trained: What gradients are wanted of.
            batch: The rows' batches.
            draws: The rows' generators.
        """
        return self._compute(values, trained, batch, draws)

    def loss(self, watched: Values, others: Values, x: Tensor, y: Tensor) -> tuple[Tensor, Values]:
        """One client's loss and buffers; vmap runs it for all of them."""
        tensors = {**watched, **others}
        output = in_precision(self._precision, self._setup.device, lambda: functional_call(self._model, tensors, (x,)))
        return self._setup.objective(output, y), {name: tensors[name].detach() for name in others}

    def _first(self, values: Values, trained: Sequence[str], batch: StackedBatch, draws: Generators) -> Gradients:
        """Find out at the first batch whether the model can be vectorised and whether it has dropout."""
        buffers = {name: value.clone() for name, value in values.items() if name not in trained}
        states = [generator.get_state() for generator in draws]
        try:
            with ClientDropout(draws) as dropout:
                result = self._vectorised(values, trained, batch, draws)
        except torch.cuda.OutOfMemoryError:  # a RuntimeError, but says nothing of the model
            raise
        except (RuntimeError, ValueError) as error:
            warnings.warn(
                f"the model {type(self._model).__name__} cannot be vectorised over clients, so the stacked engine takes"
                f" them one by one; engine='workers' is faster for it ({str(error).splitlines()[0]})",
                stacklevel=2,
            )
            for name, value in buffers.items():
                values[name].copy_(value)
            for generator, state in zip(draws, states, strict=True):
                generator.set_state(state)
            self._compute, self.form = self._one_by_one, "one by one"
            return self._compute(values, trained, batch, draws)
        self._compute = self._with_dropout if dropout.used else self._vectorised
        self.form = "dropout" if dropout.used else "vectorised"
        return result

    def _with_dropout(
        self, values: Values, trained: Sequence[str], batch: StackedBatch, draws: Generators
    ) -> Gradients:
        with ClientDropout(draws):
            return self._vectorised(values, trained, batch, draws)

    def _vectorised(self, values: Values, trained: Sequence[str], batch: StackedBatch, draws: Generators) -> Gradients:
        """All rows in one pass."""
        watched, others = _watch(values, trained)
        losses, after = vmap(self.loss)(watched, others, batch.x, batch.y)
        _keep(after, others)
        gradients = torch.autograd.grad(losses.sum(), list(watched.values()), materialize_grads=True)
        return losses.detach().double(), list(gradients)

    def _one_by_one(self, values: Values, trained: Sequence[str], batch: StackedBatch, draws: Generators) -> Gradients:
        """Do the same without vmap; the model may draw from torch's global generator."""
        losses, gradients = [], []
        for row, generator in enumerate(draws):
            own = {name: value[row] for name, value in values.items()}
            watched, others = _watch(own, trained)
            with borrowed_generator(generator):
                loss, after = self.loss(watched, others, batch.x[row], batch.y[row])
            _keep(after, others)
            gradients.append(torch.autograd.grad(loss, list(watched.values()), materialize_grads=True))
            losses.append(loss.detach().double())
        return torch.stack(losses), [torch.stack(rows) for rows in zip(*gradients, strict=True)]


def _watch(values: Values, trained: Sequence[str]) -> tuple[Values, Values]:
    """Split into what gradients are wanted of, and the rest."""
    watched = {name: values[name].detach().requires_grad_() for name in trained}
    return watched, {name: value for name, value in values.items() if name not in watched}


def _keep(after: Values, others: Values) -> None:
    """Copy back buffers that a module replaced instead of updating in place."""
    for name, value in after.items():
        if value.data_ptr() != others[name].data_ptr():
            others[name].copy_(value)
