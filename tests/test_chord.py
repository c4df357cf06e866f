"""Corrections by the chord method."""

from types import SimpleNamespace

import numpy as np
import pytest

import dnnfem as fem
from dnnfem import from_callables
from dnnfem.solvers import chord
from dnnfem.solvers.chord import Landing, corrected

SOLVERS = {
    "trust_region": lambda J, x: fem.trust_region(J, x, 1e-8, curvature=True),
    "gauss_newton": lambda J, x: fem.gauss_newton(J, x, 1e-8),
}


def valley(stiffness):
    """Return a sum of squares whose valley ``y = sin 2x`` ends at x = 3, with walls that are as steep as you like."""
    return from_callables(
        2,
        residual=lambda x: np.array([stiffness * (x[1] - np.sin(2.0 * x[0])), x[0] - 3.0]),
        jacobian=lambda x: np.array([[-2.0 * stiffness * np.cos(2.0 * x[0]), stiffness], [1.0, 0.0]]),
    )


@pytest.mark.parametrize("name", SOLVERS)
def test_walls_of_valleys_hardly_matter(name, monkeypatch):
    def steps(stiffness):
        result = SOLVERS[name](valley(stiffness), np.array([-3.0, 0.3]))
        assert result.status is not fem.Status.STEP_LIMIT
        assert result.x == pytest.approx([3.0, np.sin(6.0)], abs=1e-6)
        return result.steps[-1].number

    followed = [steps(stiffness) for stiffness in (1e1, 1e3, 1e5)]
    monkeypatch.setattr(chord, "CORRECTIONS", 0)
    straight = [steps(stiffness) for stiffness in (1e1, 1e3)]
    # Straight steps are as long as a valley of that width admits: the width is 1/s, their length s^-1/2.
    assert straight[1] > 8 * straight[0] and straight[1] > 8 * followed[1]
    assert followed[2] < 2.5 * followed[1] < 0.5 * straight[1]


def problem(multiplier):
    """Return a step at the bottom of a valley, what `corrected` needs of it, and what corrections are to bring to zero.

    The larger the multiplier, the shorter the step.
    """
    J, x = valley(1e3), np.array([-1.0, np.sin(-2.0)])
    here = J.linearize(x)
    A, r = here.system().matrix, here.residual()
    matrix = A.T @ A + multiplier * np.eye(2)
    step = -np.linalg.solve(matrix, here.derivative)
    decrease = here.value - 0.5 * np.sum((A @ step + r) ** 2)

    def land(step):
        there = J.linearize(x + step)
        return Landing(there, step, (here.value - there.value) / decrease)

    def remainder(landing):
        return A.T @ (landing.point.residual() - r - A @ landing.step)

    def left(landing):
        return np.linalg.norm(A.T @ landing.point.residual() + multiplier * landing.step)

    return (decrease, land, remainder, lambda dual: -np.linalg.solve(matrix, dual), np.linalg.norm), step, left


def corrections(monkeypatch, of, count):
    """Return the landing after some corrections, each of which was taken."""
    monkeypatch.setattr(chord, "CORRECTIONS", count)
    monkeypatch.setattr(chord, "GOOD", np.inf)
    monkeypatch.setattr(chord, "SLIGHT", 0.0)
    (decrease, land, *how), step, _ = of
    return corrected(land(step), decrease, land, *how)


def test_corrections_converge_linearly_to_the_bottom_of_the_valley(monkeypatch):
    of = problem(40.0)
    found = [corrections(monkeypatch, of, count) for count in range(5)]
    assert [landing.corrections for landing in found] == list(range(5))
    defects = np.array([of[2](landing) for landing in found])
    factors = defects[1:] / defects[:-1]
    assert np.ptp(factors) < 0.1 * factors[0] < 0.02
    # The quotients of the corrections, without their limit.
    assert found[4].contraction == pytest.approx(factors[0], rel=0.1)


def test_the_contraction_is_proportional_to_the_length_of_the_step(monkeypatch):
    problems = [problem(multiplier) for multiplier in 40.0 * 2.0 ** np.arange(4)]
    lengths = [np.linalg.norm(step) for _, step, _ in problems]
    contractions = [corrections(monkeypatch, of, 2).contraction for of in problems]
    assert fem.testing.convergence_order(lengths, contractions)[-1] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("multiplier", [40.0, 80.0])
def test_there_are_as_many_corrections_as_the_promise_needs(multiplier):
    (decrease, land, *how), step, _ = problem(multiplier)
    plain = land(step)
    found = corrected(plain, decrease, land, *how)
    assert plain.ratio < 0.0 < chord.GOOD <= found.ratio
    assert found.corrections == found.remainders == (2 if multiplier == 40.0 else 1)
    # To measure the contraction takes one more remainder, and no value.
    measured = corrected(plain, decrease, land, *how, always=True)
    assert (measured.corrections, measured.remainders) == (found.corrections, 2)
    assert np.array_equal(measured.step, found.step) and 0.0 < measured.contraction < chord.AIM


