"""Loops over tiles, in parallel.

Tiles are dealt out to groups, tile t to group ``t mod groups``; a group is a task of its own with its own sums, which
it adds up in the order of its tiles.  The number of groups does not depend on that of threads, and neither does any
sum.  A driver works on the tiles ``first, ..., last - 1`` alone: going on later with the sums of the same groups gives
the same bits as one call for all tiles.

A driver is a compiled loop that leaves the interpreter to others; `run` calls it in several threads, each of which does
some of the groups and has work of its own that stays in its cache.  A literal among the arguments of a compiled
function would be compiled for itself, so zeros are written as `int64(0)`.  Arguments that drivers take:

code
    The program.
w, v : array, shape (2, weights), (k, 2, weights)
    Weights and directions, see `packed`.
points : array, shape (tiles, inputs * tile)
    Input registers of the tiles of the call.
kept, lam : array
    What `dnnfem.kernels.compiled.sweeps.forward` keeps of a tile, and the cotangents of its registers, tile by tile.
seeds : array, shape (k, reads * outputs, samples of the tiles)
    Cotangents of the components that the law reads.
sums : array, shape (groups, k, sums)
    Panels that derivatives in the weights are added to.
work : array
    What a thread works on, `Code.work` numbers.
part, parts : int
    The thread does the groups ``part, part + parts, ...``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba import int64, njit

from dnnfem.kernels.compiled import products, sweeps
from dnnfem.kernels.compiled.tables import (
    BIAS,
    BLOCKS,
    COLUMNS,
    INTERNAL,
    KEPT,
    MATRIX,
    OUT,
    READY,
    ROWS,
    SINGLES,
    SUMS,
    WIDTH,
    Code,
)
from dnnfem.records import Array

SMALL = 2**20
"""Products of samples and weights up to which one thread does a sweep (about a third of a millisecond): handing some of
it to others takes a third of that."""

DERIVATIVE, RECORD, TANGENT, CURVATURE, HESSIAN = range(5)
"""What `differentiate` computes."""

DRIVER: dict[str, Any] = {"cache": True, "error_model": "numpy", "nogil": True}


@lru_cache(maxsize=1)
def _others() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(numba.config.NUMBA_NUM_THREADS - 1, 1), "dnnfem")


# Threads do not survive a fork.
os.register_at_fork(after_in_child=_others.cache_clear)


def threads(work: int, groups: int) -> int:
    """Return how many threads should do the groups of a sweep with `work` products; sums do not depend on it."""
    return 1 if work <= SMALL else max(1, min(numba.get_num_threads(), groups))


def run(
    driver: Callable[..., None],
    code: Code,
    w: Array,
    points: Array,
    kept: Array,
    work: Array,
    tiles: tuple[int, int, int],
    *arguments: object,
) -> None:
    """Call a driver in as many threads as `work` has rows, with (first, last, groups) and what only it takes."""
    parts = len(work)

    def part(number: int) -> None:
        driver(code, w, points, kept, work[number], *tiles, number, parts, *arguments)

    others = [_others().submit(part, number) for number in range(1, parts)]
    try:
        part(0)
    finally:
        # What they write to must not be used for anything else before, even if this thread was interrupted.
        if others:
            wait(others)
    for other in others:
        other.result()


@njit(**INTERNAL)
def _block(work, size, number):  # type: ignore[no-untyped-def]
    """Return a block of `size` numbers of the work of a thread: all registers of a tile."""
    return work[number * size : (number + 1) * size]


@njit(**INTERNAL)
def _single(work, size, number):  # type: ignore[no-untyped-def]
    """Return a block for a single register, or its panels, behind the `BLOCKS` of `size` numbers."""
    length = (work.size - BLOCKS * size) // SINGLES
    begin = BLOCKS * size + number * length
    return work[begin : begin + length]


@njit(**INTERNAL)
def _place(code, count, n):  # type: ignore[no-untyped-def]
    """Return where number n of `count` outputs begins among the registers of a tile, one component after another."""
    outputs = count // len(code.reads)
    return (code.reads[n // outputs] * code.rows + code.rows - outputs + n % outputs) * code.tile


@njit(**INTERNAL)
def _start(first, group, groups):  # type: ignore[no-untyped-def]
    """Return the first tile of `group` that is not before `first`."""
    return first + (group - first) % groups


@njit(**INTERNAL)
def _seed(code, lam, l0, seeds, k, column):  # type: ignore[no-untyped-def]
    """Set the cotangents of the output register, the last one, to the seeds of a tile."""
    sweeps.seed(code, lam, l0)
    tile, count = code.tile, seeds.shape[1]
    for n in range(count):
        # Added: a law may read the same component twice.
        begin = l0 + _place(code, count, n)
        for s in range(tile):
            lam[begin + s] += seeds[k, n, column + s]


@njit(**INTERNAL)
def _bend(code, lam, rdot, law, column):  # type: ignore[no-untyped-def]
    """Set the cotangents of the output register to the second derivative of the law along `rdot`."""
    sweeps.seed(code, lam, int64(0))
    count, tile = len(law), code.tile
    for n in range(count):
        begin = _place(code, count, n)
        row = lam[begin : begin + tile]
        for i in range(count):
            other = _place(code, count, i)
            direction, matrix = rdot[other : other + tile], law[n, i, column : column + tile]
            for s in range(tile):
                row[s] += matrix[s] * direction[s]


@njit(**INTERNAL)
def _output(code, r, out, k, column):  # type: ignore[no-untyped-def]
    """Copy what is read of the output register to the columns of a tile."""
    count, tile = out.shape[1], code.tile
    for n in range(count):
        begin = _place(code, count, n)
        for s in range(tile):
            out[k, n, column + s] = r[begin + s]


@njit(**DRIVER)
def forward(code, w, points, kept, work, first, last, groups, part, parts, out, keep):  # type: ignore[no-untyped-def]
    """Run the forward sweep, and keep it if `keep`; `out` (1, reads * outputs, samples of the tiles)."""
    tile, size, block = code.tile, code.kept * code.tile, code.components * code.rows * code.tile
    r = _block(work, block, 0)
    # Three blocks have room for what is kept, whatever the activations are.
    target = kept if keep else work[r.size :]
    for group in range(part, groups, parts):
        for t in range(_start(first, group, groups), last, groups):
            k0 = (t - first) * size if keep else 0
            sweeps.forward(code, w[0], points[t - first], r, target, k0)
            if code.stages[-1, READY]:
                begin = (code.stages[-1, OUT]) * tile
                at = k0 + code.stages[-1, KEPT] * tile
                sweeps.copy(r[begin:], target[at : at + r.size - begin])
            _output(code, r, out, int64(0), (t - first) * tile)


@njit(**DRIVER)
def registers(code, w, points, kept, work, first, last, groups, part, parts, out):  # type: ignore[no-untyped-def]
    """Compute all registers, `out` (tiles, components, rows, tile)."""
    tile, size, block = code.tile, code.kept * code.tile, code.components * code.rows * code.tile
    every = _block(work, block, 0)
    for group in range(part, groups, parts):
        for t in range(_start(first, group, groups), last, groups):
            k0, r = (t - first) * size, out[t - first].reshape(block)
            sweeps.registers(code, points[t - first], kept, k0, every)
            sweeps.copy(r, every)
            for s in range(len(code.stages)):
                if code.stages[s, READY]:
                    begin, length, at = code.stages[s, OUT], code.stages[s, ROWS] * tile, code.stages[s, KEPT]
                    sweeps.copy(r[begin * tile : begin * tile + length], kept[k0 + at * tile :])


@njit(**DRIVER)
def cotangents(code, w, points, kept, work, first, last, groups, part, parts, seeds, out):  # type: ignore[no-untyped-def]
    """Compute the cotangents of all arguments, `out` (k, tiles, components * rows * tile): in the place of outputs."""
    tile, size, block = code.tile, code.kept * code.tile, code.components * code.rows * code.tile
    lam, delta = _block(work, block, 3), _single(work, block, 1)
    for group in range(part, groups, parts):
        for t in range(_start(first, group, groups), last, groups):
            for k in range(seeds.shape[0]):
                _seed(code, lam, int64(0), seeds, k, (t - first) * tile)
                sweeps.adjoints(code, w[1], kept, (t - first) * size, lam, delta, out[k, t - first])


@njit(**DRIVER)
def differentiate(code, w, points, kept, work, first, last, groups, part, parts, lam, v, law, seeds, sums, mode):  # type: ignore[no-untyped-def]
    """Run tangent and reverse sweeps, as many as there are `sums` in a group, for directions `v` and `seeds`.

    All that is differentiated shares this driver: what a driver calls is compiled into it anew.

    Parameters
    ----------
    v
        For a derivative there has to be one, which is not read.
    law : array, shape (reads * outputs, reads * outputs, samples of the tiles)
        Second derivatives in what the law reads; not read if there are `seeds`.
    seeds
        For TANGENT they receive the derivatives of the outputs.
    sums
        If they have no numbers there is nothing to add up: then only cotangents are computed.
    mode : int
        DERIVATIVE: cotangents are thrown away, and `lam` is not read.  RECORD: those of the only seed are left in
        `lam`.  TANGENT: no reverse sweep.  HESSIAN: products with second derivatives, from the cotangents `lam`;
        CURVATURE: the network is taken as linear.
    """
    tile, size, block = code.tile, code.kept * code.tile, code.components * code.rows * code.tile
    flat, count, exact, ahead = sums.reshape(sums.size), sums.shape[1], mode == HESSIAN, mode >= TANGENT
    r, rdot, q, mu = _block(work, block, 0), _block(work, block, 1), _block(work, block, 2), _block(work, block, 3)
    m, delta = _single(work, block, 0), _single(work, block, 1)
    panel, other = _single(work, block, 2), _single(work, block, 3)
    for group in range(part, groups, parts):
        for t in range(_start(first, group, groups), last, groups):
            k0, l0, column = (t - first) * size, (t - first) * block, (t - first) * tile
            target, m0 = (lam, l0) if mode == RECORD else (mu, int64(0))
            sweeps.registers(code, points[t - first], kept, k0, r)
            for k in range(count):
                direction = v[k if ahead else 0]
                if ahead:
                    sweeps.tangent(code, w[0], direction[0], r, kept, k0, lam, l0, rdot, q, exact)
                if mode == TANGENT:
                    _output(code, rdot, seeds, k, column)
                    continue
                if len(seeds) > 0:
                    _seed(code, target, m0, seeds, k, column)
                else:
                    _bend(code, mu, rdot, law, column)
                sweeps.reverse(
                    code, w[1], r, kept, k0, target, m0, flat, (group * count + k) * code.sums,
                    direction[1], rdot, q, lam, l0, m, delta, panel, other, exact,
                )  # fmt: skip


@njit(**DRIVER)
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


@njit(**DRIVER)
def collect(stages, sums, out):  # type: ignore[no-untyped-def]
    """Add up the groups in their order, and their panels to `out` (k, weights)."""
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


@njit(**DRIVER)
def mirror(matrix):  # type: ignore[no-untyped-def]
    """Copy what is below the diagonal of a matrix above it, square by square, so that lines stay in the cache."""
    size, step = len(matrix), 32
    for first in range(0, size, step):
        for second in range(0, first + 1, step):
            for i in range(first, min(first + step, size)):
                for j in range(second, min(second + step, i)):
                    matrix[j, i] = matrix[i, j]


@njit(**DRIVER)
def system(  # type: ignore[no-untyped-def]
    code, w, points, kept, work, first, last, groups, part, parts, seeds,
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
    tile, size, block = code.tile, code.kept * code.tile, code.components * code.rows * code.tile
    stride = seeds.shape[0] * samples
    r, lam = _block(work, block, 0), _block(work, block, 3)
    delta, spare = _single(work, block, 1), _single(work, block, 2)
    buffer, ones = np.empty(buffered * tile), np.ones(tile)
    for group in range(part, groups, parts):
        for t in range(_start(first, group, groups), last, groups):
            count, k0 = min(tile, samples - t * tile), (t - first) * size
            sweeps.registers(code, points[t - first], kept, k0, r)
            for k in range(seeds.shape[0]):
                _seed(code, lam, int64(0), seeds, k, (t - first) * tile)
                begin = k * samples + t * tile
                buffer[:] = 0.0
                sweeps.write_rows(
                    code, w[1], r, kept, k0, lam, delta, spare, needs, stop, position,
                    matrix if direct else buffer, begin if direct else 0, stride if direct else tile,
                    count if direct else tile, not direct, ones,
                )  # fmt: skip
                if not direct:
                    sweeps.gather(tile, buffer, start, index, factor, matrix, begin, stride, count)
