"""Solvers: oracles for the inner steps, honest stopping reasons, invariance, and resuming bit for bit."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, strategies as st

from dnnfem.functionals import Composed, Shifted, Sum, Tikhonov, condense, from_callables
from dnnfem.functionals.algebra import CombinedLinearization
from dnnfem.norms import Euclidean, Weighted
from dnnfem.problems import Regression
from dnnfem.records import Interrupted, State, Status, relative
from dnnfem.solvers import (
    composite_step,
    cubic,
    gauss_newton,
    more_sorensen,
    multilevel,
    newton,
    nleq_err,
    nlscon,
    steihaug,
    trust_region,
)
from dnnfem.solvers.dense import DEFECT, _loss, definite
from dnnfem.solvers.gauss_newton import FACTOR, GROWTHS
from dnnfem.spaces import Coordinates, FeedforwardSpace, Transfer
from dnnfem.testing import convergence_order

NORMS = {
    "Euclidean": lambda n: Euclidean(Coordinates(n)),
    "weighted": lambda n: Weighted(Coordinates(n), np.geomspace(0.1, 10.0, n)),
}


def symmetric(eigenvalues, seed=0):
    """Return a symmetric matrix with the given eigenvalues."""
    n = len(eigenvalues)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    return (basis * eigenvalues) @ basis.T


def model(matrix, derivative, d):
    """Return the value of a quadratic model."""
    return float(derivative @ d + 0.5 * d @ matrix @ d)


# Truncated conjugate gradients


@pytest.mark.parametrize("name", NORMS)
@given(st.integers(1, 8), st.integers(0, 1000))
def test_conjugate_gradients_reach_the_dense_solution(name, n, seed):
    matrix = symmetric(np.linspace(1.0, 30.0, n), seed)
    derivative = np.random.default_rng(seed).standard_normal(n)
    result = steihaug(lambda v: matrix @ v, derivative, NORMS[name](n), np.inf, 1e-12, 20 * n)
    expected = -np.linalg.solve(matrix, derivative)
    assert result.step == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert result.decrease == pytest.approx(-model(matrix, derivative, expected), rel=1e-10)
    assert not result.boundary and not result.negative


@pytest.mark.parametrize("name", NORMS)
@given(st.integers(2, 8), st.floats(1e-3, 0.5), st.booleans(), st.integers(0, 1000))
def test_truncated_steps_end_on_the_boundary_and_beat_the_cauchy_point(name, n, share, indefinite, seed):
    norm = NORMS[name](n)
    matrix = symmetric(np.geomspace(1.0, 30.0, n) * np.where(indefinite & (np.arange(n) == 0), -5.0, 1.0), seed)
    derivative = np.random.default_rng(seed).standard_normal(n)
    descent = norm.riesz(derivative)
    radius = share * norm.norm(np.linalg.solve(matrix, derivative))
    result = steihaug(lambda v: matrix @ v, derivative, norm, radius, 1e-12, 10 * n)
    assert result.boundary and norm.norm(result.step) == pytest.approx(radius, rel=1e-9)
    assert result.decrease == pytest.approx(-model(matrix, derivative, result.step), rel=1e-8, abs=1e-12)
    bend = descent @ matrix @ descent
    longest = radius / norm.norm(descent)
    length = min(longest, derivative @ descent / bend) if bend > 0 else longest
    assert result.decrease >= -model(matrix, derivative, -length * descent) * (1 - 1e-9)


def test_negative_curvature_is_reported_and_followed_to_the_boundary():
    result = steihaug(lambda v: -v, np.array([1.0, 2.0]), NORMS["Euclidean"](2), 3.0, 1e-3, 10)
    assert result.negative and result.boundary and result.iterations == 1
    assert result.step == pytest.approx(-3.0 * np.array([1.0, 2.0]) / np.sqrt(5.0))


def test_accuracy_buys_iterations():
    matrix = symmetric(np.geomspace(1e-3, 1.0, 30))
    derivative = np.ones(30)
    runs = [
        steihaug(lambda v: matrix @ v, derivative, NORMS["Euclidean"](30), np.inf, a, 200) for a in (0.3, 1e-2, 1e-6)
    ]
    assert runs[0].iterations < runs[1].iterations < runs[2].iterations
    assert runs[0].decrease < runs[1].decrease < runs[2].decrease


def test_no_derivative_no_step_and_at_most_as_many_products_as_allowed():
    norm = NORMS["Euclidean"](3)
    assert steihaug(lambda v: v, np.zeros(3), norm, 1.0, 1e-3, 10).iterations == 0
    matrix = symmetric(np.array([1.0, 10.0, 100.0]))
    assert steihaug(lambda v: matrix @ v, np.ones(3), norm, np.inf, 1e-12, 2).iterations == 2
    assert not steihaug(lambda v: -v, np.ones(3), norm, np.inf, 1e-3, 10).step.any()


# Moré and Sorensen

SPECTRA = {
    "definite": [1.0, 2.0, 5.0, 9.0],
    "indefinite": [-3.0, -1.0, 2.0, 4.0],
    "negative": [-4.0, -3.0, -2.0, -1.0],
    "singular": [0.0, 1.0, 2.0, 3.0],
    "zero": [0.0, 0.0, 0.0, 0.0],
    "double": [-2.0, -2.0, 1.0, 1.0],
    "ill-conditioned": [1e-9, 1e-3, 1.0, 1e3],
}


def check_global(matrix, derivative, norm, radius, result, tolerance=1e-7):
    """Assert that a step minimizes the model globally: (H + lambda M) d = -g with H + lambda M >= 0."""
    d = result.step
    length = norm.norm(d)
    assert length <= radius * (1 + 1e-8)
    metric = norm.root().T @ norm.root()
    scale = np.abs(matrix).max() * length + np.abs(derivative).max()
    multiplier = max(0.0, -float((matrix @ d + derivative) @ d) / length**2) if result.boundary else 0.0
    assert np.abs(matrix @ d + derivative + multiplier * metric @ d).max() <= tolerance * scale
    white = norm.whiten(norm.whiten(matrix).T)
    assert np.linalg.eigvalsh(white)[0] + multiplier >= -tolerance * max(1.0, np.abs(white).max())
    if result.boundary:
        assert length == pytest.approx(radius, rel=1e-7)
    assert result.decrease == pytest.approx(-model(matrix, derivative, d), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("spectrum", SPECTRA)
@given(st.floats(-3.0, 3.0), st.integers(0, 1000))
def test_dense_steps_are_global_minimizers(spectrum, name, exponent, seed):
    matrix = symmetric(np.array(SPECTRA[spectrum]), seed)
    derivative = np.random.default_rng(seed + 1).standard_normal(4)
    norm = NORMS[name](4)
    result = more_sorensen(matrix, derivative, norm, 10.0**exponent)
    check_global(matrix, derivative, norm, 10.0**exponent, result)


@pytest.mark.parametrize("spectrum", ["indefinite", "negative", "double"])
@given(st.floats(0.0, 3.0), st.sampled_from([0.0, 1e-16, 1e-13, 1e-8, 1e-3]), st.integers(0, 1000))
def test_the_hard_case_and_those_near_to_it_go_along_a_lowest_eigenvector(spectrum, exponent, share, seed):
    matrix = symmetric(np.array(SPECTRA[spectrum]), seed)
    values, vectors = np.linalg.eigh(matrix)
    load = np.random.default_rng(seed).standard_normal(4)
    derivative = vectors @ (np.where(values <= values[0] + 1e-9, share, 1.0) * load)
    norm, radius = NORMS["Euclidean"](4), 10.0**exponent
    result = more_sorensen(matrix, derivative, norm, radius)
    check_global(matrix, derivative, norm, radius, result)
    assert result.boundary and result.negative
    interior = np.where(
        values <= values[0] + 1e-9, 0.0, load / np.where(values > values[0] + 1e-9, values - values[0], 1.0)
    )
    if share <= 1e-8 and np.linalg.norm(interior) < 0.5 * radius:
        assert np.linalg.norm(vectors.T[values <= values[0] + 1e-9] @ result.step) > 0.8 * radius


def test_a_saddle_without_derivative_is_left_along_negative_curvature():
    result = more_sorensen(np.diag([1.0, -2.0]), np.zeros(2), NORMS["Euclidean"](2), 3.0)
    assert np.abs(result.step) == pytest.approx([0.0, 3.0])
    assert result.decrease == pytest.approx(9.0) and result.negative


@given(st.integers(0, 1000), st.integers(1, 3), st.booleans())
def test_flat_directions_are_left_alone(seed, nullity, rotated):
    eigenvalues = np.array([0.0] * nullity + [1.0, 2.0, 3.0])
    n = len(eigenvalues)
    matrix = symmetric(eigenvalues, seed) if rotated else np.diag(eigenvalues)
    derivative = matrix @ np.random.default_rng(seed).standard_normal(n)
    result = more_sorensen(matrix, derivative, NORMS["Euclidean"](n), 1e3)
    assert result.step == pytest.approx(-np.linalg.pinv(matrix, rcond=1e-10) @ derivative, abs=1e-8)
    assert not result.boundary and not result.negative


# Trust regions


def classical():
    """Return classical functions of two variables: value, derivative, Hessian, start, minimum."""
    return {
        "Rosenbrock": (
            lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2,
            lambda x: np.array([-400 * x[0] * (x[1] - x[0] ** 2) - 2 * (1 - x[0]), 200 * (x[1] - x[0] ** 2)]),
            lambda x: np.array([[1200 * x[0] ** 2 - 400 * x[1] + 2, -400 * x[0]], [-400 * x[0], 200.0]]),
            [-1.2, 1.0],
            0.0,
        ),
        "Himmelblau": (
            lambda x: (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2,
            lambda x: np.array(
                [
                    4 * x[0] * (x[0] ** 2 + x[1] - 11) + 2 * (x[0] + x[1] ** 2 - 7),
                    2 * (x[0] ** 2 + x[1] - 11) + 4 * x[1] * (x[0] + x[1] ** 2 - 7),
                ]
            ),
            lambda x: np.array(
                [
                    [12 * x[0] ** 2 + 4 * x[1] - 42, 4 * (x[0] + x[1])],
                    [4 * (x[0] + x[1]), 12 * x[1] ** 2 + 4 * x[0] - 26],
                ]
            ),
            [-0.2, -0.9],
            0.0,
        ),
        "a degenerate valley": (
            lambda x: x[0] ** 2 + x[1] ** 4,
            lambda x: np.array([2 * x[0], 4 * x[1] ** 3]),
            lambda x: np.diag([2.0, 12 * x[1] ** 2]),
            [3.0, 2.0],
            0.0,
        ),
        "a double well": (
            lambda x: 0.25 * x[0] ** 4 - 0.5 * x[0] ** 2 + 0.5 * x[1] ** 2,
            lambda x: np.array([x[0] ** 3 - x[0], x[1]]),
            lambda x: np.diag([3 * x[0] ** 2 - 1, 1.0]),
            [1e-8, 1.0],
            -0.25,
        ),
    }


def functional(name):
    """Return a classical functional, its start and its minimum."""
    value, derivative, hessian, start, minimum = classical()[name]
    return from_callables(2, value, derivative, lambda x, v: hessian(x) @ v), np.array(start), minimum


@pytest.mark.parametrize("solve", [trust_region, cubic])
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("name", list(classical()))
def test_newton_methods_find_the_minimum_of_classical_functions(name, dense, solve):
    j, start, minimum = functional(name)
    result = solve(j, start, dense=dense, max_steps=200)
    assert result.status.converged
    assert result.value == pytest.approx(minimum, abs=1e-15)
    values = result.steps.column("value")
    assert (np.diff(values) <= 1e-15).all()


@pytest.mark.parametrize("solve", [trust_region, cubic])
@pytest.mark.parametrize("dense", [True, False])
def test_newton_methods_leave_the_neighbourhood_of_a_saddle(dense, solve):
    j, start, _ = functional("a double well")
    assert j.linearize(start).hessian(np.array([1.0, 0.0]))[0] < 0
    result = solve(j, start, dense=dense)
    assert abs(result.x[0]) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize(
    ("start", "tolerance"),
    [((0.0, 0.0), 1e-10), ((0.0, 0.0), relative(1e-8)), ((0.0, 0.7), 1e-10), ((0.0, 0.7), relative(1e-8))],
)
def test_a_solve_does_not_end_at_a_saddle(start, tolerance):
    """Without a derivative, or with one along the way to the saddle, Krylov spaces see no way down."""
    j, _, _ = functional("a double well")
    result = trust_region(j, np.array(start), tolerance)
    assert result.status.converged and abs(result.x[0]) == pytest.approx(1.0, rel=1e-6)
    assert trust_region(j, np.array(start), tolerance, dense=False).x[0] == 0.0


def test_newtons_method_ends_quadratically():
    j, start, _ = functional("Rosenbrock")
    norms = trust_region(j, start, tolerance=1e-14).steps.column("dual_norm")
    last = norms[norms > 1e-12][-3:]
    assert last[2] < 1e-3 * last[1] and last[1] < 0.5 * last[0]


def test_the_curvature_alone_serves_where_the_hessian_is_indefinite(scalar_problem, space):
    j = Sum(scalar_problem.on(space), Tikhonov(space, Euclidean, 1e-3))
    result = trust_region(j, space.initial(0), tolerance=1e-6, curvature=True, max_steps=300)
    assert result.status.converged
    assert np.linalg.norm(j.linearize(result.x).derivative) < 1e-5


@pytest.mark.parametrize("solve", [trust_region, cubic])
def test_a_singular_hessian_does_not_let_the_iterate_drift(solve):
    flat = from_callables(
        3, lambda x: 0.5 * x[0] ** 2, lambda x: np.array([x[0], 0, 0]), lambda x, v: np.array([v[0], 0, 0])
    )
    for dense in (True, False):
        result = solve(flat, np.array([1.0, 2.0, 3.0]), dense=dense)
        assert result.status.converged and result.x == pytest.approx([0.0, 2.0, 3.0], abs=1e-12)


@pytest.mark.parametrize(("solve", "column"), [(trust_region, "radius"), (cubic, "omega")])
@pytest.mark.parametrize("dense", [True, False])
def test_a_change_of_variables_changes_nothing_if_the_norm_changes_along(dense, solve, column):
    j, start, _ = functional("Himmelblau")
    scale = np.array([100.0, 0.1])
    moved = from_callables(
        2,
        lambda y: j.value(y / scale),
        lambda y: j.linearize(y / scale).derivative / scale,
        lambda y, v: j.linearize(y / scale).hessian(v / scale) / scale,
    )
    plain = solve(j, start, dense=dense)
    other = solve(moved, start * scale, dense=dense, norm=Weighted(Coordinates(2), scale**-2.0))
    assert len(plain.steps) == len(other.steps)
    assert other.x / scale == pytest.approx(plain.x, rel=1e-9)
    assert other.steps.column(column) == pytest.approx(plain.steps.column(column), rel=1e-6)


def test_both_solvers_agree_on_a_convex_problem(vector_problem):
    space = FeedforwardSpace(2, (2,), 2)
    j = Sum(vector_problem.on(space), Tikhonov(space, Euclidean, 0.5))
    first = trust_region(j, space.initial(0), tolerance=1e-12)
    second = gauss_newton(j, space.initial(0), tolerance=1e-12, condensed=False)
    third = gauss_newton(j, space.initial(0), tolerance=1e-12)
    for result in (second, third):
        assert result.value == pytest.approx(first.value, rel=1e-12)
        assert np.abs(np.abs(result.x) - np.abs(first.x)).max() < 1.0


@pytest.mark.parametrize("name", NORMS)
@given(st.integers(1, 8), st.floats(1e-3, 3.0), st.sampled_from([0.0, 1e-9, 1.0, 1e9]), st.integers(0, 1000))
def test_cholesky_steps_are_those_of_the_eigenvalues_to_a_quarter_of_the_radius(name, n, share, start, seed):
    norm = NORMS[name](n)
    matrix = symmetric(np.geomspace(0.1, 30.0, n), seed)
    derivative = np.random.default_rng(seed).standard_normal(n)
    radius = share * norm.norm(np.linalg.solve(matrix, derivative))
    step = definite(matrix, derivative, norm, radius, start)
    length = norm.norm(step.step)
    assert step.boundary == (step.multiplier > 0.0)
    assert length <= 1.25 * radius * (1 + 1e-9) and (not step.boundary or length >= 0.75 * radius * (1 - 1e-9))
    assert step.decrease == pytest.approx(-model(matrix, derivative, step.step), rel=1e-9)
    # It is the best one of its length, and the multiplier says why.
    assert matrix @ step.step + step.multiplier * norm.apply(step.step) == pytest.approx(-derivative, abs=1e-8)
    best = more_sorensen(matrix, derivative, norm, length)
    assert step.step == pytest.approx(best.step, rel=1e-6, abs=1e-9 * length)


class Counted(Euclidean):
    """A norm that counts how often it is asked for its matrix: once for every factorization."""

    def __init__(self, space):
        super().__init__(space)
        object.__setattr__(self, "count", 0)

    def dense(self, onto=None, factor=1.0):
        object.__setattr__(self, "count", self.count + 1)
        return super().dense(onto, factor)


@given(st.floats(1e-6, 1.0), st.integers(2, 30), st.integers(0, 1000))
def test_a_few_factorizations_find_the_multiplier_and_one_does_from_the_right_one(share, n, seed):
    matrix, derivative = symmetric(np.geomspace(1e-10, 1.0, n), seed), np.random.default_rng(seed).standard_normal(n)
    radius = share * np.linalg.norm(np.linalg.solve(matrix, derivative))
    norm = Counted(Coordinates(n))
    step = definite(matrix, derivative, norm, radius)
    assert norm.count <= 10
    again = Counted(Coordinates(n))
    assert definite(matrix, derivative, again, radius, step.multiplier).step == pytest.approx(step.step, rel=1e-12)
    assert again.count == 1


@pytest.mark.parametrize("share", [1e-3, 0.1, 0.5])
def test_what_the_rounding_of_a_matrix_takes_from_a_step_is_estimated(share):
    ratios = []
    for seed in range(40):
        random, n = np.random.default_rng(seed), 30
        exact = symmetric(np.geomspace(1e-3, 1.0, n), seed)
        roots = np.sqrt(np.diagonal(exact))
        noise = np.triu(random.choice([-1.0, 1.0], (n, n)) * np.outer(roots, roots))
        matrix = exact + 1e-7 * (noise + np.triu(noise, 1).T)
        derivative, norm = random.standard_normal(n), Euclidean(Coordinates(n))
        step = definite(matrix, derivative, norm, share * np.linalg.norm(np.linalg.solve(exact, derivative)))
        shifted = exact + step.multiplier * np.eye(n)
        lost = step.step + np.linalg.solve(shifted, derivative)
        size, whole = np.sqrt(lost @ shifted @ lost), np.sqrt(-derivative @ step.step)
        ratios.append(1e-7 * _loss(matrix, step.factor, step.step) / size)
        # The step is refused where its rounding matters, and only there.
        critical = DEFECT * whole / _loss(matrix, step.factor, step.step)
        for rounding, known in ((0.5 * critical, True), (2.0 * critical, False)):
            found = definite(matrix, derivative, norm, norm.norm(step.step), step.multiplier, rounding)
            assert (found is not None) == known
    assert 0.7 <= np.median(ratios) <= 1.4 and min(ratios) >= 0.2 and max(ratios) <= 5.0


def test_neighbours_that_cancel_do_not_hide_from_the_estimate_of_rounding():
    for sign in (-1.0, 1.0):
        random = np.random.default_rng(0)
        rows = np.repeat(random.standard_normal((500, 5)), 2, axis=1) + 2e-3 * random.standard_normal((500, 10))
        rows[:, 1::2] *= sign
        single = rows.astype(np.float32)
        exact, matrix = rows.T @ rows, (single.T @ single).astype(np.float64)
        derivative, norm = random.standard_normal(10), Euclidean(Coordinates(10))
        step = definite(matrix, derivative, norm, 1e6)
        lost = step.step + np.linalg.solve(exact, derivative)
        assert np.finfo(np.float32).eps * _loss(matrix, step.factor, step.step) >= 0.3 * np.sqrt(lost @ exact @ lost)


@pytest.fixture
def asked(monkeypatch):
    """Return a list that says of every matrix that was asked for whether single precision was enough."""
    precisions, gram = [], CombinedLinearization.gram

    def recorded(self, single=False):
        precisions.append(single)
        return gram(self, single)

    monkeypatch.setattr(CombinedLinearization, "gram", recorded)
    return precisions


def test_steps_come_from_double_where_single_precision_is_too_rough(asked, vector_problem):
    space = FeedforwardSpace(2, (12,), 2)
    problem = dataclasses.replace(vector_problem, backend="compiled")
    for alpha, often in ((1e-2, False), (1e-8, True)):
        asked.clear()
        J = Sum(problem.on(space), Tikhonov(space, Euclidean, alpha))
        result = trust_region(J, space.initial(0), 1e-7, curvature=True, max_steps=100)
        assert (asked.count(False) > 0.1 * len(result.steps)) == often
        assert asked.count(False) <= len(result.steps)


def test_a_multiplier_that_limits_the_step_is_no_interior_step():
    for seed in range(5):
        # Residuals of equal size along all directions ask for steps of up to 1e11.
        rows = symmetric(np.geomspace(1e-11, 1.0, 40), seed)
        derivative = rows.T @ np.random.default_rng(seed).standard_normal(40)
        step = definite(rows.T @ rows, derivative, Euclidean(Coordinates(40)), 1e9)
        assert step.multiplier > 0.0 and step.boundary


def test_where_double_precision_was_needed_it_comes_first_and_a_resumed_run_knows(asked, vector_problem):
    space = FeedforwardSpace(2, (12,), 2)
    J = Sum(dataclasses.replace(vector_problem, backend="compiled").on(space), Tikhonov(space, Euclidean, 1e-10))
    shown = []
    whole = trust_region(J, space.initial(0), 0.0, curvature=True, max_steps=40, observer=shown.append)
    # Without a memory there would be two matrices for most steps.
    assert asked.count(False) > 0.5 * len(whole.steps) and len(asked) < 1.3 * len(whole.steps)
    rough = [snapshot for snapshot in shown[:-1] if snapshot.state.progress.memory]
    for snapshot in (rough[0], rough[-1]):
        again = trust_region(J, space.initial(0), 0.0, curvature=True, max_steps=40, state=snapshot.state)
        assert np.array_equal(again.x, whole.x)


def test_no_step_of_gauss_newton_enlarges_the_radius_without_end():
    # All promises are kept on a plateau that falls ever more slowly.
    flat = from_callables(
        1, residual=lambda x: np.array([1.0 / (2.0 + x[0])]), jacobian=lambda x: np.array([[-1.0 / (2.0 + x[0]) ** 2]])
    )
    result = gauss_newton(flat, np.array([1.0]), 0.0, max_steps=5)
    radii = result.steps.column("radius")
    assert np.all(radii[1:] <= FACTOR**GROWTHS * radii[:-1])


def test_cholesky_steps_leave_indefinite_matrices_to_the_eigenvalues():
    for lowest in (-1.0, -1e-9, np.nan):
        matrix = np.diag([lowest, 1.0, 2.0])
        assert definite(matrix, np.ones(3), Euclidean(Coordinates(3)), 1.0) is None


@pytest.mark.parametrize("name", NORMS)
@given(st.integers(3, 20), st.integers(1, 10), st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_semidefinite_matrices_have_cholesky_steps(name, n, rank, radius, seed):
    rows, norm = np.random.default_rng(seed).standard_normal((min(rank, n), n)), NORMS[name](n)
    matrix, derivative = rows.T @ rows, rows.T @ np.ones(len(rows))
    step = definite(matrix, derivative, norm, radius)
    best = more_sorensen(matrix, derivative, norm, radius)
    # The multiplier takes at most a quarter off the radius, and nothing but rounding where there is no need of one.
    assert norm.norm(step.step) <= 1.25 * radius * (1 + 1e-9)
    assert step.boundary == best.boundary or norm.norm(best.step) == pytest.approx(radius, rel=0.3)
    if not step.boundary:
        assert step.decrease == pytest.approx(0.5 * len(rows), rel=1e-6)


def test_one_correction_raises_the_order_to_three():
    mix = np.array([[2.0, 0.3, -0.2], [0.1, 1.5, 0.4], [-0.3, 0.2, 1.0]])

    def residual(x):
        return mix @ x + np.array([x[0] * x[1], np.sin(x[2]) * x[0], np.expm1(x[1]) - x[1]])

    def jacobian(x):
        rows = [[x[1], x[0], 0.0], [np.sin(x[2]), 0.0, x[0] * np.cos(x[2])], [0.0, np.expm1(x[1]), 0.0]]
        return mix + np.array(rows)

    j, direction = from_callables(3, residual=residual, jacobian=jacobian), np.array([1.0, -0.7, 0.8])
    state, sizes = State(radius=1e3), 0.2 * 0.5 ** np.arange(5)
    errors = [
        np.linalg.norm(trust_region(j, h * direction, 0.0, curvature=True, state=state, max_steps=1).x) for h in sizes
    ]
    starts = [h * direction for h in sizes]
    newton = [np.linalg.norm(x - np.linalg.solve(jacobian(x), residual(x))) for x in starts]
    assert convergence_order(sizes, errors)[-1] == pytest.approx(3.0, abs=0.2)
    assert convergence_order(sizes, newton)[-1] == pytest.approx(2.0, abs=0.2)


def test_levenberg_marquardt_does_not_depend_on_the_units_of_coefficients():
    scale = np.array([1e3, 1e-3])
    residual = rosenbrock()
    moved = from_callables(
        2,
        residual=lambda y: residual.linearize(y / scale).residual(),
        jacobian=lambda y: residual.linearize(y / scale).system().matrix / scale,
    )
    start = np.array([-1.2, 1.0])

    def scaled(units):
        return lambda space, here: Weighted(space, np.maximum(np.diagonal(here.gram()), 1e-3 / units**2))

    plain = trust_region(residual, start, curvature=True, norm=scaled(np.ones(2)))
    other = trust_region(moved, start * scale, curvature=True, norm=scaled(scale))
    assert plain.status.converged and plain.x == pytest.approx([1.0, 1.0], abs=1e-8)
    assert len(plain.steps) == len(other.steps)
    assert other.x / scale == pytest.approx(plain.x, rel=1e-6)


def test_a_class_in_place_of_a_norm_is_refused():
    with pytest.raises(ValueError, match=r"^norm: got <class .*Euclidean'>, expected a norm or a rule \(space, lin"):
        trust_region(rosenbrock(), np.zeros(2), norm=Euclidean)


# Gauss-Newton


def rosenbrock(rotation=None):
    """Return Rosenbrock's function as a sum of squares, its residuals perhaps rotated."""
    q = np.eye(2) if rotation is None else rotation
    return from_callables(
        2,
        residual=lambda x: q @ np.array([10 * (x[1] - x[0] ** 2), 1 - x[0]]),
        jacobian=lambda x: q @ np.array([[-20 * x[0], 10.0], [-1.0, 0.0]]),
    )


