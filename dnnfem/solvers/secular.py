"""Quadratic models in their eigenvectors: steps of a trust radius or of a cubic term from one scalar equation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import scipy.linalg

from dnnfem.functionals import Norm
from dnnfem.records import Array
from dnnfem.solvers.krylov import InnerStep

FLAT = 100.0
"""Parts of the derivative along flat directions that are smaller than this multiple of rounding are rounding."""

ACCURATE = 1e-10
"""Relative accuracy of lengths."""


class Bound(Protocol):
    """What keeps a step short: its length ``l(s)`` for the multiplier ``s`` in ``(H + s M) d = -g``."""

    def reciprocal(self, multiplier: float) -> tuple[float, float]:
        """Return ``1/l`` and its derivative with respect to the multiplier."""
        ...

    def largest(self, size: float, offset: float) -> float:
        """Return a bound on ``s - offset`` from the dual norm of the derivative; ``H + offset M`` is semidefinite."""
        ...


@dataclass(frozen=True)
class Ball:
    """The trust region ``|d| <= radius``."""

    radius: float

    def reciprocal(self, multiplier: float) -> tuple[float, float]:
        """Return the inverse of the radius."""
        return 1.0 / self.radius, 0.0

    def largest(self, size: float, offset: float) -> float:
        """Return ``size / radius``."""
        return size / self.radius


@dataclass(frozen=True)
class Cubic:
    """The cubic term ``omega/6 |d|^3``, whose derivative makes ``omega |d| / 2`` the multiplier."""

    omega: float

    def reciprocal(self, multiplier: float) -> tuple[float, float]:
        """Return ``omega / (2 s)`` and its derivative."""
        inverse = 0.5 * self.omega / multiplier if multiplier > 0.0 else math.inf
        return inverse, -inverse / multiplier if multiplier > 0.0 else -math.inf

    def largest(self, size: float, offset: float) -> float:
        """Return the root of ``s (s + offset) = omega size / 2``."""
        product = 0.5 * self.omega * size
        return 2.0 * product / (offset + math.sqrt(offset * offset + 4.0 * product))


@dataclass(frozen=True, eq=False)
class Minimizer:
    """The minimizer of a model ``<load, y> + <c y, y>/2`` with a bound, in the eigenvectors of the model.

    Attributes
    ----------
    coordinates : array, shape (dim,)
        ``y``.
    decrease : float
        Of the quadratic model, without the cubic term.
    multiplier : float
    length : float
    boundary : bool
        Whether the bound has any influence.
    negative : bool
        Whether the model has negative curvature.
    """

    coordinates: Array
    decrease: float
    multiplier: float
    length: float
    boundary: bool
    negative: bool


@dataclass(frozen=True, eq=False)
class Diagonal:
    """A quadratic model in its eigenvectors: curvatures in ascending order, and the parts of the derivative."""

    curvatures: Array
    load: Array

    @property
    def _rounding(self) -> float:
        return 4.0 * len(self.load) * float(np.finfo(float).eps)

    @property
    def _tiny(self) -> float:
        return self._rounding * max(float(np.abs(self.curvatures).max()), float(np.finfo(float).tiny))

    def _split(self) -> tuple[Array, float, npt.NDArray[np.bool_], bool]:
        """Return the gaps to the lowest curvature or to zero, the offset, what is flat, whether that has no load."""
        # Shifted by the lowest eigenvalue if that is negative: the multiplier is then found to full relative accuracy
        # even where the derivative has next to no part along the lowest eigenvectors.
        offset = max(0.0, -float(self.curvatures[0]))
        gaps = self.curvatures + offset
        flat = gaps <= self._tiny
        largest = float(np.abs(self.load).max())
        hard = float(np.abs(self.load[flat]).max(initial=0.0)) <= FLAT * self._rounding * largest
        return gaps, offset, flat, hard

    @property
    def promise(self) -> float:
        """Decrease by an unrestricted step of Newton's method; infinite if there is no minimizer."""
        _, _, flat, hard = self._split()
        lowest = float(self.curvatures[0])
        if lowest < -self._tiny or not (hard or lowest > self._tiny):
            return math.inf
        part = np.where(flat, 0.0, self.load)
        return 0.5 * float(np.sum(part * part / np.where(flat, 1.0, self.curvatures)))

    def minimize(self, bound: Bound) -> Minimizer:
        """Return the global minimizer; in the hard case the first eigenvector is added to reach the bound."""
        gaps, offset, flat, hard = self._split()
        negative = float(self.curvatures[0]) < -self._tiny
        d = np.where(flat, 0.0, -self.load / np.where(flat, 1.0, gaps))
        length = float(np.linalg.norm(d))
        # A singular matrix with a consistent derivative has an interior minimizer; its flat directions are left alone.
        load = np.where(flat, 0.0, self.load) if hard and not negative else self.load
        short = length == 0.0 or length * bound.reciprocal(offset)[0] <= 1.0
        boundary, multiplier = negative or not (hard and short), 0.0
        if hard and short:
            if negative:
                multiplier = offset
                longest = 1.0 / bound.reciprocal(offset)[0]
                d[0] += math.sqrt(max(longest * longest - length * length, 0.0))
        else:
            shift = _secular(gaps, load, bound, offset)
            d, multiplier = -load / (gaps + shift), offset + shift
        decrease = -float(np.sum(d * (self.load + 0.5 * self.curvatures * d)))
        return Minimizer(d, decrease, multiplier, float(np.linalg.norm(d)), boundary, negative)


