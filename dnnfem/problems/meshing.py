"""Meshes that collocation begins with: cells, or Sobol' points, on boxes, on their sides, and on simplices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np

from dnnfem.quadrature import BoxMesh, FacetMesh, Mesh, SimplexMesh, SobolPoints, UnionMesh
from dnnfem.records import Array, Index

MOST_GAUSS = 3
"""Dimensions up to which there are Gauss points on cells, and Sobol' points above."""

CELLS = {1: 16, 2: 8, 3: 4}
"""Cells per axis at the beginning, by the number of axes."""

GAUSS = 4
"""Gauss points per axis of a cell."""

FEWEST_GAUSS, MANY_POINTS = 2, 2**16
"""Of meshes with so many cells that there would be more points than the second number: at least the first number."""

ROUNDING = 1e-9
"""Relative difference of volumes that counts as rounding."""

SOBOL, SOBOL_SIDES, FEWEST_SOBOL = 4096, 2048, 64
"""Sobol' points inside, on all sides with the same condition together, and at least on each of them."""


def power_of_two(number: float) -> int:
    """Return the largest power of two up to a number, at least `FEWEST_SOBOL`."""
    return max(FEWEST_SOBOL, 1 << int(number).bit_length() - 1) if number >= 1 else FEWEST_SOBOL


def in_time(lower: Array, upper: Array, time: tuple[float, float] | None) -> tuple[Array, Array]:
    """Return corners of boxes (b, d) with time as their last coordinate, if there is one."""
    if time is None:
        return lower, upper
    first, last = (np.full((len(lower), 1), t) for t in time)
    return np.hstack([lower, first]), np.hstack([upper, last])


def _widths(lower: Array, upper: Array) -> Array:
    """Return the sides of cells of which a union of boxes has about as many as a single box has by default."""
    size = upper.max(axis=0) - lower.min(axis=0)
    long = size > 0.0
    unit = size[long] / CELLS[len(size)]
    filled = np.sum(np.prod((upper - lower)[:, long] / size[long], axis=1))
    widths = np.ones(len(size))
    # The share of the box around them that they fill, spread over all axes.
    widths[long] = unit * filled ** (1.0 / max(int(np.sum(long)), 1))
    return widths


def _cells(lower: Array, upper: Array, widths: Array) -> tuple[BoxMesh, Index]:
    """Return boxes (b, d) cut into equal cells of about these sides, and how many cells each of them has."""
    # A little more than a multiple is this multiple: sides are differences, and rounded.
    counts = np.maximum(np.rint((upper - lower) / widths), 1).astype(np.int64)
    meshes = [BoxMesh.uniform(a, b, list(n), GAUSS) for a, b, n in zip(lower, upper, counts.tolist(), strict=True)]
    low, high = (np.concatenate([getattr(mesh, name) for mesh in meshes]) for name in ("lower", "upper"))
    return BoxMesh(low, high, GAUSS), np.array([mesh.cell_count for mesh in meshes])


def mesh_of_boxes(lower: Array, upper: Array, time: tuple[float, float] | None, seeds: Iterator[int]) -> Mesh:
    """Return a mesh of boxes (b, d) that do not overlap; weights are volumes."""
    lower, upper = in_time(lower, upper, time)
    if lower.shape[1] <= MOST_GAUSS:
        return _cells(lower, upper, _widths(lower, upper))[0]
    # Powers of two, and shares in proportion to volumes whatever these are.
    shares = _measures(lower, upper)
    meshes = [
        SobolPoints(a, b, power_of_two(SOBOL * share), next(seeds))
        for a, b, share in zip(lower, upper, shares / np.sum(shares), strict=True)
    ]
    return meshes[0] if len(meshes) == 1 else UnionMesh(tuple(meshes), shares.tolist())


def _measures(lower: Array, upper: Array) -> Array:
    """Return products of the sides that are not zero, shape (b,)."""
    sides = upper - lower
    found: Array = np.prod(np.where(sides > 0.0, sides, 1.0), axis=1)
    return found


