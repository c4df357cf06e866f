"""Matrix products on tiles, with the accumulators in vector registers.

A register of a network is a block of rows in a flat array, one row of samples per neuron.  Two products are all that
the sweeps need:

    add_products    z_o += sum_i w_oi r_i + sum_i v_oi s_i        forward with W, backward with its transpose
    add_outers      a_oi += sum_s m_os r_is + sum_s n_os q_is     derivative in the weights

Derivatives of products have two terms, which share the loads and stores of the sums; the second one may be absent.
Both products multiply a number by a vector of neighbours: of samples in the first, of columns in the second, whose
right factors `transpose` brings into panels, ``WIDTH`` columns wide, sample by sample.  The sums of `add_outers` are
stored in panels too, see `dnnfem.kernels.compiled.tables`.

The inner loops are made of `dnnfem.kernels.compiled.vectors`; how wide vectors are is asked of the processor.  Rows of
samples must begin at multiples of a cache line: a vector in two lines takes twice the time.  Rows of a system are
products of single entries, `row_products`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dnnfem.kernels.compiled.tables import INTERNAL, LANES, VECTORS, WIDTH
from dnnfem.kernels.compiled.vectors import (
    DOUBLE,
    INTEGER,
    VECTOR,
    Loop,
    add_multiple,
    entry,
    loaded,
    neighbours,
    spread,
    strided,
)

BLOCK = 4 if LANES == 8 else 2
"""Rows of a block: with more vectors than registers, sums would be spilled to memory."""

CACHE = 40000
"""Bytes of the first-level cache that are relied upon."""

CHAINS = 8
"""Sums that a processor needs to work on at a time, as one addition takes several cycles.  Tiles have a multiple of as
many vectors."""


def _accumulated(
    builder: Any, sums: list[Any], count: Any, lines: list[Any], step: Any, right: Any, shift: Any, ways: int = 1
) -> list[Any]:
    """Add ``sum_k left_o[k step] right[k shift + ...]`` to sums of blocks (lines, vectors) over ``k < count ways``.

    With several `ways`, neighbouring terms go to different blocks of sums.
    """
    vectors = len(sums) // (ways * len(lines))
    loop = Loop(builder, count, sums)
    result: list[Any] = []
    for way in range(ways):
        k = builder.add(builder.mul(loop.index, INTEGER(ways)), INTEGER(way))
        here = builder.gep(right, [builder.mul(k, shift)], inbounds=True)
        operands = loaded(builder, neighbours(builder, here, vectors))
        at = builder.mul(k, step)
        for line in lines:
            factor = spread(builder, builder.load(builder.gep(line, [at], inbounds=True)))
            for operand in operands:
                result.append(add_multiple(builder, loop.values[len(result)], factor, operand))
    return loop.close(result)


def _products(rows: int, vectors: int) -> Any:
    """Return the intrinsic behind `add_products` for a block of `rows` times `vectors`."""

    @intrinsic
    def block(
        typingctx: Any,
        z: Any,
        z0: Any,
        length: Any,
        w: Any,
        w0: Any,
        r: Any,
        r0: Any,
        columns: Any,
        v: Any,
        v0: Any,
        s: Any,
        s0: Any,
        more: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            z_, z0_, length_, w_, w0_, r_, r0_, columns_, v_, v0_, s_, s0_, more_ = args
            kinds = signature.args
            targets = strided(builder, entry(context, builder, kinds[0], z_, z0_), length_, rows)
            places = [place for target in targets for place in neighbours(builder, target, vectors)]
            sums = loaded(builder, places)
            terms = ((3, w_, w0_, 5, r_, r0_, columns_), (8, v_, v0_, 10, s_, s0_, more_))
            for left_kind, left, left0, right_kind, right, right0, count in terms:
                lines = strided(builder, entry(context, builder, kinds[left_kind], left, left0), INTEGER(1), rows)
                source = entry(context, builder, kinds[right_kind], right, right0)
                sums = _accumulated(builder, sums, count, lines, INTEGER(rows), source, length_)
            for place, value in zip(places, sums, strict=True):
                builder.store(value, place, align=8)
            return context.get_dummy_value()

        n = types.int64
        return types.void(z, n, n, w, n, r, n, n, v, n, s, n, n), codegen

    return block


def _outers(rows: int, vectors: int) -> Any:
    """Return the intrinsic behind `add_outers` for a block of `rows` times `vectors`."""
    # With half as many registers, twice the sums would be spilled.
    ways = 2 if rows * vectors < CHAINS + (LANES == 8) else 1

    @intrinsic
    def block(
        typingctx: Any,
        a: Any,
        a0: Any,
        length: Any,
        m: Any,
        m0: Any,
        p: Any,
        p0: Any,
        n: Any,
        n0: Any,
        q: Any,
        q0: Any,
        more: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a_, a0_, length_, m_, m0_, p_, p0_, n_, n0_, q_, q0_, more_ = args
            kinds = signature.args
            targets = strided(builder, entry(context, builder, kinds[0], a_, a0_), INTEGER(WIDTH), rows)
            places = [place for target in targets for place in neighbours(builder, target, vectors)]
            zero = ir.Constant(VECTOR, [0.0] * LANES)
            sums = loaded(builder, places) + [zero] * ((ways - 1) * rows * vectors)
            first = builder.udiv(length_, INTEGER(ways))
            terms = ((3, m_, m0_, 5, p_, p0_, first), (7, n_, n0_, 9, q_, q0_, builder.mul(first, more_)))
            for left_kind, left, left0, right_kind, right, right0, count in terms:
                lines = strided(builder, entry(context, builder, kinds[left_kind], left, left0), length_, rows)
                source = entry(context, builder, kinds[right_kind], right, right0)
                sums = _accumulated(builder, sums, count, lines, INTEGER(1), source, INTEGER(WIDTH), ways)
            for number, place in enumerate(places):
                total = sums[number] if ways == 1 else builder.fadd(sums[number], sums[number + rows * vectors])
                builder.store(total, place, align=8)
            return context.get_dummy_value()

        i = types.int64
        return types.void(a, i, i, m, i, p, i, n, i, q, i, i), codegen

    return block


@intrinsic
def _transposed(typingctx: Any, r: Any, r0: Any, length: Any, valid: Any, p: Any, p0: Any) -> Any:
    """Write a square of `LANES` rows to a panel, transposed; rows from `valid` on repeat the last one before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        r_, r0_, length_, valid_, p_, p0_ = args
        source = entry(context, builder, signature.args[0], r_, r0_)
        target = entry(context, builder, signature.args[4], p_, p0_)
        last, vectors = builder.sub(valid_, INTEGER(1)), []
        for n in range(LANES):
            row = builder.select(builder.icmp_signed("<", INTEGER(n), valid_), INTEGER(n), last)
            line = builder.gep(source, [builder.mul(row, length_)], inbounds=True)
            vectors += loaded(builder, neighbours(builder, line, 1))
        half = 1
        while half < LANES:
            # Swap a bit of the number of the row for the same bit of the number of the lane.
            low = [lane if not lane & half else LANES + lane - half for lane in range(LANES)]
            high = [lane + half if not lane & half else LANES + lane for lane in range(LANES)]
            kind = ir.VectorType(ir.IntType(32), LANES)
            for n in range(LANES):
                if not n & half:
                    pair = vectors[n], vectors[n + half]
                    vectors[n] = builder.shuffle_vector(*pair, ir.Constant(kind, low))
                    vectors[n + half] = builder.shuffle_vector(*pair, ir.Constant(kind, high))
            half *= 2
        for n, vector in enumerate(vectors):
            place = builder.gep(target, [INTEGER(n * WIDTH)], inbounds=True)
            builder.store(vector, neighbours(builder, place, 1)[0], align=8)
        return context.get_dummy_value()

    i = types.int64
    return types.void(r, i, i, i, p, i), codegen


