"""One run: its settings, its loop, its evaluation and its state between rounds; never opens a file."""

from typing import TYPE_CHECKING

from fedlama.core.later import imported_later

if TYPE_CHECKING:
    from fedlama.federation.callbacks import Callback
    from fedlama.federation.federation import Federation
    from fedlama.federation.run import Run
    from fedlama.federation.settings import Weighting

__all__ = ["Callback", "Federation", "Run", "Weighting"]

_HOMES = {
    "fedlama.federation.callbacks": "Callback",
    "fedlama.federation.federation": "Federation",
    "fedlama.federation.run": "Run",
    "fedlama.federation.settings": "Weighting",
}

__getattr__ = imported_later(globals(), _HOMES)
