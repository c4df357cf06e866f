"""Conductivities of materials: numbers, diagonals or matrices, constant or functions of the point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dnnfem.problems.fields import Points, Tensor, tensor
from dnnfem.records import Array

ROUNDING = 1e-12
"""Relative differences that count as rounding, in the symmetry and in the least eigenvalue."""


def conductivity(given: Any, dim: int, lowest: float | None = None) -> Conductivity:
    """Return ``A`` of ``-div(A grad u) = f``, from what users write.

    Parameters
    ----------
    given : float, array or callable
        A number, a diagonal (d,), a symmetric matrix (d, d), or ``A(p)`` in torch with one of the shapes (m,), (d, m)
        and (d, d, m), or a list of the d rows of a diagonal.
    dim : int
        Number of coordinates d.
    lowest : float, optional
        A lower bound of the eigenvalues of `A` on the whole domain; needed for a function.  For constants it is
        computed, and rounded down.

    Raises
    ------
    ValueError
        If the shape is another one, a matrix is not symmetric, `lowest` is missing or not positive, or a constant has
        an eigenvalue that is less.
    """
    if not callable(given):
        given, least = _constant(given, dim)
        lowest = least if lowest is None else lowest
    if lowest is None:
        raise ValueError("lowest: got None, expected a lower bound of the eigenvalues of a varying conductivity")
    number = not isinstance(lowest, bool) and isinstance(lowest, int | float | np.floating | np.integer)
    if not number or not 0.0 < lowest < np.inf:
        raise ValueError(f"lowest: got {lowest!r}, expected a positive number")
    found = Conductivity(given, dim, float(lowest))
    if not callable(given):
        found.at(Points(tensor(np.zeros((1, dim))), dim))
    return found


def _constant(given: Any, dim: int) -> tuple[Array, float]:
    """Return a constant as an array, and its least eigenvalue, rounded down."""
    try:
        array: Array = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape not in ((), (dim,), (dim, dim)) or not np.isfinite(array).all():
        raise ValueError(
            f"conductivity: got {given!r}, expected a positive number, {dim} of these, a symmetric positive definite "
            f"matrix {(dim, dim)}, or a function A(p)"
        )
    values = np.linalg.eigvalsh(array) if array.ndim == 2 else np.atleast_1d(array)
    least = float(np.min(values))
    if array.ndim == 2:
        least -= 4.0 * dim * np.finfo(np.float64).eps * float(np.max(np.abs(values)))
    if least <= 0.0:
        raise ValueError(f"conductivity: got {array.tolist()}, expected one that is positive definite")
    return array, least


@dataclass(frozen=True, eq=False)
class Conductivity:
    """A number, a diagonal or a symmetric positive definite matrix at every point; see `conductivity`.

    Parameters
    ----------
    given : array or callable
    dim : int
    lowest : float
        Lower bound of the eigenvalues.
    """

    given: Any
    dim: int
    lowest: float

    def at(self, p: Points) -> Tensor:
        """Return `A` at points: a diagonal (1 or d, m or 1), or matrices (m or 1, d, d).

        Raises
        ------
        ValueError
            If the shape is another one, or it is no symmetric matrix with eigenvalues of at least `lowest`.
        """
        points = p.coordinates
        found = self.given(p) if callable(self.given) else self.given[..., None]
        if isinstance(found, list | tuple):
            found = torch.stack([torch.as_tensor(row).to(points).expand(len(points)) for row in found])
        found = torch.as_tensor(found).to(points)
        found = found.expand(1) if found.ndim == 0 else found
        if found.shape[:-1] not in ((), (self.dim,), (self.dim, self.dim)) or found.shape[-1] not in (1, len(points)):
            raise ValueError(
                f"conductivity: got shape {tuple(found.shape)} at {len(points)} points, expected {(len(points),)}, "
                f"{(self.dim, len(points))} or {(self.dim, self.dim, len(points))}"
            )
        if found.ndim < 3:
            diagonal = found.reshape(-1, found.shape[-1])
            self._check(diagonal.amin(dim=0), points)
            return diagonal
        matrices = found.movedim(-1, 0)
        crooked = (matrices - matrices.transpose(1, 2)).abs().amax(dim=(1, 2))
        # Negated, so that NaN is refused.
        wrong = ~(crooked <= ROUNDING * matrices.abs().amax(dim=(1, 2)))
        if wrong.any():
            point = points[int(torch.nonzero(wrong)[0])].tolist()
            raise ValueError(f"conductivity: got a matrix that is not symmetric or not finite at {point}")
        self._check(torch.linalg.eigvalsh(matrices)[:, 0], points)
        return matrices

    def _check(self, least: Tensor, points: Tensor) -> None:
        wrong = ~((least >= (1.0 - ROUNDING) * self.lowest) & torch.isfinite(least))
        if wrong.any():
            number = int(torch.nonzero(wrong)[0])
            raise ValueError(
                f"conductivity: got the least eigenvalue {float(least[number])} at {points[number].tolist()}, expected "
                f"at least {self.lowest}, the lower bound"
            )

    def flux(self, p: Points, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``A g`` and what makes lengths ``|A^(-1/2) z|`` of vectors `z`.

        Parameters
        ----------
        p : Points
        gradient : tensor, shape (m, d)
            `g`.

        Returns
        -------
        flux : tensor, shape (m, d)
        root : tensor, shape (m, 1), (m, d) or (m, d, d)
            Factors of the components of `z`, or matrices: ``L^-1`` with ``A = L L^T``, which is a rotation of the
            symmetric root.
        """
        found, m = self.at(p), len(gradient)
        if found.ndim == 2:
            return found.T * gradient, (1.0 / found.sqrt()).T.expand(m, -1)
        identity = torch.eye(self.dim, dtype=found.dtype, device=found.device).expand_as(found)
        root: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(found), identity, upper=False)
        return (found @ gradient[..., None])[..., 0], root.expand(m, -1, -1)
