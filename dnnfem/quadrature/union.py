"""Several meshes as one: the sides of a box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnnfem.quadrature.arrays import cell_numbers
from dnnfem.quadrature.points import Mesh, Quadrature
from dnnfem.records import Array, Index


@dataclass(frozen=True, eq=False)
class UnionMesh:
    """Meshes whose cells are numbered one after another; each has the same share of the weights.

    Equal shares, and not volumes: sides of a box in space and time have volumes of different units.

    Parameters
    ----------
    parts : tuple of Mesh
        With equally many coordinates.

    Raises
    ------
    ValueError
        If there is none.
    """

    parts: tuple[Mesh, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise ValueError("parts: got none, expected at least one mesh")

    @property
    def cell_count(self) -> int:
        """Number of cells of all parts."""
        return sum(part.cell_count for part in self.parts)

    @property
    def _begins(self) -> Index:
        """Numbers of the first cells of the parts, and the number of cells."""
        return np.cumsum([0, *(part.cell_count for part in self.parts)])

    def quadrature(self) -> Quadrature:
        """Return the points, part by part; weights sum to one."""
        rules = [part.quadrature() for part in self.parts]
        cells = [begin + rule.cells for begin, rule in zip(self._begins[:-1], rules, strict=True)]
        return Quadrature(
            np.concatenate([rule.points for rule in rules]),
            np.concatenate([rule.weights for rule in rules]) / len(rules),
            cells=np.concatenate(cells),
            mesh=self,
        )

    def refined(self, marked: Any) -> UnionMesh:
        """Return the union of the parts with marked cells refined; itself if none is marked.

        Raises
        ------
        ValueError
            If there is no such cell, or a part cannot refine it.
        """
        numbers, begins = cell_numbers(marked, self.cell_count), self._begins
        if len(numbers) == 0:
            return self
        owner = np.searchsorted(begins, numbers, side="right") - 1
        return UnionMesh(tuple(part.refined(numbers[owner == k] - begins[k]) for k, part in enumerate(self.parts)))

    def finer(self) -> UnionMesh:
        """Return the union of the finer parts.

        Raises
        ------
        ValueError
            If their cells do not have equally many children: parts of one kind and dimension do.
        """
        finer = UnionMesh(tuple(part.finer() for part in self.parts))
        children = {fine.cell_count / part.cell_count for fine, part in zip(finer.parts, self.parts, strict=True)}
        if len(children) > 1:
            raise ValueError(f"parts: got meshes whose cells have {sorted(children)} children, expected equally many")
        return finer

    def attributes(self) -> dict[str, str | int | tuple[Any, ...]]:
        """Return what, with the arrays, rebuilds the mesh; names of parts begin with their number."""
        found: dict[str, str | int | tuple[Any, ...]] = {"kind": "union"}
        for number, part in enumerate(self.parts):
            found |= {f"{number}.{name}": value for name, value in part.attributes().items()}
        return found

    def arrays(self) -> dict[str, Array]:
        """Return what, with the attributes, rebuilds the mesh."""
        return {f"{n}.{name}": array for n, part in enumerate(self.parts) for name, array in part.arrays().items()}


def split(values: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Return attributes or arrays of a union by the number of the part that they belong to."""
    found: dict[int, dict[str, Any]] = {}
    for name, value in values.items():
        number, _, own = name.partition(".")
        found.setdefault(int(number), {})[own] = value
    return found
