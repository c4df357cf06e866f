"""Norms of the function spaces that the weights of a flow live in: L2(0, T) and H1(0, T)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg

from dnnfem.functionals.protocols import MatrixNorm, Norm
from dnnfem.records import Array, Index
from dnnfem.spaces import FlowSpace
from dnnfem.spaces.flow import check_flow
from dnnfem.spaces.meshes import lengths


@dataclass(frozen=True, eq=False)
class TimeNorm(Norm):
    """``int |theta|^2 dt``, or that of the derivative too, and the squares of encoder and decoder.

    The matrix is a consistent mass (and stiffness) matrix on the weight mesh, times the identity in the parameters at
    one time.  Consistent matrices nest: with the prolongation ``P`` between two weight meshes ``P^T M_h P = M_H``, so
    that a penalty in this norm does not change when the mesh is refined.

    Parameters
    ----------
    space : FlowSpace
    diagonal, above : array, shape (places,) and (places - 1,)
        Entries of the tridiagonal matrix in time.
    derivatives : int
        How many derivatives it measures.
    """

    space: FlowSpace
    diagonal: Array
    above: Array
    derivatives: int

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        return self.space.dim

    def _on_theta(self, v: Array, action: str) -> Array:
        """Return `v` with a function of the matrix in time applied to its theta, shape (dim,) or (dim, k)."""
        start, stop = self.space.theta_start, self.space.theta_stop
        result = np.array(v, dtype=np.float64)
        theta = result[start:stop].reshape(self.space.places, -1)
        result[start:stop] = getattr(self, action)(theta).reshape(result[start:stop].shape)
        return result

    def _product(self, theta: Array) -> Array:
        product = self.diagonal[:, None] * theta
        product[:-1] += self.above[:, None] * theta[1:]
        product[1:] += self.above[:, None] * theta[:-1]
        return product

    @cached_property
    def _banded(self) -> Array:
        """``C`` with ``C^T C`` the matrix in time, upper bidiagonal, in the form of LAPACK, shape (2, places)."""
        above = np.concatenate([[0.0], self.above])
        return np.asarray(scipy.linalg.cholesky_banded(np.vstack([above, self.diagonal])))

    def _solve(self, theta: Array) -> Array:
        return np.asarray(scipy.linalg.cho_solve_banded((self._banded, False), theta))

    def _forward(self, theta: Array) -> Array:
        """``C^-T theta``."""
        lower = np.vstack([self._banded[1], np.append(self._banded[0, 1:], 0.0)])
        return np.asarray(scipy.linalg.solve_banded((1, 0), lower, theta))

    def _backward(self, theta: Array) -> Array:
        """``C^-1 theta``."""
        return np.asarray(scipy.linalg.solve_banded((0, 1), self._banded, theta))

    def _factor(self, theta: Array) -> Array:
        """``C theta``."""
        product: Array = self._banded[1][:, None] * theta
        product[:-1] += self._banded[0, 1:, None] * theta[1:]
        return product

    def apply(self, v: Array) -> Array:
        """Return ``M v``, dual."""
        return self._on_theta(v, "_product")

    def riesz(self, g: Array) -> Array:
        """Return ``M^-1 g``, primal."""
        return self._on_theta(g, "_solve")

    def _matrix(self) -> Array:
        return self.apply(np.eye(self.dim))

    def restricted(self, columns: Index) -> MatrixNorm:
        """Return the norm on the coefficients `columns`."""
        return MatrixNorm(self._matrix()[np.ix_(columns, columns)])

    def root(self) -> Array:
        """Return ``L.T`` with ``M = L L.T``: bidiagonal in time."""
        return self._on_theta(np.eye(self.dim), "_factor")

    def whiten(self, rows: Array) -> Array:
        """Return ``rows @ inv(L).T`` for dual vectors as rows (k, dim)."""
        return self._on_theta(rows.T, "_forward").T

    def unwhiten(self, y: Array) -> Array:
        """Return ``inv(L).T @ y``, primal."""
        return self._on_theta(y, "_backward")


def _mass(space: FlowSpace) -> tuple[Array, Array]:
    """Return the mass matrix in time."""
    h = lengths(space.weight_mesh)
    if space.degree == 0:
        return h, np.zeros(len(h) - 1)
    return (np.append(h, 0.0) + np.append(0.0, h)) / 3.0, h / 6.0


def L2(space: FlowSpace) -> TimeNorm:
    """Return the norm of ``L2(0, T)`` for theta, the Euclidean one for encoder and decoder: a rule for `Tikhonov`.

    Parameters
    ----------
    space : FlowSpace

    Returns
    -------
    TimeNorm
        Of the coefficients.

    Raises
    ------
    ValueError
        If the space is no `FlowSpace`.
    """
    return TimeNorm(check_flow(space), *_mass(space), 0)


def H1(space: FlowSpace) -> TimeNorm:
    """Return ``int |theta|^2 + |theta'|^2 dt`` for theta, the Euclidean norm for encoder and decoder.

    Parameters
    ----------
    space : FlowSpace
        With piecewise linear weights.

    Returns
    -------
    TimeNorm
        Of the coefficients.

    Raises
    ------
    ValueError
        If the space is no `FlowSpace`, or its theta is not continuous: squares of jumps would not nest.
    """
    if check_flow(space).degree == 0:
        raise ValueError(f"space: got {space} with piecewise constant weights, expected piecewise linear ones for H1")
    diagonal, above = _mass(space)
    h = lengths(space.weight_mesh)
    stiffness = np.append(1.0 / h, 0.0) + np.append(0.0, 1.0 / h)
    return TimeNorm(space, diagonal + stiffness, above - 1.0 / h, 1)
