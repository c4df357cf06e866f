"""Composite steps: constrained problems with known solutions, invariance, convergence, the norm on a kernel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.autograd.functional import hessian, jacobian

import dnnfem as fem
from dnnfem.norms import Euclidean, Weighted
from dnnfem.norms.projected import Projected
from dnnfem.quadrature import Quadrature
from dnnfem.records import Status
from dnnfem.spaces import Coordinates

# Hock and Schittkowski, Test Examples for Nonlinear Programming Codes (1981): those with equality constraints alone.
PROBLEMS = {
    6: ((-1.2, 1.0), lambda x: (1 - x[0]) ** 2, lambda x: [10 * (x[1] - x[0] ** 2)], 0.0),
    7: (
        (2.0, 2.0),
        lambda x: torch.log(1 + x[0] ** 2) - x[1],
        lambda x: [(1 + x[0] ** 2) ** 2 + x[1] ** 2 - 4],
        -np.sqrt(3.0),
    ),
    26: (
        (-2.6, 2.0, 2.0),
        lambda x: (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 4,
        lambda x: [(1 + x[1] ** 2) * x[0] + x[2] ** 4 - 3],
        0.0,
    ),
    27: (
        (2.0, 2.0, 2.0),
        lambda x: 0.01 * (x[0] - 1) ** 2 + (x[1] - x[0] ** 2) ** 2,
        lambda x: [x[0] + x[2] ** 2 + 1],
        0.04,
    ),
    28: (
        (-4.0, 1.0, 1.0),
        lambda x: (x[0] + x[1]) ** 2 + (x[1] + x[2]) ** 2,
        lambda x: [x[0] + 2 * x[1] + 3 * x[2] - 1],
        0,
    ),
    39: (
        (2.0, 2.0, 2.0, 2.0),
        lambda x: -x[0],
        lambda x: [x[1] - x[0] ** 3 - x[2] ** 2, x[0] ** 2 - x[1] - x[3] ** 2],
        -1.0,
    ),
    40: (
        (0.8, 0.8, 0.8, 0.8),
        lambda x: -x[0] * x[1] * x[2] * x[3],
        lambda x: [x[0] ** 3 + x[1] ** 2 - 1, x[0] ** 2 * x[3] - x[2], x[3] ** 2 - x[1]],
        -0.25,
    ),
    48: (
        (3.0, 5.0, -3.0, 2.0, -2.0),
        lambda x: (x[0] - 1) ** 2 + (x[1] - x[2]) ** 2 + (x[3] - x[4]) ** 2,
        lambda x: [x.sum() - 5, x[2] - 2 * (x[3] + x[4]) + 3],
        0.0,
    ),
    78: (
        (-2.0, 1.5, 2.0, -1.0, -1.0),
        lambda x: x.prod(),
        lambda x: [x @ x - 10, x[1] * x[2] - 5 * x[3] * x[4], x[0] ** 3 + x[1] ** 3 + 1],
        -2.91970041,
    ),
}


def functionals(number, mixed=None):
    """Return the functional and the constraints of a problem, the latter multiplied by a matrix."""
    start, value, constraints, _ = PROBLEMS[number]

    def call(function, *derivative_of):
        return lambda x: function(*derivative_of, torch.tensor(x)).numpy()

    def together(x):
        c = torch.stack(constraints(x))
        return c if mixed is None else torch.tensor(mixed) @ c

    second = call(hessian, value)
    functional = fem.from_callables(
        len(start), lambda x: float(value(torch.tensor(x))), call(jacobian, value), lambda x, v: second(x) @ v
    )
    return functional, fem.from_callables(len(start), residual=call(together), jacobian=call(jacobian, together))


@pytest.mark.parametrize("number", PROBLEMS)
def test_published_problems_are_solved(number):
    functional, constraints = functionals(number)
    start, *_, expected = PROBLEMS[number]
    result = fem.composite_step(functional, constraints, np.array(start), 1e-7, max_steps=100)
    assert result.status.converged or result.status is Status.EXHAUSTED, str(result.steps)
    assert np.abs(constraints.linearize(result.x).residual()).max() < 1e-9
    assert result.value == pytest.approx(expected, abs=1e-7)
    assert abs(result.value - expected) <= 0.5 * max(result.algebraic, 1e-4) ** 2


def test_a_quadratic_functional_with_linear_constraints_takes_one_step():
    random = np.random.default_rng(0)
    A, g, C, b = (random.standard_normal(shape) for shape in ((9, 7), 7, (3, 7), 3))
    H = A.T @ A
    functional = fem.from_callables(7, lambda x: 0.5 * x @ H @ x + g @ x, lambda x: H @ x + g, lambda x, v: H @ v)
    constraints = fem.from_callables(7, residual=lambda x: C @ x - b, jacobian=lambda x: C)
    saddle = np.block([[H, C.T], [C, np.zeros((3, 3))]])
    expected = np.linalg.solve(saddle, np.concatenate([-g, b]))[:7]
    for norm in (None, Weighted(Coordinates(7), 1.0 + np.arange(7.0))):
        result = fem.composite_step(functional, constraints, random.standard_normal(7), 1e-7, norm=norm)
        assert result.status.converged and result.x == pytest.approx(expected, abs=1e-8)
        # Conjugate gradients are not exact; every further step gains what they have left.
        assert result.steps[1].damping == 1.0 and result.steps[-1].number <= 6
        assert np.abs(C @ result.x - b).max() < 1e-12


@pytest.mark.parametrize("number", [7, 39, 78])
def test_constraints_may_be_combined(number):
    """``c`` and ``A c`` have the same kernels and least solutions, so that all iterates are the same."""
    count = len(functionals(number)[1].linearize(np.array(PROBLEMS[number][0])).residual())
    random = np.random.default_rng(number)
    orthogonal, _ = np.linalg.qr(random.standard_normal((count, count)))
    mixed = orthogonal @ np.diag(np.geomspace(1.0, 30.0, count)) @ orthogonal.T if count > 1 else np.array([[30.0]])
    paths = []
    for matrix in (None, mixed):
        functional, constraints = functionals(number, matrix)
        points = []
        start = np.array(PROBLEMS[number][0])
        fem.composite_step(functional, constraints, start, 0.0, max_steps=5, observer=lambda s: points.append(s.x))  # noqa: B023
        paths.append(np.array(points))
    # The last steps are rounding, which decides whether there is another one.
    common = min(map(len, paths))
    assert common > 4 and np.abs(paths[0][:common] - paths[1][:common]).max() < 1e-6
    assert all(np.abs(path[common:] - path[common - 1]).max(initial=0.0) < 1e-6 for path in paths)


@pytest.mark.parametrize("number", [7, 40, 78])
def test_convergence_is_superlinear_and_undamped(number):
    functional, constraints = functionals(number)
    start = np.array(PROBLEMS[number][0])
    result = fem.composite_step(functional, constraints, start, fem.relative(1e-10), max_steps=60)
    norms = result.steps.column("dual_norm")
    assert result.status.converged and (result.steps.column("damping")[-2:] > 0.95).all()
    assert norms[-1] < 1e-3 * norms[-2] and result.steps[-1].contraction < 1e-3


def network():
    random = np.random.default_rng(0)
    points, few = random.uniform(-1.0, 1.0, (150, 2)), random.uniform(-1.0, 1.0, (4, 2))

    def wave(p):
        return np.sin(2.0 * p[:, 0]) * p[:, 1]

    space = fem.FeedforwardSpace(2, (5,), 1)
    problem = fem.Regression(points, wave(points) + 0.1 * random.standard_normal(150))
    integral = problem.on(space)
    functional = fem.Sum(integral, fem.Tikhonov(space, Euclidean, 1e-3))
    held = integral.on(quadrature=Quadrature(few, np.full(4, 0.25), wave(few)[:, None]))
    return problem, space, functional, held, few, wave(few)


def test_a_network_takes_given_values_exactly():
    problem, space, functional, held, few, values = network()
    free = fem.trust_region(functional, space.initial(0), 1e-6, dense=True)
    result = fem.composite_step(functional, held, free.x, 1e-4, max_steps=200)
    assert result.status.converged
    assert np.abs(problem.solution(space, free.x)(few)[:, 0] - values).max() > 1e-3
    assert problem.solution(space, result.x)(few)[:, 0] == pytest.approx(values, abs=1e-9)
    assert result.value > free.value - 1e-9
    # No direction along the constraints descends.
    here, there = functional.linearize(result.x), held.linearize(result.x).system()
    rows = np.array([there.pull(unit) for unit in np.eye(4)])
    assert np.linalg.norm(here.derivative + rows.T @ np.linalg.lstsq(rows.T, -here.derivative, rcond=None)[0]) < 1e-3


def test_a_solve_goes_on_bit_for_bit_where_it_was():
    _, space, functional, held, *_ = network()
    whole, shown = fem.composite_step(functional, held, space.initial(0), 0.0, max_steps=6), []
    fem.composite_step(functional, held, space.initial(0), 0.0, max_steps=3, observer=shown.append)
    again = fem.composite_step(functional, held, space.initial(1), 0.0, state=shown[-1].state, max_steps=6)
    assert np.array_equal(again.x, whole.x)
    for name in ("value", "dual_norm", "length", "damping", "omega", "contraction", "work"):
        assert np.array_equal(again.steps.column(name), whole.steps.column(name), equal_nan=True)


def test_what_is_not_finite_shortens_the_step():
    functional = fem.from_callables(1, lambda x: float(x[0]), lambda x: np.ones(1), lambda x, v: 0.0 * v)
    # The full normal step from 3 leads to a negative number.
    constraints = fem.from_callables(
        1,
        residual=lambda x: np.log(x) if x[0] > 0.0 else np.array([np.nan]),
        jacobian=lambda x: (1.0 / x)[None],
    )
    result = fem.composite_step(functional, constraints, np.array([3.0]), 1e-8, max_steps=50)
    assert result.status.converged and result.x == pytest.approx([1.0], abs=1e-10)


def bowl(centre=(0.0, 0.0)):
    """Return ``|x - centre|^2``."""
    return fem.from_callables(
        2, lambda x: float((x - centre) @ (x - centre)), lambda x: 2.0 * (x - centre), lambda x, v: 2.0 * v
    )


def values(c, jacobian):
    """Return constraints of two coefficients."""
    return fem.from_callables(2, residual=lambda x: np.array(c(x)), jacobian=lambda x: np.array(jacobian(x)))


CIRCLE = values(lambda x: [x @ x - 2.0], lambda x: [2.0 * x])
NEVER = {
    "contradictions": (values(lambda x: [x[0] - 1.0, x[0] - 2.0], lambda x: [[1.0, 0.0], [1.0, 0.0]]), (0.3, 0.2)),
    "no root": (values(lambda x: [x @ x + 1.0], lambda x: [2.0 * x]), (1.0, 1.0)),
    "a singular start": (CIRCLE, (0.0, 0.0)),
    "almost a singular start": (CIRCLE, (1e-9, 0.0)),
    "a curved contradiction": (
        values(lambda x: [x[0] ** 2 - x[1], x[0] ** 2 - x[1] + 1e-3], lambda x: [[2.0 * x[0], -1.0]] * 2),
        (3.0, -2.0),
    ),
}


@pytest.mark.parametrize("tolerance", [1e-8, 1e3, 0.0, fem.relative(1e-6), fem.relative(0.9)], ids=str)
@pytest.mark.parametrize("name", NEVER)
def test_constraints_that_cannot_be_met_are_a_status(name, tolerance):
    constraints, start = NEVER[name]
    result = fem.composite_step(bowl(), constraints, np.array(start), tolerance)
    missed = np.abs(constraints.linearize(result.x).residual()).max()
    assert result.status is Status.INFEASIBLE and not result.status.converged and result.status.final
    assert not result.algebraic < np.inf
    assert missed > 1e-4 and result.steps[-1].number <= 60


def test_a_network_cannot_take_two_values_at_a_point():
    _, space, functional, held, few, _ = network()
    twice = held.on(quadrature=Quadrature(few[[0, 0]], np.full(2, 0.5), np.array([[0.0], [0.5]])))
    for tolerance in (1e-4, fem.relative(1e-3)):
        result = fem.composite_step(functional, twice, space.initial(0), tolerance, max_steps=300)
        assert result.status is Status.INFEASIBLE
        # In between they are missed least.
        assert twice.linearize(result.x).residual().sum() == pytest.approx(0.0, abs=1e-6)


def test_constraints_that_follow_from_others_can_be_met():
    half = bowl((3.0, 0.5))
    line = values(lambda x: [x[0] + x[1] - 1.0], lambda x: [[1.0, 1.0]])
    for constraints in (
        values(lambda x: [x[0] + x[1] - 1.0, 2.0 * (x[0] + x[1] - 1.0)], lambda x: [[1.0, 1.0], [2.0, 2.0]]),
        # The second one is the square of the first one.
        values(
            lambda x: [x[0] + x[1] - 1.0, (x[0] + x[1] - 1.0) ** 2],
            lambda x: [np.ones(2), 2.0 * (x[0] + x[1] - 1.0) * np.ones(2)],
        ),
        line,
    ):
        result = fem.composite_step(half, constraints, np.array([-2.0, 5.0]), 1e-6)
        assert result.status.converged and result.x == pytest.approx([1.75, -0.75], abs=1e-6)
    # A double root is a singular one, but can be come near to.
    double = values(lambda x: [(x[0] - 1.0) ** 2], lambda x: [[2.0 * (x[0] - 1.0), 0.0]])
    result = fem.composite_step(half, double, np.array([-2.0, 5.0]), 1e-6)
    assert result.status is not Status.INFEASIBLE and result.x == pytest.approx([1.0, 0.5], abs=1e-6)
    # So can a circle from almost its centre.
    result = fem.composite_step(bowl((3.0, 0.0)), CIRCLE, np.array([1e-3, 0.0]), 1e-6)
    assert result.status.converged and result.x == pytest.approx([np.sqrt(2.0), 0.0], abs=1e-6)


@pytest.mark.parametrize("radius", [np.inf, 2.0])
@pytest.mark.parametrize("part", ["derivative", "hessian", "residual", "jacobian"])
def test_what_is_not_finite_is_a_status(part, radius):
    """Everywhere, or only where the iteration gets to."""
    goal, calls = np.array([3.0, 0.0]), []

    def broken(name, function):
        def call(x, *more):
            calls.append(name)
            value = function(x, *more)
            return value * np.nan if name == part and np.linalg.norm(x) <= radius else value

        return call

    functional = fem.from_callables(
        2,
        lambda x: float((x - goal) @ (x - goal)),
        broken("derivative", lambda x: 2.0 * (x - goal)),
        broken("hessian", lambda x, v: 2.0 * v),
    )
    constraints = fem.from_callables(
        2,
        residual=broken("residual", lambda x: np.array([x @ x - 2.0])),
        jacobian=broken("jacobian", lambda x: 2.0 * x[None]),
    )
    result = fem.composite_step(functional, constraints, np.array([5.0, 1.0]), 1e-8, max_steps=100)
    assert np.isfinite(result.x).all() and not result.status.converged
    if part == "residual" and np.isfinite(radius):
        # Points where constraints have no values are not gone to.
        assert np.linalg.norm(result.x) > radius and result.status.final
    else:
        assert result.status is Status.NOT_FINITE
    assert part in calls


def test_the_work_is_that_of_all_products_and_of_the_constraints():
    _, space, functional, held, *_ = network()
    counts = {"products": 0, "points": 0, "values": 0, "derivatives": 0}

    class Counted:
        def __init__(self, part, name):
            self.part, self.name = part, name

        def __getattr__(self, name):
            return getattr(self.part, name)

        def linearize(self, x):
            counts[self.name] += 1
            return Counted(self.part.linearize(x), self.name)

        def hessian(self, v):
            counts["products"] += 1
            return self.part.hessian(v)

        def system(self):
            counts["derivatives"] += 1
            return self.part.system()

    pairs = [(Counted(functional, "points"), Counted(held, "values")), (functional, held)]
    counted, plain = (fem.composite_step(*pair, space.initial(0), 1e-4, max_steps=200) for pair in pairs)
    assert counted.status.converged and np.array_equal(counted.x, plain.x)
    accepted = len(counted.steps)
    objective = 2.0 * counts["products"] + accepted + (counts["points"] - accepted) / 3.0
    constraints = counts["derivatives"] + (counts["values"] - counts["derivatives"]) / 3.0
    assert counts["products"] > 100 and counts["derivatives"] > 100
    # Constraints have four points, the functional 150; of other functionals nothing is known but the coefficients.
    for result, share in ((counted, 1.0), (plain, 4.0 / 150.0)):
        assert result.steps[-1].work == pytest.approx(objective + share * constraints, rel=1e-9)


def test_wrong_constraints_are_named():
    _, space, functional, held, *_ = network()
    x = space.initial(0)
    with pytest.raises(ValueError, match="^constraints: got a functional of 3 coefficients, expected 21"):
        fem.composite_step(functional, fem.from_callables(3, residual=lambda x: x, jacobian=lambda x: np.eye(3)), x)
    smooth = fem.from_callables(21, lambda x: float(x @ x), lambda x: 2.0 * x, lambda x, v: 2.0 * v)
    with pytest.raises(ValueError, match="^constraints: got no sum of squares, expected a functional whose residual"):
        fem.composite_step(functional, smooth, x)
    with pytest.raises(ValueError, match="^constraints: got 25 residuals for 21 coefficients, expected no more"):
        fem.composite_step(functional, fem.Sum(held, fem.Tikhonov(space, Euclidean, 1.0)), x)


# ---- the norm on a kernel


@settings(max_examples=20)
@given(st.integers(2, 8), st.integers(0, 4), st.integers(0, 10_000))
def test_riesz_maps_represent_in_the_kernel(dim, count, seed):
    random = np.random.default_rng(seed)
    rows, g = random.standard_normal((min(count, dim - 1), dim)), random.standard_normal(dim)
    base = Weighted(Coordinates(dim), random.uniform(0.5, 2.0, dim))
    kernel = Projected(base, np.concatenate([rows, 2.0 * rows[:1]]))
    v = kernel.riesz(g)
    assert np.abs(rows @ v).max(initial=0.0) < 1e-12
    for _ in range(3):
        w = kernel.riesz(random.standard_normal(dim))
        assert kernel.inner(v, w) == pytest.approx(g @ w, rel=1e-10, abs=1e-12)
    # The multiplier has the least dual norm, and what is left is that of the representative.
    left = g + kernel.rows.T @ kernel.multiplier(g)
    assert base.dual_norm(left) == pytest.approx(kernel.norm(v), abs=1e-12)
    other = left + kernel.rows.T @ random.standard_normal(len(kernel.rows))
    assert base.dual_norm(other) >= base.dual_norm(left) - 1e-12
    # The least solution is orthogonal to the kernel.
    c = rows @ random.standard_normal(dim)
    least = kernel.least(np.concatenate([c, 2.0 * c[:1]]))
    assert rows @ least == pytest.approx(c, abs=1e-10) and abs(base.inner(least, v)) < 1e-10
