"""Corrections by the chord method: long steps that follow a valley as it bends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dnnfem.functionals import Linearization
from dnnfem.records import Array

GOOD = 0.75
"""A step that keeps this part of its promise needs no correction."""

HOPE = 0.1
"""Corrections end when all of them will not make a step keep this part of its promise."""

SLIGHT = 0.05
"""Part of the promise that a correction, after the first one, has to make up for."""

CORRECTIONS = 5
"""Most corrections of a step."""

BEND = 0.75
"""Longest first correction, relative to the step."""

AIM = 0.3
"""Contraction that radii aim at."""

LONGER, SHORTER, LEAST = 4.0, 0.5, 0.1
"""Factors of the radius: the largest one after a step, the smallest one then and the largest after a failure, and the
smallest of all."""


@dataclass(frozen=True, eq=False)
class Landing:
    """Where a step ends.

    Attributes
    ----------
    point : Linearization
    step : array, shape (dim,)
        Primal, with its corrections.
    ratio : float
        Actual over predicted decrease.
    contraction : float
        Length of the second correction over that of the first, or a later quotient if that is larger, in the energy
        norm; NaN if there is no second one.
    corrections, remainders : int
        Values and remainders that were computed for corrections, taken or not.
    """

    point: Linearization
    step: Array
    ratio: float
    contraction: float = math.nan
    corrections: int = 0
    remainders: int = 0

    def factor(self, accepted: bool) -> float:
        """Return what the radius is multiplied by, if the contraction is known: that is proportional to it."""
        aimed = AIM / self.contraction if self.contraction > 0.0 else math.inf
        if not accepted:
            return max(min(aimed, SHORTER), LEAST)
        return max(min(aimed, LONGER if self.ratio > GOOD else 1.0), SHORTER)


def corrected(
    plain: Landing,
    decrease: float,
    land: Callable[[Array], Landing],
    remainder: Callable[[Landing], Array | None],
    solve: Callable[[Array], Array],
    length: Callable[[Array], float],
    always: bool = False,
) -> Landing:
    """Return where a step ``d`` of Levenberg and Marquardt's method lands after corrections by the chord method.

    Where the residuals bend, a step leaves the valley that it should follow.  What takes it back is a solve with the
    matrix that is there, of the residual at its end instead of its linearization ``r + A d``:

        e_0 = d,   e_(k+1) = d - (A^T A + mu M)^-1 A^T (r(x + e_k) - r - A e_k).

    The limit satisfies ``A^T r(x + e) + mu M e = 0``, and ``e_1`` is the step with its geodesic correction up to terms
    of third order.  A step that keeps its promise needs no corrections.  Otherwise there are some as long as they lower
    the value, are not too small to make a difference, and contract fast enough for the promise to be kept in the end:
    the value is above that of the limit by half the square of the distance in the energy norm, about that of the next
    correction.

    Parameters
    ----------
    plain : Landing
        Of ``d``.
    decrease : float
        What the model promises for ``d``.
    land : callable
        ``e -> Landing`` of another step.
    remainder : callable
        Of a landing, ``A^T (r(x + e) - r - A e)``, dual; None if it is not known.
    solve : callable
        ``v -> -(A^T A + mu M)^-1 v``, dual to primal.
    length : callable
        Norm of a primal vector.
    always : bool
        Whether steps that keep their promise get one correction, too, which raises the order of convergence from two to
        three, and whether the contraction is measured where one is enough.

    References
    ----------
    Transtrum and Sethna, arXiv:1201.5885 (geodesic correction).

    Fan, The modified Levenberg-Marquardt method for nonlinear equations with cubic convergence, Math. Comp. 81 (2012)
    447-466 (further steps with the same matrix).

    Deuflhard, Newton Methods for Nonlinear Problems (2004), sec. 2.1 (contraction of simplified Newton methods).
    """
    best, before, energy = plain, np.zeros_like(plain.step), math.nan
    for number in range(CORRECTIONS):
        kept = best.ratio >= GOOD
        # What is kept at once needs no contraction.
        measured = always and (number == 0 or (number == 1 and plain.ratio < GOOD))
        if not math.isfinite(best.ratio) or (kept and not measured):
            break
        dual = remainder(best)
        if dual is None or not np.isfinite(dual).all():
            break
        step = plain.step + solve(dual)
        change = step - best.step
        last, energy = energy, max(float((before - dual) @ change), 0.0)
        best, before = replace(best, remainders=number + 1), dual
        if number == 0:
            ended = length(change) > BEND * length(plain.step)
        else:
            quotient = math.sqrt(energy / last) if last > 0.0 else math.inf
            best = replace(best, contraction=float(np.fmax(quotient, best.contraction)))
            above, left = 0.5 * energy / decrease, CORRECTIONS - number
            slight = above < max(SLIGHT, HOPE - best.ratio)
            ended = kept or slight or above * quotient ** (2 * left) > 1.0 - HOPE
        if ended:
            break
        tried = land(step)
        better = tried.point.value < best.point.value and tried.ratio > best.ratio
        contraction, best = best.contraction, tried if better else best
        best = replace(best, contraction=contraction, corrections=number + 1, remainders=number + 1)
        if not better:
            break
    return best
