"""Cross-validation: paths see no held-out sample, the estimate is honest, and the race ends when it should."""

import numpy as np
import pytest

from dnnfem.estimators import cross_validation
from dnnfem.functionals import Sum, Tikhonov
from dnnfem.norms import weight_decay
from dnnfem.problems import Regression
from dnnfem.solvers import gauss_newton
from dnnfem.spaces import FeedforwardSpace

SPACE = FeedforwardSpace(1, (20,), 1)


def noisy(count=80, seed=0, noise=0.5):
    """Return a sine with noise, and fresh samples of the same kind."""
    random = np.random.default_rng(seed)
    points = random.uniform(-1.0, 1.0, (count + 2000, 1))
    targets = np.sin(4.0 * points[:, 0]) + noise * random.standard_normal(len(points))
    return Regression(points[:count], targets[:count]), points[count:], targets[count:]


def ridge(problem, quadrature, alpha, space=SPACE, scale=1.0):
    """Fit the output layer of fixed random features; those with a small scale are affine functions."""
    x = scale * space.initial(0)
    outer = space.condensable.ravel()
    system = Sum(problem.on(space, quadrature), Tikhonov(space, weight_decay, alpha)).linearize(x).system(outer)
    x[outer] -= np.linalg.lstsq(system.matrix, system.residual, rcond=None)[0]
    return x


def levels(*fits):
    """Return a path whose levels are given functions of the quadrature and the setting."""

    def path(quadrature, setting):
        for fit in fits:
            yield SPACE, fit(quadrature, setting)

    return path


def penalized(problem):
    """Return the path of one level whose settings are weights of a penalty."""
    return levels(lambda quadrature, alpha: ridge(problem, quadrature, alpha))


def error(problem, alpha, points, targets):
    """Return the root mean square misfit at fresh samples."""
    u = problem.solution(SPACE, ridge(problem, problem.quadrature, alpha))
    return np.sqrt(np.mean((u(points)[:, 0] - targets) ** 2))


def zero(quadrature, setting):
    return np.zeros(SPACE.dim)


def test_the_risk_is_the_mean_loss_at_held_out_samples():
    problem, _, _ = noisy()
    # The mean of the targets has the loss 1/2 in the problem's units, on whatever folds.
    result = cross_validation(problem, levels(zero), [None])
    assert result.estimate.total == pytest.approx(1.0, rel=1e-12)
    loss = 0.5 * ((problem.targets - problem.ansatz.output_shift) / problem.ansatz.output_scale) ** 2
    (trial,) = result.trials
    assert trial.deviation == pytest.approx(loss.std() / np.sqrt(len(loss)), rel=1e-12)
    assert len(result.networks) == 4 and not any(x.any() for _, x in result.networks)
    assert trial.complete and (result.setting, result.level) == (None, 0)


def test_every_sample_is_held_out_once_and_no_path_sees_it_before():
    problem, _, _ = noisy(count=21)
    seen = []

    def path(quadrature, setting):
        seen.append(set(quadrature.points[:, 0]))
        yield SPACE, np.zeros(SPACE.dim)

    cross_validation(problem, path, [None], folds=4)
    everything = set(problem.inputs[:, 0])
    held = [everything - part for part in seen]
    assert [len(part) for part in held].count(5) == 3 and len(held) == 4
    assert set().union(*held) == everything and sum(map(len, held)) == len(everything)


def test_many_samples_need_not_all_be_held_out():
    problem, _, _ = noisy(count=20000)
    calls = []
    cross_validation(problem, levels(lambda quadrature, setting: calls.append(1) or np.zeros(SPACE.dim)), [None])
    assert len(calls) == 1


def test_the_estimate_is_effective_where_the_training_misfit_is_not():
    effectivity, optimism = [], []
    for seed in range(12):
        problem, points, targets = noisy(seed=seed)
        result = cross_validation(problem, penalized(problem), [1e-9, 1e-4, 1e-2, 1.0])
        x = ridge(problem, problem.quadrature, result.setting)
        true = error(problem, result.setting, points, targets)
        effectivity.append(problem.rms(result.estimate.total) / true)
        optimism.append(problem.rms(np.sqrt(2.0 * problem.on(SPACE).value(x))) / true)
    assert 0.9 < np.median(effectivity) < 1.15
    assert np.median(optimism) < 0.95 and (np.array(effectivity) > optimism).mean() > 0.8


def test_the_penalty_is_chosen_where_fresh_samples_would_choose_it():
    alphas = [1e-9, 1e-4, 1e-2, 1.0]
    for seed in range(5):
        problem, points, targets = noisy(seed=seed, noise=1.0)
        chosen = cross_validation(problem, penalized(problem), alphas).setting
        errors = [error(problem, alpha, points, targets) for alpha in alphas]
        assert errors[alphas.index(chosen)] < 1.1 * min(errors)


