"""The kernels' memory and tiles as Numba types, and the generator of LLVM code that reads and writes them.

*Memory* is a pointer to float32 or int64 numbers, as seen by kernels: ``memory[i]`` is element i, and
:func:`~fedlama.kernels.tiles.offset` moves its start. In checked mode it also carries the first and the last index that
may be accessed, and every access through :class:`Code` compares its own with them; otherwise no index is checked.

A *tile* is a value of a kernel: some rows of some vectors of sixteen float32 numbers each, (rows, vectors, 16). LLVM
keeps it in registers, and splits its vectors on processors with shorter ones.

All pointers here are opaque (``ptr``), as LLVM has them since version 15: types are given where something is read.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core.imputils import lower_builtin
from numba.core.typing import signature as signature_of
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import models, register_model

from fedlama.kernels.modes import CHECKED
from fedlama.kernels.table import LANES

POINTER = ir.PointerType()
FLOAT, INDEX, SHORT = ir.FloatType(), ir.IntType(64), ir.IntType(32)
VECTOR, SHORTS = ir.VectorType(FLOAT, LANES), ir.VectorType(SHORT, LANES)
UNDEFINED = ir.Constant(VECTOR, ir.Undefined)
_FORM = ir.LiteralStructType([POINTER, INDEX, INDEX] if CHECKED else [POINTER])
"""Memory in LLVM's code: a pointer, and in checked mode the first accessible index and the one after the last."""


class MemoryType(types.Type):
    """Numba's type of memory.

    Args:
        dtype: Of its elements, float32 or int64.
    """

    def __init__(self, dtype: Any) -> None:
        super().__init__(name=f"{'CheckedMemory' if CHECKED else 'Memory'}({dtype})")
        self.dtype = dtype


class TileType(types.Type):
    """Numba's type of a tile.

    Args:
        rows: Its rows.
        vectors: Vectors in a row.
    """

    def __init__(self, rows: int, vectors: int = 1) -> None:
        super().__init__(name=f"Tile({rows}, {vectors})")
        self.rows = rows
        self.vectors = vectors


FLOATS, INTEGERS = MemoryType(types.float32), MemoryType(types.int64)
ONE_VECTOR = TileType(1)


@register_model(MemoryType)
class _MemoryModel(models.PrimitiveModel):
    """A struct: Numba itself asks a pointer to a bare opaque pointer for the type of what it points to."""

    def __init__(self, manager: Any, kind: MemoryType) -> None:
        super().__init__(manager, kind, _FORM)

    def get_argument_type(self) -> Any:
        return tuple(_FORM.elements)

    def as_argument(self, builder: Any, value: Any) -> Any:
        return tuple(builder.extract_value(value, number) for number in range(len(_FORM.elements)))

    def from_argument(self, builder: Any, value: Any) -> Any:
        return _form(builder, *value)


@register_model(TileType)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: TileType) -> None:
        super().__init__(manager, kind, ir.ArrayType(VECTOR, kind.rows * kind.vectors))


class Mask(NamedTuple):
    """Which lanes of a vector are accessed: the first `count`, if the condition holds.

    Attributes:
        bits: A bit per lane.
        count: Lanes, int64; None for all.
        condition: A bit; None for true.
    """

    bits: Any
    count: Any = None
    condition: Any = None


def _form(builder: Any, *values: Any) -> Any:
    """Put memory together; values that this mode does not have are left out."""
    memory = ir.Constant(_FORM, ir.Undefined)
    for number, value in enumerate(values[: len(_FORM.elements)]):
        memory = builder.insert_value(memory, value, number)
    return memory


@functools.cache
def _numbers(value: float) -> Any:
    """Return a constant; llvmlite keeps its text with it, which takes longer to write than to look up."""
    return ir.Constant(VECTOR, [value] * LANES if value else None)


@functools.cache
def _constants(values: tuple[int, ...]) -> Any:
    return ir.Constant(SHORTS, list(values))


