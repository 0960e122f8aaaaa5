"""Traced steps: learnt from a client's first batches, checked bit by bit, and used by all threads from then on.

Of each shape of batches the first step is recorded and repeated by the program, and the second one is computed in both
ways: losses, gradients, buffers and the generator must have the same bits. A step that cannot be traced, or whose bits
differ, is computed as usual ever after. As both ways give the same, it does not matter to a result which thread learns
a step and when; while it does, the other threads compute as usual.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlama.core.trees import Signature, Tree, leaves, signature
from fedlama.data.clients import is_pure
from fedlama.engines.api import EngineSetup, Values
from fedlama.engines.micro_batches import LossAndGradients
from fedlama.engines.trainers.traced.constants import varying_operations
from fedlama.engines.trainers.traced.program import Program, interpreter_exists
from fedlama.engines.trainers.traced.recorder import recorded

_MOST = 8
"""Programs of an engine, at most: one for each shape of batches and each set of layers that is trained."""
_CHECKS = 2
"""Batches that a program must have computed like PyTorch before it is used."""
_Key = tuple[tuple[str, ...], Signature, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class StepTensors:
    """What a step reads, of one client or of stacked ones.

    Attributes:
        values: The client's model by name, or those of stacked clients; the step may change it in place.
        trained: Names of the parameters whose gradients are wanted.
        batch: Its batch.
        generators: The clients' generators, for dropout; one where a step is of one client.
    """

    values: Values
    trained: tuple[str, ...]
    batch: Tree
    generators: Sequence[torch.Generator]

    @property
    def inputs(self) -> list[Tensor]:
        """All tensors that differ from client to client and from step to step, in a fixed order."""
        return [*self.values.values(), *leaves(self.batch)]


@dataclass
class _Attempt:
    """What is known of a step.

    Attributes:
        program: The program; None if the step is computed as usual.
        agreed: Batches on which both ways gave the same bits.
    """

    program: Program | None = None
    agreed: int = 0

    @property
    def usable(self) -> bool:
        return self.program is not None and self.agreed >= _CHECKS


class TracedSteps:
    """Computes losses and gradients by programs, once they are learnt. All trainers of an engine share it.

    Attributes:
        reasons: Why steps are not traced, for each kind of step that was tried in vain.
    """

    def __init__(self) -> None:
        self._attempts: dict[_Key, _Attempt] = {}
        self._learning = threading.Lock()
        self.reasons: list[str] = []

    @classmethod
    def of(cls, setup: EngineSetup) -> TracedSteps | None:
        """Return traced steps, or None where they are not for a federation.

        They are for the CPU, and for data whose batches can be asked for at any time: only there the first step shows
        whether a model remembers something in Python.

        Args:
            setup: The federation's fixed parts.
        """
        suits = setup.device.type == "cpu" and is_pure(setup.clients) and interpreter_exists()
        return cls() if suits else None

    @property
    def count(self) -> int:
        """How many programs are in use."""
        return sum(attempt.usable for attempt in self._attempts.values())

    def __call__(
        self,
        step: StepTensors,
        compute: Callable[[], LossAndGradients],
        repeatable: Callable[[], bool] = lambda: True,
    ) -> LossAndGradients:
        """Compute a step.

        Args:
            step: What it reads.
            compute: Computes it as usual.
            repeatable: Says after a usual step whether another one would find the model as this one did.
        """
        inputs = step.inputs
        key = step.trained, signature(step.batch), tuple(tensor.stride() for tensor in inputs)
        attempt = self._attempts.get(key)
        if attempt is not None and attempt.usable:
            assert attempt.program is not None
            loss, *gradients = attempt.program(inputs, step.generators)
            return LossAndGradients(loss, gradients)
        given_up = len(self._attempts) >= _MOST if attempt is None else attempt.program is None
        if given_up or not self._learning.acquire(blocking=False):
            return compute()
        try:
            return self._learn(key, step, compute, repeatable)
        finally:
            self._learning.release()

    def _learn(
        self, key: _Key, step: StepTensors, compute: Callable[[], LossAndGradients], repeatable: Callable[[], bool]
    ) -> LossAndGradients:
        """Compute a step as usual, and record it or compare its program; return what the usual step gave."""
        attempt = self._attempts.setdefault(key, _Attempt())
        before = _State.of(step)
        expected = compute()
        if not repeatable():
            self._give_up(attempt, "the model replaces a buffer instead of changing it in place")
            return expected
        after = _State.of(step)
        inputs = step.inputs
        try:
            if attempt.program is None:
                before.restore(step)
                attempt.program = _traced(compute, step)
            before.restore(step)
            given = attempt.program(inputs, step.generators)
            agrees = _equal(given, [expected.loss.detach(), *expected.gradients]) and after.equals(_State.of(step))
            attempt.agreed += 1
            reason = None if agrees else "its operations, called one by one, give other bits"
        except Exception as error:  # of torch's interpreter, or of a model that fails under a mode
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if reason is not None:
            self._give_up(attempt, reason)
        after.restore(step)
        return expected

    def _give_up(self, attempt: _Attempt, reason: str) -> None:
        attempt.program = None
        self.reasons.append(reason)


@dataclass(frozen=True)
class _State:
    """Copies of what a step may change: a model's buffers, but also its parameters and its batch.

    Attributes:
        tensors: Copies of the tensors that it reads.
        generators: The states of the generators.
    """

    tensors: list[Tensor]
    generators: list[Tensor]

    @classmethod
    def of(cls, step: StepTensors) -> _State:
        states = [generator.get_state() for generator in step.generators]
        return cls([tensor.clone() for tensor in step.inputs], states)

    def restore(self, step: StepTensors) -> None:
        for tensor, value in zip(step.inputs, self.tensors, strict=True):
            tensor.copy_(value)
        for generator, state in zip(step.generators, self.generators, strict=True):
            generator.set_state(state)

    def equals(self, other: _State) -> bool:
        return _equal([*self.generators, *self.tensors], [*other.generators, *other.tensors])


def _traced(compute: Callable[[], LossAndGradients], step: StepTensors) -> Program:
    """Record a step.

    Args:
        compute: Computes it as usual.
        step: What it reads.

    Raises:
        CannotTraceError: It cannot be traced.
    """
    (loss, gradients), operations = recorded(compute)
    outputs = [loss, *gradients]
    varying = varying_operations(operations, step.inputs, outputs)
    return Program(varying, step.inputs, outputs, step.generators)


def _equal(given: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Return whether tensors have the same types, shapes and bits."""
    pairs = list(zip(given, expected, strict=True))
    return all(mine.dtype == theirs.dtype and torch.equal(mine, theirs) for mine, theirs in pairs)
