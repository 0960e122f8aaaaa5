"""A warning for runs whose loss has exploded without leaving the finite numbers.

The rule: a loss is too large above :data:`FACTOR` times what the run began with. That is the larger of the mean
training loss of the first round and the test loss of the first evaluation. For tasks with an accuracy it is moved into
the range of :data:`GUESSED`, so that neither a first round in which clients learn their few classes by heart, nor one
that has exploded already, decides alone.
"""

from __future__ import annotations

import math
import warnings

from fedlama.core.records import RoundRecord
from fedlama.errors import ExplodedLossWarning as ExplodedLossWarning
from fedlama.federation.settings import FederationSettings

FACTOR = 10.0
"""How many times larger than at first a loss may become without a warning."""
GUESSED = (1.0, 12.0)
"""The cross-entropy of a guess among 3 classes, roughly, and among 160,000."""


class LossWatch:
    """Warns once in a run, when a loss explodes.

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


def _reach(outer: object) -> str:
    """Return how far an outer step with momentum moves in the long run, relative to the average."""
    rate, momentum = getattr(outer, "learning_rate", None), getattr(outer, "momentum", None)
    if rate is None or momentum is None:
        return ""
    return f", which moves {rate / (1 - momentum):.2g} times as far as the average"
