"""Survival: times that are censored for some samples, and the proportional hazards model of Cox."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fedlama.choices.tasks.base import Metrics, Task, logits_of
from fedlama.core.measures import Better
from fedlama.core.registry import register
from fedlama.core.trees import Tree
from fedlama.core.validation import normalise_numbers, one_of, refuse

Columns = Literal["event, time", "time, event"]
_CHUNK = 1 << 22
"""Pairs of samples that the concordance looks at in one go."""


@register("task", "cox")
@dataclass(frozen=True)
class Cox(Task):
    """The negative partial log-likelihood, and the concordance index.

    The model returns one risk score s for each sample, (batch,) or (batch, 1). The loss is, over the n samples of a
    batch, 1/n times the sum over samples i with an event of log(sum of exp(s_j) over all j with t_j >= t_i) - s_i. So
    samples with the time of an event are at risk (Breslow's treatment of ties), and a batch without events has the loss
    0 and the gradient 0. It is the definition of the benchmark FLamby (Ogier du Terrail et al., 2022), which puts ties
    in an arbitrary order instead. The loss of an evaluation is the mean over its batches, while the concordance is that
    of all samples together.

    Args:
        columns: The order of the two columns of the targets, (batch, 2): whether the event was seen (1) or the sample
            is censored (0), and the time.
        primary: The metric by which evaluations are compared.
        target_key: The targets' entry, where batches are dicts.

    Raises:
        ConfigError: A setting is unknown.

    >>> loss = Cox().loss(torch.zeros(2), (None, torch.tensor([[1.0, 3.0], [1.0, 5.0]])))
    >>> round(float(loss), 4)  # (ln 2 + ln 1) / 2
    0.3466
    """

    name: ClassVar[str] = "cox"
    columns: Columns = "event, time"
    primary: Literal["concordance", "loss"] = "concordance"
    target_key: str = "labels"
    direction: Better = field(init=False, default="higher", repr=False, compare=False)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(
            one_of(self, "columns", ("event, time", "time, event")) + one_of(self, "primary", ("concordance", "loss"))
        )
        object.__setattr__(self, "direction", "lower" if self.primary == "loss" else "higher")

    @property
    def loss_adds_up(self) -> bool:
        """Not: every sample is compared with those at risk."""
        return False

    def loss(self, output: Any, batch: Tree) -> Tensor:  # noqa: ANN401
        """Return the loss of the batch, whose samples alone are at risk."""
        risk, events, times = self._parts(output, batch)
        at_risk = times[None, :] >= times[:, None]  # (samples, samples): row i has those at risk at the time of i
        together = torch.where(at_risk, risk[None, :], -torch.inf).logsumexp(1)
        return torch.where(events, together - risk, 0).sum() / len(risk)

    def metrics(self) -> Metrics:
        """Return the concordance index."""
        return {"concordance": Concordance()}

    def update(self, metrics: Metrics, output: Any, batch: Tree, loss: Tensor) -> None:  # noqa: ANN401
        """Keep scores, events and times."""
        metrics["concordance"].update(*self._parts(output, batch))

    def check(self, owner: str, output: Any, data: Tree) -> list[str]:  # noqa: ANN401
        """Refuse outputs that are not one score, and targets that are not an event of 0 or 1 and a time."""
        scores, target = logits_of(output), self.target(data)
        if scores[0].numel() != 1:
            return [
                f"the model returns shape {('samples', *scores.shape[1:])}, expected one risk score for each sample "
                "for the task 'cox'; end it with a layer of one output"
            ]
        if target.dim() != 2 or target.shape[1] != 2:
            return [
                f"the targets of {owner} have shape {tuple(target.shape)}, expected (samples, 2): {self.columns}; give "
                "these two columns"
            ]
        event, time = self._columns(target)
        if not torch.isfinite(time).all() or not ((event == 0) | (event == 1)).all():
            return [
                f"the targets of {owner} hold an event that is not 0 or 1, or a time that is not finite; correct them, "
                f"or the order of the columns (columns is {self.columns!r})"
            ]
        if not event.any():
            return [f"no sample of {owner} has an event, so there is nothing to learn from; give some that have"]
        return []

    def _columns(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return events and times."""
        first, second = target[:, 0], target[:, 1]
        return (first, second) if self.columns == "event, time" else (second, first)

    def _parts(self, output: Any, batch: Tree) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        """Return risk scores, whether the event was seen, and times; each (samples,)."""
        event, time = self._columns(self.target(batch))
        return logits_of(output).reshape(-1), event != 0, time


class Concordance:
    """Harrell's concordance index, with the interface of a torchmetrics metric.

    Of all pairs in which one sample's event was seen before the other sample's time, or at that time while the other
    one is censored, it is the fraction in which that sample has the larger risk score; equal scores count one half.
    """

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, risk: Tensor, events: Tensor, times: Tensor) -> None:
        """Add a batch; each part has shape (samples,)."""
        self._batches.append((risk.detach(), events, times))

    def compute(self) -> Tensor:
        """Return the index, float64; NaN where no pair can be compared."""
        risk, events, times = (torch.cat(list(part)) for part in zip(*self._batches, strict=True))
        concordant = torch.zeros((), dtype=torch.float64, device=risk.device)
        pairs = torch.zeros_like(concordant)
        for rows in torch.split(events.nonzero()[:, 0], max(_CHUNK // len(risk), 1)):
            later = (times > times[rows, None]) | ((times == times[rows, None]) & ~events)  # (rows, samples)
            above, equal = risk[rows, None] > risk, risk[rows, None] == risk
            concordant = concordant + (later & above).sum() + 0.5 * (later & equal).sum()
            pairs = pairs + later.sum()
        return concordant / pairs

    def to(self, device: torch.device) -> Concordance:
        """Return itself; it keeps batches where they are."""
        return self
