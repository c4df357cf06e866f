"""Time slabs: the estimate against separate least-squares problems, what it says of simple problems, bad input."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import dnnfem as fem
from dnnfem.quadrature import Quadrature


def convection(speed, time=(0.0, 1.0), **options):
    """Return ``u_t + c u_x = 0`` with a sine, periodic."""
    return fem.Collocation(
        lambda p, u: u.dt + speed * u.d(0),
        fem.Box([0.0], [2.0 * math.pi]),
        time=time,
        initial=lambda p: torch.sin(p.x[0]),
        periodic=(0,),
        **options,
    )


def network(neurons):
    return fem.FeedforwardSpace(2, (neurons,), 1, periodic=(0,))


def rows(integral, x, owner):
    """Return matrix and residual of the points of a slab."""
    q = integral.quadrature
    part = replace(integral, quadrature=Quadrature(q.points[owner], q.weights[owner], q.data[owner]), region=None)
    system = part.linearize(x).system()
    return system.matrix, system.residual


def gain(matrix, residual):
    """Return the decrease of ``|r + A d|^2 / 2``, and the rank."""
    step, _, rank, _ = np.linalg.lstsq(matrix, -residual, rcond=1e-13)
    left = residual + matrix @ step
    return 0.5 * float(residual @ residual - left @ left), int(rank)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), cuts=st.sampled_from([(0.5,), (0.2, 0.7), (1.25, 1.5, 1.75)]))
def test_the_gain_is_that_of_separate_least_squares_problems(seed, cuts):
    time = (1.0, 2.0) if cuts[0] > 1.0 else (0.0, 1.0)
    problem, space = convection(3.0, time), network(3)
    J, x = problem.on(space), space.initial(seed)
    estimate = fem.slabs(J, x, cuts)
    owner = np.searchsorted(cuts, J.quadrature.points[:, 1], side="right")
    separate = [gain(*rows(J, x, owner == k)) for k in range(len(cuts) + 1)]
    whole, rank = gain(*rows(J, x, owner >= 0))
    more = sum(part for part, _ in separate) - whole
    freedom = sum(part for _, part in separate) - rank
    variance = 2.0 * (J.value(x) - whole - more) / (len(owner) - rank - freedom)
    assert estimate.parts["algebraic"] == pytest.approx(math.sqrt(2.0 * whole), rel=1e-6)
    assert estimate.parts["slabs"] == pytest.approx(math.sqrt(max(2.0 * more - freedom * variance, 0.0)), rel=1e-5)
    assert estimate.cells.tolist() == list(cuts) and (estimate.cost == space.dim).all()
    if len(cuts) == 1:
        assert estimate.indicators[0] == pytest.approx(math.sqrt(2.0 * more), rel=1e-6)
    # However many cuts there are, all of them count.
    many = np.linspace(time[0], time[1], 12)[1:-1]
    whole_gain = sum(
        gain(*rows(J, x, np.searchsorted(many, J.quadrature.points[:, 1], side="right") == k))[0] for k in range(11)
    )
    dense = fem.slabs(J, x, many)
    explained = dense.parts["slabs"] ** 2 + dense.parts["algebraic"] ** 2
    assert explained <= 2.0 * whole_gain * (1.0 + 1e-9) and explained > 0.5 * 2.0 * whole_gain
    # A slab that differs alone gains no more than all together.
    assert (estimate.indicators**2 <= 2.0 * more * (1.0 + 1e-6)).all()


def test_conditions_and_penalties_belong_to_the_slab_where_they_are():
    problem, space = convection(3.0, exact=False), network(3)
    J = fem.Sum(problem.on(space), fem.Tikhonov(space, fem.Euclidean, 1e-12))
    x = space.initial(1)
    law, initial = (term for _, term in fem.functionals.sampling.integrals_of(J))
    assert np.ptp(initial.quadrature.points[:, 1]) == 0.0
    late = law.quadrature.points[:, 1] > 0.5
    first = [np.vstack, np.concatenate]
    parts = zip(rows(law, x, ~late), rows(initial, x, slice(None)), strict=True)
    early = gain(*(join(pair) for join, pair in zip(first, parts, strict=True)))
    rest = gain(*rows(law, x, late))
    everything = zip(rows(law, x, slice(None)), rows(initial, x, slice(None)), strict=True)
    whole = gain(*(join(pair) for join, pair in zip(first, everything, strict=True)))
    estimate = fem.slabs(J, x, [0.5])
    assert estimate.indicators[0] ** 2 == pytest.approx(2.0 * (early[0] + rest[0] - whole[0]), rel=1e-4)


def test_a_slab_is_chosen_where_the_solution_changes_too_often_for_the_network():
    """Sixteen neurons for two and a half periods: a cut promises more than it does for a third of a period."""
    left = {}
    for speed in (2.0, 16.0):
        problem, space = convection(speed), network(16)
        J = problem.on(space)
        result = fem.gauss_newton(J, space.initial(0), 0.0, max_steps=40)
        estimate = fem.slabs(J, result.x, [0.5])
        decision = fem.decide({"slabs": estimate}, tolerance=1e-3, algebraic=0.0)
        assert decision.part == ("slabs" if speed > 10.0 else None), (speed, estimate)
        left[speed] = estimate.total
        if decision.part:
            # And the cut keeps the promise: each slab has the same network, and begins where the one before ends.
            halves, start, state = [], space.initial(0), None
            part = convection(speed, (0.0, 0.5))
            for end in (None, 1.0):
                part = part if end is None else fem.next_slab(part, part.solution(space, start), end)
                found = fem.gauss_newton(part.on(space), start, 0.0, state=state, max_steps=40)
                start = found.x
                halves.append(2.0 * found.value)
            assert np.mean(halves) < 2.0 * result.value - 0.5 * estimate.parts["slabs"] ** 2
    assert left[16.0] > 100.0 * left[2.0]


def test_bad_times_are_named():
    problem, space = convection(1.0), network(3)
    J, x = problem.on(space), space.initial(0)
    for times in ([], [0.5, 0.5], [0.7, 0.2], [np.nan], 0.5):
        with pytest.raises(ValueError, match=r"^times: got .*expected increasing numbers"):
            fem.slabs(J, x, times)
    for times in ([-1.0], [0.5, 2.0]):
        with pytest.raises(ValueError, match=r"^times: got .*has no points"):
            fem.slabs(J, x, times)
    wide = network(16)
    with pytest.raises(ValueError, match=r"^times: got 15 cuts.*1024 residuals.*expected no more coefficients"):
        fem.slabs(problem.on(wide), wide.initial(0), np.linspace(0.0, 1.0, 17)[1:-1])
    with pytest.raises(ValueError, match=r"^x: "):
        fem.slabs(J, x[:-1], [0.5])
    with pytest.raises(ValueError, match=r"^times: got .*has no points"):
        fem.slabs(fem.Tikhonov(space, fem.Euclidean, 1.0), x, [0.5])
