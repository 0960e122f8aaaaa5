"""What a comparison will move, worked out before any training: the content of `fedlama plan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from fedlama.analysis.forecast import Forecast, forecast
from fedlama.analysis.links import Link
from fedlama.core.layers import Layers, total_parameters
from fedlama.engines.transfers import payload_bytes
from fedlama.experiment import Experiment, assemble, prepare
from fedlama.experiment.titles import title
from fedlama.federation.federation import Run
from fedlama.runs.execute import baselines


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
            "methods": [
                {
                    "method": heading,
                    "rounds": one.rounds,
                    "low": asdict(one.low),
                    "high": asdict(one.high),
                    "bytes_per_round": [
                        (one.low.bytes_up + one.low.bytes_down) / one.rounds,
                        (one.high.bytes_up + one.high.bytes_down) / one.rounds,
                    ],
                }
                for heading, one in self.forecasts.items()
            ],
        }


def preview(experiment: Experiment, links: Sequence[Link] = (), price_per_gb: float | None = None) -> Preview:
    """Work out what `fedlama compare` will move.

    Args:
        experiment: The experiment.
        links: Links to tell the time on.
        price_per_gb: Price of 10^9 bytes, in any currency.

    Returns:
        Layers, sizes, rounds, and bytes per method; bounds where the schedule depends on training.

    Raises:
        ConfigError: The experiment does not fit together; it is checked as it would be for training.
    """
    material = prepare(experiment)
    forecasts = {}
    for strategy in baselines(experiment.strategy):
        federation = assemble(replace(experiment, strategy=strategy), material)
        checked = Run(federation)
        forecasts[title(strategy)] = forecast(
            federation.strategy,
            checked.layers,
            codec=federation.codec,
            sampler=federation.sampler,
            population=len(material.clients),
            local_steps=federation.local_steps,
            base_interval=experiment.strategy.base_interval,
            seed=federation.seed,
            links=links,
            price_per_gb=price_per_gb,
        )
    layers = checked.layers
    return Preview(
        model=experiment.model.name,
        layers=layers,
        payloads={layer.name: payload_bytes(layer, experiment.codec) for layer in layers},
        population=len(material.clients),
        active=experiment.sampler.cohort_size(len(material.clients)),
        forecasts=forecasts,
    )
