"""The quadratic model of a functional at a minimizer, as estimates of what is not seen use it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import scipy.linalg

from dnnfem.functionals import Functional, Integral, Scaled, Sum, Tikhonov
from dnnfem.records import Array
from dnnfem.spaces.layout import check_coefficients

FLAT = 10.0 * np.finfo(float).eps
"""Eigenvalues of the scaled Hessian below this, relative to the largest and per coefficient, are rounding."""

STATIONARY = 0.1
"""Largest algebraic error, relative to what is estimated, with which `x` counts as stationary."""


def terms(functional: Functional, factor: float = 1.0) -> list[tuple[Functional, float]]:
    """Return the terms that a functional is the sum of, with their factors."""
    if isinstance(functional, Sum):
        return [term for part in functional.terms for term in terms(part, factor)]
    if isinstance(functional, Scaled):
        return terms(functional.functional, factor * functional.factor)
    return [(functional, factor)]


def integral_of(functional: Functional) -> tuple[Integral, float]:
    """Return the one integral over samples inside of a functional, and its factor.

    Raises
    ------
    ValueError
        If there is none or more than one, or its factor is not positive.
    """
    found = [(term, factor) for term, factor in terms(functional) if isinstance(term, Integral)]
    if len(found) != 1:
        name = type(functional).__name__
        raise ValueError(
            f"functional: got {name} with {len(found)} integrals over samples, expected one, alone or in a sum"
        )
    if not found[0][1] > 0.0:
        raise ValueError(f"functional: got an integral with the factor {found[0][1]}, expected a positive one")
    return found[0]


def regularized(functional: Functional, losses: bool = False) -> tuple[Integral, Tikhonov, float]:
    """Return integral and penalty of a regression, and the factor of the penalty relative to that of the integral.

    With `losses` the law may be a loss as well.

    Raises
    ------
    ValueError
        If the functional is not the sum of an integral of such a law and a Tikhonov term, both of positive weight.
    """
    kinds = ("residual", "loss") if losses else ("residual",)
    parts = [(term, factor) for term, factor in terms(functional) if factor > 0.0]
    penalties = [(term, factor) for term, factor in parts if isinstance(term, Tikhonov) and term.alpha > 0.0]
    integrals = [(term, factor) for term, factor in parts if isinstance(term, Integral) and term.law.kind in kinds]
    if len(terms(functional)) != 2 or len(penalties) != 1 or len(integrals) != 1:
        names = " + ".join(type(term).__name__ for term, _ in terms(functional))
        raise ValueError(
            f"functional: got {names}, expected the integral of a residual law and a Tikhonov term of positive weight"
            + (", or of a loss and such a term" if losses else "")
        )
    return integrals[0][0], penalties[0][0], penalties[0][1] / integrals[0][1]


@dataclass(frozen=True, eq=False)
class LaplaceModel:
    """``J(x) + <J', d> + <H d, d>/2`` with ``H`` factorized by its eigenvalues in scaled coefficients.

    Attributes
    ----------
    integral : Integral
        The term with the samples.
    factor : float
        Its factor.
    x, derivative : array, shape (dim,)
    exact : bool
        Whether ``H`` is the Hessian; else the curvature.
    eigenvalues : array, shape (dim,)
        Of ``D^-1 H D^-1``, ascending, where ``D^2`` is the modulus of the diagonal of ``H``.
    basis : array, shape (dim, dim)
        Eigenvectors as columns.
    scale : array, shape (dim,)
        ``D``.
    remarks : tuple of str
        What is wrong with the Hessian.
    """

    integral: Integral
    factor: float
    x: Array
    derivative: Array
    exact: bool
    eigenvalues: Array
    basis: Array
    scale: Array
    remarks: tuple[str, ...]

    @classmethod
    def at(cls, functional: Functional, x: Array, hessian: Literal["full", "curvature"]) -> LaplaceModel:
        """Factorize at a point; where the Hessian has negative eigenvalues the curvature takes its place.

        Raises
        ------
        ValueError
            If the functional has not exactly one integral, `x` is no finite vector of the space, or `hessian` is
            neither of the two words.
        """
        if hessian not in ("full", "curvature"):
            raise ValueError(f'hessian: got {hessian!r}, expected "full" or "curvature"')
        integral, factor = integral_of(functional)
        x = check_coefficients(functional.space, x, finite=True)
        linearization = functional.linearize(x)
        exact, remarks = hessian == "full", []
        matrix = linearization.hessian(np.eye(len(x))) if exact else linearization.gram()
        eigenvalues, basis, scale = _spectrum(matrix)
        negative = int(np.count_nonzero(eigenvalues < -_rounding(eigenvalues)))
        if negative:
            remarks.append(
                f"the Hessian has {negative} negative eigenvalues, x is no minimizer: the curvature took its place"
            )
            exact, (eigenvalues, basis, scale) = False, _spectrum(linearization.gram())
        flat = int(np.count_nonzero(eigenvalues <= _rounding(eigenvalues)))
        if flat:
            remarks.append(
                f"the Hessian is singular in {flat} directions, which count as known: a penalty would determine them"
            )
        derivative = linearization.derivative
        return cls(integral, factor, x, derivative, exact, eigenvalues, basis, scale, tuple(remarks))

    @cached_property
    def kept(self) -> Array:
        """Eigenvalues that are above rounding."""
        return self.eigenvalues[self.eigenvalues > _rounding(self.eigenvalues)]

    @cached_property
    def root(self) -> Array:
        """``R`` with ``H^-1 = R R^T`` on the directions that are kept, shape (dim, kept)."""
        last = len(self.eigenvalues) - len(self.kept)
        return np.asarray(self.basis[:, last:] / np.sqrt(self.kept) / self.scale[:, None])

    @property
    def log_determinant(self) -> float:
        """``log det H``; minus infinity where it is singular."""
        if len(self.kept) < len(self.x):
            return -np.inf
        return float(np.sum(np.log(self.kept)) + 2.0 * np.sum(np.log(self.scale)))

    @property
    def algebraic(self) -> float:
        """Newton decrement ``sqrt(<H^-1 J', J'>)`` in the units of the root mean square misfit."""
        return float(np.linalg.norm(self.root.T @ self.derivative)) / math.sqrt(self.mass)

    def on_stationarity(self, size: float) -> tuple[str, ...]:
        """Return a remark if the algebraic error is not small against `size`."""
        if self.algebraic <= STATIONARY * size:
            return ()
        words = f"its algebraic error {self.algebraic:.2g} is above {STATIONARY:g} of {size:.2g}: solve on"
        return (f"x is not stationary, {words}",)

    @property
    def mass(self) -> float:
        """Sum of the weights of all samples, with the factor."""
        return self.factor * float(np.sum(self.integral.quadrature.weights))

    @property
    def values(self) -> int:
        """Number of values that are fitted: samples times outputs."""
        return len(self.integral.quadrature) * self.integral.space.outputs


def _spectrum(matrix: Array) -> tuple[Array, Array, Array]:
    """Return eigenvalues and eigenvectors of a symmetric matrix scaled to a unit diagonal, and the scale."""
    scale = np.sqrt(np.abs(np.diagonal(matrix)))
    scale = np.where(scale > 0.0, scale, 1.0)
    scaled = matrix / scale / scale[:, None]
    eigenvalues, basis = scipy.linalg.eigh(0.5 * (scaled + scaled.T), driver="evd")
    return eigenvalues, basis, scale


def _rounding(eigenvalues: Array) -> float:
    return FLAT * len(eigenvalues) * float(np.abs(eigenvalues).max(initial=0.0))
