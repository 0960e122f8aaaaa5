"""Records which operations of ATen a step consists of: those of its forward and of its backward pass.

A step is computed once as usual, below a mode that sees every operation after autograd. Nothing is computed
symbolically, and nothing of torch is changed for other threads, as ``torch.fx`` would: a recording takes little longer
than the step itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_T = TypeVar("_T")


class CannotTraceError(Exception):
    """A step cannot be traced; the message says why."""


@dataclass(frozen=True)
class Operation:
    """One operation as it was called.

    Attributes:
        function: The operation of ATen, an ``OpOverload``.
        arguments: Its arguments in the order of its schema, with the defaults of those that were not given.
        results: What it returned.
    """

    function: Any
    arguments: tuple[Any, ...]
    results: tuple[Any, ...]

    @property
    def name(self) -> str:
        """Its name in TorchScript, such as ``aten::mm``."""
        return str(self.function._schema.name)

    @property
    def read(self) -> list[Tensor]:
        """The tensors among its arguments."""
        return tensors_of(self.arguments)

    @property
    def made(self) -> list[Tensor]:
        """The tensors that it returned."""
        return tensors_of(self.results)

    @property
    def written(self) -> list[Tensor]:
        """The tensors that it changed in place."""
        pairs = zip(self.function._schema.arguments, self.arguments, strict=True)
        return tensors_of([value for argument, value in pairs if argument.is_write])

    @property
    def draws(self) -> bool:
        """Whether it is the draw of a dropout mask from a client's generator."""
        generator = self.arguments[2] if self.function is torch.ops.aten.bernoulli_.float else None
        return isinstance(generator, torch.Generator)


def recorded(compute: Callable[[], _T]) -> tuple[_T, list[Operation]]:
    """Compute something and record its operations.

    Args:
        compute: What to compute, in this thread.

    Returns:
        What it returned, and the operations in their order. All tensors are kept, so that each has memory of its own.

    Raises:
        CannotTraceError: Python looked into a tensor or drew a random number, so another step may take another way.
    """
    draws = _state_of_other_generators()
    with _ValueReads() as reads, _Recorder() as recorder:
        result = compute()
    if reads.names:
        raise CannotTraceError(f"the model looks at values with {reads.names[0]}")
    if _state_of_other_generators() != draws:
        raise CannotTraceError("the model draws random numbers of Python or NumPy")
    return result, recorder.operations


def tensors_of(tree: object) -> list[Tensor]:
    """Return the tensors of nested lists and tuples.

    Raises:
        CannotTraceError: A tensor is not a dense one of plain PyTorch on the CPU.
    """
    tensors = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    for tensor in tensors:
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
        if not plain or tensor.device.type != "cpu" or tensor.is_quantized:
            raise CannotTraceError(f"the step uses a {type(tensor).__name__} that is not a plain dense tensor")
    return tensors


def storage_of(tensor: Tensor) -> int:
    """Return the address of the storage that a tensor is a view of."""
    return int(tensor.untyped_storage()._cdata)


class _Recorder(TorchDispatchMode):
    """Keeps every operation.

    Attributes:
        operations: In the order in which they ran.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: otherwise torch imports its compiler at the first operation, which takes seconds."""
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's signature
        """Run an operation and keep it."""
        results = func(*args, **(kwargs or {}))
        schema = func._schema  # type: ignore[attr-defined] # an OpOverload
        returned = tuple(results) if len(schema.returns) > 1 else (results,)
        self.operations.append(Operation(func, tuple(_in_order(schema, args, kwargs or {})), returned))
        return results


def _in_order(schema: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:  # noqa: ANN401
    """Yield the arguments in the order of a schema; lists are copied, since the caller may change them."""
    for position, argument in enumerate(schema.arguments):
        value = args[position] if position < len(args) else kwargs.get(argument.name, argument.default_value)
        yield list(value) if isinstance(value, list | tuple) else value


_READS = frozenset(
    {
        Tensor.numpy,
        Tensor.tolist,
        Tensor.data_ptr,
        Tensor.untyped_storage,
        Tensor.__array__,
        Tensor.__dlpack__,
        Tensor.__deepcopy__,
        Tensor.__reduce_ex__,
    }
)
"""Functions that look into a tensor's memory without an operation of ATen."""


class _ValueReads(TorchFunctionMode):
    """Notices functions that look into a tensor's memory.

    Attributes:
        names: Their names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's signature
        """Run every function as it is."""
        if func in _READS:
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def _state_of_other_generators() -> tuple[object, ...]:
    """Return the states of the generators of Python and NumPy, which no operation of ATen shows."""
    _, keys, position, *_ = np.random.get_state()
    return random.getstate(), np.asarray(keys).tobytes(), position
