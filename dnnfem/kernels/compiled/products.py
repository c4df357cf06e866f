"""Matrix products on tiles, with the accumulators in vector registers.

A register of a network is a block of rows in a flat array, one row of samples per neuron.  Two products are all that
the sweeps need:

    add_products    z_o += sum_i w_oi r_i + sum_i v_oi s_i        forward with W, backward with its transpose
    add_outers      a_oi += sum_s m_os r_is + sum_s n_os q_is     derivative in the weights

Derivatives of products have two terms, which share the loads and stores of the sums; the second one may be absent.
Both products multiply a number by a vector of neighbours: of samples in the first, of columns in the second, whose
right factors `transpose` brings into panels, ``WIDTH`` columns wide, sample by sample.  The sums of `add_outers` are
stored in panels too, see `dnnfem.kernels.compiled.tables`.

The inner loops are written as vector instructions, since a compiler does not keep a block of sums in registers over a
loop of unknown length; how wide vectors are is asked of the processor.  Rows of samples must begin at multiples of a
cache line: a vector in two lines takes twice the time.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dnnfem.kernels.compiled.tables import INTERNAL, LANES, VECTORS, WIDTH

BLOCK = 4 if LANES == 8 else 2
"""Rows of a block: with more vectors than registers, sums would be spilled to memory."""

CACHE = 40000
"""Bytes of the first-level cache that are relied upon."""

CHAINS = 8
"""Sums that a processor needs to work on at a time, as one addition takes several cycles."""

DOUBLE = ir.DoubleType()
VECTOR = ir.VectorType(DOUBLE, LANES)
INTEGER = ir.IntType(64)


def _at(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """Return the address of an entry of a flat array."""
    data = context.make_array(array_type)(context, builder, value=array).data
    return builder.gep(data, [offset], inbounds=True)


def _lines(builder: Any, base: Any, step: Any, count: int) -> list[Any]:
    """Return the addresses ``base, base + step, ...``."""
    return [builder.gep(base, [builder.mul(step, INTEGER(n))], inbounds=True) for n in range(count)]


def _vectors(builder: Any, base: Any, count: int) -> list[Any]:
    """Return the addresses of neighbouring vectors."""
    places = (builder.gep(base, [INTEGER(n * LANES)], inbounds=True) for n in range(count))
    return [builder.bitcast(place, VECTOR.as_pointer()) for place in places]


def _loaded(builder: Any, places: list[Any]) -> list[Any]:
    return [builder.load(place, align=8) for place in places]


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


def _accumulated(
    builder: Any, sums: list[Any], count: Any, lines: list[Any], step: Any, right: Any, shift: Any, ways: int = 1
) -> list[Any]:
    """Add ``sum_k left_o[k step] right[k shift + ...]`` to sums of blocks (lines, vectors) over ``k < count ways``.

    With several `ways`, neighbouring terms go to different blocks of sums.
    """
    vectors = len(sums) // (ways * len(lines))
    loop = _Loop(builder, count, sums)
    result: list[Any] = []
    for way in range(ways):
        k = builder.add(builder.mul(loop.index, INTEGER(ways)), INTEGER(way))
        here = builder.gep(right, [builder.mul(k, shift)], inbounds=True)
        operands = _loaded(builder, _vectors(builder, here, vectors))
        at = builder.mul(k, step)
        for line in lines:
            factor = _spread(builder, builder.load(builder.gep(line, [at], inbounds=True)))
            for operand in operands:
                result.append(_add_multiple(builder, loop.values[len(result)], factor, operand))
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
            targets = _lines(builder, _at(context, builder, kinds[0], z_, z0_), length_, rows)
            places = [place for target in targets for place in _vectors(builder, target, vectors)]
            sums = _loaded(builder, places)
            terms = ((3, w_, w0_, 5, r_, r0_, columns_), (8, v_, v0_, 10, s_, s0_, more_))
            for left_kind, left, left0, right_kind, right, right0, count in terms:
                lines = _lines(builder, _at(context, builder, kinds[left_kind], left, left0), INTEGER(1), rows)
                source = _at(context, builder, kinds[right_kind], right, right0)
                sums = _accumulated(builder, sums, count, lines, INTEGER(rows), source, length_)
            for place, value in zip(places, sums, strict=True):
                builder.store(value, place, align=8)
            return context.get_dummy_value()

        n = types.int64
        return types.void(z, n, n, w, n, r, n, n, v, n, s, n, n), codegen

    return block


def _outers(rows: int, vectors: int) -> Any:
    """Return the intrinsic behind `add_outers` for a block of `rows` times `vectors`."""
    ways = 2 if rows * vectors < CHAINS + 1 else 1

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
            targets = _lines(builder, _at(context, builder, kinds[0], a_, a0_), INTEGER(WIDTH), rows)
            places = [place for target in targets for place in _vectors(builder, target, vectors)]
            zero = ir.Constant(VECTOR, [0.0] * LANES)
            sums = _loaded(builder, places) + [zero] * ((ways - 1) * rows * vectors)
            first = builder.udiv(length_, INTEGER(ways))
            terms = ((3, m_, m0_, 5, p_, p0_, first), (7, n_, n0_, 9, q_, q0_, builder.mul(first, more_)))
            for left_kind, left, left0, right_kind, right, right0, count in terms:
                lines = _lines(builder, _at(context, builder, kinds[left_kind], left, left0), length_, rows)
                source = _at(context, builder, kinds[right_kind], right, right0)
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
        source = _at(context, builder, signature.args[0], r_, r0_)
        target = _at(context, builder, signature.args[4], p_, p0_)
        last, vectors = builder.sub(valid_, INTEGER(1)), []
        for n in range(LANES):
            row = builder.select(builder.icmp_signed("<", INTEGER(n), valid_), INTEGER(n), last)
            line = builder.gep(source, [builder.mul(row, length_)], inbounds=True)
            vectors += _loaded(builder, _vectors(builder, line, 1))
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
            builder.store(vector, _vectors(builder, place, 1)[0], align=8)
        return context.get_dummy_value()

    i = types.int64
    return types.void(r, i, i, i, p, i), codegen


_products_block, _products_one = _products(BLOCK, VECTORS), _products(1, VECTORS)
_outers_four, _outers_three, _outers_two, _outers_single = (_outers(BLOCK, count) for count in (4, 3, 2, 1))
_outers_one = _outers(1, VECTORS)


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
