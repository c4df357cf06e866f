"""Least-squares systems and Gram matrices: the derivative of every residual in every coefficient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import blas, lapack

from dnnfem.kernels import influence
from dnnfem.kernels.compiled import drivers
from dnnfem.kernels.compiled.outputs import pulled
from dnnfem.kernels.compiled.samples import Tape
from dnnfem.kernels.compiled.tables import COLUMNS, IN, OUT, ROWS, Selection
from dnnfem.kernels.influence import LeftOut
from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.kernels.reduction import Compression, Reduction
from dnnfem.records import Array, Index

if TYPE_CHECKING:
    from dnnfem.kernels.compiled.linearization import CompiledLinearization

ENTRIES = 2**20
"""Numbers in the rows that are multiplied at a time: enough for `dsyrk` to run at its rate, and little memory."""

SINGLE_ROWS = 2048
"""Rows whose products are summed up in single precision: sums of more would lose digits."""

FEWEST_ROWS = 512
"""Rows that are eliminated at a time, even if there are fewer columns."""

REFLECTORS = 32
"""Columns of a block reflector."""

DENSE = 2**21
"""Numbers in the largest system whose rows are kept: factorizations copy them.  The memory has no say in it, as the
last digits depend on it."""


def system(linearization: CompiledLinearization, columns: Index | None) -> DenseLeastSquares | None:
    """Return the rows ``sqrt(w) r' dU/dx``, residuals slower than samples, in the coefficients `columns`.

    Only what these need is computed: the reverse sweep ends at the earliest stage among them.  If all rows have
    more than `DENSE` numbers, they are compressed to a triangle.  Where the law has no residual the derivative is a
    linear term.  None if the law gives no root of its curvature.
    """
    e = linearization.evaluator
    chosen, law = e.selection(columns), linearization.law
    if law.slopes is None:
        return None
    count = len(law.slopes)
    if count * e.tiles.size * chosen.size > DENSE and count * e.tiles.size > chosen.size:
        return _compressed(linearization, columns, chosen, count)
    matrix = np.empty((chosen.size, count * e.tiles.size))
    matrix[chosen.empty] = 0.0
    for tape in linearization.tapes():
        seeds, whole = pulled(e, tape.samples, _slopes(tape), root=True), (0, tape.last - tape.first)
        _write(linearization, tape, seeds, whole, chosen, matrix.reshape(-1), tape.first, e.tiles.size)
    if law.residual is None:
        return DenseLeastSquares(matrix.T, np.zeros(matrix.shape[1]), linear=_derivative(linearization, columns))
    return DenseLeastSquares(matrix.T, residual(linearization))


def _derivative(linearization: CompiledLinearization, columns: Index | None) -> Array:
    full = linearization.derivative
    return full if columns is None else full[columns]


def residual(linearization: CompiledLinearization) -> Array:
    """Return ``sqrt(w) r``, residuals running slower than samples."""
    parts = [_residual(tape, slice(0, tape.samples.size)) for tape in linearization.tapes()]
    return np.concatenate(parts, axis=1).ravel()


def cotangents(linearization: CompiledLinearization, values: Array) -> Iterator[tuple[Tape, Array]]:
    """Yield tapes and the cotangents of the user's jet that belong to a vector like `residual`."""
    values, start = values.reshape(-1, linearization.evaluator.tiles.size), 0
    for tape in linearization.tapes():
        stop, part = start + tape.samples.size, np.zeros((len(values), tape.samples.weights.size))
        part[:, : tape.samples.size] = values[:, start:stop]
        yield tape, np.asarray(sum((row * slope for row, slope in zip(part, _slopes(tape), strict=True)), np.zeros(1)))
        start = stop