def _rows(add: bool) -> Any:
    """Return the intrinsic behind `row_products`, for `CHAINS` vectors."""

    @intrinsic
    def block(typingctx: Any, z: Any, terms: Any, x: Any, step: Any, y: Any, stride: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            z_, terms_, x_, step_, y_, stride_ = args
            target, left, right = (builder.inttoptr(place, DOUBLE.as_pointer()) for place in (z_, x_, y_))
            numbers, places = builder.inttoptr(terms_, INTEGER.as_pointer()), neighbours(builder, target, CHAINS)
            zero = ir.Constant(VECTOR, [0.0] * LANES)
            loop = Loop(builder, builder.load(numbers), loaded(builder, places) if add else [zero] * CHAINS)
            number = builder.load(builder.gep(numbers, [builder.add(loop.index, INTEGER(1))], inbounds=True))
            pair = []
            for base, distance in ((left, step_), (right, stride_)):
                there = builder.gep(base, [builder.mul(number, distance)], inbounds=True)
                pair.append(loaded(builder, neighbours(builder, there, CHAINS)))
            sums = [add_multiple(builder, *three) for three in zip(loop.values, *pair, strict=True)]
            for total, place in zip(loop.close(sums), places, strict=True):
                builder.store(total, place, align=8)
            return context.get_dummy_value()

        i = types.int64
        return types.void(i, i, i, i, i, i), codegen

    return block


_products_block, _products_one = _products(BLOCK, VECTORS), _products(1, VECTORS)
_outers_four, _outers_three, _outers_two, _outers_single = (_outers(BLOCK, count) for count in (4, 3, 2, 1))
_outers_one = _outers(1, VECTORS)
_rows_set, _rows_add = _rows(False), _rows(True)


@njit(**INTERNAL)
def _pack(w, w0, rows, row, columns, column, out):  # type: ignore[no-untyped-def]
    full = rows - rows % BLOCK
    for o in range(0, full, BLOCK):
        for i in range(columns):
            for j in range(BLOCK):
                out[w0 + o * columns + i * BLOCK + j] = w[w0 + (o + j) * row + i * column]
    for o in range(full, rows):
        for i in range(columns):
            out[w0 + o * columns + i] = w[w0 + o * row + i * column]


@njit(**INTERNAL)
def pack(w, w0, rows, columns, forward, backward):  # type: ignore[no-untyped-def]
    """Pack a matrix (rows, columns) and its transpose for `add_products`, at the place where it is among the weights.

    The rows of a block lie side by side, entry by entry; single rows are left as they are.
    """
    _pack(w, w0, rows, columns, columns, 1, forward)
    _pack(w, w0, columns, 1, rows, columns, backward)


@njit(**INTERNAL)
def add_products(z, z0, rows, length, w, w0, r, r0, columns, v, v0, s, s0, more):  # type: ignore[no-untyped-def]
    """Add ``sum_i w_oi r_i`` to ``z_o``, and ``sum_i v_oi s_i`` if `more` is 1, o < `rows`, i < `columns`.

    Parameters
    ----------
    z, w, r, v, s : array, one axis
        Flat; the blocks z, r and s begin at `z0`, `r0` and `s0`, and their rows have `length` entries.  The matrices w
        and v, from `w0` and `v0` on, are packed.
    """
    full, stripes = rows - rows % BLOCK, length // WIDTH
    blocks = full // BLOCK
    # A part of all r stays in the first-level cache while the rows of z pass by; if that is too much for it, the
    # weights of a block do.
    narrow = 8 * WIDTH * columns <= CACHE
    for t in range(blocks * stripes):
        o, k = (t % blocks, t // blocks) if narrow else (t // stripes, t % stripes)
        o, k = o * BLOCK, k * WIDTH
        _products_block(
            z, z0 + o * length + k, length,
            w, w0 + o * columns, r, r0 + k, columns, v, v0 + o * columns, s, s0 + k, columns * more,
        )  # fmt: skip
    for o in range(full, rows):
        for k in range(0, length, WIDTH):
            _products_one(
                z, z0 + o * length + k, length,
                w, w0 + o * columns, r, r0 + k, columns, v, v0 + o * columns, s, s0 + k, columns * more,
            )  # fmt: skip


@njit(**INTERNAL)
def transpose(r, r0, columns, length, p, p0):  # type: ignore[no-untyped-def]
    """Bring a block of `columns` rows into panels from `p0` on; what fills up the last panel does not matter."""
    for i in range(0, columns, LANES):
        panel = p0 + (i // WIDTH) * WIDTH * length + i % WIDTH
        for k in range(0, length, LANES):
            _transposed(r, r0 + i * length + k, length, min(LANES, columns - i), p, panel + k * WIDTH)


@njit(**INTERNAL)
def add_outers(a, a0, rows, columns, length, m, m0, p, p0, n, n0, q, q0, more):  # type: ignore[no-untyped-def]
    """Add ``sum_s m[o, s] p[s, i]``, and if `more` is 1 ``sum_s n[o, s] q[s, i]``, to the panels of a from `a0` on.

    Blocks m and n have `rows` rows, panels p and q `columns` columns.
    """
    full = rows - rows % BLOCK
    for begin in range(0, columns, WIDTH):
        shift, target, left = (begin // WIDTH) * WIDTH * length, a0 + begin * rows, columns - begin
        for o in range(0, full, BLOCK):
            at, first, second = target + o * WIDTH, m0 + o * length, n0 + o * length
            if left > 3 * LANES:
                _outers_four(a, at, length, m, first, p, p0 + shift, n, second, q, q0 + shift, more)
            elif left > 2 * LANES:
                _outers_three(a, at, length, m, first, p, p0 + shift, n, second, q, q0 + shift, more)
            elif left > LANES:
                _outers_two(a, at, length, m, first, p, p0 + shift, n, second, q, q0 + shift, more)
            else:
                _outers_single(a, at, length, m, first, p, p0 + shift, n, second, q, q0 + shift, more)
        for o in range(full, rows):
            at, first, second = target + o * WIDTH, m0 + o * length, n0 + o * length
            _outers_one(a, at, length, m, first, p, p0 + shift, n, second, q, q0 + shift, more)


@njit(**INTERNAL)
def row_products(z, length, terms, x, step, y, stride, add):  # type: ignore[no-untyped-def]
    """Set `length` numbers at the address `z` to ``sum_c x_c y_c``, or add it, entry by entry.

    At the address `terms` are the number of components c, and which these are; they begin ``c * step`` numbers after
    the address `x` and ``c * stride`` after `y`.
    """
    for k in range(0, length, CHAINS * LANES):
        if add:
            _rows_add(z + 8 * k, terms, x + 8 * k, step, y + 8 * k, stride)
        else:
            _rows_set(z + 8 * k, terms, x + 8 * k, step, y + 8 * k, stride)
