"""The score of a model on one of a client's own sets, in a simulation and on the nodes of a deployment alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fedlama.choices.tasks import Task
from fedlama.core.records import Score
from fedlama.core.trees import map_leaves
from fedlama.data.clients import ClientSource
from fedlama.data.local_sets import Part, held_out
from fedlama.federation.tally import Tally


def own_score(task: Task, model: nn.Module, clients: ClientSource, client: int, part: Part = "test") -> Score | None:
    """Return the score of a model on one of a client's own sets.

    Args:
        task: The loss and the metrics.
        model: The model; in evaluation mode during the call.
        clients: The source of the clients.
        client: The client's number.
        part: Which of its sets.

    Returns:
        The score; its primary metric may be NaN, as on few samples of one class. None where the client has no such set.

    Raises:
        DataError: The loss is not a scalar, or a metric failed.
    """
    batches = held_out(clients, client, part)
    if batches is None:
        return None
    device, training = next(model.parameters()).device, model.training
    tally = Tally(task, device)
    model.eval()
    with torch.no_grad():
        for stored in batches:
            batch = map_leaves(lambda leaf: leaf.to(device), stored)
            given = map_leaves(torch.clone, batch)  # a model or a loss may work in place
            output = task.forward(model, batch)
            tally.add(output, given, task.loss(output, batch))
    model.train(training)
    return tally.score(f"the {part} set of client {client}", may_be_undefined=True)


@dataclass(frozen=True)
class OwnScorer:
    """Scores personal models for an engine.

    Args:
        task: The loss and the metrics.
        clients: The source of the clients.
    """

    task: Task
    clients: ClientSource

    def __call__(self, model: nn.Module, client: int, part: Part) -> Score | None:
        """Return the score of a model on one of a client's own sets; None where it has none."""
        return own_score(self.task, model, self.clients, client, part)
