"""A federation as users make it: its settings, and the call that runs them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from fedlama.core.records import Result
from fedlama.core.registry import shown_name
from fedlama.federation.callbacks import RoundCallback
from fedlama.federation.run import Run
from fedlama.federation.settings import FederationSettings


@dataclass(frozen=True)
class Federation(FederationSettings):
    """A model, the clients' data, a budget, and the choices: everything that determines a run.

    Args:
        model: Any module; its current weights are the initial ones. It is copied, never changed.
        clients: A list of :class:`~fedlama.data.clients.ClientData`, a list of loaders of PyTorch, a list of iterables
            of ready batches, or a :class:`~fedlama.data.clients.ClientSource` such as
            :class:`~fedlama.data.datasets.DatasetClients`.
        strategy: When each layer is synchronised.
        local_steps: Budget K: local steps of each active client over the whole run. Exactly one of `local_steps`,
            `rounds` and `epochs` is given.
        solver: How a client trains.
        sampler: Which clients take part.
        availability: Which of them answer in a round, and what happens to those that do not.
        codec: In how many bits an upload is sent.
        server_optimizer: How an average enters the global model.
        aggregator: How the clients' values of a layer become one value, when not all clients are trusted.
        layers: The labelling; by default every parameter tensor is a layer.
        weighting: Client weights p_i: ``"samples"`` for n_i / n over the cohort, ``"equal"`` for 1 / m. ``"fednova"``
            is n_i / n, with every client's change divided by its number of local steps; see
            :mod:`fedlama.federation.fednova`.
        test_set: Held-out data for the aggregated global model.
        evaluate_every: Local steps between two evaluations, rounded up to whole rounds; by default a cycle. The last
            round is always evaluated.
        evaluate: ``"global"`` scores the average of all clients; layers that are not due are averaged for it, and the
            ledger keeps these transfers apart. ``"best_client"`` scores the local model of every fourth client of the
            cohort and takes the best, as the authors' program does; it is optimistic.
        task: What is learnt: the loss of a batch, and the metrics; see :mod:`fedlama.choices.tasks`.
        objective: Short for the task of a loss of output and target; see :class:`~fedlama.FunctionTask`.
        seed: Decides every random draw but the initial weights.
        engine: Name of the engine, or one with options, such as ``Stacked(chunk=16)``.
        device: Where to compute.
        keep_client_models: Keep every client's local model in the round records.
        rounds: The budget in rounds. As an attribute it is the number of rounds of the run, whatever the budget is
            given in; 0 where that cannot be counted, which a run refuses with the reason.
        epochs: The budget in epochs of the average client's data, rounded up to whole rounds.
        micro_batch_size: Samples that a client computes at a time, at most; gradients of a batch's parts are added up,
            so that a large batch needs the memory of a small one. None for whole batches.
        local_work: What clients do in a round, where it is not the strategy's local steps for all of them: epochs of
            their own data, limits of slow clients, stragglers.
        evaluate_clients: Which models are scored on the clients' own test sets, beside the test set: ``"global"``, the
            global model on each client with one; ``"own"``, each client's own model before it is averaged, of the
            clients that answered; ``"both"`` or ``"none"``.
        validation_set: Held-out data by which decisions are made: the best model and early stopping. The test set is
            never used for them.
        early_stopping: When to stop before the budget is used up; by default never.
        privacy: Limits of what the global model may say of one client: clipping and noise, with epsilon in
            `Result.figures`; None for none. See :mod:`fedlama.choices.privacy`.
        personal: How clients blend the layers tagged ``"head"`` with heads of their own; None for none. Then
            ``evaluate_clients="own"`` scores each client's model before its local steps. See
            :mod:`fedlama.choices.personal`.
    """

    def __repr__(self) -> str:
        """Return what it is on one line: the data and the model are long."""
        return f"Federation({', '.join(f'{name}: {value}' for name, value in self._facts().items())})"

    def _repr_html_(self) -> str:
        """Return what it is as a small table, for notebooks."""
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self._facts().items()
        )
        return f"<table><caption>Federation</caption>{rows}</table>"

    def _facts(self) -> dict[str, str]:
        """Return the choices and sizes by name, as text."""
        parameters = sum(value.numel() for value in self.model.parameters())
        choices = {
            name: shown_name(getattr(self, name))
            for name in ("solver", "sampler", "codec", "server_optimizer", "aggregator")
        }
        settings = {name: value for name, value in vars(self.strategy).items() if type(value) is int}
        short = ", ".join(str(value) for value in list(settings.values())[:2])
        return {
            "strategy": f"{type(self.strategy).__name__}({short})",
            "model": f"{type(self.model).__name__} with {parameters:,} parameters",
            "clients": str(len(self.clients)),
            "rounds": str(self.rounds),
            **choices,
            "engine": str(getattr(self.engine, "name", self.engine)),
            "seed": str(self.seed),
        }

    def run(self, callbacks: Iterable[RoundCallback] = ()) -> Result:
        """Train to the end of the budget.

        Args:
            callbacks: Called as :class:`~fedlama.Callback` says; an object with `on_round` alone is one too.

        Returns:
            The records, the ledger, the final model and the best one. A callback that raises
            :class:`~fedlama.StopRun`, or early stopping, ends the run and returns the rounds done.

        Raises:
            ConfigError: The choices do not fit together.
            DataError: The data cannot be used.
            CallbackError: A callback failed; it has the result so far.
            DivergenceError: A client's loss or values are not finite; the callbacks have seen all rounds before that.
        """
        return Run(self).to_end(list(callbacks))