class Code:
    """Writes LLVM code for one intrinsic.

    Args:
        context: Numba's.
        builder: llvmlite's.
    """

    def __init__(self, context: Any, builder: Any) -> None:
        self.context = context
        self.builder = builder
        self._pointers: dict[int, tuple[Any, Any]] = {}  # by memory; with it, so that its id is not given to another

    # Memory

    def memory(self, pointer: Any, elements: Any) -> Any:
        """Return memory of `elements` elements."""
        return _form(self.builder, pointer, ir.Constant(INDEX, 0), elements)

    def moved(self, memory: Any, by: Any, dtype: Any) -> Any:
        """Return the same memory, its start moved by some elements."""
        pointer = self.builder.gep(self.pointer(memory), [by], source_etype=dtype)
        if not CHECKED:
            return _form(self.builder, pointer)
        first, end = (self.builder.sub(self.builder.extract_value(memory, bound), by) for bound in (1, 2))
        return _form(self.builder, pointer, first, end)

    def pointer(self, memory: Any) -> Any:
        """Return the opaque pointer to the memory's element 0; it is taken out of the memory once per intrinsic."""
        if id(memory) not in self._pointers:
            self._pointers[id(memory)] = memory, self.builder.extract_value(memory, 0)
        return self._pointers[id(memory)][1]

    def element(self, memory: Any, index: Any, dtype: Any) -> Any:
        """Return a pointer to one element."""
        self._guard(memory, index, ir.Constant(INDEX, 1))
        return self.builder.gep(self.pointer(memory), [index], source_etype=dtype)

    def scalar(self, memory: Any, index: Any) -> Any:
        """Read one float32 number."""
        return self.builder.load(self.element(memory, index, FLOAT), typ=FLOAT)

    def read(self, memory: Any, index: Any) -> Any:
        """Read memory[index : index + 16]."""
        self._guard(memory, index, ir.Constant(INDEX, LANES))
        return self.builder.load(self.unchecked(memory, index), align=4, typ=VECTOR)

    def write(self, vector: Any, memory: Any, index: Any, align: int = 4) -> Any:
        """Write memory[index : index + 16]."""
        self._guard(memory, index, ir.Constant(INDEX, LANES), align)
        return self.builder.store(vector, self.unchecked(memory, index), align=align)

    def read_some(self, memory: Any, index: Any, mask: Mask) -> Any:
        """Read the lanes of a mask, 0 elsewhere, where memory is not accessed."""
        self._guard(memory, index, mask.count or ir.Constant(INDEX, LANES), condition=mask.condition)
        name, align, address = "llvm.masked.load.v16f32.p0", ir.Constant(SHORT, 4), self.unchecked(memory, index)
        return self.call(name, VECTOR, address, align, mask.bits, self.numbers(0.0))

    def write_some(self, vector: Any, memory: Any, index: Any, mask: Mask) -> None:
        """Write the lanes of a mask."""
        self._guard(memory, index, mask.count or ir.Constant(INDEX, LANES), condition=mask.condition)
        name, align, address = "llvm.masked.store.v16f32.p0", ir.Constant(SHORT, 4), self.unchecked(memory, index)
        self.call(name, ir.VoidType(), vector, address, align, mask.bits)

    def unchecked(self, memory: Any, index: Any) -> Any:
        """Return a pointer to a float32 element that may be outside of the memory."""
        return self.builder.gep(self.pointer(memory), [index], source_etype=FLOAT)

    def _guard(self, memory: Any, index: Any, count: Any, align: int = 4, condition: Any = None) -> None:
        """Raise an IndexError unless elements `index` to `index + count` may be accessed; 16 of them at most."""
        if not CHECKED:
            return
        builder, most, none = self.builder, ir.Constant(INDEX, LANES), ir.Constant(INDEX, 0)
        first, end = (builder.extract_value(memory, bound) for bound in (1, 2))
        count = builder.select(builder.icmp_signed("<", count, most), count, most)
        low = builder.icmp_signed("<", index, first)
        wrong = builder.or_(low, builder.icmp_signed(">", builder.add(index, count), end))
        wrong = builder.and_(wrong, builder.icmp_signed(">", count, none))
        if condition is not None:
            wrong = builder.and_(wrong, condition)
        if align > 4:
            address = builder.ptrtoint(self.unchecked(memory, index), INDEX)
            odd = builder.and_(address, ir.Constant(INDEX, align - 1))
            wrong = builder.or_(wrong, builder.icmp_signed("!=", odd, none))
        with builder.if_then(wrong, likely=False):
            text = f"{readable_name(builder.function.name)} accesses memory outside of the array that it was given"
            self.context.call_conv.return_user_exc(builder, IndexError, (text,))

    # Indices, masks and constants

    def row(self, index: Any, stride: Any, row: int, lanes: int = 0) -> Any:
        """Return index + row * stride + lanes."""
        if row:
            index = self.builder.add(index, self.builder.mul(stride, ir.Constant(stride.type, row)))
        return self.builder.add(index, ir.Constant(index.type, lanes)) if lanes else index

    def lanes_below(self, count: Any, vector: int = 0) -> Mask:
        """Return a mask of the lanes of a row's vector that are among the first `count` of the row."""
        rest = self.builder.sub(count, ir.Constant(count.type, vector * LANES))
        lanes = self.constants(range(LANES))
        return Mask(self.builder.icmp_signed("<", lanes, self._repeated(self.builder.trunc(rest, SHORT), SHORTS)), rest)

    def all_lanes(self, condition: Any) -> Mask:
        """Return a mask of all lanes, or of none."""
        return Mask(self._repeated(condition, ir.VectorType(ir.IntType(1), LANES)), None, condition)

    def both(self, left: Mask, right: Mask) -> Mask:
        """Return a mask of the lanes in two masks, at most one of which counts lanes."""
        conditions = [mask.condition for mask in (left, right) if mask.condition is not None]
        condition = self.builder.and_(*conditions) if len(conditions) == 2 else conditions[0]
        count = right.count if left.count is None else left.count
        return Mask(self.builder.and_(left.bits, right.bits), count, condition)

    def numbers(self, value: float) -> Any:
        """Return a vector with one constant in every lane."""
        return _numbers(value)

    def constants(self, values: Sequence[int]) -> Any:
        """Return a vector of whole numbers."""
        return _constants(tuple(values))

    def in_every_lane(self, scalar: Any, kind: Any = VECTOR) -> Any:
        """Return a vector with one value in every lane."""
        return self._repeated(scalar, kind)

    def _repeated(self, scalar: Any, vector: Any) -> Any:
        undefined = ir.Constant(vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(SHORT, 0))
        return self.builder.shuffle_vector(first, undefined, self.constants([0] * LANES))

    # Vectors and tiles

    def mix(self, left: Any, right: Any, chosen: Sequence[int]) -> Any:
        """Pick lanes from two vectors; those of the right one count from 16."""
        return self.builder.shuffle_vector(left, right, self.constants(chosen))

    def multiply_add(self, left: Any, right: Any, addend: Any) -> Any:
        """Return left * right + addend, rounded once where the processor can, for a product that is not used elsewhere.

        LLVM contracts the two while it selects instructions, and knows the addresses in the loop better until then.
        """
        product = self.builder.fmul(left, right, flags=("contract",))
        return self.builder.fadd(product, addend, flags=("contract",))

    def multiply_add_shared(self, left: Any, right: Any, addend: Any) -> Any:
        """Return the same for a product that may be used elsewhere too.

        If LLVM finds the same product twice, it makes it once and does not contract it. Whether it finds it depends on
        how functions are inlined, which differs between the process that compiles a kernel and those that read its
        machine code from disk. This function of LLVM's leaves the choice to the processor alone.
        """
        return self.call("llvm.fmuladd.v16f32", VECTOR, left, right, addend)

    def vector(self, tile: Any, number: int = 0) -> Any:
        """Return one vector of a tile."""
        return self.builder.extract_value(tile, number)

    def tile(self, vectors: Sequence[Any]) -> Any:
        """Put vectors together to a tile."""
        tile = ir.Constant(ir.ArrayType(VECTOR, len(vectors)), ir.Undefined)
        for number, vector in enumerate(vectors):
            tile = self.builder.insert_value(tile, vector, number)
        return tile

    def call(self, name: str, result: Any, *arguments: Any) -> Any:
        """Call one of LLVM's own functions."""
        known = self.builder.module.globals.get(name)
        kinds = [argument.type for argument in arguments]
        function = known or ir.Function(self.builder.module, ir.FunctionType(result, kinds), name)
        return self.builder.call(function, arguments)


