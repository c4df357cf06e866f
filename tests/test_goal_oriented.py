"""Estimates for flows: effectivities of both parts, what bisection and insertion gain, and what has no estimate."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.integrate import solve_ivp
from test_flow import MESH, ORDERS, POINTS, exact, meshes, outputs, scattered
from test_time_refinement import STANDING, halved

import dnnfem as fem
from dnnfem.estimators.bisection import captured
from dnnfem.estimators.goal_oriented import _remarks, goal_oriented, reconstructed
from dnnfem.functionals import Integral, Scaled, Sum, from_callables
from dnnfem.kernels.laws import Misfit
from dnnfem.kernels.reference import evaluate
from dnnfem.problems.ansatz import AffineAnsatz
from dnnfem.quadrature import Quadrature
from dnnfem.spaces.feedforward import Neuron
from dnnfem.spaces.unrolling import WithDefects
from dnnfem.testing import convergence_order

RANDOM = np.random.default_rng(7)
INPUTS = RANDOM.uniform(-1.0, 1.0, (20, 2))
TARGETS = np.column_stack([np.sin(2.0 * INPUTS[:, 0]) * INPUTS[:, 1], np.exp(-np.sum(INPUTS**2, axis=1))])
PROBLEM = fem.Regression(INPUTS, TARGETS)


# ---- states


def steep(degree, scheme):
    """Return a flow with three steps of different lengths, and coefficients that make its steps too large."""
    space = fem.FlowSpace(2, 3, 2, MESH, degree=degree, scheme=scheme)
    return space, 2.0 * scattered(space, 1)


@cache
def limit(degree):
    """Return the functional of `steep` for the exact flow: 256 times finer steps of fourth order."""
    space, x = steep(degree, "rk4")
    return PROBLEM.on(halved(space, 8)).value(x)


@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize("scheme", ORDERS)
def test_the_part_of_the_states_is_the_error_of_the_functional(scheme, degree):
    space, x = steep(degree, scheme)
    effectivities = []
    for _ in range(5):
        space = halved(space)
        J = PROBLEM.on(space)
        estimate = goal_oriented(J, x)
        effectivities.append(estimate.parts["change"] / (limit(degree) - J.value(x)))
    assert all(0.9 < ratio < 1.1 for ratio in effectivities[-2:])


@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize("scheme", ORDERS)
def test_the_part_of_a_step_is_what_the_functional_changes_by_if_it_is_bisected(scheme, degree):
    space, x = steep(degree, scheme)
    space = halved(space, 3)
    J = PROBLEM.on(space)
    signed = goal_oriented(J, x).signed
    for step in (0, 5, 23):
        finer, _ = fem.refine_states(space, [step])
        change = J.on(space=finer).value(x) - J.value(x)
        assert change == pytest.approx((1.0 - 0.5 ** ORDERS[scheme]) * signed[step], rel=0.05, abs=2e-12)


@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize("scheme", ORDERS)
def test_defects_added_to_all_steps_raise_the_order_by_one(scheme, degree):
    space = fem.FlowSpace(2, 4, 2, MESH, (), degree, scheme, fem.DoubleLayer(3, "sin"))
    x, errors = scattered(space), []
    truth = exact("double", space, x)
    for _ in range(5):
        space = halved(space)
        wide = WithDefects(space)
        same = evaluate(wide.program, wide.extended(x), POINTS)[frozenset()][0]
        assert same == pytest.approx(outputs(space, x), rel=1e-14)
        corrected = np.append(x, np.ones(space.steps))
        errors.append(np.abs(evaluate(wide.program, corrected, POINTS)[frozenset()][0] - truth).max())
    orders = convergence_order(0.5 ** np.arange(5), errors)
    assert orders[2 if scheme == "rk4" else 3] == pytest.approx(ORDERS[scheme] + 1, abs=0.3)
    assert (wide.dim, wide.inputs, wide.outputs) == (space.dim + space.steps, 2, 2)


def added(space, fine):
    """Return the coefficients that a space has more, and the weights that all its steps together apply more."""

    def applied(program):
        read = [program.blocks[stage.block] for stage in program.stages]
        return sum(block.stop - block.start for block in read)

    return fine.dim - space.dim + applied(fine.program) - applied(space.program)


def test_parts_add_up_and_say_what_they_are():
    space, x = steep(0, "heun")
    for of, refine in (("states", fem.refine_states), ("weights", fem.bisect)):
        estimate, count = goal_oriented(PROBLEM.on(space), x, of), 3
        assert estimate.cells.tolist() == list(range(count)) and estimate.signed.shape == (count,)
        assert estimate.parts == {"change": pytest.approx(estimate.signed.sum(), rel=1e-14)}
        assert estimate.indicators == pytest.approx(np.sqrt(2.0 * np.abs(estimate.signed)), rel=1e-14)
        assert estimate.total == pytest.approx(np.sqrt(2.0 * abs(estimate.parts["change"])), rel=1e-14)
        assert not estimate.guaranteed and estimate.quantity == "discretization error sqrt(2 (J(x) - J*))"
        assert estimate.cost.tolist() == [added(space, refine(space, [cell])[0]) for cell in range(3)]


def test_estimates_are_linear_in_the_functional_and_do_not_see_penalties():
    space, x = steep(1, "heun")
    J = PROBLEM.on(space)
    for of in ("states", "weights"):
        plain = goal_oriented(J, x, of).signed
        assert goal_oriented(Scaled(J, 3.0), x, of).signed == pytest.approx(3.0 * plain, rel=1e-12)
        assert goal_oriented(Sum(J, Scaled(J, 0.5)), x, of).signed == pytest.approx(1.5 * plain, rel=1e-12)
    penalized = Sum(J, fem.Tikhonov(space, fem.L2, 0.3))
    assert np.array_equal(goal_oriented(penalized, x).signed, goal_oriented(J, x).signed)


def test_steps_on_which_the_state_stands_still_have_no_error():
    space = halved(fem.FlowSpace(2, 3, 2, MESH, scheme="euler"))
    x = scattered(space)
    space.theta(x)[1] = 0.0
    indicators = goal_oriented(PROBLEM.on(space), x).indicators
    assert not indicators[2:4].any() and (indicators[[0, 1, 4, 5]] > 0.0).all()
    space.theta(x)[:] = 0.0
    estimate = goal_oriented(PROBLEM.on(space), x)
    assert estimate.total == 0.0 and len(fem.dorfler(estimate.indicators, 0.5)) == 0


def test_steps_go_where_the_flow_is_fast():
    """By the indicators: a fast cell takes most of the steps, and the error is less than that of twice as many."""
    space = fem.FlowSpace.uniform(2, 3, 2, 8, scheme="heun")
    x = scattered(space)
    space.theta(x)[:] *= 0.3
    space.theta(x)[2] *= 30.0
    truth = PROBLEM.on(replace(halved(space, 6), scheme="rk4")).value(x)
    local, uniform = space, space
    while local.steps < 64:
        marked = fem.dorfler(goal_oriented(PROBLEM.on(local), x).indicators ** 2, 0.5)
        local, _ = fem.refine_states(local, marked)
    while uniform.steps < local.steps:
        uniform = halved(uniform)
    assert np.count_nonzero(local.parents == 2) > local.steps / 3
    errors = [abs(PROBLEM.on(found).value(x) - truth) for found in (local, uniform)]
    assert local.steps < 80 and uniform.steps == 128 and errors[0] < 0.5 * errors[1]


def test_the_part_of_the_states_knows_losses():
    labels = fem.Classification(INPUTS, TARGETS[:, 0] > 0.0)
    space, x = steep(0, "euler")
    space = halved(space, 5)
    J = labels.on(space)
    truth = J.on(space=replace(halved(space, 2), scheme="rk4")).value(x)
    assert goal_oriented(J, x).parts["change"] == pytest.approx(truth - J.value(x), rel=0.1)


def test_the_part_of_the_states_knows_differential_equations():
    def law(p, u):
        return u.laplacian + u * u.d(0) - torch.sin(p.x[1])

    domain = fem.Box([0.0, 0.0], [1.0, 1.0])
    few = fem.BoxMesh.uniform([0.0, 0.0], [1.0, 1.0], 1, 3).quadrature()
    problem = fem.Collocation(law, domain, dirichlet=0.0, quadrature=few)
    space = halved(fem.FlowSpace(2, 3, 1, (0.0, 1.0), degree=1, scheme="heun"), 4)
    x = scattered(space)
    J = problem.on(space)
    truth = J.on(space=replace(halved(space, 2), scheme="rk4")).value(x)
    assert goal_oriented(J, x).parts["change"] == pytest.approx(truth - J.value(x), rel=0.1)


# ---- weights: a flow that generates the data, and a penalty for the distance from its weights

END = 2.0
DECODER = np.array([[1.0, 0.5], [-0.4, 1.2]])
SHIFT = np.array([0.1, -0.2])


def weights_at(t):
    """Return the weights of the flow at times, shape (..., 6), and their derivatives."""
    t, k = np.asarray(t)[..., None], np.arange(6)
    size, phase = 0.5 + 0.1 * k, 1.5 * t + 0.7 * k
    return size * np.sin(phase) + 0.2 * t * (k % 2), 1.5 * size * np.cos(phase) + 0.2 * (k % 2)


@cache
def data():
    """Return points, and what the flow makes of them."""
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (15, 2))

    def slope(t, y):
        theta = weights_at(t)[0]
        return np.tanh(y.reshape(-1, 2) @ theta[:4].reshape(2, 2).T + theta[4:]).ravel()

    states = solve_ivp(slope, (0.0, END), points.ravel(), "DOP853", rtol=1e-12, atol=1e-13).y[:, -1].reshape(-1, 2)
    return points, states @ DECODER.T + SHIFT


def misfit(space, shift=0.0):
    """Return the misfit to the data, which the flow makes zero if these are not shifted."""
    points, values = data()
    ansatz = AffineAnsatz(np.zeros(2), np.ones(2), np.zeros(2), np.ones(2))
    return Integral(space, Quadrature(points, np.full(15, 1.0 / 15.0), values + shift), ansatz, Misfit())


@dataclass(frozen=True, eq=False)
class Tracking(fem.Tikhonov):
    """``alpha/2 |theta - theta_ref|^2`` for a function of time that is in no space, but for a `constant`.

    The reference point is the best approximation in the norm, and is found anew on every space.
    """

    constant: float = 0.0

    @classmethod
    def of(cls, space, rule, alpha):
        load, square = np.zeros(space.dim), 0.0
        nodes, factors = np.polynomial.legendre.leggauss(6)
        values = space.theta(load)
        for cell, (a, b) in enumerate(zip(space.weight_mesh[:-1], space.weight_mesh[1:], strict=True)):
            place, factor = 0.5 * (1.0 + nodes), 0.5 * (b - a) * factors
            theta, slope = weights_at(a + place * (b - a))
            square += factor @ np.sum(theta**2, axis=1)
            if space.degree == 0:
                values[cell] += factor @ theta
            else:
                values[cell] += (factor * (1.0 - place)) @ theta
                values[cell + 1] += (factor * place) @ theta
            if rule is fem.H1:
                square += factor @ np.sum(slope**2, axis=1)
                values[cell] -= factor @ slope / (b - a)
                values[cell + 1] += factor @ slope / (b - a)
        point = rule(space).riesz(load)
        constant = 0.5 * alpha * (square - point @ load)
        point[space.theta_stop :] = np.concatenate([DECODER.ravel(), SHIFT])
        return cls(space, rule, alpha, point, constant)

    def on(self, *, space=None, quadrature=None, transfer=None):
        return self if space is None else Tracking.of(space, self.rule, self.alpha)


@cache
def optimum(degree, rule, cells, scheme="rk4", steps=5, shift=0.0):
    """Return the functional, a minimizer and the minimum; over all functions it is zero if the data are not shifted."""
    coarse = fem.FlowSpace(2, 2, 2, (0.0, 0.8, END), degree=degree, scheme=scheme)
    space = replace(coarse, weight_mesh=halved(coarse, cells).state_mesh, state_mesh=halved(coarse, steps).state_mesh)
    penalty = Tracking.of(space, rule, 0.1)
    J = Sum(misfit(space, shift), penalty)
    x = fem.trust_region(J, penalty.x_ref, 1e-9, curvature=True, max_steps=30).x
    return J, x, J.value(x) + penalty.constant


KINDS = {"constant": (0, fem.L2), "linear": (1, fem.L2), "linear, H1": (1, fem.H1)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_part_of_the_weights_is_the_error_of_the_functional(kind):
    for times in (3, 4):
        J, x, above = optimum(*KINDS[kind], times)
        estimate = goal_oriented(J, x, "weights")
        assert 0.9 < estimate.parts["change"] / -above < 1.1
        assert estimate.cells.tolist() == list(range(2 * 2**times))


@pytest.mark.parametrize("kind", KINDS)
def test_bisection_achieves_what_the_hierarchical_estimate_predicts(kind):
    for times in (2, 3):
        (J, x, above), (_, _, finer) = optimum(*KINDS[kind], times), optimum(*KINDS[kind], times + 1)
        estimate = fem.hierarchical(J, x)
        predicted = 0.5 * estimate.parts["weights"] ** 2
        assert 0.9 < predicted * captured(J, J.space) / (above - finer) < 1.1
        assert 0.9 < predicted / above < 1.1
        assert estimate.parts["algebraic"] < 1e-6
        assert estimate.cost.tolist() == [added(J.space, fem.bisect(J.space, [k])[0]) for k in range(J.space.cells)]


def test_what_a_bisection_captures_depends_on_the_norm_of_the_penalties():
    space = fem.FlowSpace(2, 3, 2, MESH, degree=1)
    J, strong = PROBLEM.on(space), fem.Tikhonov(space, fem.H1, 0.1)
    assert captured(J, space) == captured(Sum(J, fem.Tikhonov(space, fem.L2, 1.0)), space) == 15.0 / 16.0
    assert captured(Scaled(Sum(J, fem.Tikhonov(space, fem.L2, 1.0), strong), 2.0), space) == 3.0 / 4.0
    assert captured(Sum(J, fem.Tikhonov(space, fem.H1, 0.0), Scaled(strong, 0.0)), space) == 15.0 / 16.0
    constant = replace(space, degree=0)
    assert captured(Sum(PROBLEM.on(constant), fem.Tikhonov(constant, fem.L2, 1.0)), constant) == 3.0 / 4.0


def test_both_parts_together_are_the_error_of_a_coarse_flow():
    coarse, fine = (optimum(0, fem.L2, times, shift=0.5)[2] for times in (3, 4))
    limit = fine + (fine - coarse) / 3.0
    J, x, value = optimum(0, fem.L2, 4, "euler", 4, 0.5)
    states, weights = (goal_oriented(J, x, of).parts["change"] for of in ("states", "weights"))
    assert states + weights == pytest.approx(limit - value, rel=0.1)
    assert abs(states) > 0.2 * abs(limit - value) and abs(weights) > 0.2 * abs(limit - value)


@given(meshes(5), st.integers(0, 100))
def test_polynomials_of_one_degree_more_are_reconstructed(mesh, seed):
    mesh = (*mesh, mesh[-1] + 0.4)
    random, nodes = np.random.default_rng(seed), np.array(mesh)
    halves = np.sort(np.append(nodes, 0.5 * (nodes[1:] + nodes[:-1])))
    a, b, c = random.standard_normal((3, 6))
    constant = fem.FlowSpace(2, 2, 1, mesh)
    x = np.zeros(constant.dim)
    constant.theta(x)[:] = a + 0.5 * (nodes[1:] + nodes[:-1])[:, None] * b
    assert reconstructed(constant, x) == pytest.approx(a + 0.5 * (halves[1:] + halves[:-1])[:, None] * b, abs=1e-9)
    linear = replace(constant, degree=1)
    y = np.zeros(linear.dim)
    linear.theta(y)[:] = a + nodes[:, None] * b + nodes[:, None] ** 2 * c
    assert reconstructed(linear, y) == pytest.approx(a + halves[:, None] * b + halves[:, None] ** 2 * c, abs=1e-8)


@pytest.mark.parametrize("degree", [0, 1])
def test_constant_weights_suggest_no_other_ones_and_a_single_cell_says_so(degree):
    space = fem.FlowSpace(2, 2, 2, MESH, degree=degree)
    x = scattered(space)
    space.theta(x)[:] = space.theta(x)[0]
    estimate = goal_oriented(PROBLEM.on(space), x, "weights")
    assert estimate.indicators == pytest.approx(np.zeros(space.cells), abs=1e-7)
    single = fem.FlowSpace(2, 2, 2, degree=degree)
    with pytest.raises(ValueError, match="^space: got .* expected neighbours to reconstruct from; ask `hierarchical`"):
        goal_oriented(PROBLEM.on(single), scattered(single), "weights")
    # The hierarchical estimate sees what a bisection would gain.
    assert (fem.hierarchical(PROBLEM.on(single), scattered(single)).indicators > 1e-3).all()


def test_what_is_doubtful_is_remarked_upon():
    space = fem.FlowSpace(2, 2, 2, MESH)
    x = scattered(space)
    estimate = goal_oriented(PROBLEM.on(space), x, "weights")
    for signed in (estimate.signed, -estimate.signed):
        words = " ".join(_remarks("weights", signed))
        assert ("cannot raise a minimum" in words) == (signed.sum() > 0.0)
    assert (
        "by chance" in _remarks("states", np.array([1.0, -0.9]))[0] and _remarks("states", np.array([1.0, -0.1])) == ()
    )


# ---- hierarchical


def best(system):
    """Return the least value of a linear least-squares problem."""
    step = np.linalg.lstsq(system.matrix, -system.residual, rcond=1e-12)[0]
    return 0.5 * np.sum((system.residual + system.matrix @ step) ** 2)


@pytest.mark.parametrize("degree", [0, 1])
def test_the_indicator_of_a_cell_is_the_decrease_of_its_own_bisection(degree):
    space = halved(fem.FlowSpace(2, 2, 2, MESH, degree=degree, scheme="heun"))
    x = scattered(space)
    J = Sum(PROBLEM.on(space), fem.Tikhonov(space, fem.L2, 1e-3, scattered(space, 1)))
    estimate = fem.hierarchical(J, x)
    coarse = best(J.linearize(x).system())
    for cell, indicator in enumerate(estimate.indicators):
        fine, transfer = fem.bisect(space, [cell])
        there = best(J.on(space=fine, transfer=transfer).linearize(transfer(x)).system())
        assert 0.5 * indicator**2 * captured(J, space) == pytest.approx(coarse - there, rel=1e-6)
    assert estimate.parts["algebraic"] == pytest.approx(np.sqrt(2.0 * (J.value(x) - coarse)), rel=1e-8)


def test_the_hierarchical_estimate_knows_losses():
    space = halved(fem.FlowSpace(2, 2, 2, MESH, scheme="heun"))
    labels = fem.Classification(INPUTS, TARGETS[:, 0] > 0.0)
    J = Sum(labels.on(space), fem.Tikhonov(space, fem.L2, 1e-2))
    x = fem.trust_region(J, space.initial(0), 1e-5, curvature=True, max_steps=50).x
    estimate = fem.hierarchical(J, x)
    assert estimate.cells.tolist() == [0, 1, 2] and (estimate.indicators > 0.0).all()
    assert "noise" not in estimate.parts and estimate.parts["sampling"] > 0.0


# ---- insertion


@pytest.mark.parametrize("name", STANDING)
def test_the_merit_of_a_position_is_the_decrease_of_its_own_linear_problem(name):
    space = fem.FlowSpace(2, 2, 2, MESH, scheme="heun", field=STANDING[name])
    x, J = scattered(space), fem.Regression(INPUTS, TARGETS).on(space)
    estimate = fem.insertion_sensitivity(J, x)
    assert estimate.cells.tolist() == [0, 1, 2, 3] and estimate.total == estimate.indicators.max() > 0.0
    for position, indicator, cost in zip(estimate.cells, estimate.indicators, estimate.cost, strict=True):
        deep, transfer = fem.insert_layer(space, position)
        system = J.on(space=deep, transfer=transfer).linearize(transfer(x)).system(deep.at(position))
        # Columns of coefficients that do not matter are zero.
        step = np.linalg.lstsq(system.matrix, -system.residual, rcond=1e-8)[0]
        left = system.residual + system.matrix @ step
        assert 0.5 * indicator**2 == pytest.approx(J.value(x) - 0.5 * left @ left, rel=1e-4)
        assert deep.dim - space.dim == space.size and cost == added(space, deep)


def test_positions_may_be_chosen():
    space = fem.FlowSpace(2, 2, 2, MESH)
    x, J = scattered(space), PROBLEM.on(space)
    everywhere, some = fem.insertion_sensitivity(J, x), fem.insertion_sensitivity(J, x, [3, np.int64(1)])
    assert some.cells.tolist() == [3, 1] and some.indicators == pytest.approx(everywhere.indicators[[3, 1]], rel=1e-6)


def test_a_flow_that_fits_has_nothing_to_gain():
    space = halved(fem.FlowSpace(2, 2, 2, MESH, scheme="heun"))
    x = scattered(space)
    problem = fem.Regression(INPUTS, TARGETS)
    u = problem.solution(space, x)(INPUTS)
    fitted = replace(problem.on(space), quadrature=Quadrature(INPUTS, problem.quadrature.weights, u))
    assert fitted.value(x) == pytest.approx(0.0, abs=1e-25)
    assert fem.insertion_sensitivity(fitted, x).total < 1e-10
    assert fem.hierarchical(fitted, x).total < 1e-10
    assert goal_oriented(fitted, x, "weights").total < 1e-8


# ---- what has no estimate


FLOW = fem.FlowSpace(2, 2, 2, MESH)
LINEAR = replace(FLOW, degree=1)
START = FLOW.initial(0)
EXPLODING = PROBLEM.on(fem.FlowSpace(2, 2, 2, (0, 1, 2), scheme="euler", field=fem.DoubleLayer(1, "softplus")))
HUGE = np.full(EXPLODING.space.dim, 1e150)
ELSEWHERE = from_callables(2, residual=lambda x: x, jacobian=lambda x: np.eye(2))


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (lambda: goal_oriented(ELSEWHERE, np.zeros(2)), "functional: got one on Coordinates.*, expected a FlowSpace"),
        (
            lambda: goal_oriented(PROBLEM.on(fem.FeedforwardSpace(2, (2,), 2)), np.zeros(12)),
            "functional: got one on 2-2-2 tanh, expected a FlowSpace",
        ),
        (lambda: goal_oriented(PROBLEM.on(FLOW), START, "both"), "of: got 'both', expected 'states' or 'weights'"),
        (lambda: goal_oriented(PROBLEM.on(FLOW), START[1:]), r"x: got shape \(23,\), expected \(24,\)"),
        (lambda: goal_oriented(PROBLEM.on(FLOW), START * np.nan), "x: got NaN or infinity, expected finite numbers"),
        (
            lambda: goal_oriented(fem.Tikhonov(FLOW, fem.L2, 1.0), START),
            "functional: got one without an integral, expected one of `problem.on",
        ),
        (lambda: fem.hierarchical(PROBLEM.on(FLOW), START + np.inf), "x: got NaN or infinity, expected finite numbers"),
        (
            lambda: fem.hierarchical(PROBLEM.on(FLOW), START, [Neuron(0, np.ones(2), 0.0)]),
            "candidates: got some for 2-2-2 single flow.*, expected none: all of its cells are candidates",
        ),
        (lambda: fem.hierarchical(PROBLEM.on(FLOW), START, count=3), "candidates: got some for 2-2-2 single flow"),
        (
            lambda: fem.hierarchical(fem.Scaled(PROBLEM.on(FLOW), -1.0), START),
            "functional: got one without a least-squares system",
        ),
        (
            lambda: fem.insertion_sensitivity(fem.Shifted(fem.Scaled(PROBLEM.on(FLOW), -1.0), START), START),
            "space: got another space, expected none as the shift is a dual vector",
        ),
        (
            lambda: fem.insertion_sensitivity(fem.Scaled(PROBLEM.on(FLOW), -1.0), START),
            "functional: got one without a least-squares system",
        ),
        (
            lambda: fem.insertion_sensitivity(PROBLEM.on(LINEAR), LINEAR.initial(0)),
            "space: got .*linear.*, expected piecewise constant weights",
        ),
        (lambda: fem.insertion_sensitivity(PROBLEM.on(FLOW), START, []), "candidates: got none, expected at least one"),
        (
            lambda: fem.insertion_sensitivity(PROBLEM.on(FLOW), START, [Neuron(0, np.ones(2), 0.0)]),
            "candidates: got neurons for 2-2-2 single flow.*, expected positions: its width does not grow",
        ),
        (
            lambda: fem.insertion_sensitivity(PROBLEM.on(FLOW), START, [4]),
            "candidates: got 4, expected neurons alone, or alone positions from 0 to 3",
        ),
        (
            lambda: fem.insertion_sensitivity(PROBLEM.on(FLOW), START, [True]),
            "candidates: got True, expected neurons alone, or alone positions from 0 to 3",
        ),
        (
            lambda: goal_oriented(EXPLODING, HUGE),
            "x: the flow is not finite from step 2 of 2 on, t = 2; expected smaller weights, or a finer",
        ),
        (
            lambda: goal_oriented(EXPLODING, HUGE, "weights"),
            "x: the flow is not finite from step 2 of 2 on, t = 2; expected smaller weights, or a finer",
        ),
        (
            lambda: fem.hierarchical(EXPLODING, HUGE),
            "x: the flow is not finite from step 2 of 4 on, t = 1; expected smaller weights, or a finer",
        ),
        (
            lambda: fem.insertion_sensitivity(EXPLODING, HUGE),
            "x: the flow is not finite from step 2 of 2 on, t = 2; expected smaller weights, or a finer",
        ),
        (
            lambda: fem.removal(PROBLEM.on(FLOW), START),
            "functional: got one on 2-2-2 single flow.*, expected a FeedforwardSpace",
        ),
    ],
)
def test_what_has_no_estimate_is_refused(estimate, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        estimate()
