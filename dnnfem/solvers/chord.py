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

CORRECTIONS = 5
"""Most corrections of a step."""

BEND = 0.75
"""Longest first correction, relative to the step."""

HOPE = 0.1
"""Corrections end when all of them will not make a step keep this part of its promise."""

AIM = 0.3
"""Contraction that radii aim at."""

LONGER, SHORTER = 4.0, 0.5
"""Factors of the radius: the largest one after a step, and after one that has failed."""

LEAST = 0.1
"""Smallest factor of the radius."""


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
    corrections : int
        How many were tried.
    contraction : float
        Length of a correction over that of the one before (of the step for the first), the largest of all; 0 without.
    """

    point: Linearization
    step: Array
    ratio: float
    corrections: int = 0
    contraction: float = 0.0

    def factor(self, accepted: bool) -> float:
        """Return what the radius is multiplied by: contractions are proportional to it."""
        aimed = AIM / self.contraction if self.contraction > 0.0 else math.inf
        if not accepted:
            return max(min(aimed, SHORTER), LEAST)
        return max(min(aimed, LONGER if self.ratio > GOOD else 1.0), SHORTER)


def corrected(
    plain: Landing,
    land: Callable[[Array], Landing],
    remainder: Callable[[Landing], Array | None],
    solve: Callable[[Array], Array],
    length: Callable[[Array], float],
    least: int = 0,
) -> Landing:
    """Return where a step ``d`` of Levenberg and Marquardt's method lands after corrections by the chord method.

    Where the residuals bend, a step leaves the valley that it should follow.  What takes it back is a solve with the
    matrix that is there, of the residual at its end instead of its linearization ``r + A d``:

        e_0 = d,   e_(k+1) = d - (A^T A + mu M)^-1 A^T (r(x + e_k) - r - A e_k).

    The limit satisfies ``A^T r(x + e) + mu M e = 0``, and ``e_1`` is the step with its geodesic correction up to terms
    of third order.  There are corrections as long as they contract, each lowers the value, and the promise is not kept.

    Parameters
    ----------
    plain : Landing
        Of ``d``.
    land : callable
        ``e -> Landing`` of another step.
    remainder : callable
        Of a landing, ``A^T (r(x + e) - r - A e)``, dual; None if it is not known.
    solve : callable
        ``v -> -(A^T A + mu M)^-1 v``, dual to primal.
    length : callable
        Norm of a primal vector.
    least : int
        Corrections of steps that keep their promise, too: the first one raises the order of convergence from two to
        three.

    References
    ----------
    Transtrum and Sethna, arXiv:1201.5885 (geodesic correction).

    Fan, The modified Levenberg-Marquardt method for nonlinear equations with cubic convergence, Math. Comp. 81 (2012)
    447-466 (further steps with the same matrix).

    Deuflhard, Newton Methods for Nonlinear Problems (2004), sec. 2.1 (contraction of simplified Newton methods).
    """
    best = plain
    while best.corrections < CORRECTIONS and math.isfinite(best.ratio):
        if best.ratio >= GOOD and best.corrections >= least:
            break
        dual = remainder(best)
        if dual is None or not np.isfinite(dual).all():
            break
        step = plain.step + solve(dual)
        if best is plain and length(step - plain.step) > BEND * length(plain.step):
            break
        tried, count = land(step), best.corrections + 1
        if not tried.point.value < best.point.value:
            return replace(best, corrections=count, contraction=1.0 if best.ratio < GOOD else best.contraction)
        # What is missing is the square of a distance to the valley.
        missing, before = max(1.0 - tried.ratio, 0.0), 1.0 - best.ratio
        contraction = math.sqrt(missing / before) if best.ratio < GOOD else 0.0
        best = replace(tried, corrections=count, contraction=max(best.contraction, contraction))
        if missing * contraction ** (2 * (CORRECTIONS - count)) > 1.0 - HOPE:
            break
    return best
