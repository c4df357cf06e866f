"""Newton methods: invariances, estimates against true constants, bounds against dense solutions, every way to end."""

import dataclasses
import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.special import expit

import dnnfem as fem
from dnnfem.functionals import Scaled, Shifted, Sum, Tikhonov, from_callables
from dnnfem.functionals.protocols import MatrixNorm
from dnnfem.kernels.compiled import rows
from dnnfem.norms import H1, L2, Euclidean, Weighted
from dnnfem.records import Progress, State, Status, relative
from dnnfem.solvers import (
    conjugate_gradients,
    cubic,
    gauss_newton,
    newton,
    nleq_err,
    nlscon,
    steihaug,
    trust_region,
)
from dnnfem.solvers.conjugate_gradients import known
from dnnfem.solvers.newton import penalized, penalty_norm
from dnnfem.solvers.nleq import Triangular
from dnnfem.spaces import Coordinates, FlowSpace
from dnnfem.testing import convergence_order

EPS = np.finfo(float).eps
MIX = np.array([[2.0, 0.3, -0.2], [0.1, 1.5, 0.4], [-0.3, 0.2, 1.0]])


def orthogonal(n, random):
    return np.linalg.qr(random.standard_normal((n, n)))[0]


def conditioned(n, condition, random):
    """Return a matrix with the given condition, of any size."""
    return (orthogonal(n, random) * np.geomspace(1.0, 1.0 / condition, n)) @ orthogonal(n, random)


# Systems of equations: residual, Jacobian, second derivative along a direction, start


def bratu(n=12, c=3.0):
    h = 1.0 / (n + 1)
    stiffness = (2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)) / h**2
    return (
        lambda x: stiffness @ x - c * np.exp(x),
        lambda x: stiffness - np.diag(c * np.exp(x)),
        lambda x, d: -c * np.exp(x) * d * d,
        np.zeros(n),
    )


def chandrasekhar(n=10, c=0.99):
    mu = (np.arange(n) + 0.5) / n
    kernel = 0.5 * c / n * mu[:, None] / (mu[:, None] + mu)
    return (
        lambda x: x - 1.0 / (1.0 - kernel @ x),
        lambda x: np.eye(n) - kernel / ((1.0 - kernel @ x) ** 2)[:, None],
        lambda x, d: -2.0 * (kernel @ d) ** 2 / (1.0 - kernel @ x) ** 3,
        np.zeros(n),
    )


def arctangents(start=(200.0, -80.0, 50.0)):
    shift = np.array([0.3, -0.2, 0.5])
    return (
        lambda x: MIX @ np.arctan(x) - shift,
        lambda x: MIX / (1.0 + x**2),
        lambda x, d: MIX @ (-2.0 * x * d * d / (1.0 + x**2) ** 2),
        np.array(start),
    )


def exponentials(start=(-4.0, 2.0, -6.0)):
    # Corrections are so long that trial points overflow.
    def exp(x):
        with np.errstate(over="ignore"):
            return np.exp(x)

    return (
        lambda x: MIX @ exp(x) - np.array([1.0, 2.0, 0.5]),
        lambda x: MIX * exp(x),
        lambda x, d: MIX @ (exp(x) * d * d),
        np.array(start),
    )


SYSTEMS = {
    "Bratu": bratu(),
    "Chandrasekhar": chandrasekhar(),
    "arctangents": arctangents(),
    "exponentials": exponentials(),
}


def cubes(n=3):
    return (
        lambda x: x**3 + np.roll(x, 1) - 2.0,
        lambda x: np.diag(3.0 * x * x) + np.roll(np.eye(n), 1, axis=0),
        lambda x, d: 6.0 * x * d * d,
        np.array([10.0, -7.0, 4.0]),
    )


FAR_SYSTEMS = {
    "arctangents": (arctangents((1e4, -3e3, 2e3)), 10),
    "exponentials": (exponentials((-8.0, 4.0, -12.0)), 8),
    "cubes": (cubes(), 5),
    "Chandrasekhar next to a turning point": (chandrasekhar(c=0.999999), 0),
}
"""Systems that take more than ten steps from their starts, and how many of the first ten are damped."""


def system(name, matrix=None):
    """Return the functional of a system, perhaps of other combinations of its equations, and its start."""
    residual, jacobian, _, start = SYSTEMS[name]
    a = np.eye(len(start)) if matrix is None else matrix
    return from_callables(len(start), residual=lambda x: a @ residual(x), jacobian=lambda x: a @ jacobian(x)), start


def path(solve, functional, start, *arguments, **options):
    """Return the result and all iterates."""
    shown = []
    result = solve(functional, start, *arguments, observer=shown.append, **options)
    return result, np.array([snapshot.x for snapshot in shown])


# Equations


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("name", SYSTEMS)
@given(st.integers(0, 10_000), st.floats(-5.0, 5.0))
def test_newton_does_not_see_how_equations_are_combined(name, condition, seed, size):
    plain, start = system(name)
    matrix = 10.0**size * conditioned(len(start), condition, np.random.default_rng(seed))
    mixed, _ = system(name, matrix)
    first, left = path(nleq_err, plain, start, 1e-11, max_steps=10)
    second, right = path(nleq_err, mixed, start, 1e-11, max_steps=10)
    assert len(first.steps) == len(second.steps) and first.status.converged == second.status.converged
    scale = max(1.0, np.abs(left).max())
    assert np.abs(left - right).max() <= 100.0 * condition * EPS * scale
    for column in ("damping", "contraction", "length"):
        difference = first.steps.column(column)[1:4] - second.steps.column(column)[1:4]
        assert np.abs(difference).max() <= 1e4 * condition * EPS * scale


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("name", FAR_SYSTEMS)
@given(st.integers(0, 10_000))
def test_ten_steps_from_far_away_are_the_same_however_equations_are_combined(name, condition, seed):
    (residual, jacobian, _, start), damped = FAR_SYSTEMS[name]
    matrix = conditioned(len(start), condition, np.random.default_rng(seed))
    plain = from_callables(len(start), residual=residual, jacobian=jacobian)
    mixed = from_callables(len(start), residual=lambda x: matrix @ residual(x), jacobian=lambda x: matrix @ jacobian(x))
    # Where a trial point overflows, so does any combination.
    with np.errstate(invalid="ignore", over="ignore"):
        first, left = path(nleq_err, plain, start, 1e-11, max_steps=10)
        second, right = path(nleq_err, mixed, start, 1e-11, max_steps=10)
    dampings = first.steps.column("damping")[1:]
    assert len(dampings) == 10 and np.count_nonzero(dampings < 1.0) >= damped
    assert second.steps.column("damping")[1:] == pytest.approx(dampings, rel=1e6 * condition * EPS)
    # What the matrix does to rounding, and what the equations do themselves.
    assert np.abs(left - right).max() <= 100.0 * (condition + 10.0) * EPS * max(1.0, np.abs(left).max())


@given(st.integers(0, 10_000))
def test_units_of_coefficients_do_not_matter_if_the_norm_changes_along(seed):
    residual, jacobian, _, start = SYSTEMS["arctangents"]
    units = 10.0 ** np.random.default_rng(seed).uniform(-3.0, 3.0, 3)
    moved = from_callables(3, residual=lambda y: residual(y / units), jacobian=lambda y: jacobian(y / units) / units)
    _, left = path(nleq_err, system("arctangents")[0], start, 1e-11)
    norm = Weighted(Coordinates(3), units**-2.0)
    _, right = path(nleq_err, moved, start * units, 1e-11, norm=norm)
    assert len(left) == len(right) and np.abs(left - right / units).max() <= 1e-10


