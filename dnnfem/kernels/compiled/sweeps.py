"""What one tile goes through: forward, tangent and reverse sweep, rows of a system.

Every function works on one tile and one direction.  Blocks of all registers of a tile, (rows, tile), begin at an offset
in flat arrays; `code` is a `dnnfem.kernels.compiled.tables.Code`; `w` are the weights and `v` a direction, packed for
the sweep, see `dnnfem.kernels.compiled.drivers.packed`.  In the notation of the documentation, with the registers `r`,
the arguments z and the cotangents lambda,

    d = h sigma'(z),    delta = d lambda.

What is `kept` of a register, from `k0` on, says `dnnfem.kernels.compiled.elementary.activate`.

Where registers carry a jet, the affine maps act on one component after another, in blocks of all registers; the places
where components meet are in `dnnfem.kernels.compiled.pointwise`, and ``delta`` is the adjoint of the activation there.
"""

from __future__ import annotations

from typing import Any

from numba import int64, njit

from dnnfem.kernels.compiled.elementary import activate, opened
from dnnfem.kernels.compiled.pointwise import apply
from dnnfem.kernels.compiled.products import add_outers, add_products, row_products, transpose
from dnnfem.kernels.compiled.tables import (
    ACTIVATION,
    BIAS,
    CARRY,
    CARRY_END,
    COLUMNS,
    FRESH,
    FRESH_END,
    IN,
    INNER,
    INTERNAL,
    KEPT,
    MATRIX,
    OPEN,
    OUT,
    READY,
    ROWS,
    SUMS,
    WIDTH,
)
from dnnfem.kernels.compiled.vectors import address, prefetch
from dnnfem.kernels.jets import ADJOINT, BEND, FORWARD, SECOND, TANGENT

OPTIONS: dict[str, Any] = {**INTERNAL, "fastmath": {"contract", "reassoc"}}
"""Sums may be reordered to fill vectors; this keeps NaN and infinity what they are."""


AHEAD = 6
"""Rows of a system that are asked for before they are written: the memory answers late."""


