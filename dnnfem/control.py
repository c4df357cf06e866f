"""Decisions: which part to refine, or to stop.  Pure functions of estimates; the loop is the user's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dnnfem.records import Decision, Estimate

DISAGREEMENT = 10.0
"""Predicted and achieved decrease may differ by this factor, twice running, before the estimate is distrusted."""

ALGEBRAIC_SHARE = 0.3
"""An algebraic error above this share of the discretization estimate is solved for first."""


def decide(
    estimates: Mapping[str, Estimate],
    *,
    tolerance: float,
    budget: float = math.inf,
    algebraic: float = 0.0,
    achieved: Sequence[tuple[float, float]] = (),
) -> Decision:
    """Choose the part whose refinement promises most per added coefficient, or say why to stop.

    Parameters
    ----------
    estimates : mapping of str to Estimate
        One estimate per part that could be refined, e.g. ``{"width": ..., "depth": ...}``, all of the *same* quantity.
        The gain of a part is ``total^2``, its work the sum of ``estimate.cost`` (1 per cell if there is none).
    tolerance : float
        Stop when no part is estimated above it.
    budget : float, optional
        Coefficients that may still be added; parts that cost more as a whole may still be refined in part, but when
        nothing is left the loop stops.
    algebraic : float, optional
        Estimate of the solver's error, same quantity.
    achieved : sequence of (predicted, achieved), optional
        Decreases of the functional on the levels so far, oldest first.

    Returns
    -------
    Decision
        ``part`` is a key of `estimates`, ``"solve"``, or None to stop.

    Raises
    ------
    ValueError
        If there is no estimate, the quantities differ, a total is not finite, or the tolerance is negative.
    """
    if not estimates:
        raise ValueError("estimates: got none, expected at least one")
    if not tolerance >= 0.0:
        raise ValueError(f"tolerance: got {tolerance!r}, expected a non-negative number")
    quantities = {estimate.quantity for estimate in estimates.values()}
    if len(quantities) > 1:
        raise ValueError(
            f"estimates: got different quantities ({'; '.join(sorted(quantities))}), expected one and the same"
        )
    for name, estimate in estimates.items():
        if not math.isfinite(estimate.total):
            raise ValueError(f"estimates: the total of {name!r} is {estimate.total}, expected a finite number")
    largest = max(estimates, key=lambda name: estimates[name].total)
    total = estimates[largest].total
    if algebraic > max(ALGEBRAIC_SHARE * total, tolerance):
        return Decision("solve", f"solve on: the algebraic error {algebraic:.2e} is not small against {total:.2e}")
    if total <= tolerance:
        return Decision(None, f"stop: the estimate {total:.2e} is below the tolerance {tolerance:.2e}")
    if budget <= 0.0:
        return Decision(None, f"stop: no coefficients are left in the budget; the estimate is {total:.2e}")
    recent = list(achieved)[-2:]
    if len(recent) == 2 and all(not _agree(predicted, got) for predicted, got in recent):
        pairs = ", ".join(f"{predicted:.2e} against {got:.2e}" for predicted, got in recent)
        return Decision(None, f"stop: refinement does not pay as predicted twice running (decrease {pairs})")
    worthwhile = [name for name in estimates if estimates[name].total > tolerance]
    best = max(worthwhile, key=lambda name: estimates[name].total ** 2 / _work(estimates[name]))
    estimate = estimates[best]
    return Decision(
        best,
        f"refine {best}: estimate {estimate.total:.2e}, gain {estimate.total**2 / _work(estimate):.2e} per coefficient",
    )


def _agree(predicted: float, achieved: float) -> bool:
    return predicted <= 0.0 or predicted / DISAGREEMENT <= achieved <= predicted * DISAGREEMENT


def _work(estimate: Estimate) -> float:
    cost = float(len(estimate.indicators)) if estimate.cost is None else float(abs(estimate.cost).sum())
    return max(cost, 1.0)
