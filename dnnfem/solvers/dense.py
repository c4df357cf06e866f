"""Trust-region steps from a dense matrix: by Cholesky factorizations where it is definite, else by eigenvalues."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.linalg import lapack

from dnnfem.functionals import Norm
from dnnfem.records import Array
from dnnfem.solvers.krylov import InnerStep, check_derivative, check_radius
from dnnfem.solvers.secular import Ball, Spectrum

LIMIT = 20
"""Factorizations for one step."""

NEAR = 0.25
"""Relative accuracy with which a definite model's step meets the radius: each digit would cost a factorization."""

VANISHED, LARGE = -10.0, 100.0
"""Logarithms of changes of the multiplier: so far down that it may as well be zero, and as far up as it may go."""

STEEPER, INDEFINITE = 10.0, 1e3
"""Factor between multipliers as long as a semidefinite matrix has no factor, and how far above rounding that may go: a
matrix that has none then is indefinite."""

SLIGHT = 1e-3
"""Largest part of the decrease of the model that such a multiplier may take for itself in an interior step."""

SMALLER = 1e-4
"""Least multiplier that is thought of, relative to one that is too large, if no other is known to be too small."""

DEFECT = 0.005
"""Largest error of a step, in the energy norm and relative to it, that the rounding of its matrix may cause."""


def is_dense(dense: bool | None, dim: int, limit: int) -> bool:
    """Return whether steps come from a dense matrix: up to `limit` coefficients if the user leaves it open.

    Raises
    ------
    ValueError
        If `dense` is neither a bool nor None.
    """
    if dense is None:
        return dim <= limit
    if not isinstance(dense, bool | np.bool_):
        raise ValueError(f"dense: got {dense!r}, expected True, False, or None for at most {limit} coefficients")
    return bool(dense)


def definite(
    matrix: Array, derivative: Array, norm: Norm, radius: float, start: float = 0.0, rounding: float = 0.0
) -> InnerStep | None:
    """Return the step of a positive definite model, its length within `NEAR` of the radius if that binds.

    The multiplier ``s`` solves ``|d(s)| = radius``, with a Cholesky factorization for every ``s`` that is tried.
    Newton's method is for ``log |d|`` as a function of ``log s``: networks have curvatures of all sizes, and their
    steps behave like a power of ``s`` over many decades.  Where that leads astray, it is for ``1/|d|``, a concave
    function of ``s`` whose tangents never go beyond the solution.  From a multiplier that belongs to a radius not far
    away, one or two factorizations do.

    Parameters and references are those of `more_sorensen`, and

    start : float
        Multiplier to begin with.
    rounding : float
        Error of an entry ``H_ij`` of the matrix, relative to ``sqrt(H_ii H_jj)``.

    Returns
    -------
    InnerStep or None
        None if the rounding of the matrix makes it indefinite or spoils the step, or if no multiplier is found.  Where
        a semidefinite matrix has no factor and the radius asks for no multiplier, it is as small as arithmetic allows,
        and the step counts as an interior one unless it is longer without it; None if the matrix is indefinite.
    """
    # Lengths are too large at `lower`, where zero is not tried yet, and too small at `upper`: no matrix is below zero.
    # There is no factor at `singular`.
    lower, upper, singular = -1.0, norm.dual_norm(derivative) / radius, math.nan
    shift = min(start, upper)
    for _ in range(LIMIT):
        shifted = matrix.copy(order="F")
        norm.dense(shifted, shift)
        factor, info = lapack.dpotrf(shifted, lower=1, overwrite_a=1, clean=0)
        if info != 0 or not np.isfinite(factor[-1, -1]):
            smallest = _smallest(matrix, norm)
            if rounding > 0.0 or not shift < INDEFINITE * smallest:
                return None
            lower = singular = shift
            shift = max(STEEPER * shift, smallest)
            continue
        d, _ = lapack.dpotrs(factor, -derivative, lower=1)
        dual = norm.apply(d)
        length = math.sqrt(float(d @ dual))
        if abs(length - radius) <= NEAR * radius or (length <= radius and (shift == 0.0 or lower == singular)):
            break
        lower, upper = (shift, upper) if length > radius else (lower, shift)
        # -d/ds |d|^2 / 2 = <M d, (H + s M)^-1 M d>
        q, _ = lapack.dtrtrs(factor, dual, lower=1)
        fall = float(q @ q) / length**2 if length**2 > 0.0 else 0.0
        if not 0.0 < fall < math.inf:
            return None
        shift = _following(shift, length / radius, fall, lower, upper)
    else:
        return None
    image = matrix @ d
    decrease = -float(d @ (derivative + 0.5 * image))
    # A shift that keeps the matrix from being singular must not decide how long the step is.
    small = lower == singular and length <= radius and shift * length**2 <= SLIGHT * decrease
    boundary = shift > 0.0 and not small
    step = InnerStep(d, decrease, boundary, False, 0, shift, factor)
    return step if rounding == 0.0 or faithful(matrix, derivative, step, rounding) else None


