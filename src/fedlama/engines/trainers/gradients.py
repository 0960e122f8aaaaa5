"""Every client's loss and gradients for any module, vectorised over clients with ``torch.func``.

One forward and one backward pass serve all rows. Nothing is assumed of the model; what it changes in place in its
buffers (BatchNorm's statistics) changes the stacked buffers directly. For a model that vmap cannot vectorise a warning
is issued once, and its rows are then computed one after another.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils import _pytree as pytree

from fedlama.core.modules import keep_reassigned_buffers, plain_attributes, set_training
from fedlama.core.trees import Tree, pick
from fedlama.engines.api import EngineSetup, Values
from fedlama.engines.cohort.batches import StackedBatch
from fedlama.engines.micro_batches import LossAndGradients, accumulated
from fedlama.engines.trainers.dropout import ClientDropout, borrowed_generator
from fedlama.engines.trainers.traced.steps import StepTensors, TracedSteps
from fedlama.engines.user_code import batch_loss
from fedlama.errors import ConfigError

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse a precision that a device does not offer.

    Args:
        precision: The numbers that the model is to compute in.
        device: Where to compute.

    Raises:
        ConfigError: torch has no autocast for this kind of device.
    """
    if precision != "float32" and not torch.amp.is_autocast_available(device.type):
        raise ConfigError(
            f"precision is {precision!r}, but torch has no mixed precision for device {str(device)!r}; "
            "set precision='float32'"
        )


