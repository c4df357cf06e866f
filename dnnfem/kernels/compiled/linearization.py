"""Linearization of the compiled backend: what runs between the sweeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dnnfem.kernels.compiled import drivers, rows
from dnnfem.kernels.compiled.samples import Tape, groups, tile_sums
from dnnfem.kernels.compiled.tables import TILE
from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.kernels.protocol import LawLinearization
from dnnfem.records import Array, Index

if TYPE_CHECKING:
    from dnnfem.kernels.compiled.evaluator import CompiledEvaluator

DIRECTION_ENTRIES = 2**23
"""Numbers that the sums of all groups for one block of directions may take."""


@dataclass(frozen=True, eq=False)
class CompiledLinearization:
    """See `dnnfem.kernels.protocol.Linearization`.

    Attributes
    ----------
    evaluator : CompiledEvaluator
    x : array, shape (dim,)
        The point, primal.
    weights : array, shape (weights,)
        The weights that belong to it.
    """

    evaluator: CompiledEvaluator
    x: Array
    weights: Array

    @cached_property
    def _kept(self) -> Tape | None:
        """The forward sweep over all tiles, or None if it does not fit into the memory."""
        e, chunks = self.evaluator, self.evaluator.tiles.chunks
        return e.tape(self.weights, *chunks[0], e.pool.lend(e.largest, self)) if len(chunks) == 1 else None

    def tapes(self) -> Iterator[Tape]:
        """Yield the forward sweep, some tiles at a time; a tape is valid until the next one."""
        e = self.evaluator
        if self._kept is not None:
            yield self._kept
            return
        buffers = e.pool.take(e.largest)
        for chunk in e.tiles.chunks:
            yield e.tape(self.weights, *chunk, buffers)
        e.pool.give_back(buffers)

    @cached_property
    def law(self) -> LawLinearization:
        """The law at some samples, for what is the same for all: whether there are residuals, and how many."""
        e = self.evaluator
        return e.law_at(e.tiles.samples(0, 1), self.weights, 0) if self._kept is None else self._kept.law

    @cached_property
    def value(self) -> float:
        """``J(x)``."""
        e, tape = self.evaluator, self._kept
        if tape is None:
            return e.value(self.x)
        return float(np.sum(tile_sums(tape.samples.weights, tape.law.density)))

    @cached_property
    def groups(self) -> int:
        """Number of groups of tiles."""
        return groups(self.evaluator.tiles.count, self.weights.size)

    def _span(self, tape: Tape) -> tuple[int, int, int, int]:
        """Return the tiles of a tape, the groups and the rows of all registers, as every driver takes them."""
        return tape.first, tape.last, self.groups, self.evaluator.tables.rows

    def _threads(self, tape: Tape, count: int) -> AbstractContextManager[None]:
        """Limit the threads of a sweep with `count` directions to what its size deserves."""
        return drivers.threads((tape.last - tape.first) * TILE * self.weights.size * count)

    def _sums(self, count: int) -> Array:
        return np.zeros((self.groups, count, self.weights.size))

    def _restrict(self, sums: Array) -> Array:
        """Add up the groups in their order; return dual vectors as columns, shape (dim, k)."""
        result = sums[0]
        for group in sums[1:]:
            result += group
        return np.asarray(self.evaluator.program.restrict(result.T))

    def seeds(self, tape: Tape, duals: list[Array], root: bool = False) -> Array:
        """Return ``w A^T dual`` for cotangents of the user's jet, shape (k, outputs, samples of the tape).

        With `root`, the root of the weights takes their place.
        """
        e, points, outputs = self.evaluator, tape.samples.points, self.evaluator.program.outputs
        weights = np.sqrt(tape.samples.weights) if root else tape.samples.weights
        seeds = np.empty((len(duals), outputs, weights.size))
        with np.errstate(over="ignore", invalid="ignore"):
            for seed, dual in zip(seeds, duals, strict=True):
                full = np.broadcast_to(dual, (1, outputs, weights.size))
                np.multiply(weights, e.ansatz.cotangent(points, full, e.law.components)[0], out=seed)
        return seeds

    def _reverse(self, tape: Tape, seeds: Array, sums: Array, record: bool) -> None:
        e, b = self.evaluator, tape.buffers
        primal = (*e.tables.arrays, self.weights, seeds, b.r, b.d, b.b, b.delta)
        with self._threads(tape, len(seeds)):
            drivers.reverse(*primal, sums, *self._span(tape), record)

    def _recorded(self, sums: Array) -> Iterator[Tape]:
        """Yield tapes after the reverse sweep of the derivative, whose sums are added to `sums`."""
        for tape in self.tapes():
            self._reverse(tape, self.seeds(tape, [tape.law.derivative]), sums, True)
            yield tape

    @cached_property
    def derivative(self) -> Array:
        """``J'(x)``, dual, shape (dim,)."""
        sums = self._sums(1)
        for _ in self._recorded(sums):
            pass
        return self._restrict(sums)[:, 0]

    def _ready(self) -> Iterator[Tape]:
        """Yield tapes that are ready for products with second derivatives."""
        if self._kept is None:
            yield from self._recorded(self._sums(1))
        else:
            # The derivative is computed once, and with it what the products need.
            _ = self.derivative
            yield self._kept

    def _blocks(self, v: Array, limit: int) -> Iterator[tuple[slice, Array]]:
        """Yield blocks of the directions v (n, k) as weight directions (count, weights)."""
        entries = min(DIRECTION_ENTRIES, self.evaluator.memory // 16)
        count = max(1, min(limit, entries // max(self.groups * self.weights.size, 1)))
        for start in range(0, v.shape[1], count):
            block = slice(start, start + count)
            yield block, np.ascontiguousarray(self.evaluator.program.directions(v[:, block]).T)

    def _tangents(self, tape: Tape, v: Array, rdot: Array, q: Array, second: bool) -> list[Array]:
        """Run the tangent sweep; return directions of the user's jet."""
        e, b = self.evaluator, tape.buffers
        out = np.empty((len(v), e.program.outputs, (tape.last - tape.first) * TILE))
        primal = (*e.tables.arrays, self.weights, v, b.r, b.d, b.b)
        with self._threads(tape, len(v)):
            drivers.tangent(*primal, rdot, q, out, *self._span(tape), e.program.inputs, second)
        with np.errstate(over="ignore", invalid="ignore"):
            return [e.ansatz.tangent(tape.samples.points, jet[None], e.law.components) for jet in out]

    def curvature(self, v: Array) -> Array:
        """Return ``sum_q w T^T C T v``, dual, for v of shape (dim,) or (dim, k)."""
        e, columns = self.evaluator, _as_columns(v, self.x.size)
        result = np.empty(columns.shape)
        work = e.pool.take(self.groups * e.tables.rows * TILE)
        for block, directions in self._blocks(columns, columns.shape[1]):
            sums = self._sums(len(directions))
            for tape in self.tapes():
                jets = self._tangents(tape, directions, work.r, work.d, False)
                seeds = self.seeds(tape, [tape.law.curvature(jet) for jet in jets])
                self._reverse(tape, seeds, sums, False)
            result[:, block] = self._restrict(sums)
        e.pool.give_back(work)
        return result.reshape(np.shape(v))

    def hessian(self, v: Array) -> Array:
        """Return ``J''(x) v``, dual, for v of shape (dim,) or (dim, k)."""
        e, columns = self.evaluator, _as_columns(v, self.x.size)
        result = np.empty(columns.shape)
        limit = max(1, min(columns.shape[1], e.memory // (2 * 8 * e.largest)))
        work = e.pool.take(limit * e.largest)
        for block, directions in self._blocks(columns, limit):
            sums = self._sums(len(directions))
            for tape in self._ready():
                jets = self._tangents(tape, directions, work.r, work.d, True)
                seeds = self.seeds(tape, [tape.law.hessian(jet) for jet in jets])
                b = tape.buffers
                primal = (*e.tables.arrays, self.weights, directions, seeds, b.r, b.d, b.delta)
                with self._threads(tape, len(directions)):
                    drivers.second_reverse(*primal, work.r, work.d, sums, *self._span(tape))
            result[:, block] = self._restrict(sums)
        e.pool.give_back(work)
        return result.reshape(np.shape(v))

    def moments(self) -> tuple[Array, ...]:
        """Return ``sum_q w (y, 1) (y, 1)^T`` of what each stage reads."""
        return rows.moments(self)

    def residual(self) -> Array | None:
        """Return ``sqrt(w) r``, residuals running slower than samples; None for a loss law."""
        return None if self.evaluator.law.kind == "loss" else rows.residual(self)

    def pull(self, residual: Array) -> Array:
        """Return ``A^T residual`` for a vector of the rows of `system`, dual, shape (dim,)."""
        sums = self._sums(1)
        for tape, dual in rows.pulled(self, residual):
            self._reverse(tape, self.seeds(tape, [dual], root=True), sums, False)
        return self._restrict(sums)[:, 0]

    def mixed(self, other: CompiledLinearization) -> Array | None:
        """Return ``A^T r(y)``, dual, with the residual of a linearization at ``y``; None for a loss law."""
        residual = other.residual()
        return None if residual is None else self.pull(residual)

    def system(self, columns: Index | None = None) -> DenseLeastSquares | None:
        """Return the rows ``sqrt(w) r' dU/dx``, residuals slower than samples, in the coefficients `columns`.

        Where there are many they are compressed, see `dnnfem.kernels.compiled.rows`.
        """
        return rows.system(self, columns)

    @cached_property
    def _gram(self) -> Array:
        matrix = rows.gram(self)
        return self.curvature(np.eye(self.x.size)) if matrix is None else matrix

    def gram(self) -> Array:
        """Return ``sum_q w T^T C T``, shape (dim, dim)."""
        return self._gram


def _as_columns(v: Array, dim: int) -> Array:
    """Return directions (dim,) or (dim, k) as columns."""
    v = np.asarray(v, dtype=np.float64)
    if v.ndim not in (1, 2) or v.shape[0] != dim:
        raise ValueError(f"v: got shape {v.shape}, expected {(dim,)} or ({dim}, k)")
    return v.reshape(dim, -1) if v.size else v.reshape(dim, 0 if v.ndim == 2 else 1)
