"""What a comparison will move, computed before any training: the content of `fedlama plan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from fedlama.analysis.forecast import Forecast, forecast
from fedlama.analysis.links import Link
from fedlama.analysis.study import baselines
from fedlama.core.layers import Layers, total_parameters
from fedlama.engines.transfers import payload_bytes
from fedlama.experiment import Experiment, assemble, prepare
from fedlama.experiment.build import comparable, with_rounds_of
from fedlama.experiment.titles import title
from fedlama.federation.run import Run


@dataclass(frozen=True)
class Preview:
    """What is known before training.

    Attributes:
        model: Name of the model.
        layers: The labelling.
        payloads: Bytes of each layer's upload.
        population: Number of clients.
        active: Clients in a cohort.
        forecasts: Each method's forecast, by title.
    """

    model: str
    layers: Layers
    payloads: dict[str, int]
    population: int
    active: int
    forecasts: dict[str, Forecast]

    def to_json(self) -> dict[str, object]:
        """Return it as plain JSON types."""
        return {
            "model": self.model,
            "parameters": total_parameters(self.layers),
            "clients": self.population,
            "active": self.active,
            "layers": [
                {
                    "layer": layer.name,
                    "parameters": layer.parameters,
                    "payload_bytes": self.payloads[layer.name],
                    "adaptive": layer.adaptive,
                }
                for layer in self.layers
            ],
            "methods": [_method(heading, expected) for heading, expected in self.forecasts.items()],
        }


def _method(heading: str, expected: Forecast) -> dict[str, object]:
    """Return one method's forecast as plain JSON types."""
    limits = (expected.low, expected.high)
    return {
        "method": heading,
        "rounds": expected.rounds,
        "certainty": expected.certainty,
        "low": asdict(expected.low),
        "high": asdict(expected.high),
        "bytes_per_step": list(expected.bytes_per_step),
        "bytes_per_round": [(volume.bytes_up + volume.bytes_down) / expected.rounds for volume in limits],
    }


def preview(experiment: Experiment, links: Sequence[Link] = (), price_per_gb: float | None = None) -> Preview:
    """Compute what `fedlama compare` will move.

    Args:
        experiment: The experiment.
        links: Links to compute the time on.
        price_per_gb: Price of 10^9 bytes, in any currency.

    Returns:
        Layers, sizes, rounds, and bytes per method: bounds where the schedule depends on training, and "unknown" where
        the strategy gives no bounds.

    Raises:
        ConfigError: The experiment does not fit together; it is checked as it would be for training.
    """
    material = prepare(experiment)
    experiment = comparable(experiment, material.clients)
    forecasts = {}
    for strategy in baselines(experiment.strategy):
        variant = with_rounds_of(replace(experiment, strategy=strategy), experiment.strategy.local_steps)
        federation = assemble(variant, material)
        checked = Run(federation)
        forecasts[title(strategy)] = forecast(
            federation.strategy,
            checked.layers,
            codec=federation.codec_in_force(),
            sampler=federation.sampler,
            population=len(material.clients),
            local_steps=federation.budget.local_steps,
            base_interval=experiment.strategy.base_interval,
            availability=federation.availability,
            seed=federation.seed,
            links=links,
            price_per_gb=price_per_gb,
            client_steps=checked.client_steps,
            solver=federation.solver,
            uploads=federation.engine_setup().factor_layers,
        )
    layers = checked.layers
    return Preview(
        model=experiment.model.name,
        layers=layers,
        payloads={layer.name: payload_bytes(layer, federation.codec_in_force()) for layer in layers},
        population=len(material.clients),
        active=experiment.sampler.cohort_size(len(material.clients)),
        forecasts=forecasts,
    )