def test_gauss_newton_decreases_the_value_in_every_step(vector_problem, vector_space):
    result = gauss_newton(vector_problem.on(vector_space), vector_space.initial(0), max_steps=20)
    assert (np.diff(result.steps.column("value")) < 0).all()
    assert vector_problem.on(vector_space).value(result.x) == pytest.approx(result.value, rel=1e-7)
    assert result.x.shape == (vector_space.dim,)


@pytest.mark.parametrize("seed", range(3))
def test_a_teacher_network_is_recovered_quadratically(seed):
    space = FeedforwardSpace(2, (3,), 1)
    random = np.random.default_rng(seed)
    teacher = space.initial(seed)
    inputs = random.uniform(-1, 1, (40, 2))
    inputs[:4] = [[-1, -1], [-1, 1], [1, -1], [1, 1]]
    from_teacher = Regression(inputs, random.standard_normal(40), backend="reference").solution(space, teacher)
    problem = Regression(inputs, from_teacher(inputs)[:, 0], backend="reference")
    start = teacher + 0.03 * random.standard_normal(space.dim)
    result = gauss_newton(problem.on(space), start, tolerance=1e-14, max_steps=60)
    assert result.value < 1e-15
    norms = result.steps.column("value")[:-1]
    rates = norms[1:] / norms[:-1]
    assert rates.min() < 1e-3 and problem.solution(space, result.x)(inputs)[:, 0] == pytest.approx(
        problem.targets[:, 0], abs=1e-6
    )


