"""Flower itself, imported when it is needed and not before."""

from __future__ import annotations

import importlib
from typing import Any

from fedlama.errors import MissingExtraError


def flower(module: str) -> Any:  # noqa: ANN401  (a module of an optional library)
    """Return one of Flower's public modules.

    Args:
        module: ``"app"``, ``"serverapp"`` or ``"clientapp"``.

    Raises:
        MissingExtraError: Flower is not installed.
    """
    try:
        return importlib.import_module(f"flwr.{module}")
    except ImportError as error:
        raise MissingExtraError("flwr", "flower") from error
