"""The loop of the regressor: two hidden layers, the penalty by the evidence, the width by cross-validation."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np

from dnnfem.estimators import insertion_sensitivity, penalty_weight
from dnnfem.learn.growth import Fit, Outcome, chosen, functional
from dnnfem.problems import Regression
from dnnfem.quadrature import Quadrature
from dnnfem.refinement import ridge_candidates, widen
from dnnfem.solvers import trust_region
from dnnfem.spaces import FeedforwardSpace, Hierarchy

FIRST_WIDTH = 5
GROWTH = 0.5
"""New neurons of a layer, relative to those that it has."""

FIRST_STEPS, LEVEL_STEPS = (10, 10), (8, 8)
"""Steps of the solves of the first and of every other level; the penalty is re-estimated after each solve."""

MOST = 3000
"""No level but the first has more coefficients."""

SAMPLES = 12
"""Samples that a level is solved with, per coefficient: more would cost more than they tell."""

CANDIDATES, SCORED = 32, 2000
"""Candidates per layer, and samples that they are scored with."""

FIRST_ALPHA, CLOSE = 1e-3, 2.0
"""Weight of the penalty to begin with, and the factor between two estimates of it that changes nothing."""

TOLERANCE = 0.15
"""Of a solve, relative to the root mean square of the functional."""


def solved(problem: Regression, quadrature: Quadrature, fit: Fit, rounds: Sequence[int] = LEVEL_STEPS) -> Fit:
    """Solve, re-estimate the penalty, and again."""
    for steps in rounds:
        J = functional(problem, quadrature, fit)
        tolerance = TOLERANCE * math.sqrt(2.0 * J.value(fit.x))
        result = trust_region(J, fit.x, tolerance, state=fit.state, curvature=True, max_steps=steps)
        last, alpha = fit.alpha, penalty_weight(J, result.x)
        fit = Fit(fit.hierarchy, result.x, alpha, result.state)
        if result.status.converged and abs(math.log(alpha / last)) < math.log(CLOSE):
            break
    return fit


def scratch(space: FeedforwardSpace, seed: int = 0) -> Fit:
    """Return a random network."""
    return Fit(Hierarchy((space,)), space.initial(seed=seed), FIRST_ALPHA)


def growth(
    problem: Regression, quadrature: Quadrature, seed: int = 0, start: Fit | None = None, adaptive: bool = True
) -> Iterator[Fit]:
    """Yield the network of every level: solve, estimate, mark, refine.

    Parameters
    ----------
    problem : Regression
    quadrature : Quadrature
        The samples, in random order.
    seed : int
        Of initial weights and candidates.
    start : Fit, optional
        Goes on from there; default a small random network.
    adaptive : bool
        Whether candidates are marked by what they would gain, or taken as they are drawn.
    """
    inputs, outputs = quadrature.inputs, quadrature.data.shape[1]
    width = max(1, min(FIRST_WIDTH, MOST // (inputs + outputs)))
    fit = start or scratch(FeedforwardSpace(inputs, (width, width), outputs), seed)
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
        if space.dim > min(2 * len(quadrature) * outputs, MOST):
            return
        fit = Fit(fit.hierarchy.refined(space, P), P(fit.x), fit.alpha, fit.state)


def first(quadrature: Quadrature, count: int) -> Quadrature:
    """Return the first samples, all if there are no more; their order is random."""
    return quadrature if len(quadrature) <= count else quadrature.subset(np.arange(count))


def fitted(
    problem: Regression, seed: int = 0, starts: Mapping[str, Fit] | None = None, others: Sequence[Fit] = ()
) -> Outcome:
    """Choose the level of the growth path by cross-validation, and solve on all samples.

    Parameters
    ----------
    problem : Regression
        Its samples are in random order.
    seed : int
        Of everything that is random.
    starts : mapping of str to Fit, optional
        Networks that the path may go on from, by the hash of the samples that they were trained with: what has seen
        other samples cannot be judged by them.
    others : sequence of Fit
        See `dnnfem.learn.growth.chosen`.
    """
    known = starts or {}

    def path(quadrature: Quadrature, setting: Hashable) -> Iterator[Fit]:
        return growth(problem, quadrature, seed, known.get(quadrature.hash))

    return chosen(problem, path, [None], lambda fit: solved(problem, problem.quadrature, fit), seed, others)
