"""Memory and tiles for kernels: where memory begins, and loads, stores and sums of products of tiles.

Numba alone cannot keep a tile of sums in registers; each function here is an instruction or a handful of them. In the
docstrings a tile has rows r and vectors v, and index ``[r, v]`` is a vector of sixteen lanes. Functions that take a
tile `like` use only its form, so that one kernel serves tiles of several forms.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import create_struct_proxy
from numba.extending import intrinsic

from fedlama.kernels.memory import (
    FLOAT,
    FLOATS,
    INDEX,
    INTEGERS,
    ONE_VECTOR,
    POINTER,
    SHORT,
    VECTOR,
    Code,
    TileType,
    emit,
)
from fedlama.kernels.table import ELEMENTS, LANES, PARAMETER_COLUMNS, TO_END

ROWS = 8
"""Rows of the usual tile: enough independent sums to hide the latency of a multiplication."""
VECTORS = 2
"""Vectors in a row of a wide tile: each number that is broadcast over lanes then serves both."""


# Memory


@intrinsic
def floats(typing: Any, array: Any) -> Any:
    """Return the memory of a contiguous float32 array; the caller keeps the array."""
    return _memory_of(FLOATS, array)


@intrinsic
def integers(typing: Any, array: Any) -> Any:
    """Return the memory of a contiguous int64 array; the caller keeps the array."""
    return _memory_of(INTEGERS, array)


def _memory_of(memory: Any, array: Any) -> Any:
    if not (isinstance(array, types.Array) and array.layout == "C" and array.dtype == memory.dtype):
        return None

    def generate(code: Code, value: Any) -> Any:
        struct = create_struct_proxy(array)(code.context, code.builder, value=value)
        return code.memory(struct.data, struct.nitems)

    return emit(generate, memory, array)


@intrinsic
def floats_at(typing: Any, address: Any, elements: Any) -> Any:
    """Return the float32 memory of `elements` elements at an address that a table of this room holds."""
    return emit(_at_address, FLOATS, types.int64, types.intp)


@intrinsic
def integers_at(typing: Any, address: Any, elements: Any) -> Any:
    """Return the int64 memory of `elements` elements at an address that a table of this room holds."""
    return emit(_at_address, INTEGERS, types.int64, types.intp)


def _at_address(code: Code, address: Any, elements: Any) -> Any:
    return code.memory(code.builder.inttoptr(address, POINTER), elements)


@intrinsic
def offset(typing: Any, memory: Any, count: Any) -> Any:
    """Return the memory from element `count` on; elements before it have negative indices."""
    dtype = INDEX if memory == INTEGERS else FLOAT

    def generate(code: Code, value: Any, moved: Any) -> Any:
        return code.moved(value, moved, dtype)

    return emit(generate, memory, memory, types.intp)


@intrinsic
def part(typing: Any, memory: Any, first: Any, end: Any) -> Any:
    """Return elements `first` to `end` of the memory as memory of its own."""

    def generate(code: Code, value: Any, first: Any, end: Any) -> Any:
        pointer = code.unchecked(value, first)
        return code.memory(pointer, code.builder.sub(end, first))

    return emit(generate, FLOATS, FLOATS, types.intp, types.intp)


@intrinsic
def region(typing: Any, memory: Any, row: Any, column: Any) -> Any:
    """Return the part of the scratch that a column of a row of the program names; see :mod:`~fedlama.kernels.table`."""

    def generate(code: Code, value: Any, row: Any, column: Any) -> Any:
        last = code.builder.add(column, ir.Constant(INDEX, TO_END))
        first, end = (code.builder.load(code.element(row, at, INDEX), typ=INDEX) for at in (column, last))
        return code.memory(code.unchecked(value, first), code.builder.sub(end, first))

    return emit(generate, FLOATS, FLOATS, INTEGERS, types.intp)


@intrinsic
def parameter_field(typing: Any, s: Any, number: Any, column: Any) -> Any:
    """Return an entry of the table of parameters of a :class:`~fedlama.kernels.update.Step`."""

    def generate(code: Code, step: Any, number: Any, column: Any) -> Any:
        return _table_entry(code, s, step, number, column)

    return emit(generate, types.int64, s, types.intp, types.intp)


@intrinsic
def client_view(typing: Any, s: Any, number: Any, column: Any) -> Any:
    """Return a client's values of a parameter, or its velocities; for parameter -1 memory that is not accessed."""

    def generate(code: Code, step: Any, number: Any, column: Any) -> Any:
        builder, none = code.builder, ir.Constant(INDEX, 0)
        number = builder.select(builder.icmp_signed("<", number, none), none, number)
        elements = _table_entry(code, s, step, number, ir.Constant(INDEX, ELEMENTS))
        row = builder.mul(builder.extract_value(step, s.fields.index("client")), elements)
        start = _table_entry(code, s, step, number, column)
        address = builder.add(start, builder.mul(row, ir.Constant(INDEX, 4)))
        return _at_address(code, address, elements)

    return emit(generate, FLOATS, s, types.intp, types.intp)


