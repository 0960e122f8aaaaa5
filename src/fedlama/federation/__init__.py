"""One run: its settings, its loop, its evaluation and its state between rounds; never opens a file."""

from fedlama.federation.federation import Callback, Federation, Run, Weighting

__all__ = ["Callback", "Federation", "Run", "Weighting"]
