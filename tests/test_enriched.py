"""Enriched solutions: exact where the law is affine, effective in norms that the functional does not know."""

import numpy as np
import pytest
import torch

import dnnfem as fem
from dnnfem.quadrature import BoxMesh
from dnnfem.spaces.feedforward import Neuron


def line(law, cells=40, **options):
    quadrature = BoxMesh.uniform([0.0], [1.0], cells, 3).quadrature()
    return fem.Collocation(law, fem.Box([0.0], [1.0]), quadrature=quadrature, **options)


def poisson(p, u):
    """Of ``sin(3 pi x) exp(x)``."""
    x, k = p.x[0], 3.0 * torch.pi
    return u.laplacian + torch.exp(x) * ((k**2 - 1.0) * torch.sin(k * x) - 2.0 * k * torch.cos(k * x))


def exact_gradient(x):
    k = 3.0 * np.pi
    return np.exp(x) * (np.sin(k * x) + k * np.cos(k * x))


def candidates(space, quadrature, count=300, seed=0):
    return fem.ridge_candidates(space, quadrature, seed, count, layers=[len(space.hidden) - 1])


def solved(problem, hidden, steps=15, seed=0):
    """Return a functional and what some steps of its solver reach, with the output layer solved for."""
    J = problem.on(fem.FeedforwardSpace(1, hidden, problem.outputs))
    return J, fem.gauss_newton(J, J.space.initial(seed), 0.0, max_steps=steps).x


@pytest.mark.parametrize("hidden", [(5,), (8,), (5, 5)])
def test_it_says_how_large_the_error_is_in_the_seminorm_of_h1(hidden):
    problem = line(poisson, dirichlet=0.0)
    J, x = solved(problem, hidden)
    places = np.linspace(0.0, 1.0, 1001)[:, None]
    present = problem.solution(J.space, x).gradient(places)[:, 0, 0]
    true = np.linalg.norm(present - exact_gradient(places[:, 0]))

    def effectivity(found):
        return np.linalg.norm(problem.solution(found.space, found.x).gradient(places)[:, 0, 0] - present) / true

    found = fem.enriched(J, x, candidates(J.space, problem.quadrature), saturation=0.3)
    assert found.saturation <= 0.3
    assert 0.8 <= effectivity(found) <= 1.25
    # One neuron takes little away, and it is said how little.
    one = fem.enriched(J, x, [Neuron(len(hidden) - 1, np.ones(J.space.blocks[-2].columns), 0.0)])
    assert one.saturation > 0.7 and effectivity(one) < 0.7


@pytest.mark.parametrize("outputs", [1, 2])
def test_what_the_residual_loses_is_the_square_of_the_difference(outputs):
    def law(p, u):
        if outputs == 1:
            return poisson(p, u)
        return [u[0].d(0) - u[1] + torch.sin(9.0 * p.x[0]), u[1].d(0) + u[0] - p.x[0]]

    problem = line(law, dirichlet={(0, 0): 0.0}, outputs=outputs)
    J, x = solved(problem, (4,), steps=4)
    found = fem.enriched(J, x, candidates(J.space, problem.quadrature, 30), saturation=0.0)
    wide = problem.on(found.space)
    assert found.space.hidden == (34,)
    change = found.x - found.start
    # The output layer alone moves, and there the derivative vanishes: Pythagoras.
    assert np.count_nonzero(change) <= found.space.condensable.size
    lost = wide.value(found.start) - wide.value(found.x)
    square = 0.5 * change @ wide.linearize(found.start).curvature(change)
    assert lost == pytest.approx(square, rel=1e-6) and lost > 0.0
    assert wide.value(found.start) == pytest.approx(J.value(x), rel=1e-12)
    assert found.saturation == pytest.approx(np.sqrt(wide.value(found.x) / J.value(x)), rel=1e-9)


def test_a_nonlinear_law_is_solved_as_well():
    problem = line(lambda p, u: u.laplacian - u**3 + 20.0 * torch.cos(5.0 * p.x[0]), dirichlet=0.0)
    J, x = solved(problem, (4,), steps=3)
    found = fem.enriched(J, x, candidates(J.space, problem.quadrature, 12), saturation=0.0)
    wide, outer = problem.on(found.space), found.space.condensable.ravel()

    def steepness(x):
        system = wide.linearize(x).system(outer)
        return np.abs(system.derivative / system.lengths).max()

    assert steepness(found.x) <= 1e-3 * steepness(found.start)


def test_neurons_are_taken_until_there_is_no_room_for_more():
    problem = line(poisson, cells=100, dirichlet=0.0)
    J, x = solved(problem, (4,), steps=2)
    pool = candidates(J.space, problem.quadrature, 1000)
    assert fem.enriched(J, x, pool, saturation=0.9).space.hidden == (104,)
    # 300 points have room for 150 coefficients.
    assert fem.enriched(J, x, pool, saturation=1e-12).space.hidden == (104,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"saturation": 1.0}, "saturation: got 1.0"),
        ({"saturation": float("nan")}, "saturation: got nan"),
        ({"candidates": []}, "candidates: got none"),
        ({"candidates": [Neuron(0, np.ones(1), 0.0)]}, "candidates: got a neuron in layer 0, expected layer 1"),
        ({"x": np.zeros(3)}, "x: got shape"),
        ({"functional": fem.from_callables(2, lambda x: x @ x, lambda x: 2.0 * x)}, "expected a FeedforwardSpace"),
    ],
)
def test_wrong_input_is_named(change, message):
    J = line(poisson, dirichlet=0.0).on(fem.FeedforwardSpace(1, (3, 3), 1))
    given = {"functional": J, "x": J.space.initial(0), "candidates": [Neuron(1, np.ones(3), 0.0)], **change}
    with pytest.raises(ValueError, match=message):
        fem.enriched(**given)
