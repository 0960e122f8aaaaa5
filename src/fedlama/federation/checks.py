"""Whether the parts of a federation fit together: checked before anything is trained, all problems at once."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedlama.choices.codecs import changes_nothing, codec_of, shares_state
from fedlama.choices.codecs.difference import RESIDUAL
from fedlama.choices.privacy import check_accountant
from fedlama.choices.samplers import is_informed, looks_at_losses
from fedlama.choices.solvers import FedDyn
from fedlama.choices.solvers.exchanged import exchanges_of
from fedlama.choices.solvers.options import option_problems
from fedlama.choices.solvers.sgd import plain_sgd
from fedlama.choices.tasks import Task
from fedlama.core.layers import Layers, check_layers, local_buffers, local_layers
from fedlama.core.local_work import epoch_of
from fedlama.core.losses import scalar
from fedlama.core.registry import shown_name
from fedlama.core.trees import Tree, leaves, map_leaves, words
from fedlama.core.validation import check_seed, refuse
from fedlama.data.clients import ClientSource, is_pure, tensor_clients
from fedlama.data.local_sets import held_out
from fedlama.engines import ENGINES
from fedlama.errors import ConfigError, DataError, FedlamaError, cut, did_you_mean, shown
from fedlama.federation.budget import MOST_ROUNDS, check_budget
from fedlama.federation.head_checks import check_head_steps
from fedlama.federation.held_out import TestSet
from fedlama.federation.one_shot_checks import check_one_shot
from fedlama.federation.personal_checks import check_personal
from fedlama.federation.settings import FederationSettings
from fedlama.federation.tally import Tally

_TRIED = 16
"""Number of clients whose first batch is tried, where samples are read one by one."""


def check_federation(federation: FederationSettings, layers: Layers, source: ClientSource) -> None:
    """Refuse choices that do not fit together.

    Args:
        federation: The settings.
        layers: The labelling.
        source: The clients' data.

    Raises:
        ConfigError: With every problem found.
    """
    refuse(_check_name(federation))  # first: other sentences say it
    full = federation.full_labelling()
    problems = check_budget(federation.given_budget, federation.strategy)
    if isinstance(federation.engine, str) and federation.engine not in ENGINES:
        problems.append(f"engine is {federation.engine!r}{did_you_mean(federation.engine, ENGINES)}")
    problems += _check_weighting(federation)
    if federation.evaluate not in ("global", "best_client"):
        problems.append(f"evaluate is {federation.evaluate!r}, expected 'global' or 'best_client'; choose one of them")
    if getattr(federation.strategy, "is_central", False) and len(source) != 1:
        problems.append(
            f"strategy is {federation.strategy.name!r}, which trains one client that holds all data, but there are "
            f"{len(source)} clients; use fedlama.pooled(federation)"
        )
    problems += _check_decisions(federation) + _check_client_evaluation(federation, source)
    if federation.evaluate_every is not None and federation.evaluate_every < 1:
        problems.append(f"evaluate_every is {federation.evaluate_every}, expected 1 local step or more; raise it")
    problems += check_seed(federation.seed) + _check_solver(federation.solver)
    problems += _check_sizes(federation.model, source) + _check_test_set("test_set", federation.test_set)
    problems += _check_test_set("validation_set", federation.validation_set)
    problems += _check_micro_batches(federation)
    problems += _check_work(federation, source) if not problems else []
    problems += option_problems(federation.solver, full, federation.budget) if not problems else []
    problems += _check_statistics(federation) + _check_local(federation) + _check_complex(federation, layers)
    problems += _check_per_layer(federation, layers) + _check_cohorts(federation)
    problems += _check_feddyn(federation) + _check_privacy(federation, layers, len(source))
    problems += _check_void_rounds(federation, len(source)) + _check_senders(federation, layers)
    problems += check_personal(federation, layers, source) if not problems else []
    problems += check_one_shot(federation, layers, source) if not problems else []
    problems += _check_codec(federation, layers) + (_check_exchanges(federation, layers) if not problems else [])
    problems += getattr(federation.engine, "misfits", lambda _: [])(federation) if not problems else []
    checks: list[Callable[[], object]] = [
        lambda: _check_device(federation.device),
        lambda: check_layers(full, federation.model),
        lambda: federation.strategy.init(layers, federation.seed),
        lambda: federation.sampler.cohort_size(len(source)),
        lambda: (federation.weighting != "equal" or is_informed(federation.sampler)) and source.samples(0),
    ]
    for check in checks:
        try:
            check()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _check_solver(solver: object) -> list[str]:
    """Report an optimizer of torch's, or anything else that is not a solver."""
    needed = [name for name in ("init", "step", "rate", "state_scope", "uses_reference") if not hasattr(solver, name)]
    if not needed and not isinstance(solver, type):
        return []
    kind = solver if isinstance(solver, type) else getattr(solver, "func", type(solver))
    instead = "or write a solver: inherit from fedlama.LocalSolver and define step, and init for its buffers"
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer):
        counterpart = kind.__name__ if kind.__name__ in ("Adam", "AdamW") else "SGD"
        return [
            f"solver is torch's optimizer {kind.__name__}, which belongs to the parameters of one model, expected a "
            f"solver, which serves every client; use fedlama.{counterpart}(learning_rate=...), {instead}"
        ]
    given = f"the class {solver.__name__}" if isinstance(solver, type) else shown(solver)
    return [f"solver is {given}, expected a solver; use fedlama.SGD(learning_rate=...), {instead}"]


