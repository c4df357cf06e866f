"""Domains that are given by a mesh of simplices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dnnfem.problems.domains import Predicate, Times, named
from dnnfem.problems.meshing import CELLS, MOST_GAUSS, extruded, mesh_of_simplices
from dnnfem.quadrature import Mesh, SimplexMesh, as_finite
from dnnfem.quadrature.simplices import checked_cells, volumes
from dnnfem.records import Array, Index


@dataclass(frozen=True, eq=False)
class Triangles:
    """Facets of simplices; see `dnnfem.problems.domains.Facets`.

    Parameters
    ----------
    vertices : array, shape (n, d)
    cells : int array, shape (m, d)
        Numbers of the vertices of each facet.
    normals : array, shape (m, d)
        Outward unit normals.
    """

    vertices: Array
    cells: Index
    normals: Array

    @property
    def corners(self) -> Array:
        """Corners, shape (m, d, d)."""
        return self.vertices[self.cells]

    @cached_property
    def measures(self) -> Array:
        """Lengths, areas, ...; of a point it is one; shape (m,)."""
        return SimplexMesh(self.vertices, self.cells, 1).volumes

    @property
    def midpoints(self) -> Array:
        """Means of the corners, shape (m, d)."""
        found: Array = self.corners.mean(axis=1)
        return found

    def take(self, index: Index) -> Triangles:
        """Return some of them."""
        return Triangles(self.vertices, self.cells[index], self.normals[index])


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Simplices:
    """A domain that is covered by a conforming mesh of intervals, triangles or tetrahedra.

    The mesh says what the domain is, and where points are at the beginning: cells that are coarse for that are cut.

    Parameters
    ----------
    points : array, shape (n, d)
        Vertices, in one to three dimensions.
    cells : int array, shape (c, d + 1)
        Numbers of the vertices of each cell, positively oriented: counterclockwise in the plane.  Where the order of
        vertices means nothing, as in scikit-fem, see `Simplices.oriented`.
    parts : mapping of str to callable, optional
        Parts of the boundary: names with functions of the midpoints of facets, shape (m, d), to a mask (m,).  A facet
        belongs to the first part that takes it; what is left is called ``"boundary"``.

    Raises
    ------
    ValueError
        If a cell is inverted or flat, or overlaps with its neighbour; if shapes are wrong, or transposed; if a part has
        no facets, or its function returns no mask.

    Notes
    -----
    From meshio: ``Simplices(mesh.points[:, :2], mesh.cells_dict["triangle"])``; from scikit-fem:
    ``Simplices.oriented(mesh.p.T, mesh.t.T)``.  Where the mesh does not fit together, with a vertex inside an edge of
    another cell, both sides of this edge count as boundary.

    Examples
    --------
    >>> points, cells = [[0, 0], [1, 0], [1, 1], [0, 1]], [[0, 1, 2], [0, 2, 3]]
    >>> square = fem.Simplices(points, cells, parts={"left": lambda p: p[:, 0] == 0.0})
    >>> square.volume, sorted(square.parts)
    (1.0, ['boundary', 'left'])
    """

    points: Array
    cells: Index
    parts: Mapping[str, Triangles]
    volume: float

    def __init__(self, points: Any, cells: Any, parts: Mapping[str, Predicate] | None = None) -> None:
        vertices = as_finite("points", points, 2)
        mesh = SimplexMesh(vertices, cells, 1)
        if mesh.cell_dim != vertices.shape[1]:
            third = "; pass points[:, :2] if the last one is always zero" if vertices.shape[1] == 3 else ""
            raise ValueError(
                f"cells: got {mesh.cell_dim + 1} vertices per cell and points with {vertices.shape[1]} coordinates, "
                f"expected one vertex more than coordinates{third}"
            )
        if mesh.cell_dim > MOST_GAUSS:
            raise ValueError(
                f"points: got {mesh.cell_dim} coordinates, expected at most {MOST_GAUSS}: above there are boxes only"
            )
        object.__setattr__(self, "points", mesh.vertices)
        object.__setattr__(self, "cells", mesh.cells)
        object.__setattr__(self, "volume", float(np.sum(mesh.volumes)))
        object.__setattr__(self, "parts", named(self.facets, parts))

    @classmethod
    def oriented(cls, points: Any, cells: Any, parts: Mapping[str, Predicate] | None = None) -> Simplices:
        """Return the same from cells whose vertices are in any order: two of them are exchanged where this is negative.

        Cells that overlap are found nevertheless, by their neighbours.

        Raises
        ------
        ValueError
            As for `Simplices`, but for inverted cells.
        """
        vertices = as_finite("points", points, 2)
        found = checked_cells(vertices, cells)
        if found.shape[1] == vertices.shape[1] + 1:
            negative = volumes(vertices, found) < 0.0
            found[negative, :2] = found[negative, 1::-1]
        return cls(vertices, found, parts)

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return int(self.points.shape[1])

    @cached_property
    def _corners(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        used = self.points[np.unique(self.cells)]
        return tuple(used.min(axis=0).tolist()), tuple(used.max(axis=0).tolist())

    @property
    def low(self) -> tuple[float, ...]:
        """Lower corner of the smallest box around the domain."""
        return self._corners[0]

    @property
    def high(self) -> tuple[float, ...]:
        """Upper corner of this box."""
        return self._corners[1]

    @cached_property
    def facets(self) -> Triangles:
        """The boundary: facets of one cell only."""
        owners, opposite, cells = boundary(self.cells)
        inner = self.points[self.cells[owners, opposite]] - self.points[cells[:, 0]]
        return Triangles(self.points, cells, outward(self.points[cells], inner))

    def _times(self, time: Times | None) -> Array | None:
        """Return the times between which there are layers of prisms at the beginning."""
        if time is not None and self.dim + 1 > MOST_GAUSS:
            raise ValueError(
                f"time: got an interval for simplices in {self.dim} dimensions, expected at most {MOST_GAUSS - 1}: "
                "above there are boxes only"
            )
        if time is None:
            return None
        return np.linspace(*time, CELLS[self.dim + 1] + 1) if time[0] < time[1] else np.array(time[:1])

    def mesh(self, time: Times | None, seeds: Iterator[int]) -> Mesh:
        """Return Gauss points on cells; see `dnnfem.problems.domains.Domain`."""
        times, volume = self._times(time), self.volume
        vertices, cells = (self.points, self.cells) if times is None else extruded(self.points, self.cells, times)
        if time is not None and time[0] < time[1]:
            volume *= time[1] - time[0]
        return mesh_of_simplices(vertices, cells, volume / CELLS[vertices.shape[1]] ** (cells.shape[1] - 1))

    def facet_mesh(self, names: Sequence[str], time: Times | None, seeds: Iterator[int]) -> Mesh:
        """Return the same on parts of the boundary; see `dnnfem.problems.domains.Domain`."""
        pieces, times = [self.parts[name] for name in names], self._times(time)
        vertices, cells = self.points, np.concatenate([piece.cells for piece in pieces])
        normals = np.concatenate([piece.normals for piece in pieces])
        measure = float(np.sum(self.facets.measures))
        if time is not None and times is not None:
            normals = np.tile(np.repeat(normals, cells.shape[1], axis=0), (len(times) - 1, 1))
            vertices, cells = extruded(vertices, cells, times)
            measure *= time[1] - time[0]
        # A box has two sides along each axis.
        sides = 2 * self.dim * CELLS[vertices.shape[1]] ** (cells.shape[1] - 1)
        return mesh_of_simplices(vertices, cells, measure / sides, normals)

    def __repr__(self) -> str:
        return f"{len(self.cells)} simplices in {self.dim} dimensions"


def boundary(cells: Index) -> tuple[Index, Index, Index]:
    """Return the facets of cells (c, d + 1) that are on the boundary, as three arrays.

    Returns
    -------
    owners, opposite : int array, shape (m,)
        Their cell, and which of its vertices is opposite to them.
    facets : int array, shape (m, d)
        Numbers of their vertices.

    Raises
    ------
    ValueError
        If three cells meet in a facet, or two that are on the same side of it.
    """
    count, corners = cells.shape
    every = np.stack([np.delete(cells, j, axis=1) for j in range(corners)], axis=1).reshape(-1, corners - 1)
    # The sign of the permutation that sorts the vertices, and of the place of the opposite vertex: two cells that are
    # positively oriented and on different sides have different ones.
    first, second = np.triu_indices(corners - 1, 1)
    odd = ((every[:, first] > every[:, second]).sum(axis=1) + np.tile(np.arange(corners), count)) % 2
    rows = np.sort(every, axis=1)
    order = np.lexsort(rows.T[::-1])
    same = (rows[order[1:]] == rows[order[:-1]]).all(axis=1)
    owner = order // corners
    wrong = np.flatnonzero(same & (odd[order[1:]] == odd[order[:-1]]))
    if len(wrong):
        one, other = sorted((int(owner[wrong[0]]), int(owner[wrong[0] + 1])))
        raise ValueError(
            f"cells: got cell {one} and cell {other} on the same side of the facet {rows[order[wrong[0]]].tolist()}, "
            "expected cells that do not overlap"
        )
    crowded = np.flatnonzero(same[1:] & same[:-1])
    if len(crowded):
        members = owner[crowded[0] : crowded[0] + 3].tolist()
        raise ValueError(
            f"cells: got the facet {rows[order[crowded[0]]].tolist()} in the cells {members}, expected two at most"
        )
    alone = np.sort(order[~(np.append(same, False) | np.insert(same, 0, False))])
    return alone // corners, alone % corners, every[alone]


def outward(corners: Array, inner: Array) -> Array:
    """Return unit normals (m, d) of facets with corners (m, d, d) that point away from vectors `inner` (m, d)."""
    edges = corners[:, 1:] - corners[:, :1]
    lengths = np.linalg.norm(edges, axis=2, keepdims=True)
    # The last column of a complete orthogonal factor is orthogonal to all edges.
    factors = np.linalg.qr(np.swapaxes(edges / lengths, 1, 2), mode="complete")[0]
    normals: Array = factors[:, :, -1]
    along = np.sum(normals * inner, axis=1, keepdims=True)
    return np.where(along > 0.0, -normals, normals)
