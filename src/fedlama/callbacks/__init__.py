"""What is not the algorithm: callbacks that are told of every round."""

from fedlama.callbacks.checkpoints import Checkpoints, Interrupted, resume_point, stop_on_interrupt
from fedlama.callbacks.folder import RunFolder, environment, finite, metrics_line
from fedlama.callbacks.progress import MEGABYTE, LiveProgress, RunProgress

__all__ = [
    "MEGABYTE",
    "Checkpoints",
    "Interrupted",
    "LiveProgress",
    "RunFolder",
    "RunProgress",
    "environment",
    "finite",
    "metrics_line",
    "resume_point",
    "stop_on_interrupt",
]
