"""From a TOML file to a federation: names, settings and their checks; never trains and never writes a file."""

from fedlama.experiment.build import Material, assemble, prepare
from fedlama.experiment.files import names, read
from fedlama.experiment.resolve import load_experiment, resolve
from fedlama.experiment.settings import Experiment, Settings

__all__ = ["Experiment", "Material", "Settings", "assemble", "load_experiment", "names", "prepare", "read", "resolve"]
