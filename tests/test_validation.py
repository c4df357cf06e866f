"""Cross-validation: paths see no held-out sample, the estimate is honest, and the race ends when it should."""

import itertools

import numpy as np
import pytest

from dnnfem.estimators import calibrated, cross_validation, leave_one_out
from dnnfem.estimators.folds import Copies, division
from dnnfem.functionals import Sum, Tikhonov
from dnnfem.norms import weight_decay
from dnnfem.problems import Classification, Regression
from dnnfem.quadrature import Quadrature
from dnnfem.solvers import gauss_newton, trust_region
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


def constants(table, spaces=None, calls=None):
    """Return a path whose levels predict constants; those of the targets are 0, with deviation 1."""

    def path(quadrature, setting):
        for space, value in zip(spaces or itertools.repeat(SPACE), table[setting], strict=False):
            if calls is not None:
                calls.append(setting)
            x = np.zeros(space.dim)
            x[space.condensable[:, -1]] = value
            yield space, x

    return path


@pytest.mark.parametrize("order", [["A", "B"], ["B", "A"]])
def test_a_setting_that_loses_on_the_first_level_may_win_later(order):
    problem, _, _ = noisy()
    calls = []
    result = cross_validation(problem, constants({"A": [1.0, 0.8, 0.75], "B": [2.0, 0.1, 0.0]}, calls=calls), order)
    assert (result.setting, result.level) == ("B", 2)
    tried = {(t.setting, t.level): t.complete for t in result.trials}
    assert not tried["B", 0] and tried["B", 1] and not tried["A", 1] and not tried["A", 2]
    # Paths run as far as needed, on whatever side they are offered.
    assert calls.count("B") == 12 and calls.count("A") == 10


def test_a_setting_that_loses_on_two_levels_in_succession_is_given_up():
    problem, _, _ = noisy()
    result = cross_validation(problem, constants({"A": [1.0, 0.5, 0.3, 0.2], "B": [3.0, 2.5, 0.0, 0.0]}), ["A", "B"])
    assert result.setting == "A" and [t.level for t in result.trials if t.setting == "B"] == [0, 1]
    assert not any("catching up" in remark for remark in result.remarks)
    result = cross_validation(problem, constants({"A": [1.0, 0.5, 0.3, 0.2], "B": [3.0, 1.3, 0.0, 0.0]}), ["A", "B"])
    assert result.setting == "A" and "setting B was given up while it was catching up" in " ".join(result.remarks)


def test_a_setting_whose_path_is_at_an_end_takes_part_with_its_best_level():
    problem, _, _ = noisy()
    result = cross_validation(problem, constants({"A": [1.0, 0.0, 2.0], "B": [2.0, 0.1, 0.09, 1.0]}), ["A", "B"])
    assert (result.setting, result.level) == ("A", 1)
    (last,) = (t for t in result.trials if (t.setting, t.level) == ("B", 3))
    assert not last.complete
    assert not any(t.complete for t in result.trials if (t.setting, t.level) == ("A", 3))


@pytest.mark.parametrize("step", [1, 2, 4, 8])
def test_where_a_path_ends_does_not_depend_on_the_size_of_its_levels(step):
    problem, _, _ = noisy()
    widths = range(2, 200, step)
    spaces = [FeedforwardSpace(1, (width,), 1) for width in widths]
    # The risk falls by less than a fifth per neuron, and no more from width 26 on.
    values = [3.0 * np.exp(-min(width, 26.0) / 8.0) for width in widths]
    result = cross_validation(problem, constants({None: values}, spaces), [None], max_levels=100)
    chosen = result.trials[result.level].space.hidden[0]
    assert 18 <= chosen <= 34 and result.estimate.total < 1.05
    # It ends soon after the last level that pays.
    assert result.trials[-1].space.hidden[0] <= max(34, 26 + 2 * step)


