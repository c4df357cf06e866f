"""Cubic regularization: its estimate of omega, what goes over to other solves, and the decrease that models promise."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from dnnfem.functionals import Sum, Tikhonov, from_callables
from dnnfem.norms import H1, Euclidean, Weighted
from dnnfem.problems import Regression
from dnnfem.records import State, Status
from dnnfem.refinement import bisect
from dnnfem.solvers import cubic, trust_region
from dnnfem.solvers.cubic import ACCEPT, FALL, RISE
from dnnfem.spaces import FlowSpace


def power(omega, lowest=1.0, offset=0.0):
    """Return ``offset + lowest/2 x^2 + omega/6 |x|^3``, whose second derivative has the Lipschitz constant omega."""
    return from_callables(
        1,
        lambda x: offset + 0.5 * lowest * float(x @ x) + omega / 6.0 * float(abs(x[0]) ** 3),
        lambda x: lowest * x + 0.5 * omega * np.abs(x) * x,
        lambda x, v: lowest * v + omega * np.abs(x) * v,
    )


@pytest.mark.parametrize("dense", [True, False])
@given(st.floats(-2.0, 2.0))
def test_the_estimate_is_the_third_derivative_along_the_step(dense, exponent):
    omega, shift = 10.0**exponent, 40.0
    j = from_callables(
        1,
        lambda x: omega / 6.0 * float(x[0] ** 3) - shift * float(x[0]),
        lambda x: 0.5 * omega * x**2 - shift,
        lambda x, v: omega * x * v,
    )
    # As the remainder is that of the model, one step knows it all; what it knew before must be near enough.
    radius = math.cbrt(6.0 * abs(j.value(np.array([0.5]))) / (5.0 * omega))
    result = cubic(j, np.array([0.5]), 0.0, state=State(radius), max_steps=1, dense=dense)
    assert result.x[0] > 0.5 and result.steps[1].ratio > ACCEPT
    assert result.steps[0].omega == pytest.approx(5.0 * omega) and result.steps[1].omega == pytest.approx(omega)


@pytest.mark.parametrize("dense", [True, False])
def test_where_values_cannot_tell_derivatives_say_what_omega_is(dense):
    # Near the minimum, on the side where the remainder has the sign of the cubic term, under a large constant.
    omega, offset = 5.0, 1e6
    j = from_callables(
        1,
        lambda x: offset + 0.5 * float(x[0] ** 2) + omega / 6.0 * float(x[0] ** 3),
        lambda x: x + 0.5 * omega * x**2,
        lambda x, v: v + omega * x * v,
    )
    start = np.array([-1e-3])
    result = cubic(j, start, 0.0, state=State(radius=math.cbrt(6.0 * offset / omega)), max_steps=1, dense=dense)
    first = result.steps[0]
    assert first.omega == pytest.approx(omega, rel=1e-9)
    # The values differ by 5e-7, of which rounding leaves two digits, and the remainder by less than rounding.
    assert abs(omega / 6.0 * result.steps[1].length ** 3) < np.spacing(offset) * 10.0
    assert result.steps[1].omega == pytest.approx(omega, rel=1e-3)


def test_omega_rises_and_falls_within_bounds_and_steps_keep_their_promises():
    def value(x):
        return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2

    def derivative(x):
        return np.array([-400 * x[0] * (x[1] - x[0] ** 2) - 2 * (1 - x[0]), 200 * (x[1] - x[0] ** 2)])

    def hessian(x, v):
        return np.array([[1200 * x[0] ** 2 - 400 * x[1] + 2, -400 * x[0]], [-400 * x[0], 200.0]]) @ v

    result = cubic(from_callables(2, value, derivative, hessian), np.array([-1.2, 1.0]))
    steps = result.steps[1:]
    assert result.status.converged and result.x == pytest.approx([1.0, 1.0], abs=1e-7)
    omegas, inner = result.steps.column("omega"), result.steps.column("inner")[1:]
    assert (omegas > 0.0).all() and (omegas[1:] >= FALL * omegas[:-1] * (1 - 1e-12)).all()
    # One rise for every rejected step, one at the end.
    assert (omegas[1:] <= RISE**inner * omegas[:-1] * (1 + 1e-12)).all()
    assert all(step.ratio >= ACCEPT for step in steps)
    assert (np.diff(result.steps.column("value")) < 0.0).all()


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_the_steps_do_not_depend_on_the_unit_of_the_functional(factor):
    plain = cubic(power(3.0, offset=2.0), np.array([4.0]), 0.0, max_steps=3)
    j = power(3.0 * factor, factor, 2.0 * factor)
    other = cubic(j, np.array([4.0]), 0.0, max_steps=3)
    assert other.steps.column("length")[1:] == pytest.approx(plain.steps.column("length")[1:], rel=1e-9)
    assert other.steps.column("omega") == pytest.approx(factor * plain.steps.column("omega"), rel=1e-6)
    assert other.steps.column("radius") == pytest.approx(plain.steps.column("radius"), rel=1e-6)


def test_omega_goes_over_to_the_next_solve():
    j = power(3.0, offset=2.0)
    first = cubic(j, np.array([4.0]), 0.0, max_steps=2)
    second = cubic(j, first.x, 0.0, state=first.state, max_steps=0)
    assert second.steps[0].omega == pytest.approx(first.steps[-1].omega, rel=1e-12)
    assert second.steps[0].number == 0


def test_a_finer_level_begins_with_the_omega_of_the_coarse_one():
    random = np.random.default_rng(0)
    inputs = random.uniform(-1.0, 1.0, (40, 2))
    problem = Regression(inputs, np.sin(2.0 * inputs[:, 0]) * inputs[:, 1], backend="reference")
    coarse = FlowSpace(2, 3, 1, (0.0, 1.0, 2.0), tuple(np.linspace(0.0, 2.0, 9)), degree=1)
    J = Sum(problem.on(coarse), Tikhonov(coarse, H1, 1e-3))
    first = cubic(J, coarse.initial(0), norm=H1(coarse), max_steps=5)
    fine, P = bisect(coarse, [0, 1])
    finer = Sum(problem.on(fine), Tikhonov(fine, H1, 1e-3))
    second = cubic(finer, P(first.x), norm=H1(fine), state=first.state, max_steps=0)
    assert second.steps[0].value == pytest.approx(first.value, rel=1e-10)
    assert second.steps[0].omega == pytest.approx(first.steps[-1].omega, rel=1e-8)


@pytest.mark.parametrize("dense", [True, False])
def test_a_state_of_a_trust_region_can_be_gone_on_with(dense):
    j = power(3.0, offset=2.0)
    first = trust_region(j, np.array([4.0]), 0.0, max_steps=1)
    second = cubic(j, first.x, state=first.state, dense=dense)
    assert second.status.converged and second.value == pytest.approx(2.0)
    assert trust_region(j, first.x, state=second.state).status.converged


def test_the_estimate_of_the_error_is_that_of_newtons_method_and_only_believed_where_omega_hardly_matters():
    matrix, load = np.diag([1.0, 4.0, 100.0]), np.ones(3)
    j = from_callables(
        3, lambda x: 0.5 * float(x @ matrix @ x) - float(load @ x), lambda x: matrix @ x - load, lambda x, v: matrix @ v
    )
    minimum = -0.5 * load @ np.linalg.solve(matrix, load)
    result = cubic(j, np.array([1.0, -2.0, 3.0]), 1e-12)
    exact = np.sqrt(np.maximum(2.0 * (result.steps.column("value") - minimum), 0.0))
    estimates = result.steps.column("algebraic")
    believed = np.isfinite(estimates) & (exact > 1e-7)
    assert believed.any() and estimates[believed] == pytest.approx(exact[believed], rel=1e-5)
    damped = cubic(j, np.array([1.0, -2.0, 3.0]), 1e-12, state=State(radius=1e-3), max_steps=0)
    assert math.isinf(damped.algebraic)


@pytest.mark.parametrize("dense", [True, False])
def test_the_curvature_alone_serves_where_the_hessian_is_indefinite(dense, scalar_problem, space):
    j = Sum(scalar_problem.on(space), Tikhonov(space, Euclidean, 1e-3))
    result = cubic(j, space.initial(0), tolerance=1e-6, curvature=True, dense=dense, max_steps=300)
    assert result.status.converged
    assert np.linalg.norm(j.linearize(result.x).derivative) < 1e-5


def test_dense_and_krylov_steps_find_the_same_minimum_in_any_norm(scalar_problem, space):
    j = Sum(scalar_problem.on(space), Tikhonov(space, Euclidean, 1e-2))
    norm = Weighted(space, np.geomspace(0.1, 10.0, space.dim))
    first, second = (cubic(j, space.initial(1), 1e-9, norm=norm, dense=dense, max_steps=300) for dense in (True, False))
    assert first.status.converged and second.status.converged
    for result in (first, second):
        assert np.linalg.norm(j.linearize(result.x).derivative) < 1e-7
        assert result.steps[-1].dual_norm == pytest.approx(norm.dual_norm(j.linearize(result.x).derivative))


def test_a_saddle_is_left_where_the_hessian_is_there():
    j = from_callables(
        2,
        lambda x: 0.25 * float(x[0] ** 4) - 0.5 * float(x[0] ** 2) + 0.5 * float(x[1] ** 2),
        lambda x: np.array([x[0] ** 3 - x[0], x[1]]),
        lambda x, v: np.array([(3 * x[0] ** 2 - 1) * v[0], v[1]]),
    )
    result = cubic(j, np.zeros(2))
    assert result.status.converged and np.abs(result.x) == pytest.approx([1.0, 0.0], abs=1e-6)
    assert cubic(j, np.zeros(2), dense=False).status is Status.STATIONARY


@pytest.mark.parametrize("dense", [True, False])
def test_rejected_steps_cost_values_only(dense):
    products = []

    def hessian(x, v):
        products.append(1)
        return np.array([1.0 + 3.0 * x[0] ** 2, 1.0 + 3.0 * x[1] ** 2]) * v

    def wavy_hessian(x, v):
        products.append(1)
        return (0.02 - np.cos(x)) * v

    j = from_callables(2, lambda x: float(0.5 * x @ x + 0.25 * np.sum(x**4)), lambda x: x + x**3, hessian)
    # An omega that is much too small, where the second derivative soon changes its sign.
    wavy = from_callables(
        2, lambda x: float(np.sum(np.cos(x)) + 0.01 * x @ x), lambda x: 0.02 * x - np.sin(x), wavy_hessian
    )

    for functional, start in ((j, np.array([3.0, 1.0])), (wavy, np.array([0.1, 0.3]))):
        products.clear()
        result = cubic(functional, start, 1e-12, state=State(radius=1e3), dense=dense)
        rejected = result.steps.column("inner")[1:].sum() - (len(result.steps) - 1)
        assert result.status.converged
        if functional is wavy:
            assert rejected > 0
        assert len(products) <= 2 * len(result.steps)


def test_newtons_method_ends_quadratically():
    # Of third order where the third derivative vanishes, as at zero: the minimum lies elsewhere.
    j = from_callables(
        1, lambda x: float(np.exp(x[0]) - 2.0 * x[0]), lambda x: np.exp(x) - 2.0, lambda x, v: np.exp(x) * v
    )
    norms = cubic(j, np.array([3.0]), 1e-14).steps.column("dual_norm")
    last = norms[norms > 1e-13][-4:]
    assert np.log(last[3] / last[2]) / np.log(last[2] / last[1]) == pytest.approx(2.0, abs=0.3)
