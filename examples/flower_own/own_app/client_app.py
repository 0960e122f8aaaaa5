"""The ClientApp: one client that trains with your own function."""

from collections.abc import Mapping
from typing import Any

from fedlama.flower.apps import FunctionTrainer, client_app
from own_app.task import build, data, fit


def trainer(client: int, config: Mapping[str, Any]) -> FunctionTrainer:  # noqa: ARG001
    """Return the client's model, training function and number of samples."""
    return FunctionTrainer(
        build(),
        lambda model, local_round: fit(model, client, local_round.steps_done, local_round.steps),
        samples=len(data(client)[0]),
    )


app = client_app(trainer, name="own")
