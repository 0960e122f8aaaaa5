"""Central training on the pooled data of all clients: what a federation is compared with when its data could be shared.

It is a federation of one client that holds the samples of all clients, under a strategy that sends nothing. So every
engine trains it, it resumes, and it is a row of a comparison, with 0 bytes.
"""

from __future__ import annotations

from dataclasses import replace

from fedlama.choices.aggregators import Mean
from fedlama.choices.availability import Always
from fedlama.choices.codecs import Float32
from fedlama.choices.samplers import AllClients
from fedlama.choices.server_optimizers import Replace
from fedlama.choices.solvers.local_update import all_at_once
from fedlama.choices.strategies import Pooled
from fedlama.core.local_work import LocalWork
from fedlama.data.clients import PoolableClients
from fedlama.data.sources import as_source
from fedlama.errors import ConfigError
from fedlama.federation.federation import Federation


def pooled(federation: Federation, batch_size: int | None = None) -> Federation:
    """Return central training of the same model, task and solver on the pooled data of a federation.

    In every round it sees as many samples as the federation's cohort takes together: tau local steps of each client of
    the cohort, or as many epochs of the pooled data, times the cohort's share of the clients, where
    `local_work.epochs` is set. Limits and stragglers do not slow it down. The run's clock, and so the evaluations and
    schedules, are the federation's. Records name no clients and the ledger is empty.

    Codec, server optimizer, aggregator, sampler, absences and personal heads are left out; layers that stay on the
    clients are trained like the others, all at once. Momentum goes on over all rounds.

    Args:
        federation: The federation; it is not changed.
        batch_size: Samples of a batch; by default that of the clients.

    Raises:
        ConfigError: The clients cannot be pooled, or their batch sizes differ and none is given.

    Example:
        >>> import torch
        >>> from fedlama import ClientData, FedLAMA
        >>> clients = [ClientData(torch.randn(8, 2), torch.arange(8) % 2, 4) for _ in range(3)]
        >>> central = pooled(Federation(torch.nn.Linear(2, 2), clients, FedLAMA(2, 2), 8))
        >>> len(central.clients), central.strategy, central.run().ledger.total_bytes("up")
        (1, Pooled(base_interval=2), 0)
    """
    source, strategy = as_source(federation.clients), federation.strategy
    budget, tau = federation.budget, strategy.local_steps
    if not isinstance(source, PoolableClients):
        raise ConfigError(
            f"the clients are {type(source).__name__}, whose samples cannot be pooled; give them as ClientData, "
            "TensorClients or DatasetClients"
        )
    together = source.pooled(batch_size)
    layers = federation.layers
    if layers is not None:
        layers = tuple(replace(layer, tag="shared") if layer.tag == "local" else layer for layer in layers)
    return replace(
        federation,
        clients=together,
        strategy=Pooled(tau),
        solver=all_at_once(federation.solver),
        local_steps=budget.local_steps,
        rounds=None,
        epochs=None,
        local_work=_work(federation, source, together),
        sampler=AllClients(),
        availability=Always(),
        personal=None,
        codec=Float32(),
        server_optimizer=Replace(),
        aggregator=Mean(),
        layers=layers,
        evaluate="global",
        evaluate_every=federation.evaluate_every or tau * strategy.cycle_rounds,
        evaluate_clients="none",
        keep_client_models=False,
    )


def _work(federation: Federation, source: PoolableClients, together: PoolableClients) -> LocalWork:
    """Return the epochs of the pooled data in which as many samples are seen as by a cohort in a round."""
    share = federation.sampler.cohort_size(len(source)) / len(source)
    epochs = federation.local_work.epochs
    if epochs is not None:
        return LocalWork(epochs=epochs * share)
    batches = federation.strategy.local_steps * share * sum(source.batch_sizes) / together.batch_sizes[0]
    return LocalWork(epochs=max(batches, 1) / together.batches_per_epoch(0))
