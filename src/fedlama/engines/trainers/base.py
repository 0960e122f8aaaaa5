"""The contract of trainers: what advances some rows of a stacked cohort through a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedlama.engines.api import EngineSetup
from fedlama.engines.cohort.cohort import Share


@dataclass(frozen=True)
class Task:
    """One round's work, the same for every client.

    Attributes:
        round_index: The round, from 0.
        steps: Local steps.
        trained: Positions in `Cohort.names` of the parameters that move.
        names: Their names.
        decayed: Per trained parameter, False for those of normalisation modules.
        reference: Their global values, for solvers that look back at them; else empty.
        rates: Learning rate of each local step.
    """

    round_index: int
    steps: int
    trained: tuple[int, ...]
    names: tuple[str, ...]
    decayed: tuple[bool, ...]
    reference: tuple[Tensor, ...]
    rates: tuple[float, ...]


class Trainer(Protocol):
    """Advances clients. A trainer belongs to one thread."""

    def run(self, share: Share, task: Task) -> list[float]:
        """Take all local steps of a round, in place.

        Args:
            share: Whose state to advance.
            task: The round's work.

        Returns:
            Mean training loss per client.

        Raises:
            DivergenceError: A client left the finite numbers.
        """


def make_task(
    setup: EngineSetup,
    names: Sequence[str],
    round_index: int,
    steps: int,
    frozen: frozenset[str],
    reference: Mapping[str, Tensor],
) -> Task:
    """Resolve a round's work.

    Args:
        setup: The federation's fixed parts.
        names: All parameters that require a gradient, in the model's order.
        round_index: The round, from 0.
        steps: Local steps.
        frozen: Layers that are not trained.
        reference: The global values.
    """
    fixed = {spec.name for layer in setup.layers if layer.name in frozen for spec in layer.tensors}
    normal = {spec.name for layer in setup.layers for spec in layer.tensors if spec.normalisation}
    trained = tuple(position for position, name in enumerate(names) if name not in fixed)
    moving = tuple(names[position] for position in trained)
    return Task(
        round_index,
        steps,
        trained,
        moving,
        tuple(name not in normal for name in moving),
        tuple(reference[name] for name in moving) if setup.solver.uses_reference else (),
        tuple(setup.solver.rate(round_index * steps + step) for step in range(steps)),
    )
