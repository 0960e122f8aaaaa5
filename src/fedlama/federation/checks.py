"""Whether the parts of a federation fit together: checked before anything is trained, all problems at once."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from fedlama.choices.solvers.options import option_problems
from fedlama.choices.strategies import Strategy
from fedlama.core.layers import Layers, check_layers, local_buffers
from fedlama.core.losses import IGNORED, class_dimension, cross_entropy
from fedlama.core.validation import check_seed
from fedlama.data.clients import ClientSource, TensorClients
from fedlama.engines import ENGINES
from fedlama.errors import ConfigError, DataError, cut, did_you_mean, shown
from fedlama.federation.settings import FederationSettings

MOST_ROUNDS = 10_000_000
"""More rounds than this are refused as a typing error: their ledger would fill any disk."""


def check_federation(federation: FederationSettings, layers: Layers, source: ClientSource) -> None:
    """Refuse choices that do not fit together.

    Args:
        federation: The settings.
        layers: The labelling.
        source: The clients' data.

    Raises:
        ConfigError: With every problem found.
    """
    full = federation.full_labelling()
    problems = check_budget(federation.local_steps, federation.strategy)
    if isinstance(federation.engine, str) and federation.engine not in ENGINES:
        problems.append(f"engine is {federation.engine!r}{did_you_mean(federation.engine, ENGINES)}")
    if federation.weighting not in ("samples", "equal"):
        problems.append(f"weighting is {federation.weighting!r}, expected 'samples' or 'equal'; choose one of them")
    if federation.evaluate not in ("global", "best_client"):
        problems.append(f"evaluate is {federation.evaluate!r}, expected 'global' or 'best_client'; choose one of them")
    if federation.evaluate_every is not None and federation.evaluate_every < 1:
        problems.append(f"evaluate_every is {federation.evaluate_every}, expected 1 local step or more; raise it")
    problems += check_seed(federation.seed) + _check_solver(federation.solver)
    problems += _check_sizes(federation.model, source) + _check_test_set(federation.test_set)
    problems += option_problems(federation.solver, full, federation.budget) if not problems else []
    problems += _check_statistics(federation, layers) + _check_complex(federation, layers)
    problems += _check_per_layer(federation, layers) + _check_cohorts(federation)
    problems += _check_codec(federation, layers)
    checks: list[Callable[[], object]] = [
        lambda: _check_device(federation.device),
        lambda: check_layers(full, federation.model),
        lambda: federation.strategy.init(layers, federation.seed),
        lambda: federation.sampler.cohort_size(len(source)),
        lambda: federation.weighting == "samples" and source.samples(0),
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


def _check_test_set(test_set: object) -> list[str]:
    """Report held-out data in another form than a test set, such as a list with one for each client."""
    if test_set is None or all(hasattr(test_set, name) for name in ("x", "y", "score")):
        return []
    return [
        f"test_set is {shown(type(test_set).__name__)}, expected one fedlama.TestSet, on which the global model is "
        "scored; give fedlama.TestSet(x, y)"
    ]


def _check_sizes(model: nn.Module, source: ClientSource) -> list[str]:
    """Report sizes of 0, with which there is nothing to compute."""
    if not len(source):
        return ["the source of the clients has 0 clients, expected 1 or more; add some"]
    if isinstance(source, TensorClients) and not source.x[0].numel():
        shape = tuple(source.x.shape[1:])
        return [f"an input of the clients has shape {shape}, expected at least one number; give inputs with features"]
    for name, parameter in model.named_parameters():
        if not parameter.numel():
            return [
                f"the parameter {name} of the model has shape {tuple(parameter.shape)}, expected at least one number; "
                "give its module a size of 1 or more"
            ]
    return []


def _check_statistics(federation: FederationSettings, layers: Layers) -> list[str]:
    """Report normalisation statistics that are never averaged, although the global model is to be scored with them."""
    persistent = federation.model.state_dict()
    local = [name for name in local_buffers(federation.model, layers) if name in persistent]
    if not local or federation.evaluate != "global" or federation.test_set is None:
        return []
    return [
        f"the buffers {', '.join(local[:3])}{', ...' if len(local) > 3 else ''} never leave the clients "
        "(layers.statistics is 'local'), so the global model cannot be scored: it has no values for them; set "
        "evaluate='best_client', or layers.statistics='average'"
    ]


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
    if federation.sampler.redraws(strategy.cycle_rounds):
        problems.append(
            f"{strategy.name} never has all layers in sync, but the sampler {federation.sampler.name!r} draws new "
            "cohorts, which must start in sync; let all clients take part, or set strategy.stagger=false"
        )
    if federation.availability.name != "always":
        problems.append(
            f"{strategy.name} never has all layers in sync, but clients that were away wait for that to come back; "
            "set strategy.stagger=false, or availability 'always'"
        )
    return problems


def _check_codec(federation: FederationSettings, layers: Layers) -> list[str]:
    """Refuse a codec whose clients would never use what they keep, and one that lacks a part of the contract."""
    codec, strategy = federation.codec, federation.strategy
    if not hasattr(codec, "needs_context"):
        return [f"the codec {type(codec).__name__} lacks members of fedlama.Codec; let the class inherit from it"]
    states = any(codec.init(spec) for layer in layers for spec in layer.tensors if spec.trainable)
    redrawn = strategy.cycle_rounds == 1 and federation.sampler.redraws(1) and federation.sampler.redraws(2)
    if not (states and redrawn):
        return []
    return [
        f"codec is {codec.name!r} with feedback: its clients keep what rounding left out for their next upload, but "
        f"under {strategy.name} the sampler {federation.sampler.name!r} draws a new cohort in every round; set "
        "codec.feedback=false, or keep the cohort (sampler.name='all', or sampler.hold_rounds)"
    ]


def check_budget(local_steps: int, strategy: Strategy[Any]) -> list[str]:
    """Return the problems of a budget: it must be a whole number of rounds, and not too many of them.

    Args:
        local_steps: Budget K of the run.
        strategy: Its strategy, which may be the user's own and unchecked.
    """
    step = strategy.local_steps
    for name, value in ((f"{type(strategy).__name__}: local_steps", step), ("local_steps", local_steps)):
        if isinstance(value, bool) or not isinstance(value, int):
            return [f"{name} is {shown(value)}, expected an integer; use a whole number of local steps"]
    if step < 1:
        return [f"{type(strategy).__name__}: a round has {step} local steps, expected 1 or more; raise base_interval"]
    if local_steps // step > MOST_ROUNDS:
        return [
            f"local_steps is {local_steps}, which makes {local_steps // step} rounds of {strategy.name}, expected "
            f"{MOST_ROUNDS} rounds or fewer; choose {MOST_ROUNDS * step} local steps or fewer"
        ]
    if local_steps >= step and local_steps % step == 0:
        return []
    below = max(local_steps // step, 1) * step
    return [
        f"local_steps is {local_steps}, but a round of {strategy.name} lasts {step} local steps and the budget must be "
        f"a whole number of rounds; choose {below} or {below + step}"
    ]


def _check_device(device: str) -> None:
    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = cut(str(error).partition("\n")[0], 120)
        raise ConfigError(f"device is {device!r}, but torch cannot compute there ({reason}); choose 'cpu'") from error


def check_fit(federation: FederationSettings, model: nn.Module, source: ClientSource) -> None:
    """Refuse data that the model cannot take: tried on two samples, before training fails with a longer message.

    Args:
        federation: The settings.
        model: A copy of the model; only its mode is changed during the call.
        source: The clients' data.

    Raises:
        DataError: The model refuses inputs of that shape, or the labels are not those of its classes.
    """
    test, tensors = federation.test_set, source if isinstance(source, TensorClients) else None
    given = test or tensors
    if given is None:
        return
    x = given.x[:2].clone()  # a copy: a preparation or a forward pass may work in place
    shape, dtype = tuple(x.shape[1:]), x.dtype
    device, training = next(model.parameters()).device, model.training
    try:
        with torch.no_grad():
            output = model.eval()((x if given.prepare is None else given.prepare(x)).to(device))
    except Exception as error:
        raise DataError(
            f"the model {type(model).__name__} cannot take inputs of shape {shape} ({dtype}): "
            f"{type(error).__name__}: {cut(error)}; choose a model for that shape, or a preparation that changes it"
        ) from error
    finally:
        model.train(training)
    if federation.objective is not cross_entropy:
        return
    if not isinstance(output, Tensor):
        raise DataError(
            f"the model {type(model).__name__} returns {type(output).__name__}, expected a tensor of logits; give an "
            "objective that takes what it returns, or wrap the model so that it returns the logits"
        )
    for owner, labels in (("the test set", test.y if test else None), ("the clients", tensors.y if tensors else None)):
        if labels is not None:
            _check_labels(owner, labels, output)


def _check_labels(owner: str, labels: Tensor, output: Tensor) -> None:
    """Refuse labels that are not class numbers of the output, of shape (2, ...)."""
    dimension = class_dimension(output[: len(labels[:2])], labels[: len(output)])
    if dimension is None:
        raise DataError(
            f"the labels of {owner} have shape {tuple(labels.shape)} ({labels.dtype}), expected integer class numbers, "
            f"one for each prediction of the model's output {('samples', *output.shape[1:])}; convert one-hot labels "
            "with y.argmax(-1), or give an objective that fits these labels"
        )
    counted, classes = labels[labels != IGNORED], output.shape[dimension]
    if not counted.numel():
        raise DataError(f"every label of {owner} is {IGNORED}, which marks positions that do not count; give labels")
    low, high = int(counted.min()), int(counted.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"the labels of {owner} run from {low} to {high}, but the model has {classes} classes "
            f"(0 to {classes - 1}); correct the labels or the model's number of classes"
        )