def _check_weighting(federation: FederationSettings) -> list[str]:
    """Refuse unknown weights, and FedNova where the length of a client's steps is not known."""
    given, solver, strategy = federation.weighting, federation.solver, federation.strategy
    if given not in ("samples", "equal", "fednova"):
        return [f"weighting is {given!r}, expected 'samples', 'equal' or 'fednova'; choose one of them"]
    if given == "samples" and getattr(federation.sampler, "counts_samples", False):
        other = ", or sampler.candidates_by='uniform'" if hasattr(federation.sampler, "candidates_by") else ""
        return [
            f"sampler is {federation.sampler.name!r}, which draws clients in proportion to their samples, so "
            f"weighting 'samples' would count these twice; set weighting='equal'{other}"
        ]
    if given != "fednova":
        return []
    problems, plain = [], plain_sgd(solver)
    if plain is None or plain.proximal is not None or (plain.momentum and solver.state_scope != "round"):
        problems.append(
            "weighting is 'fednova', which knows how far a client's steps reach for SGD alone, with a momentum that "
            "begins with zeros in each round; use solver 'sgd' with state_scope='round' and without nesterov, "
            "clipping and groups, or weighting='samples'"
        )
    if not federation.aggregator.is_plain_mean:
        problems.append(
            f"weighting is 'fednova', whose scale belongs to a weighted mean, but aggregator is "
            f"{federation.aggregator.name!r}; set aggregator='mean', or weighting='samples'"
        )
    if strategy.cycle_rounds != 1:
        problems.append(
            f"weighting is 'fednova', which divides by the local steps of one round, but {strategy.name} synchronises "
            "layers over several rounds; use 'fedavg', 'fedluar' or 'cyclic', or weighting='samples'"
        )
    return problems


def _check_feddyn(federation: FederationSettings) -> list[str]:
    """Refuse half of FedDyn, two strengths of it, and intervals over which a client would count its way twice."""
    solver, optimizer, name = federation.solver, federation.server_optimizer, FedDyn.name
    named = [getattr(part, "name", None) == name for part in (solver, optimizer)]  # a user's own may have none
    if not any(named):
        return []
    strengths = [getattr(part, "alpha", None) for part in (solver, optimizer)]
    problems = []
    if not all(named) or strengths[0] != strengths[1]:
        problems.append(
            f"solver is {shown_name(solver)!r} and server_optimizer is {shown_name(optimizer)!r}, but FedDyn is both "
            f"with the same alpha; set solver.name and server_optimizer.name to {name!r}, and solver.alpha and "
            "server_optimizer.alpha to one number"
        )
    if federation.strategy.cycle_rounds != 1:
        problems.append(
            f"solver is {name!r}, whose clients count how far they moved in a round, but {federation.strategy.name} "
            "synchronises layers over several rounds; use 'fedavg', 'fedluar' or 'cyclic', or another solver"
        )
    return problems


