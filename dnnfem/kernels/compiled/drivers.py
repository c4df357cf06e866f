"""Loops over tiles, in parallel.

Tiles are dealt out to groups, tile t to group ``t mod groups``; a group is a task of its own with its own sums, which
it adds up in the order of its tiles.  The number of groups does not depend on that of threads, and neither does any
sum.  A driver works on the tiles ``first, ..., last - 1`` alone: going on later with the sums of the same groups gives
the same bits as one call for all tiles.

Every thread has a row of `work`, which stays in its cache; how much it needs says `work_size`.  Parallel loops contain
one call and nothing else, which keeps their compilation short.  Arguments that several drivers take:

code
    The program.
w, v : array, shape (2, weights), (k, 2, weights)
    Weights and directions, see `packed`.
points : array, shape (tiles, inputs * tile)
    Input registers of the tiles of the call.
kept, lam : array
    What `dnnfem.kernels.compiled.sweeps.forward` keeps of a tile, and the cotangents of its registers, tile by tile.
seeds : array, shape (k, outputs, samples of the tiles)
    Cotangents of the outputs.
sums : array, shape (groups, k, sums)
    Panels that derivatives in the weights are added to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import get_num_threads, get_thread_id, njit, prange, set_num_threads

from dnnfem.kernels.compiled import products, sweeps
from dnnfem.kernels.compiled.tables import (
    BIAS,
    BLOCKS,
    COLUMNS,
    INTERNAL,
    KEPT,
    MATRIX,
    OPEN,
    OUT,
    READY,
    ROWS,
    SINGLES,
    SUMS,
    WIDTH,
    Code,
)
from dnnfem.records import Array

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


def work_size(code: Code) -> int:
    """Return how many numbers a thread works on: registers of a tile, and work for single registers besides."""
    widest = int(code.stages[:, (ROWS, COLUMNS)].max())
    return code.tile * (BLOCKS * code.rows + SINGLES * WIDTH * -(-widest // WIDTH))


@njit(**INTERNAL)
def _block(work, code, number):  # type: ignore[no-untyped-def]
    """Return a block of registers of the work of a thread."""
    size = code.rows * code.tile
    return work[number * size : (number + 1) * size]


@njit(**INTERNAL)
def _single(work, code, number):  # type: ignore[no-untyped-def]
    """Return a block for a single register, or its panels."""
    begin = BLOCKS * code.rows * code.tile
    size = (work.size - begin) // SINGLES
    return work[begin + number * size : begin + (number + 1) * size]


@njit(**INTERNAL)
def _start(first, group, groups):  # type: ignore[no-untyped-def]
    """Return the first tile of `group` that is not before `first`."""
    return first + (group - first) % groups


@njit(**INTERNAL)
def _seed(code, lam, l0, seeds, k, column):  # type: ignore[no-untyped-def]
    """Set the cotangents of the output register, the last one, to the seeds of a tile."""
    sweeps.seed(code, lam, l0)
    tile = code.tile
    begin = l0 + (code.rows - seeds.shape[1]) * tile
    for o in range(seeds.shape[1]):
        for s in range(tile):
            lam[begin + o * tile + s] = seeds[k, o, column + s]


@njit(**INTERNAL)
def _bend(code, lam, rdot, law, column):  # type: ignore[no-untyped-def]
    """Set the cotangents of the output register to the second derivative of the law along `rdot`."""
    sweeps.seed(code, lam, 0)
    outputs, tile = len(law), code.tile
    begin = (code.rows - outputs) * tile
    for o in range(outputs):
        row = lam[begin + o * tile : begin + (o + 1) * tile]
        for i in range(outputs):
            direction, matrix = rdot[begin + i * tile : begin + (i + 1) * tile], law[o, i, column : column + tile]
            if i == 0:
                for s in range(tile):
                    row[s] = matrix[s] * direction[s]
            else:
                for s in range(tile):
                    row[s] += matrix[s] * direction[s]


@njit(**INTERNAL)
def _output(r, begin, out, k, column, tile):  # type: ignore[no-untyped-def]
    """Copy the output register, which begins at `begin`, to the columns of a tile."""
    for o in range(out.shape[1]):
        for s in range(tile):
            out[k, o, column + s] = r[begin + o * tile + s]


@njit(**INTERNAL)
def _forward(code, w, points, kept, work, first, last, groups, out, keep, group):  # type: ignore[no-untyped-def]
    tile, size = code.tile, code.kept * code.tile
    r, d, b = _block(work, code, 0), _single(work, code, 0), _single(work, code, 1)
    # Three blocks have room for what is kept, whatever the activations are.
    target = kept if keep else work[r.size :]
    for t in range(_start(first, group, groups), last, groups):
        r[: points.shape[1]] = points[t - first]
        k0 = (t - first) * size if keep else 0
        sweeps.forward(code, w[0], r, target, k0, d, b)
        begin = k0 + size - (out.shape[1] * tile) * (3 if code.stages[-1, OPEN] else 1)
        source, begin = (target, begin) if code.stages[-1, READY] else (r, r.size - out.shape[1] * tile)
        _output(source, begin, out, 0, (t - first) * tile, tile)


@njit(**PARALLEL)
def forward(code, w, points, kept, work, first, last, groups, out, keep):  # type: ignore[no-untyped-def]
    """Run the forward sweep, and keep it if `keep`; `out` (1, outputs, samples of the tiles)."""
    for group in prange(groups):
        _forward(code, w, points, kept, work[get_thread_id()], first, last, groups, out, keep, np.int64(group))


@njit(**INTERNAL)
def _registers(code, points, kept, k0, r):  # type: ignore[no-untyped-def]
    """Compute the registers of a tile that are not kept themselves."""
    r[: points.size] = points
    sweeps.registers(code, kept, k0, r)


@njit(**INTERNAL)
def _all_registers(code, points, kept, first, last, groups, out, group):  # type: ignore[no-untyped-def]
    size, tile = code.kept * code.tile, code.tile
    for t in range(_start(first, group, groups), last, groups):
        k0, r = (t - first) * size, out[t - first].reshape(code.rows * tile)
        _registers(code, points[t - first], kept, k0, r)
        for s in range(len(code.stages)):
            if code.stages[s, READY]:
                begin, length, at = code.stages[s, OUT] * tile, code.stages[s, ROWS] * tile, code.stages[s, KEPT] * tile
                r[begin : begin + length] = kept[k0 + at : k0 + at + length]


@njit(**PARALLEL)
def registers(code, w, points, kept, work, first, last, groups, out):  # type: ignore[no-untyped-def]
    """Compute all registers, `out` (tiles, rows, tile)."""
    for group in prange(groups):
        _all_registers(code, points, kept, first, last, groups, out, np.int64(group))


@njit(**INTERNAL)
def _reverse(code, w, points, kept, work, first, last, groups, lam, seeds, sums, record, group):  # type: ignore[no-untyped-def]
    tile, size, block = code.tile, code.kept * code.tile, code.rows * code.tile
    flat, count = sums.reshape(sums.size), len(seeds)
    r, mu = _block(work, code, 0), _block(work, code, 3)
    d, b, m, panel = (_single(work, code, 0), _single(work, code, 1), _single(work, code, 2), _single(work, code, 4))
    for t in range(_start(first, group, groups), last, groups):
        k0 = (t - first) * size
        _registers(code, points[t - first], kept, k0, r)
        for k in range(count):
            target, begin = (lam, (t - first) * block) if record else (mu, 0)
            _seed(code, target, begin, seeds, k, (t - first) * tile)
            sweeps.reverse(
                code, w[1], r, kept, k0, target, begin, flat, (group * count + k) * code.sums,
                w[1], mu, mu, mu, 0, d, b, m, m, panel, panel, False,
            )  # fmt: skip


@njit(**PARALLEL)
def reverse(code, w, points, kept, work, first, last, groups, lam, seeds, sums, record):  # type: ignore[no-untyped-def]
    """Run the reverse sweep for all `seeds`; with `record`, for a single one, the cotangents are left in `lam`."""
    for group in prange(groups):
        _reverse(
            code, w, points, kept, work[get_thread_id()], first, last, groups,
            lam, seeds, sums, record, np.int64(group),
        )  # fmt: skip


@njit(**INTERNAL)
def _tangent(code, w, points, kept, work, first, last, groups, v, out, group):  # type: ignore[no-untyped-def]
    tile, size = code.tile, code.kept * code.tile
    r, rdot, q = _block(work, code, 0), _block(work, code, 1), _block(work, code, 2)
    d, b = _single(work, code, 0), _single(work, code, 1)
    for t in range(_start(first, group, groups), last, groups):
        k0 = (t - first) * size
        _registers(code, points[t - first], kept, k0, r)
        for k in range(len(v)):
            sweeps.tangent(code, w[0], v[k, 0], r, kept, k0, kept, 0, rdot, q, d, b, False)
            _output(rdot, rdot.size - out.shape[1] * tile, out, k, (t - first) * tile, tile)


@njit(**PARALLEL)
def tangent(code, w, points, kept, work, first, last, groups, v, out):  # type: ignore[no-untyped-def]
    """Differentiate the outputs along all directions `v`; `out` (k, outputs, samples of the tiles)."""
    for group in prange(groups):
        _tangent(code, w, points, kept, work[get_thread_id()], first, last, groups, v, out, np.int64(group))


@njit(**INTERNAL)
def _second(  # type: ignore[no-untyped-def]
    code, w, points, kept, work, first, last, groups, lam, v, law, seeds, sums, exact, group
):  # fmt: skip
    tile, size, block = code.tile, code.kept * code.tile, code.rows * code.tile
    flat, count = sums.reshape(sums.size), len(v)
    r, rdot, q, mu = _block(work, code, 0), _block(work, code, 1), _block(work, code, 2), _block(work, code, 3)
    d, b, m = _single(work, code, 0), _single(work, code, 1), _single(work, code, 2)
    delta, panel, second = _single(work, code, 3), _single(work, code, 4), _single(work, code, 5)
    for t in range(_start(first, group, groups), last, groups):
        k0, l0 = (t - first) * size, (t - first) * block
        _registers(code, points[t - first], kept, k0, r)
        for k in range(count):
            sweeps.tangent(code, w[0], v[k, 0], r, kept, k0, lam, l0, rdot, q, d, b, exact)
            if len(seeds) > 0:
                _seed(code, mu, 0, seeds, k, (t - first) * tile)
            else:
                _bend(code, mu, rdot, law, (t - first) * tile)
            sweeps.reverse(
                code, w[1], r, kept, k0, mu, 0, flat, (group * count + k) * code.sums,
                v[k, 1], rdot, q, lam, l0, d, b, m, delta, panel, second, exact,
            )  # fmt: skip


@njit(**PARALLEL)
def second(code, w, points, kept, work, first, last, groups, lam, v, law, seeds, sums, exact):  # type: ignore[no-untyped-def]
    """Run tangent and reverse sweep for directions `v`: products with second derivatives.

    Parameters
    ----------
    law : array, shape (outputs, outputs, samples of the tiles)
        Second derivatives in the outputs; not read if there are `seeds`.
    exact : bool
        If not, the network is taken as linear: products with the curvature.  `lam` is not read then.
    """
    for group in prange(groups):
        _second(
            code, w, points, kept, work[get_thread_id()], first, last, groups,
            lam, v, law, seeds, sums, exact, np.int64(group),
        )  # fmt: skip


@njit(cache=True, error_model="numpy")
def _pack(stages, weights, packed):  # type: ignore[no-untyped-def]
    for k in range(len(weights)):
        for s in range(len(stages)):
            stage = stages[s]
            rows, columns = stage[ROWS], stage[COLUMNS]
            products.pack(weights[k], stage[MATRIX], rows, columns, packed[k, 0], packed[k, 1])
            if stage[BIAS] >= 0:
                for o in range(rows):
                    packed[k, 0, stage[BIAS] + o] = weights[k, stage[BIAS] + o]


def packed(code: Code, weights: Array) -> Array:
    """Return weights (k, weights) in the order in which forward and reverse sweeps read them, (k, 2, weights)."""
    result = np.empty((len(weights), 2, weights.shape[1]))
    _pack(code.stages, np.ascontiguousarray(weights), result)
    return result


@njit(**INTERNAL)
def _collect(stages, sums, out):  # type: ignore[no-untyped-def]
    for k in range(sums.shape[1]):
        for group in range(1, len(sums)):
            for n in range(sums.shape[2]):
                sums[0, k, n] += sums[group, k, n]
        for s in range(len(stages)):
            stage = stages[s]
            rows, columns, begin = stage[ROWS], stage[COLUMNS], stage[SUMS]
            for i in range(0, columns, WIDTH):
                for o in range(rows):
                    for j in range(min(WIDTH, columns - i)):
                        out[k, stage[MATRIX] + o * columns + i + j] += sums[0, k, begin + o * WIDTH + j]
                begin += rows * WIDTH
            if stage[BIAS] >= 0:
                for o in range(rows):
                    out[k, stage[BIAS] + o] += sums[0, k, begin + o]


@njit(cache=True, error_model="numpy")
def collect(stages, sums, out):  # type: ignore[no-untyped-def]
    """Add up the groups in their order, and their panels to `out` (k, weights)."""
    _collect(stages, sums, out)


@njit(cache=True, error_model="numpy")
def mirror(matrix):  # type: ignore[no-untyped-def]
    """Copy what is below the diagonal of a matrix above it, square by square, so that lines stay in the cache."""
    size, step = len(matrix), 32
    for first in range(0, size, step):
        for second in range(0, first + 1, step):
            for i in range(first, min(first + step, size)):
                for j in range(second, min(second + step, i)):
                    matrix[j, i] = matrix[i, j]


@njit(**INTERNAL)
def _system(  # type: ignore[no-untyped-def]
    code, w, points, kept, work, first, last, groups, seeds,
    needs, stop, position, direct, buffered, start, index, factor, matrix, samples, group,
):  # fmt: skip
    tile, size = code.tile, code.kept * code.tile
    stride = seeds.shape[0] * samples
    r, lam = _block(work, code, 0), _block(work, code, 3)
    d, b, delta = _single(work, code, 0), _single(work, code, 1), _single(work, code, 3)
    buffer, ones = np.empty(buffered * tile), np.ones(tile)
    for t in range(_start(first, group, groups), last, groups):
        count, k0 = min(tile, samples - t * tile), (t - first) * size
        _registers(code, points[t - first], kept, k0, r)
        for k in range(seeds.shape[0]):
            _seed(code, lam, 0, seeds, k, (t - first) * tile)
            begin = k * samples + t * tile
            buffer[:] = 0.0
            sweeps.write_rows(
                code, w[1], r, kept, k0, lam, d, b, delta, needs, stop, position,
                matrix if direct else buffer, begin if direct else 0, stride if direct else tile,
                count if direct else tile, not direct, ones,
            )  # fmt: skip
            if not direct:
                sweeps.gather(tile, buffer, start, index, factor, matrix, begin, stride, count)


@njit(**PARALLEL)
def system(  # type: ignore[no-untyped-def]
    code, w, points, kept, work, first, last, groups, seeds,
    needs, stop, position, direct, buffered, start, index, factor, matrix, samples,
):  # fmt: skip
    """Write the derivatives of all residuals in the chosen coefficients.

    Parameters
    ----------
    seeds
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
            code, w, points, kept, work[get_thread_id()], first, last, groups, seeds,
            needs, stop, position, direct, buffered, start, index, factor, matrix, samples, np.int64(group),
        )  # fmt: skip