def test_a_path_that_doubles_ends_when_the_risk_does_not_fall_by_a_fifth():
    problem, _, _ = noisy()
    spaces = [FeedforwardSpace(1, (width,), 1) for width in (2, 4, 8, 16)]
    result = cross_validation(problem, constants({None: [2.0, 1.0, 0.9, 0.0]}, spaces), [None])
    assert result.level == 2 and len(result.trials) == 3
    assert any("ended at level 2, which still lowered the risk by" in remark for remark in result.remarks)
    whole = cross_validation(problem, constants({None: [2.0, 1.0]}, spaces), [None])
    assert whole.level == 1 and any("still falling at level 1" in remark for remark in whole.remarks)


def test_a_diverged_level_is_beaten_by_any_finite_one():
    problem, _, _ = noisy()
    result = cross_validation(problem, constants({None: [np.nan, 0.5, 0.0]}), [None])
    assert result.level == 2 and np.isfinite(result.estimate.total)
    # The one that leads on the first two folds diverges on the third.
    folds = []

    def path(quadrature, setting):
        folds.append(setting)
        leads = setting == "leads"
        yield from constants({setting: [np.nan if leads and folds.count("leads") > 2 else 0.0 if leads else 2.0]})(
            quadrature, setting
        )

    result = cross_validation(problem, path, ["leads", "follows"], max_levels=1)
    assert result.setting == "follows" and np.isfinite(result.estimate.total)


def test_that_every_network_diverged_is_said():
    problem, _, _ = noisy()
    result = cross_validation(problem, constants({1: [np.nan] * 5, 2: [np.nan] * 5}), [1, 2])
    assert result.estimate.total == np.inf and "every network diverged" in " ".join(result.remarks)
    assert not np.isnan(list(result.estimate.parts.values())).any() and "inf" in str(result)


def test_the_estimate_of_networks_that_interpolate_does_not_collapse():
    space, ratios, training = FeedforwardSpace(5, (100,), 1), [], []
    for seed in range(12):
        random = np.random.default_rng(seed)
        points = random.uniform(-1.0, 1.0, (4040, 5))
        targets = np.sin(3.0 * points[:, 0]) * points[:, 1] + 0.3 * random.standard_normal(len(points))
        problem = Regression(points[:40], targets[:40])

        def path(quadrature, setting, problem=problem):
            yield space, ridge(problem, quadrature, 1e-6, space)

        result = cross_validation(problem, path, [None])
        u = problem.solution(space, ridge(problem, problem.quadrature, 1e-6, space))
        true = np.sqrt(np.mean((u(points[40:])[:, 0] - targets[40:]) ** 2))
        ratios.append(problem.rms(result.estimate.total) / true)
        training.append(result.trials[0].training / result.trials[0].risk)
        assert any("nearly interpolate" in remark for remark in result.remarks)
    assert max(training) < 0.01 and 0.75 < np.median(ratios) < 1.15 and min(ratios) > 0.5


def test_copies_of_a_point_are_in_one_fold_and_are_told():
    random = np.random.default_rng(0)
    points = np.repeat(random.uniform(-1.0, 1.0, 60), 3)
    targets = np.sin(4.0 * points) + np.repeat(random.standard_normal(60), 3)
    problem = Regression(points, targets)
    seen = []

    def path(quadrature, setting):
        seen.append(set(quadrature.points[:, 0]))
        yield SPACE, np.zeros(SPACE.dim)

    result = cross_validation(problem, path, [None])
    for known, held in zip(seen, result.held, strict=True):
        assert not known & set(points[held]) and len(held) == 45
    assert "180 of 180 samples are copies of 60 points" in " ".join(result.remarks)
    functional = Sum(problem.on(SPACE), Tikhonov(SPACE, weight_decay, 1e-2))
    x = trust_region(functional, SPACE.initial(0), 1e-8, max_steps=200).x
    assert "180 of 180 samples are copies of 60 points" in " ".join(leave_one_out(functional, x).remarks)
    apart = Regression(*(np.random.default_rng(1).uniform(-1.0, 1.0, (2, 60))))
    assert "copies" not in " ".join(cross_validation(apart, levels(zero), [None]).remarks)
    with pytest.raises(ValueError, match="^folds: got 3, expected at most 2, the number of different points"):
        cross_validation(Regression([0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 2.0, 3.0]), levels(zero), [None], folds=3)


