"""Whether a trainer takes the step that plain PyTorch takes, up to what rounding explains.

Two clients' rows are copied, the trainer takes one step of both, and each client's result is compared with that of its
own plain step, tensor by tensor, relative to the tensor's step. It takes two: a fault may spare the first row, as a
forgotten ``padding_idx`` does, or need a second client that is mixed in. The step has the rate 1: at a small rate,
steps would be lost in the rounding of the weights.

**What rounding explains.** Sums of n terms in another order differ by about eps * sqrt(n), which for a million terms is
1000 eps of float32 or float64. Numbers of 16 bits are added up in float32, and only results are rounded, so 16 eps
are enough. More can be right too: an input of a ReLU that is zero up to rounding switches a whole path on or off, and
a bias before batch norm has a gradient that is nothing but rounding. Therefore a difference beyond these limits is
compared with what the plain step itself does when weights and inputs are changed by a few eps. A fault does not hide
there: what a step leaves out or mixes in does not depend on the last bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedlama.core.averaging import difference
from fedlama.core.trees import leaves
from fedlama.engines.api import EngineSetup, Values
from fedlama.engines.cohort.cohort import CohortSlice
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.first_step.plain import (
    ClientStart,
    PlainClient,
    StepOutcome,
    change_inputs,
    inputs_of,
    named_state,
    seed_all,
    without_warnings,
)
from fedlama.engines.trainers.base import LocalSteps, Trainer
from fedlama.engines.trainers.gradients import Precision
from fedlama.errors import FedlamaError, cut
from fedlama.kernels import CHECKED

_DRAWS = 4
"""How many times the plain step is repeated with weights and inputs that are changed by a few eps."""
_SPREAD = 4.0
"""How many times the largest of these changes a difference may be."""
_FLOOR = 1e-2
"""The limit of a tensor whose step is much smaller than others', in limits of the largest step."""
_LOSS = "the loss"


@dataclass(frozen=True)
class Disagreement:
    """What a trainer computes differently.

    Attributes:
        client: The client.
        tensor: The tensor that differs most, ``"the loss"``, or None if the trainer failed.
        reason: What was seen, as a clause.
    """

    client: int
    tensor: str | None
    reason: str


def run_copies(trainer: Trainer, rows: CohortSlice, work: LocalSteps) -> list[StepOutcome]:
    """Let a trainer take one step of copies of some rows, and return what it leaves of each.

    Args:
        trainer: The trainer.
        rows: The rows; they are not changed. Their batches must be repeatable.
        work: The step.
    """
    copies = CohortSlice(
        rows.clients,
        {name: value.detach().clone() for name, value in rows.values.items()},
        {kind: [buffer.clone() for buffer in buffers] for kind, buffers in rows.optimizer_state.items()},
        rows.steps_done,
        rows.fresh,
    )
    seed_all(0)
    losses = trainer.run(copies, work, WorkerThreads(1))
    outcomes = []
    for row, loss in enumerate(losses):
        values = {name: value[row] for name, value in copies.values.items()}
        kinds = copies.optimizer_state.items()
        state = {kind: [buffers[index][row] for index in work.trained] for kind, buffers in kinds}
        outcomes.append(StepOutcome(loss, values | named_state(state, work)))
    return outcomes


