"""Leave-one-out, generalized cross-validation and evidence against refits and closed forms."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import dnnfem
from dnnfem import FeedforwardSpace, Quadrature, Regression, Scaled, Sum, Tikhonov, from_callables, trust_region
from dnnfem.estimators import evidence, generalized_cross_validation, leave_one_out, penalty_weight
from dnnfem.estimators.laplace import LaplaceModel
from dnnfem.functionals import Integral
from dnnfem.kernels.compiled import CompiledEvaluator
from dnnfem.kernels.laws import Misfit
from dnnfem.kernels.program import Block, Program, Stage
from dnnfem.norms import Euclidean, Weighted
from dnnfem.norms.decay import weight_decay
from dnnfem.problems.ansatz import AffineAnsatz
from dnnfem.testing import convergence_order


@dataclass(frozen=True)
class Linear:
    """Affine functions: a network without hidden layers."""

    inputs: int
    outputs: int
    condensable = None

    @property
    def dim(self):
        return self.outputs * (self.inputs + 1)

    @property
    def program(self):
        block = Block(self.outputs, self.inputs, 0)
        embedding = sp.csr_array(sp.eye_array(self.dim))
        return Program((self.inputs, self.outputs), (Stage(1, 0, 0),), (block,), embedding, np.zeros(self.dim))


class SoftmaxLinearization:
    residual = slopes = None

    def __init__(self, labels, jet):
        u = jet[0]
        self.p = np.exp(u - logsumexp(u, axis=0))
        hot = np.arange(len(u))[:, None] == labels
        self.density = logsumexp(u, axis=0) - np.sum(u * hot, axis=0)
        self.derivative = (self.p - hot)[None]

    def hessian(self, jet):
        return self.p * (jet - np.sum(self.p * jet[0], axis=0))

    curvature = hessian


class Softmax:
    kind, components, affine = "loss", ((),), False

    def linearize(self, points, data, jet):
        return SoftmaxLinearization(data[:, 0], jet)


class Energy:
    """``L = u^2 / 2 - y u``: convex, and negative at its minimum."""

    kind, components, affine = "loss", ((),), False

    def linearize(self, points, data, jet):
        return EnergyLinearization(Misfit().linearize(points, data, jet), data)


@dataclass(frozen=True)
class EnergyLinearization:
    law: object
    data: np.ndarray
    residual = slopes = None

    @property
    def density(self):
        return self.law.density - 0.5 * np.sum(self.data**2, axis=1)

    @property
    def derivative(self):
        return self.law.derivative

    def hessian(self, jet):
        return jet

    curvature = hessian


def integral(space, points, data, weights=None, law=None, backend="reference"):
    """Return an integral without any scaling of inputs or outputs."""
    weights = np.full(len(points), 1.0 / len(points)) if weights is None else weights
    ansatz = AffineAnsatz(
        np.zeros(space.inputs), np.ones(space.inputs), np.zeros(space.outputs), np.ones(space.outputs)
    )
    return Integral(space, Quadrature(points, weights, data), ansatz, law or Misfit(), backend)


def without(functional, samples, sample):
    """Return a functional on all samples but one, weights as they are."""
    keep = np.arange(len(samples)) != sample
    return functional.on(quadrature=Quadrature(samples.points[keep], samples.weights[keep], samples.data[keep]))


def alone(one, x, sample):
    """Return the loss at one sample."""
    return one.samplewise(x)[sample] / one.quadrature.weights[sample]


def minimizer(functional):
    """Return the minimizer of a quadratic functional by dense linear algebra."""
    at = functional.linearize(np.zeros(functional.space.dim))
    return np.linalg.solve(at.hessian(np.eye(functional.space.dim)), -at.derivative)


def linear(rng, outputs=1, inputs=3, count=25, backend="reference"):
    """Return an integral on affine functions of random samples with random weights."""
    points, noise = rng.standard_normal((count, inputs)), rng.standard_normal((count, outputs))
    weights = rng.uniform(0.2, 1.0, count)
    return integral(Linear(inputs, outputs), points, points[:, :1] + noise, weights, backend=backend)


def penalized(data, rng, alpha=0.3):
    """Return the sum with a penalty in a norm that is not Euclidean, around a point that is not 0."""
    weights = rng.uniform(0.5, 2.0, data.space.dim)
    return Sum(
        Scaled(data, 1.7),
        Tikhonov(data.space, lambda s: Weighted(s, weights), alpha, rng.standard_normal(len(weights))),
    )


# ---- linear models


@pytest.mark.parametrize("hessian", ["full", "curvature"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_leave_one_out_is_exact_for_linear_models(outputs, hessian, backend, rng):
    data = linear(rng, outputs, backend=backend)
    functional = penalized(data, rng)
    x, samples = minimizer(functional), data.quadrature
    losses = np.array([alone(data, minimizer(without(functional, samples, k)), k) for k in range(len(samples))])
    share = samples.weights / np.sum(samples.weights)
    estimate = leave_one_out(functional, x, hessian=hessian, retrained=0)
    assert estimate.total == pytest.approx(math.sqrt(2.0 * np.sum(share * losses)), rel=1e-10)
    assert estimate.indicators == pytest.approx(np.sqrt(2.0 * share * losses), rel=1e-10)
    assert np.sum(estimate.indicators**2) == pytest.approx(estimate.total**2, rel=1e-12)
    assert estimate.cells.tolist() == list(range(len(samples)))
    assert estimate.parts["training"] == pytest.approx(math.sqrt(2.0 * data.value(x) / np.sum(samples.weights)))
    assert estimate.parts["algebraic"] < 1e-12
    spread = np.sum(share**2 * (losses - share @ losses) ** 2)
    assert estimate.parts["standard error"] == pytest.approx(math.sqrt(spread) / estimate.total)


def test_degrees_of_freedom_are_the_trace_of_the_hat_matrix(rng):
    data = linear(rng, 2)
    functional = penalized(data, rng)
    x = minimizer(functional)
    system = Scaled(data, 1.7).linearize(x).system().matrix
    hessian = functional.linearize(x).hessian(np.eye(len(x)))
    trace = np.trace(system @ np.linalg.solve(hessian, system.T))
    for estimator in (leave_one_out, generalized_cross_validation):
        assert estimator(functional, x).parts["degrees of freedom"] == pytest.approx(trace, rel=1e-10)


def test_without_a_penalty_the_degrees_of_freedom_are_the_coefficients(rng):
    data = linear(rng, 2)
    estimate = leave_one_out(data, minimizer(data))
    assert estimate.parts["degrees of freedom"] == pytest.approx(data.space.dim, rel=1e-10)
    assert estimate.remarks == ()


def test_the_estimate_does_not_depend_on_the_scale_of_the_functional(rng):
    data = linear(rng)
    functional = penalized(data, rng)
    x = minimizer(functional)
    first, second = (leave_one_out(j, x) for j in (functional, Scaled(functional, 100.0)))
    assert second.total == pytest.approx(first.total, rel=1e-12)
    assert second.parts == pytest.approx(first.parts, rel=1e-9, abs=1e-12)


def test_a_sample_that_occurs_twice_is_not_unseen(rng):
    data = linear(rng)
    samples, x = data.quadrature, minimizer(data)
    twice = integral(
        data.space, np.tile(samples.points, (2, 1)), np.tile(samples.data, (2, 1)), np.tile(samples.weights, 2) / 2.0
    )
    once, doubled = leave_one_out(data, x), leave_one_out(twice, x)
    # Each copy has half the leverage: the other one holds the fit.
    matrix = data.linearize(x).system()
    h, share = matrix.leverage(), samples.weights / np.sum(samples.weights)
    residual = matrix.residual / np.sqrt(samples.weights)
    assert doubled.total == pytest.approx(math.sqrt(np.sum(share * (residual / (1.0 - h / 2.0)) ** 2)), rel=1e-10)
    assert doubled.parts["degrees of freedom"] == pytest.approx(once.parts["degrees of freedom"], rel=1e-10)
    assert once.parts["training"] < doubled.total < once.total


def test_generalized_cross_validation_is_leave_one_out_where_all_samples_have_the_same_leverage():
    angle = 2.0 * np.pi * np.arange(12) / 12
    points = np.column_stack([np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)])
    data = integral(Linear(4, 1), points, np.exp(np.cos(angle) + np.sin(3 * angle))[:, None])
    functional = Sum(data, Tikhonov(data.space, Euclidean, 0.1))
    x = minimizer(functional)
    assert generalized_cross_validation(functional, x).total == pytest.approx(
        leave_one_out(functional, x).total, rel=1e-12
    )


def test_generalized_cross_validation_is_its_formula(rng):
    data = linear(rng, 2)
    functional = penalized(data, rng)
    x = minimizer(functional)
    estimate = generalized_cross_validation(functional, x)
    freedom, training = estimate.parts["degrees of freedom"], estimate.parts["training"]
    assert estimate.total == pytest.approx(training / (1.0 - freedom / 50.0), rel=1e-12)
    assert np.sum(estimate.indicators**2) == pytest.approx(estimate.total**2, rel=1e-12)


# ---- networks


def noisy(seed=0, count=60, noise=0.2):
    """Return a noisy regression in two variables."""
    random = np.random.default_rng(seed)
    points = random.uniform(-1.0, 1.0, (count, 2))
    values = np.sin(3.0 * points[:, 0]) * points[:, 1]
    return Regression(points, values + noise * np.std(values) * random.standard_normal(count))


def trained(problem, hidden=(5,), alpha=1e-3, seed=0, tolerance=1e-10):
    """Return a penalized functional and its minimizer."""
    space = FeedforwardSpace(2, hidden, 1)
    functional = Sum(problem.on(space), Tikhonov(space, weight_decay, alpha))
    return functional, trust_region(functional, space.initial(seed), tolerance).x


def solved(functional, x):
    """Return the minimizer next to x, to rounding."""
    for _ in range(3):
        at = functional.linearize(x)
        x = x - np.linalg.solve(at.hessian(np.eye(len(x))), at.derivative)
    return x


@pytest.mark.parametrize("law", [Misfit(), Softmax()], ids=["misfit", "softmax"])
def test_one_newton_step_is_right_to_first_order_in_the_weight_and_only_with_the_full_hessian(law, rng):
    space = FeedforwardSpace(2, (3,), 2)
    points = rng.uniform(-1.0, 1.0, (30, 2))
    data = (points[:, :1] > 0.0) * 1.0 if isinstance(law, Softmax) else rng.standard_normal((30, 2))
    penalty = Tikhonov(space, Euclidean, 0.02)

    def weighted(factor):
        weights = np.full(30, 1.0 / 30.0)
        weights[0] *= factor
        return Sum(integral(space, points, data, weights, law), penalty)

    start = trust_region(weighted(0.05), space.initial(1), 1e-9).x
    gone = solved(without(weighted(1.0), weighted(1.0).terms[0].quadrature, 0), start)
    exact = alone(weighted(1.0).terms[0], gone, 0)
    sizes = 0.01 * 0.5 ** np.arange(4)
    errors = {"full": [], "curvature": []}
    for size in sizes:
        functional = weighted(size)
        x = solved(functional, gone)
        for hessian, found in errors.items():
            model = LaplaceModel.at(functional, x, hessian)
            loss = model.integral.left_out(x, model.root, model.exact).losses[0]
            found.append(abs(loss - exact))
    assert convergence_order(sizes, errors["full"]) == pytest.approx(2.0, abs=0.15)
    assert convergence_order(sizes, errors["curvature"]) == pytest.approx(1.0, abs=0.15)


def test_leave_one_out_of_a_network_agrees_with_training_without_each_sample():
    full, curvature = [], []
    for seed in range(3):
        functional, x = trained(noisy(seed), seed=seed)
        data = functional.terms[0]
        losses = []
        for k in range(60):
            rest = without(functional, data.quadrature, k)
            losses.append(alone(data, trust_region(rest, x, 1e-10).x, k))
        exact = np.sqrt(2.0 * np.array(losses) / 60.0)
        total = np.linalg.norm(exact)
        for hessian, errors in (("full", full), ("curvature", curvature)):
            estimate = leave_one_out(functional, x, hessian=hessian, retrained=0)
            assert estimate.total == pytest.approx(total, rel=0.1)
            errors.append(np.median(np.abs(estimate.indicators - exact)) / total)
    # Exact to first order: what is left is the second.
    assert np.median(full) < 0.4 * np.median(curvature)


def test_both_backends_leave_out_alike(rng):
    space = FeedforwardSpace(2, (4, 3), 3)
    points, root = rng.uniform(-1.0, 1.0, (150, 2)), 0.3 * rng.standard_normal((space.dim, space.dim))
    x = space.initial(3)
    for law, data in ((Misfit(), rng.standard_normal((150, 3))), (Softmax(), rng.integers(0, 3, (150, 1)) * 1.0)):
        weights = rng.uniform(0.1, 1.0, 150) / 150.0
        one, two = (
            integral(space, points, data, weights, law, name).left_out(x, root) for name in ("reference", "compiled")
        )
        assert two.leverage == pytest.approx(one.leverage, rel=1e-11)
        assert two.margin == pytest.approx(one.margin, rel=1e-11, abs=1e-11)
        safe = one.margin > 1e-3
        assert np.count_nonzero(safe) > 30
        assert two.losses[safe] == pytest.approx(one.losses[safe], rel=1e-8)


def test_leaving_out_does_not_depend_on_the_memory_that_may_be_used(rng):
    space, points = FeedforwardSpace(2, (4, 3), 2), rng.uniform(-1.0, 1.0, (500, 2))
    data = integral(space, points, rng.standard_normal((500, 2)), backend="compiled")
    x, root, at = space.initial(3), 0.1 * rng.standard_normal((space.dim, 5)), data.evaluator
    small = CompiledEvaluator(at.program, at.quadrature, at.ansatz, at.law, memory=1)
    assert len(small.tiles.chunks) > 1
    for name in ("losses", "leverage", "margin"):
        one, two = (getattr(evaluator.left_out(x, root, True), name) for evaluator in (at, small))
        assert two == pytest.approx(one, rel=1e-12)


def test_the_margin_is_the_smallest_eigenvalue_and_beyond_zero_the_loss_is_infinite(rng):
    data = linear(rng, 2)
    x, root = np.zeros(data.space.dim), 0.3 * rng.standard_normal((data.space.dim, data.space.dim))
    first = data.left_out(x, root)
    system = data.linearize(x).system()
    rows = (system.matrix @ root).reshape(2, 25, -1)
    for k in range(25):
        block = rows[:, k] @ rows[:, k].T
        assert first.margin[k] == pytest.approx(1.0 - np.linalg.eigvalsh(block)[-1], rel=1e-10, abs=1e-10)
        assert first.leverage[k] == pytest.approx(np.trace(block), rel=1e-10)
        assert np.isinf(first.losses[k]) == (first.margin[k] <= 1e-8)
    assert 0 < np.count_nonzero(np.isinf(first.losses)) < 25


def test_without_a_sample_that_determines_its_own_fit_the_network_is_trained_again():
    points = np.append(np.random.default_rng(3).uniform(-1.0, 0.0, (40, 2)), [[1.0, 1.0]], axis=0)
    values = np.sin(3.0 * points[:, 0]) + 0.1 * np.random.default_rng(4).standard_normal(41)
    values[-1] = 3.0
    functional, x = trained(Regression(points, values), alpha=1e-3)
    data = functional.terms[0]
    again = trust_region(without(functional, data.quadrature, 40), x, 1e-8).x
    exact = math.sqrt(2.0 * alone(data, again, 40) / 41.0)
    estimate, first = leave_one_out(functional, x), leave_one_out(functional, x, retrained=0)
    assert estimate.parts["retrained"] >= 1.0 and first.parts["retrained"] == 0.0
    assert estimate.indicators[40] == pytest.approx(exact, rel=0.02)
    assert abs(first.indicators[40] - exact) > 0.1 * exact
    assert "determine most of their own fit" in estimate.remarks[0]
    others = estimate.indicators == first.indicators
    assert np.count_nonzero(~others) == estimate.parts["retrained"]


@pytest.mark.parametrize("alpha", [1e-2, 1e-4, 1e-6])
def test_training_again_is_as_good_where_next_to_nothing_is_left_of_the_curvature(alpha, rng):
    data = linear(rng, inputs=8, count=9)
    functional = Sum(data, Tikhonov(data.space, Euclidean, alpha))
    x = minimizer(functional)
    exact = leave_one_out(functional, x, retrained=0)
    estimate = leave_one_out(functional, x)
    assert estimate.parts["retrained"] >= 5.0
    assert estimate.indicators == pytest.approx(exact.indicators, abs=0.02 * exact.total)


# ---- what is said when an assumption fails


def test_a_minimizer_of_a_penalized_network_gives_no_reason_to_remark():
    functional, x = trained(noisy(1, 120), (3,), alpha=1e-2)
    for estimator in (leave_one_out, generalized_cross_validation, evidence):
        assert estimator(functional, x).remarks == ()
    assert leave_one_out(functional, x).parts["retrained"] == 0.0


def test_an_indefinite_hessian_is_said_and_the_curvature_takes_its_place():
    functional, _ = trained(noisy(), (5,), tolerance=1.0)
    x = functional.space.initial(0)
    assert np.linalg.eigvalsh(functional.linearize(x).hessian(np.eye(len(x))))[0] < -1e-6
    estimate, curvature = leave_one_out(functional, x), leave_one_out(functional, x, hessian="curvature")
    assert estimate.total == curvature.total
    for found in (estimate, generalized_cross_validation(functional, x), evidence(functional, x)):
        assert "negative eigenvalues" in found.remarks[0]
    assert not any("negative" in remark for remark in curvature.remarks)


def test_a_point_that_is_not_stationary_is_said(rng):
    data = linear(rng)
    functional = penalized(data, rng)
    x = minimizer(functional)
    away = x + 0.3 * rng.standard_normal(len(x))
    distance = math.sqrt(2.0 * (functional.value(away) - functional.value(x)) / (1.7 * np.sum(data.quadrature.weights)))
    for estimator in (leave_one_out, generalized_cross_validation):
        estimate = estimator(functional, away)
        assert estimate.parts["algebraic"] == pytest.approx(distance, rel=1e-10)
        assert distance > 0.1 * estimate.total and "x is not stationary" in estimate.remarks[-1]
        assert estimator(functional, x + 1e-3).remarks == ()
    assert "x is not stationary" in evidence(functional, away).remarks[-1]


def test_a_singular_hessian_is_said(rng):
    points = rng.standard_normal((20, 2))
    data = integral(Linear(3, 1), points[:, [0, 1, 1]], rng.standard_normal((20, 1)))
    same = integral(Linear(2, 1), points, data.quadrature.data)
    x = minimizer(same)
    estimate = leave_one_out(data, x[[0, 1, 1, 2]] * [1.0, 0.5, 0.5, 1.0])
    assert "singular in 1 directions" in estimate.remarks[0]
    assert estimate.total == pytest.approx(leave_one_out(same, x).total, rel=1e-8)


def test_of_a_fit_that_interpolates_nothing_is_claimed(rng):
    points = rng.standard_normal((5, 4))
    data = integral(Linear(4, 1), points, rng.standard_normal((5, 1)))
    x = minimizer(data)
    for retrained in (0, 10):
        estimate = leave_one_out(data, x, retrained=retrained)
        assert estimate.total == math.inf and "5 of them are interpolated" in estimate.remarks[-1]
    gcv = generalized_cross_validation(data, x)
    assert any("degrees of freedom of 5 values" in remark for remark in gcv.remarks)
    assert gcv.total == math.inf


def test_bad_arguments_are_refused(rng):
    data = linear(rng)
    functional, x = penalized(data, rng), np.zeros(data.space.dim)
    external = from_callables(1, residual=lambda x: x, jacobian=lambda x: np.eye(1))
    for estimator in (leave_one_out, generalized_cross_validation):
        for bad, words in (
            (Sum(data, data), "Sum with 2 integrals"),
            (external, "External with 0"),
            (Scaled(data, -1.0), "the factor -1.0"),
        ):
            with pytest.raises(ValueError, match=f"^functional: got .*{words}"):
                estimator(bad, x)
        with pytest.raises(ValueError, match="^hessian: got 'fisher'"):
            estimator(functional, x, hessian="fisher")
        with pytest.raises(ValueError, match="^x: got shape"):
            estimator(functional, x[1:])
    for retrained in (-1, 1.5, True):
        with pytest.raises(ValueError, match="^retrained: got"):
            leave_one_out(functional, x, retrained=retrained)
    for bad in (data, Sum(data, Tikhonov(data.space, Euclidean, 0.0)), Sum(functional, functional.terms[1])):
        with pytest.raises(ValueError, match="^functional: got .*expected the integral of a residual law and"):
            evidence(bad, x)
    for noise in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="^noise: got"):
            evidence(functional, x, noise=noise)


def test_losses_are_residuals_or_at_least_not_negative(rng):
    space = Linear(2, 1)
    data = integral(space, rng.standard_normal((10, 2)), 3.0 + rng.standard_normal((10, 1)), law=Energy())
    x = minimizer(data)
    with pytest.raises(ValueError, match="^functional: got losses down to -"):
        leave_one_out(data, x)
    with pytest.raises(ValueError, match="^functional: got a law of kind 'loss'"):
        generalized_cross_validation(data, x)
    with pytest.raises(ValueError, match="^functional: got Integral"):
        evidence(Sum(data, Tikhonov(space, Euclidean, 1.0)), x)


# ---- evidence


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_evidence_of_a_linear_model_is_the_marginal_likelihood(outputs, backend, rng):
    data = linear(rng, outputs, backend=backend)
    functional = penalized(data, rng)
    penalty, samples = functional.terms[1], data.quadrature
    x, noise = minimizer(functional), 0.7
    found = evidence(functional, x, noise=noise)
    relative = np.tile(samples.weights / np.mean(samples.weights), outputs)
    design = data.linearize(x).system().matrix / np.sqrt(np.tile(samples.weights, outputs))[:, None]
    unit = 1.7 * np.mean(samples.weights)
    prior = np.linalg.inv(penalty.norm.dense()) * noise**2 * unit / penalty.alpha
    covariance = noise**2 * np.diag(1.0 / relative) + design @ prior @ design.T
    mean = design @ penalty.x_ref
    exact = multivariate_normal.logpdf(samples.data.T.ravel(), mean, covariance)
    assert found.logarithm == pytest.approx(exact, rel=1e-10)
    assert found.noise == noise and found.remarks == ()
    best = evidence(functional, x)
    for factor in (0.99, 1.01):
        assert evidence(functional, x, noise=factor * best.noise).logarithm < best.logarithm
    assert evidence(functional, x, noise=best.noise).logarithm == pytest.approx(best.logarithm, rel=1e-12)


def test_well_determined_coefficients_are_those_that_the_penalty_does_not_hold(rng):
    data = linear(rng)
    for alpha in (1e-9, 0.1, 1e9):
        functional = Sum(data, Tikhonov(data.space, Euclidean, alpha))
        x = minimizer(functional)
        values = np.linalg.eigvalsh(data.linearize(x).hessian(np.eye(4)))
        found = evidence(functional, x)
        assert found.well_determined == pytest.approx(np.sum(values / (values + alpha)), rel=1e-6, abs=1e-9)


def test_the_fixed_point_of_the_updates_is_a_stationary_point_of_the_evidence(rng):
    data = linear(rng, count=40)

    def at(alpha):
        functional = Sum(Scaled(data, 2.0), Scaled(Tikhonov(data.space, Euclidean, alpha), 3.0))
        return evidence(functional, minimizer(functional))

    alpha = 1.0
    for _ in range(200):
        alpha = at(alpha).next_alpha
    found = at(alpha)
    assert found.next_alpha == pytest.approx(alpha, rel=1e-9)
    assert found.next_noise == pytest.approx(found.noise, rel=1e-9)
    lower, upper = (at(factor * alpha).logarithm for factor in (0.9, 1.1))
    assert found.logarithm > max(lower, upper)
    slope = (at(1.001 * alpha).logarithm - at(alpha / 1.001).logarithm) / (2.0 * math.log(1.001))
    bend = (upper - 2.0 * found.logarithm + lower) / 0.1**2
    assert abs(slope) < 1e-3 * abs(bend)


def test_both_re_estimations_of_a_penalty_agree_on_linear_models(rng):
    data = linear(rng, count=40)
    for alpha in (1.0, 3.0):
        functional = Sum(data, Tikhonov(data.space, Euclidean, alpha))
        x = minimizer(functional)
        wanted = evidence(functional, x).next_alpha
        assert 0.1 * alpha < wanted < 10.0 * alpha
        assert penalty_weight(functional, x) == pytest.approx(wanted, rel=1e-9)


def test_the_evidence_prints_one_line_and_its_remarks(rng):
    data = linear(rng)
    functional = penalized(data, rng)
    assert str(evidence(functional, minimizer(functional))).startswith("log evidence -")
    lines = str(evidence(functional, minimizer(functional) + 1.0)).splitlines()
    assert len(lines) == 2 and lines[1].startswith("x is not stationary")


def test_the_estimators_are_public():
    for name in ("leave_one_out", "generalized_cross_validation", "evidence"):
        assert name in dir(dnnfem)
