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

With the solver `fed-lamb` or `fed-ams` the source is the public program of Fed-LAMB's authors instead (LarsFL in the
repository BelhalK/baiduresearch): equal client weights, moments that begin with 1e-8, a client's own second moment in
the first round, weight decay inside the gradient and, for Fed-LAMB, ||theta|| / ||m|| as the scale, and tensors of norm
0 that stay (:mod:`fedlama.choices.solvers.fedlamb`). The strategy is not changed then, and the global model is
evaluated.

The labelling is by tensor, of which only kernels adapt, as is the default here. What belongs to an experiment and not
to the method stays as given: learning rate, its schedule, weight decay (the program's l2 of 1e-4 is 2e-4 here), data,
and ``FedAvg`` drawing its clients every phi rounds too (set ``hold_rounds`` for that).

With personal models (`Federation.personal`) the program is FLAYER's, lancasterJie/FLAYER, and the preset sets instead:

* a from the accuracy on the client's test set (`Personal.accuracy_from`), which leaks into the model;
* kernels of size 1 x 1 that never leave a client (`LayerMask.one_by_one`);
* a weight that is 0 counts as not sent (`ElementMean.zeros`);
* client weights n_i / n (`Federation.weighting`), and scores of each client's own model (`evaluate_clients`);
* BatchNorm statistics that stay on the clients.

Its factor 20 on the rates of a CNN (`LayerRates.factor`) belongs to that network and stays as given, and so do data
without shuffling and the tail of test sets that the program leaves out.

With the aggregator `fedlpa` the program is lebronlambert/FedLPA_NeurIPS2024, and the preset sets its solve
(`FedLPA.solve`), client weights n_i / n and a layer for each module. What the program reports, the better of two models
on the test set, is not offered.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from fedlama.core.layers import StatisticsRule, by_module, by_tensor, tagged
from fedlama.federation.federation import Federation

T = TypeVar("T")


def authors(federation: Federation) -> Federation:
    """Return a federation with the choices of the authors' program.

    Args:
        federation: Any federation; it is not changed.

    Returns:
        The same federation, changed as the module's docstring lists.
    """
    if federation.personal is not None:
        return _flayer(federation)
    if federation.needs_factors:
        layers = by_module(federation.model)
        return replace(
            federation, aggregator=_with(federation.aggregator, solve="authors"), layers=layers, weighting="samples"
        )
    if federation.solver.name in ("fed-lamb", "fed-ams"):
        lamb = _with(federation.solver, decay_in="gradient", start=1e-8, first_round="own")
        return replace(federation, solver=_with(lamb, scale="mean", zero_norm="stay"), weighting="equal")
    # Each three settings are those of FedLAMA, or of SGD and FedProx, alone; other choices stay as they are.
    strategy = _with(federation.strategy, cutoff="crossing", discrepancy_share="all", warm_up_rounds=6)
    solver = _with(federation.solver, velocity="step", state_scope="slot", decay_normalisation=False)
    is_fedlama = strategy is not federation.strategy
    sampler = _with(federation.sampler, hold_rounds=strategy.cycle_rounds) if is_fedlama else federation.sampler
    statistics: StatisticsRule = "local" if is_fedlama else "average"
    return replace(
        federation,
        strategy=strategy,
        solver=solver,
        sampler=sampler,
        layers=by_tensor(federation.model, statistics=statistics),
        weighting="equal",
        evaluate="best_client",
    )


def _flayer(federation: Federation) -> Federation:
    """Return a federation of personal models with the choices of the program of FLAYER's authors."""
    heads = [layer for layer in federation.full_labelling() if layer.tag == "head"]
    names = [spec.name for layer in heads for spec in layer.tensors if spec.trainable]
    layers = by_tensor(federation.model, statistics="local")
    return replace(
        federation,
        personal=_with(federation.personal, accuracy_from="test"),
        codec=_with(federation.codec, one_by_one="mask"),
        aggregator=_with(federation.aggregator, zeros="left-out"),
        layers=tagged(layers, head=names),
        weighting="samples",
        evaluate_clients="own",
    )


def _with(choice: T, **settings: object) -> T:
    """Return a choice with other settings; the same object where it does not have all of them."""
    known = {field.name for field in fields(choice)} if is_dataclass(choice) else set()
    changed: Any = choice
    return replace(changed, **settings) if settings.keys() <= known else choice
