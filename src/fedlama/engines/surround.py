"""What stands around an engine when clients do not always answer, or are not trusted."""

from __future__ import annotations

from fedlama.availability import Always, Availability
from fedlama.engines.base import Engine, Splittable, Work
from fedlama.engines.guarded import GuardedEngine
from fedlama.engines.unreliable import UnreliableEngine
from fedlama.errors import ConfigError
from fedlama.guards import Guard, NoGuard


def surrounded(engine: Engine, work: Work, availability: Availability, guard: Guard) -> Engine:
    """Return an engine whose clients answer as an availability says, and whose averages pass a guard.

    Args:
        engine: The engine.
        work: The federation's fixed parts.
        availability: Who answers.
        guard: How a layer's values are combined.

    Returns:
        The engine as it is, where everyone always answers and there is no guard.

    Raises:
        ConfigError: The engine does not hold single clients' models, so that it can do neither.
    """
    always, plain = isinstance(availability, Always), isinstance(guard, NoGuard)
    if (always and plain) or isinstance(engine, Splittable):
        guarded = engine if plain else GuardedEngine(work, engine, guard)
        return guarded if always else UnreliableEngine(work, guarded, availability)
    kind = type(engine).__name__
    problems = [] if always else [f"availability is {availability.name!r}, but who answers is not up to {kind}"]
    problems += [] if plain else [f"guard is {guard.name!r}, but {kind} does not show single clients' models"]
    raise ConfigError([f"{one}; choose engine='loop', 'stacked' or 'workers', or leave it out" for one in problems])
