"""The loop of the classifier: one hidden layer, penalty and width by cross-validation."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np

from dnnfem.estimators import insertion_sensitivity
from dnnfem.learn.growth import Fit, Outcome, chosen, functional
from dnnfem.marking import fixed_fraction
from dnnfem.norms import kronecker
from dnnfem.problems import Classification
from dnnfem.quadrature import Quadrature
from dnnfem.refinement import ridge_candidates, widen
from dnnfem.solvers import trust_region
from dnnfem.spaces import FeedforwardSpace, Hierarchy

FIRST_WIDTH = 6
CANDIDATES = 100
STEPS = 20
"""Of the solve on a level."""

TOLERANCE = 0.02
"""Distance to the minimum, ``sqrt(2 (J - min J))``."""

ALPHAS = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
"""Weights of the penalty that race."""


def solved(problem: Classification, quadrature: Quadrature, fit: Fit) -> Fit:
    """Solve by Newton's method with conjugate gradients, preconditioned by the Kronecker-factored curvature."""
    J = functional(problem, quadrature, fit)
    result = trust_region(J, fit.x, TOLERANCE, norm=kronecker(J), dense=False, state=fit.state, max_steps=STEPS)
    return Fit(fit.hierarchy, result.x, fit.alpha, result.state)


def growth(
    problem: Classification, quadrature: Quadrature, alpha: float, seed: int = 0, start: Fit | None = None
) -> Iterator[Fit]:
    """Yield the network of every level: solve, estimate, mark, refine; the width doubles.

    Parameters
    ----------
    problem : Classification
    quadrature : Quadrature
        The samples.
    alpha : float
        Weight of the penalty.
    seed : int
        Of the candidates.
    start : Fit, optional
        Goes on from there; default a few neurons between pairs of samples, as in many dimensions few other directions
        matter.
    """
    fit = start or _between_samples(problem, quadrature, alpha, seed)
    while True:
        fit = solved(problem, quadrature, fit)
        yield fit
        candidates = ridge_candidates(fit.space, quadrature, seed=seed, count=CANDIDATES, directions="pairs")
        estimate = insertion_sensitivity(functional(problem, quadrature, fit), fit.x, candidates)
        marked = fixed_fraction(estimate.indicators, min(1.0, fit.space.hidden[0] / CANDIDATES))
        space, P = widen(fit.space, estimate.cells[marked])
        fit = Fit(fit.hierarchy.refined(space, P), P(fit.x), fit.alpha, fit.state)


def _between_samples(problem: Classification, quadrature: Quadrature, alpha: float, seed: int) -> Fit:
    space = FeedforwardSpace(quadrature.inputs, (FIRST_WIDTH,), len(problem.classes), "gelu")
    rule = ridge_candidates(space, quadrature, seed=seed, count=FIRST_WIDTH, directions="pairs")
    x = np.zeros(space.dim)
    for number, neuron in enumerate(rule.draw(problem.ansatz.reference, x)):
        x[space.incoming(0, number)] = np.append(neuron.weights, neuron.bias)
    return Fit(Hierarchy((space,)), x, alpha)


def fitted(
    problem: Classification,
    seed: int = 0,
    starts: Mapping[str, Fit] | None = None,
    others: Sequence[Fit] = (),
    alphas: Sequence[float] = ALPHAS,
) -> Outcome:
    """Choose penalty and level by cross-validation over the growth path, and solve on all samples.

    Parameters are those of `dnnfem.learn.regression.fitted`, and the weights of the penalty.
    """
    known = starts or {}

    def path(quadrature: Quadrature, alpha: Hashable) -> Iterator[Fit]:
        assert isinstance(alpha, float)
        return growth(problem, quadrature, alpha, seed, known.get(quadrature.hash))

    return chosen(problem, path, alphas, lambda fit: solved(problem, problem.quadrature, fit), seed, others)
