"""What the loops of all estimators share: networks that know how they grew, solves, and the choice of the level."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from dnnfem.estimators import cross_validation, penalty_weight
from dnnfem.estimators.folds import Copies, Problem
from dnnfem.estimators.race import Network
from dnnfem.estimators.validation import Validation
from dnnfem.functionals import Sum, Tikhonov
from dnnfem.norms import weight_decay
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array, Result, State
from dnnfem.spaces import FeedforwardSpace, Hierarchy

FOLDS = 3
"""Parts that are held out in turn."""

FIRST_STEPS, LEVEL_STEPS = (10, 10), (8, 8)
"""Steps of the solves of the first and of every other level; the penalty is re-estimated after each solve."""

ALPHAS, CLOSE = (1e-3, 1e-2), 2.0
"""Weights of the penalty to begin with, and the factor between two estimates of it that changes nothing.

The evidence has more than one fixed point: from a weak penalty on a network may follow noise, from a strong one on it
may stay too simple.  Which is worse depends on the data, so both race.
"""

TOLERANCE = 0.15
"""Of a solve, relative to the root mean square of the functional."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A network with the weight of its penalty, what the solver goes on with, and the spaces it has grown through."""

    hierarchy: Hierarchy
    x: Array
    alpha: float
    state: State | None = None

    @property
    def space(self) -> FeedforwardSpace:
        """The present one."""
        finest = self.hierarchy.finest
        assert isinstance(finest, FeedforwardSpace)
        return finest


def functional(problem: Problem, quadrature: Quadrature, fit: Fit) -> Sum:
    """Return the misfit at some samples, and the penalty."""
    return Sum(problem.on(fit.space, quadrature), Tikhonov(fit.space, weight_decay, fit.alpha))


P = TypeVar("P", bound=Problem)

Solver = Callable[[Sum, Fit, float, int], Result]
"""``solver(J, fit, tolerance, max_steps)`` goes on from a network."""


def solved(problem: Problem, quadrature: Quadrature, fit: Fit, rounds: Sequence[int], solver: Solver) -> Fit:
    """Solve, re-estimate the penalty, and again."""
    for steps in rounds:
        J = functional(problem, quadrature, fit)
        result = solver(J, fit, TOLERANCE * math.sqrt(2.0 * J.value(fit.x)), steps)
        last, alpha = fit.alpha, penalty_weight(J, result.x)
        fit = Fit(fit.hierarchy, result.x, alpha, result.state)
        if result.status.converged and abs(math.log(alpha / last)) < math.log(CLOSE):
            break
    return fit


@dataclass(frozen=True, eq=False)
class Outcome:
    """A network that was grown, and what is known about it.

    Attributes
    ----------
    fit : Fit
        Solved with all samples.
    folds : tuple of Fit
        Networks of the same level; each has not seen the samples ``validation.held`` of the same number.
    validation : Validation
        Its setting is the weight of the penalty that the path began with.
    """

    fit: Fit
    folds: tuple[Fit, ...]
    validation: Validation

    def trained(self, samples: Quadrature, number: int) -> Quadrature:
        """Return the samples that the network of a fold was trained with."""
        return samples.subset(np.setdiff1d(np.arange(len(samples)), self.validation.held[number]))

    def unseen(self, problem: Problem, evaluate: Callable[[Fit, Array], Array]) -> Array:
        """Evaluate the network of each fold at the points that it has not seen; rows are in the order of `held`."""
        points = problem.quadrature.points
        pairs = zip(self.folds, self.validation.held, strict=True)
        return np.concatenate([evaluate(fit, points[held]) for fit, held in pairs])

    @property
    def held(self) -> Array:
        """Numbers of the samples that were held out, fold after fold."""
        return np.concatenate(self.validation.held)


def chosen(
    problem: P,
    path: Callable[[P, Quadrature, float, int, Fit | None], Iterator[Fit]],
    solve: Callable[[P, Quadrature, Fit], Fit],
    seed: int,
    alphas: Sequence[float],
    starts: Mapping[tuple[str, float], Fit],
    others: Sequence[Fit],
) -> Outcome:
    """Choose the level of a path by cross-validation over all of it; solve the best network on all samples.

    Parameters
    ----------
    problem : Problem
    path : callable
        ``path(problem, quadrature, alpha, seed, start)`` yields the network of every level, grown with no other samples
        than those of the quadrature: with the weight of the penalty to begin with, and the network to go on from, or
        None.
    solve : callable
        ``solve(problem, quadrature, fit)`` solves on with all samples, from that of the networks of the folds and of
        the others for which the functional is lowest.
    seed : int
        Of the division into folds.
    alphas : sequence of float
        Weights of the penalty that paths race with.
    starts : mapping of (str, float) to Fit
        Networks that a path may go on from, by the hash of the samples that they were trained with and the weight that
        they began with: what has seen other samples cannot be judged by them.
    others : sequence of Fit
        They may have seen any samples, as nothing is estimated with them.

    Raises
    ------
    ValueError
        If all samples are at the same point.
    """
    found: list[Fit] = []

    def networks(quadrature: Quadrature, setting: Hashable) -> Iterator[Network]:
        assert isinstance(setting, float)
        for fit in path(problem, quadrature, setting, seed, starts.get((quadrature.hash, setting))):
            found.append(fit)
            yield fit.space, fit.x

    places = len(Copies.of(problem.quadrature.points).first)
    if places < 2:
        raise ValueError(f"X: got {len(problem.quadrature)} samples at the same point, expected different points")
    validation = cross_validation(problem, networks, alphas, folds=min(FOLDS, places), seed=seed)
    folds = tuple(next(fit for fit in found if fit.x is x) for _, x in validation.networks)

    def value(fit: Fit) -> float:
        return functional(problem, problem.quadrature, fit).value(fit.x)

    return Outcome(solve(problem, problem.quadrature, min((*folds, *others), key=value)), folds, validation)
