"""Sobol' points in a box: where a product of rules would need too many points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import qmc

from dnnfem.quadrature.arrays import cell_numbers, corners, whole_number
from dnnfem.quadrature.points import Quadrature
from dnnfem.records import Array, Index

MOST_POINTS = 2**30
"""The sequence has that many points."""

_PURPOSE = 1000
"""Part of the key of the draws, apart from those of `dnnfem.spaces.Purpose`."""


@dataclass(frozen=True, eq=False)
class SobolPoints:
    """Scrambled Sobol' points with equal weights; all of them are one cell.

    The error falls nearly as 1/count for a function of bounded variation, for a smooth one nearly as count**-1.5.

    Parameters
    ----------
    low, high : array, shape (d,), or float
        Opposite corners of the box; all points have the same coordinate along an axis without extent.  A box that has
        no extent at all is one point, whatever `count` is.
    count : int
        Number of points, a power of two: only such numbers of points are balanced.
    seed : int
        Which scrambling.
    generation : int
        How often `finer` was called: sequences of another generation are scrambled independently.

    Raises
    ------
    ValueError
        If the corners are no box, `count` is no power of two up to 2**30, or another number is negative or no integer.
    """

    low: Array
    high: Array
    count: int
    seed: int = 0
    generation: int = 0

    def __post_init__(self) -> None:
        low, high = corners(self.low, self.high)
        count = self.count
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or int(count).bit_count() != 1:
            raise ValueError(f"count: got {count!r}, expected a power of two")
        numbers = {
            "count": whole_number("count", count, 1, MOST_POINTS),
            "seed": whole_number("seed", self.seed, 0, 2**63 - 1),
            "generation": whole_number("generation", self.generation, 0, 2**31),
        }
        for name, corner in (("low", low), ("high", high)):
            corner.setflags(write=False)
            object.__setattr__(self, name, corner)
        for name, number in numbers.items():
            object.__setattr__(self, name, number)

    def __reduce__(self) -> tuple[Any, ...]:
        # Arrays that were pickled can be written to.
        return SobolPoints, (self.low, self.high, self.count, self.seed, self.generation)

    @property
    def cell_count(self) -> int:
        """One: points of a sequence do not belong to parts of the box."""
        return 1

    @cached_property
    def axes(self) -> Index:
        """Axes along which the box has an extent."""
        return np.flatnonzero(self.low < self.high)

    def quadrature(self) -> Quadrature:
        """Return the points in the order of the sequence; the weights sum to one."""
        axes = self.axes
        points = np.tile(self.low, (self.count if len(axes) else 1, 1))
        if len(axes):
            # The key does not depend on the number of points: a longer sequence begins with the shorter one.
            key = np.random.SeedSequence(self.seed, spawn_key=(len(axes), _PURPOSE, self.generation))
            sequence = qmc.Sobol(len(axes), scramble=True, seed=np.random.default_rng(key))
            low, high = self.low[axes], self.high[axes]
            points[:, axes] = np.minimum(low + (high - low) * sequence.random(self.count), high)
        m = len(points)
        return Quadrature(points, np.asarray(1.0 / m), cells=np.zeros(m, dtype=np.int64), mesh=self)

    def refined(self, marked: Any) -> SobolPoints:
        """Return twice as many points, the present ones first, bit for bit; itself if there is nothing to do.

        Raises
        ------
        ValueError
            If another cell than 0 is marked, or the sequence has no more points.
        """
        return replace(self, count=2 * self.count) if len(cell_numbers(marked, 1)) and len(self.axes) else self

    def finer(self) -> SobolPoints:
        """Return four times as many points, none of them a present one.

        A functional that was minimized over the present points is small *at* them: a rule that shares them, such as
        the continued sequence, would report too small an error by the share that they have.  Of a sequence with a
        scrambling of its own the points are independent of the present ones, and so are the errors of the two rules.

        Raises
        ------
        ValueError
            If the sequence has no more points.
        """
        return replace(self, count=4 * self.count, generation=self.generation + 1) if len(self.axes) else self

    def attributes(self) -> dict[str, str | int | tuple[Any, ...]]:
        """Return what, with the arrays, rebuilds the mesh."""
        return {"kind": "sobol", "count": self.count, "seed": self.seed, "generation": self.generation}

    def arrays(self) -> dict[str, Array]:
        """Return what, with the attributes, rebuilds the mesh."""
        return {"low": self.low, "high": self.high}