def compare(
    setup: EngineSetup,
    trainer: Trainer,
    rows: CohortSlice,
    plain: Sequence[tuple[ClientStart, StepOutcome]],
    work: LocalSteps,
) -> Disagreement | None:
    """Return what a trainer computes differently from plain PyTorch; None if they agree.

    Args:
        setup: The federation's fixed parts.
        trainer: The trainer.
        rows: One or two clients' rows; they are not changed. Their batches must be repeatable.
        plain: What these clients begin with, and what their plain steps in float32 or the model's own dtype leave.
        work: The step.

    Raises:
        Warning: The trainer issued a warning, and warnings are errors.
    """
    try:
        outcomes = run_copies(trainer, rows, work)
    except (Warning, torch.cuda.OutOfMemoryError):
        raise
    except FedlamaError:
        return None  # the run itself will come to it
    except Exception as error:  # of the trainer's way to compute: the plain step has just been taken
        if CHECKED:  # of memory accesses of the kernels, which this mode is there to find
            raise
        return Disagreement(rows.clients[0], None, f"{type(error).__name__}: {cut(error, 160)}")
    for (start, expected), outcome in zip(plain, outcomes, strict=True):
        if trainer.precision != "float32":
            with without_warnings():
                expected = PlainClient(setup, trainer.precision).step(start, work)
        disagreement = _compared(setup, trainer.precision, start, (outcome, expected), work)
        if disagreement is not None:
            return disagreement
    return None


def _compared(
    setup: EngineSetup,
    precision: Precision,
    start: ClientStart,
    outcomes: tuple[StepOutcome, StepOutcome],
    work: LocalSteps,
) -> Disagreement | None:
    """Compare what a trainer left of one client with what its plain step leaves."""
    outcome, expected = outcomes
    if not math.isfinite(expected.loss):
        return None  # the run itself will say that it diverges
    limits = _Limits(setup, precision, start, work)
    disagreement = limits.exceeded(outcome, expected)
    if disagreement is None or setup.device.type == "cpu":
        return disagreement
    with without_warnings():  # on a GPU torch's own dropout draws other masks than the clients' generators
        drawn = PlainClient(setup, precision, own_dropout=True).step(start, work)
    return limits.exceeded(outcome, drawn) and disagreement


class _Limits:
    """The largest differences between two steps of one client that rounding explains.

    Args:
        setup: The federation's fixed parts.
        precision: The numbers that the model computes in.
        start: What the client begins with.
        work: The step.
    """

    def __init__(self, setup: EngineSetup, precision: Precision, start: ClientStart, work: LocalSteps) -> None:
        self._setup, self._precision, self._start, self._work = setup, precision, start, work
        dtypes = [
            value.dtype for value in [*start.values.values(), *leaves(inputs_of(start.batch))] if not _is_exact(value)
        ]
        dtypes += [torch.bfloat16] if precision == "bfloat16" else []
        tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
        self._epsilon = unit_of_rounding(dtypes, setup.device.type, tf32)
        self._relative = (16 if self._epsilon > 1e-4 else 1000) * self._epsilon
        self._spread: dict[str, float] | None = None

    def exceeded(self, outcome: StepOutcome, expected: StepOutcome) -> Disagreement | None:
        """Return the largest difference beyond the limits, if there is one."""
        before = self._before()
        sizes = {name: _norm(_step(value, before.get(name))) for name, value in expected.tensors.items()}
        largest = max(sizes.values(), default=0.0)
        excess: dict[str, float] = {}
        for name, value in expected.tensors.items():
            apart = _distance(outcome.tensors[name], value)
            limit = self._relative * (sizes[name] + _FLOOR * largest)
            limit += 2 * self._epsilon * (_norm(before.get(name, value)) + sizes[name])
            if not apart <= limit:
                excess[name] = apart - limit
        loss_apart = abs(outcome.loss - expected.loss)
        if not loss_apart <= self._relative * max(abs(expected.loss), 1e-3):
            excess[_LOSS] = loss_apart
        beyond = {name: value for name, value in excess.items() if not value <= self._explained(expected)[name]}
        if not beyond:
            return None
        sizes[_LOSS] = abs(expected.loss)
        ratios = {name: value / (sizes[name] or largest or 1.0) for name, value in beyond.items()}
        named = {name: ratio for name, ratio in ratios.items() if name in self._start.values} or ratios
        worst = max(named, key=lambda name: math.inf if math.isnan(named[name]) else named[name])
        differs = f"by {100 * named[worst]:.2g} %" if math.isfinite(named[worst]) else "entirely"
        reason = f"{differs} of its step, where rounding explains {100 * self._relative:.2g} %"
        return Disagreement(self._start.client, worst, reason)

    def _before(self) -> Values:
        return self._start.values | named_state(self._start.optimizer_state, self._work)

    def _explained(self, expected: StepOutcome) -> Mapping[str, float]:
        """Return how far the plain step moves when weights and inputs are changed by a few eps."""
        if self._spread is None:
            before = self._before()
            spread = dict.fromkeys([*expected.tensors, _LOSS], 0.0)
            for draw in range(_DRAWS):
                start = self._changed(draw)
                with without_warnings():
                    outcome = PlainClient(self._setup, self._precision).step(start, self._work)
                begun = start.values | named_state(start.optimizer_state, self._work)
                for name, value in expected.tensors.items():
                    moved = _step(outcome.tensors[name], begun.get(name))
                    apart = _distance(moved, _step(value, before.get(name)))
                    spread[name] = max(spread[name], _SPREAD * apart)
                spread[_LOSS] = max(spread[_LOSS], _SPREAD * abs(outcome.loss - expected.loss))
            self._spread = spread
        return self._spread

    def _changed(self, draw: int) -> ClientStart:
        """Return the start with weights and inputs changed by a few eps."""
        generator = torch.Generator().manual_seed(draw)
        size = (2 if self._epsilon > 1e-4 else 16) * self._epsilon

        def changed(value: Tensor) -> Tensor:
            if not value.is_floating_point():
                return value
            noise = torch.rand(value.shape, generator=generator).sub_(0.5).to(value.device, value.dtype)
            return value + value * noise * (2 * size)

        values = {name: changed(value) for name, value in self._start.values.items()}
        return replace(self._start, values=values, batch=change_inputs(changed, self._start.batch))