def emit(generate: Callable[..., Any], result: Any, *arguments: Any) -> tuple[Any, Callable[..., Any]]:
    """Return what an intrinsic returns to Numba: its signature, and what writes its code.

    Args:
        generate: Takes :class:`Code` and the arguments' values; returns the result's, or None.
        result: The result's type.
        arguments: The arguments' types.
    """

    def lower(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        made = generate(Code(context, builder), *values)
        return context.get_dummy_value() if made is None else made

    return result(*arguments), lower


def readable_name(mangled: str) -> str:
    """Return the dotted name of a compiled function.

    Args:
        mangled: Its name in LLVM, whose parts come after their lengths.

    >>> readable_name("_ZN7fedlama7kernels5dense29multiply_0123456789ab_checkedB3v12B8c")
    'fedlama.kernels.dense.multiply'
    """
    parts, rest = [], mangled.removeprefix("_ZN")
    while length := re.match(r"\d+", rest):
        end = length.end() + int(length[0])
        parts.append(rest[length.end() : end])
        rest = rest[end:]
    return re.sub(r"_[0-9a-f]{12}(_checked)?$", "", ".".join(parts)) or "a kernel"


@infer_global(operator.getitem)
class _GetItem(AbstractTemplate):
    """memory[index]."""

    def generic(self, args: Any, kws: Any) -> Any:
        memory, index = args
        if isinstance(memory, MemoryType) and isinstance(index, types.Integer):
            return signature_of(memory.dtype, memory, types.intp)
        return None


@infer_global(operator.setitem)
class _SetItem(AbstractTemplate):
    """memory[index] = value."""

    def generic(self, args: Any, kws: Any) -> Any:
        memory, index, _ = args
        if isinstance(memory, MemoryType) and isinstance(index, types.Integer):
            return signature_of(types.none, memory, types.intp, memory.dtype)
        return None


@lower_builtin(operator.getitem, MemoryType, types.intp)
def _get(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    dtype = context.get_data_type(signature.args[0].dtype)
    memory, index = arguments
    return builder.load(Code(context, builder).element(memory, index, dtype), typ=dtype)


@lower_builtin(operator.setitem, MemoryType, types.intp, types.Any)
def _set(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    memory, index, value = arguments
    dtype = context.get_data_type(signature.args[0].dtype)
    builder.store(value, Code(context, builder).element(memory, index, dtype))
    return context.get_dummy_value()
