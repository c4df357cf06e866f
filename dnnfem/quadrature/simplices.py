"""Gauss points on simplices that are bisected: intervals, triangles, tetrahedra, and the facets of these."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
from scipy.special import roots_jacobi

from dnnfem.quadrature.arrays import as_finite, cell_numbers, extents, whole_number
from dnnfem.quadrature.points import Quadrature
from dnnfem.records import Array, Index

MOST_POINTS = 50
"""Points along an edge up to which rules are tested."""

DEGENERATE = 1e-13
"""A cell is flat if its volume, relative to that of a simplex with orthogonal edges as long, is below this."""

TIE = 1e-9
"""Edges that differ by less, relatively, are of equal length: of these the first one is bisected."""


@dataclass(frozen=True, eq=False)
class SimplexMesh:
    """Simplices, in each of them a conical product of Gauss-Jacobi rules.

    A rule with n points along an edge has ``n^k`` points in a simplex of dimension k and positive weights, and is exact
    for polynomials of degree ``2n - 1``.  Simplices may have a lower dimension than the space: that is how facets of a
    mesh are meshed.  The mesh need not be conforming, and refinement does not keep it so: nothing is continuous across
    cells but the integrand.

    Parameters
    ----------
    vertices : array, shape (n, d)
        Coordinates.
    cells : int array, shape (c, k + 1)
        Numbers of the vertices of each cell, ``k <= d``.  Cells of dimension d have to be positively oriented:
        counterclockwise in the plane.  That they do not overlap is not checked.
    points : int
        Points along an edge, 1 to 50.

    Raises
    ------
    ValueError
        On NaN or infinity, wrong shapes, vertices that there are not, no cells, or cells that are inverted or flat.

    References
    ----------
    Stroud, Approximate Calculation of Multiple Integrals (1971), section 2.4, for the rules; Rivara, Int. J. Numer.
    Methods Eng. 20 (1984) 745-756, for the bisection of longest edges.
    """

    vertices: Array
    cells: Index
    points: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", whole_number("points", self.points, 1, MOST_POINTS))
        # Copies: a mesh must not follow later changes of what it was made from.
        vertices = np.array(as_finite("vertices", self.vertices, 2), dtype=np.float64)
        cells = checked_cells(vertices, self.cells)
        extents("vertices", vertices[cells].min(axis=(0, 1)), vertices[cells].max(axis=(0, 1)))
        for name, value in (("vertices", vertices), ("cells", cells)):
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        check_volumes(self.vertices, self.cells)

    def __reduce__(self) -> tuple[Any, ...]:
        # Arrays that were pickled can be written to.
        return SimplexMesh, (self.vertices, self.cells, self.points)

    @property
    def cell_count(self) -> int:
        """Number of cells."""
        return len(self.cells)

    @property
    def cell_dim(self) -> int:
        """Dimension k of the cells."""
        return int(self.cells.shape[1]) - 1

    @cached_property
    def size(self) -> Array:
        """Sides of the box around all cells, shape (d,)."""
        used = self.vertices[np.unique(self.cells)]
        return extents("vertices", used.min(axis=0), used.max(axis=0))

    @cached_property
    def volumes(self) -> Array:
        """Volumes of the cells (lengths, areas, ...), shape (c,)."""
        return np.abs(volumes(self.vertices, self.cells))

    def quadrature(self) -> Quadrature:
        """Return the points, cell by cell; weights are volumes (lengths, areas, ...) and sum to one."""
        where, shares = conical_rule(self.cell_dim, self.points)
        points = np.matmul(where, self.vertices[self.cells])
        # Relative to the mesh: a product of many short edges could underflow.
        unit = np.max(self.size) if self.cell_dim else 1.0
        parts = np.abs(volumes(self.vertices / unit, self.cells))
        return Quadrature(
            points.reshape(-1, points.shape[-1]),
            np.outer(parts / np.sum(parts), shares).ravel(),
            cells=np.repeat(np.arange(self.cell_count), len(shares)),
            mesh=self,
        )

    def refined(self, marked: Any) -> SimplexMesh:
        """Return the mesh with cells bisected at the midpoint of their longest edge; itself if none is marked.

        Only the marked cells are.  Edges are compared relative to the box around all cells.  Both halves take the place
        of the cell, and have its orientation.

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
        if len(numbers) == 0 or self.cell_dim == 0:
            return self
        cells, pairs = self.cells[numbers], np.array(list(combinations(range(self.cell_dim + 1), 2)))
        corners = self.vertices[cells] / np.where(self.size > 0.0, self.size, 1.0)
        lengths = np.linalg.norm(corners[:, pairs[:, 0]] - corners[:, pairs[:, 1]], axis=2)
        longest = pairs[np.argmax(lengths >= (1 - TIE) * lengths.max(axis=1, keepdims=True), axis=1)]
        rows = np.arange(len(numbers))
        vertices, middles = self._midpoints(np.stack([cells[rows, longest[:, 0]], cells[rows, longest[:, 1]]], axis=1))
        halves = np.ones(self.cell_count, dtype=np.int64)
        halves[numbers] = 2
        first = (np.cumsum(halves) - halves)[numbers]
        found = np.repeat(self.cells, halves, axis=0)
        found[first, longest[:, 1]] = middles
        found[first + 1, longest[:, 0]] = middles
        return replace(self, vertices=vertices, cells=found)

    def finer(self) -> SimplexMesh:
        """Return the mesh with every cell cut into ``2^k`` of the same volume; its points lie between the present ones.

        Edges are halved; the children of a cell follow each other.  Triangles are cut into four that are similar to
        them, tetrahedra into eight of at most three shapes, which stay the same ones however often they are cut
        (Edelsbrunner and Grayson, Discrete Comput. Geom. 24, 2000, 707-719).

        Raises
        ------
        ValueError
            If a cell is too small to be halved.
        """
        if self.cell_dim == 0:
            return self
        # All pairs (a, b) of vertices, with a == b for these themselves.
        ends = np.stack(np.triu_indices(self.cell_dim + 1), axis=1)
        vertices, middles = self._midpoints(self.cells[:, ends].reshape(-1, 2))
        table = np.zeros((self.cell_dim + 1, self.cell_dim + 1), dtype=np.int64)
        table[ends[:, 0], ends[:, 1]] = np.arange(len(ends))
        children = _children(self.cell_dim)
        found = middles.reshape(self.cell_count, -1)[:, table[children[..., 0], children[..., 1]]]
        return replace(self, vertices=vertices, cells=found.reshape(-1, self.cell_dim + 1))

    def _midpoints(self, edges: Index) -> tuple[Array, Index]:
        """Return the vertices with midpoints of edges (e, 2) added, and the numbers of these; an edge has one."""
        low, high = np.min(edges, axis=1), np.max(edges, axis=1)
        count = len(self.vertices)
        keys, place = np.unique(low * count + high, return_inverse=True)
        a, b = np.divmod(keys, count)
        proper = a < b
        numbers = np.where(proper, count + np.cumsum(proper) - 1, a)
        # Halved before the sum: huge coordinates must not overflow.
        added = 0.5 * self.vertices[a[proper]] + 0.5 * self.vertices[b[proper]]
        return np.concatenate([self.vertices, added]), numbers[place.reshape(-1)]

    def attributes(self) -> dict[str, str | int | tuple[Any, ...]]:
        """Return what, with the arrays, rebuilds the mesh."""
        return {"kind": "simplices", "points": self.points}

    def arrays(self) -> dict[str, Array]:
        """Return what, with the attributes, rebuilds the mesh."""
        cells: Any = self.cells
        return {"vertices": self.vertices, "cells": cells}


