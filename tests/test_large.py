"""Large samples: float32 storage, tiles within a memory budget, least-squares systems that become triangles."""

import tracemalloc

import numpy as np
import pytest

from dnnfem.archive import Archive
from dnnfem.estimators import hierarchical
from dnnfem.functionals import Sum, Tikhonov, condense
from dnnfem.kernels.compiled import rows
from dnnfem.norms import Euclidean
from dnnfem.problems import Classification, Regression
from dnnfem.quadrature import Quadrature
from dnnfem.refinement import ridge_candidates
from dnnfem.solvers import gauss_newton, trust_region
from dnnfem.spaces import FeedforwardSpace

SPACE = FeedforwardSpace(3, (6, 4), 2)


def table(rng, count=700, dtype=np.float32):
    points = rng.uniform(-2.0, 3.0, (count, 3)).astype(dtype)
    wave = np.sin(points[:, :1] * points[:, 1:2])
    return points, np.hstack([wave + points[:, 2:], wave * wave - points[:, :1]]).astype(dtype)


@pytest.fixture
def compressed(monkeypatch):
    """Keep the rows of no system that has more rows than columns."""
    monkeypatch.setattr(rows, "DENSE", 0)
    monkeypatch.setattr(rows, "FEWEST_ROWS", 64)


def test_samples_in_single_precision_give_the_same_bits_as_their_copies_in_double(rng):
    points, targets = table(rng)
    single, double = Regression(points, targets), Regression(points.astype(float), targets.astype(float))
    assert single.quadrature.points.dtype == np.float32
    x, v = SPACE.initial(1), rng.standard_normal((SPACE.dim, 3))
    for name in ("input_shift", "input_scale", "output_shift", "output_scale"):
        assert np.array_equal(getattr(single.ansatz, name), getattr(double.ansatz, name))
    one, two = (problem.on(SPACE).linearize(x) for problem in (single, double))
    assert one.value == two.value and np.array_equal(one.derivative, two.derivative)
    assert np.array_equal(one.hessian(v), two.hessian(v)) and np.array_equal(one.gram(), two.gram())
    assert np.array_equal(one.system().matrix, two.system().matrix)
    unseen = points[:50] + 0.25
    assert np.array_equal(single.solution(SPACE, x)(unseen), double.solution(SPACE, x)(unseen.astype(float)))


def test_classes_of_samples_in_single_precision(rng):
    points, _ = table(rng)
    labels = (points[:, 0] > points[:, 1]).astype(int) + (points[:, 2] > 0)
    one, two = Classification(points, labels), Classification(points.astype(float), labels)
    space = FeedforwardSpace(3, (5,), 3)
    x = space.initial(0)
    assert one.on(space).value(x) == two.on(space).value(x)
    assert np.array_equal(one.on(space).linearize(x).derivative, two.on(space).linearize(x).derivative)


@pytest.mark.parametrize("memory", [0, 100_000, 10**9])
def test_the_memory_is_not_exceeded_and_does_not_change_a_bit(rng, memory):
    points, targets = table(rng, 40_000)
    problem = Regression(points, targets, memory=memory)
    x, v = SPACE.initial(1), rng.standard_normal((SPACE.dim, 4))

    def results(functional):
        here = functional.linearize(x)
        return here.value, here.derivative, here.curvature(v), here.hessian(v), here.gram()

    # First without the trace: loading the kernels takes memory as well.
    expected = results(Regression(points, targets).on(SPACE))
    tracemalloc.start()
    found = results(problem.on(SPACE))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(np.array_equal(one, two) for one, two in zip(found, expected, strict=True))
    # The sums of all groups for all directions, and the rows that a Gram matrix multiplies at a time (buffers come in
    # fours, of which it touches one).
    least = 8 * (32 * SPACE.dim * SPACE.dim + 5 * rows.ENTRIES)
    assert peak < 1.5 * memory + least
    if memory < 10**9:
        kept = 8 * len(points) * 4 * (3 + 6 + 4 + 2)
        assert peak < 0.5 * kept


