"""Estimators for scikit-learn: they keep its contracts, and what they say about unseen samples is true."""

import doctest
import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from dnnfem.estimators import expected_calibration_error
from dnnfem.learn import AdaptiveClassifier, AdaptiveRegressor, estimators
from dnnfem.learn.growth import Fit
from dnnfem.learn.samples import distinct
from dnnfem.learn.spread import Covariance, likely
from dnnfem.norms import weight_decay
from dnnfem.problems import Regression
from dnnfem.spaces import FeedforwardSpace, Hierarchy


@parametrize_with_checks([AdaptiveRegressor(), AdaptiveClassifier()])
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(estimators) == (0, 13)


def truth(points):
    return np.sin(3.0 * points[:, 0]) * points[:, 1] + points[:, 0]


def noisy(count=150, noise=0.2, seed=0):
    """Return points and targets."""
    random = np.random.default_rng(seed)
    points = random.uniform(-1.0, 1.0, (count, 2))
    return points, truth(points) + noise * random.standard_normal(count)


def labelled(count=300, seed=0):
    """Return points, and labels that are less and less certain towards a circle."""
    random = np.random.default_rng(seed)
    points = random.uniform(-1.0, 1.0, (count, 2))
    inside = 1.0 / (1.0 + np.exp(8.0 * (np.sum(points**2, axis=1) - 0.6)))
    return points, np.where(random.uniform(size=count) < inside, "in", "out")


BOTH = pytest.mark.parametrize(("kind", "data"), [(AdaptiveRegressor, noisy), (AdaptiveClassifier, labelled)])


def says(model, points):
    """Return all that a model says about points."""
    if isinstance(model, AdaptiveClassifier):
        return [model.predict(points), model.predict_proba(points)]
    return list(model.predict(points, return_std=True))


def equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# What is said about unseen samples


def test_intervals_cover_unseen_targets_and_the_error_is_known():
    shares, errors = [], []
    for seed in range(4):
        model = AdaptiveRegressor().fit(*noisy(seed=seed))
        points, targets = noisy(4000, seed=100 + seed)
        mean, std = model.predict(points, return_std=True)
        shares.append(np.mean(np.abs(mean - targets) <= 1.645 * std))
        errors.append(model.score_estimate_ / np.sqrt(np.mean((mean - targets) ** 2)))
        # Noise, and what the samples do not say about the function; more of that where there are none.
        assert 0.17 < np.median(std) < 0.25
        assert model.predict([[3.0, 3.0]], return_std=True)[1][0] > 1.2 * np.median(std)
        np.testing.assert_array_equal(model.predict(points), mean)
    assert 0.85 <= np.median(shares) <= 0.95 and min(shares) > 0.82 and max(shares) < 0.96, shares
    assert 0.9 < np.median(errors) < 1.1 and all(0.8 < error < 1.25 for error in errors), errors


def test_every_target_has_its_own_noise_and_unit():
    points, first = noisy(noise=0.1)
    random = np.random.default_rng(5)
    targets = np.column_stack([first, 1e3 * (points[:, 1] ** 2 + 0.3 * random.standard_normal(len(points)))])
    model = AdaptiveRegressor().fit(points, targets)
    fresh = random.uniform(-1.0, 1.0, (500, 2))
    mean, std = model.predict(fresh, return_std=True)
    assert mean.shape == std.shape == (500, 2)
    assert np.median(std, axis=0) == pytest.approx([0.1, 300.0], rel=0.3)
    assert np.sqrt(np.mean((mean[:, 0] - truth(fresh)) ** 2)) < 0.1
    assert model.score_estimate_ == pytest.approx(300.0 / np.sqrt(2.0), rel=0.25)
    assert AdaptiveRegressor().fit(points, first[:, None]).predict(fresh).shape == (500, 1)


def test_error_rate_and_probabilities_of_unseen_labels():
    rates, losses, gaps = [], [], []
    for seed in range(4):
        model = AdaptiveClassifier().fit(*labelled(seed=seed))
        points, labels = labelled(4000, seed=100 + seed)
        p, numbers = model.predict_proba(points), (labels == "out").astype(int)
        np.testing.assert_array_equal(model.classes_, ["in", "out"])
        rates.append(model.score_estimate_ / (1.0 - model.score(points, labels)))
        losses.append(model.log_loss_estimate_ / -np.mean(np.log(p[np.arange(4000), numbers])))
        gaps.append(expected_calibration_error(p, numbers))
    # A fifth of the labels is wrong, so that the standard error of an estimate is a tenth of it.
    assert 0.85 < np.mean(rates) < 1.15 and all(0.7 < rate < 1.4 for rate in rates), rates
    assert 0.85 < np.mean(losses) < 1.15 and all(0.7 < loss < 1.4 for loss in losses), losses
    assert np.median(gaps) < 0.05, gaps


