"""Functions that are constant where values are prescribed: what laws are measured with if these are further terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dnnfem.problems.conditions import Place
from dnnfem.problems.domains import Domain
from dnnfem.problems.fields import Corners, Tensor
from dnnfem.problems.vanishing import Constant, Vanishing, pieces


@dataclass(frozen=True, eq=False)
class Homogeneous(Constant):
    """Constants plus functions that are zero on sides of a box or parts of a boundary, and at the beginning.

    See `ExactAnsatz`.

    Parameters
    ----------
    value : tuple of float
        The constants, one per output.
    distance : callable
        The factor at points (m, d) in torch: zero there, shape (m,), and differentiable.
    """

    value: tuple[float, ...]
    distance: Callable[[Tensor], Tensor]

    @classmethod
    def on(
        cls, domain: Domain, bounds: Corners, value: tuple[float, ...], members: Sequence[Place], beginning: int
    ) -> Homogeneous | None:
        """Return `value` on `members`, and at the beginning if `beginning` is 1, with derivatives in time if it is 2.

        Returns None if there are no members, or parts of a boundary that are not known to be segments, or triangles or
        rectangles in space.
        """
        if not members:
            return None
        space, (low, high) = domain.dim, (torch.tensor(corner, dtype=torch.float64) for corner in bounds)
        sides = [member for member in members if not isinstance(member, str) and member[0] < space]
        names = [member for member in members if isinstance(member, str)]
        if names and not (space in (2, 3) and all(hasattr(domain.parts[name], "corners") for name in names)):
            return None
        edge = Vanishing(pieces(domain, names), (0.0,)) if names else None

        def distance(points: Tensor) -> Tensor:
            found = torch.ones(len(points), dtype=points.dtype) if edge is None else edge.factor(points[:, :space])
            for axis, end in sides:
                size = high[axis] - low[axis]
                found = found * 2.0 * ((high[axis] - points[:, axis]) if end else (points[:, axis] - low[axis])) / size
            if beginning:
                found = found * ((points[:, space] - low[space]) / (high[space] - low[space])) ** beginning
            return found

        return cls(value, distance)

    def factor(self, points: Tensor) -> Tensor:
        """Return the factor at points (m, d), shape (m,), differentiable."""
        return self.distance(points)