def _check_void_rounds(federation: FederationSettings, population: int) -> list[str]:
    """Refuse what counts a client's way in each round, where some clients may train in a round that does not count."""
    availability, solver = federation.availability, federation.solver
    sums = any(exchange.reduction == "sum" for exchange in exchanges_of(solver))
    counts = "weighting 'fednova'" if federation.weighting == "fednova" else None
    counts = f"solver {shown_name(solver)!r}" if sums or shown_name(solver) == FedDyn.name else counts
    what = "counts how far clients moved in each round"
    if counts is None and shares_state(federation.codec):
        counts, what = f"codec {federation.codec.name!r}", "compares an upload with earlier ones of the same client"
    if counts is None or availability.always_answers:
        return []
    try:
        needed = availability.needed(federation.sampler.cohort_size(population))
    except ConfigError:  # reported by its own check
        return []
    if needed <= 1:
        return []
    return [
        f"{counts} {what}, but with availability.min_replies of "
        f"{availability.min_replies:g} some may train in a round with too few replies, which does not count; lower "
        "availability.min_replies until one reply is enough"
    ]


def _check_senders(federation: FederationSettings, layers: Layers) -> list[str]:
    """Refuse what needs all clients of a round in every average, where a strategy asks only some for a layer."""
    strategy, codec = federation.strategy, federation.codec
    if not getattr(strategy, "chooses_senders", False):
        return []
    start = f"strategy is {strategy.name!r}, under which only some clients upload a layer, but"
    problems = []
    if not federation.aggregator.is_plain_mean:
        problems.append(
            f"{start} aggregator is {federation.aggregator.name!r}, which compares all clients; set aggregator='mean'"
        )
    if federation.weighting == "fednova":
        problems.append(
            f"{start} weighting is 'fednova', whose scale belongs to an average of all; set weighting='samples'"
        )
    if federation.privacy is not None:
        problems.append(f"{start} privacy is set, whose noise is for an average of all; leave it out")
    if shown_name(federation.solver) == FedDyn.name:
        problems.append(f"{start} solver is 'feddyn', whose server counts all clients' ways; use another solver")
    if any(codec_of(spec, codec).init(spec) for layer in layers for spec in layer.tensors):
        problems.append(
            f"{start} codec is {codec.name!r} with a state, which moves on with each upload; set codec.feedback=false, "
            "or use another codec"
        )
    return problems


def _check_privacy(federation: FederationSettings, layers: Layers, population: int) -> list[str]:
    """Refuse what shows more of a client than its limited contribution, or changes how far that reaches.

    Raises:
        MissingExtraError: The library that computes epsilon is not installed.
    """
    if federation.privacy is None:
        return []
    if not callable(getattr(federation.privacy, "limit", None)):
        return [f"privacy is {shown(federation.privacy)}, expected fedlama.Privacy; use Privacy(clip=..., noise=...)"]
    problems, strategy = [], federation.strategy
    if federation.privacy.delta >= 1.0 / population:
        problems.append(
            f"privacy.delta is {federation.privacy.delta:g}, expected less than 1 / {population}, one over the number "
            "of clients; lower it"
        )
    if looks_at_losses(federation.sampler):
        problems.append(
            f"privacy is set, but the sampler {federation.sampler.name!r} may choose clients by their training losses, "
            "which are not protected; use sampler 'uniform' or 'all'"
        )
    if federation.weighting != "equal":
        problems.append(
            f"privacy is set, but weighting is {federation.weighting!r}, so clients with more samples could move the "
            "average further; set weighting='equal'"
        )
    if not federation.aggregator.is_plain_mean:
        problems.append(
            f"privacy is set, but aggregator is {federation.aggregator.name!r}, and noise is known for a mean alone; "
            "set aggregator='mean'"
        )
    if not changes_nothing(federation.codec):
        problems.append(
            f"privacy is set, but codec is {federation.codec.name!r}, which could make a contribution larger than its "
            "limit; use codec 'float32'"
        )
    if strategy.cycle_rounds != 1 or strategy.measures_discrepancy:
        problems.append(
            f"privacy is set, but {strategy.name} looks at clients beyond their average of a round; use 'fedavg', "
            "'fedluar' or 'cyclic'"
        )
    if extras := exchanges_of(federation.solver):
        problems.append(
            f"privacy is set, but solver {federation.solver.name!r} sends {extras[0].kind!r} too, which is not "
            "limited; use another solver"
        )
    buffers = [spec.name for layer in layers for spec in layer.tensors if not spec.trainable]
    if buffers:
        problems.append(
            f"privacy is set, but {buffers[0]!r} is averaged without a limit; use a model without running statistics, "
            "or set layers.statistics='local'"
        )
    if [spec.name for layer in layers for spec in layer.tensors if spec.dtype.is_complex]:
        problems.append("privacy is set, but the model has complex parameters; use a model of real numbers")
    if not problems:
        check_accountant()
    return problems