# Laplace's approximation


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_variance_is_that_of_the_linearized_network(outputs):
    random, space = np.random.default_rng(0), FeedforwardSpace(2, (3, 2), outputs)
    points = random.uniform(-1.0, 1.0, (40, 2))
    problem = Regression(points, random.standard_normal((40, outputs)))
    fit = Fit(Hierarchy((space,)), random.uniform(-1.0, 1.0, space.dim), 0.02)
    fresh = random.uniform(-1.0, 1.0, (5, 2))

    def jacobian(where):
        step = 1e-5 * np.eye(space.dim)
        there = [[problem.solution(space, fit.x + sign * d)(where) for d in step] for sign in (1.0, -1.0)]
        return np.moveaxis(np.subtract(*there), 0, -1) / 2e-5 / problem.ansatz.output_scale[:, None]

    seen, unseen = jacobian(points), jacobian(fresh)
    H = np.einsum("moi,moj->ij", seen, seen) / 40 + 0.02 * np.diag(weight_decay(space).weights)
    expected = np.einsum(
        "moi,moi->m", unseen, np.linalg.solve(H, unseen.reshape(-1, space.dim).T).T.reshape(unseen.shape)
    )
    found = Covariance.of(problem, problem.quadrature, fit)(fresh)
    np.testing.assert_allclose(found, expected / 40 / outputs, rtol=1e-6)


def test_noise_and_factor_are_found_by_likelihood():
    random = np.random.default_rng(0)
    variances = random.exponential(0.5, 20000)
    for factor in (0.3, 4.0):
        residuals = 7.0 * np.sqrt(1.0 + factor * variances) * random.standard_normal(len(variances))
        s, t = likely(residuals, variances, np.ones(len(variances)))
        assert (s, t) == pytest.approx((7.0, factor), rel=0.15)
        assert np.mean(residuals**2 / (s**2 * (1.0 + t * variances))) == pytest.approx(1.0, rel=1e-12)
    # Where the variances say nothing they hardly count.
    s, t = likely(random.standard_normal(20000), variances, np.ones(20000))
    assert s == pytest.approx(1.0, rel=0.03) and t < 0.1
    few, weights = random.standard_normal(50), random.integers(1, 4, 50)
    found = likely(few, variances[:50], weights)
    assert likely(3.0 * few, variances[:50], 5.0 * weights) == pytest.approx((3.0 * found[0], found[1]), rel=1e-9)
    # Three residuals know little: the factor is near that of the theory.
    assert 0.2 < likely(few[:3], variances[:3], weights[:3])[1] < 5.0
    assert likely(np.zeros(5), np.ones(5), np.ones(5)) == (0.0, 0.0)


# Samples


@BOTH
def test_order_copies_and_units_of_weights_do_not_matter_to_the_bit(kind, data):
    points, targets = data(40)
    random = np.random.default_rng(1)
    weights, order = random.integers(0, 4, 40), random.permutation(40)
    expected = says(kind().fit(points, targets, weights), points)
    many = points.repeat(weights, axis=0), targets.repeat(weights)
    shuffled = random.permutation(len(many[0]))
    assert equal(says(kind().fit(many[0][shuffled], many[1][shuffled]), points), expected)
    assert equal(says(kind().fit(points[order], targets[order], 4.0 * weights[order]), points), expected)
    plain = says(kind().fit(points, targets), points)
    assert equal(says(kind().fit(points[order], targets[order], np.full(40, 0.1)), points), plain)
    assert not equal(plain, expected)


def test_samples_that_differ_in_their_targets_alone_are_different():
    points, data = np.array([[1.0], [0.0], [-0.0], [1.0]]), np.array([[1.0], [2.0], [2.0], [3.0]])
    where, what, weights = distinct(points, data, None, seed=0)
    order = np.lexsort((what[:, 0], where[:, 0]))
    np.testing.assert_array_equal(np.column_stack([where, what, weights])[order], [[0, 2, 2], [1, 1, 1], [1, 3, 1]])


def test_weights_say_what_counts():
    points, targets = noisy(120)
    other = np.concatenate([targets, targets + 5.0])
    weights = np.concatenate([np.ones(120), np.full(120, 1e-6)])
    model = AdaptiveRegressor().fit(np.vstack([points, points]), other, weights)
    assert np.sqrt(np.mean((model.predict(points) - truth(points)) ** 2)) < 0.15


# What scikit-learn does with estimators


@BOTH
def test_pickles_say_the_same_to_the_bit(kind, data):
    model = kind().fit(*data(80))
    points, _ = data(50, seed=1)
    copy = pickle.loads(pickle.dumps(model))
    assert equal(says(copy, points), says(model, points))
    assert repr(copy.hierarchy_) == repr(model.hierarchy_) and copy.score_estimate_ == model.score_estimate_


def test_pipelines_searches_and_clones():
    points, targets = noisy(60)
    pipeline = make_pipeline(StandardScaler(), AdaptiveRegressor(warm_start=True))
    search = GridSearchCV(pipeline, {"adaptiveregressor__random_state": [0, 3]}, cv=2).fit(points, targets)
    assert search.best_score_ > 0.3
    best = search.best_estimator_
    again = clone(best).fit(points, targets)
    assert again.get_params()["adaptiveregressor__warm_start"]
    np.testing.assert_array_equal(again.predict(points), search.predict(points))
    mean, std = best.predict(points, return_std=True)
    assert mean.shape == std.shape == (60,)


