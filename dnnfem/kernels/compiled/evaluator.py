"""Evaluator of the compiled backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from dnnfem.kernels.compiled import drivers, rows
from dnnfem.kernels.compiled.linearization import CompiledLinearization
from dnnfem.kernels.compiled.samples import GROUPS, Buffers, Pool, Samples, Tape, total
from dnnfem.kernels.compiled.tables import TILE, Selection, Tables
from dnnfem.kernels.influence import LeftOut
from dnnfem.kernels.program import Program
from dnnfem.kernels.protocol import Ansatz, Component, Law, LawLinearization, PlacedPoints
from dnnfem.records import Array, Index

MEMORY = 256 * 2**20
"""Bytes that a linearization may keep; see `CompiledEvaluator.memory`."""

TASKS = 8
"""Places for registers in a forward sweep that keeps nothing."""


def _values_only(components: Sequence[Component], what: str) -> None:
    if tuple(components) != ((),):
        raise ValueError(
            f"{what}: got components {tuple(components)}, but the compiled backend evaluates values only;"
            ' use backend="reference" for derivatives with respect to the inputs'
        )


@dataclass(frozen=True, eq=False)
class CompiledEvaluator:
    """See `dnnfem.kernels.protocol.Evaluator`.

    Parameters
    ----------
    program, quadrature, ansatz, law
        What is placed.
    memory : int
        Bytes that one linearization may keep of the forward sweep, and one block of tangent sweeps besides.
        If all registers need more, they are recomputed, some tiles at a time, with the same bits.
    """

    program: Program
    quadrature: PlacedPoints
    ansatz: Ansatz
    law: Law
    memory: int = MEMORY
    pool: Pool = field(default_factory=Pool, init=False, repr=False)
    _selections: dict[bytes, Selection] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _values_only(self.law.components, "law")
        if self.samples.reference.shape[1] != self.program.inputs * TILE:
            raise ValueError(
                f"quadrature: got points of shape {self.quadrature.points.shape}, expected (m, {self.program.inputs})"
            )

    @cached_property
    def samples(self) -> Samples:
        """The quadrature in tiles."""
        return Samples.of_quadrature(self.quadrature, self.ansatz)

    @cached_property
    def tables(self) -> Tables:
        """The program in flat arrays."""
        return Tables.of(self.program)

    @property
    def largest(self) -> int:
        """Numbers in the registers of the largest chunk."""
        return self.chunks[0][1] * self.tables.rows * TILE

    @cached_property
    def chunks(self) -> list[tuple[int, int]]:
        """Ranges of tiles whose registers fit into the memory; one range if all do."""
        step = max(1, self.memory // (4 * 8 * TILE * self.tables.rows))
        return [(first, min(first + step, self.samples.tiles)) for first in range(0, self.samples.tiles, step)]

    def weights(self, x: Array) -> Array:
        """Return the weights that belong to coefficients, contiguous."""
        x = np.asarray(x, dtype=np.float64)
        if x.shape != (self.program.dim,):
            raise ValueError(f"x: got shape {x.shape}, expected {(self.program.dim,)}")
        return np.ascontiguousarray(self.program.weights(x))

    def selection(self, columns: Index | None) -> Selection:
        """Return the tables for the columns of a system; the last few are remembered."""
        key = b"all" if columns is None else np.asarray(columns).tobytes()
        if key not in self._selections:
            while len(self._selections) >= 4:
                del self._selections[next(iter(self._selections))]
            self._selections[key] = Selection.of(self.program, columns)
        return self._selections[key]

    def _outputs(self, samples: Samples, weights: Array, first: int, last: int, buffers: Buffers | None) -> Array:
        """Return the reference jet (1, outputs, samples); keep registers if there are buffers."""
        groups = min(samples.tiles, GROUPS if buffers else TASKS)
        place = buffers or self.pool.take(groups * self.tables.rows * TILE)
        out = np.empty((1, self.program.outputs, (last - first) * TILE))
        span = (first, last, groups, self.tables.rows)
        with drivers.threads((last - first) * TILE * weights.size):
            drivers.forward(
                *self.tables.arrays,
                weights,
                samples.reference,
                place.r,
                place.d,
                place.b,
                out,
                *span,
                buffers is not None,
            )
        if buffers is None:
            self.pool.give_back(place)
        return out

    def _law(self, weights: Array, first: int, last: int, buffers: Buffers | None) -> LawLinearization:
        s, part = self.samples, slice(first * TILE, last * TILE)
        # A trial point may be far out: infinity is an answer there, and a NaN is reported by the solver.
        with np.errstate(over="ignore", invalid="ignore"):
            jet = self._outputs(s, weights, first, last, buffers)
            jet = self.ansatz.jet(s.points[part], jet, self.law.components)
            return self.law.linearize(s.points[part], s.data[part], jet)

    def tape(self, weights: Array, first: int, last: int, buffers: Buffers) -> Tape:
        """Run the forward sweep over some tiles and keep it in `buffers`."""
        return Tape(first, last, buffers, self._law(weights, first, last, buffers))

    def weighted(self, density: Array, first: int, last: int) -> Array:
        """Return ``w L`` of some tiles, shape (tiles, TILE)."""
        part = slice(first * TILE, last * TILE)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(self.samples.weights[part] * density).reshape(-1, TILE)

    def _densities(self, x: Array) -> Array:
        """Return ``w L`` at all points, shape (tiles, TILE), zero in the padding."""
        w = self.weights(x)
        return np.concatenate([self.weighted(self._law(w, *chunk, None).density, *chunk) for chunk in self.chunks])

    def value(self, x: Array) -> float:
        """Return ``sum_q w_q L``."""
        return total(self._densities(x))

    def cellwise(self, x: Array) -> Array:
        """Return the sums of ``w L`` per cell."""
        return np.bincount(self.quadrature.cells, weights=self.samplewise(x)).astype(np.float64)

    def samplewise(self, x: Array) -> Array:
        """Return ``w L`` at every point."""
        return self._densities(x).ravel()[: self.samples.size]

    def left_out(self, x: Array, root: Array, exact: bool) -> LeftOut:
        """Return every sample as the network without it sees it."""
        return rows.left_out(self.linearize(x), root, exact)

    def jet(self, x: Array, points: Array, components: Sequence[Component]) -> Array:
        """Return the user's values at any points, shape (1, outputs, m).

        Raises
        ------
        ValueError
            If `components` asks for derivatives.
        """
        _values_only(components, "components")
        m = len(points)
        if m == 0:
            return np.empty((1, self.program.outputs, 0))
        samples = Samples.of(points, np.empty((m, 0)), np.empty(m), self.ansatz)
        jet = self._outputs(samples, self.weights(x), 0, samples.tiles, None)[..., :m]
        return self.ansatz.jet(points, jet, components)

    def linearize(self, x: Array) -> CompiledLinearization:
        """Return the linearization at `x`; it computes when it is asked."""
        x = np.array(x, dtype=np.float64)
        return CompiledLinearization(self, x, self.weights(x))
