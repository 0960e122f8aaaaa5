"""From a run folder back to what ran: the experiment, and the model with its trained values, without the data.

A network is built for a data set, of which a run folder holds the shapes of the rows but not the number of labels. The
saved tensors decide: each size that they have is tried until all names and shapes are those of the file.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedlama.core.global_generators import seed_torch
from fedlama.core.randomness import seed_of
from fedlama.errors import ConfigError, DataError, FedlamaError, printable, shown
from fedlama.experiment.build import guarded
from fedlama.experiment.catalogue import Catalogue
from fedlama.experiment.resolution import resolve
from fedlama.experiment.settings import Experiment
from fedlama.models.base import Architecture
from fedlama.runs.reader import ADDED, Config, is_built_in_python

_LARGEST_ROW = 1 << 28
"""Elements of one row of inputs; a run folder may come from another person."""


@dataclass(frozen=True)
class StandIn:
    """What a model may look at before it is built, in place of the data set: shapes without rows.

    Attributes:
        name: The data set's name.
        train_x: One row of inputs, all zero.
        train_y: Its target, zero.
        classes: Number of labels.
        outputs: Number of values that the model returns.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    classes: int
    outputs: int


def stored_experiment(path: Path, config: Config, plugins: Sequence[str] = ()) -> Experiment:
    """Return the experiment of a stored run.

    Args:
        path: The run folder, for messages.
        config: The content of its ``config.json``, in today's words.
        plugins: Files or modules with options of the user's own: a run folder is not trusted to name code.

    Raises:
        DataError: There is no configuration, or it is of a federation that was built in Python.
        ConfigError: This version cannot read the configuration, or code of the user's own is missing or has changed.
    """
    where = printable(path)
    if not config:
        raise DataError(f"{where} has no config.json, which says what ran; take a run that has one")
    if is_built_in_python(config):
        raise DataError(
            f"the run in {where} is of a federation that was built in Python, and a run folder holds no code; make "
            "that federation again, and give its model to fedlama.StoredRun.load_model"
        )
    settings = {key: value for key, value in config.items() if key not in ADDED}
    return resolve(settings, Catalogue(plugins=tuple(plugins), trusted_only=True))


@dataclass(frozen=True)
class Trained:
    """The values that a run folder holds of its model.

    Attributes:
        where: The run folder, for messages.
        values: The trained values by name.
        missing: Tensors of the model that nothing trained, and that are not among the values.
    """

    where: str
    values: Mapping[str, Tensor]
    missing: Sequence[str] = ()

    def misfits(self, model: nn.Module) -> list[str]:
        """Return the names of the tensors that a model and these values do not have in common, or in other shapes."""
        known = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        shapes = {name: tuple(value.shape) for name, value in self.values.items()}
        wrong = [
            name for name in known if shapes.get(name, known[name] if name in self.missing else None) != known[name]
        ]
        return wrong + [name for name in shapes if name not in known]

    def load(self, model: nn.Module) -> nn.Module:
        """Return a model that fits with these values; what is missing stays as it is."""
        model.load_state_dict(dict(self.values), strict=False)
        return model


def rebuilt(experiment: Experiment, description: Mapping[str, Any], trained: Trained) -> nn.Module:
    """Build a run's model and load its trained values.

    Args:
        experiment: The experiment. Its seed decides the initial values of what nothing trained.
        description: What ran; it holds the shapes of the clients' rows.
        trained: The trained values.

    Returns:
        The model, in evaluation mode.

    Raises:
        DataError: The description has no shapes, or no model of the experiment has these tensors.
    """
    shape, kind = _row(description)
    sizes = [value.shape[0] for value in trained.values.values() if value.ndim]
    problem: FedlamaError | None = None
    for outputs in dict.fromkeys(reversed(sizes)):  # the last layer comes last in most networks
        target = torch.zeros((1,), dtype=torch.int64)
        dataset = StandIn(experiment.data.name, torch.zeros((1, *shape), dtype=kind), target, outputs, outputs)
        try:
            model = _built(experiment.model, dataset, experiment.settings.seed)
        except FedlamaError as error:
            problem = error
            continue
        if not trained.misfits(model):
            return trained.load(model).eval()
    reason = f" ({problem})" if problem else ""
    raise DataError(
        f"no model {experiment.model.name!r} of these settings has the tensors of the run in {trained.where}{reason}; "
        "build the model yourself, and give it to fedlama.StoredRun.load_model"
    )


def loaded_into(model: nn.Module, trained: Trained) -> nn.Module:
    """Return a copy of a model of the user's own with the trained values of a run.

    Args:
        model: The model with which the run was made; it is not changed.
        trained: The trained values.

    Raises:
        ConfigError: It is not a model.
        DataError: Names or shapes differ.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model is {shown(model)}, expected the torch.nn.Module with which the run was made; leave it out for the "
            "model of an experiment"
        )
    wrong = trained.misfits(model)
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataError(
            f"the model in {trained.where} differs from {type(model).__name__} in {', '.join(wrong[:3])}{more}; give "
            "the model with which the run was made"
        )
    return trained.load(copy.deepcopy(model))


def _built(architecture: Architecture, dataset: StandIn, seed: int) -> nn.Module:
    """Build a network with the initial values of a seed; the global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        seed_torch(seed_of(seed, "model"))
        model = guarded("model", architecture, lambda: architecture.build(dataset))
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model {architecture.name!r} returned no torch.nn.Module; return one")
    return model


def _row(description: Mapping[str, Any]) -> tuple[tuple[int, ...], torch.dtype]:
    """Return shape and dtype of a client's row of inputs."""
    inputs: Any = description
    for key in ("clients", "data", "inputs"):
        inputs = inputs.get(key) if isinstance(inputs, Mapping) else None
    try:
        shape, kind = tuple(int(size) for size in inputs["shape"][1:]), str(inputs["dtype"])
        dtype = getattr(torch, kind.removeprefix("torch."))
        if not isinstance(dtype, torch.dtype) or math.prod(shape) > _LARGEST_ROW:
            raise ValueError(kind)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            "config.json does not say what shape the data had, as before version 0.2; build the model yourself, and "
            "give it to fedlama.StoredRun.load_model"
        ) from error
    return shape, dtype
