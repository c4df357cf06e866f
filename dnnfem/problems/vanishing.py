"""A factor that vanishes on the boundary of any polygon or polyhedron, or on a part of it.

For pieces ``F_i`` of the boundary, segments in the plane or triangles in space, let

    W(x) = sum_i int_{F_i} |x - y|^-d dy = sum_i angle_i(x) / h_i(x),        factor(x) = |S^{d-1}| / (2 W(x)),

where ``angle_i`` is the angle, or solid angle, under which ``F_i`` is seen and ``h_i`` the distance to its line or
plane.  The factor is positive and analytic off the pieces, behaves as the distance near them, and does not depend on
how they are cut into smaller ones (an L_p-distance field: Belyaev, Fayolle and Pasko 2013).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dnnfem.problems.domains import Domain
from dnnfem.problems.fields import Tensor, tensor
from dnnfem.problems.lift import function_jet
from dnnfem.records import Array

SERIES = 1e-2
"""Tangent of an angle below which ``angle / tangent`` comes from its series."""

NEAR = 1e-14
"""Least distance to a line or plane, relative to the size of a piece: derivatives exist on the boundary then."""


def pieces(domain: Domain, names: Iterable[str]) -> Array:
    """Return the segments or triangles of some parts of a boundary, shape (s, d, d)."""
    corners = np.concatenate([domain.parts[name].corners for name in names])
    if corners.shape[1:] == (4, 3):
        # Rectangles in space as two triangles.
        corners = np.concatenate([corners[:, :3], corners[:, 1:]])
    return corners


class Constant(ABC):
    """Conditions ``u = value`` where a factor vanishes; see `dnnfem.problems.exact.Condition`.

    A subclass has a `value`, one number per output, and a `factor`.
    """

    value: tuple[float, ...]

    @property
    def outputs(self) -> int:
        """Number of unknown functions."""
        return len(self.value)

    @property
    def constant(self) -> Tensor:
        """The lift (outputs, 1)."""
        return tensor(np.array(self.value))[:, None]

    def lift(self, points: Tensor) -> Tensor:
        """Return the constant at points (m, d), shape (outputs, m)."""
        return self.constant.to(points).expand(self.outputs, points.shape[0])

    def vanishes(self, derivative: tuple[int, ...]) -> bool:
        """No derivative of the factor is known to be zero everywhere."""
        return False

    def factors(self, points: Any, derivatives: Sequence[tuple[int, ...]]) -> list[Any]:
        """Return derivatives of the factor at points (m, d) of NumPy or torch, each of shape (m,)."""
        host = isinstance(points, np.ndarray)
        where = tensor(points) if host else points
        found = function_jet(lambda p: self.factor(p)[None], where, list(derivatives))[:, 0]
        return list(found.numpy() if host else found)

    @abstractmethod
    def factor(self, points: Tensor) -> Tensor:
        """Return the factor at points (m, d), shape (m,), differentiable."""


@dataclass(frozen=True, eq=False)
class Vanishing(Constant):
    """Conditions ``u = constant`` on pieces of a boundary; see `dnnfem.problems.lift.Conditions`.

    Parameters
    ----------
    pieces : array, shape (s, d, d)
        Vertices of segments in the plane or triangles in space.
    value : tuple of float
        The constant, one per output.

    Raises
    ------
    ValueError
        In other dimensions.
    """

    pieces: Array
    value: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.pieces.ndim != 3 or self.pieces.shape[1:] not in ((2, 2), (3, 3)):
            raise ValueError(
                f"pieces: got shape {self.pieces.shape}, expected segments (s, 2, 2) or triangles (s, 3, 3)"
            )

    @property
    def fingerprint(self) -> Array:
        """Pieces and value, to six digits."""
        scale = float(np.abs(self.pieces).max())
        return np.round(np.concatenate([self.pieces.ravel() / scale, [scale], self.value]), 6)

    def factor(self, points: Tensor) -> Tensor:
        """Return the factor at points (m, d), shape (m,), differentiable."""
        corners = torch.as_tensor(self.pieces, dtype=points.dtype, device=points.device)
        arms = corners - points[:, None, None, :]
        if points.shape[1] == 2:
            (a, b), size = arms.unbind(dim=2), torch.linalg.vector_norm(corners[:, 1] - corners[:, 0], dim=-1)
            sine = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
            cosine, unit, half = (a * b).sum(dim=-1), size**2, math.pi
        else:
            a, b, c = arms.unbind(dim=2)
            normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            area = torch.linalg.vector_norm(normal, dim=-1)
            # Van Oosterom and Strackee (1983): sine and cosine of half the solid angle, times the same number.
            sine = (a * torch.linalg.cross(b, c)).sum(dim=-1)
            ra, rb, rc = (torch.linalg.vector_norm(arm, dim=-1) for arm in (a, b, c))
            cosine = ra * rb * rc + (a * b).sum(-1) * rc + (b * c).sum(-1) * ra + (c * a).sum(-1) * rb
            size, unit, half = 2.0 * area, area**1.5, 2.0 * math.pi
        close = sine.abs() < NEAR * unit
        sine = torch.where(close, sine - sine.detach() + NEAR * unit, sine)
        found: Tensor = half / (size * _ratio(sine, cosine)).sum(dim=1)
        return found


def _ratio(sine: Tensor, cosine: Tensor) -> Tensor:
    """Return ``atan2(sine, cosine) / sine``, which is even in `sine` and smooth at zero if `cosine` is positive."""
    small = (sine.abs() < SERIES * cosine).detach()
    safe = torch.where(small, cosine, 1.0)
    t = (torch.where(small, sine, 0.0) / safe) ** 2
    series = (1.0 - t * (1.0 / 3.0 - t * (1.0 / 5.0 - t * (1.0 / 7.0 - t / 9.0)))) / safe
    sine = torch.where(small, 1.0, sine)
    return torch.where(small, series, torch.atan2(sine, cosine) / sine)