def _table_entry(code: Code, kind: Any, step: Any, number: Any, column: Any) -> Any:
    """Read the table of parameters of a step, (parameters, PARAMETER_COLUMNS)."""
    table = code.builder.extract_value(step, kind.fields.index("parameters"))
    index = code.builder.add(code.builder.mul(number, ir.Constant(INDEX, PARAMETER_COLUMNS)), column)
    return code.builder.load(code.element(table, index, INDEX), typ=INDEX)


@intrinsic
def address_of(typing: Any, memory: Any) -> Any:
    """Return the address of the first element, for the tables of this room."""

    def generate(code: Code, value: Any) -> Any:
        return code.builder.ptrtoint(code.unchecked(value, ir.Constant(INDEX, 0)), INDEX)

    return emit(generate, types.int64, memory)


@intrinsic
def fetch_add(typing: Any, memory: Any) -> Any:
    """Return the whole number at memory[0] and add 1 to it, in one step that other threads cannot interrupt."""

    def generate(code: Code, value: Any) -> Any:
        counter = code.element(value, ir.Constant(INDEX, 0), INDEX)
        return code.builder.atomic_rmw("add", counter, ir.Constant(INDEX, 1), "monotonic")

    return emit(generate, types.int64, INTEGERS)


@intrinsic
def call(typing: Any, address: Any, row: Any, constants: Any, context: Any, settings: Any) -> Any:
    """Call an operation by the address of its machine code; see :func:`fedlama.kernels.kernel.operation`."""

    def generate(code: Code, where: Any, *given: Any) -> None:
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in given])
        code.builder.call(_Callee(code.builder.inttoptr(where, POINTER), kind), given)

    return emit(generate, types.void, types.int64, INTEGERS, FLOATS, INTEGERS, FLOATS)


class _Callee:
    """An opaque pointer with the type of the function that it points to, as llvmlite's `call` asks for it."""

    def __init__(self, pointer: Any, function_type: Any) -> None:
        self.type = pointer.type
        self.function_type = function_type
        self.calling_convention = ""
        self.name = pointer.name
        self.get_reference = pointer.get_reference


@intrinsic
def prefetch(typing: Any, memory: Any, index: Any) -> Any:
    """Ask the processor to load the cache line of memory[index]; it may be outside of the memory."""

    def generate(code: Code, value: Any, at: Any) -> None:
        hints = [ir.Constant(SHORT, number) for number in (0, 2, 1)]  # to read, keep near, data
        code.call("llvm.prefetch.p0", ir.VoidType(), code.unchecked(value, at), *hints)

    return emit(generate, types.void, FLOATS, types.intp)


@intrinsic
def runtime(typing: Any, value: Any) -> Any:
    """Return a constant as a value of the same type: Numba compiles a function once for every constant argument."""
    kind = types.unliteral(value)
    return emit(lambda code, constant: constant, kind, kind)


# Tiles and their forms


@intrinsic(prefer_literal=True)
def tile(typing: Any, rows: Any, vectors: Any) -> Any:
    """Return a tile of zeros, (rows, vectors, 16); both numbers are constants."""
    if not (isinstance(rows, types.IntegerLiteral) and isinstance(vectors, types.IntegerLiteral)):
        return None
    kind = TileType(rows.literal_value, vectors.literal_value)
    zeros = ir.Constant(ir.ArrayType(VECTOR, kind.rows * kind.vectors), None)
    return emit(lambda code, *_: zeros, kind, rows, vectors)


