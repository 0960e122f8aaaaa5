"""What intrinsics on vectors of sixteen numbers are built from: types, constants, and pieces of LLVM's code.

A *tile* is some rows of such vectors; kernels carry it as a value, and LLVM keeps it in registers (on processors with
shorter vectors it splits them). Memory is given as pointers to float32; indices count elements, and nobody checks them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from fedlama.kernels.table import LANES

VECTOR = ir.VectorType(ir.FloatType(), LANES)
WHOLE = ir.VectorType(ir.IntType(32), LANES)
FUSED = ("contract",)  # multiply and add in one rounding where the processor can
UNDEFINED = ir.Constant(VECTOR, ir.Undefined)
FLOATS, INTEGERS = types.CPointer(types.float32), types.CPointer(types.int64)


class TileType(types.Type):
    """Numba's type of a tile.

    Args:
        rows: Its height.
        across: Vectors in a row.
    """

    def __init__(self, rows: int, across: int = 1) -> None:
        super().__init__(name=f"Tile{rows}x{across}")
        self.rows = rows
        self.across = across


@register_model(TileType)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: TileType) -> None:
        super().__init__(manager, kind, ir.ArrayType(VECTOR, kind.rows * kind.across))


def constants(values: list[int]) -> Any:
    """Return a vector of whole numbers."""
    return ir.Constant(WHOLE, values)


def numbers(value: float) -> Any:
    """Return a vector with one number in every lane."""
    return ir.Constant(VECTOR, [value] * LANES)


def mix(builder: Any, left: Any, right: Any, chosen: list[int]) -> Any:
    """Pick lanes from two vectors; those of the right one count from 16."""
    return builder.shuffle_vector(left, right, constants(chosen))


def in_every_lane(builder: Any, scalar: Any) -> Any:
    """Return a vector with one value in every lane."""
    first = builder.insert_element(UNDEFINED, scalar, ir.Constant(ir.IntType(32), 0))
    return mix(builder, first, UNDEFINED, [0] * LANES)


def tile_of(builder: Any, count: int, vector: Callable[[int], Any]) -> Any:
    """Put so many vectors together, each made from its number."""
    tile = ir.Constant(ir.ArrayType(VECTOR, count), ir.Undefined)
    for index in range(count):
        tile = builder.insert_value(tile, vector(index), index)
    return tile


def place_at(builder: Any, where: Sequence[Any], row: int = 0, lanes: int = 0) -> Any:
    """Point to element index + row * stride + lanes of `where`, which is (memory, index, stride) or (memory, index)."""
    memory, index, *stride = where
    if row:
        index = builder.add(index, builder.mul(stride[0], ir.Constant(stride[0].type, row)))
    if lanes:
        index = builder.add(index, ir.Constant(index.type, lanes))
    return builder.gep(memory, [index])


def vector_at(builder: Any, where: Sequence[Any], row: int = 0, across: int = 0) -> Any:
    """Point to the vector that begins there."""
    return builder.bitcast(place_at(builder, where, row, across * LANES), VECTOR.as_pointer())


def lanes_below(builder: Any, count: Any, across: int) -> Any:
    """Tell which lanes of a row's vector are among the first `count` of the row."""
    left = builder.trunc(builder.sub(count, ir.Constant(count.type, across * LANES)), ir.IntType(32))
    first = builder.insert_element(ir.Constant(WHOLE, ir.Undefined), left, ir.Constant(ir.IntType(32), 0))
    return builder.icmp_signed(
        "<", constants(list(range(LANES))), builder.shuffle_vector(first, first, constants([0] * LANES))
    )


def call_llvm(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Call one of LLVM's own functions."""
    known = builder.module.globals.get(name)
    function = known or ir.Function(builder.module, ir.FunctionType(result, [a.type for a in arguments]), name)
    return builder.call(function, arguments)


def write_some(builder: Any, vector: Any, place: Any, mask: Any) -> None:
    """Write the lanes that the mask names."""
    name, align = "llvm.masked.store.v16f32.p0", ir.Constant(ir.IntType(32), 4)
    call_llvm(builder, name, ir.VoidType(), vector, place, align, mask)


def read_some(builder: Any, place: Any, mask: Any) -> Any:
    """Read the lanes that the mask names, 0 elsewhere, where memory is not looked at."""
    name, align = "llvm.masked.load.v16f32.p0", ir.Constant(ir.IntType(32), 4)
    return call_llvm(builder, name, VECTOR, place, align, mask, numbers(0.0))