def test_a_problem_holds_no_copy_of_large_samples(rng):
    points, targets = table(rng, 1_000_000)
    tracemalloc.start()
    problem = Regression(points, targets)
    functional = problem.on(SPACE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert functional.quadrature is problem.quadrature
    assert np.shares_memory(problem.inputs, points) and np.shares_memory(problem.targets, targets)
    assert peak < 0.3 * (points.nbytes + targets.nbytes)


def test_a_subset_keeps_type_and_total_weight_and_costs_what_it_holds(rng):
    points, targets = table(rng, 100_000)
    quadrature = Quadrature.samples(points, targets)
    index = rng.choice(len(points), 500, replace=False)
    tracemalloc.start()
    part = quadrature.subset(index)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert part.points.dtype == part.data.dtype == np.float32
    assert np.array_equal(part.points, points[index]) and np.array_equal(part.data, targets[index])
    assert part.total == pytest.approx(quadrature.total)
    assert peak < 200 * len(index)
    assert np.array_equal(part.cells, index)


def test_a_compressed_system_is_the_system(rng, monkeypatch):
    points, targets = table(rng)
    functional = Regression(points, targets).on(SPACE)
    x, d = SPACE.initial(1), rng.standard_normal(SPACE.dim)
    full = functional.linearize(x).system()
    monkeypatch.setattr(rows, "DENSE", 0)
    monkeypatch.setattr(rows, "FEWEST_ROWS", 64)
    small = functional.linearize(x).system()
    assert small.shape[0] <= SPACE.dim + 1 < full.shape[0] and small.samples == full.samples == 2 * len(points)
    assert small.value == pytest.approx(full.value, rel=1e-12)
    assert small.derivative == pytest.approx(full.derivative, rel=1e-10, abs=1e-12)
    assert small.curvature(d) == pytest.approx(full.curvature(d), rel=1e-10, abs=1e-12)
    assert small.lengths == pytest.approx(full.lengths, rel=1e-12)
    families = [system.steps(Euclidean(SPACE)) for system in (small, full)]
    for radius in (1e-2, 1.0, 1e3):
        one, two = (family(radius) for family in families)
        assert one.decrease == pytest.approx(two.decrease, rel=1e-9)
        assert one.step == pytest.approx(two.step, rel=1e-6, abs=1e-9)
    # An original row vector, compressed: same derivative, and the same least-squares fit.
    values = rng.standard_normal(full.shape[0])
    moved = functional.linearize(x).pull(values)
    assert moved == pytest.approx(full.matrix.T @ values, rel=1e-10, abs=1e-12)
    with pytest.raises(ValueError, match="rows were compressed"):
        small.leverage()


@pytest.mark.parametrize("condensed", [False, True])
def test_a_solver_takes_the_same_steps_with_compressed_systems(rng, monkeypatch, condensed):
    points, targets = table(rng)
    functional = Sum(Regression(points, targets).on(SPACE), Tikhonov(SPACE, Euclidean, 1e-6))
    results = []
    for limit in (rows.DENSE, 0):
        monkeypatch.setattr(rows, "DENSE", limit)
        J = condense(functional) if condensed else functional
        x = SPACE.initial(1)[J.inner] if condensed else SPACE.initial(1)
        results.append(gauss_newton(J, x, 0.0, max_steps=6))
    one, two = results
    values = [[step.value for step in result.steps] for result in results]
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    assert one.x == pytest.approx(two.x, rel=1e-4, abs=1e-5)


def test_estimates_do_not_depend_on_compression(rng, monkeypatch):
    points, targets = table(rng)
    problem, space = Regression(points, targets), FeedforwardSpace(3, (5,), 2)
    functional = problem.on(space)
    x = trust_region(functional, space.initial(1), curvature=True, max_steps=20).x
    estimates = []
    for limit in (rows.DENSE, 0):
        monkeypatch.setattr(rows, "DENSE", limit)
        estimates.append(hierarchical(functional, x, ridge_candidates(space, problem.quadrature, seed=0)))
    one, two = estimates
    assert one.total == pytest.approx(two.total, rel=1e-6)
    assert one.indicators == pytest.approx(two.indicators, rel=1e-5, abs=1e-8 * one.total)


@pytest.mark.usefixtures("compressed")
def test_neither_threads_nor_memory_change_a_compressed_system(rng):
    points, targets = table(rng)
    x, systems = SPACE.initial(1), []
    for memory in (0, 150_000, 10**9):
        systems.append(Regression(points, targets, memory=memory).on(SPACE).linearize(x).system())
    for system in systems[1:]:
        assert np.array_equal(system.matrix, systems[0].matrix)
        assert np.array_equal(system.residual, systems[0].residual)


def test_an_archive_tells_single_from_double_precision(rng, tmp_path):
    points, targets = table(rng)
    problem, path = Regression(points, targets), tmp_path / "run.h5"
    x = SPACE.initial(1)
    archive = Archive.open(path, problem, SPACE, x)
    result = gauss_newton(problem.on(SPACE), x, max_steps=2, observer=archive)
    again = Archive.open(path, problem, SPACE, x).level
    assert np.array_equal(again.state.progress.x, result.x)
    with pytest.raises(ValueError, match="data"):
        Archive.open(path, Regression(points.astype(float), targets.astype(float)), SPACE, x)


def test_a_memory_map_stays_on_the_disk(rng, tmp_path):
    points, targets = table(rng, 5000)
    np.save(tmp_path / "points.npy", points)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    problem = Regression(mapped, targets)
    assert np.shares_memory(problem.inputs, mapped)
    x = SPACE.initial(0)
    assert problem.on(SPACE).value(x) == Regression(points, targets).on(SPACE).value(x)


@pytest.mark.parametrize("memory", [-1, 1.5, True, "1 GB"])
def test_a_budget_is_a_number_of_bytes(rng, memory):
    with pytest.raises(ValueError, match="memory: got .*expected a number of bytes"):
        Regression(*table(rng), memory=memory).on(SPACE)
