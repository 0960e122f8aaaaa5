"""Vectors of sixteen numbers for compiled kernels: what Numba lacks to keep a tile of sums in registers.

Everything here is an instruction or a handful of them on the tiles of :mod:`~fedlama.kernels.vectors`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fedlama.kernels.table import LANES
from fedlama.kernels.vectors import (
    FLOATS,
    FUSED,
    INTEGERS,
    VECTOR,
    WHOLE,
    TileType,
    call_llvm,
    constants,
    in_every_lane,
    lanes_below,
    mix,
    numbers,
    place_at,
    read_some,
    tile_of,
    vector_at,
    write_some,
)

ROWS = 8
"""Rows of a tall tile: enough independent sums to hide the latency of a multiplication."""
ACROSS = 2
"""Vectors in a row of a broad tile: what is spread over a row's lanes then serves so many products."""

_ONE, _TALL = TileType(1), TileType(ROWS)
_SQUARE, _PATCH, _QUARTER = TileType(LANES), TileType(4, 4), TileType(4)
_PAIR, _BROAD = TileType(1, ACROSS), TileType(ROWS, ACROSS)


@intrinsic
def floats(typing: Any, address: Any) -> Any:
    """Return the float32 memory at an address."""
    return FLOATS(types.int64), lambda context, builder, signature, arguments: builder.inttoptr(
        arguments[0], ir.FloatType().as_pointer()
    )


@intrinsic
def integers(typing: Any, address: Any) -> Any:
    """Return the int64 memory at an address."""
    return INTEGERS(types.int64), lambda context, builder, signature, arguments: builder.inttoptr(
        arguments[0], ir.IntType(64).as_pointer()
    )


