"""Truncated conjugate gradients in the inner product of a norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dnnfem.functionals import Norm
from dnnfem.records import Array


@dataclass(frozen=True, eq=False)
class InnerStep:
    """A step of a quadratic model ``q(d) = <g, d> + <H d, d>/2``.

    Attributes
    ----------
    step : array, shape (dim,)
        Primal.
    decrease : float
        ``-q(step)``.
    boundary : bool
        Whether the trust radius was reached.
    negative : bool
        Whether a direction of negative curvature was met.
    iterations : int
        Products with ``H``.
    multiplier : float
        Of the trust radius; NaN if it is not known.
    factor : array, shape (dim, dim), optional
        Cholesky factor (below the diagonal) of the matrix that the step was solved with.
    """

    step: Array
    decrease: float
    boundary: bool
    negative: bool
    iterations: int
    multiplier: float = math.nan
    factor: Array | None = None


def check_derivative(derivative: Array) -> None:
    """Raise a `ValueError` unless the derivative of a model is finite."""
    if not np.isfinite(derivative).all():
        count = np.count_nonzero(~np.isfinite(derivative))
        raise ValueError(f"derivative: got {count} of {derivative.size} numbers that are not finite, expected none")


def check_radius(radius: float) -> None:
    """Raise a `ValueError` unless a trust radius, which may be infinite, is positive."""
    if not radius > 0.0:
        raise ValueError(f"radius: got {radius!r}, expected a positive number")


def steihaug(
    hessian: Callable[[Array], Array],
    derivative: Array,
    norm: Norm,
    radius: float,
    accuracy: float,
    max_iterations: int,
) -> InnerStep:
    """Minimize a quadratic model approximately within ``|d| <= radius``.

    The iteration stops on the boundary, on negative curvature, or when the last gain in energy is below the whole
    times `accuracy` squared: the sums of Hestenes and Stiefel (Strakos and Tichy 2002) with delay one.

    Parameters
    ----------
    hessian : callable
        ``d -> H d``, primal to dual, symmetric.
    derivative : array, shape (dim,)
        ``g``, dual.
    norm : Norm
        Its Riesz map is the preconditioner, its length the one that `radius` bounds.
    radius : float
        May be infinite.
    accuracy : float
        Relative energy error aimed at.
    max_iterations : int
        At most this many products.

    Returns
    -------
    InnerStep
        The step, and why the iteration ended.

    Raises
    ------
    ValueError
        If `derivative` is not finite, or `radius` not positive.

    References
    ----------
    Steihaug, SIAM J. Numer. Anal. 20 (1983) 626-637; Toint (1981).
    """
    check_derivative(derivative)
    check_radius(radius)
    step = np.zeros_like(derivative)
    residual = derivative
    preconditioned = norm.riesz(residual)
    direction = -preconditioned
    rho = float(residual @ preconditioned)
    # Lengths by recurrence: |d|^2, <d, p> and |p|^2 in the norm cost no further Riesz map.
    dd, dp, pp = 0.0, 0.0, rho
    decrease, iteration = 0.0, 0
    while iteration < max_iterations and rho > 0.0:
        product = hessian(direction)
        iteration += 1
        bend = float(direction @ product)
        alpha = rho / bend if bend > 0.0 else np.inf
        if bend <= 0.0 or dd + alpha * (2.0 * dp + alpha * pp) >= radius * radius:
            if not np.isfinite(radius):
                # An unbounded model: the direction of steepest descent is all that can be said.
                break
            tau = (np.sqrt(dp * dp + pp * max(radius * radius - dd, 0.0)) - dp) / pp
            decrease += tau * (rho - 0.5 * tau * bend)
            return InnerStep(step + tau * direction, decrease, True, bend <= 0.0, iteration)
        step = step + alpha * direction
        gain = 0.5 * alpha * rho
        decrease += gain
        residual = residual + alpha * product
        preconditioned = norm.riesz(residual)
        rho_next = float(residual @ preconditioned)
        beta = rho_next / rho
        dd += alpha * (2.0 * dp + alpha * pp)
        dp = beta * (dp + alpha * pp)
        pp = rho_next + beta * beta * pp
        direction = -preconditioned + beta * direction
        rho = rho_next
        if gain <= accuracy**2 * decrease:
            break
    return InnerStep(step, decrease, False, False, iteration)