def test_gauss_newton_finds_the_minimum_of_rosenbrocks_function():
    result = gauss_newton(rosenbrock(), np.array([-1.2, 1.0]))
    assert result.status.converged and result.x == pytest.approx([1.0, 1.0], abs=1e-8)


@given(st.integers(0, 1000))
def test_gauss_newton_is_invariant_under_orthogonal_maps_of_the_residual(seed):
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((2, 2)))
    start = np.array([-1.2, 1.0])
    plain, rotated = gauss_newton(rosenbrock(), start), gauss_newton(rosenbrock(rotation), start)
    count = min(len(plain.steps), len(rotated.steps)) - 2
    for name in ("value", "length", "radius"):
        left, right = plain.steps.column(name)[1:count], rotated.steps.column(name)[1:count]
        assert right == pytest.approx(left, rel=1e-5, abs=1e-12)
    assert rotated.x == pytest.approx(plain.x, abs=1e-8)


def test_the_condensable_part_of_the_start_plays_no_role(scalar_problem, space):
    j = scalar_problem.on(space)
    x = space.initial(0)
    other = x.copy()
    other[space.condensable.ravel()] = 100.0
    left, right = (gauss_newton(j, start, max_steps=5) for start in (x, other))
    assert np.array_equal(left.x, right.x)


