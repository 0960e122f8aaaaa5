"""Whether FedLPA fits the rest of a federation; a part of :mod:`fedlama.federation.checks`."""

from __future__ import annotations

from fedlama.choices.codecs import changes_nothing
from fedlama.choices.server_optimizers import Replace
from fedlama.choices.solvers.exchanged import exchanges_of
from fedlama.core.factors import factor_layers
from fedlama.core.layers import Layers
from fedlama.core.local_work import epoch_of
from fedlama.data.clients import ClientSource
from fedlama.errors import ConfigError
from fedlama.federation.settings import FederationSettings


def check_one_shot(federation: FederationSettings, layers: Layers, source: ClientSource) -> list[str]:
    """Return what does not go with one round whose clients send Kronecker factors, one sentence each.

    Args:
        federation: The settings.
        layers: The layers that are sent.
        source: The clients' data.
    """
    if not federation.needs_factors:
        return []
    name, solver = federation.aggregator.name, federation.solver
    given = [
        (federation.budget.rounds != 1, f"the budget is {federation.budget.rounds} rounds", "one", "set rounds=1"),
        (federation.strategy.name != "fedavg", f"strategy is {federation.strategy.name!r}", "'fedavg'", "choose it"),
        (
            federation.task.name != "classification",
            f"task is {federation.task.name!r}",
            "'classification'",
            "choose it",
        ),
        (not changes_nothing(federation.codec), f"codec is {federation.codec.name!r}", "'float32'", "choose it"),
        (
            federation.server_optimizer != Replace(),
            f"server_optimizer is {federation.server_optimizer.name!r}",
            "'replace', since the server solves for the model",
            "leave it out",
        ),
        (
            not federation.availability.always_answers,
            f"availability is {federation.availability.name!r}",
            "'always', since there is no later round",
            "leave it out",
        ),
        (bool(exchanges_of(solver)), f"solver is {solver.name!r}, which needs several rounds", "another", "use 'sgd'"),
        (federation.personal is not None, "personal is set", "None, since there is no later round", "leave it out"),
    ]
    problems = [
        f"aggregator is {name!r}, a method of one round, but {what}, expected {expected}; {remedy}"
        for wrong, what, expected, remedy in given
        if wrong
    ]
    if not factor_layers(federation.model, layers):
        problems.append(
            f"aggregator is {name!r}, but no layer holds all parameters of one dense layer or 2-D convolution; set "
            "layers.name='module', or give fedlama.by_module(model) in Python"
        )
    try:
        epoch_of(source, 0)
    except ConfigError as error:
        problems += error.problems
    return problems
