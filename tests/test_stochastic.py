"""Frobenius-type norms, minibatch steps with computed sizes, and the sampling error."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import scipy.sparse as sp

from dnnfem.archive import Archive
from dnnfem.estimators import sampling
from dnnfem.functionals import Scaled, Sum, Tikhonov, from_callables
from dnnfem.functionals.sampling import on_samples, quadrature_of
from dnnfem.kernels.program import Block, Program, Stage
from dnnfem.norms import Euclidean, Frobenius, Pullback, frobenius
from dnnfem.problems import Classification, Regression
from dnnfem.records import Status
from dnnfem.solvers import stochastic, trust_region
from dnnfem.solvers.minibatch import Batches, Means, first_step
from dnnfem.spaces import FeedforwardSpace
from dnnfem.testing import check_norm

SPACE = FeedforwardSpace(2, (6,), 1)


def table(count=1000, seed=0, noise=0.1):
    random = np.random.default_rng(seed)
    points = random.uniform(-1.0, 1.0, (count, 2))
    return points, np.sin(2.0 * points[:, 0]) * points[:, 1] + noise * random.standard_normal(count)


@dataclass(frozen=True)
class Affine:
    """Affine functions of two variables."""

    dim, inputs, outputs, condensable = 3, 2, 1, None

    @property
    def program(self):
        """One stage."""
        return Program((2, 1), (Stage(1, 0, 0),), (Block(1, 2, 0),), sp.csr_array(sp.eye_array(3)), np.zeros(3))


def linear(count=600, seed=0, noise=0.5, weights=None):
    """Return linear regression in three coefficients: a quadratic functional."""
    random = np.random.default_rng(seed)
    points = random.standard_normal((count, 2)) @ np.diag([1.0, 0.3])
    targets = points @ [1.0, -2.0] + noise * random.standard_normal(count)
    return Regression(points, targets, weights).on(Affine())


def blocks(space, x):
    """Return weights with the bias as the last column."""
    return [
        np.column_stack([x[b.start : b.bias_start].reshape(b.rows, b.columns), x[b.bias_start : b.stop]])
        for b in space.blocks
    ]


# Norms


@pytest.mark.parametrize("outputs", [True, False])
@pytest.mark.parametrize("hidden", [(5,), (4, 3)])
def test_a_frobenius_norm_is_a_norm(hidden, outputs, rng):
    space = FeedforwardSpace(2, hidden, 2)
    points, targets = table(200)
    functional = Regression(points, np.column_stack([targets, targets**2])).on(space)
    norm = frobenius(functional, outputs=outputs)(space, functional.linearize(space.initial(1)))
    check_norm(norm)
    v = rng.standard_normal(space.dim)
    assert norm.dense() @ v == pytest.approx(norm.apply(v), rel=1e-12)
    assert norm.dense() == pytest.approx(norm.root().T @ norm.root(), rel=1e-10, abs=1e-12)


def test_without_outputs_the_norm_is_the_mean_square_of_what_layers_do(rng):
    space, (points, targets) = FeedforwardSpace(2, (4, 3), 1), table(300)
    problem = Regression(points, targets)
    functional, x = problem.on(space), space.initial(2)
    norm = frobenius(functional, outputs=False, damping=1e-12)(space, functional.linearize(x))
    v = rng.standard_normal(space.dim)
    y, total = problem.ansatz.reference(points), 0.0
    for number, (own, change) in enumerate(zip(blocks(space, x), blocks(space, v), strict=True)):
        full = np.column_stack([y, np.ones(len(y))])
        total += np.mean(np.sum((full @ change.T) ** 2, axis=1))
        y = np.tanh(full @ own.T) if number < 2 else full @ own.T
    assert norm.inner(v, v) == pytest.approx(total, rel=1e-9)


def test_for_one_layer_the_norm_is_the_curvature(rng):
    functional, x = linear(), rng.standard_normal(3)
    norm = frobenius(functional, damping=1e-12)(functional.space, functional.linearize(x))
    v = rng.standard_normal(x.size)
    assert norm.apply(v) == pytest.approx(functional.linearize(x).curvature(v), rel=1e-9)


def test_a_frobenius_norm_needs_a_network():
    with pytest.raises(ValueError, match=r"^functional: got External .*expected one with an integral"):
        frobenius(from_callables(2, lambda x: x @ x, lambda x: 2.0 * x))
    for name, value in (("damping", 0.0), ("damping", math.inf), ("count", 0), ("count", 1.5)):
        with pytest.raises(ValueError, match=f"^{name}: got"):
            frobenius(linear(), **{name: value})


# Functionals on samples


@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_over_all_batches_is_the_functional(weighted, rng):
    weights = rng.uniform(0.1, 3.0, 600) if weighted else None
    integral = linear(weights=weights)
    functional = Sum(Scaled(integral, 2.0), Tikhonov(integral.space, Euclidean, 0.1))
    x = rng.standard_normal(3)
    assert quadrature_of(functional) is integral.quadrature
    parts = [on_samples(functional, index).linearize(x) for index in np.split(rng.permutation(600), 12)]
    assert np.mean([part.value for part in parts]) == pytest.approx(functional.value(x), rel=1e-12)
    mean = np.mean([part.derivative for part in parts], axis=0)
    assert mean == pytest.approx(functional.linearize(x).derivative, rel=1e-11, abs=1e-12)


def test_samples_are_asked_of_what_has_some():
    with pytest.raises(ValueError, match=r"^functional: got External without samples"):
        quadrature_of(from_callables(2, lambda x: x @ x, lambda x: 2.0 * x))
    with pytest.raises(ValueError, match=r"^functional: got terms with different quadratures"):
        quadrature_of(Sum(linear(seed=1), linear(seed=2)))


def test_batches_go_through_all_samples_before_they_begin_again():
    functional = linear(count=100)
    batches, means, points = Batches(functional, 0), Means(np.zeros(3), np.zeros(3), np.zeros(3), batch=30), []
    for _ in range(6):
        batch, means = batches.next(means)
        points.append(batch.quadrature.points)
    first, second = np.vstack(points[:3]), np.vstack(points[3:])
    assert len(np.unique(first, axis=0)) == len(np.unique(second, axis=0)) == 90
    assert not np.array_equal(first, second)


# Means


def test_the_squared_mean_derivative_is_estimated_without_bias():
    random, norm = np.random.default_rng(3), Euclidean(SPACE)
    mean, estimates, plain = 0.2 * np.ones(SPACE.dim), [], []
    for _ in range(30):
        means = Means(np.zeros(SPACE.dim), mean, mean, step=1.0)
        for _ in range(150):
            means, _, _ = means.seen(mean + random.standard_normal(SPACE.dim), norm, 0.0)
        estimates.append(means.squared_mean)
        plain.append(means.length / means.counted)
    exact = float(mean @ mean)
    assert np.mean(estimates) == pytest.approx(exact, abs=3.0 * np.std(estimates) / math.sqrt(30))
    assert np.mean(plain) > 1.5 * exact


def test_batches_of_one_permutation_leave_less_noise():
    random, norm = np.random.default_rng(4), Euclidean(SPACE)
    gradients = 0.05 + random.standard_normal((256, SPACE.dim))
    batches = Batches(linear(count=256), 0)
    exact, estimates = float(np.sum(np.mean(gradients, axis=0) ** 2)), {}
    for correlation in (batches.correlation(32), 0.0):
        estimates[correlation] = []
        for _ in range(40):
            means = Means(np.zeros(SPACE.dim), np.zeros(SPACE.dim), np.zeros(SPACE.dim), step=1.0)
            for epoch in range(15):
                means = replace(means, epoch=epoch)
                for index in np.split(random.permutation(256), 8):
                    means, _, _ = means.seen(np.mean(gradients[index], axis=0), norm, correlation)
            estimates[correlation].append(means.squared_mean)
    aware, unaware = estimates.values()
    assert np.mean(aware) == pytest.approx(exact, abs=3.0 * np.std(aware) / math.sqrt(40))
    assert np.mean(unaware) < 0.9 * exact


def test_on_a_quadratic_functional_the_curvature_is_exact():
    functional = linear(noise=0.0)
    x, norm = np.ones(3), Euclidean(functional.space)
    here = functional.linearize(x)
    means, trials = first_step(functional, here, norm, Means(np.zeros(3), x, x, batch=64))
    descent = norm.riesz(here.derivative)
    exact = descent @ here.curvature(descent) / norm.inner(descent, descent)
    assert means.omega == pytest.approx(exact, rel=1e-6) and trials >= 1


def test_larger_batches_have_less_noise():
    means, random = Means(np.zeros(4), np.zeros(4), np.zeros(4), batch=64), np.random.default_rng(0)
    norm = Euclidean(FeedforwardSpace(1, (1,), 1))
    for _ in range(400):
        means, _, _ = means.seen(np.full(4, 0.5) + random.standard_normal(4), norm, 0.0)
    after = means.enlarged(256)
    noise = [m.single / m.counted - m.squared_mean for m in (means, after)]
    assert noise[1] == pytest.approx(noise[0] / 4.0, rel=1e-12)
    assert after.squared_mean == means.squared_mean and after.noise_factor > means.noise_factor


# The solver


def test_a_quadratic_functional_is_minimized_to_its_tolerance():
    functional = linear(count=2000)
    result = stochastic(functional, np.zeros(3), 1e-8)
    assert result.status is Status.CONVERGED
    system = functional.linearize(np.zeros(3)).system()
    best = np.linalg.lstsq(system.matrix, -system.residual, rcond=None)[0]
    assert result.x == pytest.approx(best, rel=1e-6)
    rows = [step for step in result.steps if math.isnan(step.algebraic)]
    assert len(rows) > 1 and len(result.steps) > len(rows)


@pytest.mark.parametrize("count", [500, 2000, 10_000])
def test_what_can_be_fitted_is_fitted_to_rounding(count):
    functional = linear(count=count, noise=0.0)
    result = stochastic(functional, np.zeros(3), 1e-12)
    assert result.status is Status.CONVERGED and result.value < 1e-25
    # From there no step is longer than rounding.
    again = stochastic(functional, result.x, 1e-12)
    assert again.status is Status.CONVERGED and len(again.steps) < 10


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_trust_region_takes_over_when_noise_no_longer_limits(noise):
    problem = Regression(*table(500, noise=noise))
    result = stochastic(problem.on(SPACE), SPACE.initial(0), 1e-2, max_work=400.0)
    handed = [math.isfinite(step.dual_norm) and not math.isnan(step.algebraic) for step in result.steps]
    assert any(handed) and handed == sorted(handed)
    assert result.status is Status.CONVERGED
    first = next(step.value for step, full in zip(result.steps, handed, strict=True) if full)
    # Of what the batches have left to gain most is gained; without noise the last valley is long.
    least = trust_region(problem.on(SPACE), result.x, 1e-6, curvature=True, max_steps=200).value
    assert result.value - least < (0.1 if noise else 0.5) * (first - least)


def test_with_noise_batches_grow():
    sizes = []
    functional = Regression(*table(4000, noise=2.0)).on(SPACE)

    def watch(snapshot):
        memory = snapshot.state.progress.memory
        if "batch" in memory:
            sizes.append(int(memory["batch"]))

    stochastic(functional, SPACE.initial(0), 0.0, max_work=30.0, observer=watch)
    assert sizes == sorted(sizes) and sizes[0] == 64 and len(set(sizes)) >= 3


@pytest.mark.parametrize("factor", [1e-6, 1e5])
def test_the_units_of_the_functional_do_not_matter(factor):
    functional = Regression(*table(1500)).on(SPACE)
    x = SPACE.initial(1)
    one, two = (stochastic(J, x, 0.0, max_work=10.0) for J in (functional, Scaled(functional, factor)))
    assert two.value == pytest.approx(factor * one.value, rel=1e-6)


def test_the_units_of_the_targets_do_not_matter():
    points, targets = table(1500)
    x = SPACE.initial(1)
    one, two = (
        stochastic(Regression(points, scale * targets).on(SPACE), x, 0.0, max_work=10.0) for scale in (1.0, 1024.0)
    )
    assert two.value == pytest.approx(one.value, rel=1e-6)


def test_single_precision_is_read_as_it_is():
    points, targets = (array.astype(np.float32) for array in table(1000))
    x = SPACE.initial(1)
    one = stochastic(Regression(points, targets).on(SPACE), x, 0.0, max_work=5.0)
    two = stochastic(Regression(points.astype(float), targets.astype(float)).on(SPACE), x, 0.0, max_work=5.0)
    assert np.array_equal(one.x, two.x)


def test_classes_are_learned():
    random = np.random.default_rng(0)
    points = random.standard_normal((3000, 2))
    labels = (points[:, 0] * points[:, 1] > 0).astype(int)
    problem, space = Classification(points, labels), FeedforwardSpace(2, (12,), 2)
    result = stochastic(problem.on(space), space.initial(0), 0.0, max_work=40.0)
    assert result.value < 0.2 < 0.6 < problem.on(space).value(space.initial(0))


def test_seeds_are_other_batches_and_the_same_seed_the_same_bits():
    functional, x = Regression(*table()).on(SPACE), SPACE.initial(0)
    one, same, other = (stochastic(functional, x, 0.0, max_work=4.0, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.x, same.x) and not np.array_equal(one.x, other.x)


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path):
    problem, x = Regression(*table(1000, noise=0.5)), SPACE.initial(0)
    functional, shown = problem.on(SPACE), []
    whole = stochastic(functional, x, 0.0, max_work=30.0, observer=shown.append)
    for snapshot in shown[:: max(1, len(shown) // 6)]:
        again = stochastic(functional, x, 0.0, state=snapshot.state, max_work=30.0)
        assert np.array_equal(again.x, whole.x) and len(again.steps) == len(whole.steps)
    for steps in (0, 4, len(whole.steps) - 2):
        # What a limit returns may be an average; what goes on is the iterate.
        cut = stochastic(functional, x, 0.0, max_work=30.0, max_steps=steps)
        again = stochastic(functional, x, 0.0, state=cut.resumable, max_work=30.0)
        assert np.array_equal(again.x, whole.x) and len(again.steps) == len(whole.steps)
    archive = Archive.open(tmp_path / "run.h5", problem, SPACE, x)
    stochastic(functional, x, 0.0, max_work=30.0, max_steps=4, observer=archive)
    level = Archive.open(tmp_path / "run.h5", problem, SPACE, x).level
    assert np.array_equal(stochastic(functional, level.x, 0.0, state=level.state, max_work=30.0).x, whole.x)


def test_limits_are_statuses():
    functional, x = Regression(*table(4000, noise=1.0)).on(SPACE), SPACE.initial(0)
    result = stochastic(functional, x, 0.0, max_work=3.0)
    assert result.status is Status.WORK_LIMIT and result.steps[-1].work <= 3.0
    assert result.value == pytest.approx(functional.value(result.x))
    assert stochastic(functional, x, 0.0, max_steps=2).status is Status.STEP_LIMIT
    assert stochastic(functional, x, 0.0, max_seconds=0.0).status is Status.TIME_LIMIT


def test_few_samples_are_left_to_the_trust_region():
    problem, x = Regression(*table(100)), SPACE.initial(0)
    result = stochastic(problem.on(SPACE), x, 0.0, max_steps=5)
    assert all(not math.isnan(step.algebraic) for step in result.steps)


def test_what_the_solver_refuses():
    functional = linear()
    with pytest.raises(ValueError, match="^functional: got External without samples"):
        stochastic(from_callables(2, lambda x: x @ x, lambda x: 2.0 * x), np.zeros(2))
    for name, value in (("max_work", -1.0), ("max_work", True), ("max_steps", -1), ("seed", -1), ("tolerance", -1.0)):
        with pytest.raises(ValueError, match=f"^{name}: got"):
            stochastic(functional, np.zeros(3), **{name: value})
    with pytest.raises(ValueError, match="^x: got shape"):
        stochastic(functional, np.zeros(4))


# The sampling error


def test_the_sampling_error_is_that_of_many_samples():
    distances, values, estimates = [], [], []
    for seed in range(40):
        functional = linear(count=400, seed=seed)
        ansatz, law = functional.ansatz, functional.law
        system = functional.linearize(np.zeros(3)).system()
        x = np.linalg.lstsq(system.matrix, -system.residual, rcond=None)[0]
        estimates.append(sampling(functional, x))
        # The exact coefficients, in the coordinates of this sample.
        slope = np.array([1.0, -2.0]) * ansatz.input_scale / law.scale
        shift = (np.array([1.0, -2.0]) @ ansatz.input_shift - law.shift[0]) / law.scale[0]
        exact = np.append(slope, shift)
        distances.append(Pullback(functional.space, functional.linearize(x)).norm(x - exact))
        values.append(functional.value(x))
    effectivity = math.sqrt(np.mean([e.total**2 for e in estimates]) / np.mean(np.square(distances)))
    assert 0.8 < effectivity < 1.25
    assert np.median([e.parts["derivative"] for e in estimates]) < 1e-8
    scale = np.mean(values)
    assert 0.5 < np.mean([e.parts["value"] for e in estimates]) / (scale * math.sqrt(2.0 / 400)) < 2.0


def test_the_sampling_error_falls_like_the_root_of_the_number():
    totals = []
    for count in (500, 8000):
        functional = linear(count=count)
        totals.append(sampling(functional, np.array([1.0, -1.0, 0.0])).total)
    assert totals[0] / totals[1] == pytest.approx(4.0, rel=0.35)


@pytest.mark.parametrize("groups", [1, True, 2.0])
def test_the_sampling_error_needs_groups(groups):
    with pytest.raises(ValueError, match="^groups: got"):
        sampling(linear(), np.zeros(3), groups=groups)


def test_a_default_norm_exists_for_large_networks():
    space = FeedforwardSpace(2, (600,), 1)
    functional = Regression(*table(200)).on(space)
    found = sampling(functional, space.initial(0))
    norm = frobenius(functional)(space, functional.linearize(space.initial(0)))
    assert isinstance(norm, Frobenius)
    assert found.parts["derivative"] == pytest.approx(norm.dual_norm(functional.linearize(space.initial(0)).derivative))