def _check_exchanges(federation: FederationSettings, layers: Layers) -> list[str]:
    """Refuse extra tensors that cohorts would lose between two uploads, and the largest of complex numbers."""
    if not exchanges_of(federation.solver):
        return []
    problems, cycle, rounds = [], federation.strategy.cycle_rounds, min(federation.budget.rounds, 1000)
    redrawn = [index for index in range(cycle, rounds, cycle) if federation.sampler.redraws(index)]
    for exchange in exchanges_of(federation.solver):
        if any(index % exchange.interval for index in redrawn):
            problems.append(
                f"solver.interval is {exchange.interval}, but the sampler {federation.sampler.name!r} draws new "
                f"clients after {redrawn[0]} rounds, which would lose what the others gathered since their last "
                "upload; let all clients take part, set sampler.hold_rounds to a multiple of the interval, or "
                "solver.interval=1"
            )
        names = [spec.name for layer in layers for spec in layer.tensors if spec.dtype.is_complex and spec.trainable]
        if names and exchange.reduction == "maximum":
            problems.append(
                f"solver is {federation.solver.name!r}, whose server keeps the largest {exchange.kind!r}, but the "
                f"tensor {names[0]} is complex, and complex numbers have no order; use another solver"
            )
    return problems


def _check_client_evaluation(federation: FederationSettings, source: ClientSource) -> list[str]:
    """Refuse to score clients that have no test sets, and a global model that lacks what stays on the clients."""
    asked = federation.evaluate_clients
    if asked not in ("none", "global", "own", "both"):
        return [f"evaluate_clients is {shown(asked)}, expected 'none', 'global', 'own' or 'both'; choose one of them"]
    if asked == "none":
        return []
    if all(held_out(source, client, "test") is None for client in range(len(source))):
        return [
            f"evaluate_clients is {asked!r}, but the clients have no test sets of their own, and the common test set "
            "says nothing of single clients; set client_test_share=0.2 in an experiment file, or give "
            "ClientData(..., test=(x, y)) in Python"
        ]
    trained = federation.trained_labelling()
    local = [layer.name for layer in local_layers(trained)] + list(local_buffers(federation.model, trained))
    if asked == "own" or not local:
        return []
    return [
        f"evaluate_clients is {asked!r}, but {local[0]!r} stays on the clients, so the global model has no value for "
        "it; set evaluate_clients='own'"
    ]


def _check_decisions(federation: FederationSettings) -> list[str]:
    """Refuse decisions without a validation set: the test set must not make them."""
    if federation.validation_set is None:
        if federation.early_stopping is None:
            return []
        return [
            "early_stopping is set, but there is no validation set, and the test set must not decide; set "
            "validation_share=0.1 in an experiment file, or Federation(validation_set=...) in Python"
        ]
    if federation.evaluate == "global":
        return []
    return [
        f"evaluate is {federation.evaluate!r}, but a validation set scores the global model, which is averaged for it; "
        "set evaluate='global', or leave the validation set out"
    ]


def _check_test_set(name: str, test_set: object) -> list[str]:
    """Report held-out data in another form than a test set, such as a list with one for each client."""
    if test_set is None or all(hasattr(test_set, name) for name in ("x", "y", "score")):
        return []
    return [
        f"{name} is {shown(type(test_set).__name__)}, expected one fedlama.TestSet, on which the global model is "
        "scored; give fedlama.TestSet(x, y)"
    ]


