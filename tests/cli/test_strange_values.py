"""Strange values: never a traceback, always the key, what was given, and what to do."""

from __future__ import annotations

import pytest

from tests.cli.call import SMALL, fedlama, refused

LONG = "x" * 5000
REFUSED = [
    ("seed=1.5", "seed is 1.5"),
    ("seed=true", "seed is True: expected a number or a name, got a boolean"),
    ("seed=", "seed is ''"),
    ("seed=99999999999999999999", "seed is 99999999999999999999: it does not fit into 64 bits"),
    ("seed=0x" + "f" * 5000, "seed is a number of thousands of digits"),
    ("seed=" + "9" * 5000, "(5002 characters)"),
    ("seed=" + "[" * 5000, "(5002 characters)"),
    ("seed=[1, 2]", "seed is [1, 2]"),
    ("seed={a = 1}", "seed is {'a': 1}"),
    ("local_steps=-6", "local_steps is -6, expected 1 or more; use a larger number"),
    ("local_steps=0", "local_steps is 0, expected 1 or more"),
    ("local_steps=true", "local_steps is True"),
    ("batch_size=0", "batch_size is 0"),
    ("batch_size=nan", "batch_size is nan"),
    ("batch_size=100000", "at least 100000 rows each"),
    ("evaluate_every=true", "evaluate_every is True"),
    ("name=", "name is ''"),
    ("name=..", "name is '..'"),
    ("name=a/b", "name is 'a/b'"),
    ('name="a\\u0000b"', "name is 'a\\x00b'"),
    ('name="a\\nb"', "name is 'a\\nb'"),
    (f"name={LONG}", "(5002 characters)"),
    ("name=5", "name is 5"),
    ("name.x=5", "name is 'digits', so name.x cannot be set"),
    ("solver.learning_rate=nan", "learning_rate is nan"),
    ("solver.learning_rate=inf", "learning_rate is inf, expected a finite number; use a smaller one"),
    ("solver.learning_rate=1e400", "learning_rate is inf"),
    ("solver.learning_rate=-0.1", "learning_rate is -0.1"),
    ("solver.learning_rate=true", "solver.learning_rate is True"),
    ("solver.learning_rate=fast", "solver.learning_rate is 'fast'"),
    ("solver.momentum=1", "momentum is 1.0"),
    ("solver.momentum=nan", "momentum is nan"),
    ("solver.weight_decay=inf", "weight_decay is inf"),
    ("solver.warm_up_steps=-1", "warm_up_steps is -1"),
    ("solver.decay_at=5", "solver.decay_at is 5"),
    ("solver.decay_at=[true]", "solver.decay_at is [True]"),
    ("strategy.base_interval=0", "base_interval is 0"),
    ("strategy.base_interval=true", "strategy.base_interval is True"),
    ("strategy.increase_factor=0", "increase_factor is 0"),
    ("strategy.increase_factor=nan", "strategy.increase_factor is nan"),
    ("strategy.warm_up_rounds=-1", "warm_up_rounds is -1"),
    ("strategy.cutoff=true", "strategy.cutoff is True"),
    ("strategy.accelerate=perhaps", "strategy.accelerate is 'perhaps'"),
    ("strategy.base_interval.x=5", "strategy.base_interval is 3, so strategy.base_interval.x cannot be set"),
    ("strategy=", "strategy is ''"),
    ("strategy.name=", "strategy.name is ''"),
    ("strategy.name=5", "strategy.name is 5"),
    ("partition.clients=0", "clients is 0"),
    ("partition.clients=100000", "100000 clients"),
    ("partition.alpha=0", "alpha is 0.0"),
    ("partition.alpha=nan", "alpha is nan"),
    ("partition.alpha=inf", "alpha is inf"),
    ("partition.min_size=0", "min_size is 0"),
    ("model.hidden=[0]", "[64, 0, 10]"),
    ("model.hidden=[1000000000000]", "model 'mlp' cannot be built"),
    ("model.hidden=[true]", "model.hidden is [True]"),
    ("device=", "device is ''"),
    ("device=meta", "device is 'meta'"),
    ("layers.name=mapping", "layers.groups is missing"),
    ("a.b.c.d=5", "unknown key 'a'"),
    ("=5", "'=5' is not a valid override"),
    ("seed", "'seed' is not a valid override"),
    (LONG, "(5002 characters) is not a valid override"),
]


@pytest.mark.parametrize(("override", "part"), REFUSED, ids=[override[:40] for override, _ in REFUSED])
def test_refused(override: str, part: str) -> None:
    (problem,) = refused("plan", "digits", *SMALL, override)
    assert part in problem
    assert len(problem) < 400


@pytest.mark.parametrize(
    "override",
    [
        "seed=-1",
        "seed=9223372036854775807",
        "solver.learning_rate=0",
        "strategy.increase_factor=1",
        "model.hidden=[]",
        "model.hidden=[3, 2]",
        "partition.clients=1",
        "partition.alpha=1e-6",
        "solver.warm_up_steps=1000000",
        "evaluate_every=1000000",
        "solver.decay_at=[1, 2]",
    ],
)
def test_accepted(override: str) -> None:
    assert fedlama("plan", "digits", *SMALL, override, "--json").code == 0
