"""Estimated Lipschitz constants of second derivatives, and of constraints, against third derivatives that are known."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from dnnfem.functionals import from_callables
from dnnfem.norms import Euclidean, Weighted
from dnnfem.records import State
from dnnfem.solvers import composite_step, cubic
from dnnfem.solvers.composite_step import CHANGE
from dnnfem.solvers.cubic import FALL, RISE
from dnnfem.spaces import Coordinates
from dnnfem.testing import convergence_order

NORMS = {
    "Euclidean": lambda n: Euclidean(Coordinates(n)),
    "weighted": lambda n: Weighted(Coordinates(n), np.geomspace(0.1, 10.0, n)),
}


def polynomial(n, seed, offset=0.0):
    """Return a cubic polynomial and its third derivative along a direction, three times."""
    random = np.random.default_rng(seed)
    a, w = random.standard_normal((2 * n, n)), random.uniform(0.5, 2.0, 2 * n)
    root = random.standard_normal((n, n))
    h, g = root @ root.T + np.eye(n), random.standard_normal(n)
    j = from_callables(
        n,
        lambda x: offset + float(g @ x + 0.5 * x @ h @ x + w @ (a @ x) ** 3 / 6.0),
        lambda x: g + h @ x + 0.5 * a.T @ (w * (a @ x) ** 2),
        lambda x, v: h @ v + a.T @ (w * (a @ x) * (a @ v)),
    )
    return j, lambda d: float(w @ (a @ d) ** 3)


def sums(n, seed):
    """Return a sum of exponentials, and its third derivative at a point along a direction, three times."""
    random = np.random.default_rng(seed)
    a = random.standard_normal((2 * n, n)) / math.sqrt(n)
    # In opposite directions, so that there is a minimum.
    a = np.vstack([a, -0.5 * a])
    j = from_callables(
        n,
        lambda x: float(np.exp(a @ x).sum()),
        lambda x: a.T @ np.exp(a @ x),
        lambda x, v: a.T @ (np.exp(a @ x) * (a @ v)),
    )
    return j, lambda x, d: float(np.exp(a @ x) @ (a @ d) ** 3)


def shown(solve, *arguments, **options):
    """Return the result, all iterates, and what was remembered at each."""
    snapshots = []
    result = solve(*arguments, observer=snapshots.append, **options)
    memories = [snapshot.state.progress.memory for snapshot in snapshots]
    return result, [snapshot.x for snapshot in snapshots], memories


# Cubic regularization


@pytest.mark.parametrize("offset", [0.0, 1e7])
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("name", NORMS)
@given(st.integers(2, 8), st.integers(0, 1000))
def test_omega_of_cubic_polynomials_is_their_third_derivative_along_the_step(name, dense, offset, n, seed):
    # With the offset, values cannot tell and derivatives have to.
    j, third = polynomial(n, seed, offset)
    norm, start = NORMS[name](n), np.zeros(n)
    result, iterates, _ = shown(cubic, j, start, 0.0, norm=norm, dense=dense, max_steps=6)
    for row, x, y in zip(result.steps[1:], iterates, iterates[1:], strict=False):
        d, length = y - x, norm.norm(y - x)
        # Of rounding nothing is known.
        if length > 1e-2 and (offset or abs(third(d)) > 1e-8 * abs(row.value)):
            # The constant that the step was taken with, after rejected ones, bounds how far the estimate goes.
            used = 2.0 * row.multiplier / length
            expected = min(max(third(d) / length**3, FALL * used), RISE * used)
            assert row.omega == pytest.approx(expected, rel=1e-3 if offset else 1e-5)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_omega_becomes_the_third_derivative_where_steps_get_short(name, dense, seed):
    n = 5
    j, third = sums(n, seed)
    norm = NORMS[name](n)
    solution = cubic(j, np.zeros(n), 1e-13, norm=norm).x
    # A direction along which the third derivative is large, and does not change its sign.
    random = np.random.default_rng(seed)
    away = max((d / norm.norm(d) for d in random.standard_normal((50, n))), key=lambda d: third(solution, -d))
    sizes, errors = 0.1 * 0.5 ** np.arange(5), []
    for size in sizes:
        # Under a constant that is large enough to fall, and small enough not to be limited.
        x = solution + size * away
        state = State(radius=math.cbrt(2.0 * j.value(x) / third(x, -away)))
        result, iterates, _ = shown(cubic, j, x, 0.0, norm=norm, dense=dense, state=state, max_steps=1)
        d = iterates[1] - x
        errors.append(abs(result.steps[1].omega - third(x, d) / norm.norm(d) ** 3))
    assert convergence_order(sizes[::4], errors[::4])[-1] == pytest.approx(1.0, abs=0.3)


# Composite steps


def limited(before, found):
    found = max(found, 0.0)
    return found if before == 0.0 else min(max(found, before / CHANGE), before * CHANGE)


@pytest.mark.parametrize("name", NORMS)
@given(st.integers(2, 8), st.integers(0, 1000))
def test_omega_of_a_sphere_is_its_curvature(name, n, seed):
    # c = (|x|^2 - 1)/2 in the norm: a step d misses it by |d|^2/2, and the normal step back has length |d|^2/(2 |x|).
    norm = NORMS[name](n)
    j, _ = polynomial(n, seed)
    sphere = from_callables(
        n, residual=lambda x: np.array([0.5 * (norm.norm(x) ** 2 - 1.0)]), jacobian=lambda x: norm.apply(x)[None]
    )
    start = np.random.default_rng(seed).standard_normal(n)
    result, iterates, memories = shown(composite_step, j, sphere, start, 1e-4, norm=norm, max_steps=10)
    seen = 0
    for row, x, last, memory in zip(result.steps[1:], iterates, memories, memories[1:], strict=False):
        if row.length < 1e-5:
            continue
        seen += 1
        curvature = 1.0 / norm.norm(x)
        assert 0.5 * row.length * curvature == pytest.approx(row.contraction, rel=1e-5)
        before = float(last.get("omega_c", 0.0))
        if before == 0.0 or before / CHANGE < curvature < before * CHANGE:
            assert float(memory["omega_c"]) == pytest.approx(curvature, rel=1e-5)
    assert seen >= 2


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("seed", range(6))
def test_omega_of_the_lagrangian_under_linear_constraints_is_the_third_derivative(name, seed):
    n = 3 + seed
    norm = NORMS[name](n)
    j, third = sums(n, seed)
    random = np.random.default_rng(seed)
    rows, values = random.standard_normal((2, n)), 0.3 * random.standard_normal(2)
    plane = from_callables(n, residual=lambda x: rows @ x - values, jacobian=lambda x: rows)
    result, iterates, memories = shown(composite_step, j, plane, np.zeros(n), 1e-6, norm=norm, max_steps=10)
    seen = 0
    for row, x, y, last in zip(result.steps[1:], iterates, iterates[1:], memories, strict=False):
        if row.length < 1e-3:
            continue
        d = y - x
        assert norm.norm(d) == pytest.approx(row.length, rel=1e-6) and row.contraction <= 1e-8
        # The remainder of third order of an exponential is a third derivative on the way.
        ends = sorted(third(x + t * d, d) / norm.norm(d) ** 3 for t in np.linspace(0.0, 1.0, 101))
        bounds = [limited(float(last.get("omega_f", 0.0)), end) for end in (ends[0], ends[-1])]
        assert bounds[0] * (1 - 1e-4) - 1e-6 <= row.omega <= bounds[1] * (1 + 1e-4) + 1e-6
        seen += 1
    assert seen >= 2


@pytest.mark.parametrize("seed", range(5))
def test_omega_of_the_lagrangian_is_bounded_on_curved_constraints_however_short_the_steps(seed):
    # A quadratic functional on the sphere: eigenvectors.  Values alone differ in second order from their model.
    n, random = 6, np.random.default_rng(seed)
    root = random.standard_normal((n, n))
    matrix = root + root.T
    j = from_callables(n, lambda x: 0.5 * float(x @ matrix @ x), lambda x: matrix @ x, lambda x, v: matrix @ v)
    sphere = from_callables(n, residual=lambda x: np.array([0.5 * (x @ x - 1.0)]), jacobian=lambda x: x[None])
    start = random.standard_normal(n)
    result, iterates, memories = shown(composite_step, j, sphere, start / np.linalg.norm(start), 1e-6, max_steps=60)
    assert result.steps[-1].dual_norm <= 1e-5
    seen = 0
    for row, x, y, last in zip(result.steps[1:], iterates, iterates[1:], memories, strict=False):
        if row.length < 1e-3:
            continue
        # The simplified normal step is along x, and its length is in the table.
        for sign in (-1.0, 1.0):
            back = sign * row.contraction * row.length * x / np.linalg.norm(x)
            d = y - x - back
            if abs(np.linalg.norm(d) - row.length) > 1e-9:
                continue
            p = -float(x @ matrix @ x) / float(x @ x)
            lagrangian = matrix + p * np.eye(n)
            # L is quadratic: what the model does not know is the part of the step back.
            slope = lagrangian @ x
            remainder = float(slope @ back + back @ lagrangian @ d + 0.5 * back @ lagrangian @ back)
            true = 6.0 * remainder / row.length**3
            seen += 1
            assert row.omega == pytest.approx(limited(float(last.get("omega_f", 0.0)), true), rel=1e-3, abs=1e-6)
            break
        assert row.omega <= 30.0 * np.abs(np.linalg.eigvalsh(matrix)).max()
    assert seen >= 3
