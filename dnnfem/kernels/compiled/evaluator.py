"""Evaluator of the compiled backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dnnfem.kernels.compiled import drivers, rows
from dnnfem.kernels.compiled.flattening import flattened
from dnnfem.kernels.compiled.linearization import CompiledLinearization
from dnnfem.kernels.compiled.outputs import MOST
from dnnfem.kernels.compiled.samples import GROUPS, Pool, Samples, Tiles, tile_sums
from dnnfem.kernels.compiled.tables import Code, Selection
from dnnfem.kernels.components import Component, check
from dnnfem.kernels.influence import LeftOut
from dnnfem.kernels.program import Program
from dnnfem.kernels.protocol import MEMORY, Ansatz, Law, LawLinearization, PlacedPoints
from dnnfem.kernels.recent import Recent
from dnnfem.records import Array, Index


@dataclass(frozen=True, eq=False)
class CompiledEvaluator:
    """See `dnnfem.kernels.protocol.Evaluator`.

    Parameters
    ----------
    program, quadrature, ansatz, law
        What is placed.
    memory : int
        Bytes that one linearization may keep: two sets of registers, the samples in float64 and the law at the outputs.
        If all tiles need more, nothing is kept: they are converted and computed again, some at a time, with the same
        bits.
    """

    program: Program
    quadrature: PlacedPoints
    ansatz: Ansatz
    law: Law
    memory: int = MEMORY
    pool: Pool = field(default_factory=Pool, init=False, repr=False)
    _desks: Pool = field(default_factory=Pool, init=False, repr=False)
    grams: Recent[Array] = field(default_factory=lambda: Recent(2), init=False, repr=False)
    _selections: Recent[Selection] = field(default_factory=lambda: Recent(4), init=False, repr=False)

    def __post_init__(self) -> None:
        check(self.law.components, self.program.inputs)
        if self.quadrature.points.shape[1] != self.program.inputs:
            raise ValueError(
                f"quadrature: got points of shape {self.quadrature.points.shape}, expected (m, {self.program.inputs})"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # Addresses of machine code belong to this process, and what was computed can be computed again.
        return CompiledEvaluator, (self.program, self.quadrature, self.ansatz, self.law, self.memory)

    @cached_property
    def code(self) -> Code:
        """The program in flat arrays, with the jet that the law reads."""
        return flattened(self.program, self.ansatz.reads(self.law.components))

    @cached_property
    def tiles(self) -> Tiles:
        """The quadrature in tiles, each of which takes two sets of registers, its samples, and the law there."""
        q, program, flat = self.quadrature, self.program, self.code
        outputs = len(flat.reads) * program.outputs
        rows = flat.kept + flat.components * flat.rows + 2 * program.inputs + q.data.shape[1] + 6 * outputs
        # The second derivatives of the law, if they are kept as matrices.
        rows += outputs**2 * (outputs <= MOST)
        return Tiles(q, self.ansatz, self.law.components, flat.tile, 8 * flat.tile * rows, self.memory)

    @property
    def tape_size(self) -> int:
        """Numbers that the largest tape keeps."""
        return self.tiles.chunks[0][1] * self.code.tile * (self.code.kept + self.code.components * self.code.rows)

    @contextmanager
    def desk(self, code: Code, products: int, groups: int) -> Iterator[Array]:
        """Lend what the threads of a sweep with some `products` work on, shape (threads, numbers)."""
        threads, size = drivers.threads(products * code.components, groups), code.work
        array = self._desks.take(threads * size)
        try:
            yield array[: threads * size].reshape(threads, size)
        finally:
            self._desks.give_back(array)

    def weights(self, x: Array) -> Array:
        """Return the weights that belong to coefficients, packed, shape (2, weights)."""
        x = np.asarray(x, dtype=np.float64)
        if x.shape != (self.program.dim,):
            raise ValueError(f"x: got shape {x.shape}, expected {(self.program.dim,)}")
        return drivers.packed(self.code, self.program.weights(x)[None])[0]

    def selection(self, columns: Index | None) -> Selection:
        """Return the tables for the columns of a system; the last few are remembered."""
        chosen = None if columns is None else np.arange(self.program.dim)[columns]
        key = b"all" if chosen is None else chosen.tobytes()
        return self._selections(key, lambda: Selection.of(self.program, chosen))

    def _outputs(self, code: Code, samples: Samples, weights: Array, first: int, kept: Array | None) -> Array:
        """Return the reference jet (reads, outputs, samples) of the tiles from `first`; fill in `kept`, if given."""
        out = np.empty((1, len(code.reads) * self.program.outputs, samples.tiles * code.tile))
        groups = min(self.tiles.count, samples.tiles, GROUPS)
        with self.desk(code, samples.weights.size * weights.shape[1], groups) as work:
            target, span = work[0] if kept is None else kept, (first, first + samples.tiles, groups)
            points, keep = samples.reference, kept is not None
            drivers.run(drivers.forward, code, weights, points, target, work, span, out, keep)
        return out.reshape(len(code.reads), self.program.outputs, -1)

    def law_at(self, samples: Samples, weights: Array, first: int, kept: Array | None = None) -> LawLinearization:
        """Return the law at the outputs for the tiles from `first`."""
        # A trial point may be far out: infinity is an answer there, and a NaN is reported by the solver.
        with np.errstate(over="ignore", invalid="ignore"):
            jet = self._outputs(self.code, samples, weights, first, kept)
            jet = samples.map.jet(jet)
            return self.law.linearize(samples.points, samples.data, jet)

    def _densities(self, x: Array) -> Iterator[tuple[Array, Array]]:
        """Yield weights and ``L`` at the points of each chunk, with padding."""
        weights = self.weights(x)
        for first, last in self.tiles.chunks:
            samples = self.tiles.samples(first, last)
            yield samples.weights, self.law_at(samples, weights, first).density

    def value(self, x: Array) -> float:
        """Return ``sum_q w_q L``."""
        return float(np.sum(np.concatenate([tile_sums(*part, self.code.tile) for part in self._densities(x)])))

    def cellwise(self, x: Array) -> Array:
        """Return the sums of ``w L`` per cell."""
        values, cells = self.samplewise(x), self.quadrature.cells
        return values if cells is None else np.bincount(cells, weights=values).astype(np.float64)

    def samplewise(self, x: Array) -> Array:
        """Return ``w L`` at every point."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.concatenate([weights * density for weights, density in self._densities(x)])[: self.tiles.size]

    def left_out(self, x: Array, root: Array, exact: bool) -> LeftOut:
        """Return every sample as the network without it sees it."""
        return rows.left_out(self.linearize(x), root, exact)

    def jet(self, x: Array, points: Array, components: Sequence[Component]) -> Array:
        """Return the user's jet at any points, shape (components, outputs, m).

        Raises
        ------
        ValueError
            If `components` asks for derivatives of too high an order or in other inputs.
        """
        check(components, self.program.inputs)
        code = flattened(self.program, self.ansatz.reads(components))
        m, weights = len(points), self.weights(x)
        jet = np.empty((len(components), self.program.outputs, m))
        step = self.tiles.step * code.tile
        for start in range(0, m, step):
            part = points[start : start + step]
            nothing = (np.empty((len(part), 0)), np.empty(len(part)))
            samples = Samples.of(part, *nothing, self.ansatz, components, code.tile)
            outputs = samples.map.jet(self._outputs(code, samples, weights, 0, None))
            jet[..., start : start + step] = outputs[..., : len(part)]
        return jet

    def linearize(self, x: Array) -> CompiledLinearization:
        """Return the linearization at `x`; it computes when it is asked."""
        x = np.array(x, dtype=np.float64)
        return CompiledLinearization(self, x, self.weights(x))
