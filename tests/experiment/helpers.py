"""Small experiments on the embedded digits, for tests that look at one thing each."""

from __future__ import annotations

from fedlama import Federation
from fedlama.experiment import Experiment, assemble, prepare, read, resolve

SMALL = ("partition.clients=4", "strategy.base_interval=3", "strategy.increase_factor=2", "local_steps=12")
"""Overrides that make the digits take a second."""


def experiment(*overrides: str) -> Experiment:
    """The digits, small, with changes."""
    return resolve(read("digits", [*SMALL, *overrides]))


def federation(*overrides: str) -> Federation:
    """The small digits, assembled."""
    own = experiment(*overrides)
    return assemble(own, prepare(own))
