"""From a TOML file to a federation: names, settings and their checks; never trains and never writes a file."""

from fedlama.experiment.experiment import Experiment, Material, Settings, assemble, prepare
from fedlama.experiment.files import names, read
from fedlama.experiment.resolve import resolve

__all__ = ["Experiment", "Material", "Settings", "assemble", "names", "prepare", "read", "resolve"]
