"""Read the recorded trajectory of the authors' FedLAMA program."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

TRACE = Path(__file__).with_name("authors_phi2.npz")


@dataclass(frozen=True)
class Golden:
    """A recorded run; worker, round and step are counted from 0, variables are in the order of ``names``.

    Attributes:
        names: Keras names of the variables; kernels are (in, out).
        phi: Interval increase factor.
        steps: Local steps in a round, tau'.
        learning_rate: Of the local SGD, the same throughout.
        momentum: Of the local SGD, in Keras's convention.
        initial: The initial variables.
        x: Inputs (worker, step of the whole run, batch, feature) in the order of use.
        y: Labels (worker, step of the whole run, batch).
        losses: Mean cross-entropy (round, worker).
        d: Unit discrepancy (round, variable), of the latest synchronisation.
        intervals: In rounds (round, variable), after the round's adjustment.
        num_comms: Synchronisations of each variable in the whole run.
        weights: All variables flattened in order (round, worker, parameter), after the round.
    """

    names: tuple[str, ...]
    phi: int
    steps: int
    learning_rate: float
    momentum: float
    initial: tuple[npt.NDArray[np.float32], ...]
    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    losses: npt.NDArray[np.float64]
    d: npt.NDArray[np.float64]
    intervals: npt.NDArray[np.int64]
    num_comms: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]

    @property
    def rounds(self) -> int:
        """Number of recorded rounds."""
        return len(self.d)

    @property
    def workers(self) -> int:
        """Number of workers."""
        return len(self.x)

    def model(self, round_index: int, worker: int) -> list[npt.NDArray[np.float32]]:
        """A worker's variables after a round, in their shapes."""
        ends = np.cumsum([variable.size for variable in self.initial])[:-1]
        parts = np.split(self.weights[round_index, worker], ends)
        return [part.reshape(variable.shape) for part, variable in zip(parts, self.initial, strict=True)]


def load_golden(path: Path = TRACE) -> Golden:
    """Load the recording."""
    with np.load(path, allow_pickle=False) as stored:
        names = tuple(str(name) for name in stored["names"])
        return Golden(
            names=names,
            phi=int(stored["phi"]),
            steps=int(stored["steps"]),
            learning_rate=float(stored["learning_rate"]),
            momentum=float(stored["momentum"]),
            initial=tuple(stored[f"w0_{index}"] for index in range(len(names))),
            x=stored["x"],
            y=stored["y"].astype(np.int64),
            losses=stored["losses"],
            d=stored["d"],
            intervals=stored["intervals"].astype(np.int64),
            num_comms=stored["num_comms"].astype(np.int64),
            weights=stored["weights"],
        )