def _secular(gaps: Array, load: Array, bound: Bound, offset: float) -> float:
    """Solve ``|load / (gaps + shift)| = l(offset + shift)`` for ``shift > 0``: safeguarded Newton on reciprocals.

    ``1/|d| - 1/l`` is concave and increasing for both bounds: after one step Newton's method approaches the solution
    from the left (Moré and Sorensen 1983; Cartis, Gould and Toint 2011).
    """
    lower, upper = 0.0, bound.largest(float(np.linalg.norm(load)), offset)
    shift = upper
    for _ in range(200):
        shifted = gaps + shift
        d = load / shifted
        length = float(np.linalg.norm(d))
        inverse, change = bound.reciprocal(offset + shift)
        excess = length * inverse
        if abs(excess - 1.0) <= ACCURATE or upper - lower <= 1e-15 * upper:
            break
        lower, upper = (shift, upper) if excess > 1.0 else (lower, shift)
        slope = float(np.sum(d * d / shifted)) / length
        step = shift + (excess - 1.0) * length / (slope - change * length**2)
        shift = step if lower < step < upper else max(math.sqrt(lower * upper), 1e-3 * upper)
    return float(shift)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A dense model ``<g, d> + <H d, d>/2`` with the eigenvectors of ``H`` in a norm."""

    diagonal: Diagonal
    basis: Array
    norm: Norm

    @classmethod
    def of(cls, matrix: Array, derivative: Array, norm: Norm) -> Spectrum:
        """Decompose: ``H = M B C B^T M`` with ``B^T M B = I``."""
        white = norm.whiten(norm.whiten(0.5 * (matrix + matrix.T)).T)
        curvatures, basis = scipy.linalg.eigh(0.5 * (white + white.T), driver="evd")
        return cls(Diagonal(curvatures, basis.T @ norm.whiten(derivative[None])[0]), basis, norm)

    def steepest(self) -> float:
        """Return the curvature along steepest descent."""
        curvatures, load = self.diagonal.curvatures, self.diagonal.load
        return float(np.sum(curvatures * load**2)) / (float(load @ load) or 1.0)

    def minimize(self, bound: Bound) -> InnerStep:
        """Return the step of a bound."""
        y = self.diagonal.minimize(bound)
        step = self.norm.unwhiten(self.basis @ y.coordinates)
        return InnerStep(step, y.decrease, y.boundary, y.negative, 0, y.multiplier)
