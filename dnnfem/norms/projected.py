"""A norm on the kernel of linear constraints, and the least solutions of these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg

from dnnfem.functionals.protocols import Norm
from dnnfem.records import Array

DEPENDENT = 1e-13
"""Eigenvalues of ``C M^-1 C^T`` below this part of the largest one belong to constraints that follow from others."""


@dataclass(frozen=True, eq=False)
class Projected(Norm):
    """The norm ``M`` on the kernel of ``C``: its Riesz map is ``M^-1`` followed by the projection onto that.

    Conjugate gradients with it stay in the kernel.  Rows that depend on others, up to rounding, count once.

    Parameters
    ----------
    base : Norm
        ``M``.
    rows : array, shape (m, dim)
        ``C``: m dual vectors, few of them.
    """

    base: Norm
    rows: Array

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        return self.base.dim

    @cached_property
    def _gradients(self) -> Array:
        """``M^-1 C^T``, shape (dim, m)."""
        return np.array([self.base.riesz(row) for row in self.rows]).reshape(self.rows.shape).T

    @cached_property
    def _spectrum(self) -> tuple[Array, Array]:
        """Eigenvalues of ``C M^-1 C^T`` that are not rounding, and their vectors as columns."""
        schur = self.rows @ self._gradients
        if not len(schur):
            return np.empty(0), schur
        values, vectors = scipy.linalg.eigh(0.5 * (schur + schur.T))
        chosen = values > DEPENDENT * values[-1]
        return values[chosen], vectors[:, chosen]

    @property
    def stretch(self) -> float:
        """The largest length of ``C v`` for v of length one."""
        values, _ = self._spectrum
        return math.sqrt(values[-1]) if len(values) else 0.0

    def _solve(self, c: Array) -> Array:
        values, vectors = self._spectrum
        return np.asarray(vectors @ ((vectors.T @ c) / values))

    def multiplier(self, g: Array) -> Array:
        """Return p, shape (m,), with the least dual norm of ``g + C^T p`` for a dual vector g (dim,)."""
        return -self._solve(self.rows @ self.base.riesz(g))

    def least(self, c: Array) -> Array:
        """Return the shortest v, primal, that solves ``C v = c`` in the sense of least squares, for c (m,)."""
        return np.asarray(self._gradients @ self._solve(c))

    def apply(self, v: Array) -> Array:
        """Return ``M v``, dual."""
        return self.base.apply(v)

    def riesz(self, g: Array) -> Array:
        """Return the element of the kernel that represents a dual vector (dim,) there."""
        # Twice: what rounding leaves outside of the kernel would grow in conjugate gradients.
        first = self.base.riesz(g + self.rows.T @ self.multiplier(g))
        return first - self.least(self.rows @ first)
