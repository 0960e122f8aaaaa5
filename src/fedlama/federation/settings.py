"""The settings of a federation: everything that determines a run, and what is made of it.

:class:`fedlama.federation.federation.Federation` adds the call that runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from inspect import signature
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from fedlama.choices.aggregators import Aggregator, Mean
from fedlama.choices.availability import Always, Availability
from fedlama.choices.codecs import Codec, Float32, codec_for
from fedlama.choices.personal import Personal
from fedlama.choices.privacy import Privacy
from fedlama.choices.samplers import AllClients, Sampler
from fedlama.choices.server_optimizers import Replace, ServerOptimizer
from fedlama.choices.solvers import SGD, LocalSolver
from fedlama.choices.solvers.exchanged import exchanges_of, extra_layers
from fedlama.choices.solvers.groups import frozen_names, without_frozen
from fedlama.choices.solvers.options import options_of
from fedlama.choices.strategies import Strategy
from fedlama.choices.tasks import Classification, FunctionTask, Task, as_task
from fedlama.core.budget import Budget, GivenBudget
from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT, SECTIONS, is_left_out
from fedlama.core.factors import factor_layers
from fedlama.core.layers import Layers, by_tensor, local_layers, sent_layers, without_frozen_tags
from fedlama.core.local_work import LocalWork
from fedlama.core.losses import Objective
from fedlama.core.modules import check_shapes_known, copied
from fedlama.core.validation import normalise_numbers, refuse
from fedlama.data.clients import TensorClients
from fedlama.data.sources import Clients, as_source
from fedlama.engines import Engine, EngineSetup
from fedlama.engines.first_step.batches import repeatable
from fedlama.errors import ConfigError, did_you_mean
from fedlama.federation.budget import Rounds, check_budget, given_rounds
from fedlama.federation.describe import describe_federation, differences_since
from fedlama.federation.held_out import TestSet
from fedlama.federation.own_score import OwnScorer
from fedlama.federation.stopping import EarlyStopping
from fedlama.federation.stored_description import Description

Weighting = Literal["samples", "equal", "fednova"]
Evaluated = Literal["global", "best_client"]
EvaluatedClients = Literal["none", "global", "own", "both"]


@dataclass(frozen=True)
class FederationSettings:
    """The settings of a federation; :class:`~fedlama.federation.federation.Federation` describes each of them."""

    model: nn.Module
    clients: Clients
    strategy: Strategy[Any]
    local_steps: int | None = None
    solver: LocalSolver = field(default_factory=lambda: SGD(learning_rate=0.1))
    sampler: Sampler = field(default_factory=AllClients)
    availability: Availability = field(default_factory=Always)
    codec: Codec = field(default_factory=Float32)
    server_optimizer: ServerOptimizer = field(default_factory=Replace)
    aggregator: Aggregator = field(default_factory=Mean)
    layers: Layers | None = None
    weighting: Weighting = "samples"
    test_set: TestSet | None = None
    evaluate_every: int | None = None
    evaluate: Evaluated = "global"
    task: Task = field(default_factory=Classification)
    objective: Objective | None = None
    seed: int = 0
    engine: str | Callable[[EngineSetup], Engine] = "loop"
    device: str = "cpu"
    keep_client_models: bool = False
    rounds: Rounds = Rounds()  # noqa: RUF009  (a descriptor; the constructor's default is None)
    epochs: float | None = None
    micro_batch_size: int | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)
    local_work: LocalWork = field(default=LocalWork(), metadata=LEFT_OUT_AT_DEFAULT)
    evaluate_clients: EvaluatedClients = "none"
    validation_set: TestSet | None = None
    early_stopping: EarlyStopping | None = None
    privacy: Privacy | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)
    personal: Personal | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)

    def __new__(cls, *_: object, **given: object) -> Self:
        """Refuse an unknown setting, and say where it belongs or which one is near."""
        known = [field.name for field in fields(cls)]
        for name in given.keys() - set(known):
            if name in signature(TensorClients).parameters:
                raise ConfigError(f"{cls.__name__} has no setting {name!r}; give it to TensorClients(..., {name}=...)")
            renamed = f"; it is called {SECTIONS[name]} now" if name in SECTIONS else did_you_mean(name, known)
            raise ConfigError(f"{cls.__name__} has no setting {name!r}{renamed}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        if self.objective is not None:
            if type(self.task) not in (Classification, FunctionTask):
                raise ConfigError(
                    f"task is {self.task.name!r} and objective is given too, but a task has a loss of its own; remove "
                    "objective"
                )
            object.__setattr__(self, "task", as_task(self.objective))
            object.__setattr__(self, "objective", None)

    @property
    def budget(self) -> Budget:
        """The length of the run, in local steps on its clock and in rounds.

        Raises:
            ConfigError: It is not a whole number of rounds, or in epochs and the clients do not know theirs.
        """
        refuse(check_budget(self.given_budget, self.strategy))
        clients = () if self.epochs is None else as_source(self.clients)  # to make a source copies the clients' data
        return self.given_budget.resolve(self.strategy.local_steps, clients, self.local_work)

    @property
    def given_budget(self) -> GivenBudget:
        """The length of the run as it was given."""
        return GivenBudget(self.local_steps, given_rounds(self), self.epochs)

    def labelling(self) -> Layers:
        """Return the layers that are trained and sent: those that were given, or one for every parameter tensor.

        Parameters that a group of the solver freezes are in none, and local layers are not among them.
        """
        return sent_layers(self.trained_labelling())

    def trained_labelling(self) -> Layers:
        """Return the layers that are trained, those that never leave a client included."""
        return self._trained_of(self.full_labelling())

    def _trained_of(self, full: Layers) -> Layers:
        return without_frozen(without_frozen_tags(full), options_of(self.solver).groups)

    @property
    def needs_factors(self) -> bool:
        """Whether the aggregator asks the clients for Kronecker factors."""
        return bool(getattr(self.aggregator, "needs_factors", False))

    def codec_in_force(self) -> Codec:
        """Return the codec, with what it must know of the layers that are sent."""
        return codec_for(self.codec, self.labelling())

    def full_labelling(self) -> Layers:
        """Return the layers as they were given, or one for every parameter tensor."""
        check_shapes_known(self.model)
        return self.layers if self.layers is not None else by_tensor(self.model)

    def untrained(self) -> dict[str, Tensor]:
        """Return the parameters that the server does not train: those that are frozen, and those of local layers.

        Returns:
            Their initial values by name, which the model keeps.
        """
        tensors = self.model.state_dict(keep_vars=True)
        trained = {id(tensors[spec.name]) for layer in self.labelling() for spec in layer.tensors}  # tied ones included
        parameters = {name: value for name, value in tensors.items() if isinstance(value, nn.Parameter)}
        return {name: value.detach() for name, value in parameters.items() if id(value) not in trained}

    def describe(self) -> Description:
        """Return what decides a run as plain JSON types; see :mod:`fedlama.federation.describe`.

        Raises:
            ConfigError: A choice holds something that cannot be described, such as a lock or an open file.
        """
        return describe_federation(self._parts())

    def differences(self, description: Mapping[str, Any]) -> list[str]:
        """Return what decides a run and differs between a stored description and this federation.

        Args:
            description: What :meth:`describe` returned, in this version or an older one.

        Returns:
            One clause for each difference, such as ``"solver.momentum was 0.9, and is 0.5 now"``.

        Raises:
            ConfigError: It cannot be compared.
        """
        return differences_since(description, self._parts(), {field.name: field for field in fields(self)})

    def _parts(self) -> dict[str, Any]:
        resolved = ("rounds", "epochs")  # whatever the budget was given in, the description has its local steps
        kept = [field for field in fields(self) if field.name not in resolved and not is_left_out(self, field)]
        parts = {field.name: getattr(self, field.name) for field in kept}
        first = {"seed": self.seed, "local_steps": self.budget.local_steps}
        return first | parts | first | {"layers": self.trained_labelling(), "clients": as_source(self.clients)}

    def engine_setup(self) -> EngineSetup:
        """Return the parts that an engine needs, with a copy of the model on the federation's device."""
        device, full = torch.device(self.device), self.full_labelling()
        trained = self._trained_of(full)
        layers = sent_layers(trained)
        model, clients = copied(self.model, device), repeatable(as_source(self.clients))
        for name in frozen_names(full, trained):
            model.get_parameter(name).requires_grad_(False)
        return EngineSetup(
            model=model,
            layers=layers,
            clients=clients,
            solver=self.solver,
            codec=codec_for(self.codec, layers),
            task=self.task,
            seed=self.seed,
            device=device,
            budget=self.budget,
            local_layers=local_layers(trained),
            micro_batch_size=self.micro_batch_size,
            extra_layers=extra_layers(layers, exchanges_of(self.solver)),
            privacy=self.privacy,
            personal=self.personal,
            factor_layers=factor_layers(model, layers) if self.needs_factors else (),
            scorer=None if self.personal is None else OwnScorer(self.task, clients),
        )
