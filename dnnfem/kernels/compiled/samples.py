"""Samples in tiles, and what a forward sweep leaves behind."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import numpy as np

from dnnfem.kernels.compiled.tables import TILE
from dnnfem.kernels.protocol import Ansatz, LawLinearization, PlacedPoints
from dnnfem.records import Array

GROUPS = 32
"""Most groups of tiles; every group has a copy of the sums."""

GROUP_ENTRIES = 2**19
"""Numbers that the copies of one sum may take before there are fewer groups, but never fewer than 8."""

SPARE = 2
"""Sets of buffers that are kept for later."""


@dataclass(frozen=True, eq=False)
class Samples:
    """A quadrature, filled up to whole tiles: the last point is repeated with weight 0.

    Attributes
    ----------
    size : int
        Number of points without padding.
    points, data : array, shape (tiles * TILE, d or k)
        In the user's coordinates, for the law.
    weights : array, shape (tiles * TILE,)
    reference : array, shape (tiles, d * TILE)
        Reference coordinates, as the input register of each tile.
    """

    size: int
    points: Array
    data: Array
    weights: Array
    reference: Array

    @classmethod
    def of(cls, points: Array, data: Array, weights: Array, ansatz: Ansatz) -> Samples:
        """Fill up points (m, d), data (m, k) and weights (m,)."""
        size = len(points)
        number = np.arange(TILE * -(-size // TILE))
        index = np.minimum(number, size - 1)
        reference = np.asarray(ansatz.reference(points), dtype=np.float64)[index]
        tiles = reference.reshape(-1, TILE, reference.shape[1]).transpose(0, 2, 1)
        return cls(
            size,
            points[index],
            data[index],
            np.where(number < size, weights[index], 0.0),
            np.ascontiguousarray(tiles).reshape(len(tiles), -1),
        )

    @classmethod
    def of_quadrature(cls, quadrature: PlacedPoints, ansatz: Ansatz) -> Samples:
        """Fill up a quadrature."""
        return cls.of(quadrature.points, quadrature.data, quadrature.weights, ansatz)

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return len(self.reference)

    def groups(self, entries: int) -> int:
        """Return the number of groups for sums of `entries` numbers; threads and memory have no say in it."""
        groups = GROUPS
        while groups > 8 and groups * entries > GROUP_ENTRIES:
            groups //= 2
        return min(self.tiles, groups)


@dataclass(frozen=True, eq=False)
class Buffers:
    """Flat arrays for the registers of some tiles; names as in `dnnfem.kernels.compiled.sweeps`."""

    r: Array
    d: Array
    b: Array
    delta: Array

    @classmethod
    def of(cls, size: int) -> Buffers:
        """Allocate; untouched memory costs nothing."""
        return cls(np.empty(size), np.empty(size), np.empty(size), np.empty(size))


@dataclass(frozen=True, eq=False)
class Pool:
    """Buffers that wait for their next use: fresh memory is as slow as the sweep that fills it."""

    spare: list[Buffers] = field(default_factory=list)

    def take(self, size: int) -> Buffers:
        """Return buffers for at least `size` numbers each."""
        for number, buffers in enumerate(self.spare):
            if buffers.r.size >= size:
                return self.spare.pop(number)
        return Buffers.of(size)

    def give_back(self, buffers: Buffers) -> None:
        """Take back buffers that nobody reads any more; the largest ones are kept."""
        self.spare.append(buffers)
        self.spare.sort(key=lambda b: b.r.size)
        del self.spare[:-SPARE]

    def lend(self, size: int, borrower: object) -> Buffers:
        """Return buffers that come back when `borrower` is no longer used."""
        buffers = self.take(size)
        weakref.finalize(borrower, self.give_back, buffers).atexit = False
        return buffers


@dataclass(frozen=True, eq=False)
class Tape:
    """The forward sweep over the tiles ``first, ..., last - 1`` and the law at its outputs."""

    first: int
    last: int
    buffers: Buffers
    law: LawLinearization

    @property
    def columns(self) -> slice:
        """The samples, with padding, among all."""
        return slice(self.first * TILE, self.last * TILE)


def total(densities: Array) -> float:
    """Sum up (tiles, TILE), tile by tile."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sum(np.sum(densities, axis=1)))
