"""Decisions: which part to refine, or to stop.  Pure functions of estimates; the loop is the user's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dnnfem.records import Decision, Estimate

DISAGREEMENT = 10.0
"""Predicted and achieved decrease may differ by this factor, twice running, before the estimate is distrusted."""

ALGEBRAIC_SHARE = 0.3
"""An algebraic error above this share of the total is solved for first."""

ROUNDING = 1e-9
"""Relative accuracy with which squared indicators sum to a squared total."""

WORTHWHILE = 0.3
"""A part below this share of the total is not refined: removing it altogether would change the total by 5 per cent."""


POINTS = "points"
"""The part that comes first: everything else has been computed with the points that there are."""

UNRESOLVED = 0.2
"""What points miss, relative to the largest of the other estimates, from which on these cannot be relied on."""


def decide(
    estimates: Mapping[str, Estimate],
    *,
    tolerance: float,
    budget: float = math.inf,
    algebraic: float | None = None,
    achieved: Sequence[tuple[float, float]] = (),
) -> Decision:
    """Choose the part whose refinement promises most per unit of cost, or say why to stop.

    Parameters
    ----------
    estimates : mapping of str to Estimate
        One estimate per part that could be refined, e.g. ``{"width": ..., "depth": ...}``, all of the *same* quantity.
        Refining a part can gain ``estimate.parts[part]`` squared (the total squared if there is no such part); its work
        is the sum of ``estimate.cost`` (1 per cell if there is none) over the best cells that promise as much together:
        where gains do not add up and the total is the largest of them, that is one cell.  The part ``"points"``, e.g.
        from `dnnfem.quadrature_error`, comes before all others: a solver exploits what is not seen between the points,
        and estimates of neurons are then fiction, as is that of the solver.
    tolerance : float
        Stop when the largest total is not above it.
    budget : float, optional
        Coefficients that may still be added; when nothing is left the loop stops.
    algebraic : float, optional
        Estimate of the solver's error, same quantity; default the part ``"algebraic"`` of the estimate, else 0.  With 0
        the solver is taken for done, although it might go on slowly for long.
    achieved : sequence of (predicted, achieved), optional
        Decreases of the functional on the levels so far, oldest first.

    Returns
    -------
    Decision
        ``part`` is a key of `estimates`, ``"solve"``, or None to stop.

    Raises
    ------
    ValueError
        If there is no estimate, the quantities differ, a total is not finite, the tolerance or the algebraic error is
        negative, or a number is NaN.

    Examples
    --------
    >>> width = fem.Estimate("error", ["a neuron"], np.array([0.3]), 0.3, cost=np.array([4.0]))
    >>> depth = fem.Estimate("error", ["a layer"], np.array([0.4]), 0.4, cost=np.array([20.0]))
    >>> decision = fem.decide({"width": width, "depth": depth}, tolerance=0.01)
    >>> decision.part
    'width'
    """
    if not estimates:
        raise ValueError("estimates: got none, expected at least one")
    if not tolerance >= 0.0:
        raise ValueError(f"tolerance: got {tolerance!r}, expected a non-negative number")
    if math.isnan(budget):
        raise ValueError(f"budget: got {budget!r}, expected a number")
    if algebraic is not None and not algebraic >= 0.0:
        raise ValueError(f"algebraic: got {algebraic!r}, expected a non-negative number")
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
    if total <= tolerance:
        return Decision(None, f"stop: the estimate {total:.2e} is not above the tolerance {tolerance:.2e}")
    if budget <= 0.0:
        return Decision(None, f"stop: no coefficients are left in the budget; the estimate is {total:.2e}")
    missed, others = _missed(estimates)
    if missed > UNRESOLVED * others:
        words = f"{missed:.2e} of {others:.2e} is between the points, and was not seen"
        return Decision(POINTS, f"refine {POINTS}: {words}")
    solver = float(estimates[largest].parts.get("algebraic", 0.0)) if algebraic is None else algebraic
    if solver > max(ALGEBRAIC_SHARE * total, tolerance):
        return Decision("solve", f"solve on: the algebraic error {solver:.2e} is not small against {total:.2e}")
    recent = list(achieved)[-2:]
    if len(recent) == 2 and all(not _agree(predicted, got) for predicted, got in recent):
        pairs = ", ".join(f"{predicted:.2e} against {got:.2e}" for predicted, got in recent)
        return Decision(None, f"stop: refinement does not pay as predicted twice running (decrease {pairs})")
    gains = {name: float(estimate.parts.get(name, estimate.total)) for name, estimate in estimates.items()}
    left = max(_left(estimate, algebraic) for estimate in estimates.values())
    worthwhile = [name for name in estimates if gains[name] > WORTHWHILE * left]
    if not worthwhile:
        offers = ", ".join(f"{name} {gain:.2e}" for name, gain in gains.items())
        return Decision(None, f"stop: refinement does not pay; of {left:.2e} it could remove {offers}")
    rates = {name: gains[name] ** 2 / _work(estimates[name], gains[name]) for name in worthwhile}
    best = max(worthwhile, key=lambda name: rates[name])
    return Decision(
        best,
        f"refine {best}: it could remove {gains[best]:.2e} of {left:.2e}, {rates[best]:.2e} per unit of cost",
    )


def _missed(estimates: Mapping[str, Estimate]) -> tuple[float, float]:
    """Return what more points would change, and the largest of the other totals, or that of the points alone."""
    if POINTS not in estimates:
        return 0.0, 0.0
    own = estimates[POINTS]
    others = [estimate.total for name, estimate in estimates.items() if name != POINTS]
    return float(own.parts.get(POINTS, own.total)), max(others, default=own.total)


def _left(estimate: Estimate, algebraic: float | None) -> float:
    """Return the total with the solver's error as the user has it."""
    if algebraic is None or "algebraic" not in estimate.parts:
        return estimate.total
    own = float(estimate.parts["algebraic"])
    return math.sqrt(max(estimate.total**2 - own**2, 0.0) + algebraic**2)


def _agree(predicted: float, achieved: float) -> bool:
    return predicted <= 0.0 or predicted / DISAGREEMENT <= achieved <= predicted * DISAGREEMENT


def _work(estimate: Estimate, gain: float) -> float:
    """Return the cost of the fewest cells whose squared indicators sum to that of the gain."""
    squares = np.square(estimate.indicators)
    order = np.argsort(-squares, kind="stable")
    count = int(np.searchsorted(np.cumsum(squares[order]), (1.0 - ROUNDING) * gain**2)) + 1
    cost = np.ones(len(order)) if estimate.cost is None else np.abs(estimate.cost)
    return max(float(np.sum(cost[order[:count]])), 1.0)
