"""Trust-region steps of every radius from one factorization."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import scipy.linalg

from dnnfem.kernels.bidiagonal import Bidiagonal
from dnnfem.kernels.system import ModelStep, Norm
from dnnfem.records import Array, Index

CUTOFF = 1e-13
"""Singular values below this, relative to the largest, belong to directions that rounding cannot tell from zero."""

LEAST = 100
"""Coefficients from which on singular vectors are not computed unless they have to be."""

NEGLIGIBLE = 1e-8
"""What is cut off may have this part of the length of a step: then no singular vectors are needed."""

DAMPED = 1e-6
"""With multipliers above the square of this, relative to the largest singular value, rounding along what is cut off is
harmless in a solve."""


def _active(singular: Array) -> npt.NDArray[np.bool_]:
    """Return which singular values are not cut off."""
    return singular > CUTOFF * singular[0] if singular.size else np.zeros(0, dtype=bool)


def _amplitudes(singular: Array, load: Array, multiplier: float) -> Array:
    """Return the coordinates of a step in right singular vectors: ``-s g / (s^2 + lambda)``, or nought if cut off."""
    s = singular
    return np.divide(-s * load, s * s + multiplier, out=np.zeros_like(s), where=_active(s))


class Factors(Protocol):
    """A factorization of the whitened matrix ``A``, on white vectors of shape (n,)."""

    @property
    def singular(self) -> Array:
        """Singular values, descending, shape (k,)."""
        ...

    @property
    def load(self) -> Array:
        """``U^T r`` with the left singular vectors, shape (k,)."""
        ...

    def step(self, multiplier: float) -> Array:
        """Return ``-(A^T A + lambda)^-1 A^T r`` without what is cut off."""
        ...

    def solve(self, multiplier: float, dual: Array) -> Array:
        """Return ``(A^T A + lambda)^-1 dual`` for a dual vector in the range of ``A^T``."""
        ...


@dataclass(frozen=True, eq=False)
class SingularVectors:
    """All right singular vectors, as rows of `basis`, shape (k, n)."""

    singular: Array
    load: Array
    basis: Array

    @classmethod
    def of(cls, matrix: Array, residual: Array) -> SingularVectors:
        """Decompose a matrix (rows, n)."""
        u, s, vt = scipy.linalg.svd(matrix, full_matrices=False, lapack_driver="gesdd", check_finite=False)
        return cls(s, u.T @ residual, vt)

    def step(self, multiplier: float) -> Array:
        """Return ``-(A^T A + lambda)^-1 A^T r`` without what is cut off."""
        return self.basis.T @ _amplitudes(self.singular, self.load, multiplier)

    def solve(self, multiplier: float, dual: Array) -> Array:
        """Return ``(A^T A + lambda)^-1 dual`` without what is cut off."""
        s = self.singular
        squares = np.where(_active(s), s * s, np.inf)
        return self.basis.T @ (self.basis @ dual / (squares + multiplier))


@dataclass(frozen=True, eq=False)
class DampedBidiagonal:
    """A bidiagonalization: half of the work, and steps by damped least squares (Eldén 1977).

    Only steps in which what is cut off would have a part still need the vectors.
    """

    matrix: Array
    residual: Array

    @cached_property
    def _factors(self) -> Bidiagonal:
        return Bidiagonal.of(self.matrix)

    @cached_property
    def _inside(self) -> Array:
        return self._factors.inside(self.residual[:, None])

    @cached_property
    def _decomposed(self) -> tuple[Array, Array]:
        return self._factors.singular(self._inside)

    @property
    def singular(self) -> Array:
        """Singular values, descending, shape (n,)."""
        return self._decomposed[0]

    @property
    def load(self) -> Array:
        """``U^T r`` with the left singular vectors, shape (n,)."""
        return self._decomposed[1][:, 0]

    @cached_property
    def _vectors(self) -> SingularVectors:
        return SingularVectors.of(self.matrix, self.residual)

    @cached_property
    def _off(self) -> Index:
        """Numbers of the singular values that are cut off."""
        return np.flatnonzero(~_active(self.singular))

    def step(self, multiplier: float) -> Array:
        """Return ``-(A^T A + lambda)^-1 A^T r`` without what is cut off."""
        if len(self._off):
            s, g = self.singular[self._off], self.load[self._off]
            squares = s * s + multiplier
            if (squares == 0.0).any() or np.linalg.norm(s * g / squares) > NEGLIGIBLE * np.linalg.norm(
                _amplitudes(self.singular, self.load, multiplier)
            ):
                return self._vectors.step(multiplier)
        y = self._factors.damped(math.sqrt(multiplier), -self._inside[:, 0], np.zeros(len(self._inside)))
        return self._factors.from_right(y)

    def solve(self, multiplier: float, dual: Array) -> Array:
        """Return ``(A^T A + lambda)^-1 dual``; what is cut off counts where the damping allows it."""
        if multiplier == 0.0 or (len(self._off) and multiplier <= (DAMPED * self.singular[0]) ** 2):
            return self._vectors.solve(multiplier, dual)
        damping, factors = math.sqrt(multiplier), self._factors
        return factors.from_right(factors.damped(damping, np.zeros(len(dual)), factors.to_right(dual) / damping))


@dataclass(frozen=True, eq=False)
class SpectralSteps:
    """Minimizers of ``|r + A d|^2 / 2`` in balls of the norm ``|d| = |L^T d|_2``.

    With ``A L^-T = U S V^T`` and ``g = U^T r`` the minimizer for the multiplier ``lambda`` is
    ``d = -L^-T V (s g / (s^2 + lambda))`` (Moré 1978), so that every further radius costs a scalar equation.

    Parameters
    ----------
    factors : Factors
        Of ``A L^-T``.
    norm : Norm
        Gives ``L^-T``.
    """

    factors: Factors
    norm: Norm

    @classmethod
    def of(cls, matrix: Array, residual: Array, norm: Norm) -> SpectralSteps:
        """Factorize a whitened matrix (rows, n); the part of the residual outside the range plays no role.

        Raises
        ------
        ValueError
            If a number is not finite.
        """
        if not np.isfinite(matrix).all() or not np.isfinite(residual).all():
            raise ValueError("system: got numbers that are not finite, expected finite rows and residuals")
        if matrix.shape[0] >= matrix.shape[1] >= LEAST:
            return cls(DampedBidiagonal(matrix, residual), norm)
        return cls(SingularVectors.of(matrix, residual), norm)

    def _result(self, multiplier: float, interior: bool) -> ModelStep:
        s, g = self.factors.singular, self.factors.load
        amplitudes = _amplitudes(s, g, multiplier)
        remaining = g + s * amplitudes
        decrease = 0.5 * float(np.sum((g - remaining) * (g + remaining)))
        length = float(np.linalg.norm(amplitudes))
        return ModelStep(self.norm.unwhiten(self.factors.step(multiplier)), decrease, length, multiplier, interior)

    @cached_property
    def full(self) -> ModelStep:
        """The unrestricted minimizer of least norm."""
        return self._result(0.0, True)

    def solve(self, multiplier: float, dual: Array) -> Array:
        """Return ``-(A^T A + multiplier M)^-1 dual`` with the factorization at hand, primal."""
        return -self.norm.unwhiten(self.factors.solve(multiplier, self.norm.whiten(dual[None])[0]))

    def __call__(self, radius: float) -> ModelStep:
        """Return the minimizer with ``|d| <= radius``.

        Raises
        ------
        ValueError
            If `radius` is not positive.
        """
        if not radius > 0.0:
            raise ValueError(f"radius: got {radius!r}, expected a positive number")
        s, g = self.factors.singular, self.factors.load
        if float(np.linalg.norm(_amplitudes(s, g, 0.0))) <= radius:
            return self.full
        return self._result(self._multiplier(radius), False)

    def _multiplier(self, radius: float) -> float:
        """Solve ``|d(lambda)| = radius`` by Newton's method on ``1/radius - 1/|d|``, safeguarded (Hebden, Moré)."""
        active = _active(self.factors.singular)
        s = self.factors.singular[active]
        force = s * self.factors.load[active]
        lower, upper = 0.0, float(np.linalg.norm(force)) / radius
        # The residual 1/|d| is concave: from the left Newton's method converges monotonically.
        multiplier = 0.0
        for _ in range(60):
            denominator = s * s + multiplier
            d = force / denominator
            length = float(np.linalg.norm(d))
            if abs(length - radius) <= 1e-10 * radius:
                break
            if length > radius:
                lower = multiplier
            else:
                upper = multiplier
            slope = float(np.sum(d * d / denominator)) / length
            step = multiplier + (length - radius) / radius * length / slope
            multiplier = step if lower < step < upper else max(np.sqrt(lower * upper), 1e-3 * upper)
        return multiplier
