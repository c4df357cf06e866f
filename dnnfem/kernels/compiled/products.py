"""Matrix products on tiles, with the accumulators in vector registers.

A register of a network is a block (width, TILE) in a flat array.  Two products are all that the sweeps need:

    add_product    z_o += sum_i w_oi r_i                forward with W, backward with its transpose
    add_outer      a_oi += sum_s delta_os r_is          derivative in the weights

Both work on blocks of four rows.  The inner loops are written as vector instructions, since a compiler does
not keep a block of sums in registers over a loop of unknown length; how wide vectors are is asked of the
processor.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import njit, types
from numba.extending import intrinsic

from dnnfem.kernels.compiled.tables import INTERNAL, TILE

FOUR = 4
LANES = 8 if binding.get_host_cpu_features().get("avx512f", False) else 4
"""Numbers in one vector.  With more vectors per block than registers, sums would be spilled to memory."""

VECTORS = 4 if LANES == 8 else 2
"""Vectors per row in a block of four rows."""

DOUBLE = ir.DoubleType()
VECTOR = ir.VectorType(DOUBLE, LANES)
INTEGER = ir.IntType(64)


def _at(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """Return the address of an entry of a flat array."""
    data = context.make_array(array_type)(context, builder, value=array).data
    return builder.gep(data, [offset], inbounds=True)


def _vector(builder: Any, base: Any, offset: int, kind: Any = VECTOR) -> Any:
    """Return the address of the vector that starts `offset` entries after `base`."""
    return builder.bitcast(builder.gep(base, [INTEGER(offset)], inbounds=True), kind.as_pointer())


def _spread(builder: Any, scalar: Any) -> Any:
    """Return a vector all entries of which are `scalar`."""
    undefined = ir.Constant(VECTOR, ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _add_multiple(builder: Any, total: Any, a: Any, b: Any) -> Any:
    """Return ``total + a b``, fused where the processor can."""
    return builder.fadd(total, builder.fmul(a, b, flags=("contract",)), flags=("contract",))


class _Loop:
    """A counted loop whose body carries a list of vectors, as phi nodes."""

    def __init__(self, builder: Any, count: Any, carried: list[Any]) -> None:
        self.builder, self.count = builder, count
        before = builder.block
        self.head = builder.append_basic_block("head")
        self.body = builder.append_basic_block("body")
        self.after = builder.append_basic_block("after")
        builder.branch(self.head)
        builder.position_at_end(self.head)
        self.index = builder.phi(INTEGER)
        self.index.add_incoming(INTEGER(0), before)
        self.values = [builder.phi(value.type) for value in carried]
        for phi, value in zip(self.values, carried, strict=True):
            phi.add_incoming(value, before)
        builder.cbranch(builder.icmp_signed("<", self.index, count), self.body, self.after)
        builder.position_at_end(self.body)

    def close(self, values: list[Any]) -> list[Any]:
        """End the body with the new values; return those after the loop."""
        builder = self.builder
        self.index.add_incoming(builder.add(self.index, INTEGER(1)), builder.block)
        for phi, value in zip(self.values, values, strict=True):
            phi.add_incoming(value, builder.block)
        builder.branch(self.head)
        builder.position_at_end(self.after)
        return self.values


def _product(rows: int, vectors: int) -> Any:
    """Return the intrinsic ``z[o, :] += sum_i w[o, i] r[i, :]`` for a block of `rows` times `vectors`."""

    @intrinsic
    def block(
        typingctx: Any, z: Any, z0: Any, r: Any, r0: Any, columns: Any, w: Any, w0: Any, row: Any, column: Any
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            z_, z0_, r_, r0_, columns_, w_, w0_, row_, column_ = args
            target = _at(context, builder, signature.args[0], z_, z0_)
            source = _at(context, builder, signature.args[2], r_, r0_)
            first = _at(context, builder, signature.args[5], w_, w0_)
            lines = [builder.gep(first, [builder.mul(row_, INTEGER(o))], inbounds=True) for o in range(rows)]
            places = [_vector(builder, target, o * TILE + v * LANES) for o in range(rows) for v in range(vectors)]
            loop = _Loop(builder, columns_, [builder.load(place, align=8) for place in places])
            here = builder.gep(source, [builder.mul(loop.index, INTEGER(TILE))], inbounds=True)
            operands = [builder.load(_vector(builder, here, v * LANES), align=8) for v in range(vectors)]
            step = builder.mul(loop.index, column_)
            sums = []
            for o, line in enumerate(lines):
                weight = _spread(builder, builder.load(builder.gep(line, [step], inbounds=True)))
                for v, operand in enumerate(operands):
                    sums.append(_add_multiple(builder, loop.values[o * vectors + v], weight, operand))
            for place, value in zip(places, loop.close(sums), strict=True):
                builder.store(value, place, align=8)
            return context.get_dummy_value()

        n = types.int64
        return types.void(z, n, r, n, n, w, n, n, n), codegen

    return block


def _fold(builder: Any, vectors: list[Any]) -> list[Any]:
    """Sum up the lanes of a power of two of vectors; return vectors that hold the sums in order.

    Two vectors are merged into one that holds half sums of both, until a lane is a sum; this takes a third of
    the instructions of summing up one by one.
    """
    segment = LANES
    while segment > 1:
        half = segment // 2
        merged = []
        pairs = [(v, v) for v in vectors] if len(vectors) == 1 else list(zip(vectors[::2], vectors[1::2], strict=True))
        for a, b in pairs:
            lanes = a.type.count * (1 if a is b else 2)
            starts = range(0, lanes, segment)
            picks = [[start + k + shift for start in starts for k in range(half)] for shift in (0, half)]
            kind = ir.VectorType(ir.IntType(32), len(picks[0]))
            low, high = (builder.shuffle_vector(a, b, ir.Constant(kind, pick)) for pick in picks)
            merged.append(builder.fadd(low, high))
        vectors, segment = merged, half
    return vectors


def _outer(rows: int, columns: int) -> Any:
    """Return the intrinsic ``a[o, i] += sum_s delta[o, s] r[i, s]`` for a block of `rows` times `columns`."""

    @intrinsic
    def block(typingctx: Any, a: Any, a0: Any, stride: Any, delta: Any, d0: Any, r: Any, r0: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a_, a0_, stride_, delta_, d0_, r_, r0_ = args
            target = _at(context, builder, signature.args[0], a_, a0_)
            left = _at(context, builder, signature.args[3], delta_, d0_)
            right = _at(context, builder, signature.args[5], r_, r0_)
            zero = ir.Constant(VECTOR, [0.0] * LANES)
            loop = _Loop(builder, INTEGER(TILE // LANES), [zero] * (rows * columns))
            shift = builder.mul(loop.index, INTEGER(LANES))
            left, right = (builder.gep(base, [shift], inbounds=True) for base in (left, right))
            xs = [builder.load(_vector(builder, left, o * TILE), align=8) for o in range(rows)]
            ys = [builder.load(_vector(builder, right, i * TILE), align=8) for i in range(columns)]
            sums = [
                _add_multiple(builder, loop.values[o * columns + i], xs[o], ys[i])
                for o in range(rows)
                for i in range(columns)
            ]
            folded = _fold(builder, loop.close(sums))
            width = folded[0].type.count
            for o in range(rows):
                line = builder.gep(target, [builder.mul(stride_, INTEGER(o))], inbounds=True)
                for i in range(columns):
                    number = o * columns + i
                    total = builder.extract_element(folded[number // width], ir.IntType(32)(number % width))
                    place = builder.gep(line, [INTEGER(i)], inbounds=True)
                    builder.store(builder.fadd(builder.load(place), total), place)
            return context.get_dummy_value()

        n = types.int64
        return types.void(a, n, n, delta, n, r, n), codegen

    return block


_product_four, _product_one = _product(FOUR, VECTORS), _product(1, 2 * VECTORS)
_outer_four, _outer_column, _outer_row, _outer_one = _outer(4, 4), _outer(4, 1), _outer(1, 4), _outer(1, 1)


@njit(**INTERNAL)
def add_product(z, z0, rows, r, r0, columns, w, w0, row, column):  # type: ignore[no-untyped-def]
    """Add ``sum_i w[w0 + o row + i column] r[i]`` to ``z[o]``, for all o < `rows`, i < `columns`.

    Parameters
    ----------
    z, r, w : array, one axis
        Flat; the blocks begin at `z0` and `r0`.
    row, column : int
        Steps in the weights: (columns, 1) multiplies by a matrix stored row by row, (1, rows) by its
        transpose.
    """
    full = rows - rows % FOUR
    # Samples outside: a part of all r stays in the first-level cache while the rows of z pass by.
    for s in range(0, TILE, VECTORS * LANES):
        for o in range(0, full, FOUR):
            _product_four(z, z0 + o * TILE + s, r, r0 + s, columns, w, w0 + o * row, row, column)
    for s in range(0, TILE, 2 * VECTORS * LANES):
        for o in range(full, rows):
            _product_one(z, z0 + o * TILE + s, r, r0 + s, columns, w, w0 + o * row, row, column)


@njit(**INTERNAL)
def add_outer(a, a0, delta, d0, rows, r, r0, columns):  # type: ignore[no-untyped-def]
    """Add ``sum_s delta[o, s] r[i, s]`` to ``a[a0 + o columns + i]``, for all o < `rows`, i < `columns`."""
    full, wide = rows - rows % FOUR, columns - columns % FOUR
    for o in range(0, full, FOUR):
        for i in range(0, wide, FOUR):
            _outer_four(a, a0 + o * columns + i, columns, delta, d0 + o * TILE, r, r0 + i * TILE)
        for i in range(wide, columns):
            _outer_column(a, a0 + o * columns + i, columns, delta, d0 + o * TILE, r, r0 + i * TILE)
    for o in range(full, rows):
        for i in range(0, wide, FOUR):
            _outer_row(a, a0 + o * columns + i, columns, delta, d0 + o * TILE, r, r0 + i * TILE)
        for i in range(wide, columns):
            _outer_one(a, a0 + o * columns + i, columns, delta, d0 + o * TILE, r, r0 + i * TILE)
