"""Whether a model, a loss or a solver remembers something that is neither a parameter, a buffer nor optimizer state.

One module serves all clients of an engine, so a counter or a hidden state in a plain attribute would pass from client
to client, in another order on every engine, and no checkpoint would hold it. What is remembered is not looked for in
the code. A client's step is taken by a new copy, and again by a copy that has first taken another client's step with
other weights. If the two differ by a bit more than rounding, something has passed on.

Attributes that a forward pass only writes (the last activation, an attention map), and caches that give the same
numbers again, change nothing and are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedlama.core.averaging import difference
from fedlama.core.modules import plain_attributes
from fedlama.engines.api import EngineSetup
from fedlama.engines.first_step.plain import ClientStart, PlainClient, StepOutcome, change_inputs
from fedlama.engines.trainers.base import LocalSteps
from fedlama.errors import ConfigError

_OTHER_WEIGHTS = 0.1
"""How far the weights of the step in between are from the client's, relative to each."""
_JUMPS = (9, 10, 99, 100, 999, 1_000, 9_999, 10_000, 10**6)
"""Numbers of further steps after which a counter is tried: a schedule may begin late, before or after it counts."""
_ROUNDING = 4.0
"""Machine epsilons, relative to a tensor, that two equal computations may be apart."""
_FAR = 1000.0
"""Machine epsilons beyond which rounding alone explains no difference."""
_MOST_ATTRIBUTES = 16

_UNCHANGEABLE = (int, float, complex, str, bytes, type(None), tuple, torch.dtype, torch.device, torch.Size)
_Key = tuple[str, str]
"""The name of a module, and of one of its plain attributes."""


class _Change(NamedTuple):
    """An attribute's values before and after a step."""

    before: Any
    after: Any

    @property
    def replaced(self) -> bool:
        """Whether the attribute holds another object than before, or another value of a plain type."""
        if self.before is self.after:
            return False
        same_type = type(self.before) is type(self.after) and isinstance(self.after, _UNCHANGEABLE)
        return not (same_type and self.before == self.after)


def check_hidden_state(setup: EngineSetup, starts: list[ClientStart], work: LocalSteps, expected: StepOutcome) -> None:
    """Refuse a model, a loss or a solver that remembers something between two steps.

    Args:
        setup: The federation's fixed parts.
        starts: What one or two clients begin with.
        work: The step.
        expected: What the first client's step gives on a new copy.

    Raises:
        ConfigError: Something is remembered and changes results; the sentence names the attribute.
    """
    used = PlainClient(setup)
    before = plain_attributes(used.model)
    try:
        used.step(_other_step(starts), work)
    except Exception:  # of the second client's batch, which the run itself will come to
        return
    changed = _changed(before, plain_attributes(used.model))
    if _gives(used, starts[0], work, expected) and not _counts(setup, starts[0], work, expected, changed):
        return
    again = PlainClient(setup).step(starts[0], work)
    if _same(again, expected):
        raise ConfigError(_sentence(setup, starts, work, expected, changed))
    if setup.device.type == "cpu" and not _same(again, expected, _FAR):  # a GPU may add in another order each time
        raise ConfigError(
            f"the model {type(setup.model).__name__} gives other results for the same weights, batch and seed, so it "
            "reads something that changes outside of it (a global variable, a generator of its own, a clock); keep "
            "state in buffers (self.register_buffer), and draw random numbers with torch, which each client seeds"
        )