@intrinsic
def call(typing: Any, address: Any, row: Any, reals: Any, context: Any, settings: Any) -> Any:
    """Call an operation by the address of its machine code."""

    def generate(context_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = arguments[1:]
        function = ir.FunctionType(ir.VoidType(), [one.type for one in given]).as_pointer()
        builder.call(builder.inttoptr(arguments[0], function), given)
        return context_.get_dummy_value()

    return types.void(types.int64, INTEGERS, FLOATS, INTEGERS, FLOATS), generate


@intrinsic
def take(typing: Any, memory: Any) -> Any:
    """Return the whole number at memory[0] and add 1 to it, at once, whatever other threads do."""
    return types.int64(INTEGERS), lambda context, builder, signature, arguments: builder.atomic_rmw(
        "add", arguments[0], ir.Constant(ir.IntType(64), 1), "monotonic"
    )


@intrinsic
def ahead(typing: Any, memory: Any, count: Any) -> Any:
    """Return the memory from element `count` on."""
    return memory(memory, types.intp), lambda context, builder, signature, arguments: builder.gep(
        arguments[0], [arguments[1]]
    )


@intrinsic
def one(typing: Any) -> Any:
    """Return a tile of one vector of zeros."""
    return _ONE(), lambda context, builder, signature, arguments: ir.Constant(ir.ArrayType(VECTOR, 1), None)


@intrinsic
def tall(typing: Any) -> Any:
    """Return a tall tile of zeros."""
    return _TALL(), lambda context, builder, signature, arguments: ir.Constant(ir.ArrayType(VECTOR, ROWS), None)


@intrinsic
def broad(typing: Any) -> Any:
    """Return a tile of zeros, as high as a tall one and several vectors wide."""
    count = ROWS * ACROSS
    return _BROAD(), lambda context, builder, signature, arguments: ir.Constant(ir.ArrayType(VECTOR, count), None)


@intrinsic
def pair(typing: Any) -> Any:
    """Return a tile of zeros of one row, as wide as a broad one."""
    return _PAIR(), lambda context, builder, signature, arguments: ir.Constant(ir.ArrayType(VECTOR, ACROSS), None)


@intrinsic
def square(typing: Any) -> Any:
    """Return a tile of zeros of sixteen vectors below each other."""
    return _SQUARE(), lambda context, builder, signature, arguments: ir.Constant(ir.ArrayType(VECTOR, LANES), None)


@intrinsic
def patch(typing: Any) -> Any:
    """Return a tile of zeros of four rows of four vectors."""
    return _PATCH(), lambda context, builder, signature, arguments: ir.Constant(ir.ArrayType(VECTOR, 16), None)


@intrinsic
def quarter(typing: Any) -> Any:
    """Return a tile of zeros of four vectors below each other."""
    return _QUARTER(), lambda context, builder, signature, arguments: ir.Constant(ir.ArrayType(VECTOR, 4), None)


@intrinsic
def fetch(typing: Any, like: Any, memory: Any, index: Any, stride: Any) -> Any:
    """Return a tile of the given one's form whose row r is memory[index + r * stride : ...]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        across = signature.return_type.across

        def vector(number: int) -> Any:
            return builder.load(vector_at(builder, arguments[1:], number // across, number % across), align=4)

        return tile_of(builder, signature.return_type.rows * across, vector)

    return like(like, FLOATS, types.intp, types.intp), generate


@intrinsic
def beside(typing: Any, like: Any, memory: Any, index: Any) -> Any:
    """Return one row of vectors, as wide as the tile given: memory[index : ...]."""
    row = TileType(1, like.across)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return tile_of(builder, row.across, lambda v: builder.load(vector_at(builder, arguments[1:], 0, v), align=4))

    return row(like, FLOATS, types.intp), generate


@intrinsic
def load(typing: Any, memory: Any, index: Any) -> Any:
    """Return the vector memory[index : index + 16]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return tile_of(builder, 1, lambda row: builder.load(vector_at(builder, arguments), align=4))

    return _ONE(FLOATS, types.intp), generate


@intrinsic
def full(typing: Any, value: Any) -> Any:
    """Return a vector with a number in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return tile_of(builder, 1, lambda number: in_every_lane(builder, arguments[0]))

    return _ONE(types.float32), generate


@intrinsic
def spread(typing: Any, like: Any, memory: Any, index: Any, stride: Any) -> Any:
    """Return a tile, as tall as the one given, whose row r has memory[index + r * stride] in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = [
            in_every_lane(builder, builder.load(place_at(builder, arguments[1:4], row)))
            for row in range(signature.return_type.rows)
        ]
        across = signature.return_type.across
        return tile_of(builder, len(rows) * across, lambda number: rows[number // across])

    return like(like, FLOATS, types.intp, types.intp), generate


@intrinsic
def add_scaled(typing: Any, tile: Any, memory: Any, index: Any, stride: Any, vectors: Any) -> Any:
    """Return the tile with memory[index + r * stride] times the vectors, a row of them, added to each row r."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        across = signature.return_type.across
        factors = [builder.extract_value(arguments[4], number) for number in range(across)]
        others: list[Any] = []

        def one_vector(number: int) -> Any:
            if number % across == 0:
                others.append(in_every_lane(builder, builder.load(place_at(builder, arguments[1:4], number // across))))
            own = builder.extract_value(arguments[0], number)
            product = builder.fmul(others[-1], factors[number % across], flags=FUSED)
            return builder.fadd(product, own, flags=FUSED)

        return tile_of(builder, signature.return_type.rows * across, one_vector)

    return tile(tile, FLOATS, types.intp, types.intp, TileType(1, tile.across)), generate


@intrinsic
def add_products(typing: Any, tile: Any, memory: Any, index: Any, stride: Any, vector: Any) -> Any:
    """Return the tile with the vector at memory[index + r * stride] times the given one added to each row r."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        factor = builder.extract_value(arguments[4], 0)

        def row(number: int) -> Any:
            other = builder.load(vector_at(builder, arguments[1:4], number), align=4)
            own = builder.extract_value(arguments[0], number)
            return builder.fadd(builder.fmul(other, factor, flags=FUSED), own, flags=FUSED)

        return tile_of(builder, signature.return_type.rows, row)

    return tile(tile, FLOATS, types.intp, types.intp, _ONE), generate


@intrinsic
def add_rows(typing: Any, tile: Any, weights: Any, vectors: Any) -> Any:
    """Return a tile of one vector per row with the products of each row of weights and the vectors added."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        across = signature.args[1].across

        def row(number: int) -> Any:
            own = builder.extract_value(arguments[0], number)
            for v in range(across):
                weight = builder.extract_value(arguments[1], number * across + v)
                product = builder.fmul(weight, builder.extract_value(arguments[2], v), flags=FUSED)
                own = builder.fadd(product, own, flags=FUSED)
            return own

        return tile_of(builder, signature.return_type.rows, row)

    return tile(tile, weights, vectors), generate


@intrinsic
def add_mixture(typing: Any, vector: Any, memory: Any, index: Any, stride: Any, tile: Any) -> Any:
    """Return the vector with memory[index + r * stride] times each row r of the tile added, in two sums."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        halves = [builder.extract_value(arguments[0], 0), numbers(0.0)]
        for number in range(signature.args[4].rows):
            factor = in_every_lane(builder, builder.load(place_at(builder, arguments[1:4], number)))
            product = builder.fmul(factor, builder.extract_value(arguments[4], number), flags=FUSED)
            halves[number % 2] = builder.fadd(product, halves[number % 2], flags=FUSED)
        return tile_of(builder, 1, lambda number: builder.fadd(*halves))

    return _ONE(_ONE, FLOATS, types.intp, types.intp, tile), generate


@intrinsic
def ahead_of_need(typing: Any, memory: Any, index: Any) -> Any:
    """Ask for the cache line of memory[index]; nothing happens if there is no such memory."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.bitcast(place_at(builder, arguments), ir.IntType(8).as_pointer())
        hints = [ir.Constant(ir.IntType(32), number) for number in (0, 2, 1)]  # to read, keep near, data
        call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), place, *hints)
        return context.get_dummy_value()

    return types.void(FLOATS, types.intp), generate


@intrinsic
def store(typing: Any, memory: Any, index: Any, stride: Any, tile: Any) -> Any:
    """Write row r of the tile to memory[index + r * stride : ...]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        across = signature.args[3].across
        for number in range(signature.args[3].rows * across):
            row = builder.extract_value(arguments[3], number)
            builder.store(row, vector_at(builder, arguments[:3], number // across, number % across), align=4)
        return context.get_dummy_value()

    return types.void(FLOATS, types.intp, types.intp, tile), generate


@intrinsic
def store_some(typing: Any, memory: Any, index: Any, stride: Any, tile: Any, count: Any) -> Any:
    """Write the first `count` elements of every row r of the tile to memory[index + r * stride : ...]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        across = signature.args[3].across
        masks = [lanes_below(builder, arguments[4], number) for number in range(across)]
        for number in range(signature.args[3].rows * across):
            row = builder.extract_value(arguments[3], number)
            place = vector_at(builder, arguments[:3], number // across, number % across)
            write_some(builder, row, place, masks[number % across])
        return context.get_dummy_value()

    return types.void(FLOATS, types.intp, types.intp, tile, types.intp), generate


@intrinsic
def load_some(typing: Any, memory: Any, index: Any, count: Any) -> Any:
    """Return the vector memory[index : index + 16], 0 from element `count` on, where memory is not looked at."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row = read_some(builder, vector_at(builder, arguments[:2]), lanes_below(builder, arguments[2], 0))
        return tile_of(builder, 1, lambda number: row)

    return _ONE(FLOATS, types.intp, types.intp), generate


@intrinsic
def stream(typing: Any, memory: Any, index: Any, vector: Any) -> Any:
    """Write a vector past the caches to memory[index : index + 16], which must lie at a multiple of 64 bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row = builder.extract_value(arguments[2], 0)
        written = builder.store(row, vector_at(builder, arguments[:2]), align=4 * LANES)
        written.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(FLOATS, types.intp, _ONE), generate


@intrinsic
def blend(typing: Any, memory: Any, index: Any, stride: Any, tile: Any, scale: Any, factor: Any) -> Any:
    """Set memory[index + r * stride : ... + 16] to scale times itself plus factor times row r, for every row r."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scales, factors = (in_every_lane(builder, one) for one in arguments[4:])
        for number in range(signature.args[3].rows):
            place = vector_at(builder, arguments[:3], number)
            fresh = builder.fmul(builder.extract_value(arguments[3], number), factors)
            kept = builder.fmul(builder.load(place, align=4), scales, flags=FUSED)
            builder.store(builder.fadd(kept, fresh, flags=FUSED), place, align=4)
        return context.get_dummy_value()

    return types.void(FLOATS, types.intp, types.intp, tile, types.float32, types.float32), generate


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose sixteen rows of sixteen: swap the off-diagonal blocks of every square of 2, 4, 8 and 16."""
    rows = list(rows)
    for step in (1, 2, 4, 8):
        low = [LANES + lane - step if lane & step else lane for lane in range(LANES)]
        high = [LANES + lane if lane & step else lane + step for lane in range(LANES)]
        for row in (row for row in range(LANES) if not row & step):
            above, beneath = rows[row], rows[row + step]
            rows[row] = mix(builder, above, beneath, low)
            rows[row + step] = mix(builder, above, beneath, high)
    return rows


@intrinsic
def turn(typing: Any, out: Any, to: Any, to_stride: Any, memory: Any, index: Any, stride: Any) -> Any:
    """Transpose sixteen rows of sixteen: out[to + c * to_stride + r] = memory[index + r * stride + c]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = [builder.load(vector_at(builder, arguments[3:], number), align=4) for number in range(LANES)]
        for number, row in enumerate(_transpose(builder, rows)):
            builder.store(row, vector_at(builder, arguments[:3], number), align=4)
        return context.get_dummy_value()

    return types.void(FLOATS, types.intp, types.intp, FLOATS, types.intp, types.intp), generate


@intrinsic
def turn_some(typing: Any, out: Any, to: Any, to_stride: Any, memory: Any, index: Any, stride: Any, count: Any) -> Any:
    """Transpose like `turn`, but look only at the first `count` elements of every row; the others count as 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        mask = lanes_below(builder, arguments[6], 0)
        rows = [read_some(builder, vector_at(builder, arguments[3:6], number), mask) for number in range(LANES)]
        for number, row in enumerate(_transpose(builder, rows)):
            builder.store(row, vector_at(builder, arguments[:3], number), align=4)
        return context.get_dummy_value()

    return types.void(FLOATS, types.intp, types.intp, FLOATS, types.intp, types.intp, types.intp), generate


@intrinsic
def sums(typing: Any, memory: Any, tile: Any) -> Any:
    """Write the sum over the lanes of row r to memory[r]; sixteen elements are overwritten, however many rows."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left = [builder.extract_value(arguments[1], number) for number in range(signature.args[1].rows)]
        even, odd = list(range(0, 2 * LANES, 2)), list(range(1, 2 * LANES, 2))
        width = LANES
        while width > 1:  # add neighbours; two vectors half full of sums become one
            pairs = zip(left[::2], left[1::2] or left, strict=True)
            left = [builder.fadd(mix(builder, a, b, even), mix(builder, a, b, odd)) for a, b in pairs]
            width //= 2
        place = builder.bitcast(arguments[0], VECTOR.as_pointer())
        builder.store(left[0], place, align=4)
        return context.get_dummy_value()

    return types.void(FLOATS, tile), generate


@intrinsic
def total(typing: Any, vector: Any) -> Any:
    """Return the sum over the lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left = builder.extract_value(arguments[0], 0)
        width = LANES
        while width > 1:  # fold the upper half onto the lower
            width //= 2
            left = builder.fadd(left, mix(builder, left, left, [(lane + width) % LANES for lane in range(LANES)]))
        return builder.extract_element(left, ir.Constant(ir.IntType(32), 0))

    return types.float32(_ONE), generate


@intrinsic
def larger(typing: Any, left: Any, right: Any) -> Any:
    """Return the larger of two vectors lane by lane; not-a-number wins."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b = (builder.extract_value(one, 0) for one in arguments)
        keep = builder.and_(builder.fcmp_unordered(">=", a, b), builder.fcmp_ordered("ord", b, b))
        return tile_of(builder, 1, lambda row: builder.select(keep, a, b))

    return _ONE(_ONE, _ONE), generate


@intrinsic
def where_equal(typing: Any, left: Any, right: Any, value: Any) -> Any:
    """Return the value in the lanes in which left equals right, and 0 elsewhere."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b, chosen = (builder.extract_value(one, 0) for one in arguments)
        equal = builder.fcmp_ordered("==", a, b)
        return tile_of(builder, 1, lambda row: builder.select(equal, chosen, numbers(0.0)))

    return _ONE(_ONE, _ONE, _ONE), generate


@intrinsic
def where_positive(typing: Any, test: Any, value: Any) -> Any:
    """Return the value in the lanes in which the test is above 0, and 0 elsewhere; not-a-number counts as above."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        test, value = (builder.extract_value(one, 0) for one in arguments)
        above = builder.fcmp_unordered(">", test, numbers(0.0))
        return tile_of(builder, 1, lambda row: builder.select(above, value, numbers(0.0)))

    return _ONE(_ONE, _ONE), generate


@intrinsic
def plus(typing: Any, left: Any, right: Any, factor: Any) -> Any:
    """Return left + factor * right of two vectors."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b = (builder.extract_value(one, 0) for one in arguments[:2])
        scaled = builder.fmul(b, in_every_lane(builder, arguments[2]))
        return tile_of(builder, 1, lambda row: builder.fadd(a, scaled))

    return _ONE(_ONE, _ONE, types.float32), generate


@intrinsic
def add_product(typing: Any, total: Any, left: Any, right: Any) -> Any:
    """Return total + left * right of three vectors."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, a, b = (builder.extract_value(one, 0) for one in arguments)
        return tile_of(builder, 1, lambda row: builder.fadd(builder.fmul(a, b, flags=FUSED), total, flags=FUSED))

    return _ONE(_ONE, _ONE, _ONE), generate


@intrinsic
def times(typing: Any, left: Any, right: Any) -> Any:
    """Return the product of two vectors lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b = (builder.extract_value(one, 0) for one in arguments)
        return tile_of(builder, 1, lambda row: builder.fmul(a, b))

    return _ONE(_ONE, _ONE), generate


@intrinsic
def exponential(typing: Any, x: Any) -> Any:
    """Return e to the power of each lane, for numbers up to 0; below -87 it is that of -87.

    x = n ln 2 + r with n whole and |r| up to (ln 2) / 2; e to the r is its Taylor polynomial of degree 7, whose
    remainder is below 6e-9, and the power of two is put together from its bits. Not-a-number stays what it is.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x = builder.extract_value(arguments[0], 0)
        low = builder.fcmp_ordered("<", x, numbers(-87.0))
        x = builder.select(low, numbers(-87.0), x)
        near = builder.fadd(builder.fmul(x, numbers(1.4426950408889634)), numbers(-0.5))
        whole = call_llvm(builder, "llvm.fptosi.sat.v16i32.v16f32", WHOLE, near)
        n = builder.sitofp(whole, VECTOR)
        # ln 2 in two parts: the first has few bits, so its multiples are exact.
        rest = builder.fadd(x, builder.fmul(n, numbers(-0.693359375)))
        rest = builder.fadd(rest, builder.fmul(n, numbers(2.12194440e-4)))
        power = numbers(1 / 5040)
        for coefficient in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
            power = builder.fadd(builder.fmul(power, rest, flags=FUSED), numbers(coefficient), flags=FUSED)
        bits = builder.shl(builder.add(whole, constants([127] * LANES)), constants([23] * LANES))
        return tile_of(builder, 1, lambda row: builder.fmul(power, builder.bitcast(bits, VECTOR)))

    return _ONE(_ONE), generate
