"""The loop of the classifier: one hidden layer, the penalty by the evidence, the width by cross-validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dnnfem.estimators import insertion_sensitivity
from dnnfem.functionals import Sum
from dnnfem.learn import growth
from dnnfem.learn.growth import ALPHAS, FIRST_STEPS, LEVEL_STEPS, Fit, Outcome, functional
from dnnfem.marking import fixed_fraction
from dnnfem.problems import Classification
from dnnfem.quadrature import Quadrature
from dnnfem.records import Result
from dnnfem.refinement import ridge_candidates, widen
from dnnfem.solvers import trust_region
from dnnfem.spaces import FeedforwardSpace, Hierarchy

FIRST_WIDTH, CANDIDATES = 6, 100

DENSE = 600
"""With more coefficients conjugate gradients are faster than the curvature as a matrix."""


def step(J: Sum, fit: Fit, tolerance: float, steps: int) -> Result:
    """Take Levenberg-Marquardt steps, or for larger networks those of Newton's method with conjugate gradients."""
    return trust_region(J, fit.x, tolerance, state=fit.state, curvature=fit.space.dim <= DENSE, max_steps=steps)


def solved(problem: Classification, quadrature: Quadrature, fit: Fit, rounds: Sequence[int] = LEVEL_STEPS) -> Fit:
    """Solve, re-estimate the penalty, and again."""
    return growth.solved(problem, quadrature, fit, rounds, step)


def path(
    problem: Classification, quadrature: Quadrature, alpha: float, seed: int = 0, start: Fit | None = None
) -> Iterator[Fit]:
    """Yield the network of every level: solve, estimate, mark, refine; the width doubles.

    Parameters
    ----------
    problem : Classification
    quadrature : Quadrature
        The samples.
    alpha : float
        Weight of the penalty to begin with.
    seed : int
        Of the candidates.
    start : Fit, optional
        Goes on from there; default a few neurons between pairs of samples, as in many dimensions few other directions
        matter.
    """
    fit = start or between_samples(problem, quadrature, alpha, seed)
    rounds = LEVEL_STEPS if start else FIRST_STEPS
    while True:
        fit, rounds = solved(problem, quadrature, fit, rounds), LEVEL_STEPS
        yield fit
        candidates = ridge_candidates(fit.space, quadrature, seed=seed, count=CANDIDATES, directions="pairs")
        estimate = insertion_sensitivity(functional(problem, quadrature, fit), fit.x, candidates)
        marked = fixed_fraction(estimate.indicators, min(1.0, fit.space.hidden[0] / CANDIDATES))
        if not len(marked):
            return
        space, P = widen(fit.space, estimate.cells[marked])
        # As for regression; one of the logits is free.
        if space.dim > 2 * len(quadrature) * (len(problem.classes) - 1):
            return
        fit = Fit(fit.hierarchy.refined(space, P), P(fit.x), fit.alpha, fit.state)


def between_samples(problem: Classification, quadrature: Quadrature, alpha: float, seed: int) -> Fit:
    """Return a network of neurons between pairs of samples, whose output is zero."""
    space = FeedforwardSpace(quadrature.inputs, (FIRST_WIDTH,), len(problem.classes), "gelu")
    rule = ridge_candidates(space, quadrature, seed=seed, count=FIRST_WIDTH, directions="pairs")
    x = np.zeros(space.dim)
    for number, neuron in enumerate(rule.draw(problem.ansatz.reference, x)):
        x[space.incoming(0, number)] = np.append(neuron.weights, neuron.bias)
    return Fit(Hierarchy((space,)), x, alpha)


def fitted(
    problem: Classification,
    seed: int = 0,
    alphas: Sequence[float] = ALPHAS,
    starts: Mapping[tuple[str, float], Fit] | None = None,
    others: Sequence[Fit] = (),
) -> Outcome:
    """Choose the level of the path by cross-validation, and solve on all samples; see the one for regression."""
    return growth.chosen(problem, path, solved, seed, alphas, starts or {}, others)