def faithful(matrix: Array, derivative: Array, step: InnerStep, rounding: float) -> bool:
    """Whether errors of the entries of a matrix, see `definite`, would leave a step as it is; no if it has no factor.

    Parameters
    ----------
    matrix, derivative
        Of the model.
    step : InnerStep
        Its step.
    rounding : float
        Relative size of the errors.
    """
    if step.factor is None:
        return False
    energy = math.sqrt(max(-float(derivative @ step.step), 0.0))
    return rounding * _loss(matrix, step.factor, step.step) <= DEFECT * energy


def _smallest(matrix: Array, norm: Norm) -> float:
    """Return a multiplier from which on a semidefinite matrix, plus that of the norm, should have a factor."""
    sizes = np.diagonal(norm.dense(np.zeros_like(matrix)))
    largest = float(np.max(np.diagonal(matrix) / sizes))
    return len(matrix) * float(np.finfo(float).eps) * max(largest, np.finfo(float).tiny)


def _following(shift: float, ratio: float, fall: float, lower: float, upper: float) -> float:
    """Return the multiplier to try next, from ``|d| / radius`` and ``fall = -d log |d| / ds`` at the present one."""
    if shift * fall > 0.0:
        change = math.log(ratio) / (shift * fall)
        power = shift * math.exp(min(change, LARGE))
        if change > VANISHED and lower < power < upper:
            return power
    tangent = max(shift + (ratio - 1.0) / fall, 0.0)
    return tangent if tangent > lower else math.sqrt(max(lower, SMALLER * upper) * upper)


@lru_cache(maxsize=8)
def signs(size: int) -> Array:
    """Return signs without a pattern, the same ones every time: neighbouring coefficients often belong together."""
    return np.random.default_rng(0).choice([-1.0, 1.0], size)


def _loss(matrix: Array, factor: Array, d: Array) -> float:
    """Return how far a step is off, in the energy norm of ``H + s M = L L^T``, per relative error of the matrix.

    Independent errors ``E_ij`` of size ``sqrt(H_ii H_jj)`` move the step by ``(H + s M)^-1 E d``, of energy norm
    ``|L^-1 E d|``.  With ``D = diag(sqrt(H_ii))``, ``E d`` is as large as ``|D d| D e`` with random signs ``e``: one
    draw of them, with one triangular solve, stands for all.
    """
    roots = np.sqrt(np.diagonal(matrix))
    probe, _ = lapack.dtrtrs(factor, roots * signs(len(d)), lower=1)
    return float(np.linalg.norm(roots * d) * np.linalg.norm(probe))


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

    Returns
    -------
    InnerStep
        The step, with its multiplier.

    Raises
    ------
    ValueError
        If `matrix` or `derivative` are not finite, or `radius` is not positive and finite.

    References
    ----------
    Moré and Sorensen, SIAM J. Sci. Stat. Comput. 4 (1983) 553-572.
    """
    check_derivative(derivative)
    check_radius(radius)
    if not np.isfinite(matrix).all():
        raise ValueError("matrix: got numbers that are not finite, expected none")
    if radius == math.inf:
        raise ValueError("radius: got infinity, expected a finite number")
    return Spectrum.of(matrix, derivative, norm).minimize(Ball(radius))