@pytest.mark.parametrize("start", [1.5, 3.0, 100.0, 1e6, -1e4])
def test_where_undamped_corrections_run_away_damped_ones_arrive(start):
    x = start
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(20):
            x = x - (1.0 + x * x) * np.arctan(x)
    assert not abs(x) < abs(start)
    j = from_callables(1, residual=np.arctan, jacobian=lambda x: np.array([[1.0 / (1.0 + x[0] ** 2)]]))
    result = nleq_err(j, np.array([start]), 1e-12)
    assert result.status.converged and abs(result.x[0]) <= 1e-12


@pytest.mark.parametrize("start", [-1.0, -5.0, -20.0, 5.0, 50.0])
def test_trial_points_that_overflow_are_only_rejected(start):
    with np.errstate(over="ignore"):
        j = from_callables(1, residual=lambda x: np.exp(x) - 1.0, jacobian=lambda x: np.diag(np.exp(x)))
        result = nleq_err(j, np.array([start]), 1e-12)
    assert result.status.converged and abs(result.x[0]) <= 1e-12


def local_constants(name, result, iterates):
    """Return ``|F'^-1 F''(D, D)| / |D|^2`` at the start of every step, and how far it may change on the way."""
    residual, jacobian, second, _ = SYSTEMS[name]
    constants = []
    for x in iterates[: len(result.steps) - 1]:
        d = -np.linalg.solve(jacobian(x), residual(x))
        constants.append(np.linalg.norm(np.linalg.solve(jacobian(x), second(x, d))) / (d @ d))
    return np.array(constants)


@pytest.mark.parametrize("name", SYSTEMS)
def test_omega_is_the_local_constant(name):
    j, start = system(name)
    result, iterates = path(nleq_err, j, start, 1e-7)
    estimates = result.steps.column("omega")[1:]
    constants = local_constants(name, result, iterates)
    short = result.steps.column("length")[1:] * constants <= 0.15
    assert np.count_nonzero(short) >= 2
    assert estimates[short] == pytest.approx(constants[short], rel=0.2)


@given(st.floats(0.1, 100.0), st.floats(0.01, 10.0))
def test_omega_of_a_parabola_is_exact_for_every_damping(start, root):
    # F'' is constant: |F'^-1 F''(D, D)| / |D|^2 = 1/x.
    j = from_callables(1, residual=lambda x: x * x - root**2, jacobian=lambda x: 2.0 * np.diag(x))
    result, iterates = path(nleq_err, j, np.array([start]), 1e-3 * root)
    for step, x in zip(result.steps[1:], iterates, strict=False):
        # A correction as long as rounding has no estimate.
        if step.length > 1e-6 * root:
            assert step.omega == pytest.approx(1.0 / x[0], rel=1e-6)


def test_the_estimate_is_exact_in_the_limit_of_short_steps():
    # Damped from far away: [omega] differs from the local constant in the order of the step.
    residual, jacobian, second, _ = exponentials()
    j = from_callables(3, residual=residual, jacobian=jacobian)
    solution = nleq_err(j, np.zeros(3), 1e-13).x
    sizes, errors = 0.1 * 0.5 ** np.arange(5), []
    for size in sizes:
        x = solution + size * np.array([1.0, -0.5, 0.7])
        d = -np.linalg.solve(jacobian(x), residual(x))
        true = np.linalg.norm(np.linalg.solve(jacobian(x), second(x, d))) / (d @ d)
        errors.append(abs(nleq_err(j, x, 0.0, max_steps=1).steps[1].omega - true))
    assert convergence_order(sizes, errors)[-1] == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("name", SYSTEMS)
def test_convergence_is_quadratic(name):
    j, start = system(name)
    lengths = nleq_err(j, start, 0.0).steps.column("dual_norm")
    last = lengths[(lengths > 1e-13) & (lengths < 0.1)]
    orders = np.log(last[2:] / last[1:-1]) / np.log(last[1:-1] / last[:-2])
    # The last ones may be cut off by rounding.
    assert len(orders) >= 1 and orders.max() == pytest.approx(2.0, abs=0.35)


@pytest.mark.parametrize("name", SYSTEMS)
@given(st.floats(-12.0, -1.0))
def test_the_error_at_the_end_is_below_the_tolerance(name, exponent):
    j, start = system(name)
    solution = nleq_err(j, start, 1e-13).x
    result = nleq_err(j, start, 10.0**exponent)
    assert result.status.converged and result.algebraic <= 10.0**exponent
    assert np.linalg.norm(result.x - solution) <= 10.0**exponent + 1e-13


def test_a_prediction_that_is_too_small_is_given_a_second_try():
    matrix = conditioned(5, 10.0, np.random.default_rng(0))
    j = from_callables(5, residual=lambda x: matrix @ x - 1.0, jacobian=lambda x: matrix)
    first = nleq_err(j, np.zeros(5), max_steps=0)
    for damping, trials in ((0.2, 2), (1e-6, 2), (0.3, 1)):
        memory = {"damping": np.array(damping), "scale": np.zeros(5)}
        state = State(progress=Progress(np.zeros(5), first.steps, None, memory))
        step = nleq_err(j, np.zeros(5), state=state, max_steps=1).steps[1]
        assert step.inner == trials and step.damping == (1.0 if trials == 2 else damping)


def test_affine_equations_take_one_step():
    matrix = conditioned(5, 1e3, np.random.default_rng(0))
    j = from_callables(5, residual=lambda x: matrix @ x - 1.0, jacobian=lambda x: matrix)
    result = nleq_err(j, np.zeros(5), 1e-8)
    assert result.status.converged and result.steps[-1].number == 1
    assert result.x == pytest.approx(np.linalg.solve(matrix, np.ones(5)), rel=1e-10)


def test_a_relative_tolerance_compares_corrections_and_so_does_not_see_the_equations():
    matrix = conditioned(3, 1e4, np.random.default_rng(0))
    runs = [nleq_err(*system("arctangents", a), relative(1e-3)) for a in (None, 1e3 * matrix)]
    for run in runs:
        lengths = run.steps.column("dual_norm")
        assert run.status is Status.STATIONARY and lengths[-1] <= 1e-3 * lengths[0] < lengths[-2]
    assert len(runs[0].steps) == len(runs[1].steps)


@given(st.integers(1, 12), st.floats(0.0, 10.0), st.integers(0, 10_000))
def test_scaled_factorizations_solve(n, spread, seed):
    random = np.random.default_rng(seed)
    rows, columns = 10.0 ** random.uniform(-spread, spread, (2, n))
    matrix, x = conditioned(n, 100.0, random), random.standard_normal(n)
    scaled = rows[:, None] * matrix * columns
    factor = Triangular.of(scaled)
    assert factor.solve(scaled @ (x / columns)) * columns == pytest.approx(x, rel=1e-9, abs=1e-11)
    assert Triangular.of(np.outer(rows, columns) if n > 1 else np.zeros((1, 1))) is None


# Least squares

TIMES = np.linspace(0.0, 2.0, 12)
FAR = np.array([0.05, 6.0])


def decay(noise, seed=0):
    """Return the fit of a decaying exponential, its start, and the second derivative of its residuals."""
    random = np.random.default_rng(seed)
    data = 1.5 * np.exp(-1.3 * TIMES) + noise * random.standard_normal(12)

    def jacobian(x):
        e = np.exp(-x[1] * TIMES)
        return np.column_stack([e, -TIMES * x[0] * e])

    def bend(x, residual):
        e = np.exp(-x[1] * TIMES)
        mixed, pure = -(TIMES * e) @ residual, (TIMES**2 * x[0] * e) @ residual
        return np.array([[0.0, mixed], [mixed, pure]])

    j = from_callables(2, residual=lambda x: x[0] * np.exp(-x[1] * TIMES) - data, jacobian=jacobian)
    return j, np.array([1.0, 0.5]), bend


