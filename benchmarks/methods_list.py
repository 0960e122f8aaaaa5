"""The settings and methods of :mod:`benchmarks.methods`, as changes of an experiment file.

Rates come from the defaults of the choices or from their papers' usual values. None was tuned on these data, but
SCAFFOLD and Fed-AMS, which diverged on Fashion-MNIST, have a second row with a lower rate, and FedAvgM with less
momentum.
"""

from __future__ import annotations

_MODEL = ["model.name=mlp", "model.hidden=[32,128,128]", "solver.name=sgd", "solver.learning_rate=0.05"]

SETTINGS: dict[str, list[str]] = {
    "writers": [
        *_MODEL,
        "data.name=mnist-writers",
        "partition.name=natural",
        "sampler.name=uniform",
        "sampler.active=10",
        "batch_size=10",
        "local_steps=480",
        "evaluate_every=480",
        "strategy.base_interval=10",
    ],
    "fashion": [
        *_MODEL,
        "data.name=idx",
        "partition.name=dirichlet",
        "partition.clients=20",
        "partition.alpha=0.1",
        "batch_size=20",
        "local_steps=240",
        "evaluate_every=240",
        "strategy.base_interval=5",
    ],
}
"""Data sets: MNIST by its 539 writers, 10 of them in a round, and Fashion-MNIST over 20 clients, all in each round."""

_FEDAVG = ["strategy.name=fedavg"]
_FEDLAMA = ["strategy.name=fedlama", "strategy.increase_factor=4"]
_FOUR_BITS = ["codec.name=differences", "codec.bits=4", "codec.feedback={feedback}"]
_LAMB = ["solver.name=fed-lamb", "solver.learning_rate=0.01"]
_PROX = ["solver.name=fedprox", "solver.proximal=0.01"]
_SCAFFOLD = ["solver.name=scaffold", "solver.learning_rate=0.05"]
_SLOW_SCAFFOLD = ["solver.name=scaffold", "solver.learning_rate=0.01"]
_ADAM = ["server_optimizer.name=adam", "server_optimizer.beta1=0.9"]

