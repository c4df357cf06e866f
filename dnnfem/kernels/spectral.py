"""Trust-region steps of every radius from one singular value decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg

from dnnfem.kernels.system import ModelStep, Norm
from dnnfem.records import Array

CUTOFF = 1e-13
"""Singular values below this, relative to the largest, belong to directions that rounding cannot tell from zero."""


@dataclass(frozen=True, eq=False)
class SpectralSteps:
    """Minimizers of ``|r + A d|^2 / 2`` in balls of the norm ``|d| = |L^T d|_2``.

    With ``A L^-T = U S V^T`` and ``g = U^T r`` the minimizer for the multiplier ``lambda`` is
    ``d = -L^-T V (s g / (s^2 + lambda))`` (Moré 1978), so that every further radius costs a scalar equation.

    Parameters
    ----------
    singular : array, shape (k,)
        Singular values, descending.
    load : array, shape (k,)
        ``g``.
    basis : array, shape (k, n)
        ``V^T``.
    norm : Norm
        Gives ``L^-T``.
    """

    singular: Array
    load: Array
    basis: Array
    norm: Norm

    @classmethod
    def of(cls, matrix: Array, residual: Array, norm: Norm) -> SpectralSteps:
        """Factorize a whitened matrix (rows, n); the part of the residual outside the range plays no role."""
        u, s, vt = scipy.linalg.svd(matrix, full_matrices=False, lapack_driver="gesdd", check_finite=False)
        return cls(s, u.T @ residual, vt, norm)

    @cached_property
    def _active(self) -> Array:
        s = self.singular
        return s > CUTOFF * s[0] if s.size and s[0] > 0 else np.zeros(s.shape, dtype=bool)

    def _amplitudes(self, multiplier: float) -> Array:
        s = self.singular
        denominator = np.where(self._active, s * s + multiplier, 1.0)
        return np.where(self._active, -s * self.load / denominator, 0.0)

    def _result(self, multiplier: float, interior: bool) -> ModelStep:
        s, g, amplitudes = self.singular, self.load, self._amplitudes(multiplier)
        remaining = g + s * amplitudes
        decrease = 0.5 * float(np.sum(np.where(self._active, (g - remaining) * (g + remaining), 0.0)))
        length = float(np.linalg.norm(amplitudes))
        return ModelStep(self.norm.unwhiten(self.basis.T @ amplitudes), decrease, length, multiplier, interior)

    @cached_property
    def full(self) -> ModelStep:
        """The unrestricted minimizer of least norm."""
        return self._result(0.0, True)

    def solve(self, multiplier: float, dual: Array) -> Array:
        """Return ``-(A^T A + multiplier M)^-1 dual`` with the factorization at hand, primal."""
        white = self.basis @ self.norm.whiten(dual[None])[0]
        denominator = np.where(self._active, self.singular**2 + multiplier, np.inf)
        return -self.norm.unwhiten(self.basis.T @ (white / denominator))

    def __call__(self, radius: float) -> ModelStep:
        """Return the minimizer with ``|d| <= radius``.

        Raises
        ------
        ValueError
            If `radius` is not positive.
        """
        if not radius > 0.0:
            raise ValueError(f"radius: got {radius!r}, expected a positive number")
        if self.full.length <= radius:
            return self.full
        return self._result(self._multiplier(radius), False)

    def _multiplier(self, radius: float) -> float:
        """Solve ``|d(lambda)| = radius`` by Newton's method on ``1/radius - 1/|d|``, safeguarded (Hebden, Moré)."""
        s = self.singular[self._active]
        force = s * self.load[self._active]
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