def test_steps_that_keep_their_promise_are_left_alone():
    (decrease, land, *how), step, left = problem(1e4)
    plain = land(step)
    assert plain.ratio > chord.GOOD
    assert corrected(plain, decrease, land, *how) is plain
    once = corrected(plain, decrease, land, *how, always=True)
    assert (once.corrections, once.remainders) == (1, 1) and np.isnan(once.contraction)
    assert left(once) < 0.1 * left(plain)


@pytest.mark.parametrize("factor", [np.nan, np.inf, None])
def test_without_a_remainder_there_is_no_correction(factor):
    (decrease, land, remainder, *how), step, _ = problem(40.0)
    plain = land(step)
    bad = (lambda landing: None) if factor is None else (lambda landing: factor * remainder(landing))
    assert corrected(plain, decrease, land, bad, *how) is plain


def stub(ratios, changes):
    """Return a landing on the line, where corrections have given lengths and their ends given ratios."""
    ends = np.concatenate([[1.0], 1.0 + np.cumsum(changes)])
    values = [SimpleNamespace(value=-ratio) for ratio in ratios]

    def number(step):
        return int(np.argmin(np.abs(ends - step[0])))

    def land(step):
        return Landing(values[number(step)], step, ratios[number(step)])

    def remainder(landing):
        return np.array([1.0 - ends[number(landing.step) + 1]])

    return land(np.ones(1)), 0.05, land, remainder, np.negative, np.linalg.norm


@pytest.mark.parametrize(
    ("ratios", "changes", "expected"),
    [
        # The first one is too long.
        ([-9.0, 1.0], [0.8], (-9.0, 0, 1, np.nan)),
        # One does not lower the value, and is not taken.
        ([-9.0, -10.0], [0.5], (-9.0, 1, 1, np.nan)),
        ([-9.0, -1.0, -2.0], [0.5, 0.4], (-1.0, 2, 2, 0.8)),
        # They are too small to make a difference: something else is missing.
        ([0.3, 0.4, 0.5], [0.5, 0.05], (0.4, 1, 2, 0.1)),
        # The promise is kept.
        ([-9.0, -1.0, 0.8, 1.0], [0.7, 0.5, 0.1], (0.8, 2, 2, 5.0 / 7.0)),
        # What ends nowhere is not corrected.
        ([-np.inf, 1.0], [0.5], (-np.inf, 0, 0, np.nan)),
    ],
)
def test_reasons_to_end(ratios, changes, expected):
    found = corrected(*stub(ratios, changes))
    got = (found.ratio, found.corrections, found.remainders, found.contraction)
    assert got == pytest.approx(expected, nan_ok=True)


def test_what_contracts_too_slowly_ends_early():
    # Half the square of 0.665 is 4.4 times the promise; four quotients of 0.95 leave three times as much.
    found = corrected(*stub([-9.0, -8.0, -7.0, -6.0], [0.7, 0.665, 0.6]))
    assert (found.corrections, found.remainders) == (1, 2) and found.contraction == pytest.approx(0.95)


def test_radii_follow_from_the_contraction():
    for contraction, kept, failed in [
        (0.5 * chord.AIM, 2.0, chord.SHORTER),
        (chord.AIM, 1.0, chord.SHORTER),
        (4.0 * chord.AIM, chord.SHORTER, 0.25),
        (100.0 * chord.AIM, chord.SHORTER, chord.LEAST),
        (0.0, chord.LONGER, chord.SHORTER),
    ]:
        landing = Landing(None, np.zeros(1), 0.9, contraction)
        assert landing.factor(accepted=True) == pytest.approx(kept)
        assert landing.factor(accepted=False) == pytest.approx(failed)
        # What has kept too little does not go farther.
        assert Landing(None, np.zeros(1), 0.3, contraction).factor(accepted=True) <= 1.0


def test_radii_of_steps_without_corrections_are_doubled_and_quartered():
    # No residual, so that there is nothing to correct; its curvature is all of the Hessian.
    quartic = from_callables(1, lambda x: float(np.sum(x**4)), lambda x: 4.0 * x**3, lambda x, v: 12.0 * x**2 * v)
    result = fem.trust_region(quartic, np.array([3.0]), 0.0, dense=True, state=fem.State(radius=1e-3), max_steps=4)
    assert result.steps.column("radius") / result.steps[0].radius == pytest.approx(2.0 ** np.arange(5), rel=0.1)


@pytest.mark.parametrize("name", SOLVERS)
def test_solves_with_corrections_go_on_bit_for_bit(name):
    whole = SOLVERS[name](valley(1e3), np.array([-3.0, 0.3]))
    assert (whole.steps.column("contraction") > 0.0).any()
    solver = getattr(fem, name)
    options = {"curvature": True} if name == "trust_region" else {}
    for count in (1, 5, len(whole.steps) // 2):
        first = solver(valley(1e3), np.array([-3.0, 0.3]), 1e-8, max_steps=count, **options)
        again = solver(valley(1e3), first.x, 1e-8, state=first.resumable, **options)
        assert np.array_equal(again.x, whole.x) and len(again.steps) == len(whole.steps)