def test_a_path_ends_when_a_level_does_not_pay():
    problem, _, _ = noisy()
    counts = [0, 0, 0]

    def counted(number, fit):
        def level(quadrature, setting):
            counts[number] += 1
            return fit(quadrature, setting)

        return level

    good = counted(0, zero), counted(1, lambda q, s: ridge(problem, q, 1e-2)), counted(2, zero)
    result = cross_validation(problem, levels(*good), ["only"])
    assert counts == [4, 4, 4]
    assert result.level == 1 and result.estimate.cells.tolist() == [0, 1, 2]
    assert result.estimate.total == result.estimate.indicators[1]
    assert not any("too early" in remark for remark in result.remarks)
    longer = cross_validation(problem, levels(zero, lambda q, s: ridge(problem, q, 1e-2)), ["only"], max_levels=2)
    assert any("too early" in remark for remark in longer.remarks)


def test_a_setting_that_is_clearly_worse_is_given_up():
    problem, _, _ = noisy()
    calls = {"good": 0, "bad": 0, "diverged": 0}

    def path(quadrature, setting):
        while True:
            calls[setting] += 1
            x = ridge(problem, quadrature, 1e-2)
            if setting == "bad":
                x[SPACE.condensable.ravel()] += 10.0
            yield SPACE, np.full(SPACE.dim, np.nan) if setting == "diverged" else x

    result = cross_validation(problem, path, ["good", "bad", "diverged"])
    assert result.setting == "good" and calls == {"good": 10, "bad": 2, "diverged": 2}
    assert "<-" in str(result) and str(result).count("\n") >= len(result.trials)


def test_growth_is_judged_on_networks_that_were_grown_without_the_fold():
    problem, _, _ = noisy(count=300, noise=0.2)

    def path(quadrature, setting):
        for width in (1, 4, 8):
            space = FeedforwardSpace(1, (width,), 1)
            functional = Sum(problem.on(space, quadrature), Tikhonov(space, weight_decay, 1e-6))
            yield space, gauss_newton(functional, space.initial(0), 1e-3, max_steps=30).x

    result = cross_validation(problem, path, [None])
    assert result.trials[result.level].space.hidden[0] in (4, 8)
    assert problem.rms(result.estimate.total) == pytest.approx(0.2, rel=0.15)


def test_the_folds_depend_on_the_seed_alone():
    problem, _, _ = noisy()
    totals = [
        cross_validation(problem, levels(lambda q, a: ridge(problem, q, 1e-3)), [0], seed=seed).estimate.total
        for seed in (0, 0, 1)
    ]
    assert totals[0] == totals[1] != totals[2]


def test_remarks_say_what_speaks_against_it():
    problem, _, _ = noisy(count=12)
    result = cross_validation(problem, penalized(problem), [1e-3, 1e-2, 1e-1])
    words = " ".join(result.remarks)
    assert "few samples" in words
    problem, _, _ = noisy()
    end = cross_validation(problem, penalized(problem), [1.0, 10.0, 100.0])
    assert any("at the end of those offered" in remark for remark in end.remarks)


def test_bad_input_is_named():
    problem, _, _ = noisy(count=10)
    for settings, folds, words in (
        ([], 4, "^settings: got"),
        ([1, 1], 4, "^settings: got"),
        ([1], 1, "^folds: got 1, expected an integer from 2 to 10"),
        ([1], 11, "^folds: got 11"),
    ):
        with pytest.raises(ValueError, match=words):
            cross_validation(problem, levels(zero), settings, folds=folds)
    with pytest.raises(ValueError, match="^max_levels: got 0"):
        cross_validation(problem, levels(zero), [1], max_levels=0)
    with pytest.raises(ValueError, match="^path: got one that yields nothing"):
        cross_validation(problem, levels(), [1])
    with pytest.raises(ValueError, match="^path: yielded 0, expected pairs"):
        cross_validation(problem, lambda quadrature, setting: iter([0]), [1])


def test_the_estimate_is_that_of_training_on_all_samples():
    space, ratios, plain = FeedforwardSpace(30, (30,), 1), [], []
    for seed in range(20):
        random = np.random.default_rng(seed)
        points = random.standard_normal((5075, 30))
        targets = points @ np.full(30, 0.2) + random.standard_normal(len(points))
        problem = Regression(points[:75], targets[:75])

        def path(quadrature, setting, problem=problem):
            yield space, ridge(problem, quadrature, 1e-12, space, 1e-3)

        result = cross_validation(problem, path, [None], folds=3, seed=seed)
        u = problem.solution(space, ridge(problem, problem.quadrature, 1e-12, space, 1e-3))
        true = np.sqrt(np.mean((u(points[75:])[:, 0] - targets[75:]) ** 2))
        held = np.sqrt(2.0 * result.trials[0].risk)
        ratios.append(problem.rms(result.estimate.total) / true)
        plain.append(problem.rms(held) / true)
        assert result.estimate.parts["fewer samples in the folds"] == pytest.approx(held - result.estimate.total)
    # 50 samples for 31 coefficients instead of 75.
    assert 0.9 < np.median(ratios) < 1.1 < np.median(plain)
    assert any("extrapolated" in remark for remark in result.remarks) == (result.estimate.total < 0.8 * held)


def test_what_training_does_not_improve_is_not_extrapolated():
    problem, _, _ = noisy()
    result = cross_validation(problem, levels(zero), [None])
    trial = result.trials[0]
    assert trial.training == pytest.approx(0.5, rel=1e-12)
    assert result.estimate.total == pytest.approx(np.sqrt(2.0 * trial.risk), rel=1e-12)
