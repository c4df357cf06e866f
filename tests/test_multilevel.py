"""Multilevel trust regions: coherent coarse models, exactness on quadratics, containment, and what all solvers keep."""

import dataclasses
import math
import time
from itertools import pairwise

import numba
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import rosen, rosen_der, rosen_hess_prod

import dnnfem as fem
from dnnfem.functionals import Composed, Sum, Tikhonov, from_callables, gradient_work
from dnnfem.functionals.protocols import MatrixNorm
from dnnfem.norms import Euclidean, Pullback, Weighted, jacobi
from dnnfem.norms.galerkin import galerkin
from dnnfem.records import STEP_FIELDS, Progress, Status, Step, Steps
from dnnfem.solvers.ascent import PATIENCE, Ascent
from dnnfem.solvers.iteration import Limits, extrapolated
from dnnfem.solvers.levels import levels_of, norms_of
from dnnfem.solvers.multilevel import Multilevel
from dnnfem.solvers.recursion import BOUND, FAILED, RADIUS, REST, Recursion
from dnnfem.solvers.trust_region import VALUE_WORK
from dnnfem.spaces import Transfer
from dnnfem.spaces.feedforward import Neuron
from dnnfem.testing import check_norm, convergence_order

ALPHA = 1e-2


def regression(backend="compiled"):
    """Return a smooth problem with two inputs."""
    points = np.random.default_rng(3).uniform(-1.0, 1.0, (60, 2))
    return fem.Regression(points, np.sin(2.0 * points[:, 0]) * points[:, 1], backend=backend)


def flows(cells=(2, 4, 8), degree=0, rule=fem.L2, problem=None, alpha=ALPHA):
    """Return functionals on flows with as many steps as cells, transfers, and a start on the coarsest."""
    spaces = [fem.FlowSpace.uniform(2, 2, 1, n, degree=degree, scheme="heun") for n in cells]
    transfers = [fem.prolongation(*pair) for pair in pairwise(spaces)]
    problem = problem or regression()
    functionals = [Sum(problem.on(space), Tikhonov(space, rule, alpha)) for space in spaces]
    return functionals, transfers, spaces[0].initial(0)


