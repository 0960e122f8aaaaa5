"""What is not the algorithm: callbacks that are told of every round."""

from fedlama.callbacks.folder import RunFolder, environment, metrics_line
from fedlama.callbacks.progress import MEGABYTE, LiveProgress, RunProgress

__all__ = ["MEGABYTE", "LiveProgress", "RunFolder", "RunProgress", "environment", "metrics_line"]