def circle(distance, start=0.3):
    """Return the distance of a point from the unit circle: at angle 0 the contraction is ``|1 - distance|``."""
    j = from_callables(
        1,
        residual=lambda x: np.array([np.cos(x[0]) - distance, np.sin(x[0])]),
        jacobian=lambda x: np.array([[-np.sin(x[0])], [np.cos(x[0])]]),
    )
    return j, np.array([start])


def contraction(j, x, bend):
    """Return the spectral radius of the derivative of a full step at a solution."""
    here = j.linearize(x)
    return np.abs(np.linalg.eigvals(np.linalg.solve(here.gram(), bend(x, here.residual())))).max()


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_kappa_is_the_contraction_of_full_steps(noise, seed):
    j, start, bend = decay(noise, seed)
    result = nlscon(j, start, 1e-11)
    true = contraction(j, result.x, bend)
    assert result.status is Status.CONVERGED and true < 1.0
    _, iterates = path(nlscon, j, start, 1e-11)
    errors = np.linalg.norm(iterates[: len(result.steps)] - nlscon(j, start, 0.0).x, axis=1)
    close = (errors[1:] > 1e-10) & (errors[:-1] < 1e-3)
    assert np.count_nonzero(close) >= 2
    assert result.steps.column("contraction")[1:][close] == pytest.approx(true, rel=0.1)
    # It is what happens to the error.
    assert (errors[1:] / errors[:-1])[close] == pytest.approx(true, rel=0.1)


@given(st.floats(0.05, 0.95))
def test_kappa_of_a_circle_is_known(distance):
    result = nlscon(*circle(distance), 1e-9)
    assert result.status is Status.CONVERGED and abs(result.x[0]) <= 1e-9
    assert result.steps[-1].contraction == pytest.approx(1.0 - distance, rel=1e-3)


def test_kappa_is_right_in_damped_steps_too():
    j, _, bend = decay(0.3)
    solution = nlscon(j, np.array([1.0, 0.5]), 1e-12).x
    with np.errstate(over="ignore", invalid="ignore"):
        far = nlscon(j, FAR, 1e-8)
    assert np.nanmin(far.steps.column("damping")) < 1.0 and far.status is Status.CONVERGED
    assert far.x == pytest.approx(solution, abs=1e-7)
    assert far.steps[-1].contraction == pytest.approx(contraction(j, solution, bend), rel=0.05)


def test_without_a_residual_convergence_is_quadratic_and_kappa_vanishes():
    j, start, _ = decay(0.0)
    result = nlscon(j, start, 0.0)
    lengths = result.steps.column("dual_norm")
    last = lengths[(lengths > 1e-13) & (lengths < 0.3)]
    orders = np.log(last[2:] / last[1:-1]) / np.log(last[1:-1] / last[:-2])
    assert orders.max() == pytest.approx(2.0, abs=0.3)
    kappas = result.steps.column("contraction")[1:]
    assert kappas[2] < 1e-2 * kappas[0] and kappas[3] < 1e-2 * kappas[2]


ANCHORS = np.array([[0.0, 0.0], [3.0, 0.5], [1.0, 4.0], [-2.0, 2.0], [2.0, -3.0]])


def fits():
    """Return residuals and Jacobians of fits with data that no model meets, and starts."""
    random = np.random.default_rng(5)
    distances = np.linalg.norm(ANCHORS - np.array([1.0, 1.2]), axis=1) + 0.1 * random.standard_normal(5)
    growth = 2.0 / (1.0 + np.exp(2.0 - 3.0 * TIMES)) + 0.05 * random.standard_normal(12)
    wave = 1.2 * np.sin(1.7 * TIMES + 0.3) + 0.1 * random.standard_normal(12)

    def grown(x):
        return 1.0 / (1.0 + np.exp(x[1] - x[2] * TIMES))

    def steep(x):
        share = grown(x)
        slope = x[0] * share * (1.0 - share)
        return np.column_stack([share, -slope, TIMES * slope])

    return {
        "decay": (*(decay(0.1)[0].functions[key] for key in ("residual", "jacobian")), FAR),
        "distances": (
            lambda x: np.linalg.norm(ANCHORS - x, axis=1) - distances,
            lambda x: (x - ANCHORS) / np.linalg.norm(ANCHORS - x, axis=1)[:, None],
            np.array([8.0, -9.0]),
        ),
        "growth": (lambda x: x[0] * grown(x) - growth, steep, np.array([1.0, 0.0, 1.0])),
        "wave": (
            lambda x: x[0] * np.sin(x[1] * TIMES + x[2]) - wave,
            lambda x: np.column_stack(
                [np.sin(x[1] * TIMES + x[2])] + [x[0] * f * np.cos(x[1] * TIMES + x[2]) for f in (TIMES, 1.0)]
            ),
            np.array([0.5, 1.0, 1.0]),
        ),
        "Rosenbrock": (
            lambda x: np.array([10.0 * (x[1] - x[0] ** 2), 1.0 - x[0], 0.3]),
            lambda x: np.array([[-20.0 * x[0], 10.0], [-1.0, 0.0], [0.0, 0.0]]),
            np.array([-1.2, 1.0]),
        ),
    }


@pytest.mark.parametrize("solve", [nlscon, partial(gauss_newton, condensed=False)], ids=["nlscon", "gauss_newton"])
@pytest.mark.parametrize("name", fits())
@given(st.integers(0, 10_000))
def test_gauss_newton_does_not_see_orthogonal_maps_of_the_residual(name, solve, seed):
    residual, jacobian, start = fits()[name]
    plain = from_callables(len(start), residual=residual, jacobian=jacobian)
    turn = orthogonal(len(residual(start)), np.random.default_rng(seed))
    turned = from_callables(len(start), residual=lambda x: turn @ residual(x), jacobian=lambda x: turn @ jacobian(x))
    with np.errstate(over="ignore", invalid="ignore"):
        first, left = path(solve, plain, start, 1e-6)
        second, right = path(solve, turned, start, 1e-6)
    assert first.status is second.status is Status.CONVERGED
    assert len(left) == len(right) >= 4 and np.abs(left - right).max() <= 1e-9 * np.abs(left).max()
    for column in ("damping", "contraction", "radius", "length"):
        left, right = (run.steps.column(column)[1:4] for run in (first, second))
        assert right == pytest.approx(left, rel=1e-7, abs=1e-12, nan_ok=True)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.3]))
def test_orthogonal_maps_of_a_well_conditioned_fit_change_nothing_but_rounding(seed, noise):
    j, start, _ = decay(noise)
    turn = orthogonal(12, np.random.default_rng(seed))
    turned = from_callables(
        2, residual=lambda x: turn @ j.linearize(x).residual(), jacobian=lambda x: turn @ j.linearize(x).jacobian
    )
    start = FAR if seed % 2 else start
    with np.errstate(over="ignore", invalid="ignore"):
        first, left = path(nlscon, j, start, 1e-9)
        second, right = path(nlscon, turned, start, 1e-9)
    assert len(left) == len(right) and np.abs(left - right).max() <= 1e-10
    for column in ("damping", "contraction"):
        assert second.steps.column(column)[1:3] == pytest.approx(first.steps.column(column)[1:3], rel=1e-8, abs=1e-12)


def test_of_a_square_system_both_methods_take_the_same_steps():
    j, start = system("exponentials")
    first, second = nleq_err(j, start, 1e-9), nlscon(j, start, 1e-9)
    count = min(len(first.steps), len(second.steps)) - 1
    for column in ("damping", "omega", "length"):
        left, right = (run.steps.column(column)[1:count] for run in (first, second))
        assert right == pytest.approx(left, rel=1e-6)
    assert np.nanmax(second.steps.column("contraction")) < 1e-6