def in_precision(precision: Precision, device: torch.device, compute: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Compute a model's output in a precision.

    Args:
        precision: The numbers that the model computes in.
        device: Where it computes.
        compute: Runs the model.

    Returns:
        The output in float32 at least, so that the loss is computed in float32.
    """
    if precision == "float32":
        return compute()
    # The cache of converted weights is for modules that are called several times; under vmap it holds stale wrappers.
    with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
        output = compute()
    return pytree.tree_map_only(Tensor, _at_least_float32, output)


def _at_least_float32(output: Tensor) -> Tensor:
    return output.float() if output.dtype == torch.bfloat16 else output


_ABSENT = object()
Gradients = tuple[Tensor, list[Tensor]]
"""Every row's loss, float64 (rows,), and the gradients of its own loss, (rows, ...) per trained parameter."""
Generators = Sequence[torch.Generator]
"""One random generator per row."""


class ClientGradients:
    """Computes the gradients of all rows.

    Args:
        setup: The federation's fixed parts.
        precision: The numbers that the model computes in.
        traced: Traced steps, which the trainers of an engine share; None to compute all steps as usual.

    Attributes:
        form: How gradients are computed, known from the first batch on: all rows at once without or with dropout, or
            one row after another. None before.
    """

    def __init__(self, setup: EngineSetup, precision: Precision, traced: TracedSteps | None = None) -> None:
        self._setup, self._precision, self._traced = setup, precision, traced
        self._model = self._new_copy()
        self._compute: Callable[[Values, Sequence[str], StackedBatch, Generators], Gradients] = self._first
        self.form: Literal["vectorised", "dropout", "one by one"] | None = None
        self._written: dict[tuple[str, str], Any] = {}

    def _new_copy(self) -> nn.Module:
        return set_training(copy.deepcopy(self._setup.model).to(self._setup.device))

    def __call__(
        self, values: Values, trained: Sequence[str], batch: StackedBatch, generators: Generators
    ) -> Gradients:
        """Compute every row's loss and gradients.

        Args:
            values: Stacked tensors of these rows, (rows, ...); buffers are updated in place.
            trained: The parameters whose gradients are wanted.
            batch: The rows' batches.
            generators: The rows' random generators.
        """

        def gradients_of(part: Tree) -> LossAndGradients:
            def compute() -> LossAndGradients:
                losses, gradients = self._compute(values, trained, StackedBatch(batch.rows, part), generators)
                return LossAndGradients(losses, gradients)

            if self._traced is None or self.form not in ("vectorised", "dropout"):
                return compute()
            return self._traced(StepTensors(values, tuple(trained), part, generators), compute)

        losses, gradients = accumulated(batch.batch, self._setup.micro_batch_size, gradients_of, dimension=1)
        return losses, list(gradients)

    def loss(self, watched: Values, others: Values, batch: Tree) -> tuple[Tensor, Values]:
        """Return one client's loss and its buffers afterwards; vmap runs this for all clients.

        Args:
            watched: The client's parameters that get gradients.
            others: Its other tensors.
            batch: Its batch; leaves are (batch, ...).
        """
        tensors = {**watched, **others}

        def model(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401  (what the model takes and returns)
            return functional_call(self._model, tensors, arguments, named)

        loss = batch_loss(self._setup.task, model, batch, self._in_precision)
        return loss, {name: tensors[name].detach() for name in others}

    def _in_precision(self, compute: Callable[[], Any]) -> Any:  # noqa: ANN401
        return in_precision(self._precision, self._setup.device, compute)

    def _first(self, values: Values, trained: Sequence[str], batch: StackedBatch, generators: Generators) -> Gradients:
        """Find out at the first batch whether the model can be vectorised and whether it has dropout."""
        buffers = {name: value.clone() for name, value in values.items() if name not in trained}
        states = [generator.get_state() for generator in generators]
        before = plain_attributes(self._model)
        try:
            with ClientDropout(generators, vectorised=True) as dropout:
                result = self._vectorised(values, trained, batch, generators)
        except torch.cuda.OutOfMemoryError:  # a RuntimeError too, but not because of the model's kind
            raise
        except (RuntimeError, ValueError) as error:
            warnings.warn(
                f"the model {type(self._model).__name__} cannot be vectorised over clients, so they are computed one "
                f"by one, as engine='workers' does ({str(error).splitlines()[0]})",
                stacklevel=2,
            )
            self._model = self._new_copy()  # what a module keeps of an attempt under vmap is of no use outside of it
            for name, value in buffers.items():
                values[name].copy_(value)
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
            self._compute, self.form = self._one_by_one, "one by one"
            return self._compute(values, trained, batch, generators)
        after = plain_attributes(self._model)
        self._written = {
            key: before.get(key, _ABSENT) for key, value in after.items() if value is not before.get(key, _ABSENT)
        }
        self._forget()
        if dropout.used:
            self._compute, self.form = self._with_dropout, "dropout"
        else:
            self._compute, self.form = self._vectorised, "vectorised"
        return result

    def _with_dropout(
        self, values: Values, trained: Sequence[str], batch: StackedBatch, generators: Generators
    ) -> Gradients:
        with ClientDropout(generators):
            return self._vectorised(values, trained, batch, generators)

    def _vectorised(
        self, values: Values, trained: Sequence[str], batch: StackedBatch, generators: Generators
    ) -> Gradients:
        """Compute all rows in one pass."""
        watched, others = _watch(values, trained)
        losses, after = vmap(self.loss)(watched, others, batch.batch)
        _keep(after, others)
        gradients = torch.autograd.grad(losses.sum(), list(watched.values()), materialize_grads=True)
        self._forget()
        return losses.detach().double(), list(gradients)

    def _forget(self) -> None:
        """Put back the plain attributes that the model has written.

        They hold tensors of all rows, which are of no use after a call under vmap. That results do not depend on them
        is checked at the first step.
        """
        for (path, name), value in self._written.items():
            module = self._model.get_submodule(path)
            if value is not _ABSENT:
                setattr(module, name, value)
            elif name in module.__dict__:
                delattr(module, name)

    def _one_by_one(
        self, values: Values, trained: Sequence[str], batch: StackedBatch, generators: Generators
    ) -> Gradients:
        """Compute the rows one after another, without vmap; the model may draw from torch's global generator.

        The model itself computes with a row's tensors, since ``functional_call`` refuses scripted and parallel modules.
        """
        slots = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        names = [name for name, _ in self._model.named_buffers()]
        losses, gradients = [], []
        for row, generator in enumerate(generators):
            tensors = {name: value[row] for name, value in values.items()}
            for name, value in tensors.items():
                slots[name].data = value
            with borrowed_generator(generator):
                loss = batch_loss(self._setup.task, self._model, pick(batch.batch, row), self._in_precision)
            keep_reassigned_buffers(self._model, slots, names, tensors)
            gradients.append(torch.autograd.grad(loss, [slots[name] for name in trained], materialize_grads=True))
            losses.append(loss.detach().double())
        return torch.stack(losses), [torch.stack(rows) for rows in zip(*gradients, strict=True)]


def _watch(values: Values, trained: Sequence[str]) -> tuple[Values, Values]:
    """Split tensors into those that get gradients and the others."""
    # Not detach(): slices of one stack, which other threads change in place, share a version counter.
    watched = {name: values[name].data.requires_grad_() for name in trained}
    return watched, {name: value.data for name, value in values.items() if name not in watched}


def _keep(after: Values, others: Values) -> None:
    """Copy buffers back that a module replaced instead of updating them in place."""
    with torch._C.DisableTorchFunction():  # these addresses are not what the model looks at
        replaced = [name for name, value in after.items() if value.data_ptr() != others[name].data_ptr()]
    for name in replaced:
        others[name].copy_(after[name])