def test_zero_has_two_signs_and_few_copies_leave_the_folds_equal():
    assert str(Copies.of(np.array([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]]))) == "2 of 3 samples are copies of 1 points"
    random = np.random.default_rng(0)
    points = np.concatenate([random.uniform(size=100), np.repeat(0.5, 7), np.repeat(0.25, 5)])
    problem = Regression(points, random.uniform(size=len(points)))
    sizes = np.bincount(division(problem, Copies.of(problem.quadrature.points), 4, 0))
    assert sizes.sum() == 112 and np.ptp(sizes) <= 8


def blobs(counts=(60, 40, 4)):
    """Return a problem with classes of different sizes that overlap."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), counts)
    return Classification(random.standard_normal((len(labels), 2)) + 1.2 * labels[:, None], labels)


def test_every_fold_has_its_part_of_every_class():
    problem = blobs()
    for seed in range(5):
        place = division(problem, Copies.of(problem.quadrature.points), 4, seed)
        for label, part in ((0, 15), (1, 10), (2, 1)):
            assert np.bincount(place[problem.labels == label], minlength=4).tolist() == [part] * 4


def test_samples_that_were_held_out_calibrate():
    problem, space = blobs((60, 60)), FeedforwardSpace(2, (12,), 2)

    def path(quadrature, setting):
        functional = Sum(problem.on(space, quadrature), Tikhonov(space, weight_decay, 1e-6))
        yield space, trust_region(functional, space.initial(0), 1e-3, max_steps=60).x

    result = cross_validation(problem, path, [None])
    assert sorted(np.concatenate(result.held)) == list(range(120))
    losses, logits = [], []
    for (_, x), held in zip(result.networks, result.held, strict=True):
        losses.append(problem.on(space, problem.quadrature.subset(held)).value(x))
        logits.append(problem.solution(space, x)(problem.inputs[held]))
    assert np.mean(losses) == pytest.approx(result.trials[0].risk, rel=1e-12)
    # With next to no penalty the networks are far too sure of themselves.
    assert calibrated(np.vstack(logits), problem.labels[np.concatenate(result.held)]) > 1.5
    assert "misfit" not in str(result) and "root of twice the mean loss" in str(result)


def test_the_table_of_a_perfect_network_can_be_printed():
    problem = Regression([0.0, 1.0, 2.0, 3.0], [-1.0, 1.0, -1.0, 1.0])

    class Exact:
        """Predicts the targets."""

        quadrature = problem.quadrature

        def on(self, space, quadrature=None):
            quadrature = self.quadrature if quadrature is None else quadrature
            return problem.on(space, Quadrature(quadrature.points, quadrature.weights, 0.0 * quadrature.data))

    assert "0.0000e+00" in str(cross_validation(Exact(), levels(zero), [None], folds=2))


def test_settings_may_come_as_an_array_or_from_a_generator():
    problem, _, _ = noisy()
    for settings in (np.array([1e-3, 1e-2]), (alpha for alpha in (1e-3, 1e-2))):
        assert cross_validation(problem, penalized(problem), settings).setting in (1e-3, 1e-2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"settings": 1e-2}, "^settings: got 0.01, expected a sequence"),
        ({"settings": "ab"}, "^settings: got 'ab', expected a sequence"),
        ({"settings": [{"a": 1}]}, "^settings: got .*, expected a sequence of hashable"),
        ({"folds": 4.0}, "^folds: got 4.0, expected an integer from 2 to 10"),
        ({"folds": "4"}, "^folds: got '4'"),
        ({"folds": True}, "^folds: got True"),
        ({"max_levels": 1.5}, "^max_levels: got 1.5, expected an integer from 1 on"),
        ({"path": 5}, "^path: got 5, expected a function"),
        (
            {"path": lambda quadrature, setting: (SPACE, zero(None, None))},
            "^path: got one that returns a tuple, expected a generator",
        ),
        ({"path": lambda quadrature, setting: None}, "^path: got one that returns a NoneType, expected a generator"),
    ],
)
def test_what_is_wrong_with_an_argument_is_said(arguments, words):
    problem, _, _ = noisy(count=10)
    given = {"path": levels(zero), "settings": [1], **arguments}
    with pytest.raises(ValueError, match=words):
        cross_validation(problem, **given)