def checked_cells(vertices: Array, cells: Any) -> Index:
    """Return cells as a copy of integers.

    Raises
    ------
    ValueError
        If they are no numbers of vertices, or too many or too few of them for a simplex.
    """
    raw = np.array(cells)
    hint = ""
    if raw.ndim == 2 and len(vertices) < vertices.shape[1] and len(raw) <= len(vertices) + 1:
        hint = "; both look transposed, as scikit-fem has them: pass mesh.p.T and mesh.t.T"
    if raw.dtype.kind not in "iu" or raw.ndim != 2:
        raise ValueError(f"cells: got shape {raw.shape} of {raw.dtype}, expected integers of shape (cells, k + 1)")
    dim = vertices.shape[1]
    if raw.shape[0] == 0 or not 1 <= raw.shape[1] <= dim + 1:
        raise ValueError(
            f"cells: got shape {raw.shape}, expected at least one row, of at most {dim + 1} numbers, as vertices of "
            f"shape {vertices.shape} have {dim} coordinates{hint}"
        )
    wrong = np.flatnonzero(((raw < 0) | (raw >= len(vertices))).any(axis=1))
    if len(wrong):
        raise ValueError(
            f"cells: got cell {wrong[0]} with the vertices {raw[wrong[0]].tolist()}, expected numbers from 0 to "
            f"{len(vertices) - 1}{hint}"
        )
    return raw.astype(np.int64)


def volumes(vertices: Array, cells: Index) -> Array:
    """Return the volumes of cells (c, k + 1), with the sign of their orientation if k is the dimension of space."""
    lengths, shapes = _edges(vertices, cells)
    found: Array = shapes * np.prod(lengths, axis=1) / factorial(lengths.shape[1])
    return found


