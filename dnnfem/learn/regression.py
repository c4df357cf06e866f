"""The loop of the regressor: two hidden layers, the penalty by the evidence, the width by cross-validation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dnnfem.estimators import insertion_sensitivity
from dnnfem.functionals import Sum
from dnnfem.learn import growth
from dnnfem.learn.growth import ALPHAS, FIRST_STEPS, LEVEL_STEPS, Fit, Outcome
from dnnfem.problems import Regression
from dnnfem.quadrature import Quadrature
from dnnfem.records import Result
from dnnfem.refinement import ridge_candidates, widen
from dnnfem.solvers import trust_region
from dnnfem.spaces import FeedforwardSpace, Hierarchy

WIDTHS = (5, 4, 3, 2, 1)
"""Of the two layers of the first network: the largest one with no more coefficients than there are values."""

GROWTH = 0.5
"""New neurons of a layer, relative to those that it has."""

MOST = 3000
"""No level has more coefficients, unless the first one of an input with hundreds of features."""

SAMPLES = 12
"""Samples that a level is solved with, per coefficient: more would cost more than they tell."""

CANDIDATES, SCORED = 32, 2000
"""Candidates per layer, and samples that they are scored with."""


def dense(J: Sum, fit: Fit, tolerance: float, steps: int) -> Result:
    """Take Levenberg-Marquardt steps from the curvature as a matrix."""
    return trust_region(J, fit.x, tolerance, state=fit.state, curvature=True, max_steps=steps)


def solved(problem: Regression, quadrature: Quadrature, fit: Fit, rounds: Sequence[int] = LEVEL_STEPS) -> Fit:
    """Solve, re-estimate the penalty, and again."""
    return growth.solved(problem, quadrature, fit, rounds, dense)


def scratch(space: FeedforwardSpace, alpha: float, seed: int = 0) -> Fit:
    """Return a random network."""
    return Fit(Hierarchy((space,)), space.initial(seed=seed), alpha)


def smallest(quadrature: Quadrature) -> FeedforwardSpace:
    """Return the first space for some samples."""
    inputs, outputs = quadrature.inputs, quadrature.data.shape[1]
    spaces = [FeedforwardSpace(inputs, (width, width), outputs) for width in WIDTHS]
    return next((space for space in spaces if space.dim <= min(quadrature.data.size, MOST)), spaces[-1])


def path(
    problem: Regression,
    quadrature: Quadrature,
    alpha: float,
    seed: int = 0,
    start: Fit | None = None,
    adaptive: bool = True,
) -> Iterator[Fit]:
    """Yield the network of every level: solve, estimate, mark, refine.

    Parameters
    ----------
    problem : Regression
    quadrature : Quadrature
        The samples, in random order.
    alpha : float
        Weight of the penalty to begin with.
    seed : int
        Of initial weights and candidates.
    start : Fit, optional
        Goes on from there; default a small random network.
    adaptive : bool
        Whether candidates are marked by what they would gain, or taken as they are drawn.
    """
    fit = start or scratch(smallest(quadrature), alpha, seed)
    rounds = LEVEL_STEPS if start else FIRST_STEPS
    while True:
        fit, rounds = solved(problem, first(quadrature, SAMPLES * fit.space.dim), fit, rounds), LEVEL_STEPS
        yield fit
        scored = problem.on(fit.space, first(quadrature, SCORED))
        candidates = ridge_candidates(fit.space, quadrature, seed=seed, count=CANDIDATES)
        estimate = insertion_sensitivity(scored, fit.x, candidates)
        marked = []
        for layer, width in enumerate(fit.space.hidden):
            own = np.array([number for number, neuron in enumerate(estimate.cells) if neuron.layer == layer])
            best = own[np.argsort(-estimate.indicators[own], kind="stable")] if adaptive else own
            marked += list(estimate.cells[best[: math.ceil(GROWTH * width)]])
        space, P = widen(fit.space, marked)
        # More coefficients than twice the values would only wait for the penalty to take them away.
        if space.dim > min(2 * quadrature.data.size, MOST):
            return
        fit = Fit(fit.hierarchy.refined(space, P), P(fit.x), fit.alpha, fit.state)


def first(quadrature: Quadrature, count: int) -> Quadrature:
    """Return the first samples, all if there are no more; their order is random."""
    return quadrature if len(quadrature) <= count else quadrature.subset(np.arange(count))


def fitted(
    problem: Regression,
    seed: int = 0,
    alphas: Sequence[float] = ALPHAS,
    starts: Mapping[tuple[str, float], Fit] | None = None,
    others: Sequence[Fit] = (),
) -> Outcome:
    """Choose the level of the path by cross-validation, and solve on all samples.

    Parameters
    ----------
    problem : Regression
        Its samples are in random order.
    seed : int
        Of everything that is random.
    alphas, starts, others
        What to begin with, see `dnnfem.learn.growth.chosen`.
    """
    return growth.chosen(problem, path, solved, seed, alphas, starts or {}, others)
