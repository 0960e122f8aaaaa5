"""The contract of local solvers: how a client turns gradients into steps.

A solver works on plain lists of tensors, one entry for each parameter. An engine that trains one client at a time gives
it that client's tensors; one that stacks a cohort gives tensors with a leading dimension for clients. The same object
serves both, if it keeps to what belongs to whom:

==============  ======================================================================================================
per element     element-wise operations on parameters, gradients and buffers need no care
per tensor and  a norm, a mean or a sum over one parameter must not mix the clients. Set the class attribute
client          `always_stacked` to True: then every engine gives the leading dimension, 1 for a single client, and
                :func:`~fedlama.choices.solvers.per_client.tensor_norms` returns (clients,) for each tensor
per client      a norm over all parameters, likewise: :func:`~fedlama.choices.solvers.per_client.client_norms`. It
                covers one group, because a solver is called once for each of its parameter groups
applied again   a number for each client multiplies a tensor through
                :func:`~fedlama.choices.solvers.per_client.along_clients`
buffers         :meth:`LocalSolver.init` makes one client's, of any shape and dtype, () for a number; in a step they
                have the leading dimension where the parameters have it
==============  ======================================================================================================

A solver that treats parameters by their names may have a method ``for_parameters(names, model_names)``. It returns what
takes the steps of the parameters `names`; `model_names` are all that are trained, in the model's order. One that treats
layers by their tag may have a method ``for_layers(layers)``. It returns the solver for a labelling, and is asked first;
a method ``layer_problems(layers)`` returns what of a labelling does not suit the solver, one sentence each. One that
trains some layers in some steps of a round only has a method ``all_at_once()``. It returns a solver with the same
buffers, or some of them, that trains all layers in each step: for central training, and to check the first step.

A solver that exchanges more than the model with the server, such as second moments or control variates, names it; see
:mod:`fedlama.choices.solvers.exchanged`.

Engines that stack clients compare a run's first step with a single client's (:mod:`fedlama.engines.first_step`): where
a solver mixes clients, they say so and go on client by client.

To write one, inherit from :class:`LocalSolver` and define `name`, `learning_rate` and `step`, and `init` if steps need
buffers. Everything else has a default. To have a schedule, clipping and parameter groups as well, inherit from
:class:`~fedlama.choices.solvers.options.SolverOptions` instead.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, get_args

from torch import Tensor

OptimizerState = dict[str, list[Tensor]]
"""Buffers such as momentum, by name; each list is aligned with the parameters. How long they live is `state_scope`."""

StateScope = Literal["cohort", "slot", "round", "client"]
"""How long buffers live. "cohort": a client keeps its own while its cohort lasts and begins with zeros whenever a
cohort is drawn, also one of the same clients; so drawing all clients differs from `AllClients`, which draws once.
"slot": as in the authors' program they stay in the cohort's slot and pass to the next client that is drawn into it.
"round": zeros at each round. "client": a client keeps its own for the whole run, also while other cohorts train."""
STATE_SCOPES: tuple[str, ...] = get_args(StateScope)


class LocalSolver(Protocol):
    """Moves a client's parameters, in place.

    A class with the same members need not inherit, but then it has no defaults.

    Attributes:
        name: The solver's name in configuration files.
        learning_rate: The rate that :meth:`rate` returns by default.
        always_stacked: Whether tensors in :meth:`step` have the leading dimension for clients in every engine.
    """

    name: ClassVar[str]
    always_stacked: ClassVar[bool] = False

    if TYPE_CHECKING:  # read-only, so that frozen fields fit; at run time the property would become a field's default

        @property
        def learning_rate(self) -> float:
            """The rate that :meth:`rate` returns by default."""

    @property
    def state_scope(self) -> StateScope:
        """How long buffers live; by default as long as the client's cohort."""
        return "cohort"

    @property
    def uses_reference(self) -> bool:
        """Whether :meth:`step` needs the last synchronised global values; by default False."""
        return False

    def rate(self, step: int) -> float:
        """Return the learning rate of a local step; by default the same for all.

        Args:
            step: The step on the run's clock, from 0 (the paper's k - 1); see
                :mod:`fedlama.choices.solvers.schedule`.
        """
        return self.learning_rate

    def init(self, parameters: Sequence[Tensor]) -> OptimizerState:
        """Return fresh buffers for these parameters; by default none.

        Args:
            parameters: One client's trainable parameters, each of its own shape. The buffers may depend on shapes,
                dtypes and devices only, not on values: an engine makes them once for all clients.
        """
        return {}

    @abstractmethod
    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        decayed: Sequence[bool],
        reference: Sequence[Tensor],
    ) -> None:
        """Take one step, in place.

        Args:
            parameters: What to move: one client's tensors, or a cohort's of shape (clients, ...).
            gradients: Gradients of the loss, aligned with `parameters` and of their shapes; may be overwritten.
            optimizer_state: Buffers, aligned with `parameters` and with the same leading dimension; updated in place.
            rate: Learning rate of this step.
            decayed: Per parameter, False for those of normalisation modules.
            reference: Last synchronised global values, aligned with `parameters`, each of one client's shape; empty
                unless :attr:`uses_reference`.
        """