@dataclass(frozen=True, eq=False)
class Rectangles:
    """Pieces of sides of boxes; see `dnnfem.problems.domains.Facets`.

    Parameters
    ----------
    lower, upper : array, shape (m, d)
        Opposite corners, equal along the axis of the normal.
    normals : array, shape (m, d)
        Outward unit normals.
    """

    lower: Array
    upper: Array
    normals: Array

    @classmethod
    def sides(cls, lower: Array, upper: Array) -> Rectangles:
        """Return all sides of boxes (b, d): those of the first box, then those of the next one."""
        count, d = lower.shape
        low, high = (np.repeat(corner, 2 * d, axis=0) for corner in (lower, upper))
        rows, axes = np.arange(2 * d * count), np.tile(np.repeat(np.arange(d), 2), count)
        ends = rows % 2
        place = np.where(ends == 0, low[rows, axes], high[rows, axes])
        low[rows, axes] = high[rows, axes] = place
        normals = np.zeros(low.shape)
        normals[rows, axes] = 2.0 * ends - 1.0
        return cls(low, high, normals)

    @cached_property
    def corners(self) -> Array:
        """Corners, shape (m, 2^(d-1), d), the last axis running fastest."""
        axes = self.axes[:, None]
        d = self.lower.shape[1]
        across = np.arange(d - 1) + (np.arange(d - 1) >= axes)
        found = np.repeat(self.lower[:, None, :], 2 ** (d - 1), axis=1)
        for number, ends in enumerate(product((False, True), repeat=d - 1)):
            for column, end in enumerate(ends):
                if end:
                    rows = np.arange(len(axes))
                    found[rows, number, across[:, column]] = self.upper[rows, across[:, column]]
        return found

    @property
    def axes(self) -> Index:
        """Axes of the normals, shape (m,)."""
        found: Index = np.argmax(np.abs(self.normals), axis=1)
        return found

    @property
    def measures(self) -> Array:
        """Lengths, areas, ...; of a point it is one; shape (m,)."""
        return _measures(self.lower, self.upper)

    @property
    def midpoints(self) -> Array:
        """Midpoints, shape (m, d)."""
        return 0.5 * self.lower + 0.5 * self.upper

    def take(self, index: Index) -> Rectangles:
        """Return some of them."""
        return Rectangles(self.lower[index], self.upper[index], self.normals[index])

    def mesh(self, lower: Array, upper: Array, time: tuple[float, float] | None, seeds: Iterator[int]) -> Mesh:
        """Return a mesh of them, with cells as long as those of `mesh_of_boxes`, to which they belong."""
        low, high = in_time(self.lower, self.upper, time)
        measures, meshes, shares = _measures(low, high), [], []
        if low.shape[1] <= MOST_GAUSS:
            widths = _widths(*in_time(lower, upper, time))
            # All cells of a mesh are flat along the same axis.
            for axis in np.unique(self.axes):
                own = np.flatnonzero(self.axes == axis)
                mesh, counts = _cells(low[own], high[own], widths)
                meshes.append(FacetMesh(mesh, np.repeat(self.normals[own], counts, axis=0)))
                shares.append(float(np.sum(measures[own])))
        else:
            for k, share in enumerate(measures / np.sum(measures)):
                points = SobolPoints(low[k], high[k], power_of_two(SOBOL_SIDES * share), next(seeds))
                meshes.append(FacetMesh(points, self.normals[k : k + 1]))
                shares.append(float(share))
        return meshes[0] if len(meshes) == 1 else UnionMesh(tuple(meshes), shares)


def extruded(vertices: Array, cells: Index, times: Array) -> tuple[Array, Index]:
    """Return simplices in space and time: prisms between one time and the next one, each cut into ``k + 1`` simplices.

    Parameters
    ----------
    vertices : array, shape (n, d)
    cells : int array, shape (c, k + 1)
    times : array, shape (layers + 1,)
        With a single time the simplices stay what they are, and get it as a further coordinate.
    """
    corners, n = cells.shape[1], len(vertices)
    points = np.concatenate([np.column_stack([vertices, np.full(n, t)]) for t in times])
    if len(times) == 1:
        return points, cells
    # v_0 ... v_i at the first time, and v_i ... v_k at the second one.
    table = np.array([[*range(i + 1), *range(corners + i, 2 * corners)] for i in range(corners)])
    reference = np.vstack([np.zeros(corners - 1), np.eye(corners - 1)])
    prism = np.vstack([np.column_stack([reference, np.full(corners, t)]) for t in (0.0, 1.0)])
    turned = np.linalg.det(prism[table[:, 1:]] - prism[table[:, :1]]) < 0.0
    table[turned, :2] = table[turned, 1::-1]
    prisms = [np.concatenate([cells, cells + n], axis=1) + layer * n for layer in range(len(times) - 1)]
    return points, np.concatenate(prisms)[:, table].reshape(-1, corners + 1)


def mesh_of_simplices(vertices: Array, cells: Index, fair: float, normals: Array | None = None) -> Mesh:
    """Return a mesh of simplices, with normals on a boundary; those that are larger than `fair` are bisected."""
    fair *= 1.0 + ROUNDING
    found = SimplexMesh(vertices, cells, FEWEST_GAUSS)
    facets = None if normals is None else FacetMesh(found, normals)
    while found.cell_dim and (found.volumes > fair).any():
        large = np.flatnonzero(found.volumes > fair)
        found = found.refined(large)
        # The same children, in the same places.
        facets = None if facets is None else facets.handed_down(found, large)
    counts = range(GAUSS, FEWEST_GAUSS, -1)
    points = next((n for n in counts if found.cell_count * n**found.cell_dim <= MANY_POINTS), FEWEST_GAUSS)
    found = replace(found, points=points)
    return found if facets is None else FacetMesh(found, facets.normals)
