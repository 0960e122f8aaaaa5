"""From a TOML file to a federation: names, settings and their checks; never trains and never writes a file."""

from fedlama.experiment.build import Material, assemble, prepare
from fedlama.experiment.catalogue import Catalogue
from fedlama.experiment.files import load_experiment, names, read
from fedlama.experiment.resolve import resolve
from fedlama.experiment.settings import Experiment, Settings

__all__ = [
    "Catalogue",
    "Experiment",
    "Material",
    "Settings",
    "assemble",
    "load_experiment",
    "names",
    "prepare",
    "read",
    "resolve",
]