def test_random_states():
    points, targets = noisy(25)

    def fitted(state):
        return AdaptiveRegressor(random_state=state).fit(points, targets).predict(points)

    assert np.array_equal(fitted(np.random.RandomState(3)), fitted(np.random.RandomState(3)))
    assert not np.array_equal(fitted(0), fitted(1))
    assert not np.array_equal(fitted(None), fitted(None))


@BOTH
def test_a_warm_start_goes_on_with_the_same_samples(kind, data):
    points, targets = data(200)
    model = kind(warm_start=True).fit(points, targets)
    first, before = model.hierarchy_, model._memory
    model.fit(points, targets)
    # Every fold began where it had ended: with the level that had been chosen.
    (alpha,) = {alpha for _, alpha in before.starts}
    spaces = [trial.space for trial in model.validation_.trials if trial.setting == alpha]
    assert spaces[0] == first.finest
    assert model.validation_.setting != alpha or model.hierarchy_.spaces[: len(first)] == first.spaces
    # Without it, a second fit begins anew.
    cold = clone(model).set_params(warm_start=False).fit(points, targets)
    values = says(cold, points)
    assert equal(says(cold.fit(points, targets), points), values)


@BOTH
def test_a_warm_start_with_other_samples_is_judged_as_a_cold_one(kind, data):
    points, targets = data(100)
    warm, cold = kind(warm_start=True).fit(points[:80], targets[:80]), kind().fit(points, targets)
    warm.fit(points, targets)
    # Networks that have seen a sample cannot tell what the error is where it was not seen.
    assert str(warm.validation_) == str(cold.validation_)
    assert warm.score_estimate_ == cold.score_estimate_
    # Other inputs, or other classes, have nothing in common with the network before.
    more = np.hstack([points, points[:, :1] ** 2])
    assert equal(says(warm.fit(more, targets), more), says(kind().fit(more, targets), more))


def test_the_hierarchy_tells_how_it_grew():
    model = AdaptiveRegressor().fit(*noisy(300, noise=0.02))
    lines = repr(model.hierarchy_).splitlines()
    assert len(model.hierarchy_) > 1 and len(lines) == 1 + len(model.hierarchy_)
    assert "2-5-5-1 tanh" in lines[1] and lines[-1].endswith(str(model.solution_.space))
    assert model.hierarchy_.prolongation(0, len(model.hierarchy_) - 1).shape[0] == model.solution_.space.dim
    assert model.validation_.level == len(model.hierarchy_) - 1
    assert model.solution_.gradient([[0.0, 0.0]]).shape == (1, 1, 2)


@BOTH
def test_samples_that_say_nothing(kind, data):
    points, targets = data(60)
    with pytest.raises(ValueError, match="^X: got 20 samples at the same point, expected different points"):
        kind().fit(np.ones((60, 2)), np.arange(60) // 3)
    with pytest.raises(ValueError, match="^sample_weight: got -1, expected no negative ones"):
        kind().fit(points, targets, np.where(np.arange(60) == 3, -1.0, 1.0))
    with pytest.raises(ValueError, match="^sample_weight: got zeros only"):
        kind().fit(points, targets, np.zeros(60))
    with pytest.raises(ValueError, match=r"^sample_weight: got shape \(60, 2\)"):
        kind().fit(points, targets, np.ones((60, 2)))
    # Two samples are few, but no error.
    says(kind().fit(points[[0, 1, 2]], targets[:3] if kind is AdaptiveRegressor else ["a", "b", "b"]), points)


def test_one_class():
    points, _ = labelled(20)
    with pytest.raises(ValueError, match=r"^y: got one class \(\['a'\]\), expected labels of at least two classes"):
        AdaptiveClassifier().fit(points, ["a"] * 20)
    # That is also so if the others have no weight.
    with pytest.raises(ValueError, match="^y: got one class"):
        AdaptiveClassifier().fit(points, ["a"] * 19 + ["b"], np.arange(20)[::-1])


def test_constant_targets_are_known_exactly_enough():
    points, _ = noisy(40)
    mean, std = AdaptiveRegressor().fit(points, np.full(40, 7.0)).predict(points, return_std=True)
    assert np.abs(mean - 7.0).max() < 0.02 and std.max() < 0.02


def test_more_features_than_samples():
    random = np.random.default_rng(0)
    points = random.standard_normal((40, 60))
    model = AdaptiveRegressor().fit(points, points[:, 0] + 0.1 * random.standard_normal(40))
    assert np.isfinite(model.predict(points, return_std=True)).all() and model.score_estimate_ > 0.3


def test_without_scikit_learn_it_says_what_is_missing():
    code = (
        "import sys; sys.modules['sklearn'] = None; import dnnfem as fem\n"
        "try:\n    fem.learn\nexcept ImportError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "dnnfem.learn needs scikit-learn 1.6 or later: pip install 'dnnfem[learn]'"