def _other_step(starts: list[ClientStart]) -> ClientStart:
    """Return the step in between: another client's if there is one, from other weights and with other inputs."""
    other = starts[-1]
    draw = torch.Generator().manual_seed(2)

    def moved(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        noise = torch.rand(value.shape, generator=draw).to(value.device, value.dtype)
        return value * (1 + _OTHER_WEIGHTS * noise)

    values = {name: moved(value) for name, value in other.values.items()}
    batch = other.batch if len(starts) > 1 else change_inputs(_halved, other.batch)
    return replace(other, values=values, batch=batch)


def _halved(value: Tensor) -> Tensor:
    return value / 2 if value.is_floating_point() else value


def _gives(client: PlainClient, start: ClientStart, work: LocalSteps, expected: StepOutcome) -> bool:
    """Return whether a client's step has the expected outcome; one that fails has not."""
    try:
        return _same(client.step(start, work), expected)
    except Exception:  # what is remembered may not even fit, such as a hidden state of another batch size
        return False


def _same(outcome: StepOutcome, expected: StepOutcome, epsilons: float = _ROUNDING) -> bool:
    """Return whether two outcomes of one computation are equal, up to the rounding of sums in another order."""
    pairs = [(outcome.tensors[name], value) for name, value in expected.tensors.items()]
    pairs += zip(outcome.gradients, expected.gradients, strict=True)
    pairs.append((torch.tensor(outcome.loss), torch.tensor(expected.loss)))
    return all(_close(*pair, epsilons) for pair in pairs)


def _close(value: Tensor, expected: Tensor, epsilons: float) -> bool:
    value, expected = (part.to_dense() if part.is_sparse else part for part in (value, expected))
    if torch.equal(value, expected):
        return True
    if not (expected.is_floating_point() or expected.is_complex()):
        return False
    apart, size = difference(value, expected).abs().double().nan_to_num(0.0), expected.abs().double().nan_to_num(0.0)
    nans_agree = torch.equal(value.isnan(), expected.isnan())
    return nans_agree and float(apart.norm()) <= epsilons * torch.finfo(expected.dtype).eps * float(size.norm())


def _counts(
    setup: EngineSetup, start: ClientStart, work: LocalSteps, expected: StepOutcome, changed: Mapping[_Key, _Change]
) -> bool:
    """Return whether a counter, which changes nothing at the second step, changes something at a later one."""
    numbers = {key: change for key, change in changed.items() if _is_number(change.before) and _is_number(change.after)}
    for jump in _JUMPS if numbers else ():
        client = PlainClient(setup)
        for (module, name), change in numbers.items():
            setattr(client.model.get_submodule(module), name, change.before + jump * (change.after - change.before))
        if not _gives(client, start, work, expected):
            return True
    return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _changed(before: Mapping[_Key, Any], after: Mapping[_Key, Any]) -> dict[_Key, _Change]:
    """Return the attributes that may have changed, those that hold another object first.

    A list or another object may be changed in place, so each of them may have changed.
    """
    missing = object()
    changes = {key: _Change(before.get(key, missing), value) for key, value in after.items()}
    replaced = {key: change for key, change in changes.items() if change.replaced}
    in_place = {
        key: change
        for key, change in changes.items()
        if change.before is change.after and not isinstance(change.after, _UNCHANGEABLE)
    }
    return replaced | in_place


def _sentence(
    setup: EngineSetup,
    starts: list[ClientStart],
    work: LocalSteps,
    expected: StepOutcome,
    changed: Mapping[_Key, _Change],
) -> str:
    """Return the sentence that names what is remembered."""
    model = type(setup.model).__name__
    names = _responsible(setup, starts, work, expected, changed)
    if names:
        listed = ", ".join(repr(name) for name in names[:3])
        plural = "s" if len(names) > 1 else ""
        return (
            f"the attribute{plural} {listed} of the model {model} {'change' if plural else 'changes'} in the forward "
            "pass and changes later results, so it would pass from client to client; make it a buffer "
            "(self.register_buffer), of which every client has its own, or remove it"
        )
    used = PlainClient(setup)
    used.step(_other_step(starts), work)
    for part, remedy in (
        ("task", "compute the loss from the output and the targets alone"),
        ("solver", "make its buffers in init(), of which every client has its own"),
    ):
        client = PlainClient(setup)
        setattr(client, part, getattr(used, part))
        if not _same(client.step(starts[0], work), expected):
            # Of a task made of a function, the function is what the user knows.
            blamed = getattr(getattr(setup, part), "function", getattr(setup, part))
            word = part if blamed is getattr(setup, part) else "objective"
            return (
                f"the {word} {type(blamed).__name__} remembers something from step to step, so it would pass from "
                f"client to client; {remedy}"
            )
    return (
        f"the model {model} gives other results for the same weights and the same batch when it has computed another "
        "batch before, so something would pass from client to client; keep all that it remembers in buffers "
        "(self.register_buffer)"
    )


def _responsible(
    setup: EngineSetup,
    starts: list[ClientStart],
    work: LocalSteps,
    expected: StepOutcome,
    changed: Mapping[_Key, _Change],
) -> list[str]:
    """Return which of the changed attributes change the result, each by itself; all counters if none does.

    Parameters that do not require a gradient count as attributes: they are given, and no client has its own.
    """
    used = PlainClient(setup)
    used.step(_other_step(starts), work)
    after = plain_attributes(used.model)
    names: list[str] = []
    for (module, name), change in list(changed.items())[:_MOST_ATTRIBUTES]:
        if names and not change.replaced:
            break  # objects that may have changed in place are suspects only where no other is
        value = after[module, name]
        client = PlainClient(setup)
        setattr(client.model.get_submodule(module), name, value.detach() if isinstance(value, Tensor) else value)
        if not _gives(client, starts[0], work, expected):
            names.append(f"{module}.{name}" if module else name)
    given = dict(setup.model.named_parameters())
    names += [
        name
        for name, parameter in used.model.named_parameters()
        if name not in starts[0].values and not torch.equal(parameter, given[name])
    ]
    counters = [f"{module}.{name}" if module else name for (module, name), c in changed.items() if _is_number(c.after)]
    return names or counters