def _check_sizes(model: nn.Module, source: ClientSource) -> list[str]:
    """Report sizes of 0, with which there is nothing to compute."""
    if not len(source):
        return ["the source of the clients has 0 clients, expected 1 or more; add some"]
    tensors = tensor_clients(source)
    empty = [] if tensors is None else [leaf for leaf in leaves(tensors.x) if not leaf[:1].numel()]
    if empty:
        shape = tuple(empty[0].shape[1:])
        return [f"an input of the clients has shape {shape}, expected at least one number; give inputs with features"]
    for name, parameter in model.named_parameters():
        if not parameter.numel():
            return [
                f"the parameter {name} of the model has shape {tuple(parameter.shape)}, expected at least one number; "
                "give its module a size of 1 or more"
            ]
    return []


def _check_statistics(federation: FederationSettings) -> list[str]:
    """Report normalisation statistics that are never averaged, although the global model is to be scored with them."""
    persistent = federation.model.state_dict()
    local = [name for name in local_buffers(federation.model, federation.trained_labelling()) if name in persistent]
    if not local or federation.evaluate != "global" or (federation.test_set or federation.validation_set) is None:
        return []
    return [
        f"the buffers {', '.join(local[:3])}{', ...' if len(local) > 3 else ''} never leave the clients "
        "(layers.statistics is 'local'), so the global model cannot be scored: it has no values for them; set "
        "evaluate='best_client', or layers.statistics='average'"
    ]


def _check_local(federation: FederationSettings) -> list[str]:
    """Refuse a labelling of which nothing is sent, and a solver that needs global values of a local layer."""
    local = [layer.name for layer in local_layers(federation.trained_labelling())]
    if not federation.labelling():
        return ["every layer is tagged 'local' or 'frozen', expected one that is sent; leave one out of layers.local"]
    if local and exchanges_of(federation.solver):
        return [
            f"solver is {federation.solver.name!r}, which exchanges {exchanges_of(federation.solver)[0].kind!r} of "
            f"every parameter with the server, but layer {local[0]!r} is tagged 'local' and stays on its client; use "
            "another solver, or leave it out of layers.local"
        ]
    if not local or not getattr(federation.solver, "uses_reference", False):
        return []
    return [
        f"solver is {federation.solver.name!r}, which pulls every parameter towards its global value, but layer "
        f"{local[0]!r} is tagged 'local' and has none; use another solver, or leave it out of layers.local"
    ]


def _check_name(federation: FederationSettings) -> list[str]:
    """Refuse a strategy of the user's own that has no name, which the result, run folders and messages need."""
    strategy = federation.strategy
    if isinstance(getattr(strategy, "name", None), str):
        return []
    return [f"strategy is a {type(strategy).__name__} without a name; give the class a string as its attribute `name`"]


def _check_complex(federation: FederationSettings, layers: Layers) -> list[str]:
    """Refuse an aggregator that sorts values for a model with complex numbers, which have no order."""
    names = [spec.name for layer in layers for spec in layer.tensors if spec.dtype.is_complex]
    if not names or not getattr(federation.aggregator, "orders_values", False):
        return []
    return [
        f"aggregator is {federation.aggregator.name!r}, which sorts values, but the tensor {names[0]} is complex; use "
        "the mean or a norm bound"
    ]


def _check_per_layer(federation: FederationSettings, layers: Layers) -> list[str]:
    """Report settings of the server optimizer for layers that do not exist."""
    names = [layer.name for layer in layers]
    return [
        f"server_optimizer.per_layer names {pattern!r}, which matches no layer{did_you_mean(pattern, names)}"
        for pattern in getattr(federation.server_optimizer, "per_layer", {})
        if not any(fnmatchcase(name, pattern) for name in names)
    ]


def _check_cohorts(federation: FederationSettings) -> list[str]:
    """Refuse cohorts that change, and clients that come and go, under a strategy that is never in sync."""
    strategy = federation.strategy
    if getattr(strategy, "in_sync_at_cycles", True):  # a user's class may not inherit the default
        return []
    problems = []
    other = "set strategy.stagger=false" if hasattr(strategy, "stagger") else "choose another strategy"
    if federation.sampler.redraws(strategy.cycle_rounds):
        problems.append(
            f"{strategy.name} never has all layers in sync, but the sampler {federation.sampler.name!r} draws new "
            f"cohorts, which must start in sync; let all clients take part, or {other}"
        )
    if federation.availability.name != "always":
        problems.append(
            f"{strategy.name} never has all layers in sync, but clients that were away wait for that to come back; "
            f"{other}, or availability 'always'"
        )
    return problems


