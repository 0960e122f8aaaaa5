"""The vectorised step as one program of ``torch.compile``.

``torch.compile`` joins many small kernels into few, and on CUDA a step's kernels are recorded once and then launched
together (CUDA graphs). The program is pure: it reads the stacked tensors and returns losses, gradients and the new
values of buffers. So nothing is lost when it cannot be compiled, and a recorded graph overwrites only memory of its
own.

Each shape of batches is compiled once, which takes seconds to minutes. All parameters get gradients, also those of
layers that are frozen in a round, so the same program serves every plan.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from fedlama.core.trees import Signature, Tree, signature
from fedlama.engines.api import Values
from fedlama.errors import ConfigError

Loss = Callable[[Values, Values, Tree], tuple[Tensor, Values]]
_SHAPES = 8
"""Shapes of batches to compile, the first ones that come; torch itself gives up after as many."""


class StepResult(NamedTuple):
    """What one torch-compiled step returns.

    Attributes:
        losses: Float64, (rows,).
        gradients: By parameter, (rows, ...); on CUDA they are valid until the next step.
        buffers: The new values of all other tensors, (rows, ...); on CUDA likewise.
    """

    losses: Tensor
    gradients: Values
    buffers: Values


class TorchCompiledStep:
    """Computes the losses and gradients of all rows with a program of ``torch.compile``.

    Args:
        loss: One client's loss and buffers, from trained tensors, other tensors and a batch.
        trained: Names of the parameters.
        device: Where to compute.
        backend: The compiler; see :func:`torch.compile`.
    """

    def __init__(self, loss: Loss, trained: Sequence[str], device: torch.device, backend: str = "inductor") -> None:
        self._loss, self._trained = loss, tuple(trained)
        self._backend, self._mode = backend, "reduce-overhead" if device.type == "cuda" else None
        self._program: Callable[[_Stack, Tree], StepResult] | None = None
        self._shapes: set[Signature] = set()

    def __call__(self, values: Values, batch: Tree) -> StepResult | None:
        """Compute one step.

        Args:
            values: Stacked tensors, (rows, ...), always of the same names; only read.
            batch: The batches; leaves are (rows, batch, ...).

        Returns:
            The result, or None if there have been too many shapes to compile this one too.
        """
        shape = signature(batch)
        if shape not in self._shapes and len(self._shapes) == _SHAPES:
            return None
        self._shapes.add(shape)
        if self._program is None:
            self._stack = _Stack(values)
            program = _with_separate_code(_make_program(self._loss, tuple(values), self._trained))
            self._program = torch.compile(
                program, fullgraph=True, dynamic=False, backend=self._backend, mode=self._mode
            )
        self._stack.point_at(values)
        # The result of the last step is no longer needed.
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return self._program(self._stack, batch)


class _Stack(nn.Module):
    """Stacked tensors as parameters of a module.

    A recorded graph reads from fixed addresses. Plain arguments are copied there at every launch. A module's parameters
    are read from their own addresses, and torch records again when these change (another slice, a larger cohort).

    Args:
        values: The tensors.
    """

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.slots = nn.ParameterList([nn.Parameter(value, requires_grad=False) for value in values.values()])

    def point_at(self, values: Values) -> None:
        """Use these tensors from now on; nothing is copied."""
        for slot, value in zip(self.slots, values.values(), strict=True):
            slot.data = value


def _make_program(loss: Loss, names: Sequence[str], trained: Sequence[str]) -> Callable[[_Stack, Tree], StepResult]:
    """Return the function to compile, for stacks of these tensors."""

    def total(watched: Values, others: Values, batch: Tree) -> tuple[Tensor, tuple[Tensor, Values]]:
        losses, after = vmap(loss)(watched, others, batch)
        return losses.sum(), (losses, after)  # a client's parameters enter its own loss alone

    def program(stack: _Stack, batch: Tree) -> StepResult:
        values = dict(zip(names, stack.slots, strict=True))
        watched = {name: values[name] for name in trained}
        others = {name: value.clone() for name, value in values.items() if name not in watched}
        gradients, (losses, after) = grad(total, has_aux=True)(watched, others, batch)
        return StepResult(losses.double(), gradients, after)

    return program


def _with_separate_code(
    function: Callable[[_Stack, Tree], StepResult],
) -> Callable[[_Stack, Tree], StepResult]:
    """Return the same function with a code object that no other function shares.

    torch keeps what it has compiled, and counts how often, by code object. If all programs shared one, the ninth
    federation of a process would no longer be compiled.
    """
    assert isinstance(function, FunctionType)
    return FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, None, function.__closure__
    )


def check_compiler(device: torch.device) -> None:
    """Refuse torch.compile where the programs that it needs are missing.

    Args:
        device: Where to compute.

    Raises:
        ConfigError: There is no C++ compiler, or no Triton for a CUDA device.
    """
    programs = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++", "cl"]
    problems = []
    if not any(shutil.which(program.split()[0]) for program in programs):
        problems.append(
            f"compile_steps needs a C++ compiler, but {' or '.join(programs)} was not found; install one, such as g++, "
            "name yours in the environment variable CXX, or set compile_steps=False"
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        problems.append(
            "compile_steps needs Triton on a CUDA device, but it is not installed; install the package triton that "
            "belongs to your torch, or set compile_steps=False"
        )
    if problems:
        raise ConfigError(problems)
