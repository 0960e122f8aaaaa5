"""The ClientApp: one client that trains and scores with your own functions."""

from collections.abc import Mapping
from typing import Any

from fedlama.flower.apps import FunctionTrainer, client_app
from own_app.task import build, fit, load, score


def trainer(client: int, config: Mapping[str, Any]) -> FunctionTrainer:
    """Return the client's model, functions and number of samples; `config["node"]` is the node's configuration."""
    train, test = load(client)
    return FunctionTrainer(
        build(),
        lambda model, _: fit(model, train, config["epochs"]),
        samples=len(train[0]),
        evaluate=lambda model: score(model, test),
    )


app = client_app(trainer, name="own")
