"""Loops over tiles, in parallel.

Tiles are dealt out to groups, tile t to group ``t mod groups``; a group is a task of its own with its own
sums, which it adds up in the order of its tiles.  The number of groups does not depend on that of threads,
and neither does any sum.  A driver works on the tiles ``first, ..., last - 1`` alone: going on later with the
sums of the same groups gives the same bits as one call for all tiles.

`slots` says where the blocks of a tile are: if true, at its place among the tiles of the call; if not,
nothing is kept and every group has one place.  Parallel loops contain one call and nothing else, which keeps
their compilation short.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import get_num_threads, njit, prange, set_num_threads

from dnnfem.kernels.compiled import sweeps
from dnnfem.kernels.compiled.tables import INTERNAL, TILE

SMALL = 2**22
"""Products of samples and weights up to which one thread does a sweep (about a millisecond): threads that wait for the
next sweep keep the cores from the linear algebra in between, which costs more than they gain."""


@contextmanager
def threads(work: int) -> Iterator[None]:
    """Let one thread do what is small; sums do not depend on it."""
    present = get_num_threads()
    if work > SMALL or present == 1:
        yield
        return
    set_num_threads(1)
    try:
        yield
    finally:
        set_num_threads(present)


PARALLEL: dict[str, Any] = {
    "cache": True,
    "error_model": "numpy",
    # The loops over groups are all that is parallel; not to look for anything else saves time.
    "parallel": {
        name: name == "prange"
        for name in (
            "prange",
            "fusion",
            "numpy",
            "reduction",
            "setitem",
            "stencil",
            "comprehension",
            "inplace_binop",
        )
    },
}


@njit(**INTERNAL)
def _start(first, group, groups):  # type: ignore[no-untyped-def]
    """Return the first tile of `group` that is not before `first`."""
    return first + (group - first) % groups


@njit(**INTERNAL)
def _seed(lam, seeds, k, column):  # type: ignore[no-untyped-def]
    """Set the cotangents of the output register, the last one, to the seeds of a tile, others to zero."""
    begin = lam.size - seeds.shape[1] * TILE
    for s in range(begin):
        lam[s] = 0.0
    for o in range(seeds.shape[1]):
        for s in range(TILE):
            lam[begin + o * TILE + s] = seeds[k, o, column + s]


@njit(**INTERNAL)
def _output(r, end, out, k, column):  # type: ignore[no-untyped-def]
    """Copy the output register, which ends at `end`, to the columns of a tile."""
    begin = end - out.shape[1] * TILE
    for o in range(out.shape[1]):
        for s in range(TILE):
            out[k, o, column + s] = r[begin + o * TILE + s]


@njit(**INTERNAL)
def _forward(  # type: ignore[no-untyped-def]
    stages, scales, carry, factors, w, points, r, d, b, out, first, last, groups, rows, slots, group
):
    block = rows * TILE
    for tile in range(_start(first, group, groups), last, groups):
        begin = ((tile - first) if slots else group) * block
        for s in range(points.shape[1]):
            r[begin + s] = points[tile - first, s]
        sweeps.forward(stages, scales, carry, factors, w, r, begin, d, b, begin)
        _output(r, begin + block, out, 0, (tile - first) * TILE)


@njit(**PARALLEL)
def forward(stages, scales, carry, factors, w, points, r, d, b, out, first, last, groups, rows, slots):  # type: ignore[no-untyped-def]
    """Run the forward sweep; `points` (tiles, inputs * TILE), `out` (1, outputs, samples), of the tiles of the call."""
    for group in prange(groups):
        _forward(
            stages,
            scales,
            carry,
            factors,
            w,
            points,
            r,
            d,
            b,
            out,
            first,
            last,
            groups,
            rows,
            slots,
            np.int64(group),
        )


@njit(**INTERNAL)
def _tangent(  # type: ignore[no-untyped-def]
    stages, carry, factors, w, v, r, d, bend, rdot, q, out, first, last, groups, rows, inputs, slots, group
):
    block, count = rows * TILE, v.shape[0]
    flat = v.reshape(v.size)
    for tile in range(_start(first, group, groups), last, groups):
        begin = (tile - first) * block
        for k in range(count):
            place = (((tile - first) * count + k) if slots else group) * block
            for s in range(inputs * TILE):
                rdot[place + s] = 0.0
            sweeps.tangent(
                stages,
                carry,
                factors,
                w,
                flat,
                k * v.shape[1],
                r,
                begin,
                d,
                bend,
                rdot,
                place,
                q,
                place,
                slots,
            )
            _output(rdot, place + block, out, k, (tile - first) * TILE)


@njit(**PARALLEL)
def tangent(  # type: ignore[no-untyped-def]
    stages, scales, carry, factors, w, v, r, d, bend, rdot, q, out, first, last, groups, rows, inputs, slots
):
    """Run the tangent sweep for all directions `v` (k, weights); `out` (k, outputs, samples of the tiles).

    With `slots`, the derivatives of the registers and ``bend zdot`` are kept, tile by tile and direction by
    direction.
    """
    for group in prange(groups):
        _tangent(
            stages,
            carry,
            factors,
            w,
            v,
            r,
            d,
            bend,
            rdot,
            q,
            out,
            first,
            last,
            groups,
            rows,
            inputs,
            slots,
            np.int64(group),
        )


@njit(**INTERNAL)
def _reverse(stages, carry, factors, w, seeds, r, d, b, delta, a, first, last, groups, rows, record, group):  # type: ignore[no-untyped-def]
    block, count = rows * TILE, seeds.shape[0]
    flat = a.reshape(a.size)
    lam = np.empty(block)
    product = delta if record else np.empty(block)
    for tile in range(_start(first, group, groups), last, groups):
        begin = (tile - first) * block
        for k in range(count):
            _seed(lam, seeds, k, (tile - first) * TILE)
            place = (group * count + k) * a.shape[2]
            sweeps.reverse(
                stages,
                carry,
                factors,
                w,
                r,
                begin,
                d,
                b,
                lam,
                product,
                begin if record else 0,
                flat,
                place,
                record,
            )


@njit(**PARALLEL)
def reverse(stages, scales, carry, factors, w, seeds, r, d, b, delta, a, first, last, groups, rows, record):  # type: ignore[no-untyped-def]
    """Run the reverse sweep for all `seeds` (k, outputs, samples); add to `a` (groups, k, weights).

    With `record`, ``delta`` and ``bend`` (in the place of ``b``) are kept for products with second
    derivatives.
    """
    for group in prange(groups):
        _reverse(
            stages,
            carry,
            factors,
            w,
            seeds,
            r,
            d,
            b,
            delta,
            a,
            first,
            last,
            groups,
            rows,
            record,
            np.int64(group),
        )


@njit(**INTERNAL)
def _second_reverse(  # type: ignore[no-untyped-def]
    stages, carry, factors, w, v, seeds, r, d, delta, rdot, q, a, first, last, groups, rows, group
):
    block, count, size = rows * TILE, v.shape[0], v.shape[1]
    directions, flat = v.reshape(v.size), a.reshape(a.size)
    mu, work = np.empty(block), np.empty(block)
    for tile in range(_start(first, group, groups), last, groups):
        begin = (tile - first) * block
        for k in range(count):
            _seed(mu, seeds, k, (tile - first) * TILE)
            at, place = ((tile - first) * count + k) * block, (group * count + k) * size
            sweeps.second_reverse(
                stages,
                carry,
                factors,
                w,
                directions,
                k * size,
                r,
                begin,
                d,
                delta,
                rdot,
                at,
                q,
                mu,
                work,
                flat,
                place,
            )


@njit(**PARALLEL)
def second_reverse(  # type: ignore[no-untyped-def]
    stages, scales, carry, factors, w, v, seeds, r, d, delta, rdot, q, a, first, last, groups, rows
):
    """Run the second-order reverse sweep for directions `v` (k, weights); add to `a` (groups, k, weights)."""
    for group in prange(groups):
        _second_reverse(
            stages,
            carry,
            factors,
            w,
            v,
            seeds,
            r,
            d,
            delta,
            rdot,
            q,
            a,
            first,
            last,
            groups,
            rows,
            np.int64(group),
        )


@njit(**INTERNAL)
def _system(  # type: ignore[no-untyped-def]
    stages, carry, factors, w, seeds, r, d,
    needs, stop, position, direct, buffered, start, index, factor,
    matrix, samples, first, last, groups, rows, group,
):  # fmt: skip
    block = rows * TILE
    stride = seeds.shape[0] * samples
    lam, delta, ones = np.empty(block), np.empty(block), np.ones(TILE)
    buffer = np.empty(buffered * TILE)
    for tile in range(_start(first, group, groups), last, groups):
        count = min(TILE, samples - tile * TILE)
        at = (tile - first) * block
        for k in range(seeds.shape[0]):
            _seed(lam, seeds, k, (tile - first) * TILE)
            begin = k * samples + tile * TILE
            for s in range(buffer.size):
                buffer[s] = 0.0
            sweeps.write_rows(
                stages, carry, factors, w, r, at, d, lam, delta, needs, stop, position,
                matrix if direct else buffer, begin if direct else 0, stride if direct else TILE,
                count if direct else TILE, not direct, ones,
            )  # fmt: skip
            if not direct:
                sweeps.gather(buffer, start, index, factor, matrix, begin, stride, count)


@njit(**PARALLEL)
def system(  # type: ignore[no-untyped-def]
    stages, scales, carry, factors, w, seeds, r, d,
    needs, stop, position, direct, buffered, start, index, factor,
    matrix, samples, first, last, groups, rows,
):  # fmt: skip
    """Write the derivatives of all residuals in the chosen coefficients.

    Parameters
    ----------
    seeds : array, shape (k, outputs, samples of the tiles)
        One per residual.
    needs, stop, position, direct, buffered, start, index, factor
        See `dnnfem.kernels.compiled.tables.Selection`.
    matrix : array, shape (columns * k * samples,)
        The transposed system, residuals slower than samples.
    samples : int
        Number of samples without padding.
    """
    for group in prange(groups):
        _system(
            stages, carry, factors, w, seeds, r, d,
            needs, stop, position, direct, buffered, start, index, factor,
            matrix, samples, first, last, groups, rows, np.int64(group),
        )  # fmt: skip
