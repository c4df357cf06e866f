"""Least-squares systems and Gram matrices: the derivative of every residual in every coefficient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dnnfem.kernels import influence
from dnnfem.kernels.device.least_squares import DeviceLeastSquares
from dnnfem.kernels.device.outputs import written
from dnnfem.kernels.device.place import Place, array
from dnnfem.kernels.device.pointwise import Tensor
from dnnfem.kernels.device.sweeps import reverse
from dnnfem.kernels.influence import LeftOut
from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.kernels.program import Block, Program
from dnnfem.kernels.reduction import Compression, Reduction
from dnnfem.records import Array, Index

if TYPE_CHECKING:
    from dnnfem.kernels.device.linearization import DeviceLinearization
    from dnnfem.kernels.device.tape import Tape

ENTRIES, GPU_ENTRIES = 2**20, 2**26
"""Numbers in the rows that are worked on at a time, on a CPU and on a GPU."""

DENSE, GPU_DENSE = 2**21, 2**27
"""Numbers in the largest system whose rows are kept: factorizations copy them."""


@dataclass(frozen=True, eq=False)
class Selection:
    """Columns of a system: what the weights of each block contribute to them.

    Attributes
    ----------
    size : int
        Number of columns.
    last : int
        The earliest stage that is needed.
    maps : tuple
        Per block: the columns that depend on it, and either the weights that these are or, where the embedding mixes
        weights, its part (weights of the block, columns); None if no column depends on it.
    """

    size: int
    last: int
    maps: tuple[tuple[Tensor | slice, Tensor | slice] | None, ...]

    @classmethod
    def of(cls, program: Program, columns: Index | None, place: Place) -> Selection:
        """Choose `columns` (default all) of the coefficients."""
        chosen = np.arange(program.dim) if columns is None else np.arange(program.dim)[columns]
        part = program.embedding.tocsc()[:, chosen].tocsr()
        maps: list[tuple[Tensor | slice, Tensor | slice] | None] = []
        for block in program.blocks:
            own = part[block.start : block.stop].tocsc()
            found = np.flatnonzero(np.diff(own.indptr))
            if found.size == 0:
                maps.append(None)
            elif own.nnz == found.size and (own.data == 1.0).all():
                maps.append((_indexed(found, place), _indexed(own.indices, place)))
            else:
                maps.append((_indexed(found, place), place.tensor(own[:, found].toarray())))
        needed = [number for number, stage in enumerate(program.stages) if maps[stage.block] is not None]
        return cls(chosen.size, min(needed, default=len(program.stages)), tuple(maps))


def _indexed(index: Index, place: Place) -> Tensor | slice:
    """Return an index, as a slice if it is one."""
    first = int(index[0])
    consecutive = np.array_equal(index, np.arange(first, first + index.size))
    return slice(first, first + index.size) if consecutive else place.index(index)


def _add_derivative(onto: Tensor, block: Block, own: Tensor, y: Tensor, found: Tensor | None) -> None:
    """Add the derivative in the weights of a block, sample by sample, to a tensor (k, samples, weights).

    Of an opaque map it has been `found` already.
    """
    if found is not None:
        onto += found
        return
    count = block.rows * block.columns
    matrix = onto[..., :count].unflatten(-1, (block.rows, block.columns))
    if len(y) > 1:
        matrix += torch.einsum("kcno,cni->knoi", own, y)
    else:
        matrix.addcmul_(own[:, 0, ..., None], y[0, :, None])
    if block.bias:
        onto[..., count:] += own[:, 0]


def _write(tape: Tape, seeds: Tensor, part: slice, chosen: Selection) -> Tensor:
    """Return the rows of some samples of a tape for seeds (k, samples, size): (k, samples, columns), in float64."""
    code, program = tape.evaluator.code, tape.evaluator.program
    target = torch.zeros((len(seeds), part.stop - part.start, chosen.size), dtype=torch.float64, device=seeds.device)
    first = [tuple(kept[..., part, :] for kept in stage) for stage in tape.first]
    registers = [register[:, part] for register in tape.registers]
    single = {number for number, stage in enumerate(program.stages) if chosen.maps[stage.block] is not None}
    sweep = reverse(code, tape.weights, registers, first, written(code, seeds[:, part]), chosen.last, single=single)
    for number, own, _, found in sweep:
        stage = program.stages[number]
        block, map_ = program.blocks[stage.block], chosen.maps[stage.block]
        if map_ is None:
            continue
        y, (columns, factor) = registers[stage.input], map_
        if isinstance(columns, slice) and factor == slice(0, block.stop - block.start):
            _add_derivative(target[..., columns], block, own, y, found)
            continue
        derivative = target.new_zeros((*target.shape[:2], block.stop - block.start))
        _add_derivative(derivative, block, own, y, found)
        if isinstance(factor, slice) or factor.ndim == 1:
            target[..., columns] += derivative[..., factor]
        else:
            target[..., columns] += derivative @ factor
    return target


def _blocks(
    linearization: DeviceLinearization, chosen: Selection, units: Tensor | None = None
) -> Iterator[tuple[Tape, slice, Tensor]]:
    """Yield rows ``sqrt(w) slopes dU/dx`` of some samples at a time, shape (k, samples, columns).

    With `units`, a jet for each k, these take the place of the slopes of the law.
    """
    e = linearization.evaluator
    entries = GPU_ENTRIES if e.place.is_gpu else ENTRIES
    opaque = [block.map.size for block in e.program.blocks if block.map is not None]
    for tape in linearization.tapes():
        duals = _slopes(tape) if units is None else list(units)
        seeds, count = e.outputs.pulled(tape.samples, duals, root=True), len(tape.samples.weights)
        # Never fewer rows than columns: a triangle of them is as large.
        step = max(1, entries // (max(chosen.size, *e.program.widths, *opaque) * len(duals)), chosen.size // len(duals))
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            yield tape, part, _write(tape, seeds, part, chosen)


def _slopes(tape: Tape) -> list[Any]:
    assert tape.law.slopes is not None
    return list(tape.law.slopes)


def _residual(tape: Tape) -> Tensor:
    """Return ``sqrt(w) r``, shape (residuals, samples)."""
    residual: Tensor = torch.sqrt(tape.samples.weights) * tape.law.residual
    return residual


def residual(linearization: DeviceLinearization) -> Tensor:
    """Return ``sqrt(w) r``, residuals running slower than samples."""
    return torch.cat([_residual(tape) for tape in linearization.tapes()], dim=1).flatten()


def parts(linearization: DeviceLinearization, values: Tensor) -> Iterator[Tensor]:
    """Yield a vector like `residual` chunk by chunk, shape (residuals, samples)."""
    chunks = linearization.evaluator.chunks
    rows = values.reshape(-1, chunks.size)
    return (rows[:, chunks.rows(number)] for number in range(chunks.count))


def cotangents(tape: Tape, values: Tensor) -> Tensor:
    """Return seeds for the part (residuals, samples) of a vector like `residual`, shape (1, samples, size)."""
    dual = sum(row * slope for row, slope in zip(values, _slopes(tape), strict=True))
    return tape.evaluator.outputs.pulled(tape.samples, [dual], root=True)


def system(linearization: DeviceLinearization, columns: Index | None) -> DeviceLeastSquares | DenseLeastSquares | None:
    """Return the rows ``sqrt(w) r' dU/dx``, residuals slower than samples, in the coefficients `columns`.

    Only what these need is computed: the reverse sweep ends at the earliest stage among them.  If all rows have more
    than `DENSE` numbers, they are compressed to a triangle, block by block.  Where the law has no residual the rows are
    such a triangle on the host, and the derivative is a linear term.  None if the law gives no root of its curvature.
    """
    e = linearization.evaluator
    law, chosen = next(linearization.tapes()).law, e.selection(columns)
    if law.slopes is None:
        return None
    if law.residual is None:
        return _curvature(linearization, columns, chosen, len(law.slopes))
    count, size = len(law.residual), e.chunks.size
    dense = GPU_DENSE if e.place.is_gpu else DENSE
    if count * size * chosen.size > dense and count * size > chosen.size:
        return _compressed(linearization, columns, chosen, count)
    matrix = torch.empty((count, size, chosen.size), dtype=torch.float64, device=e.place.device)
    start = 0
    for _, _, block in _blocks(linearization, chosen):
        matrix[:, start : start + block.shape[1]] = block
        start += block.shape[1]
    return DeviceLeastSquares(e.place, matrix.flatten(0, 1), residual(linearization))


def _compressed(
    linearization: DeviceLinearization, columns: Index | None, chosen: Selection, count: int
) -> DeviceLeastSquares:
    """Return the triangle of an orthogonal factorization of all rows and the residual, block by block (TSQR)."""
    e = linearization.evaluator
    triangle = e.place.zeros(0, chosen.size + 1)
    for tape, part, block in _blocks(linearization, chosen):
        rows = torch.cat([block, _residual(tape)[:, part, None]], dim=2).flatten(0, 1)
        triangle = torch.linalg.qr(torch.cat([triangle, rows]), mode="r").R

    def pull(values: Any) -> Array:
        full = linearization.pull(values)
        return full if columns is None else full[columns]

    matrix = triangle[:, :-1]
    reduction = Reduction(((count * e.chunks.size, Compression(array(matrix), pull)),))
    return DeviceLeastSquares(e.place, matrix, triangle[:, -1], reduction=reduction)


def _curvature(
    linearization: DeviceLinearization, columns: Index | None, chosen: Selection, count: int
) -> DenseLeastSquares:
    """Return a triangle whose curvature is that of a law without residuals, and the derivative as a linear term."""
    e = linearization.evaluator
    triangle = e.place.zeros(0, chosen.size)
    for _, _, block in _blocks(linearization, chosen):
        triangle = torch.linalg.qr(torch.cat([triangle, block.flatten(0, 1)]), mode="r").R
    matrix, full = array(triangle), linearization.derivative
    reduction = Reduction(((count * e.chunks.size, Compression(matrix, linearization.pull)),))
    linear = full if columns is None else full[columns]
    return DenseLeastSquares(matrix, np.zeros(len(matrix)), reduction=reduction, linear=linear)


def gram(linearization: DeviceLinearization, single: bool) -> Array | None:
    """Return ``sum_q w T^T C T``, shape (dim, dim), from rows ``sqrt(w) S T``, ``C = S^T S``, block by block.

    With `single` the products of a block are taken in single precision, and summed up in double precision.  None if the
    law gives no root ``S`` of its curvature.
    """
    e = linearization.evaluator
    with e.place.arithmetic():
        if next(linearization.tapes()).law.slopes is None:
            return None
        total = e.place.zeros(e.program.dim, e.program.dim)
        for _, _, block in _blocks(linearization, e.selection(None)):
            rows = block.flatten(0, 1)
            if single:
                rows = rows.float()
                total += rows.mT @ rows
            else:
                total.addmm_(rows.mT, rows)
        return array(0.5 * (total + total.mT))


def left_out(linearization: DeviceLinearization, root: Tensor, exact: bool) -> LeftOut:
    """Return every sample as the network without it sees it."""
    e, found = linearization.evaluator, []
    outputs, components = e.program.outputs, len(e.law.components)
    units = torch.eye(components * outputs, dtype=torch.float64, device=e.place.device)
    chosen = e.selection(None)
    for tape, part, block in _blocks(linearization, chosen, units.reshape(-1, components, outputs, 1)):
        reached = block @ root
        products = torch.einsum("imk,jmk->mij", reached, reached)
        jet = e.outputs.jet(tape.samples, tape.registers[-1])[..., part]
        points, data = tape.samples.points[part], tape.samples.data[part]
        found.append(influence.moved(e.outputs.law, points, data, jet, products, exact))
    return LeftOut(*(array(torch.cat(parts)) for parts in zip(*found, strict=True)))


def moments(linearization: DeviceLinearization) -> tuple[Array, ...]:
    """Return ``sum_q w (y, 1) (y, 1)^T`` of what each stage reads."""
    e = linearization.evaluator
    sums = [e.place.zeros(*(e.program.widths[stage.input] + 1,) * 2) for stage in e.program.stages]
    for tape in linearization.tapes():
        weights = tape.samples.weights[:, None]
        for total, stage in zip(sums, e.program.stages, strict=True):
            y = tape.registers[stage.input][0].to(torch.float64)
            rows = torch.cat([y, torch.ones_like(weights)], dim=1)
            total.addmm_((weights * rows).mT, rows)
    return tuple(array(total) for total in sums)


def curvature_along(linearization: DeviceLinearization, directions: Mapping[int, tuple[Array, Array]]) -> Array | None:
    """Return ``<C d_i, d_j>`` for directions ``u (w, b)^T`` of stages: sums of ``sum_c (u, delta_c) (w, y_c)``."""
    e = linearization.evaluator
    pairs = {stage: [e.place.tensor(side) for side in pair] for stage, pair in directions.items()}
    size = sum(outer.shape[1] for outer, _ in pairs.values())
    total = e.place.zeros(size, size)
    for tape in linearization.tapes():
        if tape.law.slopes is None:
            return None
        seeds, found = e.outputs.pulled(tape.samples, _slopes(tape), root=True), {}
        dual = written(e.code, seeds)
        for number, own, _, _ in reverse(e.code, tape.weights, tape.registers, tape.first, dual, min(pairs)):
            if number in pairs:
                outer, inner = pairs[number]
                read = tape.registers[e.program.stages[number].input].to(torch.float64) @ inner[:-1]
                read[0] += inner[-1]
                found[number] = ((own.to(torch.float64) @ outer) * read).sum(dim=1).flatten(0, 1)
        count = len(seeds) * len(tape.samples.weights)
        parts = [found.get(number, e.place.zeros(count, outer.shape[1])) for number, (outer, _) in pairs.items()]
        rows = torch.cat(parts, dim=1)
        total.addmm_(rows.mT, rows)
    return array(total)