def _check_codec(federation: FederationSettings, layers: Layers) -> list[str]:
    """Refuse a codec whose clients would never use what they keep, and one that lacks a part of the contract."""
    codec, strategy = federation.codec, federation.strategy
    if not hasattr(codec, "needs_context"):
        return [f"the codec {type(codec).__name__} lacks members of fedlama.Codec; let the class inherit from it"]
    if getattr(codec, "leaves_out", False) and not getattr(federation.aggregator, "counts_elements", False):
        return [
            f"codec is {codec.name!r}, whose clients send some numbers of a layer only, but aggregator is "
            f"{federation.aggregator.name!r}, which needs all of them; set aggregator.name='element-mean'"
        ]
    states = any(RESIDUAL in codec.init(spec) for layer in layers for spec in layer.tensors if spec.trainable)
    redrawn = strategy.cycle_rounds == 1 and federation.sampler.redraws(1) and federation.sampler.redraws(2)
    if redrawn and shares_state(codec):
        return [
            f"codec is {codec.name!r}, whose clients compare an upload with earlier ones of their cohort, but under "
            f"{strategy.name} the sampler {federation.sampler.name!r} draws a new cohort in every round; keep the "
            "cohort (sampler.name='all', or sampler.hold_rounds), or use another codec"
        ]
    if not (states and redrawn):
        return []
    return [
        f"codec is {codec.name!r} with feedback: its clients keep what rounding left out for their next upload, but "
        f"under {strategy.name} the sampler {federation.sampler.name!r} draws a new cohort in every round; set "
        "codec.feedback=false, or keep the cohort (sampler.name='all', or sampler.hold_rounds)"
    ]


def _check_micro_batches(federation: FederationSettings) -> list[str]:
    """Report a size of micro-batches that is none, or a loss that parts of a batch do not add up to."""
    size = federation.micro_batch_size
    if size is None:
        return []
    if type(size) is not int or size < 1:
        return [f"micro_batch_size is {shown(size)}, expected an integer of 1 or more; leave it out for whole batches"]
    if not federation.task.loss_adds_up:
        return [
            f"micro_batch_size is given, but the loss of task {federation.task.name!r} compares all samples of a "
            "batch, so parts do not add up to it; leave micro_batch_size out"
        ]
    return []


def _check_work(federation: FederationSettings, source: ClientSource) -> list[str]:
    """Report a budget or a local work that needs what the clients do not know, or names clients that do not exist."""
    work, strangers = federation.local_work, [c for c in federation.local_work.limits if c >= len(source)]
    problems = []
    if strangers:
        problems.append(
            f"local_work.limits names client {strangers[0]}, but there are {len(source)} clients, numbered from 0; "
            "correct the number"
        )
    whole_pass = getattr(federation.solver, "gradient_pass", None) is not None
    if (work.epochs is not None or federation.epochs is not None or whole_pass) and not problems:
        try:
            epoch_of(source, 0)
            if federation.epochs is not None and federation.budget.rounds > MOST_ROUNDS:
                problems.append(f"epochs is {federation.epochs}, which makes more than {MOST_ROUNDS} rounds; lower it")
        except ConfigError as error:
            problems += error.problems
    return problems or check_head_steps(federation, source)


def _check_device(device: str) -> None:
    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = cut(str(error).partition("\n")[0], 120)
        raise ConfigError(f"device is {device!r}, but torch cannot compute there ({reason}); choose 'cpu'") from error