def test_a_linear_least_squares_problem_takes_one_long_enough_step():
    random = np.random.default_rng(0)
    a, b = random.standard_normal((8, 3)), random.standard_normal(8)
    j = from_callables(3, residual=lambda x: a @ x - b, jacobian=lambda x: a)
    result = gauss_newton(j, np.zeros(3), state=State(radius=1e6))
    assert result.x == pytest.approx(np.linalg.lstsq(a, b, rcond=None)[0], rel=1e-10)
    assert result.steps[-1].number <= 2


# Stopping


def constrained(functional, x, *tolerance, **more):
    """Minimize where the product of the first two coefficients is one."""
    dim = functional.space.dim
    constraints = from_callables(
        dim,
        residual=lambda x: np.array([x[0] * x[1] - 1.0]),
        jacobian=lambda x: np.array([[x[1], x[0], *np.zeros(dim - 2)]]),
    )
    return composite_step(functional, constraints, x, *tolerance, **more)


def two_levels(functional, x, *tolerance, **more):
    """Minimize with the help of a random subspace of half the dimension."""
    dim = functional.space.dim
    matrix = np.random.default_rng(0).standard_normal((dim, (dim + 1) // 2))
    P = Transfer(sp.csr_array(matrix), np.zeros(dim))
    return multilevel([Composed(functional, P), functional], [P], x, *tolerance, **more)


ALL = [trust_region, cubic, gauss_newton, newton, nleq_err, nlscon, constrained, two_levels]
"""Solvers that end the same ways; the minimum, or the root, is at (1, 1)."""


def far(solve):
    """Return a functional that suits a solver, and a start that is some steps away."""
    if solve in (nleq_err, nlscon):
        return arctangents(), np.array([30.0, -20.0])
    j = rosenbrock() if solve is gauss_newton else functional("Rosenbrock")[0]
    return j, np.array([20.0, 0.1] if solve is constrained else [-1.2, 1.0])


def arctangents():
    """Return equations whose Newton corrections are far too long, far away from the root."""
    mix = np.array([[2.0, 0.3], [-0.5, 1.0]])
    return from_callables(
        2, residual=lambda x: mix @ np.arctan(x - 1.0), jacobian=lambda x: mix / (1.0 + (x - 1.0) ** 2)
    )


def test_reaching_the_tolerance_is_convergence():
    for tolerance in (1e-2, 1e-6):
        result = gauss_newton(rosenbrock(), np.array([-1.2, 1.0]), tolerance)
        assert result.status is Status.CONVERGED
        assert result.algebraic <= tolerance and np.sqrt(2 * result.value) <= 2 * tolerance


@pytest.mark.parametrize("solve", ALL)
def test_a_relative_tolerance_compares_dual_norms_with_the_start(solve):
    result = solve(*far(solve), relative(1e-3))
    norms = result.steps.column("dual_norm")
    assert result.status is Status.STATIONARY
    assert norms[-1] <= 1e-3 * norms[0] and (norms[1:-1] > 1e-3 * norms[0]).all()


@pytest.mark.parametrize("solve", ALL)
def test_a_stationary_start_is_returned_at_once(solve):
    result = solve(far(solve)[0], np.array([1.0, 1.0]))
    assert result.status is Status.STATIONARY and len(result.steps) == 1


@pytest.mark.parametrize("solve", ALL)
def test_limits_are_statuses(solve):
    j, start = far(solve)
    assert solve(j, start, max_seconds=0.0).status is Status.TIME_LIMIT
    assert solve(j, start, max_steps=0).status is Status.STEP_LIMIT
    result = solve(j, start, max_steps=3)
    assert result.status is Status.STEP_LIMIT and [s.number for s in result.steps] == [0, 1, 2, 3]
    assert not result.status.converged and not result.status.final


def test_without_a_tolerance_rounding_ends_the_iteration():
    j = from_callables(1, residual=lambda x: np.array([x[0], 1.0]), jacobian=lambda x: np.array([[1.0], [0.0]]))
    result = gauss_newton(j, np.array([1.0]), 0.0)
    assert result.status.converged and result.value == pytest.approx(0.5, rel=1e-14)


def test_steps_that_never_decrease_are_stagnation():
    wrong = from_callables(2, lambda x: float(x @ x), lambda x: -2 * x, lambda x, v: 2 * v)
    for solve in (trust_region, cubic):
        result = solve(wrong, np.array([1.0, 1.0]))
        assert result.status is Status.STAGNATED and not result.status.converged
    backwards = from_callables(1, residual=lambda x: x, jacobian=lambda x: -np.eye(1))
    assert gauss_newton(backwards, np.array([1.0])).status is Status.STAGNATED


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_start_that_is_not_finite_is_a_status(bad):
    value = from_callables(1, lambda x: bad, lambda x: x, lambda x, v: v)
    square = from_callables(1, residual=lambda x: np.array([bad]), jacobian=lambda x: np.eye(1))
    for result in (trust_region(value, np.ones(1)), cubic(value, np.ones(1)), gauss_newton(square, np.ones(1))):
        assert result.status is Status.NOT_FINITE and result.x.tolist() == [1.0] and result.status.final


def test_a_derivative_that_is_not_finite_is_no_convergence():
    broken = from_callables(1, lambda x: float(x @ x), lambda x: x * np.nan, lambda x, v: v)
    for dense in (True, False):
        for solve in (trust_region, cubic):
            assert not solve(broken, np.ones(1), dense=dense).status.converged


@pytest.mark.parametrize("solve", [trust_region, cubic, gauss_newton, newton, nlscon])
def test_rules_for_the_norm_are_not_asked_where_the_derivative_is_not_finite(solve):
    square = from_callables(2, residual=lambda x: x - 1.0, jacobian=lambda x: np.full((2, 2), np.nan))
    plain = from_callables(2, lambda x: float(x @ x), lambda x: np.nan * x, lambda x, v: 2.0 * v)

    def rule(space, here):
        raise ZeroDivisionError(f"{here.derivative}")

    J = square if solve in (gauss_newton, nlscon) else plain
    assert solve(J, np.zeros(2), norm=rule).status is Status.NOT_FINITE


@pytest.mark.parametrize("solve", [trust_region, cubic, gauss_newton, newton, nlscon])
def test_trial_points_that_are_not_finite_are_rejected(solve):
    def barrier(x):
        return np.array([x[0], np.nan if x[0] < 0.5 else np.log(x[0] - 0.4)])

    def slope(x):
        return np.array([[1.0], [1.0 / (x[0] - 0.4)]])

    def bend(x):
        return 1.0 + (1.0 - np.log(x[0] - 0.4)) / (x[0] - 0.4) ** 2

    if solve in (gauss_newton, nlscon):
        j = from_callables(1, residual=barrier, jacobian=slope)
    else:
        j = from_callables(
            1,
            lambda x: float(0.5 * barrier(x) @ barrier(x)),
            lambda x: slope(x).T @ barrier(x),
            lambda x, v: bend(x) * v,
        )
    result = solve(j, np.array([5.0]), max_steps=50)
    assert np.isfinite(result.value) and result.value < 1.5 and result.x[0] >= 0.5


def test_a_small_carried_radius_is_no_convergence(scalar_problem, space):
    j = scalar_problem.on(space)
    result = gauss_newton(j, space.initial(0), 1e-2, state=State(radius=1e-12), max_steps=2)
    assert result.status is Status.STEP_LIMIT


# State, resuming, observers


def test_the_radius_goes_over_to_the_next_solve():
    start = np.array([-1.2, 1.0])
    first = gauss_newton(rosenbrock(), start, max_steps=4)
    assert first.state.radius == first.steps[-1].radius and first.state.progress is None
    second = gauss_newton(rosenbrock(), first.x, state=first.state, max_steps=1)
    assert second.steps[0].radius == first.state.radius
    assert second.steps[0].number == 0


def solves(problem, space):
    """Return one call per solver, each on functionals with a long way to go."""
    j = problem.on(space)
    whole = Sum(j, Tikhonov(space, Euclidean, 1e-4))
    return {
        "gauss_newton": lambda **more: gauss_newton(j, space.initial(0), 0.0, **{"max_steps": 6, **more}),
        "plain gauss_newton": lambda **more: gauss_newton(
            whole, space.initial(0), 0.0, condensed=False, **{"max_steps": 6, **more}
        ),
        "dense trust_region": lambda **more: trust_region(whole, space.initial(0), 0.0, **{"max_steps": 6, **more}),
        "krylov trust_region": lambda **more: trust_region(
            whole, space.initial(0), 0.0, dense=False, **{"max_steps": 6, **more}
        ),
        "dense newton": lambda **more: newton(whole, space.initial(0), 0.0, curvature=True, **{"max_steps": 6, **more}),
        "krylov newton": lambda **more: newton(
            whole, space.initial(0), 0.0, curvature=True, dense=False, **{"max_steps": 6, **more}
        ),
        "nleq_err": lambda **more: nleq_err(*far(nleq_err), 0.0, **{"max_steps": 6, **more}),
        "nlscon": lambda **more: nlscon(j, space.initial(0), 0.0, **{"max_steps": 6, **more}),
        "dense cubic": lambda **more: cubic(whole, space.initial(0), 0.0, **{"max_steps": 6, **more}),
        "krylov cubic": lambda **more: cubic(whole, space.initial(0), 0.0, dense=False, **{"max_steps": 6, **more}),
        "composite_step": lambda **more: constrained(whole, space.initial(0), 0.0, **{"max_steps": 6, **more}),
        "dense multilevel": lambda **more: two_levels(whole, space.initial(0), 0.0, **{"max_steps": 6, **more}),
        "krylov multilevel": lambda **more: two_levels(
            whole, space.initial(0), 0.0, dense=False, curvature=True, **{"max_steps": 6, **more}
        ),
    }


SMALL = FeedforwardSpace(2, (2, 2), 2)
NAMES = (
    "gauss_newton",
    "plain gauss_newton",
    "dense trust_region",
    "krylov trust_region",
    "dense newton",
    "krylov newton",
    "nleq_err",
    "nlscon",
    "dense cubic",
    "krylov cubic",
    "composite_step",
    "dense multilevel",
    "krylov multilevel",
)


def untimed(steps):
    """Return the table without the column for people."""
    return [dataclasses.astuple(dataclasses.replace(step, seconds=0.0)) for step in steps]


@pytest.mark.parametrize("name", NAMES)
def test_a_solve_goes_on_bit_for_bit_from_any_snapshot(name, vector_problem):
    solve = solves(vector_problem, SMALL)[name]
    snapshots = []
    whole = solve(observer=snapshots.append)
    assert len(snapshots) == 8
    for snapshot in snapshots:
        again = solve(state=snapshot.state)
        assert np.array_equal(again.x, whole.x)
        assert repr(untimed(again.steps)) == repr(untimed(whole.steps))
        assert again.status is whole.status and again.state.radius == whole.state.radius


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_solve_that_a_limit_has_cut_goes_on_bit_for_bit(name, steps, vector_problem):
    solve = solves(vector_problem, SMALL)[name]
    whole, cut = solve(), solve(max_steps=steps)
    assert cut.status is Status.STEP_LIMIT and len(cut.steps) == steps + 1
    # Once more with the same limit nothing is done.
    assert np.array_equal(solve(max_steps=steps, state=cut.resumable).x, cut.x)
    again = solve(state=cut.resumable)
    assert np.array_equal(again.x, whole.x) and again.status is whole.status
    assert repr(untimed(again.steps)) == repr(untimed(whole.steps))
    # To other functionals a length goes over, and nothing that belongs to the point.
    assert cut.state == State(again.steps[steps].radius if np.isfinite(again.steps[steps].radius) else None)


def test_the_penalty_of_condensation_only_falls_and_a_resumed_run_knows():
    # The target is a derivative with respect to a weight: the best two neurons are a difference quotient of theirs.
    z = np.linspace(-1.0, 1.0, 60)[:, None]
    space = FeedforwardSpace(1, (2,), 1)
    J = Regression(z, z[:, 0] / np.cosh(2.0 * z[:, 0]) ** 2, backend="reference").on(space)
    start = condense(J).merge(np.zeros(3), np.array([1.0, 3.0, 0.05, 0.0]))
    shown = []
    whole = gauss_newton(J, start, 0.0, max_steps=40, observer=shown.append)
    ridges = [float(snapshot.state.progress.memory["ridge"]) for snapshot in shown]
    assert ridges[0] == condense(J).ridge > ridges[-1] and np.all(np.diff(ridges) <= 0.0)
    assert np.all(np.diff(whole.steps.column("value")) < 0.0)
    fallen = next(number for number, ridge in enumerate(ridges) if ridge < ridges[0])
    for snapshot in (shown[fallen - 1], shown[fallen], shown[-2]):
        again = gauss_newton(J, start, 0.0, max_steps=40, state=snapshot.state)
        assert np.array_equal(again.x, whole.x) and repr(untimed(again.steps)) == repr(untimed(whole.steps))


@pytest.mark.parametrize("name", NAMES)
def test_the_observer_sees_every_step_and_the_end(name, vector_problem):
    snapshots = []
    result = solves(vector_problem, SMALL)[name](observer=snapshots.append)
    assert [s.step.number for s in snapshots] == [*range(7), 6]
    assert [s.state.progress.status for s in snapshots] == [None] * 7 + [Status.STEP_LIMIT]
    assert np.array_equal(snapshots[-1].x, result.x) and snapshots[-1].step == result.steps[-1]
    assert all(len(s.state.progress.steps) == min(k, 6) + 1 for k, s in enumerate(snapshots))


@pytest.mark.parametrize("name", NAMES)
def test_two_runs_are_the_same_bit_for_bit(name, vector_problem):
    solve = solves(vector_problem, SMALL)[name]
    assert np.array_equal(solve().x, solve().x)


def test_a_finished_state_returns_without_an_evaluation():
    def forbidden(*arguments):
        raise AssertionError("evaluated")

    first = gauss_newton(rosenbrock(), np.array([-1.2, 1.0]))
    broken = from_callables(2, residual=forbidden, jacobian=forbidden)
    again = gauss_newton(broken, np.zeros(2), state=first.resumable)
    assert np.array_equal(again.x, first.x)
    assert (again.status, again.steps, again.algebraic) == (first.status, first.steps, first.algebraic)


def test_an_unfinished_state_goes_on_with_larger_limits(scalar_problem, space):
    j = scalar_problem.on(space)
    snapshots = []
    gauss_newton(j, space.initial(0), 0.0, max_steps=4, observer=snapshots.append)
    state = snapshots[-1].state
    assert state.progress.status is Status.STEP_LIMIT
    whole = gauss_newton(j, space.initial(0), 0.0, max_steps=8)
    assert np.array_equal(gauss_newton(j, space.initial(0), 0.0, max_steps=8, state=state).x, whole.x)
    assert len(gauss_newton(j, space.initial(0), 0.0, max_steps=4, state=state).steps) == 5


@pytest.mark.parametrize("solve", ALL)
def test_an_interrupt_ends_the_run_with_the_last_iterate_from_which_it_can_go_on(solve):
    calls = []

    def interrupted(function, after):
        def call(x, *more):
            calls.append(1)
            if len(calls) == after:
                raise KeyboardInterrupt
            return function(x, *more)

        return call

    plain, start = far(solve)
    value, derivative, hessian, *_ = classical()["Rosenbrock"]
    functions = plain.functions
    if functions["residual"] is not None:
        broken = from_callables(2, residual=interrupted(functions["residual"], 12), jacobian=functions["jacobian"])
    else:
        broken = from_callables(2, interrupted(value, 12), derivative, lambda x, v: hessian(x) @ v)
    snapshots = []
    with pytest.raises(KeyboardInterrupt) as stop:
        solve(broken, start, observer=snapshots.append)
    result = stop.value.result
    assert result.status is Status.INTERRUPTED and not result.status.final
    assert snapshots[-1].state.progress.status is Status.INTERRUPTED
    assert result.steps[-1].number > 0 and plain.value(result.x) == result.value
    whole = solve(plain, start)
    assert np.array_equal(solve(plain, start, state=snapshots[-1].state).x, whole.x)
    assert np.array_equal(solve(plain, start, state=result.resumable).x, whole.x)


@pytest.mark.parametrize("solve", ALL)
def test_an_interrupt_of_the_first_evaluations_returns_the_start(solve):
    plain, start = far(solve)
    whole = solve(plain, start)
    for name in (name for name, function in plain.functions.items() if function is not None):

        def interrupted(*arguments):
            raise KeyboardInterrupt

        broken = dataclasses.replace(plain, functions={**plain.functions, name: interrupted})
        snapshots = []
        with pytest.raises(Interrupted) as stop:
            solve(broken, start, observer=snapshots.append)
        result = stop.value.result
        assert result.status is Status.INTERRUPTED and np.array_equal(result.x, start)
        assert snapshots[-1].state == result.resumable and len(result.steps) <= 2
        assert np.array_equal(solve(plain, np.zeros(2), state=result.resumable).x, whole.x)
        # Where it is interrupted again before anything is known it stands where it stood.
        with pytest.raises(Interrupted) as stop:
            solve(broken, np.zeros(2), state=result.resumable)
        assert np.array_equal(stop.value.result.x, start)


@pytest.mark.parametrize("solve", ALL)
@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.parametrize("patience", [1, 2])
def test_an_interrupt_of_the_observer_ends_the_run_with_what_it_was_shown(solve, after, patience):
    functional, start = far(solve)
    shown = []

    def observer(snapshot):
        shown.append(snapshot)
        if after <= len(shown) < after + patience:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stop:
        solve(functional, start, observer=observer)
    result = stop.value.result
    # It sees the end as well, whether it takes it or not.
    assert len(shown) == after + 1 and shown[-1].state == result.resumable
    assert result.steps[-1].number == after - 1 and result.status is Status.INTERRUPTED
    assert np.array_equal(solve(functional, start, state=result.resumable).x, solve(functional, start).x)


# Wrong arguments


@pytest.mark.parametrize("solve", ALL)
@pytest.mark.parametrize("x", [np.zeros(16), np.zeros((17, 1)), np.zeros(1), 0.0])
def test_a_start_of_another_shape_is_refused(solve, x, scalar_problem, space):
    with pytest.raises(ValueError, match=r"^x: got shape .*expected \(17,\)"):
        solve(scalar_problem.on(space), x)


@pytest.mark.parametrize("tolerance", [-1.0, np.nan, np.inf, None, "small", True])
def test_a_tolerance_is_a_number_that_is_not_negative(tolerance, scalar_problem, space):
    for solve in ALL:
        with pytest.raises(ValueError, match="^tolerance: got.*expected a non-negative number or relative"):
            solve(scalar_problem.on(space), space.initial(0), tolerance)


@pytest.mark.parametrize("solve", ALL)
def test_a_state_is_one(solve):
    functional, start = far(solve)
    result = solve(functional, start, max_steps=1)
    with pytest.raises(ValueError, match="^state: got Result, expected a State or None: .*result.resumable"):
        solve(functional, start, state=result)
    with pytest.raises(ValueError, match="^state: got int, expected a State or None$"):
        solve(functional, start, state=1)
    with pytest.raises(ValueError, match="^state: got the radius -1.0, expected a positive number"):
        solve(functional, start, state=State(-1.0))


def test_gauss_newton_needs_a_sum_of_squares(scalar_problem, space):
    j = scalar_problem.on(space)
    with pytest.raises(ValueError, match="^functional: got one that is no sum of squares.*try trust_region"):
        gauss_newton(Shifted(j, np.ones(space.dim)), space.initial(0))


def test_condensing_what_cannot_be_condensed_is_refused():
    with pytest.raises(ValueError, match="^functional: got one without condensable coefficients"):
        gauss_newton(rosenbrock(), np.zeros(2), condensed=True)