def _compressed(
    linearization: CompiledLinearization, columns: Index | None, chosen: Selection, count: int
) -> DenseLeastSquares:
    """Return the triangle of an orthogonal factorization of all rows and the residual, block by block (TSQR).

    A block has as many rows as there are columns: it then takes no more memory than the triangle.
    """
    squares = linearization.law.residual is not None
    size = chosen.size + squares
    triangle = np.zeros((size, size), order="F")
    tiles = -(-max(size, FEWEST_ROWS) // (count * linearization.evaluator.code.tile))
    for block in blocks(linearization, chosen, count, tiles, with_residual=squares):
        reflectors = min(REFLECTORS, size)
        triangle = lapack.dtpqrt(0, reflectors, triangle, block.T, overwrite_a=1, overwrite_b=1)[0]

    def pull(values: Array) -> Array:
        full = linearization.pull(values)
        return full if columns is None else full[columns]

    triangle = np.asfortranarray(np.triu(triangle))
    matrix = triangle[:, : chosen.size]
    reduction = Reduction(((count * linearization.evaluator.tiles.size, Compression(matrix, pull)),))
    if not squares:
        return DenseLeastSquares(
            matrix, np.zeros(size), reduction=reduction, linear=_derivative(linearization, columns)
        )
    return DenseLeastSquares(matrix, triangle[:, -1], reduction=reduction)


def gram(linearization: CompiledLinearization, single: bool) -> Array | None:
    """Return ``sum_q w T^T C T``, shape (dim, dim), from rows ``sqrt(w) S T``, ``C = S^T S``, block by block.

    With `single` the products of `SINGLE_ROWS` rows are taken in single precision, and summed up in double precision.
    None if the law gives no root ``S`` of its curvature.
    """
    slopes, dim = linearization.law.slopes, linearization.x.size
    if slopes is None:
        return None
    total = np.zeros((dim, dim), order="F")
    count = SINGLE_ROWS if single else ENTRIES // dim
    tiles = max(1, count // (len(slopes) * linearization.evaluator.code.tile))
    for block in blocks(linearization, linearization.evaluator.selection(None), len(slopes), tiles):
        if single:
            with np.errstate(over="ignore"):
                rows = block.T.astype(np.float32, order="F")
            total += blas.ssyrk(1.0, rows, trans=1, lower=1)
        else:
            total = blas.dsyrk(1.0, block.T, beta=1.0, c=total, trans=1, lower=1, overwrite_c=1)
    drivers.mirror(total)
    return total


def blocks(
    linearization: CompiledLinearization, chosen: Selection, count: int, tiles: int, with_residual: bool = False
) -> Iterator[Array]:
    """Yield the rows ``sqrt(w) slopes dU/dx`` of `tiles` tiles at a time, transposed: shape (columns, rows).

    Blocks do not end where the forward sweep does that is held at a time: memory has no say in what is summed up with
    what.  In a block, residuals run slower than samples.  With `with_residual` there is one more column, ``sqrt(w) r``.
    A block may be overwritten, and is valid until the next one.
    """
    e, width = linearization.evaluator, chosen.size + with_residual
    tile = e.code.tile
    work = e.pool.take(width * count * min(tiles, e.tiles.count) * tile)
    block, filled, left = np.empty((0, count, 0)), 0, e.tiles.count
    for tape in linearization.tapes():
        seeds = pulled(e, tape.samples, _slopes(tape), root=True)
        start, length = 0, tape.last - tape.first
        while start < length:
            if filled == 0:
                size = min(tiles, left)
                block = work[: width * count * size * tile].reshape(width, count, size * tile)
                block[chosen.empty] = 0.0
            stop = min(start + size - filled, length)
            target = block[: chosen.size].reshape(-1)
            _write(linearization, tape, seeds, (start, stop), chosen, target, filled, size * tile)
            end = filled + stop - start
            if with_residual:
                block[-1, :, filled * tile : end * tile] = _residual(tape, slice(start * tile, stop * tile))
            left, start, filled = left - (stop - start), stop, end
            if filled == size:
                yield block.reshape(width, -1)
                filled = 0
    e.pool.give_back(work)


def _residual(tape: Tape, part: slice) -> Array:
    """Return ``sqrt(w) r`` of some samples, shape (residuals, samples)."""
    assert tape.law.residual is not None
    return np.asarray(np.sqrt(tape.samples.weights[part]) * tape.law.residual[:, part])


def _slopes(tape: Tape) -> list[Array]:
    assert tape.law.slopes is not None
    return list(tape.law.slopes)


def _write(
    linearization: CompiledLinearization,
    tape: Tape,
    seeds: Array,
    tiles: tuple[int, int],
    chosen: Selection,
    target: Array,
    place: int,
    samples: int,
) -> None:
    """Write the rows of some tiles of a tape to a transposed matrix with `samples` samples, from a tile on."""
    e, (start, stop) = linearization.evaluator, tiles
    tile, count = e.code.tile, stop - start
    part = seeds if count == tape.last - tape.first else np.ascontiguousarray(seeds[..., start * tile : stop * tile])
    block = e.code.kept * tile
    kept = (tape.samples.reference[start:stop], tape.kept[start * block : stop * block])
    groups = min(linearization.groups, count)
    with e.desk(e.code, count * tile * linearization.weights.shape[1] * len(seeds), groups) as work:
        span, arguments = (place, place + count, groups), (part, *chosen.arrays, target, samples)
        drivers.run(drivers.system, e.code, linearization.weights, *kept, work, span, *arguments)


def left_out(linearization: CompiledLinearization, root: Array, exact: bool) -> LeftOut:
    """Return every sample as the network without it sees it, some tiles at a time."""
    e, parts = linearization.evaluator, []
    chosen, shape = e.selection(None), (len(e.law.components), e.program.outputs)
    outputs = shape[0] * shape[1]
    units = list(np.eye(outputs).reshape(outputs, *shape, 1))
    tile = e.code.tile
    step = max(1, ENTRIES // (chosen.size * outputs * tile))
    for tape in linearization.tapes():
        seeds, length = pulled(linearization.evaluator, tape.samples, units, root=True), tape.last - tape.first
        for start in range(0, length, step):
            stop = min(start + step, length)
            part = slice(start * tile, min(stop * tile, tape.samples.size))
            columns = np.empty((chosen.size, outputs, (stop - start) * tile))
            columns[chosen.empty] = 0.0
            _write(linearization, tape, seeds, (start, stop), chosen, columns.reshape(-1), 0, columns.shape[2])
            points, data = tape.samples.points[part], tape.samples.data[part]
            jet = e.jet(linearization.x, points, e.law.components)
            rows = np.einsum("nom,nk->omk", columns[..., : len(points)], root, optimize=True)
            parts.append(influence.left_out(e.law, points, data, jet, rows, exact))
    return LeftOut.joined(parts)


def moments(linearization: CompiledLinearization) -> tuple[Array, ...]:
    """Return ``sum_q w (y, 1) (y, 1)^T`` of what each stage reads."""
    code = linearization.evaluator.code
    sums = [np.zeros((stage[COLUMNS] + 1,) * 2) for stage in code.stages]
    for tape in linearization.tapes():
        registers, weights = _registers(linearization, tape)[:, 0], tape.samples.weights
        for number, stage in enumerate(code.stages):
            read = registers[:, stage[IN] : stage[IN] + stage[COLUMNS]].transpose(1, 0, 2)
            rows = np.vstack([read.reshape(stage[COLUMNS], -1), np.ones(weights.size)])
            sums[number] += (rows * weights) @ rows.T
    return tuple(sums)


def _registers(linearization: CompiledLinearization, tape: Tape) -> Array:
    """Return all registers of a tape, shape (tiles, components, rows, tile)."""
    code = linearization.evaluator.code
    registers = np.empty((tape.last - tape.first, code.components, code.rows, code.tile))
    linearization.run(drivers.registers, tape, 1, registers)
    return registers


def curvature_along(
    linearization: CompiledLinearization, directions: Mapping[int, tuple[Array, Array]]
) -> Array | None:
    """Return ``<C d_i, d_j>`` for directions ``u (w, b)^T`` of stages: sums of ``sum_c (u, delta_c) (w, y_c)``.

    The cotangents ``delta`` of all registers of a tape are there at a time, one for each residual.
    """
    e, size = linearization.evaluator, sum(outer.shape[1] for outer, _ in directions.values())
    code, total = e.code, np.zeros((size, size))
    if linearization.law.slopes is None:
        return None
    for tape in linearization.tapes():
        seeds, registers = pulled(e, tape.samples, _slopes(tape), root=True), _registers(linearization, tape)
        duals = np.empty((len(seeds), *registers.shape))
        linearization.run(drivers.cotangents, tape, len(seeds), seeds, duals.reshape(*duals.shape[:2], -1))
        parts = []
        for number, (outer, inner) in directions.items():
            stage, part = code.stages[number], np.zeros((outer.shape[1], len(seeds), tape.samples.weights.size))
            for c in np.flatnonzero(code.flows[number].all(axis=1)):
                delta = duals[:, :, c, stage[OUT] : stage[OUT] + stage[ROWS]].transpose(2, 0, 1, 3)
                y = registers[:, c, stage[IN] : stage[IN] + stage[COLUMNS]].transpose(1, 0, 2)
                read = inner[:-1].T @ y.reshape(len(y), -1) + (inner[-1:].T if c == 0 else 0.0)
                part += (outer.T @ delta.reshape(len(delta), -1)).reshape(part.shape) * read[:, None]
            parts.append(part.reshape(len(part), -1))
        rows = np.concatenate(parts)
        total += rows @ rows.T
    return total
