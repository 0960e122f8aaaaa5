"""The one place where local training calls the user's model and loss, and where their errors become a sentence.

A model may fail in any line of PyTorch, in the middle of a run. The sentence says which client and local step it was,
what the batch looked like, what the library said, and what to do. A vectorised engine does not know the client, so the
batches of its clients are tried one by one on a copy of the model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fedlama.choices.tasks import Task
from fedlama.core.losses import scalar
from fedlama.core.modules import set_training
from fedlama.core.trees import Tree, map_leaves, words
from fedlama.data.clients import Batch, is_pure
from fedlama.engines.api import EngineSetup
from fedlama.errors import DataError, FedlamaError, cut

_REMEDIES = (
    (
        "Expected more than 1 value per channel",
        "normalisation needs more than one sample in every batch: choose a batch_size that does not leave one sample "
        "over, or give that client more or fewer samples",
    ),
    ("CUDA out of memory", "lower batch_size, or the chunk of the engine"),
)
_DEFAULT_REMEDY = "run the model on such a batch outside of fedlama, and correct the model, the objective or the data"


class NamedFailures:
    """Turns an error inside the block into a :class:`DataError` that says where it happened.

    It is entered at every local step of the reference engine, so it writes its sentence only when something failed.

    Args:
        client: The client's number.
        step: Its local step, counted from 0 over the whole run.

    Attributes:
        batch: Its batch; to be set inside the block. While it is None, the batch is being made.

    Raises:
        DataError: The block raised something that is not an error of fedlama's.
    """

    __slots__ = ("_client", "_step", "batch")

    def __init__(self, client: int, step: int) -> None:
        self._client, self._step = client, step
        self.batch: Batch | None = None

    def __enter__(self) -> NamedFailures:
        """Return itself, for the batch."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raise the sentence, if an error of the user's code leaves the block."""
        if not isinstance(error, Exception) or isinstance(error, FedlamaError):
            return
        where, text = f"client {self._client}, local step {self._step}", f"{type(error).__name__}: {cut(error)}"
        if self.batch is None:
            raise DataError(
                f"{where}: its batch cannot be made: {text}; correct the source of the batches, or the preparation or "
                "augmentation of its inputs"
            ) from error
        raise DataError(
            f"{where}: the model or the objective failed on a batch of {words(self.batch)}: {text}; {_remedy(text)}"
        ) from error


def _remedy(text: str) -> str:
    """Return what to do about an error of torch's."""
    return next((remedy for part, remedy in _REMEDIES if part in text), _DEFAULT_REMEDY)


def batch_loss(
    task: Task, model: Callable[..., Any], batch: Tree, run: Callable[[Callable[[], Any]], Any] | None = None
) -> Tensor:
    """Return a batch's loss: the one place where local training calls a model and a loss.

    Args:
        task: What is learnt.
        model: The model, or a function that computes with one client's tensors as it does.
        batch: One client's batch, on the model's device.
        run: Calls the forward pass, for instance under another precision.

    Returns:
        A scalar.

    Raises:
        DataError: The loss is not a scalar.
    """
    output = task.forward(model, batch) if run is None else run(lambda: task.forward(model, batch))
    return scalar(task.loss(output, batch))


def explained(
    setup: EngineSetup, clients: Sequence[int], first: Sequence[int], steps: int, error: Exception
) -> Exception:
    """Return what failed in an engine that advances many clients at once: the client and the step, if one fails alone.

    Args:
        setup: The federation's fixed parts.
        clients: The clients that were advanced.
        first: The first local step of each one, counted from 0 over the whole run.
        steps: How many steps.
        error: What was raised.

    Returns:
        A :class:`DataError`, or `error` itself where no client fails by itself.
    """
    if not is_pure(setup.clients):  # recorded batches are given out once
        names, text = ", ".join(map(str, clients[:3])), f"{type(error).__name__}: {cut(error)}"
        more = ", ..." if len(clients) > 3 else ""
        return DataError(f"clients {names}{more}: the model or the objective failed: {text}; {_remedy(text)}")
    model = set_training(copy.deepcopy(setup.model).to(setup.device))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.random.fork_rng(devices=[]):
        for step in range(steps):
            for client, done in zip(clients, first, strict=True):
                try:
                    with NamedFailures(client, done + step) as failures:
                        batch = failures.batch = setup.clients.batch(client, done + step, setup.seed)
                        loss = batch_loss(setup.task, model, map_leaves(lambda leaf: leaf.to(setup.device), batch))
                        torch.autograd.grad(loss, trained, materialize_grads=True)
                except FedlamaError as found:
                    return found
    return error
