"""A method of a comparison: a strategy, and what else it changes of the experiment, such as the codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, cast

from fedlama.choices.strategies import Strategy

if TYPE_CHECKING:
    from fedlama.experiment.settings import Experiment

SECTIONS_OF_METHODS = ("codec", "server_optimizer", "solver", "aggregator", "sampler", "availability")
"""Sections that a method may change: all methods of a comparison share the data, the clients and the model."""


@dataclass(frozen=True)
class Variant:
    """A strategy with other choices than the experiment's.

    Args:
        strategy: The strategy.
        choices: Section to its choice.
    """

    strategy: Strategy[Any]
    choices: Mapping[str, Any] = field(default_factory=dict)

    def applied(self, experiment: Experiment) -> Experiment:
        """Return an experiment with these choices."""
        return replace(experiment, strategy=self.strategy, **self.choices)


Method = Strategy[Any] | Variant
"""What a comparison takes: a strategy stands for itself with all other choices of the experiment."""


def variant_of(method: Method) -> Variant:
    """Return a method as a variant."""
    return cast(Variant, method) if hasattr(method, "applied") else Variant(method)


def changed_settings(choice: Any) -> dict[str, object]:  # noqa: ANN401  (an option of any section)
    """Return the settings of an option that differ from their defaults, those without a default included."""
    values = {item.name: (_default(item), getattr(choice, item.name)) for item in fields(choice)}
    return {name: value for name, (default, value) in values.items() if default is MISSING or value != default}


def _default(item: Field[Any]) -> object:
    return item.default if item.default_factory is MISSING else item.default_factory()