@njit(**OPTIONS)
def _fill(z, tile, w, begin):  # type: ignore[no-untyped-def]
    """Set row o of the block `z` to ``w[begin + o]``, or to zero if `begin` is negative."""
    for o in range(z.size // tile):
        value = w[begin + o] if begin >= 0 else 0.0
        row = z[o * tile : (o + 1) * tile]
        for s in range(tile):
            row[s] = value


@njit(**OPTIONS)
def copy(z, r):  # type: ignore[no-untyped-def]
    """Copy as many numbers as `z` has: an assignment would compile a message for shapes that do not fit."""
    for k in range(z.size):
        z[k] = r[k]


@njit(**OPTIONS)
def _add_scaled(z, factor, r):  # type: ignore[no-untyped-def]
    for k in range(z.size):
        z[k] += factor * r[k]


@njit(**OPTIONS)
def _add_row_sums(a, begin, m, tile):  # type: ignore[no-untyped-def]
    """Add the sums over the samples of `m` to ``a[begin:]``."""
    for o in range(m.size // tile):
        row = m[o * tile : (o + 1) * tile]
        total = 0.0
        for s in range(tile):
            total += row[s]
        a[begin + o] += total


@njit(**OPTIONS)
def _operand(code, c, first, size, kept, k0, r):  # type: ignore[no-untyped-def]
    """Return component c of the register that begins with row `first`: what is kept, or a part of `r`."""
    if code.places[first] >= 0:
        begin = k0 + code.places[first] * code.tile
        return kept[begin : begin + size]
    begin = (c * code.rows + first) * code.tile
    return r[begin : begin + size]


@njit(**OPTIONS)
def _register(code, s, kept, k0, r):  # type: ignore[no-untyped-def]
    """Compute the output register of stage `s` from what is kept, unless that is the register."""
    stage, tile = code.stages[s], code.tile
    if stage[READY]:
        return
    begin, size, stride, zero = stage[OUT] * tile, stage[ROWS] * tile, code.rows * tile, int64(0)
    apply(code, int64(FORWARD), s, kept, k0, r, r, zero, r, begin, stride)
    for c in range(code.components):
        y = r[c * stride + begin : c * stride + begin + size]
        for j in range(stage[CARRY], stage[CARRY_END]):
            _add_scaled(y, code.factors[j], _operand(code, c, code.carry[j], size, kept, k0, r))


@njit(**OPTIONS)
def _place(code, points, r):  # type: ignore[no-untyped-def]
    """Set the input register to the points of a tile: they are their own values, with the units as derivatives."""
    tile = code.tile
    copy(r[: points.size], points)
    for c in range(1, code.components):
        for i in range(code.inputs):
            begin = (c * code.rows + i) * tile
            r[begin : begin + tile] = 1.0 if code.axes[c] == i else 0.0


@njit(**OPTIONS)
def registers(code, points, kept, k0, r):  # type: ignore[no-untyped-def]
    """Compute the registers that are not kept themselves."""
    _place(code, points, r)
    for s in range(len(code.stages)):
        _register(code, s, kept, k0, r)


@njit(**OPTIONS)
def forward(code, w, points, r, kept, k0):  # type: ignore[no-untyped-def]
    """Compute all registers from the points of a tile, and what is kept of them from `k0` on."""
    tile, zero = code.tile, int64(0)
    _place(code, points, r)
    for s in range(len(code.stages)):
        stage = code.stages[s]
        rows, columns, size, at = stage[ROWS], stage[COLUMNS], stage[ROWS] * tile, k0 + stage[KEPT] * tile
        matrix, jets = stage[MATRIX], k0 + (code.kept - code.components * code.rows + stage[OUT]) * tile
        for c in range(code.components):
            begin = at if c == 0 else jets + c * code.rows * tile
            z, x = kept[begin : begin + size], _operand(code, c, stage[IN], columns * tile, kept, k0, r)
            _fill(z, tile, w, stage[BIAS] if c == 0 else -1)
            if code.flows[s, c, 0]:
                add_products(z, zero, rows, tile, w, matrix, x, zero, columns, w, matrix, x, zero, zero)
        z = kept[at : at + size]
        if stage[OPEN]:
            top = code.order + 2
            opened(stage[ACTIVATION], code.scales[s], z, kept[at + size : at + (top + 1) * size], size, top)
        else:
            # Of closed activations there is nothing to keep but the value.
            activate(stage[ACTIVATION], 1.0, z, z, z)
        _register(code, s, kept, k0, r)


@njit(**OPTIONS)
def tangent(code, w, v, r, kept, k0, lam, l0, rdot, q, exact):  # type: ignore[no-untyped-def]
    """Differentiate the registers along a direction `v` of weights.

    If `exact`, ``q`` receives the derivative of the adjoint of the activation at the cotangents `lam`, for values
    ``h sigma'' lambda zdot``.
    """
    tile, stride, zero = code.tile, code.rows * code.tile, int64(0)
    for s in range(len(code.stages)):
        stage = code.stages[s]
        rows, columns, size = stage[ROWS], stage[COLUMNS], stage[ROWS] * tile
        source, begin, matrix = stage[IN] * tile, stage[OUT] * tile, stage[MATRIX]
        for c in range(code.components):
            zdot = q[c * stride + begin : c * stride + begin + size]
            x = _operand(code, c, stage[IN], columns * tile, kept, k0, r)
            _fill(zdot, tile, v, stage[BIAS] if c == 0 else -1)
            place = c * stride + source
            if code.flows[s, c, 0]:
                add_products(zdot, zero, rows, tile, v, matrix, x, zero, columns, w, matrix, rdot, place, stage[INNER])
        apply(code, BEND if exact else TANGENT, s, kept, k0, q, lam, l0, rdot, begin, stride)
        for j in range(stage[CARRY], stage[CARRY_END]):
            # The derivative of the input register is zero, and not stored.
            if code.carry[j] > 0:
                _carry(code, rdot, zero, begin, code.carry[j] * tile, size, code.factors[j])


@njit(**OPTIONS)
def _carry(code, r, r0, target, source, size, factor):  # type: ignore[no-untyped-def]
    """Add a multiple of one register to another, for all components."""
    for c in range(code.components):
        at = r0 + c * code.rows * code.tile
        _add_scaled(r[at + target : at + target + size], factor, r[at + source : at + source + size])


@njit(**OPTIONS)
def _clear(code, lam, l0, begin, end):  # type: ignore[no-untyped-def]
    """Set the cotangents in some rows to zero, for all components."""
    for c in range(code.components):
        at = l0 + c * code.rows * code.tile
        lam[at + begin * code.tile : at + end * code.tile] = 0.0


@njit(**OPTIONS)
def seed(code, lam, l0):  # type: ignore[no-untyped-def]
    """Set the cotangents of registers that no stage reads to zero, the output among them."""
    if len(code.stages) > 0:
        for f in range(code.stages[-1, FRESH_END], len(code.fresh)):
            _clear(code, lam, l0, code.fresh[f, 0], code.fresh[f, 1])
        _clear(code, lam, l0, code.stages[-1, OUT], code.rows)


@njit(**OPTIONS)
def _pull_back(code, s, inner, w, lam, l0, m, v, delta, more):  # type: ignore[no-untyped-def]
    """Add ``W^T m``, and ``V^T delta`` if `more` is 1, to the cotangent of the input, if `inner`.

    The cotangent of the output is carried over.  Those that are met for the first time are set to zero before.
    """
    stage, tile = code.stages[s], code.tile
    for f in range(stage[FRESH], stage[FRESH_END]):
        _clear(code, lam, l0, code.fresh[f, 0], code.fresh[f, 1])
    if inner:
        rows, columns, matrix, step = stage[ROWS], stage[COLUMNS], stage[MATRIX], m.size // code.components
        for c in range(code.components):
            place, at = l0 + (c * code.rows + stage[IN]) * tile, c * step
            if code.flows[s, c, 1]:
                add_products(lam, place, columns, tile, w, matrix, m, at, rows, v, matrix, delta, at, more)
    for j in range(stage[CARRY], stage[CARRY_END]):
        _carry(code, lam, l0, code.carry[j] * tile, stage[OUT] * tile, stage[ROWS] * tile, code.factors[j])


@njit(**OPTIONS)
def reverse(  # type: ignore[no-untyped-def]
    code, w, r, kept, k0, mu, m0, a, a0, v, rdot, q, lam, l0, m, delta, panel, second, exact
):  # fmt: skip
    """Add the derivative in the weights to the panels of `a`, from the cotangents of the registers.

    Parameters
    ----------
    a : array
        If it is empty nothing is added up.
    mu : array
        From `m0` on the seed in the output register, after `seed`; overwritten by all cotangents.
    v, rdot, q, lam : array
        If `exact`, ``mu`` are the derivatives of the cotangents ``lam``, which begin at `l0`, along the direction `v`;
        ``rdot`` and ``q`` are what `tangent` left.
    m, delta, panel, second : array
        Work for single registers; components have equal shares of it.
    """
    tile, stride, step, zero = code.tile, code.rows * code.tile, m.size // code.components, int64(0)
    for s in range(len(code.stages) - 1, -1, -1):
        stage = code.stages[s]
        rows, columns, size = stage[ROWS], stage[COLUMNS], stage[ROWS] * tile
        source, more = stage[IN] * tile, stage[INNER] if exact else 0
        apply(code, SECOND if exact else ADJOINT, s, kept, k0, q, mu, m0, m, zero, step)
        if more:
            apply(code, int64(ADJOINT), s, kept, k0, q, lam, l0, delta, zero, step)
        sums = a0 + stage[SUMS]
        for c in range(code.components):
            if a.size > 0 and code.flows[s, c, 0] and code.flows[s, c, 1]:
                transpose(_operand(code, c, stage[IN], columns * tile, kept, k0, r), zero, columns, tile, panel, zero)
                if more:
                    transpose(rdot, c * stride + source, columns, tile, second, zero)
                add_outers(a, sums, rows, columns, tile, m, c * step, panel, zero, delta, c * step, second, zero, more)
        if a.size > 0 and stage[BIAS] >= 0:
            _add_row_sums(a, sums + rows * WIDTH * (-(-columns // WIDTH)), m[:size], tile)
        _pull_back(code, s, stage[INNER], w, mu, m0, m, v, delta, more)


@njit(**OPTIONS)
def adjoints(code, w, kept, k0, lam, delta, out):  # type: ignore[no-untyped-def]
    """Write the cotangents of the arguments of all stages to `out`, a block of all registers, where outputs are.

    Components that cannot differ from zero are not written.  See `write_rows` for `lam` and `delta`.
    """
    tile, step, zero = code.tile, delta.size // code.components, int64(0)
    for s in range(len(code.stages) - 1, -1, -1):
        stage = code.stages[s]
        apply(code, int64(ADJOINT), s, kept, k0, lam, lam, zero, delta, zero, step)
        for c in range(code.components):
            if code.flows[s, c, 1]:
                begin, size = (c * code.rows + stage[OUT]) * tile, stage[ROWS] * tile
                copy(out[begin : begin + size], delta[c * step :])
        _pull_back(code, s, stage[INNER], w, lam, zero, delta, w, delta, zero)


@njit(**OPTIONS)
def _copy(row, target, begin, count, add):  # type: ignore[no-untyped-def]
    """Copy the first entries of a row to those of `target` from `begin`, or add them."""
    for s in range(count):
        target[begin + s] = (target[begin + s] if add else 0.0) + row[s]


@njit(**OPTIONS)
def write_rows(  # type: ignore[no-untyped-def]
    code, w, r, kept, k0, lam, delta, spare, needs, first, position, target, begin, stride, count, add, ones
):  # fmt: skip
    """Write the derivative of one residual in each weight, one row of samples per weight.

    Parameters
    ----------
    lam : array, shape (components * rows * tile,)
        The seed in the output register, after `seed`; overwritten.
    delta, spare : array
        Work for single registers.
    needs, first, position
        See `dnnfem.kernels.compiled.tables.Selection`.
    target : array
        Row ``p`` begins at ``begin + p * stride`` and receives `count` samples.
    add : bool
        Whether to add, as stages that share weights require.
    ones : array, shape (tile,)
        What a bias is multiplied by.
    """
    tile, step, distance, zero = code.tile, delta.size // code.components, code.rows * code.tile, int64(0)
    width = 8 * (code.components + 1)
    inputs = address(code.terms, len(code.stages) * (code.components + 1))
    bias = inputs + code.inputs * width
    for s in range(len(code.stages) - 1, first - 1, -1):
        stage = code.stages[s]
        rows, columns, own = stage[ROWS], stage[COLUMNS], address(code.terms, 0) + s * width
        apply(code, int64(ADJOINT), s, kept, k0, lam, lam, zero, delta, zero, step)
        if needs[s, 0]:
            # Only values are ever kept as registers.
            ready = code.places[stage[IN]]
            source = address(r, stage[IN] * tile) if ready < 0 else address(kept, k0 + ready * tile)
            for o in range(rows):
                x = address(delta, o * tile)
                for i in range(columns):
                    p = position[stage[MATRIX] + o * columns + i]
                    if p >= 0:
                        place, terms = begin + p * stride, own if stage[INNER] else inputs + i * width
                        prefetch(address(target, place) + 8 * AHEAD * stride, tile // 8)
                        row = address(target, place) if count == tile else address(spare, 0)
                        y = source + 8 * i * tile
                        row_products(row, tile, terms, x, step, y, distance, add and count == tile)
                        if count < tile:
                            _copy(spare, target, place, count, add)
                if stage[BIAS] >= 0:
                    p = position[stage[BIAS] + o]
                    if p >= 0:
                        place = begin + p * stride
                        row = address(target, place) if count == tile else address(spare, 0)
                        row_products(row, tile, bias, x, step, address(ones, 0), zero, add and count == tile)
                        if count < tile:
                            _copy(spare, target, place, count, add)
        _pull_back(code, s, needs[s, 1], w, lam, zero, delta, w, delta, zero)


@njit(**OPTIONS)
def gather(tile, buffer, start, index, factor, target, begin, stride, count):  # type: ignore[no-untyped-def]
    """Apply the map `start`, `index`, `factor` (CSR) to the rows of `buffer`; write as `write_rows`."""
    for p in range(len(start) - 1):
        row = target[begin + p * stride : begin + p * stride + count]
        for s in range(count):
            row[s] = 0.0
        for e in range(start[p], start[p + 1]):
            other = index[e] * tile
            _add_scaled(row, factor[e], buffer[other : other + count])
