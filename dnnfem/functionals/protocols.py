"""What solvers and estimators know of a functional and of a norm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import scipy.linalg

from dnnfem.kernels.protocol import Linearization
from dnnfem.kernels.system import LeastSquaresSystem
from dnnfem.records import Array, Index
from dnnfem.spaces import Space, Transfer

__all__ = ["Functional", "LeastSquaresSystem", "Linearization", "Metric", "Norm"]


class Functional(Protocol):
    """A real function on the coefficients of a space."""

    @property
    def space(self) -> Space:
        """Where the coefficients live."""
        ...

    @property
    def condensable(self) -> Index | None:
        """Coefficients that can be eliminated by linear least squares, shape (groups, f); None if there are none."""
        ...

    def value(self, x: Array) -> float:
        """Return ``J(x)``."""
        ...

    def linearize(self, x: Array) -> Linearization:
        """Return value, derivative and products at `x`."""
        ...

    def on(self, *, space: Any = None, quadrature: Any = None, transfer: Transfer | None = None) -> Functional:
        """Return the same functional on another space or quadrature.

        `transfer` is the prolongation into the other space; only terms that refer to a point of the space need it.
        """
        ...


class Norm(ABC):
    """A norm ``|v|^2 = <M v, v>`` on coefficients; `M` maps primal to dual vectors.

    A norm of one's own needs `dim`, `apply` and `riesz`; what dense solvers use beyond these is derived from the dense
    matrix ``M = L L^T``.
    """

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of coefficients."""

    @abstractmethod
    def apply(self, v: Array) -> Array:
        """Return the dual vector ``M v`` of a primal one, shape (dim,)."""

    @abstractmethod
    def riesz(self, g: Array) -> Array:
        """Return the primal representative ``M^-1 g`` of a dual vector, shape (dim,)."""

    def inner(self, v: Array, w: Array) -> float:
        """Return ``<M v, w>`` of two primal vectors."""
        return float(self.apply(v) @ w)

    def norm(self, v: Array) -> float:
        """Return the length of a primal vector."""
        return float(np.sqrt(max(self.inner(v, v), 0.0)))

    def dual_norm(self, g: Array) -> float:
        """Return the length ``sqrt(g M^-1 g)`` of a dual vector."""
        return float(np.sqrt(max(float(g @ self.riesz(g)), 0.0)))

    def _matrix(self) -> Array:
        matrix = np.column_stack([self.apply(e) for e in np.eye(self.dim)])
        return 0.5 * (matrix + matrix.T)

    def dense(self, onto: Array | None = None, factor: float = 1.0) -> Array:
        """Return ``factor M``, shape (dim, dim), or add it to a matrix in place and return that."""
        if onto is None:
            return self._matrix() if factor == 1.0 else factor * self._matrix()
        onto += factor * self._matrix()
        return onto

    def restricted(self, columns: Index) -> Norm:
        """Return the norm on the coefficients `columns`, all others zero."""
        return MatrixNorm(self.dense()[np.ix_(columns, columns)])

    @cached_property
    def _cholesky(self) -> Array:
        return np.asarray(scipy.linalg.cholesky(self.dense(), lower=True))

    def root(self) -> Array:
        """Return ``L.T`` with ``M = L L.T``, shape (dim, dim)."""
        return self._cholesky.T

    def whiten(self, rows: Array) -> Array:
        """Return ``rows @ inv(L).T`` for dual vectors as rows (k, dim)."""
        return np.asarray(scipy.linalg.solve_triangular(self._cholesky, rows.T, lower=True)).T

    def unwhiten(self, y: Array) -> Array:
        """Return ``inv(L).T @ y``, primal, for y (dim,) or (dim, k)."""
        return np.asarray(scipy.linalg.solve_triangular(self._cholesky, y, lower=True, trans="T"))


@dataclass(frozen=True, eq=False)
class MatrixNorm(Norm):
    """A norm with a dense matrix, symmetric and positive definite, shape (dim, dim)."""

    matrix: Array

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        return len(self.matrix)

    def _matrix(self) -> Array:
        return self.matrix

    def apply(self, v: Array) -> Array:
        """Return ``M v``, dual."""
        return self.matrix @ v

    def riesz(self, g: Array) -> Array:
        """Return ``M^-1 g``, primal."""
        return np.asarray(scipy.linalg.cho_solve((self._cholesky, True), g))


Metric = Norm | Callable[[Space, Linearization], Norm]
"""A norm, or a rule that gives one at every point."""