@pytest.mark.parametrize(("distance", "start"), [(2.5, 0.3), (3.0, 0.01), (5.0, 0.2), (-2.5, 0.3)])
def test_a_residual_that_is_too_large_is_incompatible(distance, start):
    result = nlscon(*circle(distance, start), 1e-9)
    assert result.status is Status.INCOMPATIBLE and result.status.final and not result.status.converged
    assert "trust_region" in str(result) and result.steps[-1].contraction >= 1.0
    other = fem.trust_region(*circle(distance, start), 1e-4, curvature=True)
    assert other.status.converged and np.cos(other.x[0]) == pytest.approx(np.sign(distance))


@pytest.mark.parametrize("distance", [-0.3, -0.6, -0.9])
def test_leaving_a_maximum_is_no_incompatibility(distance):
    # Near angle 0 kappa is larger than one as well, but corrections keep their direction.
    result = nlscon(*circle(distance, 0.1), 1e-9)
    assert result.status is Status.CONVERGED and np.cos(result.x[0]) == pytest.approx(-1.0)
    assert np.nanmax(result.steps.column("contraction")) > 1.2


@pytest.mark.parametrize("noise", [0.05, 0.3])
@given(st.floats(-10.0, -1.0))
def test_the_distance_to_the_solution_is_estimated(noise, exponent):
    j, start, _ = decay(noise)
    solution = nlscon(j, start, 1e-13).x
    result = nlscon(j, start, 10.0**exponent)
    assert np.linalg.norm(result.x - solution) <= 10.0**exponent
    assert result.algebraic <= 5.0 * np.linalg.norm(result.x - solution) + 1e-12


# Minimization


def barrier(n, seed=0, basis=None):
    """Return ``<c, x> - sum log(A x)`` and its minimum; its affine conjugate constant is at most two everywhere."""
    random = np.random.default_rng(seed)
    b = np.eye(n) if basis is None else basis
    rows = np.vstack([np.eye(n), random.uniform(0.0, 1.0, (n, n))])
    load = random.uniform(0.5, 2.0, n)

    def value(y):
        slacks = rows @ (b @ y)
        return float(load @ (b @ y) - np.log(slacks).sum()) if (slacks > 0.0).all() else np.inf

    def hessian(y, v):
        return b.T @ (rows.T @ ((rows @ (b @ v)) / (rows @ (b @ y)) ** 2))

    return from_callables(n, value, lambda y: b.T @ (load - rows.T @ (1.0 / (rows @ (b @ y)))), hessian), rows


def logistic(n=12, m=60, seed=0, basis=None, alpha=0.0):
    """Return logistic regression, perhaps with a penalty."""
    random = np.random.default_rng(seed)
    a = random.standard_normal((m, n)) * np.geomspace(1.0, 0.05, n)
    a = a if basis is None else a @ basis

    def share(x):
        return expit(a @ x)

    j = from_callables(
        n,
        lambda x: float(np.sum(np.logaddexp(0.0, a @ x) - 0.3 * (a @ x))),
        lambda x: a.T @ (share(x) - 0.3),
        lambda x, v: a.T @ (share(x) * (1.0 - share(x)) * (a @ v)),
    )
    return Sum(j, Tikhonov(j.space, Euclidean, alpha)) if alpha else j


def quartics(n=8, m=30, seed=0, basis=None):
    """Return a sum of fourth powers: of any size, Newton's corrections are a third of the way."""
    random = np.random.default_rng(seed)
    a, b = random.standard_normal((m, n)), random.standard_normal(m)
    a = a if basis is None else a @ basis
    return from_callables(
        n,
        lambda x: 0.25 * float(np.sum((a @ x - b) ** 4)),
        lambda x: a.T @ (a @ x - b) ** 3,
        lambda x, v: a.T @ (3.0 * (a @ x - b) ** 2 * (a @ v)),
    )


CONVEX = {
    "barrier": lambda basis=None: barrier(8, basis=basis)[0],
    "logistic": lambda basis=None: logistic(8, 40, 0, basis),
}

CONJUGATE = CONVEX | {"quartics": lambda basis=None: quartics(8, 30, 0, basis)}
"""Functionals whose iterates are compared in different bases."""