@intrinsic
def column_of(typing: Any, like: Any) -> Any:
    """Return a tile of zeros of one vector for each vector in a row of the given tile: (vectors, 1, 16)."""
    zeros = ir.Constant(ir.ArrayType(VECTOR, like.vectors), None)
    return emit(lambda code, _: zeros, TileType(like.vectors), like)


@intrinsic
def rows_of(typing: Any, like: Any) -> Any:
    """Return how many rows a tile has."""
    return emit(lambda code, _: ir.Constant(INDEX, like.rows), types.intp, like)


@intrinsic
def lanes_of(typing: Any, like: Any) -> Any:
    """Return how many numbers are in a row of a tile."""
    return emit(lambda code, _: ir.Constant(INDEX, like.vectors * LANES), types.intp, like)


@intrinsic(prefer_literal=True)
def vector_of(typing: Any, tile: Any, number: Any) -> Any:
    """Return one vector of a tile as a tile of its own; the number is a constant."""
    if not isinstance(number, types.IntegerLiteral):
        return None
    chosen = number.literal_value
    return emit(lambda code, vectors, _: code.tile([code.vector(vectors, chosen)]), ONE_VECTOR, tile, number)


# Loads and stores


@intrinsic
def load(typing: Any, memory: Any, index: Any) -> Any:
    """Return the vector memory[index : index + 16]."""

    def generate(code: Code, value: Any, at: Any) -> Any:
        return code.tile([code.read(value, at)])

    return emit(generate, ONE_VECTOR, FLOATS, types.intp)


@intrinsic
def load_some(typing: Any, memory: Any, index: Any, count: Any) -> Any:
    """Return the vector memory[index : index + 16], 0 from element `count` on, where memory is not accessed."""

    def generate(code: Code, value: Any, at: Any, count: Any) -> Any:
        return code.tile([code.read_some(value, at, code.lanes_below(count))])

    return emit(generate, ONE_VECTOR, FLOATS, types.intp, types.intp)


@intrinsic
def load_row(typing: Any, like: Any, memory: Any, index: Any) -> Any:
    """Return one row of vectors, as wide as the given tile: [0, v] = memory[index + 16 v : ...]."""

    def generate(code: Code, _: Any, value: Any, at: Any) -> Any:
        return code.tile([code.read(value, code.row(at, None, 0, v * LANES)) for v in range(like.vectors)])

    return emit(generate, TileType(1, like.vectors), like, FLOATS, types.intp)


@intrinsic
def load_tile(typing: Any, like: Any, memory: Any, index: Any, stride: Any) -> Any:
    """Return a tile of the given one's form: [r, v] = memory[index + r * stride + 16 v : ...]."""

    def generate(code: Code, _: Any, value: Any, at: Any, stride: Any) -> Any:
        places = [code.row(at, stride, r, v * LANES) for r in range(like.rows) for v in range(like.vectors)]
        return code.tile([code.read(value, row_start) for row_start in places])

    return emit(generate, like, like, FLOATS, types.intp, types.intp)


@intrinsic
def broadcast(typing: Any, like: Any, memory: Any, index: Any, stride: Any) -> Any:
    """Return a tile of the given one's form whose row r has memory[index + r * stride] in every lane."""

    def generate(code: Code, _: Any, value: Any, at: Any, stride: Any) -> Any:
        rows = [code.in_every_lane(code.scalar(value, code.row(at, stride, r))) for r in range(like.rows)]
        return code.tile([row for row in rows for _ in range(like.vectors)])

    return emit(generate, like, like, FLOATS, types.intp, types.intp)


@intrinsic
def store(typing: Any, memory: Any, index: Any, stride: Any, tile: Any) -> Any:
    """Write a tile: memory[index + r * stride + 16 v : ...] = [r, v]."""

    def generate(code: Code, value: Any, at: Any, stride: Any, vectors: Any) -> None:
        for r in range(tile.rows):
            for v in range(tile.vectors):
                code.write(code.vector(vectors, r * tile.vectors + v), value, code.row(at, stride, r, v * LANES))

    return emit(generate, types.void, FLOATS, types.intp, types.intp, tile)


