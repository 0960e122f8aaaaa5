"""From a TOML file to a federation: names, settings and their checks; never trains and never writes a file."""

from typing import TYPE_CHECKING

from fedlama.core.later import imported_later

if TYPE_CHECKING:
    from fedlama.experiment.build import Material, assemble, prepare
    from fedlama.experiment.catalogue import Catalogue
    from fedlama.experiment.files import load_experiment, read
    from fedlama.experiment.options import names
    from fedlama.experiment.resolution import resolve
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

_HOMES = {
    "fedlama.experiment.build": "Material assemble prepare",
    "fedlama.experiment.catalogue": "Catalogue",
    "fedlama.experiment.files": "load_experiment read",
    "fedlama.experiment.options": "names",
    "fedlama.experiment.resolution": "resolve",
    "fedlama.experiment.settings": "Experiment Settings",
}

__getattr__ = imported_later(globals(), _HOMES)
