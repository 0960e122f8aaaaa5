"""One thread for models this small."""

from __future__ import annotations