@pytest.mark.parametrize("condition", [1.0, 30.0, 1e3])
@pytest.mark.parametrize("name", CONJUGATE)
@given(st.integers(0, 10_000))
def test_exact_corrections_do_not_see_the_basis_of_the_coefficients(name, condition, seed):
    basis = conditioned(8, condition, np.random.default_rng(seed))
    start = np.full(8, 3.0)
    first, left = path(newton, CONJUGATE[name](), start, 1e-6)
    second, right = path(newton, CONJUGATE[name](basis), np.linalg.solve(basis, start), 1e-6)
    assert len(left) == len(right) and np.nanmin(first.steps.column("damping")) < 0.9
    # The condition of the Hessian is that of the basis squared, times its own.
    assert np.abs(left - right @ basis.T).max() <= 1e3 * condition**2 * EPS * np.abs(left).max()
    for column in ("damping", "omega", "contraction"):
        rows = slice(1, 4)
        assert second.steps.column(column)[rows] == pytest.approx(first.steps.column(column)[rows], rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", CONJUGATE)
@given(st.integers(0, 10_000))
def test_nor_do_inexact_ones_if_the_norm_changes_along(name, seed):
    basis, start = conditioned(8, 100.0, np.random.default_rng(seed)), np.full(8, 3.0)
    _, left = path(newton, CONJUGATE[name](), start, 1e-6, dense=False)
    norm = MatrixNorm(basis.T @ basis)
    _, right = path(newton, CONJUGATE[name](basis), np.linalg.solve(basis, start), 1e-6, dense=False, norm=norm)
    assert len(left) == len(right)
    # Conjugate gradients that come close to an invariant subspace amplify rounding.
    assert np.abs(left - right @ basis.T).max() <= 1e-5 * np.abs(left).max()


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("start", [0.01, 0.3, 3.0, 1000.0])
def test_the_constant_of_the_logarithm_is_two(start, dense):
    # |J'''| = 2 (J'')^(3/2) everywhere.
    j = from_callables(
        1,
        lambda x: float(x[0] - np.log(x[0])) if x[0] > 0.0 else np.inf,
        lambda x: 1.0 - 1.0 / x,
        lambda x, v: v / x**2,
    )
    result = newton(j, np.array([start]), 1e-9, dense=dense)
    assert result.status.converged and result.x[0] == pytest.approx(1.0, rel=1e-8)
    energies = result.steps.column("algebraic")[:-1]
    late = (energies < 0.1) & (energies > 1e-6)
    assert np.count_nonzero(late) >= 1 and result.steps.column("omega")[1:][late] == pytest.approx(2.0, rel=0.2)


@pytest.mark.parametrize("seed", range(4))
def test_omega_is_the_local_constant_along_the_correction(seed):
    j, rows = barrier(6, seed)
    result, iterates = path(newton, j, np.full(6, 3.0), 1e-4)
    checked = 0
    for step, x in zip(result.steps[1:], iterates, strict=False):
        here = j.linearize(x)
        d = -np.linalg.solve(here.hessian(np.eye(6)), here.derivative)
        energy = float(d @ here.hessian(d))
        true = 2.0 * abs(np.sum((rows @ d / (rows @ x)) ** 3)) / energy**1.5
        assert true <= 2.0 * (1.0 + 1e-9)
        if true * math.sqrt(energy) < 0.15:
            assert step.omega == pytest.approx(true, rel=0.2, abs=0.05)
            checked += 1
    assert checked >= 2


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("name", CONVEX)
def test_convergence_is_quadratic_for_inexact_corrections_too(name, dense):
    j = CONVEX[name]()
    result = newton(j, np.full(8, 3.0), 1e-11, dense=dense)
    assert result.status.converged
    energies = np.sqrt(np.cumprod(np.nan_to_num(result.steps.column("contraction")[1:] ** 2, nan=1.0)))
    last = energies[energies < 0.3]
    orders = np.log(last[2:] / last[1:-1]) / np.log(last[1:-1] / last[:-2])
    assert orders.max() > 1.7


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("scale", [1.0, 5.0, 30.0])
@pytest.mark.parametrize("name", CONVEX)
def test_the_value_falls_by_what_the_bound_promises(name, scale, dense):
    j = CONVEX[name]()
    result, iterates = path(newton, j, scale * np.ones(8), 1e-7, dense=dense)
    assert result.status is Status.CONVERGED
    best = newton(j, result.x, 0.0).value
    values, dampings = result.steps.column("value"), result.steps.column("damping")
    for number, x in enumerate(iterates[: len(values) - 1]):
        here = j.linearize(x)
        energy = here.derivative @ np.linalg.solve(here.hessian(np.eye(8)), here.derivative)
        fall, damping = values[number] - values[number + 1], dampings[number + 1]
        inner = 1.0 if dense else 1.0 / (1.0 + 0.25**2)
        assert fall >= inner * damping * (damping + 2.0) / 6.0 * energy * (1 - 1e-6) - 1e-13 * abs(values[number])
        # The estimate of the error, where there is one.
        algebraic, error = result.steps[number].algebraic, math.sqrt(max(2.0 * (values[number] - best), 0.0))
        if math.isfinite(algebraic) and error > 1e-6:
            assert 0.8 <= algebraic / error <= 1.25


def test_inner_accuracy_follows_the_nonlinearity():
    j = logistic(40, 200, alpha=1e-3)
    result = newton(j, np.full(40, 0.5), 1e-10, dense=False)
    inner = result.steps.column("inner")[1:]
    assert result.status is Status.CONVERGED and inner[0] < 0.5 * inner.max()
    # As good as exact ones in the number of steps.
    exact = newton(j, np.full(40, 0.5), 1e-10, dense=True)
    assert abs(len(exact.steps) - len(result.steps)) <= 1


def test_quadratic_functionals_take_one_step():
    matrix = conditioned(6, 1e3, np.random.default_rng(1))
    matrix = matrix @ matrix.T
    j = from_callables(
        6, lambda x: float(0.5 * x @ matrix @ x - x.sum()), lambda x: matrix @ x - 1.0, lambda x, v: matrix @ v
    )
    result = newton(j, np.ones(6), 1e-4)
    assert result.status.converged and result.steps[-1].number == 1
    assert result.x == pytest.approx(np.linalg.solve(matrix, np.ones(6)), rel=1e-6)


@pytest.mark.parametrize("dense", [True, False])
def test_no_nonlinearity_at_all_is_known_too(dense):
    # All numbers are exact: [h] is zero, which is not the same as unknown.
    h = 2.0 ** np.arange(-3, 5)
    j = from_callables(8, lambda x: float(0.5 * x @ (h * x)), lambda x: h * x, lambda x, v: h * v)
    result = newton(j, np.ones(8), 1e-3, dense=dense)
    assert result.status.converged and math.isfinite(result.algebraic) and 0.0 < result.steps[1].omega <= 1e-12


def test_the_curvature_alone_converges_linearly_and_knows_its_error(scalar_problem, space):
    j = Sum(scalar_problem.on(space), Tikhonov(space, Euclidean, 1e-3))
    best = fem.trust_region(j, space.initial(0), 1e-9, max_steps=300).value
    for dense in (True, False):
        for tolerance in (1e-2, 1e-5):
            result = newton(j, space.initial(0), tolerance, curvature=True, dense=dense)
            assert result.status is Status.CONVERGED and result.algebraic <= tolerance
            assert math.sqrt(max(2.0 * (result.value - best), 0.0)) <= 2.0 * tolerance
            assert (np.diff(result.steps.column("value")) <= 1e-15).all()


# Conjugate gradients

SPECTRA = {
    "geometric": lambda n, low, random: np.geomspace(low, 1.0, n),
    "cluster below": lambda n, low, random: np.concatenate([np.full(n // 2, low), np.linspace(0.2, 1.0, n - n // 2)]),
    "crowded below": lambda n, low, random: low + random.uniform(0.0, 1.0, n) ** 6,
}


def linear_problem(spectrum, n, low, weighted, seed, diagonal=False):
    """Return a positive definite matrix with lower bound `low` in a norm, the norm, a right-hand side, its solution."""
    random = np.random.default_rng(seed)
    basis = np.eye(n) if diagonal else orthogonal(n, random)
    matrix = (basis * SPECTRA[spectrum](n, low, random)) @ basis.T
    roots = np.geomspace(1.0, 30.0, n) if weighted else np.ones(n)
    matrix = roots[:, None] * (0.5 * (matrix + matrix.T)) * roots
    derivative = random.standard_normal(n)
    return matrix, Weighted(Coordinates(n), roots**2), derivative, -np.linalg.solve(matrix, derivative)


problems = st.tuples(
    st.sampled_from(sorted(SPECTRA)), st.integers(2, 40), st.floats(-7.0, -1.0), st.booleans(), st.integers(0, 10_000)
)


@given(problems)
def test_bounds_enclose_the_error_of_every_iterate(problem):
    spectrum, n, exponent, weighted, seed = problem
    # Diagonal matrices, whose solutions have all digits: dense ones would hide the last decades of the bounds.
    matrix, norm, derivative, solution = linear_problem(spectrum, n, 10.0**exponent, weighted, seed, diagonal=True)

    def run(accuracy, count):
        return conjugate_gradients(lambda v: matrix @ v, derivative, norm, accuracy, count, 10.0**exponent)

    def energy(v):
        return math.sqrt(v @ matrix @ v)

    whole, size = run(1e-8, 5 * n), energy(solution)
    assert len(whole.lower) == len(whole.upper) == whole.iterations + 1
    for count in range(whole.iterations + 1):
        error = energy(run(0.0, count).step - solution)
        assert whole.lower[count] <= error * (1.0 + 1e-7) + 1e-12 * size
        assert whole.upper[count] >= error * (1.0 - 1e-9) - 1e-12 * size
    assert (np.diff(whole.upper) <= 0.0).all() and whole.lower[-1] == 0.0 and not whole.refuted


@given(problems, st.floats(-4.0, -0.5))
def test_with_an_upper_bound_the_accuracy_is_certain(problem, accuracy):
    spectrum, n, exponent, weighted, seed = problem
    matrix, norm, derivative, solution = linear_problem(spectrum, n, 10.0**exponent, weighted, seed)
    result = conjugate_gradients(lambda v: matrix @ v, derivative, norm, 10.0**accuracy, 100 * n, 10.0**exponent)
    error = math.sqrt((result.step - solution) @ matrix @ (result.step - solution))
    assert error <= 10.0**accuracy * math.sqrt(result.energy) and result.delay == 0
    assert error <= result.error * (1.0 + 1e-9) + 1e-9 * math.sqrt(result.energy)
    assert result.energy + error**2 == pytest.approx(solution @ matrix @ solution, rel=1e-6)


def test_adaptive_delay_keeps_its_promise_where_a_fixed_one_does_not():
    missed, fixed, count = 0, 0, 0
    for seed in range(60):
        spectrum = sorted(SPECTRA)[seed % 3]
        matrix, norm, derivative, solution = linear_problem(spectrum, 30, 10.0 ** -(1 + seed % 6), seed % 2, seed)
        for accuracy in (0.1, 1e-2, 1e-3):
            result = conjugate_gradients(lambda v, a=matrix: a @ v, derivative, norm, accuracy, 3000)
            simple = steihaug(lambda v, a=matrix: a @ v, derivative, norm, np.inf, accuracy, 3000)
            whole = math.sqrt(solution @ matrix @ solution)
            error, other = (math.sqrt((s - solution) @ matrix @ (s - solution)) for s in (result.step, simple.step))
            assert error <= 10.0 * accuracy * whole
            missed, fixed, count = missed + (error > accuracy * whole), fixed + (other > accuracy * whole), count + 1
    assert missed <= 0.03 * count and fixed >= 0.2 * count


def test_nothing_is_known_until_the_gains_say_so_however_rough_the_accuracy():
    # The first gain is a hundredth of what is to come.
    h, g = np.array([1e-6, 1.0, 0.5]), np.array([1e-5, 1e-3, 0.0])
    norm, truth = Euclidean(Coordinates(3)), math.sqrt(np.sum(g * g / h))
    for count in (0, 1):
        cut = conjugate_gradients(lambda v: h * v, g, norm, 1.5, count)
        assert math.isinf(cut.error) and not cut.accurate and cut.delay == count
    rough = conjugate_gradients(lambda v: h * v, g, norm, 1.5, 20)
    left = math.sqrt(np.sum(h * (rough.step + g / h) ** 2))
    assert rough.accurate and left <= rough.error <= 1.5 * truth
    j = from_callables(3, lambda x: float(0.5 * x @ (h * x) + g @ x), lambda x: h * x + g, lambda x, v: h * v)
    for tolerance in (0.1, 0.01, 1e-3):
        result = newton(j, np.zeros(3), tolerance, dense=False)
        error = math.sqrt(np.sum(h * (result.x + g / h) ** 2))
        assert result.status.converged and error <= min(tolerance, 1.1 * result.algebraic + 1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-5])
def test_the_estimate_is_right_to_a_digit_for_crowded_spectra_whatever_the_tolerance(seed, tolerance):
    random, n = np.random.default_rng(seed), 200
    h = 1e-6 + random.uniform(0.0, 1.0, n) ** 6
    g = 1e-2 * random.standard_normal(n) * h**0.4
    j = from_callables(n, lambda x: float(0.5 * x @ (h * x) + g @ x), lambda x: h * x + g, lambda x, v: h * v)
    result = newton(j, np.zeros(n), tolerance, dense=False)
    error = math.sqrt(np.sum(h * (result.x + g / h) ** 2))
    assert result.status is Status.CONVERGED and error <= tolerance
    assert 0.5 * error <= result.algebraic <= 5.0 * error


@given(problems, st.floats(1.5, 100.0))
def test_a_lower_bound_that_is_false_is_noticed_and_not_used(problem, factor):
    spectrum, n, exponent, weighted, seed = problem
    low = 10.0**exponent
    matrix, norm, derivative, _ = linear_problem(spectrum, n, low, weighted, seed, diagonal=True)
    false = factor * np.sort(np.diagonal(matrix) / norm.weights)[0]
    result = conjugate_gradients(lambda v: matrix @ v, derivative, norm, 1e-8, 10 * n, false)
    plain = conjugate_gradients(lambda v: matrix @ v, derivative, norm, 1e-8, 10 * n)
    assert result.refuted and np.isinf(result.upper[:-1]).all() and not plain.refuted
    # From then on it is the adaptive delay that decides, as if nothing had been claimed.
    assert np.array_equal(result.step, plain.step) and result.accurate
    assert (result.error, result.delay, result.iterations) == (plain.error, plain.delay, plain.iterations)


def test_a_bound_that_is_false_does_not_spoil_newton():
    h = np.geomspace(0.01, 1.0, 20)
    g = np.random.default_rng(0).standard_normal(20)
    j = from_callables(20, lambda x: float(0.5 * x @ (h * x) + g @ x), lambda x: h * x + g, lambda x, v: h * v)
    right, wrong = (newton(j, np.zeros(20), 1e-8, dense=False, lower_bound=bound) for bound in (0.01, 0.1))
    assert right.status.converged and wrong.status.converged and wrong.x == pytest.approx(-g / h, rel=1e-7)
    assert wrong.steps.column("inner").max() <= right.steps.column("inner").max() + 4


@pytest.mark.parametrize("factor", [0.1, 1e-2, 1e-6])
def test_a_relative_tolerance_asks_conjugate_gradients_for_no_more_than_it_needs(factor):
    n = 200
    h, g = np.linspace(0.01, 1.0, n), np.random.default_rng(0).standard_normal(n)
    j = from_callables(n, lambda x: float(0.5 * x @ (h * x) + g @ x), lambda x: h * x + g, lambda x, v: h * v)
    result = newton(j, np.ones(n), relative(factor), dense=False)
    assert result.status is Status.STATIONARY
    # What conjugate gradients alone need for a residual of that size.
    needed = conjugate_gradients(
        lambda v: h * v, h + g, Euclidean(j.space), 0.0, 10 * n, small=factor * np.linalg.norm(h + g)
    )
    assert needed.accurate and np.linalg.norm(needed.residual) <= factor * np.linalg.norm(h + g)
    assert result.steps.column("inner").sum() <= 2.0 * needed.iterations + 15


def test_rounding_of_conjugate_gradients_is_no_nonlinearity():
    # They lose their orthogonality long before this condition lets them end.
    n = 100
    h, g = np.geomspace(1e-5, 1.0, n), np.random.default_rng(0).standard_normal(n)
    j = from_callables(n, lambda x: float(0.5 * x @ (h * x) + g @ x), lambda x: h * x + g, lambda x, v: h * v)
    result = newton(j, np.zeros(n), 1e-4, dense=False)
    assert result.status.converged and len(result.steps) <= 4
    assert result.steps[1].omega * math.sqrt(np.sum(g * g / h)) <= 1e-11


def test_gains_on_a_plateau_wait_for_what_comes_after_them():
    steady = [0.1**k for k in range(12)]
    assert known(steady, 0) >= 10
    plateau = [1.0, 1e-6, 1e-6, 1e-6, 1e-6]
    assert known(plateau, 0) <= 1
    assert known([*plateau, 10.0, 1e-3, 1e-6], 0) <= 1
    assert known([*plateau, 10.0, 1e-3, 1e-6, 1e-9], 0) >= 5


def test_conjugate_gradients_stop_where_they_should():
    norm = Euclidean(Coordinates(3))
    nothing = conjugate_gradients(lambda v: v, np.zeros(3), norm, 0.1, 10)
    assert nothing.iterations == 0 and not nothing.step.any() and nothing.error == 0.0 and not nothing.indefinite
    indefinite = conjugate_gradients(lambda v: np.array([1.0, 2.0, -3.0]) * v, np.ones(3), norm, 1e-9, 10)
    assert indefinite.indefinite and np.isfinite(indefinite.step).all()
    limited = conjugate_gradients(lambda v: np.array([1.0, 10.0, 100.0]) * v, np.ones(3), norm, 1e-12, 2)
    assert limited.iterations == 2
    # Along an eigenvector one product is enough, and the bounds know it.
    exact = conjugate_gradients(lambda v: 2.0 * v, np.ones(3), norm, 1e-9, 10, lower_bound=2.0)
    assert exact.iterations == 1 and exact.error == 0.0 and exact.step == pytest.approx(-0.5)
    for bad in (-1.0, np.nan, np.inf, "1", True):
        with pytest.raises(ValueError, match="^lower_bound: got .*not negative"):
            conjugate_gradients(lambda v: v, np.ones(3), norm, 0.1, 10, lower_bound=bad)
        with pytest.raises(ValueError, match="^lower_bound: got .*or None"):
            newton(logistic(), np.zeros(12), lower_bound=bad)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="^derivative: got 1 of 3 numbers that are not finite"):
            conjugate_gradients(lambda v: v, np.array([0.0, bad, 1.0]), norm, 0.1, 10)


def test_penalties_bound_the_curvature_from_below(scalar_problem, space):
    weights = np.geomspace(0.5, 3.0, space.dim)
    weighted = Weighted(space, weights)
    data = scalar_problem.on(space)
    cases = [
        (Sum(data, Tikhonov(space, Euclidean, 0.1)), Euclidean(space), 0.1),
        (Sum(data, Tikhonov(space, lambda s: Weighted(s, weights), 0.1)), weighted, 0.1),
        (Sum(data, Tikhonov(space, lambda s: Weighted(s, weights), 0.1)), Euclidean(space), 0.05),
        (Sum(data, Tikhonov(space, Euclidean, 0.1)), weighted, 0.1 / 3.0),
        (Shifted(Scaled(Sum(data, Tikhonov(space, Euclidean, 0.1)), 2.0), np.ones(space.dim)), Euclidean(space), 0.2),
        (data, Euclidean(space), 0.0),
        (Sum(Scaled(data, -1.0), Tikhonov(space, Euclidean, 0.1)), Euclidean(space), 0.0),
    ]
    for functional, norm, expected in cases:
        bound = penalized(functional, norm)
        assert bound == pytest.approx(expected)
        if bound > 0.0:
            gram = functional.linearize(space.initial(0)).gram()
            white = norm.whiten(norm.whiten(gram).T)
            assert np.linalg.eigvalsh(white)[0] >= bound * (1.0 - 1e-9)
    flow = FlowSpace.uniform(inputs=2, width=2, outputs=1, cells=3, steps=6, degree=1)
    for rule, other in ((L2, H1), (H1, L2)):
        term = Tikhonov(flow, rule, 0.3)
        assert penalized(term, rule(flow)) == 0.3 and penalized(term, other(flow)) == 0.0
        assert penalty_norm(Sum(term)) is term.norm
    assert penalty_norm(data) is None


def test_upper_bounds_come_from_the_penalty_and_hold(scalar_problem, space, monkeypatch):
    seen = []

    def recorded(product, derivative, norm, *arguments):
        step = conjugate_gradients(product, derivative, norm, *arguments)
        matrix = np.column_stack([product(e) for e in np.eye(len(derivative))])
        solution = -np.linalg.solve(matrix, derivative)
        errors = [conjugate_gradients(product, derivative, norm, 0.0, j).step for j in range(step.iterations + 1)]
        seen.append((step, np.array([math.sqrt((d - solution) @ matrix @ (d - solution)) for d in errors])))
        return step

    monkeypatch.setitem(newton.__globals__, "conjugate_gradients", recorded)
    j = Sum(scalar_problem.on(space), Tikhonov(space, Euclidean, 1e-2))
    newton(j, space.initial(0), 1e-4, dense=False, curvature=True, max_steps=8)
    newton(logistic(alpha=0.1), np.ones(12), 1e-4, dense=False, lower_bound=0.1)
    assert len(seen) >= 12
    for step, errors in seen:
        floor = 1e-7 * errors[0]
        assert (step.upper + floor >= errors).all() and (step.lower <= errors + floor).all()
        assert step.upper[0] <= 30.0 * errors[0] and step.delay == 0
    seen.clear()
    newton(j, space.initial(0), 1e-4, dense=False, curvature=True, lower_bound=0.0, max_steps=3)
    newton(j, space.initial(0), 1e-4, dense=False, curvature=True, norm=unrelated_norm(space), max_steps=3)
    assert len(seen) >= 6 and all(np.isinf(step.upper[:-1]).all() for step, _ in seen)


def unrelated_norm(space):
    """Return a norm that no penalty is known to bound."""
    root = conditioned(space.dim, 3.0, np.random.default_rng(0))
    return MatrixNorm(root.T @ root)


# How they end


def test_a_singular_matrix_is_a_status():
    flat = from_callables(
        2, residual=lambda x: np.array([x[0] + x[1], x[0] + x[1] - 1.0]), jacobian=lambda x: np.ones((2, 2))
    )
    tall = from_callables(2, residual=lambda x: np.full(3, x.sum() - 1.0), jacobian=lambda x: np.ones((3, 2)))
    for result in (nleq_err(flat, np.zeros(2)), nlscon(tall, np.zeros(2)), nlscon(flat, np.zeros(2))):
        assert result.status is Status.SINGULAR and result.status.final and len(result.steps) == 1
        assert result.x.tolist() == [0.0, 0.0]


def test_corrections_of_any_size_have_estimates():
    # At the root zero nothing is lost in rounding, and cubic convergence soon leaves the range of squares.
    j = from_callables(1, residual=np.arctan, jacobian=lambda x: np.array([[1.0 / (1.0 + x[0] ** 2)]]))
    result = nleq_err(j, np.array([1.0]), 0.0)
    assert result.status.converged and abs(result.x[0]) < 1e-100
    for start in (1e-170, 1e-200):
        assert nleq_err(j, np.array([start]), 0.0).status.converged
    steep = from_callables(1, residual=lambda x: x * (1.0 + 1e-200 * x), jacobian=lambda x: np.diag(1.0 + 2e-200 * x))
    assert nleq_err(steep, np.array([1e150]), 1e140).status.converged


def test_a_solution_where_the_matrix_is_singular_is_a_solution():
    double = from_callables(1, residual=lambda x: x * x, jacobian=lambda x: 2.0 * np.diag(x))
    for solve in (nleq_err, nlscon):
        assert solve(double, np.zeros(1)).status is Status.STATIONARY
        result = solve(double, np.ones(1), 1e-6)
        assert result.status.converged and abs(result.x[0]) <= 1e-5


def test_a_path_that_ends_at_a_singular_matrix_is_a_status():
    # x^2 + 1 has no root; the path ends where the derivative vanishes.
    j = from_callables(1, residual=lambda x: x * x + 1.0, jacobian=lambda x: 2.0 * np.diag(x))
    result = nleq_err(j, np.array([2.0]), 1e-10)
    assert result.status is Status.LEAST_DAMPING and result.status.final and not result.status.converged


def test_an_indefinite_hessian_is_a_status_that_names_the_alternative():
    saddle = from_callables(
        2,
        lambda x: float(x[0] ** 2 - x[1] ** 2),
        lambda x: np.array([2.0, -2.0]) * x,
        lambda x, v: np.array([2.0, -2.0]) * v,
    )
    for dense in (True, False):
        result = newton(saddle, np.array([1.0, 1.0]), dense=dense)
        assert result.status is Status.INDEFINITE and "trust_region" in str(result) and result.status.final
    singular = from_callables(
        2, lambda x: 0.5 * x[0] ** 2, lambda x: np.array([x[0], 0.0]), lambda x, v: np.array([v[0], 0.0])
    )
    assert newton(singular, np.ones(2)).status is Status.INDEFINITE
    # Conjugate gradients stay in the range.
    assert newton(singular, np.ones(2), dense=False).x == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize("name", SYSTEMS)
def test_without_a_tolerance_rounding_ends_newton(name):
    j, start = system(name)
    result = nleq_err(j, start, 0.0, max_steps=60)
    assert result.status in (Status.EXHAUSTED, Status.STATIONARY) and len(result.steps) < 40
    assert np.linalg.norm(result.x - nleq_err(j, start, 1e-11).x) <= 1e-11


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_without_a_tolerance_rounding_ends_gauss_newton(noise):
    j, start, _ = decay(noise)
    result = nlscon(j, start, 0.0, max_steps=100)
    assert result.status in (Status.EXHAUSTED, Status.STATIONARY)
    assert np.linalg.norm(j.linearize(result.x).derivative) <= 1e-14


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("name", CONVEX)
def test_without_a_tolerance_rounding_ends_minimization(name, dense):
    j = CONVEX[name]()
    result = newton(j, np.full(8, 3.0), 0.0, dense=dense, max_steps=60)
    assert result.status in (Status.EXHAUSTED, Status.STATIONARY)
    assert np.linalg.norm(j.linearize(result.x).derivative) <= 1e-12


def test_derivatives_that_belong_to_another_functional_are_stagnation():
    wrong = from_callables(2, lambda x: float(x @ x), lambda x: -2.0 * x, lambda x, v: 2.0 * v)
    assert newton(wrong, np.ones(2)).status is Status.STAGNATED


@pytest.mark.parametrize("solve", [nleq_err, nlscon])
def test_wrong_jacobians_end_with_the_least_damping(solve):
    backwards = from_callables(1, residual=lambda x: x - 1.0, jacobian=lambda x: -np.eye(1))
    assert solve(backwards, np.zeros(1)).status is Status.LEAST_DAMPING


EVERY = {
    "nleq_err": nleq_err,
    "nlscon": nlscon,
    "gauss_newton": gauss_newton,
} | {
    f"{'dense' if dense else 'Krylov'} {solve.__name__}{' with the curvature' * curvature}": partial(
        solve, dense=dense, curvature=curvature
    )
    for solve in (newton, trust_region, cubic)
    for dense in (True, False)
    for curvature in (True, False)
}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", EVERY)
def test_what_is_not_finite_is_a_status(name, bad):
    square = from_callables(1, residual=lambda x: np.array([bad]), jacobian=lambda x: np.eye(1))
    slope = from_callables(1, residual=lambda x: x, jacobian=lambda x: np.full((1, 1), bad))
    value = from_callables(1, lambda x: bad, lambda x: x, lambda x, v: v)
    derivative = from_callables(1, lambda x: float(x @ x), lambda x: bad * x, lambda x, v: v)
    hessian = from_callables(1, lambda x: float(x @ x), lambda x: 2.0 * x, lambda x, v: bad * v)
    squares = name in ("nleq_err", "nlscon", "gauss_newton")
    for j in (square, slope) if squares else (value, derivative, hessian):
        with np.errstate(invalid="ignore"):
            result = EVERY[name](j, np.ones(1))
        assert result.status is Status.NOT_FINITE and result.x.tolist() == [1.0] and math.isnan(result.algebraic)


@pytest.mark.parametrize("name", EVERY)
def test_second_derivatives_that_are_lost_on_the_way_are_no_convergence(name):
    start, shift = np.array([3.0, -2.0, 1.0]), np.array([0.3, -0.2, 0.1])

    def broken(x):
        return np.nan if np.linalg.norm(x - shift) < 1.0 else 1.0

    if name in ("nleq_err", "nlscon", "gauss_newton"):
        j = from_callables(
            3,
            residual=lambda x: np.arctan(x - shift),
            jacobian=lambda x: broken(x) * np.diag(1.0 / (1.0 + (x - shift) ** 2)),
        )
    else:
        j = from_callables(
            3,
            lambda x: float(np.sum(np.cosh(x - shift))),
            lambda x: np.sinh(x - shift),
            lambda x, v: broken(x) * np.cosh(x - shift) * v,
        )
    result = EVERY[name](j, start)
    assert result.status is Status.NOT_FINITE and len(result.steps) > 1 and math.isnan(result.algebraic)
    assert np.linalg.norm(result.x - shift) < 1.0


@pytest.mark.parametrize("solve", [trust_region, cubic])
@pytest.mark.parametrize("last", [2, 3, 5])
def test_a_product_that_is_not_finite_spoils_the_krylov_space_wherever_it_comes(solve, last):
    h, products = np.geomspace(1e-3, 1.0, 30), []

    def hessian(x, v):
        products.append(1)
        return (np.nan if len(products) == last else 1.0) * h * v

    j = from_callables(30, lambda x: float(0.5 * x @ (h * x)), lambda x: h * x, hessian)
    result = solve(j, np.ones(30), dense=False, state=State(radius=1e3))
    assert result.status is Status.NOT_FINITE and not result.status.converged


def test_at_a_solution_nothing_is_done():
    parabola = from_callables(1, lambda x: float(x @ x), lambda x: 2.0 * x, lambda x, v: 2.0 * v)
    equations = system("exponentials")[0]
    for solve, functional, x in (
        (nleq_err, equations, nleq_err(equations, np.zeros(3), 1e-13).x),
        (nlscon, decay(0.0)[0], np.array([1.5, 1.3])),
        (newton, parabola, np.zeros(1)),
    ):
        result = solve(functional, x, 1e-10)
        assert result.status.converged and len(result.steps) <= 2 and result.x == pytest.approx(x, abs=1e-12)


def test_relative_tolerances_compare_with_the_start():
    j, start, _ = decay(0.1)
    for result in (nlscon(j, start, relative(1e-4)), newton(logistic(), np.ones(12), relative(1e-4))):
        norms = result.steps.column("dual_norm")
        assert result.status is Status.STATIONARY and norms[-1] <= 1e-4 * norms[0] < norms[-2]


@pytest.mark.parametrize("solve", [newton, trust_region, cubic])
@pytest.mark.parametrize("dense", ["no", 1, 0.0, "auto"])
def test_whether_steps_are_dense_is_a_truth_value(solve, dense):
    with pytest.raises(ValueError, match="^dense: got .*expected True, False, or None for at most 30 coefficients"):
        solve(logistic(), np.zeros(12), dense=dense)
    assert solve(logistic(), np.zeros(12), 1e-3, dense=np.bool_(True)).status.converged


def test_up_to_thirty_coefficients_corrections_are_exact():
    for n, exact in ((30, True), (31, False)):
        h = np.linspace(1.0, 2.0, n)
        j = from_callables(n, lambda x, h=h: float(0.5 * x @ (h * x)), lambda x, h=h: h * x, lambda x, v, h=h: h * v)
        default, dense = newton(j, np.ones(n), 1e-2), newton(j, np.ones(n), 1e-2, dense=exact)
        assert np.array_equal(default.x, dense.x) and default.steps[-1].work == dense.steps[-1].work


def test_wrong_functionals_are_refused(vector_problem, vector_space, monkeypatch):
    tall, start, _ = decay(0.0)
    with pytest.raises(ValueError, match="^functional: got 12 equations in 2 coefficients.*try nlscon"):
        nleq_err(tall, start)
    wide = from_callables(2, residual=lambda x: x[:1], jacobian=lambda x: np.eye(1, 2))
    with pytest.raises(ValueError, match="^functional: got 1 residuals in 2 coefficients"):
        nlscon(wide, start)
    for solve in (nleq_err, nlscon):
        with pytest.raises(ValueError, match="^functional: got one that is no sum of squares.*trust_region"):
            solve(logistic(), np.zeros(12))
    on_device = dataclasses.replace(vector_problem, backend="device").on(vector_space)
    with pytest.raises(ValueError, match="^functional: got one with rows on a device"):
        nlscon(on_device, vector_space.initial(0))
    monkeypatch.setattr(rows, "DENSE", 0)
    large = dataclasses.replace(vector_problem, backend="compiled").on(vector_space)
    with pytest.raises(ValueError, match="^functional: got one with rows that were compressed.*try gauss_newton"):
        nlscon(large, vector_space.initial(0))


def test_an_archive_holds_what_is_needed_to_go_on(scalar_problem, space, tmp_path):
    start = space.initial(0)
    J = Sum(scalar_problem.on(space), Tikhonov(space, Euclidean, 1e-3))
    for solve in (nlscon, newton):
        options = {"curvature": True} if solve is newton else {}
        whole = solve(J, start, 0.0, max_steps=8, **options)
        path = tmp_path / f"{solve.__name__}.h5"
        archive = fem.Archive.open(path, scalar_problem, space, start)
        solve(J, start, 0.0, max_steps=4, observer=archive, **options)
        again = fem.Archive.open(path, scalar_problem, space, start).level
        result = solve(J, again.x, 0.0, max_steps=8, state=again.state, **options)
        assert np.array_equal(result.x, whole.x) and len(result.steps) == 9


def test_a_radius_in_the_state_plays_no_role():
    j, start = system("arctangents")
    assert np.array_equal(nleq_err(j, start, state=State(radius=1.0)).x, nleq_err(j, start).x)
