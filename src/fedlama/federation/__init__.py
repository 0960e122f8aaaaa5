"""One run: its settings, its loop, its evaluation and its state between rounds; never opens a file."""

from fedlama.federation.callbacks import Callback
from fedlama.federation.federation import Federation
from fedlama.federation.run import Run
from fedlama.federation.settings import Weighting

__all__ = ["Callback", "Federation", "Run", "Weighting"]
