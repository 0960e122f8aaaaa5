"""Hyper-parameters that do not make sense are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fedlama import ConfigError, Cyclic, FedAvg, FedLAMA, FedLUAR, FixedIntervals


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: FedLAMA(2.5, 2), "base_interval is 2.5, but it must be a whole number"),  # type: ignore[arg-type]
        (lambda: FedLAMA(6, True), "increase_factor is True, but it must be a whole number"),
        (lambda: FedAvg(1.5), "base_interval is 1.5, but it must be a whole number"),  # type: ignore[arg-type]
        (lambda: FedLUAR(3, 1.5), "recycled_layers is 1.5, but it must be a whole number"),  # type: ignore[arg-type]
        (lambda: Cyclic(3, full_rounds=0.5), "full_rounds is 0.5, but it must be a whole number"),  # type: ignore[arg-type]
        (lambda: Cyclic(3, full_rounds=-1), "full_rounds is -1, but it must be 0 or more"),
        (lambda: FixedIntervals(0.5), "base_interval is 0.5, but it must be a whole number"),  # type: ignore[arg-type]
        (lambda: FedLAMA(6, 2, cutoff="printed", accelerate=True), "accelerate has a cut-off of its own"),
        (lambda: FedLAMA(6, 2, discrepancy_share="all", accelerate=True), "accelerate has a cut-off of its own"),
        (lambda: FedLAMA(7, 2, accelerate=True), "which leaves a remainder; choose a multiple"),
    ],
)
def test_refused(build: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build()
