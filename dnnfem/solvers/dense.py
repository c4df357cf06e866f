"""Trust-region steps from an eigenvalue decomposition: exact, any inertia."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from dnnfem.functionals import Norm
from dnnfem.records import Array
from dnnfem.solvers.krylov import InnerStep


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
    curvatures, basis = scipy.linalg.eigh(0.5 * (white + white.T))
    load = basis.T @ norm.whiten(derivative[None])[0]
    lowest = float(curvatures[0])
    rounding = len(load) * np.finfo(float).eps
    tiny = rounding * max(float(np.abs(curvatures).max()), np.finfo(float).tiny)

    def amplitudes(multiplier: float) -> Array:
        shifted = curvatures + multiplier
        safe = np.where(np.abs(shifted) > tiny, shifted, np.inf)
        return np.asarray(-load / safe)

    floor = max(0.0, -lowest)
    d = amplitudes(floor)
    hard = np.abs(load[curvatures <= lowest + tiny]).max() <= rounding * max(
        float(np.abs(load).max()), 1e-300
    )
    # A singular matrix with a consistent derivative has an interior minimizer; its flat directions are left alone.
    definite = lowest > tiny or (hard and lowest >= -tiny)
    interior = bool(definite and np.linalg.norm(d) <= radius)
    if not interior:
        if lowest <= tiny and hard and np.linalg.norm(d) <= radius:
            d = d.copy()
            d[0] += np.sqrt(max(radius**2 - float(d @ d), 0.0))
        else:
            d = amplitudes(_secular(curvatures, load, radius, floor))
    decrease = -float(np.sum(d * (load + 0.5 * curvatures * d)))
    return InnerStep(norm.unwhiten(basis @ d), decrease, not interior, bool(lowest < -tiny), 0)


def _secular(curvatures: Array, load: Array, radius: float, floor: float) -> float:
    """Solve ``|load / (curvatures + lambda)| = radius`` for ``lambda > floor``: safeguarded Newton."""
    lower, upper = floor, floor + float(np.linalg.norm(load)) / radius
    multiplier = 0.5 * (lower + upper)
    for _ in range(200):
        shifted = curvatures + multiplier
        if shifted[0] <= 0.0:
            lower = multiplier
            multiplier = 0.5 * (lower + upper)
            continue
        d = load / shifted
        length = float(np.linalg.norm(d))
        if abs(length - radius) <= 1e-10 * radius or upper - lower <= 1e-15 * upper:
            break
        lower, upper = (multiplier, upper) if length > radius else (lower, multiplier)
        slope = float(np.sum(d * d / shifted)) / length
        step = multiplier + (length - radius) / radius * length / slope
        multiplier = step if lower < step < upper else 0.5 * (lower + upper)
    return multiplier
