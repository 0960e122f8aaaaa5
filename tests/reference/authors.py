"""The recorded run of the authors' program, set up for the restatement: their solver and their rules."""

from __future__ import annotations

import numpy as np

from tests.golden.load import Golden
from tests.reference.federation import Federation
from tests.reference.numpy_fedlama import FedLamaRules


def authors_federation(golden: Golden, dtype: type[np.floating] = np.float32) -> Federation:
    """The recorded problem: every variable is a layer, Keras momentum, equal weights."""
    return Federation(
        initial=list(golden.initial),
        batches=[list(zip(inputs, labels, strict=True)) for inputs, labels in zip(golden.x, golden.y, strict=True)],
        layers=[[variable] for variable in range(len(golden.names))],
        rounds=golden.rounds,
        steps=golden.steps,
        learning_rate=golden.learning_rate,
        momentum=golden.momentum,
        convention="keras",
        momentum_life="slot",
        dtype=dtype,
    )


def authors_rules(golden: Golden) -> FedLamaRules:
    """Only kernels adapt, delta counts all variables, the first adjustment comes after a round e > 5."""
    return FedLamaRules(
        phi=golden.phi,
        adapt=["kernel" in name for name in golden.names],
        cut="crossing",
        delta_over="all",
        adjust_after=5,
    )
