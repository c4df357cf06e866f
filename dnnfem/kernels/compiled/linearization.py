"""Linearization of the compiled backend: what runs between the sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnfem.kernels.compiled import drivers, outputs, rows
from dnnfem.kernels.compiled.outputs import pulled
from dnnfem.kernels.compiled.samples import Loan, Tape, aligned, groups, tile_sums
from dnnfem.kernels.gram import remembered
from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.kernels.program import as_columns
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
    weights : array, shape (2, weights)
        The weights that belong to it, packed.
    """

    evaluator: CompiledEvaluator
    x: Array
    weights: Array
    _lock: RLock = field(default_factory=RLock, init=False, repr=False)
    _grams: dict[bool, Array] = field(default_factory=dict, init=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledLinearization, (self.evaluator, self.x, self.weights)

    @property
    def _kept(self) -> Tape | None:
        """The forward sweep over all tiles, or None if it does not fit into the memory."""
        # Other threads must not compute it once more into the same memory.
        with self._lock:
            return self._whole

    @cached_property
    def _whole(self) -> Tape | None:
        chunks = self.evaluator.tiles.chunks
        return self._tape(*chunks[0], self._loan.array) if len(chunks) == 1 else None

    @cached_property
    def _loan(self) -> Loan:
        """What the forward sweep is kept in, as long as there is this linearization."""
        return self.evaluator.pool.lend(self.evaluator.tape_size)

    def _tape(self, first: int, last: int, memory: Array) -> Tape:
        """Run the forward sweep over some tiles and keep it in `memory`, an array of `tape_size` numbers."""
        e, samples = self.evaluator, self.evaluator.tiles.samples(first, last)
        size = (last - first) * e.code.tile * e.code.kept
        kept, lam = memory[:size], memory[size:]
        return Tape(first, last, samples, kept, lam, e.law_at(samples, self.weights, first, kept))

    def tapes(self) -> Iterator[Tape]:
        """Yield the forward sweep, some tiles at a time; a tape is valid until the next one."""
        e = self.evaluator
        if self._kept is not None:
            yield self._kept
            return
        memory = e.pool.take(e.tape_size)
        for chunk in e.tiles.chunks:
            yield self._tape(*chunk, memory)
        e.pool.give_back(memory)

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
        return float(np.sum(tile_sums(tape.samples.weights, tape.law.density, e.code.tile)))

    @cached_property
    def groups(self) -> int:
        """Number of groups of tiles."""
        return groups(self.evaluator.tiles.count, self.evaluator.code.sums)

    def run(self, driver: Callable[..., None], tape: Tape, count: int, *arguments: object) -> None:
        """Run a driver with `count` seeds or directions over a tape, with the threads that its size deserves."""
        e = self.evaluator
        work, tiles = tape.samples.weights.size * self.weights.shape[1] * count, (tape.first, tape.last, self.groups)
        with e.desk(e.code, work, self.groups) as desk:
            drivers.run(driver, e.code, self.weights, tape.samples.reference, tape.kept, desk, tiles, *arguments)

    def _sums(self, count: int) -> Array:
        sums = aligned(self.groups * count * self.evaluator.code.sums)
        sums[:] = 0.0
        return sums.reshape(self.groups, count, -1)

    def _restrict(self, sums: Array) -> Array:
        """Add up the groups in their order; return dual vectors as columns, shape (dim, k)."""
        result = np.zeros((sums.shape[1], self.weights.shape[1]))
        drivers.collect(self.evaluator.code.stages, sums, result)
        return np.asarray(self.evaluator.program.restrict(result.T))

    def _reverse(self, tape: Tape, seeds: Array, sums: Array, mode: int) -> None:
        none = np.empty((0, 0, 0))
        self.run(drivers.differentiate, tape, len(seeds), tape.lam, self.weights[None], none, seeds, sums, mode)

    def _adjoint(self, tape: Tape, sums: Array, mode: int) -> None:
        """Run the reverse sweep of the derivative."""
        self._reverse(tape, pulled(self.evaluator, tape.samples, [tape.law.derivative]), sums, mode)

    @cached_property
    def derivative(self) -> Array:
        """``J'(x)``, dual, shape (dim,)."""
        sums = self._sums(1)
        for tape in self.tapes():
            self._adjoint(tape, sums, drivers.DERIVATIVE)
        return self._restrict(sums)[:, 0]

    def _record(self, tape: Tape) -> Tape:
        """Fill in the cotangents; the sums of a derivative would cost as much again."""
        self._adjoint(tape, np.empty((self.groups, 1, 0)), drivers.RECORD)
        return tape

    @cached_property
    def _recorded(self) -> Tape | None:
        return None if self._whole is None else self._record(self._whole)

    def _ready(self, exact: bool) -> Iterator[Tape]:
        """Yield tapes that are ready for products with second derivatives, or with the curvature if not `exact`."""
        if not exact:
            yield from self.tapes()
        elif self._kept is None:
            yield from map(self._record, self.tapes())
        else:
            # First derivatives alone do not pay for keeping cotangents: they are computed with the first product.
            with self._lock:
                tape = self._recorded
            assert tape is not None
            yield tape

    def _products(self, v: Array, exact: bool) -> Array:
        """Return products with directions v (dim,) or (dim, k), dual."""
        e, columns = self.evaluator, as_columns(v, self.x.size)
        result, mode = np.empty(columns.shape), drivers.HESSIAN if exact else drivers.CURVATURE
        entries = min(DIRECTION_ENTRIES, e.memory // 16)
        count = max(1, entries // max(1, self.groups * e.code.sums))
        for start in range(0, columns.shape[1], count):
            block = slice(start, start + count)
            directions = drivers.packed(e.code, e.program.directions(columns[:, block]).T)
            sums = self._sums(len(directions))
            for tape in self._ready(exact):
                law, duals = outputs.bends(self, tape, directions, exact)
                self.run(drivers.differentiate, tape, len(directions), tape.lam, directions, law, duals, sums, mode)
            result[:, block] = self._restrict(sums)
        return result.reshape(np.shape(v))

    def hessian(self, v: Array) -> Array:
        """Return ``J''(x) v``, dual, for v of shape (dim,) or (dim, k)."""
        return self._products(v, True)

    def curvature(self, v: Array) -> Array:
        """Return ``sum_q w T^T C T v``, dual, for v of shape (dim,) or (dim, k)."""
        return self._products(v, False)

    @cached_property
    def moments(self) -> tuple[Array, ...]:
        """``sum_q w (y, 1) (y, 1)^T`` of what each stage reads."""
        return rows.moments(self)

    def curvature_along(self, directions: Mapping[int, tuple[Array, Array]]) -> Array | None:
        """Return ``<C d_i, d_j>`` for directions of rank one of the weights of stages."""
        return rows.curvature_along(self, directions)

    def residual(self) -> Array | None:
        """Return ``sqrt(w) r``, residuals running slower than samples; None for a loss law."""
        return rows.residual(self) if self.evaluator.law.kind == "residual" else None

    def pull(self, residual: Array) -> Array:
        """Return ``A^T residual`` for a vector of the rows of `system`, dual, shape (dim,)."""
        sums = self._sums(1)
        for tape, dual in rows.cotangents(self, residual):
            self._reverse(tape, pulled(self.evaluator, tape.samples, [dual], root=True), sums, drivers.DERIVATIVE)
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

    def gram(self, single: bool = False) -> Array:
        """Return ``sum_q w T^T C T``, shape (dim, dim); with `single` from products of rows in single precision."""
        if single not in self._grams:
            self._grams[single] = remembered(self.evaluator.grams, self, partial(rows.gram, self), single)
        return self._grams[single]
