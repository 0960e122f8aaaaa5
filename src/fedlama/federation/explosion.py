"""Warnings for runs that learn nothing: a loss explodes without leaving the finite numbers, or accuracy is at chance.

A loss is too large above :data:`FACTOR` times what the run began with. That is the larger of the mean training loss of
the first round and the test loss of the first evaluation. For tasks with an accuracy it is moved into the range of
:data:`GUESSED`, so that neither a first round in which clients learn their few classes by heart, nor one that has
exploded already, decides alone.

Accuracy is at chance where the last :data:`SETTLED` evaluations have at most the share of the test set's most frequent
class, which a constant answer has too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from fedlama.core.records import RoundRecord
from fedlama.errors import ChanceAccuracyWarning
from fedlama.errors import ExplodedLossWarning as ExplodedLossWarning
from fedlama.federation.settings import FederationSettings

FACTOR = 10.0
"""How many times larger than at first a loss may become without a warning."""
GUESSED = (1.0, 12.0)
"""The cross-entropy of a guess among 3 classes, roughly, and among 160,000."""
SETTLED = 5
"""Evaluations at the end of a run that are looked at for an accuracy at chance."""
ENOUGH = 200
"""Samples of a test set from which on an accuracy at chance says something."""


class LossWatch:
    """Warns once in a run, when a loss explodes, or at its end, when the accuracy sits at chance.

    Args:
        federation: The run's settings, of which the warning names the likely causes.
    """

    def __init__(self, federation: FederationSettings) -> None:
        self._federation = federation
        self._training: float | None = None
        self._test: float | None = None
        self._warned = False

    def see(self, record: RoundRecord, *, quiet: bool = False) -> None:
        """Look at the losses of a round.

        Args:
            record: The record of the round.
            quiet: Only remember, because an earlier call has seen the round: the run was resumed after it.
        """
        score = record.score
        has_accuracy = score is not None and score.accuracy is not None
        if self._training is None and math.isfinite(record.loss):
            self._training = record.loss
        if score is not None and not has_accuracy and self._test is None:  # nothing to compare its scale with
            self._test = score.loss
        losses = {"mean training loss": record.loss, "test loss": math.nan if score is None else score.loss}
        limit = FACTOR * self._begun_with(guessing=has_accuracy)
        too_large = [(name, loss) for name, loss in losses.items() if math.isfinite(loss) and loss > limit > 0]
        if too_large and not self._warned:
            self._warned = True
            if not quiet:
                warnings.warn(self._sentence(record.round_index, *too_large[-1], limit), ExplodedLossWarning, 3)
        if score is not None and self._test is None:
            self._test = score.loss

    def end(self, records: Sequence[RoundRecord]) -> None:
        """Look at the last accuracies of a run that has ended.

        Args:
            records: The records of all rounds.
        """
        scores = [record.score for record in records if record.score is not None][-SETTLED:]
        accuracies = [score.accuracy for score in scores if score.accuracy is not None]
        chance = _largest_share(getattr(self._federation.test_set, "y", None))
        if self._warned or len(accuracies) < SETTLED or chance is None or max(accuracies) > chance:
            return
        federation = self._federation
        rate = getattr(federation.solver, "learning_rate", None)
        warnings.warn(
            f"{federation.strategy.name} with seed {federation.seed}: the last {SETTLED} evaluations have an accuracy "
            f"of at most {max(accuracies):.3g}, but always answering with the most frequent class of the test set has "
            f"{chance:.3g}; check that labels belong to their inputs, or try "
            f"{'another learning rate' if rate is None else f'another learning rate than {rate:g}'} or more rounds",
            ChanceAccuracyWarning,
            3,
        )

    def _begun_with(self, *, guessing: bool) -> float:
        """Return the loss that the run began with; infinity while it is not known."""
        known = [loss for loss in (self._training, self._test) if loss is not None and math.isfinite(loss)]
        first = max(known, default=math.inf)
        return min(max(first, GUESSED[0]), GUESSED[1]) if guessing else first

    def _sentence(self, round_index: int, name: str, loss: float, limit: float) -> str:
        federation = self._federation
        rate = getattr(federation.solver, "learning_rate", None)
        causes = [] if rate is None else [f"the learning rate ({rate:g})"]
        remedies = [] if rate is None else ["lower the learning rate"]
        outer, codec = federation.server_optimizer, federation.codec
        if outer.name != "replace":
            causes.append(f"the outer step (server_optimizer {outer.name!r}{_reach(outer)})")
            remedies.append("try server_optimizer 'replace'")
        if codec.name != "float32":
            bits = getattr(codec, "bits", None)
            causes.append(f"the codec ({codec.name!r}{'' if bits is None else f' in {bits} bits'})")
            remedies.append("try more bits, or codec 'float32'")
        causes.append("a client's data")
        return (
            f"{federation.strategy.name} with seed {federation.seed}: the {name} of round {round_index} is {loss:.3g}, "
            f"expected at most {limit:.3g}, which is {FACTOR:g} times what the run began with; likely "
            f"causes: {', '.join(causes)}; {', '.join([*remedies, 'or check the data'])}"
        )


def _largest_share(targets: object) -> float | None:
    """Return the share of the most frequent class; None for few samples, or if not each one has a class."""
    if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.is_floating_point() or len(targets) < ENOUGH:
        return None
    return float(torch.unique(targets, return_counts=True)[1].max()) / len(targets)


def _reach(outer: object) -> str:
    """Return how far an outer step with momentum moves in the long run, relative to the average."""
    rate, momentum = getattr(outer, "learning_rate", None), getattr(outer, "momentum", None)
    if rate is None or momentum is None:
        return ""
    return f", which moves {rate / (1 - momentum):.2g} times as far as the average"
