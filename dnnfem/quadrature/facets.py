"""Meshes on a boundary, which know its normals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dnnfem.quadrature.arrays import as_finite, cell_numbers
from dnnfem.quadrature.points import Mesh, Quadrature
from dnnfem.records import Array

PREFIX = "mesh."
"""Of the names of what belongs to the mesh inside."""

UNIT = 1e-8
"""By how much the length of a normal may differ from one."""


@dataclass(frozen=True, eq=False)
class FacetMesh:
    """A mesh on the flat facets of a boundary, with the outward unit normal of every cell as data of its quadrature.

    Parameters
    ----------
    mesh : Mesh
        Cells on the boundary.
    normals : array, shape (cells, s)
        Outward unit normals, in the coordinates of space.

    Raises
    ------
    ValueError
        If these are not one for each cell, or not of length one.
    """

    mesh: Mesh
    normals: Array

    def __post_init__(self) -> None:
        normals = np.array(as_finite("normals", self.normals, 2), dtype=np.float64)
        if len(normals) != self.cell_count:
            raise ValueError(f"normals: got {len(normals)}, expected {self.cell_count}, one for each cell")
        lengths = np.linalg.norm(normals, axis=1)
        wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= UNIT))
        if len(wrong):
            raise ValueError(f"normals: got length {lengths[wrong[0]]} in cell {wrong[0]}, expected one")
        normals.setflags(write=False)
        object.__setattr__(self, "normals", normals)

    def __reduce__(self) -> tuple[Any, ...]:
        # Arrays that were pickled can be written to.
        return FacetMesh, (self.mesh, self.normals)

    @property
    def cell_count(self) -> int:
        """Number of cells."""
        return self.mesh.cell_count

    def quadrature(self) -> Quadrature:
        """Return the points with the normals as data, shape (m, s); weights sum to one."""
        rule = self.mesh.quadrature()
        return replace(rule, data=self.normals[rule.cells], mesh=self)

    def handed_down(self, mesh: Mesh, numbers: Any) -> FacetMesh:
        """Return the normals on a mesh in which cells have been replaced by equally many children each.

        Parameters
        ----------
        mesh : Mesh
        numbers : int array, shape (k,)
            The cells that have been replaced, each once.
        """
        if mesh is self.mesh:
            return self
        children = np.ones(self.cell_count, dtype=np.int64)
        children[numbers] += (mesh.cell_count - self.cell_count) // len(numbers)
        return FacetMesh(mesh, np.repeat(self.normals, children, axis=0))

    def refined(self, marked: Any) -> FacetMesh:
        """Return the mesh with cells refined; itself if none is marked.

        Raises
        ------
        ValueError
            If there is no such cell, or it cannot be refined.
        """
        numbers = cell_numbers(marked, self.cell_count)
        return self.handed_down(self.mesh.refined(numbers), numbers)

    def finer(self) -> FacetMesh:
        """Return the mesh with all cells refined.

        Raises
        ------
        ValueError
            If a cell cannot be refined.
        """
        return self.handed_down(self.mesh.finer(), np.arange(self.cell_count))

    def attributes(self) -> dict[str, str | int | tuple[Any, ...]]:
        """Return what, with the arrays, rebuilds the mesh."""
        return {"kind": "facets"} | {PREFIX + name: value for name, value in self.mesh.attributes().items()}

    def arrays(self) -> dict[str, Array]:
        """Return what, with the attributes, rebuilds the mesh."""
        return {"normals": self.normals} | {PREFIX + name: array for name, array in self.mesh.arrays().items()}


def inside(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes or arrays of the mesh inside."""
    return {name.removeprefix(PREFIX): value for name, value in values.items() if name.startswith(PREFIX)}
