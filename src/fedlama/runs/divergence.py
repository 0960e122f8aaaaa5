"""A run that left the finite numbers, as a comparison keeps it: its seed is left out, and the other runs go on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedlama.errors import DivergenceError, printable


@dataclass(frozen=True)
class Divergence:
    """Where a run diverged.

    Attributes:
        title: The method with its intervals, such as ``FedLAMA(6, 4)``.
        seed: The run's seed.
        folder: The run folder, with the lines of all whole rounds before.
        error: What a run by itself raises.
    """

    title: str
    seed: int
    folder: Path
    error: DivergenceError

    def to_json(self) -> dict[str, object]:
        """Return its entry in ``comparison.json``."""
        return {
            "method": self.title,
            "seed": self.seed,
            "round": self.error.round_index,
            "client": self.error.client,
            "layer": self.error.layer,
            "reason": str(self.error),
            "run_folder": str(self.folder),
        }

    def show(self) -> str:
        """Return a sentence for the user.

        >>> error = DivergenceError(3, 0, "dense0", "the loss is nan", "lower the learning rate")
        >>> Divergence("FedAvg(6)", 1, Path("runs"), error).show().partition(";")[0]
        "FedAvg(6) diverged under seed 1: round 3: client 0 diverged in layer 'dense0' (the loss is nan)"
        """
        return f"{self.title} diverged under seed {self.seed}: {printable(self.error)}"


def light(error: DivergenceError) -> DivergenceError:
    """Return an error without the frames in which it was raised, which hold the run's models."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error
