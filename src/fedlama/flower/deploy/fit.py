"""What a deployment cannot do: refused when it is submitted, and by the server where it was submitted another way."""

from __future__ import annotations

from typing import Any

from fedlama.choices.strategies import Strategy
from fedlama.errors import DataError, MissingExtraError
from fedlama.experiment import Experiment, assemble, prepare
from fedlama.experiment.catalogue import is_outside
from fedlama.federation.run import Run
from fedlama.flower.secure.fit import experiment_problems
from fedlama.flower.sites import site_misfits


def misfits(experiment: Experiment, aggregation: str = "models") -> list[str]:
    """Report what an experiment asks for and a deployment cannot do, one sentence each.

    Args:
        experiment: The experiment.
        aggregation: How the server averages: ``"models"``, ``"sums"`` or ``"secure"``.
    """
    problems = site_misfits(experiment) + [
        f"{section if section == 'engine' else f'{section}.name'} is {origin.reference!r}, expected a file in the "
        "folder of the experiment file, because every machine looks it up in its own plugins-dir; move it there"
        for section, origin in experiment.origins.items()
        if is_outside(origin.reference)
    ]
    problems += strategy_problems(experiment.strategy, "strategy.name", ", or simulate with `fedlama run`")
    availability, aggregator = experiment.availability, experiment.aggregator
    if not availability.always_answers:
        problems.append(
            f"availability.name is {availability.name!r}, expected 'always', because the real clients "
            "of a deployment answer or do not; remove it, or simulate with `fedlama run`"
        )
    if not aggregator.is_plain_mean and aggregation != "models":
        problems.append(
            f"aggregator.name is {aggregator.name!r}, but aggregation is {aggregation!r}, which uses no single "
            "client's model; remove one of them"
        )
    if aggregation == "secure":
        problems += experiment_problems(experiment)
    if experiment.settings.evaluate != "global":
        problems.append(
            f"evaluate is {experiment.settings.evaluate!r}, expected 'global', because single clients' models stay on "
            "their machines; change it"
        )
    if experiment.settings.precision != "float32":
        problems.append(
            f"precision is {experiment.settings.precision!r}, expected 'float32', because nodes compute in the model's "
            "own numbers; remove it"
        )
    return problems


def check_factored(experiment: Experiment) -> None:
    """Refuse a model of which clients cannot compute the factors that the aggregator needs; its first batch is tried.

    Where this machine cannot read the data, the server refuses it, also before a client trains.

    Raises:
        ConfigError: The model, or another choice, does not fit.
    """
    if getattr(experiment.aggregator, "needs_factors", False):
        try:
            material = prepare(experiment)
        except (DataError, MissingExtraError):
            return
        Run(assemble(experiment, material))


def strategy_problems(strategy: Strategy[Any], field: str = "strategy", otherwise: str = "") -> list[str]:
    """Return why a strategy cannot run in a deployment, one sentence each.

    Args:
        strategy: The strategy.
        field: What the user calls it.
        otherwise: What else the user can do.
    """
    problems = []
    if getattr(strategy, "is_central", False):
        problems.append(
            f"{field} is {strategy.name!r}, which trains on the pooled data of all clients, but in a deployment these "
            f"stay on their machines; choose another strategy{otherwise}"
        )
    return problems


def exchange_problems(strategy: Strategy[Any]) -> list[str]:
    """Return why a strategy does not fit in a round with one exchange of messages; one sentence.

    Args:
        strategy: The strategy.
    """
    if not getattr(strategy, "measures_distances", False):
        return []
    return [
        f"strategy is {strategy.name!r}, whose server asks for layers once it knows how far each client moved, but in "
        "a round of Flower's own loop there is one exchange of messages; choose another strategy, such as 'fedlp', or "
        "deploy an experiment"
    ]
