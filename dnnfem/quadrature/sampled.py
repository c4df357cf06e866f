"""Meshes whose points come with values of a function: data that is known wherever points may be needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from dnnfem.quadrature.points import Mesh, Quadrature
from dnnfem.records import Array


@dataclass(frozen=True, eq=False)
class SampledMesh:
    """A mesh with a function that is evaluated once at its points, and at those of every refinement.

    An archive stores the mesh without the function, which has to be put on it again.

    Parameters
    ----------
    mesh : Mesh
        Cells, points and weights.
    function : callable
        Points (m, d) to the data (m, k).
    """

    mesh: Mesh
    function: Callable[[Array], Array]

    @property
    def cell_count(self) -> int:
        """Number of cells."""
        return self.mesh.cell_count

    def quadrature(self) -> Quadrature:
        """Return the points with their data; weights sum to one."""
        rule = self.mesh.quadrature()
        return replace(rule, data=self.function(rule.points), mesh=self)

    def refined(self, marked: Any) -> SampledMesh:
        """Return the refined mesh with the same function."""
        return replace(self, mesh=self.mesh.refined(marked))

    def finer(self) -> SampledMesh:
        """Return the mesh whose points lie between the present ones, with the same function."""
        return replace(self, mesh=self.mesh.finer())

    def attributes(self) -> dict[str, str | int | tuple[Any, ...]]:
        """Return those of the mesh."""
        return self.mesh.attributes()

    def arrays(self) -> dict[str, Array]:
        """Return those of the mesh."""
        return self.mesh.arrays()