def networks(problem=None):
    """Return functionals on networks with one, two and four neurons in both layers, transfers, and a start."""
    random, problem = np.random.default_rng(5), problem or regression()
    spaces, transfers = [fem.FeedforwardSpace(2, (1, 1), 1)], []
    for width in (2, 4):
        new = [Neuron(0, random.standard_normal(2), 0.1) for _ in range(width // 2)]
        new += [Neuron(1, random.standard_normal(spaces[-1].hidden[0]), 0.1) for _ in range(width // 2)]
        space, P = fem.widen(spaces[-1], new)
        spaces.append(space)
        transfers.append(P)
    functionals = [Sum(problem.on(space), Tikhonov(space, Euclidean, 0.1 * ALPHA)) for space in spaces]
    return functionals, transfers, spaces[0].initial(0)


def prolonged(transfers, x):
    """Return an iterate of the coarsest space on the finest."""
    for transfer in transfers:
        x = transfer(x)
    return x


def quadratic(matrix, load):
    """Return ``<A x, x>/2 - <b, x>``."""
    return from_callables(
        len(load),
        lambda x: float(0.5 * x @ matrix @ x - load @ x),
        lambda x: matrix @ x - load,
        lambda x, v: matrix @ v,
    )


def recursion(functionals, transfers, norm, curvature=True, dense=False, smoothing=1):
    """Return the recursion, the norms of its levels, and a memory with large radii."""
    levels = levels_of(functionals, transfers, None, np.inf if dense else 0)
    found = Recursion(levels, curvature, smoothing)
    return found, norms_of(levels, norm), found.unknown(1e3)


# Coarse models


@pytest.fixture
def models(monkeypatch):
    """Return the list of ``(level, model, start, bound, end)`` of all coarse models that follow."""
    seen, minimized = [], Recursion._minimized

    def recorded(self, k, model, here, norms, bound, memory, cycle):
        row = [k, model, here, bound, None]
        seen.append(row)
        row[-1], work = minimized(self, k, model, here, norms, bound, memory, cycle)
        return row[-1], work

    monkeypatch.setattr(Recursion, "_minimized", recorded)
    return seen


@pytest.mark.parametrize(("degree", "rule"), [(0, fem.L2), (1, fem.L2), (1, fem.H1)])
def test_coarse_models_agree_with_the_fine_functional_to_first_order(degree, rule, models):
    functionals, transfers, start = flows(degree=degree, rule=rule)
    x = prolonged(transfers, start) + 0.1 * np.random.default_rng(0).standard_normal(functionals[-1].space.dim)
    here = functionals[-1].linearize(x)
    found, norms, memory = recursion(functionals, transfers, rule(functionals[-1].space))
    found.corrected(2, functionals[-1], here, norms, np.inf, memory, "V")
    (_, model, begin, *_), (_, lowest, below, *_) = models
    assert begin.derivative == pytest.approx(transfers[1].T @ here.derivative, rel=1e-10, abs=1e-13)
    # The model is not a functional on a subspace: curvatures differ, as steps do.
    direction = np.random.default_rng(1).standard_normal(len(begin.x))
    sizes = 0.1 * 0.5 ** np.arange(5)
    errors = [
        abs(
            (functionals[-1].value(x + transfers[1] @ (h * direction)) - here.value)
            - (model.value(begin.x + h * direction) - begin.value)
        )
        for h in sizes
    ]
    assert convergence_order(sizes, errors)[-1] == pytest.approx(2.0, abs=0.2)
    # The same again one level down, where the model is what is corrected.
    assert below.derivative == pytest.approx(transfers[0].T @ begin.derivative, rel=1e-10, abs=1e-13)
    assert lowest.value(below.x) == pytest.approx(below.value, rel=1e-12)


def test_the_coarse_iterate_is_the_best_approximation_of_the_fine_one(models):
    functionals, transfers, start = flows()
    x = prolonged(transfers, start) + 0.1 * np.random.default_rng(0).standard_normal(functionals[-1].space.dim)
    norm = fem.L2(functionals[-1].space)
    found, norms, memory = recursion(functionals, transfers, norm)
    found.corrected(2, functionals[-1], functionals[-1].linearize(x), norms, np.inf, memory, "V")
    assert models[0][2].x == pytest.approx(transfers[1].project(x, norm), rel=1e-10)


def test_on_a_common_state_mesh_the_model_is_the_fine_functional(models):
    spaces = [fem.FlowSpace.uniform(2, 2, 1, n, 8) for n in (4, 8)]
    J = [Sum(regression().on(space), Tikhonov(space, fem.L2, ALPHA)) for space in spaces]
    P = fem.prolongation(*spaces)
    coarse = spaces[0].initial(0)
    found, norms, memory = recursion(J, [P], fem.L2(spaces[1]))
    found.corrected(1, J[1], J[1].linearize(P(coarse)), norms, np.inf, memory, "V")
    _, model, begin, *_ = models[0]
    s = 0.3 * np.random.default_rng(2).standard_normal(spaces[0].dim)
    assert begin.x == pytest.approx(coarse, rel=1e-12)
    assert model.value(coarse + s) - begin.value == pytest.approx(J[1].value(P(coarse + s)) - J[1].value(P(coarse)))


@pytest.mark.parametrize("dense", [True, False])
def test_on_quadratics_a_correction_removes_all_that_the_coarse_space_can_see(dense):
    random = np.random.default_rng(4)
    root = random.standard_normal((12, 12))
    matrix, P = root @ root.T + np.eye(12), Transfer(sp.csr_array(random.standard_normal((12, 4))), np.zeros(12))
    # The load of the coarse functional is another one: the shift makes up for that.
    functionals = [quadratic(P.T @ (P.T @ matrix).T, random.standard_normal(4)), quadratic(matrix, np.ones(12))]
    norm = Weighted(functionals[1].space, np.geomspace(0.1, 10.0, 12))
    found, norms, memory = recursion(functionals, [P], norm, curvature=False, dense=dense, smoothing=10)
    here = functionals[1].linearize(random.standard_normal(12))
    for _ in range(1 if dense else 20):
        correction = found.corrected(1, functionals[1], here, norms, np.inf, memory, "V")
        assert correction.ratio == pytest.approx(1.0, rel=1e-3)
        seen = norms[0].dual_norm(P.T @ correction.point.derivative)
        if seen <= 1e-6 * norm.dual_norm(here.derivative):
            break
        assert seen <= 0.2 * norms[0].dual_norm(P.T @ here.derivative)
        here = correction.point
    assert seen <= (1e-12 if dense else 1e-6) * norm.dual_norm(here.derivative)
    # Of the rest, which the coarse space does not see, nothing is asked for again.
    assert not found.seen(1, correction.point.derivative, norms, memory)


@pytest.mark.parametrize("cycle", ["V", "F"])
def test_coarse_iterates_stay_in_the_ball_of_their_correction(cycle, models):
    functionals, transfers, start = flows((1, 2, 4, 8), alpha=1e-4)
    x, norm = prolonged(transfers, start), fem.L2(functionals[-1].space)
    points = [[] for _ in functionals]
    watched = [Watched(J, list_.append) for J, list_ in zip(functionals, points, strict=True)]
    found, norms, memory = recursion(watched, transfers, norm, smoothing=3)
    for bound in (1e-3, 0.1, 1.0):
        for list_ in (models, *points):
            list_.clear()
        memory[BOUND], memory[RADIUS], memory[REST], memory[FAILED] = bound, 10.0, 0.0, 0.0
        here = watched[-1].linearize(x)
        correction = found.corrected(3, watched[-1], here, norms, np.inf, memory, cycle)
        assert models[0][3] == bound
        for k, _, begin, radius, end in models:
            assert norms[k].norm(end.x - begin.x) <= radius * (1 + 1e-9) and radius <= bound * (1 + 1e-9)
        # Trial points too, and what is measured on the coarse level is the length on the fine one.
        begin = models[0][2].x
        lengths = [norm.norm(transfers[2] @ (y - begin)) for y in points[2]]
        assert 0.5 * bound < max(lengths) <= bound * (1 + 1e-9)
        assert correction.point is None or correction.length <= bound * (1 + 1e-9)


def test_an_f_cycle_corrects_coarse_iterates_twice(models):
    # On quadratics with Galerkin matrices corrections keep their promises; one step leaves something for a second one.
    random, dims = np.random.default_rng(6), (2, 4, 8, 16)
    transfers = [Transfer(sp.csr_array(random.standard_normal((n, m))), np.zeros(n)) for m, n in pairwise(dims)]
    matrices = [np.diag(np.geomspace(1.0, 1e4, dims[-1]))]
    for P in transfers[::-1]:
        matrices.insert(0, P.T @ (P.T @ matrices[0]).T)
    functionals = [quadratic(matrix, np.ones(len(matrix))) for matrix in matrices]
    for cycle, twice in (("V", False), ("F", True)):
        models.clear()
        found, norms, memory = recursion(functionals, transfers, Euclidean(functionals[-1].space), curvature=False)
        here = functionals[-1].linearize(random.standard_normal(dims[-1]))
        found.corrected(3, functionals[-1], here, norms, np.inf, memory, cycle)
        visits = [sum(level == k for level, *_ in models) for k in range(3)]
        assert visits[1:] == [1 + twice, 1] and (visits[0] > 1) == twice


@dataclasses.dataclass(frozen=True, eq=False)
class Watched:
    """A functional that reports where it is linearized."""

    functional: object
    report: object

    @property
    def space(self):
        return self.functional.space

    def value(self, x):
        return self.functional.value(x)

    def linearize(self, x):
        self.report(np.array(x))
        return self.functional.linearize(x)


def flawed(factor, scale=1.0):
    """Return a fine quadratic and a coarse one with another curvature: it promises `factor` times too much."""
    P = Transfer(sp.csr_array(np.kron(np.eye(3), np.ones((2, 1)))), np.zeros(6))
    matrix = scale * np.diag([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])
    coarse = P.T @ (P.T @ matrix).T / factor
    return [quadratic(coarse, np.zeros(3)), quadratic(matrix, np.ones(6))], P


def test_a_correction_that_breaks_its_promise_is_rejected_and_rests_for_longer_and_longer():
    functionals, P = flawed(20.0)
    found, norms, memory = recursion(functionals, [P], Euclidean(functionals[1].space), curvature=False, dense=True)
    here = functionals[1].linearize(np.zeros(6))
    for number in (1, 2, 3):
        correction = found.corrected(1, functionals[1], here, norms, np.inf, memory, "V")
        assert correction.point is None and memory[FAILED, 1] == number
        assert memory[REST, 1] == 2**number - 1 and not found.seen(1, here.derivative, norms, memory)
        memory[REST, 1] = 0.0
    # Short corrections are fine: the models agree to first order.
    while correction.point is None:
        assert memory[FAILED, 1] < 10
        correction = found.corrected(1, functionals[1], here, norms, np.inf, memory, "V")
    assert memory[FAILED, 1] == 0.0 and correction.point.value < here.value


def test_bounds_halve_and_double():
    # The ratio of a full correction is 2 - factor.
    for factor, change in ((20.0, 0.5), (1.5, 1.0), (1.0, 2.0)):
        functionals, P = flawed(factor)
        found, norms, memory = recursion(functionals, [P], Euclidean(functionals[1].space), curvature=False, dense=True)
        here = functionals[1].linearize(np.zeros(6))
        length = norms[0].norm(factor * np.array([1.0, 0.5, 1.0 / 3.0]))
        memory[BOUND, 1] = 1.5 * length
        correction = found.corrected(1, functionals[1], here, norms, np.inf, memory, "V")
        expected = {0.5: 0.5 * length, 1.0: 1.5 * length, 2.0: 2.0 * length}[change]
        assert memory[BOUND, 1] == pytest.approx(expected, rel=1e-9)
        assert correction.point is None or correction.ratio == pytest.approx(2.0 - factor, rel=1e-9)


# The method


@dataclasses.dataclass(frozen=True, eq=False)
class Counted:
    """A functional that counts values, derivatives and products, in gradients."""

    functional: object
    units: list

    @property
    def space(self):
        return self.functional.space

    def value(self, x):
        return self.linearize(x).value

    def linearize(self, x):
        return CountedLinearization(self.functional.linearize(x), self.units, {})


@dataclasses.dataclass(frozen=True, eq=False)
class CountedLinearization:
    """Its linearizations."""

    part: object
    units: list
    read: dict

    @property
    def x(self):
        return self.part.x

    @property
    def value(self):
        if not self.read:
            self.units.append(VALUE_WORK)
        self.read["value"] = True
        return self.part.value

    @property
    def derivative(self):
        assert self.value is not None
        if "derivative" not in self.read:
            self.units.append(1.0 - VALUE_WORK)
        self.read["derivative"] = True
        return self.part.derivative

    def hessian(self, v):
        self.units.append(2.0)
        return self.part.hessian(v)


@pytest.mark.parametrize(("cycle", "tolerance"), [("V", 1e-6), ("F", 1e-6), ("V", 0.0)])
def test_the_work_is_that_of_all_levels_in_gradients_of_the_finest(cycle, tolerance):
    functionals, transfers, start = flows((2, 4, 8, 16))
    counted = [Counted(J, []) for J in functionals]
    costs = [gradient_work(J) for J in functionals]
    options = {"nested": True, "cycle": cycle, "costs": costs, "dense": False}
    result = fem.multilevel(counted, transfers, start, tolerance, **options)
    # Without a tolerance rounding decides whether nothing, or nothing certain, is left.
    assert result.status is Status.CONVERGED or (tolerance == 0.0 and result.status is Status.EXHAUSTED)
    actual = sum(sum(J.units) * cost / costs[-1] for J, cost in zip(counted, costs, strict=True))
    # At ends of coarse solves a derivative is counted that nobody asks for.
    assert actual <= result.steps[-1].work <= 1.1 * actual
    assert all(J.units for J in counted)


def test_steps_that_fail_are_counted():
    # No step from the tip of the cone is accepted, until they are too short to be steps.
    tip = np.ones(3)
    cone = from_callables(3, lambda x: 1e12 * np.linalg.norm(x - tip), np.zeros_like, lambda x, v: v)
    P = Transfer(sp.csr_array(np.eye(4, 3)), np.zeros(4))
    fine, counted = quadratic(np.eye(4), np.array([2.0, 3.0, 4.0, 0.0])), Counted(cone, [])
    levels = levels_of([counted, fine], [P], [0.25, 1.0], 0)
    found, here = Recursion(levels, False, 1), fine.linearize(np.append(tip, 0.0))
    correction = found.corrected(1, fine, here, norms_of(levels, Euclidean(fine.space)), 1e3, found.unknown(1.0), "V")
    assert correction.point is None and len(counted.units) > 20
    assert correction.work == pytest.approx(0.25 * sum(counted.units), rel=1e-12)


@pytest.mark.parametrize("family", [flows, networks])
def test_a_dual_norm_on_the_finest_level_costs_a_gradient_and_the_norm_if_that_depends_on_the_point(family):
    functionals, transfers, start = family()
    metrics = {Euclidean(functionals[-1].space): 1.0, None: 3.0, jacobi: 3.0}
    for norm, work in metrics.items():
        result = fem.multilevel(
            functionals, transfers, start, norm=norm, nested=True, curvature=True, dense=True, max_steps=0
        )
        assert result.status is Status.STEP_LIMIT and result.steps[0].work == work


def test_the_next_level_charges_values_or_derivatives():
    functionals, transfers, start = flows()
    # Steps on the coarsest level cost next to nothing.
    levels, seen = levels_of(functionals, transfers, [1e-9, 1.0, 1.0], np.inf), []
    judged = (levels[0], dataclasses.replace(levels[1], functional=Watched(functionals[1], seen.append)), levels[2])
    for norms, look in ((None, VALUE_WORK), (norms_of(levels, fem.L2(functionals[-1].space)), 1.0)):
        seen.clear()
        found = Ascent(0, start, math.nan).following(judged, norms, True, 0.0, Limits(1000, np.inf))
        assert found.level == 1 and len(seen) > 2
        assert found.work == pytest.approx(len(seen) * look, rel=1e-5)


def test_rows_of_nested_iteration_are_no_steps_from_which_decreases_are_extrapolated():
    functionals, transfers, start = flows()
    norm = fem.L2(functionals[-1].space)
    found, *_ = recursion(functionals, transfers, norm)
    method = Multilevel(found, norm, "V", 0.0, Limits(1000, np.inf), 0.0, start)
    nested = [Step(k, value, algebraic=math.inf) for k, value in enumerate((9.0, 4.0, 3.0))]
    steps = [Step(3 + k, 2.0 + 1.0 / (2.0 + k), length=1.0, algebraic=math.inf) for k in range(12)]
    for count in range(1, len(steps) + 1):
        table = Steps((*nested, *steps[:count]))
        assert method.estimate(table) == extrapolated(Steps(table[2:]))
    # Of 1 / k what remains is known; the start of the finest level is its first row.
    assert extrapolated(Steps(table[2:])) != extrapolated(table) and len(table[2:]) == 13


def test_a_gradient_costs_samples_times_steps_times_weights_of_a_step():
    problem = regression()

    def cost(cells, width, scheme):
        space = fem.FlowSpace.uniform(2, width, 1, cells, scheme=scheme)
        return gradient_work(Sum(problem.on(space), Tikhonov(space, fem.L2, 1.0)))

    slope = cost(9, 3, "rk4") - cost(8, 3, "rk4")
    assert slope == 60 * 4 * (3 * 3 + 3)
    assert cost(9, 3, "euler") - cost(8, 3, "euler") == slope / 4
    # Penalties are free, and what is composed costs what it is composed from.
    J = problem.on(fem.FeedforwardSpace(2, (5,), 1))
    assert gradient_work(J) == gradient_work(Composed(J, Transfer.identity(21))) == 60 * 21
    assert gradient_work(quadratic(np.eye(3), np.ones(3))) == 3.0


FAMILIES = {"flows": flows, "networks": networks}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cycle", ["V", "F"])
def test_values_fall_to_the_minimum_that_the_single_level_finds(family, cycle):
    functionals, transfers, start = FAMILIES[family]()
    x = prolonged(transfers, start)
    result = fem.multilevel(functionals, transfers, x, 1e-8, cycle=cycle)
    assert result.status is Status.CONVERGED
    assert (np.diff(result.steps.column("value")) <= 0.0).all()
    alone = fem.trust_region(functionals[-1], result.x, 1e-10, curvature=False)
    assert alone.value == pytest.approx(result.value, rel=1e-9) and alone.x == pytest.approx(result.x, abs=1e-4)
    corrections = [row for row in result.steps[1:] if row.inner == 0]
    assert len(corrections) >= 2 and all(row.ratio >= 0.1 and np.isnan(row.multiplier) for row in corrections)


def test_the_same_minimizer_from_the_same_start():
    functionals, transfers, start = flows(alpha=0.1)
    x = prolonged(transfers, start)
    norm = fem.L2(functionals[-1].space)
    found = [
        fem.multilevel(functionals, transfers, x, 1e-9, norm=norm, dense=False),
        fem.multilevel(functionals, transfers, x, 1e-9, norm=norm, curvature=True),
        fem.multilevel(functionals, transfers, start, 1e-9, nested=True, smoothing=2),
        fem.trust_region(functionals[-1], x, 1e-9),
    ]
    for result in found:
        assert result.status is Status.CONVERGED and result.value == pytest.approx(found[-1].value, rel=1e-10)
        assert result.x == pytest.approx(found[-1].x, abs=1e-6)


def test_corrections_do_the_work_where_all_levels_see_the_solution():
    functionals, transfers, start = flows((4, 8, 16, 32), degree=1, rule=fem.H1, alpha=1e-3)
    x, norm = prolonged(transfers, start), fem.H1(functionals[-1].space)
    options = {"norm": norm, "dense": False, "curvature": True}
    alone = fem.trust_region(functionals[-1], x, fem.relative(1e-4), **options)
    multilevel = fem.multilevel(functionals, transfers, start, alone.algebraic, nested=True, **options)
    assert alone.status.converged and multilevel.status.converged
    assert multilevel.value <= alone.value * (1 + 1e-6)
    assert multilevel.steps[-1].work < 0.5 * alone.steps[-1].work


def test_nested_iteration_shows_every_level_on_the_finest_one():
    functionals, transfers, start = flows()
    shown = []
    result = fem.multilevel(functionals, transfers, start, 1e-6, nested=True, observer=shown.append)
    assert result.status is Status.CONVERGED and [s.step.number for s in shown] == list(range(len(result.steps)))
    x = prolonged(transfers, start)
    assert np.array_equal(shown[0].x, x) and result.steps[0].value == functionals[-1].value(x)
    # A row for each coarse level, then corrections and steps, which have lengths.
    assert np.isnan(result.steps.column("length")).tolist() == [True] * 3 + [False] * (len(result.steps) - 3)
    assert (np.diff(result.steps.column("value")) < 0.0).all() and (np.diff(result.steps.column("work")) > 0.0).all()
    # What comes from a coarse level is in its range.
    for snapshot, P in zip(shown[1:3], (transfers, transfers[1:]), strict=True):
        offset = prolonged(P, np.zeros(P[0].shape[1]))
        matrix = np.column_stack([prolonged(P, e) - offset for e in np.eye(P[0].shape[1])])
        moved = snapshot.x - offset
        assert matrix @ np.linalg.lstsq(matrix, moved)[0] == pytest.approx(moved, abs=1e-12)
    limited = fem.multilevel(functionals, transfers, start, 1e-6, nested=True, max_seconds=0.0)
    assert limited.status is Status.TIME_LIMIT and np.array_equal(limited.x, x)


@pytest.mark.parametrize("metric", [fem.L2, jacobi])
@pytest.mark.parametrize("tolerance", [1e-4, fem.relative(1e-4)])
def test_looks_in_between_are_rows_that_cost_a_value_and_change_nothing_else(metric, tolerance):
    functionals, transfers, start = flows((2, 4, 8, 16), alpha=1e-3)
    shown, coarse = [], []
    functionals[0] = Watched(functionals[0], coarse.append)
    norm, price = (jacobi, 3.0) if metric is jacobi else (metric(functionals[-1].space), 1.0)
    options = {"nested": True, "norm": norm, "dense": False, "costs": [1.0, 2.0, 4.0, 8.0]}
    whole = fem.multilevel(functionals, transfers, start, tolerance, **options)
    count = len(coarse)
    watched = fem.multilevel(functionals, transfers, start, tolerance, watch=True, observer=shown.append, **options)
    more = len(watched.steps) - len(whole.steps)
    assert more >= 2 and np.array_equal(watched.x, whole.x) and len(coarse) == 2 * count
    levels = [float(s.state.progress.memory.get("level", 3.0)) for s in shown]
    looks = [k for k in range(1, len(shown)) if levels[k] == levels[k - 1] < 3.0]
    ends = [k for k in range(1, len(shown)) if levels[k - 1] < levels[k]]
    assert len(looks) == more and levels == sorted(levels) and len(ends) == 3
    for k in looks:
        before, row = shown[k - 1].step, shown[k].step
        assert row.value <= shown[0].step.value and np.isnan(row.length) and np.isnan(row.dual_norm)
        # What was seen is not looked at again, nor before it is time, which at the latest is after the next step.
        work = row.work - VALUE_WORK
        assert not np.array_equal(shown[k].x, shown[k - 1].x)
        assert (work - before.work) ** 2 >= 2.0 * VALUE_WORK * work
    # Ends of coarse levels need the derivative for a relative tolerance alone; what was seen is not computed again.
    relative = not isinstance(tolerance, float)
    assert [np.isfinite(shown[k].step.dual_norm) for k in ends] == [relative, relative, True]
    again = [np.array_equal(shown[k].x, shown[k - 1].x) for k in ends]
    saved = [
        VALUE_WORK * seen if relative or k == ends[-1] else price - VALUE_WORK * (not seen)
        for k, seen in zip(ends, again, strict=True)
    ]
    expected = whole.steps[-1].work + VALUE_WORK * more - sum(saved)
    assert watched.steps[-1].work == pytest.approx(expected, rel=1e-12)
    # Without such looks the levels take as much work at once.
    assert max(np.diff(whole.steps.column("work"))[:3]) > max(
        shown[k].step.work - shown[k - 1].step.work for k in looks
    )


@pytest.mark.parametrize("tolerance", [1e-4, fem.relative(1e-3)])
@pytest.mark.parametrize("metric", [fem.L2, jacobi])
def test_a_watched_solve_goes_on_bit_for_bit_from_looks(metric, tolerance):
    functionals, transfers, start = flows((2, 4, 8), alpha=1e-3)
    norm, shown = jacobi if metric is jacobi else metric(functionals[-1].space), []
    options = {"nested": True, "watch": True, "norm": norm, "dense": False}

    def solve(**more):
        return fem.multilevel(functionals, transfers, start, tolerance, **options, **more)

    whole = solve(observer=shown.append)
    looks = [s for s in shown if np.isnan(s.step.dual_norm)]
    assert looks
    for snapshot in looks:
        again = solve(state=snapshot.state)
        assert again.status is whole.status and np.array_equal(again.x, whole.x)
        assert [dataclasses.replace(row, seconds=0.0) for row in again.steps].__repr__() == [
            dataclasses.replace(row, seconds=0.0) for row in whole.steps
        ].__repr__()
    stopped = solve(max_steps=looks[0].step.number)
    assert stopped.status is Status.STEP_LIMIT and stopped.algebraic == math.inf
    assert np.isnan(stopped.steps[-1].dual_norm) and np.array_equal(stopped.x, looks[0].x)


def test_an_interrupt_of_a_watched_solve_asks_for_no_derivative():
    functionals, transfers, start = flows((2, 4, 8), alpha=1e-3)
    counted = Counted(functionals[-1], [])
    calls = []

    def stop(x):
        calls.append(x)
        if len(calls) == 15:
            raise KeyboardInterrupt

    levels = [Watched(functionals[0], stop), functionals[1], counted]
    options = {"nested": True, "watch": True, "dense": False, "costs": [1.0, 2.0, 4.0]}
    with pytest.raises(fem.Interrupted) as caught:
        fem.multilevel(levels, transfers, start, 1e-8, **options)
    result = caught.value.result
    # The first row has the only one.
    assert counted.units.count(1.0 - VALUE_WORK) == 1 and len(result.steps) > 2
    assert result.status is Status.INTERRUPTED and np.isnan(result.steps[-1].dual_norm)
    resumed = fem.multilevel(functionals, transfers, start, 1e-8, state=result.resumable, **options)
    whole = fem.multilevel(functionals, transfers, start, 1e-8, **options)
    assert resumed.status is Status.CONVERGED and np.array_equal(resumed.x, whole.x)


def test_a_value_that_is_not_finite_on_the_finest_level_is_what_the_status_says():
    functionals, transfers, start = flows()
    x, fine = prolonged(transfers, start), functionals[-1]
    broken = from_callables(
        len(x),
        lambda y: fine.value(y) if np.array_equal(x, y) else np.nan,
        lambda y: fine.linearize(y).derivative,
        lambda y, v: fine.linearize(y).hessian(v),
    )
    for watch in (True, False):
        options = {"nested": True, "watch": watch, "dense": False, "costs": [1.0, 2.0, 4.0]}
        result = fem.multilevel([*functionals[:-1], broken], transfers, start, 1e-6, **options)
        assert result.status is Status.NOT_FINITE and np.isnan(result.value)


@pytest.mark.parametrize("watch", [True, False])
@pytest.mark.parametrize("tolerance", [1e-6, fem.relative(1e-3)])
def test_a_derivative_that_is_not_finite_is_no_look(tolerance, watch):
    functionals, transfers, start = flows()
    x, fine = prolonged(transfers, start), functionals[-1]

    def derivative(y):
        return np.full(len(y), np.nan) if np.array_equal(x, y) else fine.linearize(y).derivative

    broken = from_callables(len(x), fine.value, derivative, lambda y, v: fine.linearize(y).hessian(v))
    options = {"nested": True, "watch": watch, "norm": Euclidean(broken.space), "dense": False}
    result = fem.multilevel([*functionals[:-1], broken], transfers, start, tolerance, costs=[1.0, 2.0, 4.0], **options)
    assert result.status is Status.NOT_FINITE and len(result.steps) == 1


def test_nobody_looks_where_the_norm_is_that_at_the_start_of_a_level():
    functionals, transfers, start = flows((2, 4, 8, 16), alpha=1e-3)
    options = {"nested": True, "dense": False, "norm": lambda space, here: Pullback(space, here, delta=1e-2)}
    runs = [fem.multilevel(functionals, transfers, start, 0.1, watch=watch, **options) for watch in (True, False)]
    assert len(runs[0].steps) == len(runs[1].steps) and np.isfinite(runs[0].steps.column("dual_norm")).all()


def test_a_relative_tolerance_is_that_of_the_start_and_may_be_met_by_a_coarse_level():
    functionals, transfers, start = flows((4, 8, 16), degree=1, rule=fem.H1, alpha=0.1)
    x, norm = prolonged(transfers, start), fem.H1(functionals[-1].space)
    whole = norm.dual_norm(functionals[-1].linearize(x).derivative)
    for factor, rows in ((0.3, {2}), (1e-7, range(4, 50))):
        result = fem.multilevel(functionals, transfers, start, fem.relative(factor), nested=True, norm=norm)
        assert result.status is Status.STATIONARY and len(result.steps) in rows
        assert norm.dual_norm(functionals[-1].linearize(result.x).derivative) <= factor * whole
        assert result.steps[0].dual_norm == pytest.approx(whole, rel=1e-13)
    # Who goes on from a row of nested iteration may ask for more.
    shown, options = [], {"nested": True, "norm": norm}
    fem.multilevel(functionals, transfers, start, fem.relative(0.3), observer=shown.append, **options)
    for snapshot in shown[:1]:
        finer = fem.multilevel(functionals, transfers, start, fem.relative(1e-7), state=snapshot.state, **options)
        assert np.array_equal(finer.x, result.x) and finer.status is Status.STATIONARY


def climbed(fine, P=None, tolerance=0.0):
    """Return what the valley of Rosenbrock finds from its standard start, and the points where it was linearized."""
    seen, P = [], P or Transfer.identity(2)
    coarse = Watched(from_callables(2, rosen, rosen_der, rosen_hess_prod), seen.append)
    levels = levels_of([coarse, fine], [P], [1.0, 2.0], np.inf)
    norms = [Euclidean(level.functional.space) for level in levels]
    begin = Ascent(0, np.array([-1.2, 1.0]), first=10.0)
    found = begin.following(levels, norms, False, tolerance, Limits(1000, np.inf))
    assert found.status is None and found.level == 1
    return found.x, np.array(seen)


@pytest.mark.parametrize("centre", [(-1.0, 1.0), (0.0, 0.0), (0.6, 0.3), (1.0, 1.0)])
@pytest.mark.parametrize("offset", [1.0, 0.0])
def test_a_coarse_level_is_left_where_the_value_on_the_next_one_falls_no_more(centre, offset):
    fine = from_callables(2, lambda x: offset + np.sum((x - centre) ** 2), lambda x: 2.0 * (x - centre), None)
    x, seen = climbed(fine)
    distances = np.linalg.norm(seen - centre, axis=1)
    assert np.linalg.norm(x - centre) < 0.2 and any(np.array_equal(x, y) for y in seen)
    # Trial points that are not accepted may be closer.
    assert np.linalg.norm(x - centre) <= np.sort(distances)[2]
    # The minimum of the coarse level, (1, 1), is not waited for, unless the next one has the same, with the same value.
    assert (np.linalg.norm(seen - 1.0, axis=1).min() < 1e-6) == (centre == (1.0, 1.0) and offset == 0.0)


@pytest.mark.parametrize(
    ("above", "promised", "over"),
    [
        ([5.0, 4.0, 3.0, 2.0], 0.0, False),
        # Two steps are enough if the model agrees, five in any case; they may rise.
        ([5.0, 3.0, 3.0, 2.95], 0.1, True),
        ([5.0, 3.0, 3.0, 2.95], 0.4, False),
        ([5.0, 3.0, 3.1, 3.2], 0.1, True),
        ([5.0, 3.0, 2.95], 0.1, False),
        ([5.0, 3.0, 3.0, 2.99, 2.98, 2.97], np.inf, False),
        ([5.0, 3.0, 3.0, 2.99, 2.98, 2.97, 2.96], np.inf, True),
        # Of what is not finite there nobody knows the discretization.
        ([5.0, 4.0, np.inf, np.inf], 0.1, False),
        ([np.inf, np.inf, np.inf], 0.1, False),
    ],
)
def test_the_model_is_believed_when_two_steps_confirm_it(above, promised, over):
    # On the level itself values are lower by one: a tenth of that is not worth a step.
    values = [value - 1.0 if math.isfinite(value) else 3.0 for value in above]
    rows = [Step(k, value, 1.0, algebraic=math.sqrt(2.0 * promised)) for k, value in enumerate(values)]
    solve = Progress(np.ones(2), Steps(tuple(rows)), None, {"double": np.array(1.0)})
    table = np.array([above, np.full(len(above), np.nan)])
    state = Ascent(1, np.zeros(2), 3.0, 0.5, solve, table)
    assert state._over(0.0) == over and state._over(1.0)
    # This is what is remembered.
    again = Ascent.remembered(state.memory, 0.5)
    assert (again.level, again.first, again.radius, again.solve.memory["double"]) == (1, 3.0, 0.5, 1.0)
    assert again._over(0.0) == over
    for name in STEP_FIELDS:
        assert again.solve.steps.column(name) == pytest.approx(solve.steps.column(name), abs=0.0, nan_ok=True)
    assert np.array_equal(again.x, state.x) and np.array_equal(again.solve.x, solve.x)


@pytest.mark.parametrize(("load", "most"), [(1e4, PATIENCE + 1), (1e-12, 100)])
def test_a_coarse_level_is_left_when_it_sees_little_of_the_derivative(load, most):
    # The next level has one coefficient more, on which the derivative is `load`.
    fine = from_callables(3, lambda x: rosen(x[:2]) + load * x[2], lambda x: np.append(rosen_der(x[:2]), load), None)
    x, seen = climbed(fine, Transfer(sp.csr_array(np.eye(3, 2)), np.zeros(3)))
    assert x[2] == 0.0 and len(seen) <= most
    assert (np.linalg.norm(x[:2] - 1.0) < 1e-8) == (most == 100)


def test_a_coarse_level_is_left_at_the_tolerance():
    fine = from_callables(2, rosen, rosen_der, rosen_hess_prod)
    for tolerance in (fem.relative(0.1), 1e-2):
        x, _ = climbed(fine, tolerance=tolerance)
        exact, _ = climbed(fine)
        assert exact == pytest.approx(np.ones(2), abs=1e-10) and 0.0 < rosen(x) < 0.2
        assert np.linalg.norm(rosen_der(x)) <= 1.0 or tolerance == 1e-2


def test_levels_whose_iterates_are_of_no_use_on_the_finest_one_are_passed():
    functionals, transfers, start = flows((2, 4, 8, 16))
    x, calls = prolonged(transfers, start), []

    class Blind(Watched):
        def linearize(self, x):
            self.report(x)
            nan = from_callables(len(x), lambda x: np.nan, lambda x: x, None)
            return (nan if len(calls) == 2 else self.functional).linearize(x)

    blind = Blind(functionals[-1], calls.append)
    costs = [1.0, 2.0, 4.0, 8.0]
    result = fem.multilevel([*functionals[:-1], blind], transfers, start, 1e-8, nested=True, costs=costs)
    # Besides that of the start there is a row of the third level only.
    assert result.status is Status.CONVERGED and np.isnan(result.steps.column("length")).sum() == 3
    assert np.isfinite(result.steps.column("value")).all() and result.value < functionals[-1].value(x)


@pytest.mark.parametrize("nested", [True, False, "watched"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dense", [True, False])
def test_a_solve_goes_on_bit_for_bit_from_any_snapshot(family, dense, nested):
    functionals, transfers, start = FAMILIES[family]()
    x, watch = start if nested else prolonged(transfers, start), nested == "watched"

    def solve(**more):
        options = {"nested": bool(nested), "watch": watch, "curvature": True, "dense": dense}
        options["max_steps"] = 24 if watch else 12
        return fem.multilevel(functionals, transfers, x, 0.0, **options, **more)

    shown = []
    whole = solve(observer=shown.append)
    assert {row.inner == 0 for row in whole.steps[1:]} == {True, False}
    for snapshot in shown:
        again = solve(state=snapshot.state)
        assert np.array_equal(again.x, whole.x)
        assert [dataclasses.replace(row, seconds=0.0) for row in again.steps].__repr__() == [
            dataclasses.replace(row, seconds=0.0) for row in whole.steps
        ].__repr__()


def test_results_do_not_depend_on_the_number_of_threads():
    functionals, transfers, start = flows()
    threads, found = numba.get_num_threads(), []
    try:
        for count in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
            numba.set_num_threads(count)
            found.append(fem.multilevel(functionals, transfers, start, 0.0, nested=True, max_steps=6).x)
    finally:
        numba.set_num_threads(threads)
    assert np.array_equal(*found)


def test_where_the_coarse_functional_is_wrong_the_fine_steps_find_the_minimum():
    functionals, P = flawed(1e3)
    result = fem.multilevel(functionals, [P], np.zeros(6), 1e-10)
    assert result.status.converged and result.x == pytest.approx(1.0 / np.array([1.0, 1.0, 2.0, 2.0, 3.0, 3.0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_coarse_functional_that_is_not_finite_is_left_alone(bad):
    functionals, P = flawed(1.0)
    broken = from_callables(3, lambda x: bad, lambda x: x, lambda x, v: v)
    result = fem.multilevel([broken, functionals[1]], [P], np.zeros(6), 1e-10)
    assert result.status.converged
    fine = from_callables(6, lambda x: bad, lambda x: x, lambda x, v: v)
    assert fem.multilevel([functionals[0], fine], [P], np.zeros(6)).status is Status.NOT_FINITE


def test_a_limit_on_the_time_stops_on_a_coarse_level_and_it_goes_on_from_there():
    functionals, transfers, start = flows()
    # Some steps are taken on machines of any speed, and not all.
    slow = Watched(functionals[0], lambda x: time.sleep(0.1))
    levels, costs = [slow, *functionals[1:]], [1.0, 2.0, 4.0]
    options = {"nested": True, "costs": costs, "dense": False}
    # This one first: that kernels are loaded takes time, too.
    whole = fem.multilevel(functionals, transfers, start, 1e-8, **options)
    stopped = fem.multilevel(levels, transfers, start, 1e-8, max_seconds=0.8, **options)
    assert stopped.status is Status.TIME_LIMIT and len(stopped.steps) == 2 and stopped.steps[1].work > 1.0
    assert stopped.value < functionals[-1].value(prolonged(transfers, start))
    assert stopped.resumable.progress.memory["level"] == 0.0
    # The time of the level so far counts once.
    seconds = stopped.steps[-1].seconds + 0.8
    further = fem.multilevel(levels, transfers, start, 1e-8, max_seconds=seconds, state=stopped.resumable, **options)
    assert further.status is Status.TIME_LIMIT and further.steps[2].work > stopped.steps[1].work + 2.0
    result = fem.multilevel(functionals, transfers, start, 1e-8, state=stopped.resumable, **options)
    assert result.status is Status.CONVERGED and np.isnan(result.steps.column("length")).sum() == 4
    assert result.value == whole.value and np.array_equal(result.x, whole.x)


def test_statuses_and_limits():
    functionals, transfers, start = flows()
    x = prolonged(transfers, start)

    def solve(tolerance=1e-8, **more):
        return fem.multilevel(functionals, transfers, x, tolerance, **more)

    assert solve(max_steps=0).status is Status.STEP_LIMIT
    assert solve(max_seconds=0.0).status is Status.TIME_LIMIT
    result = solve(max_steps=3)
    assert result.status is Status.STEP_LIMIT and [row.number for row in result.steps] == [0, 1, 2, 3]
    relative = solve(fem.relative(1e-2))
    norms = relative.steps.column("dual_norm")
    assert (
        relative.status is Status.STATIONARY and norms[-1] <= 1e-2 * norms[0] and (norms[1:-1] > 1e-2 * norms[0]).all()
    )
    assert solve(0.0, max_steps=200).status.final
    # The metric may depend on the point.
    assert solve(norm=jacobi, dense=False).status is Status.CONVERGED
    assert solve(norm=lambda space, here: Pullback(space, here, delta=1e-2), dense=False).status is Status.CONVERGED


@pytest.mark.parametrize("after", [1, 2, 3, 4, 9])
def test_an_interrupt_on_a_coarse_level_returns_a_fine_iterate_from_which_it_goes_on(after):
    functionals, transfers, start = flows()
    calls, shown = [], []

    def stop(x):
        calls.append(x)
        if len(calls) == after:
            raise KeyboardInterrupt

    def solve(level, **more):
        watched = [*functionals[:level], Watched(functionals[level], stop), *functionals[level + 1 :]]
        return fem.multilevel(watched, transfers, start, 1e-8, costs=[1.0, 2.0, 4.0], nested=True, **more)

    calls.extend([None] * after)
    whole = solve(2)
    for level in (0, 1):
        calls.clear()
        shown.clear()
        with pytest.raises(fem.Interrupted) as caught:
            solve(level, observer=shown.append)
        result = caught.value.result
        begin, snapshot = shown[0], shown[-1]
        assert snapshot.state.progress.status is result.status is Status.INTERRUPTED
        assert np.array_equal(snapshot.x, result.x) and len(result.x) == functionals[-1].space.dim
        assert result.value == functionals[2].value(result.x) and result.algebraic == np.inf
        # The level has not seen anything yet, or what it has found comes with its work.
        assert np.array_equal(begin.x, prolonged(transfers, start)) and begin.step.work == 1.0
        assert (result.value < begin.step.value) == (after > 2)
        assert (result.steps[-1].work > 2.0) == (after > 1)
        resumed = solve(2, state=result.resumable)
        assert resumed.status is Status.CONVERGED
        assert resumed.steps[: len(result.steps)].__repr__() == result.steps[:].__repr__()
        # The row of the interrupt is one more, and what follows is the same, bit for bit.
        assert resumed.value == whole.value and np.array_equal(resumed.x, whole.x)
        assert len(resumed.steps) == len(whole.steps) + 1
        # What the observer was shown last is the same state, bit for bit.
        assert np.array_equal(solve(2, state=snapshot.state).x, resumed.x)


# Norms and transfers


@pytest.mark.parametrize(
    "norm",
    [
        fem.L2,
        lambda space: fem.H1(space) if space.degree else fem.L2(space),
        Euclidean,
        lambda space: Weighted(space, np.geomspace(0.1, 10.0, space.dim)),
        lambda space: MatrixNorm(np.diag(np.arange(1.0, space.dim + 1.0)) + 0.1),
    ],
)
@pytest.mark.parametrize("degree", [0, 1])
def test_coarse_norms_are_lengths_of_prolongations(norm, degree):
    coarse = fem.FlowSpace(2, 2, 1, (0.0, 0.1, 0.5, 1.0), degree=degree)
    fine, P = fem.bisect(coarse, [0, 2])
    found = galerkin(norm(fine), P, coarse)
    check_norm(found)
    dense = P.matrix.toarray()
    assert found.dense() == pytest.approx(dense.T @ norm(fine).dense() @ dense, rel=1e-12, abs=1e-14)


def test_norms_stay_cheap_where_they_nest():
    coarse = fem.FlowSpace.uniform(2, 2, 1, 3)
    fine, P = fem.bisect(coarse, [0, 2])
    assert isinstance(galerkin(fem.L2(fine), P, coarse), type(fem.L2(coarse)))
    assert isinstance(galerkin(Euclidean(fine), P, coarse), Weighted)
    # With another transfer the norm of the coarse space would be wrong.
    doubled = Transfer(2.0 * P.matrix, P.offset)
    v = np.ones(coarse.dim)
    assert galerkin(fem.L2(fine), doubled, coarse).norm(v) == pytest.approx(2.0 * fem.L2(coarse).norm(v))
    with pytest.raises(ValueError, match=r"^transfer: got shape"):
        galerkin(fem.L2(coarse), P, coarse)


def test_prolongations_are_between_flows_that_differ_in_their_meshes_only():
    coarse, fine = (fem.FlowSpace.uniform(2, 2, 1, n, 4 * n) for n in (2, 4))
    x = coarse.initial(0)
    assert fine.theta(fem.prolongation(coarse, fine)(x)) == pytest.approx(np.repeat(coarse.theta(x), 2, axis=0))
    with pytest.raises(ValueError, match="^fine: got 3 cells, expected a refinement of the 2"):
        fem.prolongation(coarse, fem.FlowSpace.uniform(2, 2, 1, 3))
    with pytest.raises(ValueError, match="^fine: got .* with other meshes"):
        fem.prolongation(coarse, fem.FlowSpace.uniform(2, 3, 1, 4))
    with pytest.raises(ValueError, match="^fine: got 4 cells"):
        fem.prolongation(coarse, fem.FlowSpace.uniform(2, 2, 1, 4, T=2.0))


# Wrong arguments


def test_levels_that_do_not_fit_are_refused():
    functionals, transfers, start = flows()
    x = prolonged(transfers, start)
    with pytest.raises(ValueError, match="^functionals: got 1, expected at least two.*trust_region"):
        fem.multilevel(functionals[-1:], [], x)
    with pytest.raises(ValueError, match="^transfers: got 1 for 3 functionals, expected one less"):
        fem.multilevel(functionals, transfers[:1], x)
    for wrong in ((functionals, transfers[::-1]), (functionals[::-1], transfers), (functionals[::-1], transfers[::-1])):
        with pytest.raises(ValueError, match="^transfers: number 0 has shape .*from coarse to fine"):
            fem.multilevel(*wrong, x)
    lost = Transfer(sp.csr_array(transfers[0].matrix.toarray() * (np.arange(len(start)) != 3)), transfers[0].offset)
    with pytest.raises(ValueError, match="^transfers: number 0 maps coefficient 3 to zero"):
        fem.multilevel(functionals, [lost, transfers[1]], x)
    # Only the state mesh is refined, so that the order cannot be seen from dimensions.
    fine, P = fem.refine_states(functionals[0].space, [0, 1])
    pair = [functionals[0], functionals[0].on(space=fine)]
    with pytest.raises(ValueError, match="^functionals: got gradients that cost .*coarse to fine"):
        fem.multilevel(pair[::-1], [P], start)
    assert fem.multilevel(pair, [P], start, 1e-6).status.converged


def test_levels_of_another_kind_are_refused():
    functionals, transfers, start = flows()
    J, P, x = functionals[-1], transfers[-1], prolonged(transfers, start)
    for wrong in (J, quadratic(np.eye(2), np.ones(2)), None):
        with pytest.raises(ValueError, match=f"^functionals: got one {type(wrong).__name__}, expected a list"):
            fem.multilevel(wrong, transfers, x)
    with pytest.raises(ValueError, match="^functionals: number 1 is a FlowSpace, expected functionals$"):
        fem.multilevel([functionals[0], functionals[1].terms[0].space, J], transfers, x)
    for wrong in (P, P.matrix, P.matrix.toarray()):
        with pytest.raises(ValueError, match=f"^transfers: got one {type(wrong).__name__}, expected a list"):
            fem.multilevel(functionals[1:], wrong, x)
    for wrong in (P.matrix, P.matrix.toarray(), lambda x: x):
        with pytest.raises(
            ValueError, match=rf"^transfers: number 0 is a {type(wrong).__name__}, expected transfers \("
        ):
            fem.multilevel(functionals[1:], [wrong], x)


def test_other_arguments_that_do_not_fit_are_refused():
    functionals, transfers, start = flows()
    x = prolonged(transfers, start)
    bad = {
        "cycle": ["W", None],
        "smoothing": [0, 1.5, True],
        "costs": [[1.0, 2.0], [1.0, -1.0, 2.0], [1.0, np.nan, 2.0], "abc", 1.0],
        "max_steps": [-1],
        "tolerance": [-1.0, None],
        "norm": [Euclidean(functionals[0].space)],
    }
    for name, values in bad.items():
        for value in values:
            with pytest.raises(ValueError, match=rf"^{name}: got"):
                fem.multilevel(functionals, transfers, x, **{name: value})
    with pytest.raises(ValueError, match="^functionals: got gradients that cost"):
        fem.multilevel(functionals, transfers, x, costs=[3.0, 2.0, 1.0])
    with pytest.raises(ValueError, match="^x: got shape"):
        fem.multilevel(functionals, transfers, start)
    with pytest.raises(ValueError, match="^x: got shape"):
        fem.multilevel(functionals, transfers, x, nested=True)
