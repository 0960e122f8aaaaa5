"""Engines around an engine: clients that do not always answer, and averages other than the weighted mean."""

from __future__ import annotations

from fedlama.choices.aggregators import Aggregator
from fedlama.choices.availability import Availability
from fedlama.choices.codecs import varies
from fedlama.core.registry import shown_name
from fedlama.engines.api import Engine, EngineSetup
from fedlama.engines.gradient_pass import gradient_kind
from fedlama.engines.wrappers.aggregated import AggregatedEngine
from fedlama.engines.wrappers.unreliable import UnreliableEngine
from fedlama.errors import ConfigError

_REMEDY = "choose engine='loop', 'stacked' or 'workers', or leave it out"


def wrap(engine: Engine, setup: EngineSetup, availability: Availability, aggregator: Aggregator) -> Engine:
    """Return an engine whose clients answer as an availability says, and whose layers an aggregator combines.

    Args:
        engine: The engine.
        setup: The parts of the federation that do not change.
        availability: Which clients answer.
        aggregator: How a layer's values are combined.

    Returns:
        The engine as it is, where all clients always answer and layers are averaged by the weighted mean.

    Raises:
        ConfigError: The engine does not hold its clients' models in this process, which an availability needs, or does
            not show single clients' models, which an aggregator needs, or does not end rounds as privacy and some
            solvers need it.
    """
    problems = [
        f"{asks}, but {type(engine).__name__}, which has no class attribute ends_rounds, may not do what that needs at "
        f"the end of a round; {_REMEDY}"
        for asks in _at_the_end_of_rounds(setup)
        if not getattr(engine, "ends_rounds", False)
    ]
    if setup.personal is not None and not getattr(engine, "personalises", False):
        why = getattr(
            engine, "why_not_personal", "has no class attribute personalises, so it may not keep a client's head"
        )
        problems.append(f"personal is set, but {type(engine).__name__} {why}; {_REMEDY}")
    without_factors = bool(setup.factor_layers) and not getattr(engine, "factors", False)
    if without_factors:
        problems.append(
            f"aggregator is {aggregator.name!r}, whose clients send Kronecker factors of their layers, but "
            f"{type(engine).__name__}, which has no class attribute factors, does not compute them; {_REMEDY}"
        )
    remedy = getattr(engine, "remedy", _REMEDY)  # an engine of deployments names how it shows single models
    if not availability.always_answers and not engine.holds_clients:
        problems.append(
            f"availability is {availability.name!r}, but which clients answer is not decided by "
            f"{type(engine).__name__}; {_REMEDY if remedy == _REMEDY else 'leave it out'}"
        )
    combines = not aggregator.is_plain_mean and not without_factors  # of which one sentence is enough
    if combines and not getattr(engine, "shows_models", engine.holds_clients):
        problems.append(
            f"aggregator is {aggregator.name!r}, but {type(engine).__name__} does not show single clients' models; "
            f"{remedy}"
        )
    elif combines and not hasattr(engine, "received"):  # an engine of the user's own
        problems.append(
            f"aggregator is {aggregator.name!r}, but {type(engine).__name__} has no method received(layer), which "
            f"shows what arrives of every client; {remedy}"
        )
    problems += _unmeasured(setup, engine)
    if problems:
        raise ConfigError(problems)
    if not aggregator.is_plain_mean:
        engine = AggregatedEngine(engine, aggregator, setup.factor_layers)
    return engine if availability.always_answers else UnreliableEngine(setup, engine, availability)


def _unmeasured(setup: EngineSetup, engine: Engine) -> list[str]:
    """Return the problem of a user's own engine that does not measure payloads whose length depends on values."""
    if not varies(setup.codec) or hasattr(engine, "sent_bytes"):
        return []
    return [
        f"codec is {setup.codec.name!r}, whose payloads differ in length, but {type(engine).__name__} does not measure "
        f"them; {_REMEDY}"
    ]


def _at_the_end_of_rounds(setup: EngineSetup) -> list[str]:
    """Return which settings need more of an engine than local steps."""
    solver = setup.solver
    more = setup.extra_layers or gradient_kind(solver) is not None or hasattr(solver, "end_round")
    return [
        *([] if setup.privacy is None else ["privacy is set"]),
        *([f"solver is {shown_name(solver)!r}"] if more else []),
    ]


__all__ = ["AggregatedEngine", "UnreliableEngine", "wrap"]
