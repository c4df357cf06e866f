"""Gauss points on boxes that are bisected."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np

from dnnfem.quadrature.arrays import as_finite, cell_numbers, corners, extents, whole_number
from dnnfem.quadrature.points import Quadrature
from dnnfem.records import Array, Index

MOST_POINTS = 100
"""NumPy's Gauss rules are tested up to this size."""

TIE = 1e-9
"""Sides that differ by less, relatively, are of equal length: those of equal cells differ by rounding."""


@dataclass(frozen=True, eq=False)
class BoxMesh:
    """Boxes with sides along the axes, in each of them a product of Gauss-Legendre rules.

    A rule with n points per axis is exact for polynomials of degree 2n - 1 in each variable.  An axis along which no
    cell has an extent gets one point and is never bisected: that is how a face, an edge or a vertex of a box is meshed.

    Parameters
    ----------
    lower, upper : array, shape (c, d)
        Opposite corners of the cells.  That they do not overlap is not checked.
    points : int
        Points along each axis, 1 to 100.

    Raises
    ------
    ValueError
        On NaN or infinity, shapes that differ, no cells, an upper corner below the lower one, or cells of which only
        some have an extent along an axis.
    """

    lower: Array
    upper: Array
    points: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", whole_number("points", self.points, 1, MOST_POINTS))
        # Copies: a mesh must not follow later changes of what it was made from.
        lower, upper = (np.array(as_finite(n, getattr(self, n), 2), dtype=np.float64) for n in ("lower", "upper"))
        if lower.shape != upper.shape or lower.size == 0:
            raise ValueError(f"upper: got shape {upper.shape}, expected {lower.shape} as lower, and at least one cell")
        inverted = np.flatnonzero((lower > upper).any(axis=1))
        if len(inverted):
            first = inverted[0]
            raise ValueError(
                f"lower: got {len(inverted)} inverted cells (first: cell {first} from {lower[first]} to "
                f"{upper[first]}), expected lower <= upper"
            )
        flat = lower == upper
        cell, axis = (found[:1] for found in np.nonzero(flat & ~flat.all(axis=0)))
        if len(cell):
            raise ValueError(
                f"upper: got cell {cell[0]} without extent along axis {axis[0]}, expected some as other cells have"
            )
        extents("upper", lower.min(axis=0), upper.max(axis=0))
        for name, value in (("lower", lower), ("upper", upper)):
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        # Arrays that were pickled can be written to.
        return BoxMesh, (self.lower, self.upper, self.points)

    @classmethod
    def uniform(cls, low: Any, high: Any, cells: Any, points: int = 4) -> BoxMesh:
        """Return equal cells that fill a box; the number of a cell grows fastest along the last axis.

        Parameters
        ----------
        low, high : array, shape (d,), or float
            Opposite corners of the box.
        cells : int, or sequence of d ints
            Cells along each axis; an axis without extent has one, whatever is said.
        points : int
            Points along each axis of a cell.

        Raises
        ------
        ValueError
            If the corners are no box, or a number is not positive.
        """
        low, high = corners(low, high)
        d = len(low)
        several = isinstance(cells, list | tuple) or (isinstance(cells, np.ndarray) and cells.ndim == 1)
        counts = list(cells) if several else [cells] * d
        if len(counts) != d:
            raise ValueError(f"cells: got {len(counts)} numbers, expected one or {d} as there are {d} axes")
        edges = []
        for a, b, n in zip(low, high, (whole_number("cells", n, 1) for n in counts), strict=True):
            edges.append(np.linspace(a, b, 1 + (n if a < b else 1)))
        return cls(_product([edge[:-1] for edge in edges]), _product([edge[1:] for edge in edges]), points)

    @property
    def cell_count(self) -> int:
        """Number of cells."""
        return len(self.lower)

    @cached_property
    def axes(self) -> Index:
        """Axes along which the cells have an extent."""
        return np.flatnonzero(self.lower[0] < self.upper[0])

    @cached_property
    def size(self) -> Array:
        """Sides of the box around all cells, shape (d,)."""
        return extents("upper", self.lower.min(axis=0), self.upper.max(axis=0))

    def quadrature(self) -> Quadrature:
        """Return the points, cell by cell; weights are volumes (lengths, areas, ...) and sum to one."""
        nodes, weights = np.polynomial.legendre.leggauss(self.points)
        extended = np.isin(np.arange(len(self.size)), self.axes)
        reference = _product([nodes if long else np.zeros(1) for long in extended])
        shares: Array = reduce(np.multiply.outer, [weights if long else np.ones(1) for long in extended]).ravel()
        half = (self.upper - self.lower) / 2
        points = (self.lower + half)[:, None, :] + half[:, None, :] * reference
        # Relative to the mesh: a product of many short sides could underflow.
        volumes = np.prod(half[:, self.axes] / self.size[self.axes], axis=1)
        return Quadrature(
            points.reshape(-1, len(self.size)),
            np.outer(volumes / np.sum(volumes), shares / np.sum(shares)).ravel(),
            cells=np.repeat(np.arange(self.cell_count), len(shares)),
            mesh=self,
        )

    def refined(self, marked: Any) -> BoxMesh:
        """Return the mesh with cells bisected across their longest side; itself if none is marked, or none has one.

        Sides are compared relative to those of the box around all cells, and of equally long ones the first is taken:
        where that box was divided alike along all axes no cell gets longer than twice its width, in this measure.  The
        halves take the place of the cell, the lower one first.

        Parameters
        ----------
        marked : int array, shape (k,)
            Numbers of cells, in any order.

        Raises
        ------
        ValueError
            If there is no such cell, or it is too small to be halved.
        """
        numbers = cell_numbers(marked, self.cell_count)
        if len(numbers) == 0 or len(self.axes) == 0:
            return self
        sides = (self.upper[numbers] - self.lower[numbers])[:, self.axes] / self.size[self.axes]
        longest = np.argmax(sides >= (1 - TIE) * sides.max(axis=1, keepdims=True), axis=1)
        return self._bisected(numbers, self.axes[longest])

    def finer(self) -> BoxMesh:
        """Return the mesh with every cell bisected along every axis; its points lie between the present ones.

        Raises
        ------
        ValueError
            If a cell is too small to be halved.
        """
        mesh = self
        for axis in self.axes:
            numbers = np.arange(mesh.cell_count)
            mesh = mesh._bisected(numbers, np.full(len(numbers), axis))
        return mesh

    def _bisected(self, numbers: Index, axes: Index) -> BoxMesh:
        low, high = self.lower[numbers, axes], self.upper[numbers, axes]
        middle = low + (high - low) / 2
        stuck = np.flatnonzero((middle <= low) | (middle >= high))
        if len(stuck):
            k = stuck[0]
            raise ValueError(
                f"marked: got cell {numbers[k]} from {low[k]} to {high[k]} along axis {axes[k]}, expected one that can "
                "be halved: there is no number between"
            )
        halves = np.ones(self.cell_count, dtype=np.int64)
        halves[numbers] = 2
        first = (np.cumsum(halves) - halves)[numbers]
        lower, upper = np.repeat(self.lower, halves, axis=0), np.repeat(self.upper, halves, axis=0)
        upper[first, axes] = middle
        lower[first + 1, axes] = middle
        return replace(self, lower=lower, upper=upper)

    def attributes(self) -> dict[str, str | int | tuple[Any, ...]]:
        """Return what, with the arrays, rebuilds the mesh."""
        return {"kind": "boxes", "points": self.points}

    def arrays(self) -> dict[str, Array]:
        """Return what, with the attributes, rebuilds the mesh."""
        return {"lower": self.lower, "upper": self.upper}


def _product(axes: list[Array]) -> Array:
    """Return all combinations of one number per axis, shape (combinations, d); the last axis runs fastest."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
