"""Conjugate gradients in the inner product of a norm, with bounds on the energy norm of what is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dnnfem.functionals import Norm
from dnnfem.records import Array
from dnnfem.solvers.krylov import check_derivative

SATURATED = 0.25
"""Part of a squared error that a sum over the following gains may miss."""

SAFE = 1.0 - 1e-6
"""A bound of the spectrum that is met exactly is lowered a little: rounding must not carry the recursion past it."""

WINDOW = 1e-4
"""How far back gains are compared with what came after them: until the squared error was larger by one over this."""


@dataclass(frozen=True, eq=False)
class EnergyStep:
    """An approximate solution of ``H d = -g``, with bounds of ``|d_j - d|_H`` for all iterates.

    Attributes
    ----------
    step : array, shape (dim,)
        The last iterate, primal.
    energy : float
        ``<H step, step>``, the sum of all gains.
    residual : array, shape (dim,)
        ``g + H step``, dual, by recurrence.
    error : float
        Estimate of ``|step - d|_H``: the upper bound if there is one, else the reliable part of the lower bounds;
        infinite as long as nothing is known.
    lower : array, shape (iterations + 1,)
        Lower bounds for every iterate, from the gains after it: zero for the last one.
    upper : array, shape (iterations + 1,)
        Upper bounds for every iterate; infinite without a lower bound of the spectrum.
    delay : int
        Iterations after which the error was known, all of them if it is not: 0 if there is an upper bound.
    iterations : int
        Products with ``H``.
    accurate : bool
        Whether the step is as accurate as asked for, rather than the last one that the limit allowed.
    indefinite : bool
        Whether a direction was met along which ``H`` is not positive, or not finite; the step is then the iterate
        before.
    refuted : bool
        Whether the lower bound of the spectrum proved to be false: there are no upper bounds then.
    """

    step: Array
    energy: float
    residual: Array
    error: float
    lower: Array
    upper: Array
    delay: int
    iterations: int
    accurate: bool
    indefinite: bool
    refuted: bool


def known(gains: Sequence[float], place: int) -> int:
    """Return the last iterate whose error the gains so far tell, at least `place`: the adaptive delay; -1 for none.

    The squared error of iterate ``l`` is the sum of the gains ``D_l + D_{l+1} + ...``.  The sum up to ``D_k`` misses
    the squared error after it, which is taken for at most ``S D_k``: ``S`` is the largest ratio of a sum
    ``D_i + ... + D_k`` to its first term in the last iterations before ``l``.  On a plateau gains are small and what
    comes after them is not; ``S`` is large there, and so is the delay.  ``l`` is known if ``S D_k`` is at most a
    quarter of its sum.

    References
    ----------
    Meurant, Papež and Tichý, Numer. Algorithms 88 (2021) 1337-1359.
    """
    while place < len(gains) - 1:
        after = float(sum(gains[place + 1 :]))
        worst, whole = 1.0, after
        for gain in reversed(gains[: place + 1]):
            whole += gain
            worst = max(worst, whole / gain) if gain > 0.0 else math.inf
            if after <= WINDOW * whole:
                break
        if worst * gains[-1] > SATURATED * after:
            break
        place += 1
    return place


def conjugate_gradients(
    hessian: Callable[[Array], Array],
    derivative: Array,
    norm: Norm,
    accuracy: float | Callable[[float], float],
    max_iterations: int,
    lower_bound: float = 0.0,
    small: float = 0.0,
) -> EnergyStep:
    """Solve ``H d = -g`` with a positive definite matrix until the error in the energy norm is small enough.

    The gains ``D_j = alpha_j <r_j, M^-1 r_j>`` sum up to the energy of the solution, so that sums of them are lower
    bounds of errors, and with an adaptive delay (`known`) good estimates.  From ``alpha |v|^2 <= <H v, v>`` the rule of
    Gauss and Radau gives an upper bound at once: ``|d_j - d|_H^2 <= c_j <r_j, M^-1 r_j>`` with

        ``c_0 = 1/alpha``,  ``c_{j+1} = (c_j - alpha_j) / (alpha (c_j - alpha_j) + beta_{j+1})``.

    ``c_j <= alpha_j`` proves that ``alpha`` is too large.  Then there is no upper bound for any iterate, and the
    adaptive delay takes over.

    Parameters
    ----------
    hessian : callable
        ``d -> H d``, primal to dual, symmetric.
    derivative : array, shape (dim,)
        ``g``, dual.
    norm : Norm
        Its Riesz map ``M^-1`` is the preconditioner.
    accuracy : float or callable
        Error aimed at relative to ``|d_j|_H``, or a function of that energy norm which gives it.
    max_iterations : int
        At most this many products.
    lower_bound : float
        ``alpha``; zero if none is known.
    small : float
        Dual norm of a residual that is small enough, whatever the error.

    Returns
    -------
    EnergyStep

    Raises
    ------
    ValueError
        If `derivative` is not finite, or `lower_bound` is negative or not finite.

    References
    ----------
    Hestenes and Stiefel (1952); Golub and Meurant, BIT 37 (1997) 687-705; Strakoš and Tichý, ETNA 13 (2002) 56-80.
    """
    check_derivative(derivative)
    lowest = SAFE * check_bound(lower_bound)
    step, residual = np.zeros_like(derivative), derivative
    preconditioned = norm.riesz(residual)
    direction = -preconditioned
    rho = float(residual @ preconditioned)
    factor = 1.0 / lowest if lowest > 0.0 else math.inf
    gains: list[float] = []
    upper = [factor * rho if rho > 0.0 else 0.0]
    energy, place, indefinite, refuted = 0.0, -1, False, False
    error, accurate = math.sqrt(upper[0]), not rho > 0.0
    while len(gains) < max_iterations and not accurate:
        product = hessian(direction)
        bend = float(direction @ product)
        if not 0.0 < bend < math.inf:
            indefinite = True
            break
        alpha = rho / bend
        step = step + alpha * direction
        residual = residual + alpha * product
        preconditioned = norm.riesz(residual)
        following = float(residual @ preconditioned)
        beta = following / rho
        gains.append(alpha * rho)
        energy += gains[-1]
        if lowest > 0.0 and not factor > alpha:
            lowest, refuted, upper = 0.0, True, [math.inf] * len(upper)
        factor = _radau(factor, alpha, beta, lowest)
        # The error never grows: where rounding spoils the recursion, the bound before remains one.
        upper.append(min(upper[-1], factor * following) if following > 0.0 else 0.0)
        place = known(gains, place)
        if following <= 0.0 or lowest > 0.0:
            error = math.sqrt(upper[-1])
        else:
            error = math.sqrt(sum(gains[place:]) / (1.0 - SATURATED)) if place >= 0 else math.inf
        direction = -preconditioned + beta * direction
        rho = following
        size = math.sqrt(energy)
        accurate = error <= (accuracy(size) if callable(accuracy) else accuracy) * size or rho <= small**2
    lower = np.sqrt(np.append(np.cumsum(gains[::-1])[::-1], 0.0))
    count = len(gains) + indefinite
    delay = 0 if lowest > 0.0 else len(gains) - max(place, 0)
    return EnergyStep(step, energy, residual, error, lower, np.sqrt(upper), delay, count, accurate, indefinite, refuted)


def check_bound(lower_bound: float, other: str = "") -> float:
    """Return a lower bound of a spectrum; raise a `ValueError` if it is negative or no finite number, nor `other`."""
    number = isinstance(lower_bound, int | float | np.floating) and not isinstance(lower_bound, bool)
    if not number or not 0.0 <= lower_bound < math.inf:
        raise ValueError(f"lower_bound: got {lower_bound!r}, expected a finite number that is not negative{other}")
    return float(lower_bound)


def _radau(factor: float, alpha: float, beta: float, lower_bound: float) -> float:
    """Return the next coefficient of Gauss and Radau; infinity without a lower bound."""
    if lower_bound == 0.0:
        return math.inf
    rest = factor - alpha
    return rest / (lower_bound * rest + beta)
