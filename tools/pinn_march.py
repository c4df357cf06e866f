"""Runs of ``bench_pinn.py``: time slabs one after another, and what a run would have returned at any moment."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from equations import Case

import dnnfem as fem

Array = np.ndarray
Start = tuple[fem.FeedforwardSpace, Array]

TEST = 10_000
"""Points that errors are computed at."""


@dataclass(frozen=True)
class Level:
    """Where a run stands."""

    space: fem.FeedforwardSpace
    x: Array
    quadrature: fem.Quadrature
    residual: float
    seconds: float


Slab = Callable[[fem.Collocation, int, Start | None, float], Level]
"""Solves the problem of a slab: its number, what the slab before it ended with (None at first), and its time."""


@dataclass(frozen=True)
class Moment:
    """After a solve: coefficients, seconds, and root mean square error of what the run would have returned then."""

    dim: int
    seconds: float
    rms: float


@dataclass(frozen=True)
class March:
    """What has been solved: a problem and a level for each slab, and the times between them."""

    between: Sequence[float]
    problems: Sequence[fem.Collocation]
    levels: Sequence[Level]

    @property
    def dim(self) -> int:
        """Coefficients of all slabs."""
        return sum(level.space.dim for level in self.levels)

    def owner(self, places: Array) -> Array:
        """Return the number of the slab of each place, shape (m,)."""
        return np.searchsorted(self.between, places[:, -1])

    def __call__(self, places: Array) -> Array:
        """Return the values at places (m, d), shape (m,)."""
        result, owner = np.empty(len(places)), self.owner(places)
        for number, (problem, level) in enumerate(zip(self.problems, self.levels, strict=True)):
            mine = owner == number
            result[mine] = problem.solution(level.space, level.x)(places[mine])[:, 0]
        return result


def first(problem: fem.Collocation, hidden: tuple[int, ...], seed: int) -> Start:
    """Return the space that a run begins with, and random coefficients."""
    inputs = problem.domain.dim + (problem.time is not None)
    unknowns = len(problem.unknowns or ())
    space = fem.FeedforwardSpace(inputs, hidden, problem.outputs, periodic=problem.periodic, unknowns=unknowns)
    return space, space.initial(seed=seed)


def march(
    case: Case,
    problem: fem.Collocation,
    seconds: float,
    solve: Slab,
    shares: Sequence[float],
    weights: Sequence[Any] | None = None,
    start: Start | None = None,
    onward: March | None = None,
) -> March:
    """Solve one time slab after another, each with its share of the time; without slabs, everything at once.

    Slabs may have weights of their residuals.  The first one begins with `start`, and the others with the network of
    the one before; or all go `onward` from another march.
    """
    began, edges = time.perf_counter(), [0.0, 0.0]
    if case.slabs > 1:
        edges = np.linspace(*problem.time, case.slabs + 1).tolist()
        problem = replace(problem, time=(edges[0], edges[1]), quadrature=None)
    parts, levels = [], []
    for number in range(case.slabs):
        if number:
            problem = fem.next_slab(problem, problem.solution(*start), edges[number + 1], exact=True)
        if onward is not None:
            level = onward.levels[number]
            problem, start = replace(problem, quadrature=level.quadrature), (level.space, level.x)
        if weights is not None:
            problem = replace(problem, weight=weights[number])
        # What the slabs before did not need, or needed more, is shared by the others.
        left = max(seconds - (time.perf_counter() - began), 0.0)
        level = solve(problem, number, start, left * shares[number] / sum(shares[number:]))
        parts.append(problem)
        levels.append(level)
        # What the network of one slab looks like is a good guess for the next one.
        start = level.space, level.x
    return March(edges[1:-1], parts, levels)


def stabilities(found: March) -> list[Any]:
    """Return the weights of all slabs, by what residuals do in them and in all later ones."""
    later, weights = None, []
    for problem, level in zip(reversed(found.problems), reversed(found.levels), strict=True):
        later = fem.stability(problem, level.space, level.x, level.quadrature, later=later)
        weights.append(later.weights)
    return weights[::-1]


def unseen_points(problem: fem.Collocation) -> Array:
    """Return random points that no run sees, shape (`TEST`, d)."""
    low, high = (list(corner) for corner in (problem.domain.low, problem.domain.high))
    if problem.time is not None:
        low, high = [*low, problem.time[0]], [*high, problem.time[1]]
    return np.random.default_rng(12345).uniform(low, high, (TEST, len(low)))


def rms(values: Array) -> float:
    """Return the root mean square, infinity if it is not finite."""
    found = float(np.sqrt(np.mean(values**2)))
    return found if math.isfinite(found) else math.inf


def error(case: Case, problem: fem.Collocation, solution: Callable[[Array], Array]) -> tuple[float, float]:
    """Return the relative and the root mean square error of a function, (m, d) to (m,), at the test points."""
    places = unseen_points(problem)
    exact = case.exact(places)
    found = rms(solution(places) - exact)
    return found / rms(exact), found


def moments(
    case: Case, problem: fem.Collocation, found: March, histories: Sequence[Sequence[Level]]
) -> list[list[Moment]]:
    """Return for each slab the errors in it after each solve.

    They are computed when all is over, and cost the run no time.  What a run would have returned is the level with the
    least residual so far; slabs begin with what those before them have ended with.
    """
    places = unseen_points(problem)
    exact, owner = case.exact(places), found.owner(places)
    result = []
    for number, (part, history) in enumerate(zip(found.problems, histories, strict=True)):
        mine, best, slab = owner == number, None, []
        for level in history:
            if best is None or level.residual <= best.residual:
                best = level
                now = rms(part.solution(level.space, level.x)(places[mine])[:, 0] - exact[mine])
            slab.append(Moment(best.space.dim, level.seconds, now))
        result.append(slab)
    return result


def reached(slabs: Sequence[Sequence[Moment]], wanted: float) -> tuple[float, float]:
    """Return coefficients and seconds with which a run first had an error of at most `wanted`, infinity if never.

    Both are sums over the slabs: where the error in every slab is at most `wanted`, so is that of all of them.
    """
    firsts = [next((now for now in slab if now.rms <= wanted), None) for slab in slabs]
    known = [now for now in firsts if now is not None]
    if len(known) < len(slabs):
        return math.inf, math.inf
    return float(sum(now.dim for now in known)), sum(now.seconds for now in known)
