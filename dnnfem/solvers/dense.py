"""Trust-region steps from a dense matrix: by Cholesky factorizations where it is definite, else by eigenvalues."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
from scipy.linalg import lapack

from dnnfem.functionals import Norm
from dnnfem.records import Array
from dnnfem.solvers.krylov import InnerStep

FLAT = 100.0
"""Parts of the derivative along flat directions that are smaller than this multiple of rounding are rounding."""

LIMIT = 20
"""Factorizations for one step."""

NEAR = 0.25
"""Relative accuracy with which a definite model's step meets the radius: each digit would cost a factorization."""


def definite(matrix: Array, derivative: Array, norm: Norm, radius: float, start: float = 0.0) -> InnerStep | None:
    """Return the step of a positive definite model, its length within `NEAR` of the radius if that binds.

    Newton's method for ``1/radius - 1/|d(multiplier)|`` takes a Cholesky factorization a step.  The function is
    concave: from a multiplier that is too small the iterates rise to the solution, from one that is too large the first
    one falls below it.  From the multiplier of the step before, one or two do.

    Parameters and references are those of `more_sorensen`, and

    start : float
        Multiplier to begin with.

    Returns
    -------
    InnerStep or None
        None if the matrix is not numerically positive definite.
    """
    shift = start if 0.0 < start < math.inf else 0.0
    for _ in range(LIMIT):
        shifted = matrix.copy(order="F")
        norm.dense(shifted, shift)
        factor, info = lapack.dpotrf(shifted, lower=1, overwrite_a=1, clean=0)
        if info != 0 or not np.isfinite(factor[-1, -1]):
            return None
        d, _ = lapack.dpotrs(factor, -derivative, lower=1)
        dual = norm.apply(d)
        length = math.sqrt(float(d @ dual))
        if abs(length - radius) <= NEAR * radius or (shift == 0.0 and length <= radius):
            break
        # -d/ds |d|^2 / 2 = <M d, (H + s M)^-1 M d>
        q, _ = lapack.dtrtrs(factor, dual, lower=1)
        shift = max(shift + length**2 / float(q @ q) * (length - radius) / radius, 0.0)
    decrease = -float(d @ (derivative + 0.5 * (matrix @ d)))
    return InnerStep(d, decrease, shift > 0.0, False, 0, shift, factor)


def more_sorensen(matrix: Array, derivative: Array, norm: Norm, radius: float) -> InnerStep:
    """Return a global minimizer of ``<g, d> + <H d, d>/2`` within ``|d| <= radius``.

    In coordinates where the norm is Euclidean and ``H`` diagonal the multiplier solves a scalar equation; in the hard
    case, where the derivative has no part along the lowest eigenvectors, one of them is added to reach the boundary.

    Parameters
    ----------
    matrix : array, shape (dim, dim)
        ``H``, symmetric.
    derivative : array, shape (dim,)
        ``g``, dual.
    norm : Norm
    radius : float
        Positive and finite.

    References
    ----------
    Moré and Sorensen, SIAM J. Sci. Stat. Comput. 4 (1983) 553-572.
    """
    white = norm.whiten(norm.whiten(0.5 * (matrix + matrix.T)).T)
    curvatures, basis = scipy.linalg.eigh(0.5 * (white + white.T), driver="evd")
    load = basis.T @ norm.whiten(derivative[None])[0]
    lowest = float(curvatures[0])
    rounding = 4.0 * len(load) * np.finfo(float).eps
    tiny = rounding * max(float(np.abs(curvatures).max()), np.finfo(float).tiny)
    # Shifted by the lowest eigenvalue if that is negative: the multiplier is then found to full relative accuracy even
    # where the derivative has next to no part along the lowest eigenvectors.
    gaps = curvatures + max(0.0, -lowest)
    flat = gaps <= tiny
    hard = float(np.abs(load[flat]).max(initial=0.0)) <= FLAT * rounding * float(np.abs(load).max())
    d = np.where(flat, 0.0, -load / np.where(flat, 1.0, gaps))
    # A singular matrix with a consistent derivative has an interior minimizer; its flat directions are left alone.
    interior = bool(lowest >= -tiny and (hard or lowest > tiny) and np.linalg.norm(d) <= radius)
    if not interior:
        if hard and flat[0] and np.linalg.norm(d) <= radius:
            d[0] += np.sqrt(max(radius**2 - float(d @ d), 0.0))
        else:
            d = -load / (gaps + _secular(gaps, load, radius))
    decrease = -float(np.sum(d * (load + 0.5 * curvatures * d)))
    return InnerStep(norm.unwhiten(basis @ d), decrease, not interior, bool(lowest < -tiny), 0)


def _secular(gaps: Array, load: Array, radius: float) -> float:
    """Solve ``|load / (gaps + shift)| = radius`` for ``shift > 0``: safeguarded Newton on the reciprocal."""
    lower, upper = 0.0, float(np.linalg.norm(load)) / radius
    shift = upper
    for _ in range(200):
        shifted = gaps + shift
        d = load / shifted
        length = float(np.linalg.norm(d))
        if abs(length - radius) <= 1e-10 * radius or upper - lower <= 1e-15 * upper:
            break
        lower, upper = (shift, upper) if length > radius else (lower, shift)
        slope = float(np.sum(d * d / shifted)) / length
        step = shift + (length - radius) / radius * length / slope
        shift = step if lower < step < upper else max(np.sqrt(lower * upper), 1e-3 * upper)
    return float(shift)
