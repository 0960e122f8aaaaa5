"""A step as a program of recorded operations, which runs without Python.

The program is a graph of TorchScript that torch's interpreter runs as it is, without its optimisations: the same
operations as in the usual step, so the same bits. It releases Python's lock, so the threads of an engine do not wait
for each other. The graph is made directly: ``torch.jit.script`` and ``torch.jit.trace``, which are deprecated, are not
used. Where a version of torch has no interpreter, :func:`interpreter_exists` says so and nothing is traced.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedlama.engines.trainers.traced.recorder import CannotTraceError, Operation, storage_of

_MEMORY_FORMATS = {
    torch.contiguous_format: 0,
    torch.preserve_format: 1,
    torch.channels_last: 2,
    torch.channels_last_3d: 3,
}
"""Numbers of memory formats in TorchScript."""


class Draw(NamedTuple):
    """A dropout mask that is drawn before the program runs.

    Attributes:
        shape: Its shape.
        dtype: Its type.
        kept: The probability of a one.
        client: Whose generator it is drawn from, by position.
    """

    shape: torch.Size
    dtype: torch.dtype
    kept: float
    client: int


def interpreter_exists() -> bool:
    """Return whether this version of torch can run programs of recorded operations."""
    needed = ("_create_function_from_graph", "_AutoDispatchBelowAutograd", "_set_graph_executor_optimize")
    return all(hasattr(torch._C, name) for name in needed)


class Program:
    """Runs recorded operations.

    Args:
        operations: Those that have to be computed in every step.
        inputs: The tensors that the recorded step read; calls give others of the same shapes and strides.
        outputs: The tensors that it returned.
        generators: The clients' generators, from which it drew dropout masks.

    Raises:
        CannotTraceError: An argument has no form in TorchScript.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        graph = _GraphMaker(inputs, generators)
        for operation in operations:
            graph.add(operation)
        self._function = graph.function(outputs)
        self._draws = graph.draws

    def __call__(self, inputs: Sequence[Tensor], generators: Sequence[torch.Generator] = ()) -> list[Tensor]:
        """Run the operations.

        Args:
            inputs: In the order of the recorded ones.
            generators: The clients', in the order of the recorded ones.
        """
        drawn = [
            torch.empty(draw.shape, dtype=draw.dtype).bernoulli_(draw.kept, generator=generators[draw.client])
            for draw in self._draws
        ]
        # Below autograd, as they were recorded: above it some operations refuse gradients that are not defined.
        with torch._C._AutoDispatchBelowAutograd(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            results: list[Tensor] = self._function(*inputs, *drawn)
        return results


class _GraphMaker:
    """Makes a graph of TorchScript.

    A tensor is known by its identity, and by its memory: two views of the same memory with the same shape and strides
    are the same value, so repeated transposes and what autograd detaches cost nothing.

    Args:
        inputs: The tensors that are given.
        generators: The clients' generators.

    Attributes:
        draws: The dropout masks, in the order in which they are drawn; they are inputs too.
    """

    def __init__(self, inputs: Sequence[Tensor], generators: Sequence[torch.Generator]) -> None:
        self._generators = [_address(generator) for generator in generators]
        self._graph: Any = torch._C.Graph()
        self._by_identity: dict[int, Any] = {}
        self._by_memory: dict[tuple[Any, ...], Any] = {}
        self._constants: dict[tuple[type, str], Any] = {}
        self.draws: list[Draw] = []
        for tensor in inputs:
            self._know(tensor, self._graph.addInput())

    def add(self, operation: Operation) -> None:
        """Append an operation."""
        if operation.draws:
            self._add_draw(operation)
            return
        if self._is_known_view(operation):
            return
        schema = operation.function._schema
        pairs = zip(schema.arguments, operation.arguments, strict=True)
        arguments = [self._argument(value, str(argument.type)) for argument, value in pairs]
        node = self._graph.insertNode(self._graph.create(operation.name, arguments, len(schema.returns)))
        for position, result in enumerate(operation.results[: len(schema.returns)]):
            value = node.outputsAt(position)
            if isinstance(result, list | tuple):
                value.setType(torch._C.ListType.ofTensors())
                unpacked = self._graph.insertNode(self._graph.create("prim::ListUnpack", [value], len(result)))
                for index, part in enumerate(result):
                    self._know(part, unpacked.outputsAt(index))
            elif isinstance(result, Tensor):
                self._know(result, value)

    def function(self, outputs: Sequence[Tensor]) -> Any:  # noqa: ANN401  (a ScriptFunction that takes the inputs)
        """Return the finished graph as a function that returns a list.

        Args:
            outputs: What it returns.
        """
        values = [self._value(tensor) for tensor in outputs]
        self._graph.registerOutput(self._list(values, torch._C.ListType.ofTensors()))
        return torch._C._create_function_from_graph("step", self._graph)

    def _add_draw(self, operation: Operation) -> None:
        """Make a dropout mask an input, since TorchScript has no clients' generators."""
        mask, kept, generator = operation.arguments
        if not mask.is_contiguous() or _address(generator) not in self._generators:
            raise CannotTraceError("a dropout mask is not drawn from a client's generator into memory of its own")
        self.draws.append(Draw(mask.shape, mask.dtype, kept, self._generators.index(_address(generator))))
        self._know(mask, self._graph.addInput())

    def _is_known_view(self, operation: Operation) -> bool:
        """Return whether an operation gives a view of memory that is known already, and remember it as that."""
        (result, *more) = operation.results
        if more or not isinstance(result, Tensor) or operation.function._schema.is_mutable:
            return False
        if storage_of(result) not in {storage_of(tensor) for tensor in operation.read}:
            return False
        value = self._by_memory.get(_memory(result))
        if value is not None:
            self._by_identity[id(result)] = value
        return value is not None

    def _know(self, tensor: Tensor, value: Any) -> None:  # noqa: ANN401  (a value of the graph, as below)
        self._by_identity[id(tensor)] = self._by_memory[_memory(tensor)] = value

    def _value(self, tensor: Tensor) -> Any:  # noqa: ANN401
        """Return the value of a tensor; one that no operation of the graph has made is a constant."""
        value = self._by_identity.get(id(tensor))
        if value is None:
            value = self._by_memory.get(_memory(tensor))
        if value is None:
            value = self._graph.insertConstant(tensor.detach())
            self._know(tensor, value)
        return value

    def _argument(self, value: Any, kind: str) -> Any:  # noqa: ANN401
        """Return the value of an argument.

        Args:
            value: What was given.
            kind: Its type in the operation's schema.
        """
        if isinstance(value, Tensor):
            return self._value(value)
        if isinstance(value, list):
            return self._list_argument(value, kind)
        if isinstance(value, torch.memory_format):
            value = _MEMORY_FORMATS[value]
        if isinstance(value, int) and not isinstance(value, bool) and kind in ("float", "Optional[float]"):
            value = float(value)
        return self._constant(value)

    def _list_argument(self, items: list[Any], kind: str) -> Any:  # noqa: ANN401
        if "List[Optional[Tensor]]" in kind:
            of_optional = torch._C.ListType(torch._C.OptionalType(torch._C.TensorType.get()))
            return self._list([self._argument(item, "Optional[Tensor]") for item in items], of_optional)
        if "List[Tensor]" in kind:
            return self._list([self._value(item) for item in items], torch._C.ListType.ofTensors())
        if items:
            return self._constant([float(item) for item in items] if "List[float]" in kind else items)
        if "List[int]" in kind:
            return self._list([], torch._C.ListType.ofInts())
        raise CannotTraceError(f"an empty list of type {kind} has no form in TorchScript")

    def _list(self, values: list[Any], kind: Any) -> Any:  # noqa: ANN401
        node = self._graph.insertNode(self._graph.create("prim::ListConstruct", values, 1))
        return node.output().setType(kind)

    def _constant(self, value: Any) -> Any:  # noqa: ANN401
        key = type(value), repr(value)
        if key not in self._constants:
            self._constants[key] = self._graph.insertConstant(value)
        return self._constants[key]


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    """Return what two tensors share if they are the same view of the same memory."""
    return storage_of(tensor), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def _address(generator: Any) -> int:  # noqa: ANN401  (a torch.Generator, whose stub lacks the attribute)
    """Return the address of a generator: torch wraps it in a new object of Python for every call."""
    return int(generator._cdata)
