"""A client's step from fixed tensors into fixed tensors, as a recording needs it.

A step reads a client's model and batch, and writes its gradients, its loss and its buffers (BatchNorm's statistics).
The solver's step is not a part of it: it moves all clients together afterwards, with whatever rate the round has.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from fedlama.core.devices import copy_all
from fedlama.core.modules import keep_reassigned_buffers, set_training
from fedlama.core.trees import Tree
from fedlama.engines.api import EngineSetup, Values
from fedlama.engines.micro_batches import LossAndGradients, accumulated
from fedlama.engines.trainers.dropout import ClientDropout, borrowed_generator, watched_generator
from fedlama.engines.trainers.gradients import Precision, in_precision
from fedlama.engines.trainers.recorded.shared_work import SharedWork, WithoutCounters, shared_work
from fedlama.engines.user_code import batch_loss

Draws = Literal["nothing", "dropout", "global"]
"""What a model draws at random: nothing, dropout masks (which come from the client's generator), or anything else from
torch's global generator, which a recording cannot follow."""


@dataclass(frozen=True)
class StepTensors:
    """What the step of one client reads and writes, always the same memory.

    Attributes:
        values: The model's tensors by name; buffers are updated.
        gradients: Overwritten, one for each parameter that requires a gradient, in the model's order.
        loss: Overwritten, float64 ().
        batch: The client's batch, leaves (batch, ...).
        generator: The client's random generator.
        cast: Some of the parameters in bfloat16, by name; a step computes with these in their place.
    """

    values: Values
    gradients: Sequence[Tensor]
    loss: Tensor
    batch: Tree
    generator: torch.Generator
    cast: Values

    def results(self, buffers: Sequence[str]) -> list[Tensor]:
        """Return what a step writes: gradients, loss and buffers.

        Args:
            buffers: Names of the buffers.
        """
        return [*self.gradients, self.loss, *(self.values[name] for name in buffers)]


class ClientStep:
    """Computes the step of a client.

    Args:
        setup: The federation's fixed parts.
        precision: The numbers that the model computes in.
        torch_compiled: Whether the model goes through ``torch.compile``.

    Attributes:
        draws: What the model draws at random; to be found out with :meth:`observe` first.
        shared: What is done for all clients at once, not in a step; to be found out with :meth:`share_work`.
    """

    def __init__(self, setup: EngineSetup, precision: Precision, torch_compiled: bool) -> None:
        self._setup, self._precision = setup, precision
        self._model = set_training(copy.deepcopy(setup.model).to(setup.device))
        self._tensors = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        self._buffers = [name for name, _ in self._model.named_buffers()]
        self._trainable = [p for _, p in self._model.named_parameters() if p.requires_grad]
        self._compiled: Callable[..., Any] | None = None
        if torch_compiled:
            self._compiled = torch.compile(self._model, dynamic=False)
        self.draws: Draws = "nothing"
        self.shared = SharedWork()

    def observe(self, tensors: StepTensors) -> None:
        """Compute a step and find out what the model draws at random.

        Args:
            tensors: Tensors that may be changed.
        """
        with watched_generator() as drew, ClientDropout([tensors.generator]) as dropout:
            self._compute(tensors, self._model)
        self.draws = "global" if drew[0] else "dropout" if dropout.used else "nothing"
        if self._compiled is not None and self.draws != "nothing":
            warnings.warn(
                f"the model {type(self._model).__name__} draws random numbers, which come from the clients' own "
                "generators, so its steps run without torch.compile",
                stacklevel=2,
            )
            self._compiled = None

    def share_work(self, tensors: StepTensors) -> None:
        """Compute a step, find out what the steps of all clients have in common, and leave that out from now on.

        Args:
            tensors: Tensors that may be changed.
        """
        for name, value in tensors.values.items():
            self._tensors[name].data = value
        # Without torch.compile, which does not show what it does.
        compute = partial(self, tensors, usual=False)
        self.shared = shared_work(self._model, self._tensors, compute, self._precision == "bfloat16")

    def __call__(self, tensors: StepTensors, usual: bool = True) -> None:
        """Compute a step.

        Args:
            tensors: What it reads and writes.
            usual: Whether the batch has the usual shape. Batches of other shapes are computed without torch.compile,
                which would compile each of them.
        """
        model = self._compiled if usual and self._compiled is not None else self._model
        if self.draws == "dropout":
            with ClientDropout([tensors.generator]):
                self._compute(tensors, model)
        elif self.draws == "global":
            with borrowed_generator(tensors.generator):
                self._compute(tensors, model)
        else:
            self._compute(tensors, model)

    def _compute(self, tensors: StepTensors, model: Callable[..., Any]) -> None:
        for name, value in tensors.values.items():
            self._tensors[name].data = tensors.cast.get(name, value)  # compute with these very tensors, not with copies

        def gradients_of(batch: Tree) -> LossAndGradients:
            loss = batch_loss(self._setup.task, model, batch, self._in_precision)
            return LossAndGradients(loss, torch.autograd.grad(loss, self._trainable, materialize_grads=True))

        with WithoutCounters(self._model, list(self.shared.counters)):
            loss, gradients = accumulated(tensors.batch, self._setup.micro_batch_size, gradients_of)
        keep_reassigned_buffers(self._model, self._tensors, self._buffers, tensors.values)
        dense = [gradient.to_dense() if gradient.is_sparse else gradient for gradient in gradients]
        copy_all(tensors.gradients, dense)
        tensors.loss.copy_(loss.detach())

    def _in_precision(self, compute: Callable[[], Any]) -> Any:  # noqa: ANN401  (what the model returns)
        return in_precision(self._precision, self._setup.device, compute)
