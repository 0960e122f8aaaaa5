"""The run folder: written, checkpointed, resumed, read back and verified; never draws and never compares methods."""

from typing import TYPE_CHECKING

from fedlama.core.later import imported_later

if TYPE_CHECKING:
    from fedlama.runs.autosave import Checkpoints, Interrupted, resume_point, stop_on_signals
    from fedlama.runs.folder import RunFolder, environment, finite, metrics_line

__all__ = [
    "Checkpoints",
    "Interrupted",
    "RunFolder",
    "environment",
    "finite",
    "metrics_line",
    "resume_point",
    "stop_on_signals",
]

_HOMES = {
    "fedlama.runs.autosave": "Checkpoints Interrupted resume_point stop_on_signals",
    "fedlama.runs.folder": "RunFolder environment finite metrics_line",
}

__getattr__ = imported_later(globals(), _HOMES)
