"""The ClientApp: one client that trains with a function of one's own."""

from collections.abc import Mapping
from typing import Any

from fedlama.flower.apps import client_app
from fedlama.flower.client.function import FunctionTrainer
from own_app.task import build, data, fit


def local(client: int, config: Mapping[str, Any]) -> FunctionTrainer:  # noqa: ARG001
    """Return the client's model, training function and number of samples."""
    return FunctionTrainer(
        build(), lambda model, setup: fit(model, client, setup.steps_done, setup.steps), samples=len(data(client)[0])
    )


app = client_app(local, name="own")
