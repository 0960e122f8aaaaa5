"""Cross-entropy of many clients and its gradient, classes first."""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, y: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return every client's mean loss and the gradient with respect to its logits.

    Args:
        logits: (clients, classes, batch).
        y: int64 classes, (clients, batch).
        shares: (clients, 1, batch): 1 / the client's batch size, and 0 for rows that only fill up a short batch.

    Returns:
        Losses, (clients,), and gradients like `logits`.
    """
    chances = torch.log_softmax(logits, 1)
    where = y.unsqueeze(1)
    losses = torch.mul(chances.gather(1, where), shares).sum((1, 2)).neg_()
    gradient = chances.exp_().mul_(shares)
    return losses, gradient.scatter_add_(1, where, -shares)
