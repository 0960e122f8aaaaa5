"""The contract of tasks: what a model is trained for, that is the loss of a batch, and the metrics.

A batch is any nested structure of tensors (:mod:`fedlama.core.trees`). To write a task, inherit from :class:`Task` and
define :meth:`Task.loss`; everything else has a default:

* The model is called with the batch without its target: by position for a tuple such as (x, y), by keyword for a dict.
* The target is the last part of a tuple, and the entry :attr:`Task.target_key` of a dict.
* There are no metrics beside the loss, which is the primary one.

Every engine, the deployment and the evaluation go through these methods, so a task has to be written once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from fedlama.core.measures import Better
from fedlama.core.trees import Tree, samples
from fedlama.errors import DataError

Model = Callable[..., Any]
"""A model, or a function that computes with a client's tensors as the model does."""


KernelLoss = Literal["cross_entropy", "other"]
"""Losses that trainers with a backward pass of their own know, and all others."""


class Metric(Protocol):
    """What is accumulated over the batches of an evaluation; every ``torchmetrics.Metric`` is one."""

    def update(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401  (each metric has its own)
        """Add a batch."""

    def compute(self) -> Any:  # noqa: ANN401  (a tensor, or a number)
        """Return the value over all batches, one number; None where there is none."""

    def to(self, device: Any) -> Any:  # noqa: ANN401  (as `torch.nn.Module.to`)
        """Move the state to a device."""


Metrics = Mapping[str, Metric]
"""Metrics by name."""


class Task(Protocol):
    """What a model is trained for.

    A class with the same members need not inherit, but then it has no defaults.

    Attributes:
        name: The task's name in configuration files.
        target_key: The entry of a dict batch that is the target.
        primary: The metric by which two evaluations are compared, or ``"loss"``.
        direction: Whether a ``"higher"`` or a ``"lower"`` value of it is better.
        kernel_loss: The loss that trainers with a backward pass of their own know, where the task is exactly that;
            ``"other"`` for all others.
        loss_adds_up: Whether the loss of a batch is the mean of its parts' losses, each with its :meth:`weight`.
    """

    name: ClassVar[str]
    target_key: str = "labels"
    primary: str = "loss"
    direction: Better = "lower"

    @property
    def kernel_loss(self) -> KernelLoss:
        """The loss that kernels know; by default they do not know it."""
        return "other"

    @property
    def loss_adds_up(self) -> bool:
        """Whether a batch may be computed in parts; false for a loss that compares samples with each other."""
        return True

    def inputs(self, batch: Tree) -> Tree:
        """Return what the model is called with: the batch without its target."""
        if isinstance(batch, tuple) and len(batch) > 1:
            return batch[0] if len(batch) == 2 else batch[:-1]
        if isinstance(batch, Mapping):
            return {key: part for key, part in batch.items() if key != self.target_key}
        return batch

    def target(self, batch: Tree) -> Tree:
        """Return the target of a batch.

        Raises:
            DataError: The batch has none.
        """
        if isinstance(batch, tuple) and len(batch) > 1:
            return batch[-1]
        if isinstance(batch, Mapping) and self.target_key in batch:
            return batch[self.target_key]
        given = f"the entries {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else "inputs alone"
        raise DataError(
            f"the batch has {given}, expected a target for the task {self.name!r}: {self.target_key!r} in a dict, or "
            "the last part of a tuple; add one, or set the task's target_key"
        )

    def forward(self, model: Model, batch: Tree) -> Any:  # noqa: ANN401  (whatever the model returns)
        """Call the model.

        Args:
            model: The model; its parameters are those of the client that is trained.
            batch: The batch.

        Returns:
            What :meth:`loss` takes.
        """
        return call(model, self.inputs(batch))

    @abstractmethod
    def loss(self, output: Any, batch: Tree) -> Tensor:  # noqa: ANN401  (whatever the model returns)
        """Return the mean loss of a batch, a scalar.

        It must consist of operations of PyTorch on tensors, without Python decisions about their values; then
        ``torch.func.vmap`` computes it for many clients at once.

        Args:
            output: What :meth:`forward` returned.
            batch: The batch.
        """

    def weight(self, output: Any, batch: Tree) -> Tensor | float:  # noqa: ANN401
        """Return how much a batch's mean loss counts in the mean over several batches; by default its samples."""
        return samples(batch)

    def metrics(self) -> Metrics:
        """Return new metrics by name; import torchmetrics here, not at the top of a file."""
        return {}

    def update(self, metrics: Metrics, output: Any, batch: Tree, loss: Tensor) -> None:  # noqa: ANN401
        """Add a batch to the metrics; by default each one gets the output and the target.

        Args:
            metrics: What :meth:`metrics` returned, on the batch's device.
            output: What :meth:`forward` returned for the batch.
            batch: The batch, with targets as they were given.
            loss: Its loss, a scalar.
        """
        for metric in metrics.values():
            metric.update(output, self.target(batch))

    def check(self, owner: str, output: Any, data: Tree) -> list[str]:  # noqa: ANN401
        """Return why data do not fit the task, known before anything is trained; by default all fit.

        Args:
            owner: Whose data they are, for the sentences, such as ``"the clients"``.
            output: What the model returns for some samples of the data.
            data: All samples.

        Returns:
            Sentences with shapes and a remedy.
        """
        return []


def call(model: Model, inputs: Tree) -> Any:  # noqa: ANN401  (whatever the model returns)
    """Call a model: with a dict by keyword, with a plain tuple by position, with anything else as its one argument."""
    if isinstance(inputs, Tensor):  # the usual case first
        return model(inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if type(inputs) is tuple else model(inputs)


def logits_of(output: Any, model_returns: str = "a tensor of logits") -> Tensor:  # noqa: ANN401
    """Return the tensor that a model computed: its output, or the attribute `logits` of an output of transformers.

    Raises:
        DataError: It is something else.
    """
    tensor = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(tensor, Tensor):
        raise DataError(
            f"the model returned {type(output).__name__}, expected {model_returns}; return it, or choose a task that "
            "takes what the model returns"
        )
    return tensor


def aligned(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return an output and a target of the same shape, where one of them has a last dimension of 1 more.

    >>> import torch
    >>> aligned(torch.zeros(4, 1), torch.zeros(4))[0].shape
    torch.Size([4])
    """
    if output.dim() == target.dim() + 1 and output.shape[-1] == 1:
        output = output[..., 0]
    elif target.dim() == output.dim() + 1 and target.shape[-1] == 1:
        target = target[..., 0]
    if output.shape != target.shape:  # otherwise torch would stretch one of them
        raise DataError(
            f"the model's output has shape {tuple(output.shape)} and the target {tuple(target.shape)}, expected one "
            "number for each target; change the model's last layer or the targets"
        )
    return output, target


def shape_problems(owner: str, output: Tensor, target: Any, *, one_column: bool = False) -> list[str]:  # noqa: ANN401
    """Return why targets are not one number for each number of an output.

    Args:
        owner: Whose targets they are.
        output: The model's output for some samples.
        target: All targets.
        one_column: Whether a last dimension of 1 may be missing in one of them.
    """
    if not isinstance(target, Tensor):
        return [f"the targets of {owner} are {type(target).__name__}, expected one tensor; choose a task that takes it"]
    have, need = tuple(target.shape[1:]), tuple(output.shape[1:])
    if have == need or (one_column and {have, need} in ({(*have, 1), have}, {(*need, 1), need})):
        return []
    return [
        f"the targets of {owner} have shape {tuple(target.shape)} ({target.dtype}), but the model returns "
        f"{('samples', *need)}, expected one target for each number; change the model's last layer or the targets, or "
        "choose another task"
    ]
