"""A strategy's state as plain JSON types, for a checkpoint, and back.

A strategy chooses its state freely, but JSON has no tuples, no infinite numbers, and only texts as keys. So the type of
the state must be known: its own, such as a dataclass, or else what `init` is annotated to return, such as
``dict[int, str]``. A state that would come back changed is refused when it is stored, because a run that continues from
it could give other results.

Pydantic is loaded by the first checkpoint, since it takes a tenth of a second of each start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_type_hints

from fedlama.choices.strategies import Strategy
from fedlama.errors import ConfigError, shown


def store_state(strategy: Strategy[Any], state: object) -> object:
    """Return a strategy's state as plain JSON types.

    Args:
        strategy: The strategy.
        state: A state that its `init` or `fold` returned.

    Raises:
        ConfigError: The state would come back changed.
    """
    for kind in _kinds(strategy, state):
        stored = _stored(kind, state)
        if stored is not None:
            return stored[0]
    raise ConfigError(
        f"the state of the strategy {strategy.name!r} cannot be stored in a checkpoint: {shown(state)} would come back "
        "changed; make it a frozen dataclass with annotated fields and finite numbers, or annotate what init returns, "
        "such as -> dict[int, str]"
    )


def restore_state(strategy: Strategy[Any], first: object, stored: object) -> Any:  # noqa: ANN401
    """Return a strategy's state from plain JSON types.

    Args:
        strategy: The strategy.
        first: The state that its `init` returned, which shows the type.
        stored: What :func:`store_state` returned.

    Raises:
        ValueError: The stored state does not have that type.
    """
    from pydantic import TypeAdapter

    kinds = list(_kinds(strategy, first))
    fitting = [kind for kind in kinds if _stored(kind, first) is not None]
    return TypeAdapter((fitting or kinds)[0]).validate_python(stored)


def _kinds(strategy: Strategy[Any], state: object) -> Iterator[Any]:
    """Yield the types that may describe a state."""
    yield type(state)
    try:
        annotated = get_type_hints(type(strategy).init).get("return", Any)
    except NameError:  # imported for type checkers only
        return
    if annotated is not Any:
        yield annotated


def _stored(kind: Any, state: object) -> tuple[object] | None:  # noqa: ANN401  (any type)
    """Return a state as plain types in a tuple; None if it would not come back as it was."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError
    from pydantic_core import PydanticSerializationError

    try:
        adapter = TypeAdapter(kind)
        stored = adapter.dump_python(state, mode="json", warnings=False)
        restored = adapter.validate_python(stored)
    except (PydanticUserError, PydanticSerializationError, ArithmeticError, TypeError, ValueError):
        return None
    return (stored,) if restored == state else None