@intrinsic
def store_some(typing: Any, memory: Any, index: Any, stride: Any, tile: Any, count: Any) -> Any:
    """Write the first `count` elements of every row of a tile, as :func:`store` does."""

    def generate(code: Code, value: Any, at: Any, stride: Any, vectors: Any, count: Any) -> None:
        masks = [code.lanes_below(count, v) for v in range(tile.vectors)]
        for r in range(tile.rows):
            for v, mask in enumerate(masks):
                vector = code.vector(vectors, r * tile.vectors + v)
                code.write_some(vector, value, code.row(at, stride, r, v * LANES), mask)

    return emit(generate, types.void, FLOATS, types.intp, types.intp, tile, types.intp)


@intrinsic
def stream(typing: Any, memory: Any, index: Any, vector: Any) -> Any:
    """Write a vector past the caches to memory[index : index + 16], whose address is a multiple of 64 bytes."""

    def generate(code: Code, value: Any, at: Any, vector: Any) -> None:
        written = code.write(code.vector(vector), value, at, align=4 * LANES)
        written.set_metadata("nontemporal", code.builder.module.add_metadata([ir.Constant(SHORT, 1)]))

    return emit(generate, types.void, FLOATS, types.intp, ONE_VECTOR)


@intrinsic
def blend(typing: Any, memory: Any, index: Any, stride: Any, tile: Any, scale: Any, factor: Any) -> Any:
    """Set memory[index + r * stride + 16 v : ...] to scale times itself plus factor times [r, v]."""

    def generate(code: Code, value: Any, at: Any, stride: Any, vectors: Any, scale: Any, factor: Any) -> None:
        scales, factors = code.in_every_lane(scale), code.in_every_lane(factor)
        for r in range(tile.rows):
            for v in range(tile.vectors):
                added = code.builder.fmul(code.vector(vectors, r * tile.vectors + v), factors)
                start = code.row(at, stride, r, v * LANES)
                code.write(code.multiply_add(code.read(value, start), scales, added), value, start)

    return emit(generate, types.void, FLOATS, types.intp, types.intp, tile, types.float32, types.float32)


# Sums of products


@intrinsic
def add_scaled(typing: Any, tile: Any, memory: Any, index: Any, stride: Any, vectors: Any) -> Any:
    """Return the tile plus an outer product: [r, v] + memory[index + r * stride] * vectors[0, v]."""

    def generate(code: Code, sums: Any, value: Any, at: Any, stride: Any, factors: Any) -> Any:
        added = []
        for r in range(tile.rows):
            number = code.in_every_lane(code.scalar(value, code.row(at, stride, r)))
            for v in range(tile.vectors):
                total = code.vector(sums, r * tile.vectors + v)
                added.append(code.multiply_add(number, code.vector(factors, v), total))
        return code.tile(added)

    return emit(generate, tile, tile, FLOATS, types.intp, types.intp, TileType(1, tile.vectors))


@intrinsic
def add_products(typing: Any, tile: Any, memory: Any, index: Any, stride: Any, vector: Any) -> Any:
    """Return the tile plus products lane by lane: [r, 0] + memory[index + r * stride : ... + 16] * vector."""

    def generate(code: Code, sums: Any, value: Any, at: Any, stride: Any, vector: Any) -> Any:
        factor = code.vector(vector)
        return code.tile([
            code.multiply_add(code.read(value, code.row(at, stride, r)), factor, code.vector(sums, r))
            for r in range(tile.rows)
        ])  # fmt: skip

    return emit(generate, tile, tile, FLOATS, types.intp, types.intp, ONE_VECTOR)


@intrinsic
def add_rows(typing: Any, tile: Any, weights: Any, vectors: Any) -> Any:
    """Return the tile plus a sum over vectors: [r, 0] + weights[r, 0] * vectors[0, 0] + weights[r, 1] * ..."""

    def generate(code: Code, sums: Any, factors: Any, others: Any) -> Any:
        added = []
        for r in range(tile.rows):
            total = code.vector(sums, r)
            for v in range(weights.vectors):
                factor = code.vector(factors, r * weights.vectors + v)
                total = code.multiply_add(factor, code.vector(others, v), total)
            added.append(total)
        return code.tile(added)

    return emit(generate, tile, tile, weights, vectors)