def _edges(vertices: Array, cells: Index) -> tuple[Array, Array]:
    """Return lengths (c, k) of the edges at the first vertex, and what unit vectors along them span, shape (c,)."""
    edges = vertices[cells[:, 1:]] - vertices[cells[:, :1]]
    k, d = edges.shape[1:]
    longest = np.abs(edges).max(axis=2) if k else np.empty(edges.shape[:2])
    unit = np.where(longest > 0.0, longest, 1.0)[..., None]
    # Divided twice: squares of tiny or huge numbers are no numbers.
    lengths = np.linalg.norm(edges / unit, axis=2)
    directions = edges / unit / np.where(lengths > 0.0, lengths, 1.0)[..., None]
    lengths = lengths * unit[..., 0]
    if k == 0:
        return lengths, np.ones(len(cells))
    if k == d:
        return lengths, np.linalg.det(directions)
    # By orthogonal factors: the determinant of products would lose half of the digits.
    triangles = np.linalg.qr(np.swapaxes(directions, 1, 2), mode="r")
    return lengths, np.prod(np.abs(np.diagonal(triangles, axis1=1, axis2=2)), axis=1)


def check_volumes(vertices: Array, cells: Index) -> None:
    """Raise a `ValueError` that names the first cell that is inverted or flat, and its vertices."""
    shapes = _edges(vertices, cells)[1]
    wrong = np.flatnonzero(~(shapes > DEGENERATE))
    if len(wrong) == 0:
        return
    first = wrong[0]
    inverted = shapes[first] < -DEGENERATE
    advice = "; Simplices.oriented takes vertices in any order" if inverted else ""
    raise ValueError(
        f"cells: got {len(wrong)} inverted or flat cells (first: cell {first} is {'inverted' if inverted else 'flat'}, "
        f"with the vertices {cells[first].tolist()} at {vertices[cells[first]].tolist()}), expected positive "
        f"volumes{advice}"
    )


@cache
def conical_rule(k: int, points: int) -> tuple[Array, Array]:
    """Return barycentric coordinates (points^k, k + 1) and weights that sum to one.

    With ``lambda_i = t_i prod_{j < i} (1 - t_j)`` the cube is mapped to the simplex, and the determinant of that,
    ``prod_i (1 - t_i)^(k - i)``, is the weight of a Gauss-Jacobi rule in each of the variables.
    """
    where, weights, rest = np.empty((1, 0)), np.ones(1), np.ones(1)
    for i in range(1, k + 1):
        nodes, own = roots_jacobi(points, k - i, 0.0)
        t = 0.5 * (1.0 + nodes)
        where = np.concatenate([np.repeat(where, points, axis=0), np.multiply.outer(rest, t).reshape(-1, 1)], axis=1)
        rest = np.multiply.outer(rest, 1.0 - t).ravel()
        weights = np.multiply.outer(weights, own / np.sum(own)).ravel()
    where = np.concatenate([where, rest[:, None]], axis=1)
    for array in (where, weights):
        array.setflags(write=False)
    return where, weights


@cache
def _children(k: int) -> Index:
    """Return the ``2^k`` simplices that a simplex is cut into, shape (2^k, k + 1, 2): midpoints of pairs of vertices.

    A path from the pair (0, s) to (s, k) that raises one of both numbers by one in every step is a child.
    """
    found = []
    for s in range(k + 1):
        for raised in combinations(range(k), s):
            steps = np.isin(np.arange(k), raised)
            first = np.concatenate([[0], np.cumsum(steps)])
            pairs = np.stack([first, s + np.concatenate([[0], np.cumsum(~steps)])], axis=1)
            barycentric = 0.5 * (np.eye(k + 1)[pairs[:, 0]] + np.eye(k + 1)[pairs[:, 1]])
            # Children have the orientation of their cell.
            found.append(pairs if np.linalg.det(barycentric) > 0.0 else pairs[_turn(k)])
    return np.array(found)


def _turn(k: int) -> Index:
    """Return an odd permutation of the ``k + 1`` vertices of a simplex, which turns its orientation.

    The cells that a simplex is cut into, again and again, belong to the lattice of its edges ``v_(i+1) - v_i``, with
    the one from the last vertex to the first.  Vertices in reversed order, or shifted in a cycle, have the same
    lattice, while with two of them exchanged shapes would become worse from level to level.  Beyond three dimensions
    there may be no such order.
    """
    if k * (k + 1) // 2 % 2:
        return np.arange(k, -1, -1)
    return np.roll(np.arange(k + 1), 1) if k % 2 else np.array([1, 0, *range(2, k + 1)])
