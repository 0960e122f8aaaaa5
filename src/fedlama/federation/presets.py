"""The preset `authors`: every setting in which paper and program differ, as in the program.

Source: the authors' public repository swblaster/FedLAMA. The preset sets:

* no adjustment before round index 6 (`FedLAMA.warm_up_rounds`), delta over all layers (`FedLAMA.discrepancy_share`);
* equal client weights instead of n_i / n (`Federation.weighting`);
* Keras's momentum, with the learning rate inside the velocity (`SGD.velocity`), that stays in the cohort's slot
  (`SGD.state_scope`), and no weight decay on normalisation parameters (`SGD.decay_normalisation`);
* BatchNorm statistics that stay on the clients under FedLAMA, but are averaged under FedAvg
  (`by_tensor(statistics=...)`);
* a new cohort every phi rounds (`UniformSampler.hold_rounds`);
* the best of every fourth slot's local model as the accuracy (`Federation.evaluate`).

The labelling is by tensor, of which only kernels adapt, as is the default here. What belongs to an experiment and not
to the method stays as given: learning rate, its schedule, weight decay (the program's l2 of 1e-4 is 2e-4 here), data,
and ``FedAvg`` drawing its clients every phi rounds too (set ``hold_rounds`` for that).
"""

from __future__ import annotations

from dataclasses import replace

from fedlama.choices.samplers import UniformSampler
from fedlama.choices.solvers import SGD
from fedlama.choices.strategies import FedLAMA
from fedlama.core.layers import StatisticsRule, by_tensor
from fedlama.federation.federation import Federation


def authors(federation: Federation) -> Federation:
    """Return a federation with the choices of the authors' program.

    Args:
        federation: Any federation; it is not changed.

    Returns:
        The same federation, changed as the module's docstring lists.
    """
    strategy, solver, sampler = federation.strategy, federation.solver, federation.sampler
    if isinstance(strategy, FedLAMA):
        strategy = replace(strategy, cutoff="crossing", discrepancy_share="all", warm_up_rounds=6)
        if isinstance(sampler, UniformSampler):
            sampler = replace(sampler, hold_rounds=strategy.increase_factor)
    if isinstance(solver, SGD):
        solver = replace(solver, velocity="step", state_scope="slot", decay_normalisation=False)
    statistics: StatisticsRule = "local" if isinstance(strategy, FedLAMA) else "average"
    return replace(
        federation,
        strategy=strategy,
        solver=solver,
        sampler=sampler,
        layers=by_tensor(federation.model, statistics=statistics),
        weighting="equal",
        evaluate="best_client",
    )
