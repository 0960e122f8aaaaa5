"""Whether personal models fit the rest of a federation; a part of :mod:`fedlama.federation.checks`."""

from __future__ import annotations

import torch

from fedlama.choices.solvers import FedDyn
from fedlama.choices.solvers.exchanged import exchanges_of
from fedlama.core.layers import Layers
from fedlama.core.local_work import epoch_of
from fedlama.core.registry import shown_name
from fedlama.data.clients import ClientSource
from fedlama.data.local_sets import held_out
from fedlama.errors import ConfigError, FedlamaError, shown
from fedlama.federation.settings import FederationSettings
from fedlama.federation.tally import Tally


def check_personal(federation: FederationSettings, layers: Layers, source: ClientSource) -> list[str]:
    """Return what does not go with heads that clients blend with their own, one sentence each.

    Args:
        federation: The settings.
        layers: The layers that are sent.
        source: The clients' data.
    """
    personal = federation.personal
    if personal is None:
        return []
    if not hasattr(personal, "accuracy_from"):
        return [f"personal is {shown(personal)}, expected fedlama.Personal; use Personal()"]
    problems = []
    if not any(layer.tag == "head" for layer in layers):
        problems.append(
            "personal is set, but no layer is tagged 'head'; name the output layers, as in layers.head=['fc.*'] in an "
            "experiment or fedlama.tagged(layers, head=['fc.*']) in Python"
        )
    if federation.strategy.cycle_rounds != 1:
        problems.append(
            f"personal is set, whose clients blend their heads in every round, but {federation.strategy.name} "
            "synchronises layers over several rounds; use 'fedavg', 'fedluar' or 'cyclic'"
        )
    problems += _check_reference(federation)
    if federation.evaluate == "best_client":
        problems.append(
            "personal is set, but evaluate is 'best_client', which scores clients on a common test set; leave it out, "
            "and set evaluate_clients='own'"
        )
    if personal.head_epochs:
        try:
            epoch_of(source, 0)
        except ConfigError as error:
            problems += error.problems
    return problems + (_check_accuracy(federation, source) if personal.own_share is None else [])


def _check_reference(federation: FederationSettings) -> list[str]:
    """Refuse what counts how far a client moved from the global model, at which a blended head does not begin."""
    solver, name = federation.solver, shown_name(federation.solver)
    counts = [
        (bool(exchanges_of(solver)) or name == FedDyn.name, f"solver {name!r}", "use another solver"),
        (federation.privacy is not None, "privacy", "leave one of both out"),
        (federation.weighting == "fednova", "weighting 'fednova'", "set weighting='samples'"),
    ]
    return [
        f"personal is set, but {what} counts how far clients moved from the global model, and their heads begin "
        f"elsewhere; {remedy}"
        for used, what, remedy in counts
        if used
    ]


def _check_accuracy(federation: FederationSettings, source: ClientSource) -> list[str]:
    """Refuse a federation in which no client's accuracy can be measured."""
    personal = federation.personal
    assert personal is not None
    part, problems = personal.accuracy_from, []
    if all(held_out(source, client, part) is None for client in range(len(source))):
        share = "client_validation_share" if part == "validation" else "client_test_share"
        problems.append(
            f"personal.accuracy_from is {part!r}, but the clients have no {part} sets of their own; set {share}=0.2 in "
            f"an experiment file, or give ClientData(..., {part}=(x, y)) in Python"
        )
    try:
        names = Tally(federation.task, torch.device("cpu")).names
    except FedlamaError:  # reported where the task is tried
        names = ["accuracy"]
    if "accuracy" not in names:
        problems.append(
            f"personal blends heads by each client's accuracy, but task {federation.task.name!r} measures none; set "
            "personal.own_share to a number, such as 0.5"
        )
    return problems
