"""Names of a package that are imported at their first use, so that a short command does not wait for PyTorch.

A package lists its public names twice: as imports under ``TYPE_CHECKING``, for type checkers and editors, and in a
table for this module. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def imported_later(namespace: dict[str, Any], homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's ``__getattr__``, which imports a name at its first use and keeps it.

    Args:
        namespace: The package's ``globals()``.
        homes: Module to the names that it defines, with spaces between them; no name for a module that is itself one of
            the package's names.

    Returns:
        A function to assign to ``__getattr__``.

    >>> package = {"__name__": "package"}
    >>> find = imported_later(package, {"fedlama.core.ledger": "Ledger Row", "fedlama.core.plan": ""})
    >>> find("Row").__name__, sorted(package)
    ('Row', ['Row', '__name__'])
    >>> find("plan").__name__
    'fedlama.core.plan'
    """
    modules = {name: module for module, names in homes.items() for name in names.split()}
    inner = {module.rpartition(".")[2]: module for module, names in homes.items() if not names}

    def __getattr__(name: str) -> Any:  # noqa: ANN401, N807  (what a package's attribute may be)
        if name in modules:
            value = getattr(import_module(modules[name]), name)
        elif name in inner:
            value = import_module(inner[name])
        else:
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
        return namespace.setdefault(name, value)

    return __getattr__
