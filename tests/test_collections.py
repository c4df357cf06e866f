"""Problems of Moré, Garbow and Hillstrom: that they are those of the article, and that solvers solve them."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import dnnfem as fem
from dnnfem.functionals import from_callables
from dnnfem.testing import taylor_test

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import bench_solvers
from bench_solvers import Counted, run
from minimization_problems import Problem, problems

COLLECTION = problems()

MINIMIZERS = {
    "helical valley": [1.0, 0.0, 0.0],
    "Biggs EXP6": [1.0, 10.0, 1.0, 5.0, 4.0, 3.0],
    "Powell badly scaled": [1.098159329699759e-5, 9.106146739867525],
    "Box three-dimensional": [1.0, 10.0, 1.0],
    "variably dimensioned": [1.0] * 10,
    "Brown badly scaled": [1e6, 2e-6],
    "Gulf research and development": [50.0, 25.0, 1.5],
    "trigonometric": [0.0] * 10,
    "extended Rosenbrock": [1.0] * 10,
    "extended Powell singular": [0.0] * 12,
    "Beale": [3.0, 0.5],
    "Wood": [1.0] * 4,
}
"""Published minimizers with value zero."""

SIZES = {
    "helical valley": (3, 3),
    "Biggs EXP6": (6, 13),
    "Gaussian": (3, 15),
    "Powell badly scaled": (2, 2),
    "Box three-dimensional": (3, 10),
    "variably dimensioned": (10, 12),
    "Watson": (6, 31),
    "penalty I": (10, 11),
    "penalty II": (10, 20),
    "Brown badly scaled": (2, 3),
    "Brown and Dennis": (4, 20),
    "Gulf research and development": (3, 99),
    "trigonometric": (10, 10),
    "extended Rosenbrock": (10, 10),
    "extended Powell singular": (12, 12),
    "Beale": (2, 3),
    "Wood": (4, 6),
    "Chebyquad": (8, 8),
}
"""Numbers of variables and residuals."""


def squares(problem):
    """Return half of a problem as a sum of squares with its Hessian."""
    return from_callables(
        problem.dim,
        hessian=lambda x, v: 0.5 * problem.hessian(x) @ v,
        residual=problem.residuals,
        jacobian=problem.jacobian,
    )


# The collection itself


def test_there_are_eighteen_problems_of_the_published_sizes():
    assert list(COLLECTION) == list(SIZES)
    assert {name: (p.dim, p.residuals(p.start).size) for name, p in COLLECTION.items()} == SIZES


@pytest.mark.parametrize("name", COLLECTION)
def test_values_at_the_starting_points_are_the_published_ones(name):
    problem = COLLECTION[name]
    assert problem.value(problem.start) == pytest.approx(problem.initial, rel=2e-5)


@pytest.mark.parametrize("name", COLLECTION)
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_derivatives_pass_taylor_tests(name, share):
    problem = COLLECTION[name]
    random = np.random.default_rng(0)
    x = problem.start + share * random.uniform(-1.0, 1.0, problem.dim)
    direction = random.standard_normal(problem.dim)
    taylor_test(squares(problem), x, direction=direction, order=3, step=1e-2)
    jacobian, h = problem.jacobian(x).copy(), 1e-6
    rounding = 1e-15 * np.abs(problem.residuals(x)).max() / h
    difference = (problem.residuals(x + h * direction) - problem.residuals(x - h * direction)) / (2.0 * h)
    assert difference == pytest.approx(jacobian @ direction, rel=1e-5, abs=rounding + 1e-6 * np.abs(jacobian).max())
    assert problem.derivative(x) == pytest.approx(2.0 * jacobian.T @ problem.residuals(x), rel=1e-12)


@pytest.mark.parametrize("name", MINIMIZERS)
def test_published_minimizers_have_the_published_value_and_no_derivative(name):
    problem, x = COLLECTION[name], np.array(MINIMIZERS[name])
    assert problem.value(x) < 1e-15 and problem.minima[0] == 0.0 and problem.solved(problem.value(x))
    if name != "Gulf research and development":
        assert np.abs(problem.derivative(x)).max() < 1e-6


@pytest.mark.parametrize(
    "sizes", [{}, {"watson": 9, "penalty_one": 4, "penalty_two": 4}, {"watson": 12}], ids=["default", "other", "Watson"]
)
def test_minima_that_are_no_zero_are_reached_to_the_published_digits(sizes):
    for problem in problems(**sizes).values():
        if problem.minima[0] > 0.0:
            result = fem.trust_region(squares(problem), problem.start, 1e-10, max_steps=500)
            assert min(abs(2.0 * result.value / least - 1.0) for least in problem.minima) < 1e-5


def test_far_starts_are_tens_where_the_standard_one_is_zero():
    assert COLLECTION["Watson"].far_start().tolist() == [10.0] * 6
    assert COLLECTION["Beale"].far_start().tolist() == [10.0, 10.0]


def test_what_counts_as_solved():
    problem = Problem("two minima and an infimum", lambda x: [x], np.ones(1), 1.0, (100.0, 1e-3), (-5.0,))
    assert problem.solved(100.0 + 9e-7) and problem.solved(100.0 - 9e-7) and not problem.solved(100.0 + 2e-6)
    assert problem.solved(1e-3 + 9e-9) and not problem.solved(1e-3 + 2e-8) and not problem.solved(0.5)
    assert problem.solved(-5.0) and problem.solved(-7.0) and not problem.solved(math.nan)


# Solvers


@pytest.mark.parametrize("name", COLLECTION)
@pytest.mark.parametrize("solver", ["trust_region", "trust_region_krylov", "cubic", "cubic_krylov", "gauss_newton"])
def test_all_problems_are_solved_from_the_standard_points(solver, name):
    outcome = run(solver, COLLECTION[name], COLLECTION[name].start)
    assert outcome.solved, outcome


@pytest.mark.parametrize("solver", ["trust_region", "trust_region_krylov", "cubic", "cubic_krylov", "gauss_newton"])
def test_all_but_two_are_solved_from_ten_times_the_standard_points(solver):
    failed = [name for name, problem in COLLECTION.items() if not run(solver, problem, problem.far_start()).solved]
    assert len(failed) <= 2, failed


# The benchmark


def test_every_call_counts():
    problem = COLLECTION["Wood"]
    counted, x = Counted(problem), problem.start
    counted.value(x)
    counted.derivative(x)
    assert counted.evaluations == 2 and counted.first is None
    counted.product(x, np.ones(4))
    assert counted.evaluations == 3
    counted.hessian(x)
    assert counted.evaluations == 7
    counted.value(np.ones(4))
    assert counted.evaluations == counted.first == 8
    counted.residual(x)
    counted.jacobian(x)
    assert counted.evaluations == 10 and counted.first == 8


def test_counts_of_a_dense_step_are_those_of_its_calls():
    problem = COLLECTION["Beale"]
    counted = Counted(problem)
    result = fem.trust_region(counted.functional(), problem.start, 1e-10, dense=True)
    points = len(result.steps)
    trials = int(result.steps.column("inner")[1:].sum())
    # A value at every trial and at the start, a derivative and two products at every point.
    assert counted.evaluations == 1 + trials + 3 * points


@pytest.mark.parametrize("name", ["Wood", "helical valley", "variably dimensioned", "Chebyquad"])
def test_the_matrix_is_asked_for_once_at_the_end(name):
    """By default steps are those in Krylov spaces, and what would end the solve comes from the Hessian."""
    problem, counts, results = COLLECTION[name], [], []
    for dense in (False, None, True):
        counted = Counted(problem)
        results.append(fem.trust_region(counted.functional(), problem.start, 1e-10, dense=dense))
        counts.append(counted.evaluations)
    krylov, default, exact = results
    assert counts[1] == counts[0] + problem.dim < counts[2]
    assert len(default.steps) == len(krylov.steps) and default.status.converged
    assert default.x == pytest.approx(exact.x, abs=1e-4)
    np.testing.assert_array_equal(default.x, krylov.x)


def test_the_report_has_all_keys(monkeypatch, capsys):
    few = {name: COLLECTION[name] for name in ("Gaussian", "helical valley", "trigonometric")}
    monkeypatch.setattr(bench_solvers, "problems", lambda: few)
    monkeypatch.setattr(sys, "argv", ["bench_solvers.py", "--json"])
    bench_solvers.main()
    out = capsys.readouterr().out
    line = json.loads(out.splitlines()[-1])
    assert set(bench_solvers.GOALS) <= set(line)
    assert line["solved_standard"] == line["trust_region_solved_standard"] == 3
    ours, theirs = (run(solver, few["Gaussian"], few["Gaussian"].start) for solver in ("gauss_newton", "least_squares"))
    assert f"{ours.evaluations}/{ours.first}" in out and f"{theirs.evaluations}/{theirs.first}" in out
    assert "not solved by trust_region: trigonometric" in out and line["solved_ten"] == 2


@pytest.mark.parametrize("solve", [fem.trust_region, fem.cubic])
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("name", COLLECTION)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
def test_a_solution_is_known_as_one_without_a_step(name, dense, solve):
    problem = COLLECTION[name]
    functional = Counted(problem).functional()
    for tolerance in (1e-8, 1e-10):
        result = solve(functional, problem.start, tolerance, dense=dense, max_steps=2000)
        again = solve(functional, result.x, tolerance, dense=dense)
        assert result.status.converged and again.status.converged and len(again.steps) == 1
        # Not that anything would do: somewhat away from the solution there are steps to be taken.
        if tolerance == 1e-8:
            away = solve(functional, result.x + 1e-3 * (1.0 + np.abs(result.x)), tolerance, dense=dense, max_steps=1)
            assert len(away.steps) == 2
