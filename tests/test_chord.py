"""Corrections by the chord method."""

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
        return len(result.steps)

    followed = [steps(stiffness) for stiffness in (1e1, 1e3, 1e5)]
    monkeypatch.setattr(chord, "CORRECTIONS", 0)
    straight = [steps(stiffness) for stiffness in (1e1, 1e3)]
    # Straight steps are as long as the valley is wide, the square root of the stiffness.
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

    return land, remainder, lambda dual: -np.linalg.solve(matrix, dual), step, left


def test_corrections_converge_linearly_to_the_bottom_of_the_valley(monkeypatch):
    land, remainder, solve, step, left = problem(40.0)
    found = []
    for count in range(6):
        monkeypatch.setattr(chord, "CORRECTIONS", count)
        found.append(corrected(land(step), land, remainder, solve, np.linalg.norm, least=count))
    defects = np.array([left(landing) for landing in found])
    assert [landing.corrections for landing in found] == list(range(6))
    assert (defects[1:] < 0.5 * defects[:-1]).all() and defects[5] < 1e-2 * defects[0]
    assert found[5].point.value < found[0].point.value


def test_the_contraction_is_proportional_to_the_length_of_the_step(monkeypatch):
    lengths, contractions = [], []
    for multiplier in 40.0 * 2.0 ** np.arange(4):
        land, remainder, solve, step, left = problem(multiplier)
        defects = []
        for count in (2, 3):
            monkeypatch.setattr(chord, "CORRECTIONS", count)
            defects.append(left(corrected(land(step), land, remainder, solve, np.linalg.norm, least=count)))
        lengths.append(np.linalg.norm(step))
        contractions.append(defects[1] / defects[0])
    assert fem.testing.convergence_order(lengths, contractions)[-1] == pytest.approx(1.0, abs=0.1)
    # What the values say of it, from the first correction on.
    land, remainder, solve, step, _ = problem(40.0)
    monkeypatch.undo()
    found = corrected(land(step), land, remainder, solve, np.linalg.norm)
    assert found.contraction == pytest.approx(contractions[0], rel=0.2)


def test_steps_that_keep_their_promise_are_left_alone():
    land, remainder, solve, step, _ = problem(1e9)
    plain = land(step)
    assert plain.ratio == pytest.approx(1.0)
    assert corrected(plain, land, remainder, solve, np.linalg.norm) is plain
    assert corrected(plain, land, lambda landing: None, solve, np.linalg.norm, least=1) is plain


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_corrections_that_are_not_finite_are_not_taken(bad):
    land, remainder, solve, step, _ = problem(40.0)
    plain = land(step)
    assert corrected(plain, land, lambda landing: remainder(landing) * bad, solve, np.linalg.norm) is plain


def test_hopeless_corrections_end():
    land, remainder, solve, step, _ = problem(1.0)
    plain = land(step)
    found = corrected(plain, land, remainder, solve, np.linalg.norm)
    assert found.corrections < chord.CORRECTIONS and found.ratio < chord.HOPE
    assert found.point.value <= plain.point.value


def test_radii_follow_from_the_contraction():
    point = fem.Euclidean  # any: it is not looked at
    for contraction, kept, failed in [
        (0.0, chord.LONGER, chord.SHORTER),
        (0.5 * chord.AIM, 2.0, chord.SHORTER),
        (chord.AIM, 1.0, chord.SHORTER),
        (4.0 * chord.AIM, chord.SHORTER, 0.25),
        (1e9, chord.SHORTER, chord.LEAST),
    ]:
        landing = Landing(point, np.zeros(1), 0.9, 1, contraction)
        assert landing.factor(True) == pytest.approx(kept) and landing.factor(False) == pytest.approx(failed)
        # What has kept too little does not go farther.
        assert Landing(point, np.zeros(1), 0.3, 1, contraction).factor(True) <= 1.0
