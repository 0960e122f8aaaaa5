"""One federated run: its settings, its loop, its state."""

from fedlama.federation.federation import Callback, Federation, Run, Weighting

__all__ = ["Callback", "Federation", "Run", "Weighting"]