METHODS: dict[str, list[str]] = {
    "FedAvg": _FEDAVG,
    "FedAvg, 4 times the interval": [*_FEDAVG, "strategy.base_interval={interval}"],
    "FedLAMA": _FEDLAMA,
    "FedLAMA, random layers": [*_FEDLAMA, "strategy.order=random"],
    "a byte budget of 50 %": ["strategy.name=budget", "strategy.share=0.5"],
    "FedLUAR, 2 layers": ["strategy.name=fedluar", "strategy.recycled_layers=2"],
    "FedLUAR, random layers": ["strategy.name=fedluar", "strategy.recycled_layers=2", "strategy.rule=random"],
    "FedPart": [
        "strategy.name=cyclic",
        "strategy.others=with-weights",
        "strategy.rounds_per_turn=2",
        "strategy.opening_rounds=5",
        "strategy.full_rounds=5",
    ],
    "partial averaging, 4 parts": ["strategy.name=partial"],
    "FedLDF, 4 senders": ["strategy.name=fedldf", "strategy.senders=4"],
    "FedLP, keep 0.5": ["strategy.name=fedlp", "strategy.keep=0.5"],
    "AdaComm": ["strategy.name=adacomm", "strategy.first_interval=4", "strategy.adapt_every=8"],
    "float16": [*_FEDAVG, "codec.name=float16"],
    "8 bits": [*_FEDAVG, "codec.name=differences", "codec.bits=8", "codec.feedback={feedback}"],
    "4 bits": [*_FEDAVG, *_FOUR_BITS],
    "2 bits": [*_FEDAVG, "codec.name=differences", "codec.bits=2", "codec.feedback={feedback}"],
    "QSGD, 4 bits": [*_FEDAVG, "codec.name=qsgd"],
    "top-k, 5 %": [*_FEDAVG, "codec.name=top-k", "codec.share=0.05", "codec.feedback={feedback}"],
    "PowerSGD, rank 2": [*_FEDAVG, "codec.name=power-sgd", "codec.feedback={feedback}"],
    "FedLAMA, 4 bits": [*_FEDLAMA, *_FOUR_BITS],
    "FedProx": [*_FEDAVG, *_PROX],
    "SCAFFOLD": [*_FEDAVG, *_SCAFFOLD],
    "SCAFFOLD, a fifth of the rate": [*_FEDAVG, *_SLOW_SCAFFOLD],
    "FedDyn": [
        *_FEDAVG,
        "solver.name=feddyn",
        "solver.alpha=0.01",
        "solver.learning_rate=0.05",
        "server_optimizer.name=feddyn",
        "server_optimizer.alpha=0.01",
    ],
    "FedAvgM, momentum 0.5": [*_FEDAVG, "server_optimizer.name=momentum"],
    "FedAvgM, momentum 0.9": [*_FEDAVG, "server_optimizer.name=momentum", "server_optimizer.momentum=0.9"],
    "DiLoCo's outer step": [*_FEDAVG, "server_optimizer.name=nesterov"],
    "FedAdam": [*_FEDAVG, *_ADAM],
    "FedYogi": [*_FEDAVG, "server_optimizer.name=yogi", "server_optimizer.beta1=0.9"],
    "FedAdagrad": [*_FEDAVG, "server_optimizer.name=adagrad"],
    "Fed-LAMB": [*_FEDAVG, *_LAMB],
    "Fed-AMS": [*_FEDAVG, "solver.name=fed-ams", "solver.learning_rate=0.001"],
    "Fed-AMS, a tenth of the rate": [*_FEDAVG, "solver.name=fed-ams", "solver.learning_rate=0.0001"],
    "Mime-LAMB": [*_FEDAVG, "solver.name=mime-lamb", "solver.learning_rate=0.01"],
    "clients by samples": [
        *_FEDAVG,
        "sampler.name=weighted",
        "sampler.active=10",
        "weighting=equal",
    ],
    "power-of-choice, 10 of 20": [
        *_FEDAVG,
        "sampler.name=power-of-choice",
        "sampler.active=10",
        "sampler.candidates=20",
        "weighting=equal",
    ],
    "DP-FedAvg, clip 1, noise 0.1": [*_FEDAVG, "privacy={clip=1.0, noise=0.1}", "weighting=equal"],
    "FedRep, best own model": [
        *_FEDAVG,
        "solver.name=fedrep",
        "solver.head_steps=3",
        "layers.local=['dense3.*']",
        "evaluate=best_client",
    ],
    "LBGM, threshold 0.2": [*_FEDAVG, "codec.name=lbgm"],
}
"""Title to the changes of an experiment. ``{interval}`` is four times the setting's interval, and ``{feedback}`` is
whether codecs keep what rounding left out, as by default: they cannot where a new cohort is drawn in every round."""

EXPENSIVE = frozenset({"Mime-LAMB"})
"""Titles of methods that run last: a pass over all data in each round takes longer than all other methods together."""

BASES = {"FedProx": _PROX, "SCAFFOLD, a fifth of the rate": _SLOW_SCAFFOLD, "FedAdam": _ADAM, "Fed-LAMB": _LAMB}
"""Title to the changes of what FedLAMA and 4 bits are combined with."""

_PARTS = {
    ", FedLAMA": _FEDLAMA,
    ", 4 bits": [*_FEDAVG, *_FOUR_BITS],
    ", FedLAMA, 4 bits": [*_FEDLAMA, *_FOUR_BITS],
}
COMBINED: dict[str, list[str]] = {
    base + part: [*changes, *more] for base, changes in BASES.items() for part, more in _PARTS.items()
}
"""FedLAMA and 4 bits, each with other methods; without them they are among :data:`METHODS`."""
