"""Time slabs: an evolution equation is solved on one interval of time after another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from dnnfem.problems.collocation import Collocation
from dnnfem.problems.fields import Points
from dnnfem.problems.solution import Solution
from dnnfem.problems.torched import TorchFunction


@dataclass(frozen=True, eq=False)
class Final:
    """A solution, or its derivative in time, as a condition: ``g(p)`` at the points where it is asked for.

    Parameters
    ----------
    function : TorchFunction
        The solution.
    velocity : bool
        Whether the derivative is meant.
    """

    function: TorchFunction
    velocity: bool = False

    def __call__(self, p: Points) -> torch.Tensor:
        """Return rows of numbers, one per output."""
        return self.function.with_speed(p.coordinates)[1].T if self.velocity else self.function(p.coordinates).T


def next_slab(problem: Collocation, solution: Solution, end: float, exact: bool | None = None) -> Collocation:
    """Return a problem on the interval of time after that of another one, which begins where its solution ends.

    Long intervals are hard for least squares: an error at the beginning is cheaper than all that follows from it.  On
    short ones solutions are simple, and each begins with what the one before has found.

    Parameters
    ----------
    problem : Collocation
        With `time`; initial velocities are passed on if it has some.
    solution : Solution
        Of this problem.
    end : float
        Of the new interval.
    exact : bool, optional
        Whether conditions hold exactly from now on; default as before.  Initial values with a kink, which a periodic
        solution cannot begin with exactly, are smooth when the first interval is over.

    Returns
    -------
    Collocation
        With points of its own, as many as a new problem has, and without weights.

    Raises
    ------
    ValueError
        If the problem has no time, or has observations, which lie in its own interval, or `end` is not later than its
        end.
    """
    if problem.time is None:
        raise ValueError("problem: got one without time, expected time=(t0, t1)")
    if problem.observations is not None:
        raise ValueError(
            "problem: got one with observations, all of which are before the new interval, expected one without: "
            "solve an inverse problem on the whole interval"
        )
    begin = problem.time[1]
    if not end > begin:
        raise ValueError(f"end: got {end!r}, expected a time after {begin!r}, the end of the interval before")
    function = solution.to_torch()
    velocity = None if problem.velocity is None else Final(function, velocity=True)
    quadrature: Any = None
    return replace(
        problem,
        time=(begin, float(end)),
        initial=Final(function),
        velocity=velocity,
        exact=problem.exact if exact is None else exact,
        quadrature=quadrature,
        weight=None,
    )
