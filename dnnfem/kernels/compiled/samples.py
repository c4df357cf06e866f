"""Samples in tiles, and what a forward sweep leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import RLock

import numpy as np

from dnnfem.kernels.compiled.tables import LANES
from dnnfem.kernels.components import Component
from dnnfem.kernels.protocol import Ansatz, JetMap, LawLinearization, PlacedPoints
from dnnfem.records import Array

GROUPS = 32
"""Most groups of tiles; every group has a copy of the sums."""

FEWEST_GROUPS = 4

GROUP_ENTRIES = 2**19
"""Numbers that the copies of one sum may take before there are fewer groups."""

CHUNK = 2**24
"""Bytes that are worked on at a time where not everything can be kept: more would only leave the caches."""

SPARE = 2
"""Sets of buffers that are kept for later."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Some samples in float64, filled up to whole tiles: the last point is repeated with weight 0.

    Attributes
    ----------
    size : int
        Number of points without padding.
    points, data : array, shape (tiles * tile, d or k)
        In the user's coordinates, for the law.
    weights : array, shape (tiles * tile,)
    reference : array, shape (tiles, d * tile)
        Reference coordinates, as the input register of each tile.
    map : JetMap
        From reference jets to the user's.
    """

    size: int
    points: Array
    data: Array
    weights: Array
    reference: Array
    map: JetMap

    @classmethod
    def of(
        cls, points: Array, data: Array, weights: Array, ansatz: Ansatz, components: Sequence[Component], tile: int
    ) -> Samples:
        """Convert and fill up points (m, d), data (m, k) and weights (m,)."""
        size, missing = len(points), -len(points) % tile
        data, weights = _filled(data, missing), _filled(weights, missing)
        if missing:
            points, weights[size:] = _filled(points, missing), 0.0
        # Feature by feature, which is how tiles are stored, and faster than sample by sample.
        points = np.ascontiguousarray(points.T, dtype=np.float64).T
        features = ansatz.reference(points).T
        tiles = np.ascontiguousarray(features.reshape(len(features), -1, tile).transpose(1, 0, 2))
        tiles = tiles.reshape(len(tiles), -1)
        return cls(size, points, data, weights, tiles, ansatz.at(points, components))

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return len(self.reference)


def _filled(array: Array, missing: int) -> Array:
    """Return rows in float64, with `missing` more that repeat the last one."""
    array = array.astype(np.float64, copy=False)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


@dataclass(frozen=True, eq=False)
class Tiles:
    """The samples of a quadrature in tiles, all of them in float64 or only some at a time.

    Parameters
    ----------
    quadrature, ansatz, components
        What is placed, and what the law reads.
    tile : int
        Samples of a tile.
    bytes : int
        What has to be held for one tile.
    memory : int
        Bytes that may be held.
    """

    quadrature: PlacedPoints
    ansatz: Ansatz
    components: Sequence[Component]
    tile: int
    bytes: int
    memory: int

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.quadrature.points)

    @property
    def count(self) -> int:
        """Number of tiles."""
        return -(-self.size // self.tile)

    @property
    def step(self) -> int:
        """Tiles that are worked on at a time where not all are held."""
        return max(1, min(self.memory, CHUNK) // self.bytes)

    @cached_property
    def chunks(self) -> list[tuple[int, int]]:
        """Ranges of tiles that are held at a time; one range if all fit into the memory."""
        step = self.count if self.count * self.bytes <= self.memory else self.step
        return [(first, min(first + step, self.count)) for first in range(0, self.count, step)]

    def samples(self, first: int, last: int) -> Samples:
        """Return some tiles in float64; all of them are converted once."""
        return self._all if last - first == self.count else self._converted(first, last)

    @cached_property
    def _all(self) -> Samples:
        return self._converted(0, self.count)

    def _converted(self, first: int, last: int) -> Samples:
        q, rows = self.quadrature, slice(first * self.tile, last * self.tile)
        return Samples.of(q.points[rows], q.data[rows], q.weights[rows], self.ansatz, self.components, self.tile)


def groups(tiles: int, entries: int) -> int:
    """Return the number of groups for sums of `entries` numbers; threads and memory have no say in it."""
    number = GROUPS
    while number > FEWEST_GROUPS and number * entries > GROUP_ENTRIES:
        number //= 2
    return min(tiles, number)


def aligned(size: int) -> Array:
    """Return a flat array that begins with a cache line; untouched memory costs nothing."""
    array, line = np.empty(size + LANES), 8 * LANES
    begin = (-array.__array_interface__["data"][0] % line) // 8
    return array[begin : begin + size]


@dataclass(frozen=True, eq=False)
class Pool:
    """Flat arrays that wait for their next use: fresh memory is as slow as the sweep that fills it."""

    spare: list[Array] = field(default_factory=list)
    # A loan may be forgotten, and its array come back, wherever a thread happens to be.
    _lock: RLock = field(default_factory=RLock, repr=False)

    def take(self, size: int) -> Array:
        """Return an array of at least `size` numbers."""
        with self._lock:
            for number, array in enumerate(self.spare):
                if array.size >= size:
                    return self.spare.pop(number)
        return aligned(size)

    def give_back(self, array: Array) -> None:
        """Take back an array that nobody reads any more; the largest ones are kept."""
        with self._lock:
            self.spare.append(array)
            self.spare.sort(key=lambda b: b.size)
            del self.spare[:-SPARE]

    def lend(self, size: int) -> Loan:
        """Return an array that comes back by itself."""
        return Loan(self, self.take(size))


@dataclass(frozen=True, eq=False)
class Loan:
    """An array of a pool, which gets it back when the loan is forgotten."""

    pool: Pool
    array: Array

    def __del__(self) -> None:
        self.pool.give_back(self.array)


@dataclass(frozen=True, eq=False)
class Tape:
    """The forward sweep over the tiles ``first, ..., last - 1``, their samples, and the law at their outputs.

    Attributes
    ----------
    first, last : int
    samples : Samples
    kept, lam : array
        See `dnnfem.kernels.compiled.drivers`; cotangents are there once they were recorded.
    law : LawLinearization
    bends : dict
        Second derivatives of the law in the outputs, once they were asked for; False: of its curvature.
    """

    first: int
    last: int
    samples: Samples
    kept: Array
    lam: Array
    law: LawLinearization
    bends: dict[bool, Array] = field(default_factory=dict, init=False)


def tile_sums(weights: Array, density: Array, tile: int) -> Array:
    """Return the sum of ``w L`` in each tile; a sum over tiles does not depend on how many were held at a time."""
    # A trial point may be far out: infinity is an answer there.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.sum((weights * density).reshape(-1, tile), axis=1))
