"""What one tile goes through: forward, tangent, reverse, second-order reverse sweep, rows of a system.

Every function works on one tile and one direction.  Blocks of all registers of a tile, (rows, TILE), begin at
an offset in flat arrays; `stages`, `scales`, `carry` and `factors` are described in
`dnnfem.kernels.compiled.tables`, `w` are the weights.  In the notation of the documentation, with the
registers `r`, the arguments z and the cotangents lambda,

    d = h sigma'(z),    b = h sigma''(z),    delta = d lambda,    bend = b lambda.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from dnnfem.kernels.compiled.elementary import activate
from dnnfem.kernels.compiled.products import add_outer, add_product
from dnnfem.kernels.compiled.tables import (
    ACTIVATION,
    BIAS,
    CARRY,
    CARRY_END,
    COLUMNS,
    IN,
    INNER,
    INTERNAL,
    MATRIX,
    OUT,
    ROWS,
    TILE,
)

OPTIONS: dict[str, Any] = {**INTERNAL, "fastmath": {"contract", "reassoc"}}
"""Sums may be reordered to fill vectors; this keeps NaN and infinity what they are."""


@njit(**OPTIONS)
def _fill(z, w, begin):  # type: ignore[no-untyped-def]
    """Set row o of the block `z` to ``w[begin + o]``, or to zero if `begin` is negative."""
    for o in range(z.size // TILE):
        value = w[begin + o] if begin >= 0 else 0.0
        row = z[o * TILE : (o + 1) * TILE]
        for s in range(TILE):
            row[s] = value


@njit(**OPTIONS)
def _add_scaled(z, factor, r):  # type: ignore[no-untyped-def]
    for k in range(z.size):
        z[k] += factor * r[k]


@njit(**OPTIONS)
def _add_row_sums(a, begin, delta):  # type: ignore[no-untyped-def]
    """Add the sums over the samples of `delta` to ``a[begin:]``; nothing if `begin` is negative."""
    if begin >= 0:
        for o in range(delta.size // TILE):
            row = delta[o * TILE : (o + 1) * TILE]
            total = 0.0
            for s in range(TILE):
                total += row[s]
            a[begin + o] += total


@njit(**OPTIONS)
def forward(stages, scales, carry, factors, w, r, r0, d, b, b0):  # type: ignore[no-untyped-def]
    """Compute all registers from the input register; fill in `d` and `b`, which begin at `b0`."""
    for s in range(len(stages)):
        stage = stages[s]
        begin, size = stage[OUT] * TILE, stage[ROWS] * TILE
        y = r[r0 + begin : r0 + begin + size]
        _fill(y, w, stage[BIAS])
        add_product(
            r,
            r0 + begin,
            stage[ROWS],
            r,
            r0 + stage[IN] * TILE,
            stage[COLUMNS],
            w,
            stage[MATRIX],
            stage[COLUMNS],
            1,
        )
        activate(
            stage[ACTIVATION],
            scales[s],
            y,
            d[b0 + begin : b0 + begin + size],
            b[b0 + begin : b0 + begin + size],
        )
        for c in range(stage[CARRY], stage[CARRY_END]):
            other = r0 + carry[c] * TILE
            _add_scaled(y, factors[c], r[other : other + size])


@njit(**OPTIONS)
def tangent(stages, carry, factors, w, v, v0, r, r0, d, bend, rdot, rdot0, q, q0, second):  # type: ignore[no-untyped-def]
    """Differentiate the registers along a direction `v` of weights; with `second`, store ``q = bend zdot``.

    `r`, `d` and `bend` begin at `r0`.  Of `rdot` the input register must be zero; the derivatives of the
    arguments are formed in `q`.
    """
    for s in range(len(stages)):
        stage = stages[s]
        rows, columns, size = stage[ROWS], stage[COLUMNS], stage[ROWS] * TILE
        source, begin = stage[IN] * TILE, stage[OUT] * TILE
        zdot = q[q0 + begin : q0 + begin + size]
        _fill(zdot, v, v0 + stage[BIAS] if stage[BIAS] >= 0 else -1)
        add_product(q, q0 + begin, rows, r, r0 + source, columns, v, v0 + stage[MATRIX], columns, 1)
        if stage[INNER]:
            add_product(q, q0 + begin, rows, rdot, rdot0 + source, columns, w, stage[MATRIX], columns, 1)
        ydot, slope = rdot[rdot0 + begin : rdot0 + begin + size], d[r0 + begin : r0 + begin + size]
        for k in range(size):
            ydot[k] = slope[k] * zdot[k]
        for c in range(stage[CARRY], stage[CARRY_END]):
            other = rdot0 + carry[c] * TILE
            _add_scaled(ydot, factors[c], rdot[other : other + size])
        if second:
            curved = bend[r0 + begin : r0 + begin + size]
            for k in range(size):
                zdot[k] *= curved[k]


@njit(**OPTIONS)
def _pull_back(stage, carry, factors, w, lam, delta, delta0, inner):  # type: ignore[no-untyped-def]
    """Add ``W^T delta`` to the cotangent of the input if `inner`, and carry over that of the output."""
    if inner:
        rows, columns = stage[ROWS], stage[COLUMNS]
        add_product(
            lam,
            stage[IN] * TILE,
            columns,
            delta,
            delta0 + stage[OUT] * TILE,
            rows,
            w,
            stage[MATRIX],
            1,
            columns,
        )
    begin, size = stage[OUT] * TILE, stage[ROWS] * TILE
    for c in range(stage[CARRY], stage[CARRY_END]):
        other = carry[c] * TILE
        _add_scaled(lam[other : other + size], factors[c], lam[begin : begin + size])


@njit(**OPTIONS)
def reverse(stages, carry, factors, w, r, r0, d, b, lam, delta, delta0, a, a0, record):  # type: ignore[no-untyped-def]
    """Add the derivative in the weights to `a`, from the cotangents `lam` of the registers.

    Parameters
    ----------
    r, d, b : array
        Registers and derivatives of the tile, which begin at `r0`.
    lam : array, shape (rows * TILE,)
        The seed in the output register, zero elsewhere; overwritten.
    delta : array
        Receives ``delta``, from `delta0`.
    record : bool
        Whether to turn ``b`` into ``bend``.
    """
    for s in range(len(stages) - 1, -1, -1):
        stage = stages[s]
        begin, size = stage[OUT] * TILE, stage[ROWS] * TILE
        cotangent, slope = lam[begin : begin + size], d[r0 + begin : r0 + begin + size]
        product = delta[delta0 + begin : delta0 + begin + size]
        for k in range(size):
            product[k] = slope[k] * cotangent[k]
        if record:
            curved = b[r0 + begin : r0 + begin + size]
            for k in range(size):
                curved[k] *= cotangent[k]
        add_outer(
            a,
            a0 + stage[MATRIX],
            delta,
            delta0 + begin,
            stage[ROWS],
            r,
            r0 + stage[IN] * TILE,
            stage[COLUMNS],
        )
        _add_row_sums(a, a0 + stage[BIAS] if stage[BIAS] >= 0 else -1, product)
        _pull_back(stage, carry, factors, w, lam, delta, delta0, stage[INNER])


@njit(**OPTIONS)
def second_reverse(  # type: ignore[no-untyped-def]
    stages, carry, factors, w, v, v0, r, r0, d, delta, rdot, rdot0, q, mu, work, a, a0
):
    """Add the derivative of the derivative along `v` to `a`; ``mu`` is the derivative of the cotangents.

    `r`, `d` and `delta` begin at `r0`, `rdot` and `q` at `rdot0`; `mu` holds the seed in the output register
    and zero elsewhere; `work` has its size.
    """
    for s in range(len(stages) - 1, -1, -1):
        stage = stages[s]
        rows, columns, size = stage[ROWS], stage[COLUMNS], stage[ROWS] * TILE
        source, begin = stage[IN] * TILE, stage[OUT] * TILE
        cotangent, slope = mu[begin : begin + size], d[r0 + begin : r0 + begin + size]
        curved, product = q[rdot0 + begin : rdot0 + begin + size], work[begin : begin + size]
        for k in range(size):
            product[k] = slope[k] * cotangent[k] + curved[k]
        add_outer(a, a0 + stage[MATRIX], work, begin, rows, r, r0 + source, columns)
        _add_row_sums(a, a0 + stage[BIAS] if stage[BIAS] >= 0 else -1, product)
        if stage[INNER]:
            add_outer(a, a0 + stage[MATRIX], delta, r0 + begin, rows, rdot, rdot0 + source, columns)
            add_product(mu, source, columns, delta, r0 + begin, rows, v, v0 + stage[MATRIX], 1, columns)
        _pull_back(stage, carry, factors, w, mu, work, 0, stage[INNER])


@njit(**OPTIONS)
def _write(target, begin, x, y, count, add):  # type: ignore[no-untyped-def]
    """Write ``x y``, or add it, to the entries of `target` from `begin`."""
    row = target[begin : begin + count]
    if add:
        for s in range(count):
            row[s] += x[s] * y[s]
    else:
        for s in range(count):
            row[s] = x[s] * y[s]


@njit(**OPTIONS)
def write_rows(  # type: ignore[no-untyped-def]
    stages,
    carry,
    factors,
    w,
    r,
    r0,
    d,
    lam,
    delta,
    needs,
    first,
    position,
    target,
    begin,
    stride,
    count,
    add,
    ones,
):
    """Write the derivative of one residual in each weight, one row of samples per weight.

    Parameters
    ----------
    lam : array, shape (rows * TILE,)
        The seed in the output register, zero elsewhere; overwritten.
    needs, first, position
        See `dnnfem.kernels.compiled.tables.Selection`.
    target : array
        Row ``p`` begins at ``begin + p * stride`` and receives `count` samples.
    add : bool
        Whether to add, as stages that share weights require.
    ones : array, shape (TILE,)
        What a bias is multiplied by.
    """
    for s in range(len(stages) - 1, first - 1, -1):
        stage = stages[s]
        rows, columns = stage[ROWS], stage[COLUMNS]
        out, size = stage[OUT] * TILE, stage[ROWS] * TILE
        cotangent, slope = lam[out : out + size], d[r0 + out : r0 + out + size]
        product = delta[out : out + size]
        for k in range(size):
            product[k] = slope[k] * cotangent[k]
        if needs[s, 0]:
            for o in range(rows):
                x = product[o * TILE : (o + 1) * TILE]
                for i in range(columns):
                    p = position[stage[MATRIX] + o * columns + i]
                    if p >= 0:
                        source = r0 + (stage[IN] + i) * TILE
                        _write(target, begin + p * stride, x, r[source : source + TILE], count, add)
                if stage[BIAS] >= 0:
                    p = position[stage[BIAS] + o]
                    if p >= 0:
                        _write(target, begin + p * stride, x, ones, count, add)
        _pull_back(stage, carry, factors, w, lam, delta, 0, needs[s, 1])


@njit(**OPTIONS)
def gather(buffer, start, index, factor, target, begin, stride, count):  # type: ignore[no-untyped-def]
    """Apply the map `start`, `index`, `factor` (CSR) to the rows of `buffer`; write as `write_rows`."""
    for p in range(len(start) - 1):
        row = target[begin + p * stride : begin + p * stride + count]
        for s in range(count):
            row[s] = 0.0
        for e in range(start[p], start[p + 1]):
            other = index[e] * TILE
            _add_scaled(row, factor[e], buffer[other : other + count])