@intrinsic
def add_mixture(typing: Any, vector: Any, memory: Any, index: Any, stride: Any, tile: Any) -> Any:
    """Return the vector plus a sum over rows: vector + memory[index] * [0, 0] + memory[index + stride] * [1, 0] + ...

    Even and odd rows are summed apart, so that each multiplication waits for the last but one only.
    """

    def generate(code: Code, sum_: Any, value: Any, at: Any, stride: Any, rows: Any) -> Any:
        halves = [code.vector(sum_), code.numbers(0.0)]
        for r in range(tile.rows):
            factor = code.in_every_lane(code.scalar(value, code.row(at, stride, r)))
            halves[r % 2] = code.multiply_add(factor, code.vector(rows, r), halves[r % 2])
        return code.tile([code.builder.fadd(*halves)])

    return emit(generate, ONE_VECTOR, ONE_VECTOR, FLOATS, types.intp, types.intp, tile)


# Transposes and sums over lanes


def _transposed(code: Code, rows: list[Any]) -> list[Any]:
    """Transpose sixteen rows of sixteen: swap the off-diagonal blocks of every square of 2, 4, 8 and 16."""
    rows = list(rows)
    for step in (1, 2, 4, 8):
        low = [LANES + lane - step if lane & step else lane for lane in range(LANES)]
        high = [LANES + lane if lane & step else lane + step for lane in range(LANES)]
        for r in (r for r in range(LANES) if not r & step):
            above, beneath = rows[r], rows[r + step]
            rows[r] = code.mix(above, beneath, low)
            rows[r + step] = code.mix(above, beneath, high)
    return rows


@intrinsic
def transpose(typing: Any, out: Any, to: Any, to_stride: Any, memory: Any, index: Any, stride: Any) -> Any:
    """Transpose 16 x 16 numbers: out[to + c * to_stride + r] = memory[index + r * stride + c]."""

    def generate(code: Code, goal: Any, to: Any, to_stride: Any, source: Any, at: Any, stride: Any) -> None:
        rows = [code.read(source, code.row(at, stride, r)) for r in range(LANES)]
        for c, column in enumerate(_transposed(code, rows)):
            code.write(column, goal, code.row(to, to_stride, c))

    return emit(generate, types.void, FLOATS, types.intp, types.intp, FLOATS, types.intp, types.intp)


@intrinsic
def transpose_some(
    typing: Any, out: Any, to: Any, to_stride: Any, memory: Any, index: Any, stride: Any, count: Any
) -> Any:
    """Transpose as :func:`transpose` does, but read only the first `count` elements of every row, 0 for the others."""

    def generate(code: Code, goal: Any, to: Any, to_stride: Any, source: Any, at: Any, stride: Any, count: Any) -> None:
        mask = code.lanes_below(count)
        rows = [code.read_some(source, code.row(at, stride, r), mask) for r in range(LANES)]
        for c, column in enumerate(_transposed(code, rows)):
            code.write(column, goal, code.row(to, to_stride, c))

    return emit(generate, types.void, FLOATS, types.intp, types.intp, FLOATS, types.intp, types.intp, types.intp)


@intrinsic
def row_sums(typing: Any, memory: Any, tile: Any) -> Any:
    """Write the sum over the lanes of [r, 0] to memory[r]; sixteen elements are overwritten for any number of rows."""

    def generate(code: Code, value: Any, rows: Any) -> None:
        left = [code.vector(rows, r) for r in range(tile.rows)]
        even, odd = list(range(0, 2 * LANES, 2)), list(range(1, 2 * LANES, 2))
        width = LANES
        while width > 1:  # add neighbouring lanes; two vectors half full of sums become one
            pairs = zip(left[::2], left[1::2] or left, strict=True)
            left = [code.builder.fadd(code.mix(a, b, even), code.mix(a, b, odd)) for a, b in pairs]
            width //= 2
        code.write(left[0], value, ir.Constant(INDEX, 0))

    return emit(generate, types.void, FLOATS, tile)
