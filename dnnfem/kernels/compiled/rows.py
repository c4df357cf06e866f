"""Least-squares systems and Gram matrices: the derivative of every residual in every coefficient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import blas

from dnnfem.kernels import influence
from dnnfem.kernels.compiled import drivers
from dnnfem.kernels.compiled.samples import Tape
from dnnfem.kernels.compiled.tables import COLUMNS, IN, TILE
from dnnfem.kernels.influence import LeftOut
from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.records import Array, Index

if TYPE_CHECKING:
    from dnnfem.kernels.compiled.linearization import CompiledLinearization

ENTRIES = 2**17
"""Numbers in the rows that are multiplied at a time: they stay in the cache between writing and reading."""


def system(linearization: CompiledLinearization, columns: Index | None) -> DenseLeastSquares | None:
    """Return the rows ``sqrt(w) r' dU/dx``, residuals slower than samples, in the coefficients `columns`.

    Only what these need is computed: the reverse sweep ends at the earliest stage among them.  None if the law gives no
    root of its curvature.
    """
    e = linearization.evaluator
    chosen, size = e.selection(columns), e.samples.size
    root = np.sqrt(e.samples.weights)
    matrix, residual = np.empty((0, 0)), np.empty((0, 0))
    for tape in linearization.tapes():
        r, slopes = tape.law.residual, tape.law.slopes
        if r is None or slopes is None:
            return None
        if tape.first == 0:
            residual, matrix = np.empty((len(r), size)), np.empty((chosen.size, len(r) * size))
            matrix[chosen.empty] = 0.0
        count = min(tape.last * TILE, size) - tape.first * TILE
        residual[:, tape.first * TILE : tape.last * TILE] = (root[tape.columns] * r)[:, :count]
        seeds, b = linearization.seeds(tape, list(slopes), root), tape.buffers
        primal = (*e.tables.arrays, linearization.weights, seeds, b.r, b.d)
        with linearization.threads(tape, len(seeds)):
            drivers.system(*primal, *chosen.arrays, matrix.reshape(-1), size, *linearization.span(tape))
    return DenseLeastSquares(matrix.T, residual.ravel())


def gram(linearization: CompiledLinearization) -> Array | None:
    """Return ``sum_q w T^T C T``, shape (dim, dim), from rows ``sqrt(w) S T``, ``C = S^T S``, some tiles at a time.

    None if the law gives no root ``S`` of its curvature.
    """
    total = np.zeros((linearization.x.size,) * 2, order="F")
    for tape in linearization.tapes():
        if tape.law.slopes is None:
            return None
        for _, piece in pieces(linearization, tape, list(tape.law.slopes)):
            total = blas.dsyrk(1.0, piece.T, beta=1.0, c=total, trans=1, lower=1, overwrite_c=1)
    # Above the diagonal there are zeros.
    full = total + total.T
    np.einsum("ii->i", full)[:] *= 0.5
    return np.asarray(full)


def left_out(linearization: CompiledLinearization, root: Array, exact: bool) -> LeftOut:
    """Return every sample as the network without it sees it, some tiles at a time."""
    e, parts = linearization.evaluator, []
    points, data, components, outputs = e.samples.points, e.samples.data, e.law.components, e.program.outputs
    for tape in linearization.tapes():
        units = list(np.eye(outputs)[:, None, :, None])
        for part, piece in pieces(linearization, tape, units):
            jet = e.jet(linearization.x, points[part], components)
            rows = (piece.T @ root).reshape(outputs, -1, root.shape[1])
            parts.append(influence.left_out(e.law, points[part], data[part], jet, rows, exact))
    result, size = LeftOut.joined(parts), e.samples.size
    return LeftOut(result.losses[:size], result.leverage[:size], result.margin[:size])


def pieces(linearization: CompiledLinearization, tape: Tape, duals: list[Array]) -> Iterator[tuple[slice, Array]]:
    """Yield ``sqrt(w) dual^T dU/dx`` for some tiles at a time: their samples, and rows (dim, duals * samples).

    The last tile is filled up by samples of weight zero.  Rows are valid until the next ones.
    """
    e = linearization.evaluator
    chosen, block, b = e.selection(None), e.tables.rows * TILE, tape.buffers
    seeds = linearization.seeds(tape, duals, np.sqrt(e.samples.weights))
    step = min(max(1, ENTRIES // (chosen.size * len(duals) * TILE)), tape.last - tape.first)
    work = e.pool.take(chosen.size * len(duals) * step * TILE)
    for start in range(0, tape.last - tape.first, step):
        stop = min(start + step, tape.last - tape.first)
        count = (stop - start) * TILE
        rows = work.r[: chosen.size * len(duals) * count].reshape(chosen.size, -1)
        rows[chosen.empty] = 0.0
        part = np.ascontiguousarray(seeds[..., start * TILE : stop * TILE])
        kept = (b.r[start * block : stop * block], b.d[start * block : stop * block])
        span = (0, stop - start, min(linearization.groups, stop - start), e.tables.rows)
        with drivers.threads(count * linearization.weights.size * len(duals)):
            primal = (*e.tables.arrays, linearization.weights, part, *kept)
            drivers.system(*primal, *chosen.arrays, rows.reshape(-1), count, *span)
        yield slice((tape.first + start) * TILE, (tape.first + stop) * TILE), rows
    e.pool.give_back(work)


def moments(linearization: CompiledLinearization) -> tuple[Array, ...]:
    """Return ``sum_q w (y, 1) (y, 1)^T`` of what each stage reads."""
    tables = linearization.evaluator.tables
    sums = [np.zeros((stage[COLUMNS] + 1,) * 2) for stage in tables.stages]
    for tape in linearization.tapes():
        tiles = tape.last - tape.first
        registers = tape.buffers.r[: tiles * tables.rows * TILE].reshape(tiles, tables.rows, TILE)
        weights = linearization.evaluator.samples.weights[tape.columns]
        for number, stage in enumerate(tables.stages):
            read = registers[:, stage[IN] : stage[IN] + stage[COLUMNS]].transpose(1, 0, 2)
            rows = np.vstack([read.reshape(stage[COLUMNS], -1), np.ones(tiles * TILE)])
            sums[number] += (rows * weights) @ rows.T
    return tuple(sums)