def unit_of_rounding(dtypes: Sequence[torch.dtype], device: str, tf32: bool) -> float:
    """Return the relative error of one operation.

    Args:
        dtypes: Those that the step computes in.
        device: The kind of device. On CUDA, convolutions of float32 are not computed sum by sum: some algorithms of
            cuDNN transform their inputs, which costs about four bits.
        tf32: Whether CUDA may multiply float32 as TF32, which has a mantissa of ten bits.

    >>> unit_of_rounding([torch.float32], "cpu", tf32=True) == 2**-23
    True
    >>> unit_of_rounding([torch.float32], "cuda", tf32=False) == 2**-19
    True
    >>> unit_of_rounding([torch.float32], "cuda", tf32=True) == 2**-10
    True
    """
    units = {dtype: torch.finfo(dtype).eps for dtype in dtypes or [torch.float32]}
    if device == "cuda" and torch.float32 in units:
        units[torch.float32] = 2**-10 if tf32 else 16 * units[torch.float32]
    return max(units.values())


def _is_exact(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex())


def _step(value: Tensor, before: Tensor | None) -> Tensor:
    """Return how far a tensor has moved; of integers and booleans, their value."""
    return value if before is None or _is_exact(value) else difference(value, before)


def _distance(value: Tensor, expected: Tensor) -> float:
    """Return the norm of a difference; infinity for integers or booleans that are not equal."""
    if torch.equal(value, expected):
        return 0.0
    if _is_exact(expected):
        return math.inf
    apart = difference(value, expected)
    return _norm(torch.where(value.isnan() & expected.isnan(), torch.zeros_like(apart), apart))


def _norm(value: Tensor) -> float:
    """Return the norm of a tensor's finite elements, in float64; NaN if one is NaN."""
    wide = value.to(torch.complex128 if value.is_complex() else torch.float64)
    norm = float(torch.linalg.vector_norm(wide))
    if math.isfinite(norm):
        return norm
    return float(torch.linalg.vector_norm(torch.where(wide.abs() == math.inf, torch.zeros_like(wide), wide)))