def check_fit(federation: FederationSettings, model: nn.Module, source: ClientSource) -> None:
    """Refuse data that do not fit the model and the task: one batch is tried, without training.

    Args:
        federation: The settings.
        model: A copy of the model; only its mode is changed during the call.
        source: The clients' data.

    Raises:
        DataError: The model refuses such a batch, the data do not fit the task, or a loss or a metric fails.
    """
    task, training = federation.task, model.training
    held_out = {"the test set": federation.test_set, "the validation set": federation.validation_set}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        model.eval()
        for owner, test in held_out.items():
            if test is not None:
                tried = _tried(owner, task, model, partial(test.rows, slice(0, 2)), test.x)
                _refuse(task.check(owner, tried.output, test.data), model)
                _check_metrics(task, tried, test)
        tensors = tensor_clients(source)
        if tensors is not None:
            tried = _tried("client 0", task, model, lambda: source.batch(0, 0, federation.seed), tensors.x)
            _refuse(task.check("the clients", tried.output, tensors.data), model)
            tried.loss()
        elif is_pure(source):
            for client in range(0, len(source), -(-len(source) // _TRIED)):
                batch = source.batch(client, 0, federation.seed)
                tried = _tried(
                    f"client {client}", task, model, partial(map_leaves, torch.clone, batch), task.inputs(batch)
                )
                _refuse(task.check(f"client {client}", tried.output, batch), model)
                tried.loss()
    model.train(training)


def _refuse(problems: list[str], model: nn.Module) -> None:
    """Raise a task's sentences; where they begin with the model, it gets its name, which a task does not know."""
    if problems:
        named = f"the model {type(model).__name__} "
        raise DataError("\n".join(re.sub(r"^the model ", named, problem) for problem in problems))


@dataclass(frozen=True)
class _Tried:
    """A batch with which a model was called."""

    owner: str
    task: Task
    batch: Tree
    output: Any

    def loss(self) -> Tensor:
        """Return the batch's loss.

        Raises:
            DataError: It fails, or is not a scalar.
        """
        try:
            return scalar(self.task.loss(self.output, self.batch))
        except FedlamaError:
            raise
        except Exception as error:
            shape = f" of shape {tuple(self.output.shape)}" if isinstance(self.output, Tensor) else ""
            raise DataError(
                f"{self.owner}: the loss of the task {self.task.name!r} failed on a model's output"
                f"{shape or f' of type {type(self.output).__name__}'} and a batch of {words(self.batch)}: "
                f"{type(error).__name__}: {cut(error)}; correct the loss, or choose a task that fits the data"
            ) from error


def _tried(owner: str, task: Task, model: nn.Module, make_batch: Callable[[], Tree], stored: Tree) -> _Tried:
    """Call the model with a batch.

    Args:
        owner: Whose batch it is.
        task: The task.
        model: The model.
        make_batch: Returns the batch, prepared.
        stored: The inputs as they are stored, for messages.
    """
    device = next(model.parameters()).device
    try:
        batch = map_leaves(lambda leaf: leaf.to(device), make_batch())
        return _Tried(owner, task, batch, task.forward(model, batch))
    except FedlamaError:
        raise
    except Exception as error:
        given = f"inputs of {words(stored)}"
        if isinstance(stored, Tensor):
            given = f"inputs of shape {tuple(stored.shape[1:])} ({stored.dtype})"
        raise DataError(
            f"the model {type(model).__name__} cannot take {given}: {type(error).__name__}: {cut(error)}; "
            f"{_call_remedy(model, stored)}"
        ) from error


def _call_remedy(model: nn.Module, stored: Tree) -> str:
    """Say what to do about a model that cannot be called: name the entries of a dict as its arguments are named."""
    if isinstance(stored, dict):
        names = [name for name in inspect.signature(model.forward).parameters if name != "self"]
        if not set(stored) <= set(names):
            return f"a dict's entries are the model's arguments: name them as in forward({', '.join(names)})"
    wanted = next((value.dtype for value in model.parameters() if value.is_floating_point()), None)
    wide = [leaf.dtype for leaf in leaves(stored) if leaf.is_floating_point() and leaf.dtype != wanted]
    if wide and wanted is not None:
        kinds = [str(kind).removeprefix("torch.") for kind in (wide[0], wanted)]
        return (
            f"the inputs are {kinds[0]} and the model's parameters {kinds[1]}: convert one of them, as in "
            f"x.to({wanted}) or, for an array, x.astype({kinds[1]!r})"
        )
    return "choose a model for that shape, or a preparation that changes it"


def _check_metrics(task: Task, tried: _Tried, test: TestSet) -> None:
    """Refuse a task whose metrics fail, or whose primary metric is not among them."""
    tally = Tally(task, next(iter(leaves(tried.batch))).device)
    loss = tried.loss()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metrics about so few samples
        tally.add(tried.output, map_leaves(lambda leaf: leaf.to(loss.device), test.rows(slice(0, 2))), loss)
    if task.primary not in (names := ["loss", *tally.names]):
        raise ConfigError(f"task {task.name!r}: primary is {task.primary!r}{did_you_mean(task.primary, names)}")
