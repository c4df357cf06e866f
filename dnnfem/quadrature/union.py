"""Several meshes as one: the sides of a box, the boxes of a union."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnnfem.quadrature.arrays import as_finite, cell_numbers
from dnnfem.quadrature.points import Mesh, Quadrature
from dnnfem.records import Array, Index


@dataclass(frozen=True, eq=False)
class UnionMesh:
    """Meshes whose cells are numbered one after another.

    Parameters
    ----------
    parts : tuple of Mesh
        With equally many coordinates.
    shares : sequence of float, optional
        Shares of the parts in the weights, e.g. their volumes; they are divided by their sum.  By default all parts
        have the same share: sides of a box in space and time have volumes of different units.

    Raises
    ------
    ValueError
        If there is none, or the shares are not one positive number for each.
    """

    parts: tuple[Mesh, ...]
    shares: Sequence[float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise ValueError("parts: got none, expected at least one mesh")
        if self.shares is None:
            return
        shares = as_finite("shares", self.shares, 1)
        if shares.shape != (len(self.parts),) or not (shares > 0.0).all():
            raise ValueError(f"shares: got {shares}, expected {len(self.parts)} positive numbers, one for each part")
        object.__setattr__(self, "shares", tuple((shares / np.sum(shares)).tolist()))

    @property
    def cell_count(self) -> int:
        """Number of cells of all parts."""
        return sum(part.cell_count for part in self.parts)

    @property
    def _begins(self) -> Index:
        """Numbers of the first cells of the parts, and the number of cells."""
        return np.cumsum([0, *(part.cell_count for part in self.parts)])

    def quadrature(self) -> Quadrature:
        """Return the points, part by part, with the data of the parts; weights sum to one.

        Raises
        ------
        ValueError
            If the parts have different numbers of coordinates or of data.
        """
        rules = [part.quadrature() for part in self.parts]
        cells = [begin + rule.cells for begin, rule in zip(self._begins[:-1], rules, strict=True)]
        if self.shares is None:
            weights = np.concatenate([rule.weights for rule in rules]) / len(rules)
        else:
            weights = np.concatenate([share * rule.weights for share, rule in zip(self.shares, rules, strict=True)])
        return Quadrature(
            np.concatenate([rule.points for rule in rules]),
            weights,
            np.concatenate([rule.data for rule in rules]),
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
        parts = tuple(part.refined(numbers[owner == k] - begins[k]) for k, part in enumerate(self.parts))
        return UnionMesh(parts, self.shares)

    def finer(self) -> UnionMesh:
        """Return the union of the finer parts.

        Raises
        ------
        ValueError
            If their cells do not have equally many children: parts of one kind and dimension do.
        """
        finer = UnionMesh(tuple(part.finer() for part in self.parts), self.shares)
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
        found = {f"{n}.{name}": array for n, part in enumerate(self.parts) for name, array in part.arrays().items()}
        return found if self.shares is None else found | {"shares": np.array(self.shares)}


def split(values: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Return attributes or arrays of a union by the number of the part that they belong to."""
    found: dict[int, dict[str, Any]] = {}
    for name, value in values.items():
        number, _, own = name.partition(".")
        found.setdefault(int(number), {})[own] = value
    return found
