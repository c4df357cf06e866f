"""Newton steps and conjugate gradient iterations in the norm of the penalty do not depend on the mesh of time."""

from itertools import pairwise

import numpy as np
import pytest

import dnnfem as fem
from dnnfem.solvers.conjugate_gradients import conjugate_gradients

CELLS = (8, 16, 32)
POINTS = np.random.default_rng(0).uniform(-2.0, 2.0, (40, 2))
PROBLEM = fem.Regression(POINTS, np.sin(POINTS[:, 0]) * np.cos(POINTS[:, 1]))
CASES = {"L2": (0, fem.L2, 0.1), "H1": (1, fem.H1, 0.01)}


def level(cells, degree, rule, alpha):
    """Return functional and start on a mesh graded towards the start: weights that are constant in time."""
    mesh = (np.arange(cells + 1) / cells) ** 3
    states = np.append(np.concatenate([np.linspace(a, b, 4, endpoint=False) for a, b in pairwise(mesh)]), 1.0)
    space = fem.FlowSpace(2, 3, 1, tuple(mesh), tuple(states), degree=degree, scheme="heun")
    one, x = fem.FlowSpace(2, 3, 1), np.empty(space.dim)
    drawn = one.initial(1)
    space.theta(x)[:] = one.theta(drawn)[0]
    x[space.theta_stop :] = drawn[one.theta_stop :]
    return fem.Sum(PROBLEM.on(space), fem.Tikhonov(space, rule, alpha)), x


@pytest.mark.parametrize("name", CASES)
def test_iterations_do_not_depend_on_the_mesh(name):
    degree, rule, alpha = CASES[name]
    steps, products, linear, plain, values = [], [], [], [], []
    for cells in CELLS:
        J, x = level(cells, degree, rule, alpha)
        assert J.space.steps == 4 * J.space.cells == 4 * cells
        norm, euclidean, here = rule(J.space), fem.Euclidean(J.space), J.linearize(x)
        result = fem.trust_region(J, x, fem.relative(1e-4), norm=norm, dense=False)
        assert result.status.converged
        steps.append(result.steps[-1].number)
        products.append(result.steps.column("inner").sum())
        values.append(result.value)
        # The penalty bounds the spectrum in its own norm: iterations until the error is known to be small.
        preconditioned = conjugate_gradients(here.curvature, here.derivative, norm, 1e-8, 1000, alpha)
        unpreconditioned = conjugate_gradients(here.curvature, here.derivative, euclidean, 1e-8, 1000)
        assert preconditioned.accurate and unpreconditioned.accurate and not preconditioned.refuted
        linear.append(preconditioned.iterations)
        plain.append(unpreconditioned.iterations - unpreconditioned.delay)
    # The same problem on all meshes.
    assert np.ptp(values) < 0.01 * values[-1]
    assert np.ptp(steps) <= 1 and np.ptp(linear) <= 1
    assert max(products) < 1.1 * min(products)
    assert plain[0] > 5 * linear[0] and plain[2] > 1.5 * plain[1] > 2.25 * plain[0]


@pytest.mark.parametrize("name", CASES)
def test_in_the_euclidean_norm_they_do(name):
    products = []
    for cells in CELLS[::2]:
        J, x = level(cells, *CASES[name])
        result = fem.trust_region(J, x, fem.relative(1e-4), norm=fem.Euclidean(J.space), dense=False, max_steps=40)
        products.append(result.steps.column("inner").sum())
    assert products[1] > 1.2 * products[0]
