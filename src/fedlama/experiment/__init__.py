"""Experiments: settings in files, resolved and checked, built into federations."""

from fedlama.experiment.experiment import Experiment, Material, Settings, assemble, prepare
from fedlama.experiment.files import names, read
from fedlama.experiment.resolve import resolve

__all__ = ["Experiment", "Material", "Settings", "assemble", "names", "prepare", "read", "resolve"]
