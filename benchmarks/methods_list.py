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
_LPA = ["aggregator.name=fedlpa", "layers.name=module"]
_PLAIN = [*_FEDAVG, "solver.momentum=0.0"]
_ONE_ROUND = [*_PLAIN, "strategy.base_interval={budget}"]
_HALF = [*_PLAIN, "local_steps={half}"]
_LONG_ROUND = [*_HALF, "strategy.base_interval={half}"]
_RATES = ["solver.name=layer-rates", "solver.learning_rate=0.05"]
_MASK = ["codec.name=layer-mask", "aggregator.name=element-mean"]

METHODS: dict[str, list[str]] = {
    "FedAvg": _FEDAVG,
    "FedAvg, 4 times the interval": [*_FEDAVG, "strategy.base_interval={interval}"],
    "FedLAMA": _FEDLAMA,
    "FedLAMA, random layers": [*_FEDLAMA, "strategy.order=random"],
    "FedAvg, without momentum": _PLAIN,
    "FedLAMA, without momentum": [*_FEDLAMA, "solver.momentum=0.0"],
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
    "LBGM, threshold 0.2": [*_FEDAVG, "codec.name=lbgm"],
    "rates by layer (FLAYER)": [*_FEDAVG, *_RATES],
    "mask by layer (FLAYER)": [*_FEDAVG, *_MASK],
    "one round": _ONE_ROUND,
    "one round, FedLPA": [*_ONE_ROUND, *_LPA],
    "one round, then FedAvg": _LONG_ROUND,
    "one round, FedLPA, then FedAvg": [*_LONG_ROUND, *_LPA],
}
"""Title to the changes of an experiment. ``{interval}`` is four times the setting's interval, ``{budget}`` its local
steps and ``{half}`` half of them, and ``{feedback}`` is whether codecs keep what rounding left out, as by default: they
cannot where a new cohort is drawn in every round."""

THEN: dict[str, list[str]] = {"one round, then FedAvg": _HALF, "one round, FedLPA, then FedAvg": _HALF}
"""Title to the changes of a second run, which begins with the model of the first one."""

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

_CNN = ["model.name=small-cnn", "model.widths=[4,8]", "model.hidden=32", "solver.name=sgd", "solver.learning_rate=0.05"]
_OWN_SETS = ["client_test_share=0.2", "client_validation_share=0.1", "evaluate_clients=own", "short_clients=true"]
_EPOCHS = [*_CNN, *_OWN_SETS, "batch_size=10", "local_work.epochs=1", "rounds=15", "evaluate_every=1000"]

PERSONAL_SETTINGS: dict[str, list[str]] = {
    "writers, own": [*_EPOCHS, "data.name=mnist-writers", "partition.name=natural", "partition.clients=40"],
    "fashion, own": [
        *_EPOCHS,
        "data.name=idx",
        "data.rows=4000",
        "partition.name=dirichlet",
        "partition.clients=20",
        "partition.alpha=0.1",
    ],
}
"""Data sets whose clients have test sets of their own. All of them take part in every round, of one local epoch."""

_HEAD = "dense2.*"
_FLAYER = [
    *_FEDAVG,
    *_MASK,
    "solver.name=layer-rates",
    "solver.learning_rate=0.005",
    "solver.factor=20",
    f'layers.head=["{_HEAD}"]',
]
PERSONAL: dict[str, list[str]] = {
    "each client alone": [*_PLAIN, "rounds=1", "local_work.epochs=15"],
    "FedAvg, the global model": [*_PLAIN, "evaluate_clients=global"],
    "FedAvg": _PLAIN,
    "FedAvg, then 5 epochs alone": [*_PLAIN, "evaluate_clients=none"],
    "FedPer": [*_PLAIN, f'layers.local=["{_HEAD}"]'],
    "FedRep": [
        *_FEDAVG,
        "solver.name=fedrep",
        "solver.momentum=0.0",
        "solver.head_steps=4",
        f'layers.local=["{_HEAD}"]',
    ],
    "FedBABU, then 5 epochs alone": [*_PLAIN, f'layers.frozen=["{_HEAD}"]', "evaluate_clients=none"],
    "FLAYER": [*_FLAYER, "personal={head_epochs=1}"],
    "FLAYER, preset authors": [*_FLAYER, "personal={head_epochs=1}", "preset=authors"],
}
"""Title to the changes of an experiment. A client's own model is scored after its local epoch, that of FLAYER before
it, as its source does."""

ALONE = [*_PLAIN, "rounds=1", "local_work.epochs=5"]
"""The changes of fine-tuning: one more round, in which every client trains and is scored, and nothing is averaged."""

TUNED = frozenset(title for title in PERSONAL if title.endswith("5 epochs alone"))
"""Titles of methods with fine-tuning, of which what clients would send up is not counted."""
