"""Krylov spaces: their bases, steps against dense oracles, and what a second pass and a second radius cost."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from dnnfem.norms import Euclidean, Weighted
from dnnfem.solvers import gltr, more_sorensen, steihaug
from dnnfem.solvers.lanczos import Lanczos, truncated, within
from dnnfem.solvers.secular import Ball, Cubic, Spectrum
from dnnfem.spaces import Coordinates

NORMS = {
    "Euclidean": lambda n: Euclidean(Coordinates(n)),
    "weighted": lambda n: Weighted(Coordinates(n), np.geomspace(0.1, 10.0, n)),
}


def symmetric(eigenvalues, seed=0):
    """Return a symmetric matrix with the given eigenvalues, and its eigenvectors."""
    n = len(eigenvalues)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    return (basis * eigenvalues) @ basis.T, basis


def random_model(n, seed, kind):
    """Return a matrix and a derivative: definite, indefinite, or singular with a consistent derivative."""
    random = np.random.default_rng(seed)
    eigenvalues = random.standard_normal(n) if kind == "indefinite" else np.geomspace(1e-2, 1.0, n)
    if kind == "singular":
        eigenvalues[: n // 2] = 0.0
    matrix, _ = symmetric(eigenvalues, seed)
    load = random.standard_normal(n)
    return matrix, matrix @ load if kind == "singular" else load


def promised(matrix, derivative, norm, d, omega=0.0):
    """Return the decrease of a model with a cubic term."""
    return -float(derivative @ d + 0.5 * d @ matrix @ d) - omega / 6.0 * norm.norm(d) ** 3


@pytest.mark.parametrize("name", NORMS)
@given(st.integers(2, 25), st.integers(0, 1000))
def test_the_basis_is_orthogonal_and_the_operator_tridiagonal(name, n, seed):
    matrix, derivative = random_model(n, seed, "indefinite")
    norm = NORMS[name](n)
    lanczos, vectors = Lanczos(lambda v: matrix @ v, derivative, norm), []
    while not lanczos.closed and lanczos.dim < n:
        vectors.append(lanczos.vector(lanczos.dim).copy())
        lanczos.grow()
    q = np.array(vectors)
    assert len(q) == n and lanczos.closed and lanczos.products == n
    assert q @ np.array([norm.apply(v) for v in q]).T == pytest.approx(np.eye(n), abs=1e-12)
    tridiagonal = np.diag(lanczos.alpha) + np.diag(lanczos.beta[:-1], 1) + np.diag(lanczos.beta[:-1], -1)
    assert q @ matrix @ q.T == pytest.approx(tridiagonal, abs=1e-11 * np.abs(tridiagonal).max())
    assert q[0] * lanczos.size == pytest.approx(norm.riesz(derivative))


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("kind", ["definite", "indefinite", "singular"])
@given(st.integers(1, 25), st.floats(-3.0, 3.0), st.integers(0, 1000))
def test_accurate_steps_are_those_of_the_dense_oracle(kind, name, n, exponent, seed):
    matrix, derivative = random_model(n, seed, kind)
    norm, radius = NORMS[name](n), 10.0**exponent
    result = gltr(lambda v: matrix @ v, derivative, norm, radius, 1e-12, 3 * n)
    best = more_sorensen(matrix, derivative, norm, radius)
    assert result.decrease == pytest.approx(best.decrease, rel=1e-9)
    assert result.decrease == pytest.approx(promised(matrix, derivative, norm, result.step), rel=1e-9, abs=1e-300)
    assert norm.norm(result.step) <= radius * (1 + 1e-9) and result.boundary == best.boundary
    assert result.iterations <= n
    assert result.multiplier == pytest.approx(best.multiplier, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 1e-13, 1e-8])
@given(st.integers(3, 12), st.integers(0, 1000))
def test_next_to_the_hard_case_the_lowest_eigenvector_is_found_from_its_least_trace(share, n, seed):
    eigenvalues = np.concatenate([[-2.0], np.linspace(-1.0, 3.0, n - 1)])
    matrix, basis = symmetric(eigenvalues, seed)
    derivative = basis @ np.concatenate([[share], np.random.default_rng(seed).uniform(0.5, 1.0, n - 1)])
    norm, radius = Euclidean(Coordinates(n)), 50.0
    result = gltr(lambda v: matrix @ v, derivative, norm, radius, 1e-12, 2 * n)
    best = more_sorensen(matrix, derivative, norm, radius)
    assert result.boundary and norm.norm(result.step) == pytest.approx(radius, rel=1e-8)
    if share > 1e-9:
        assert result.decrease == pytest.approx(best.decrease, rel=1e-8)
    elif share == 0.0:
        # Exactly in the hard case a Krylov space need not know the eigenvector: then it is the best step without it.
        other = basis[:, 1:]
        inner = more_sorensen(other.T @ matrix @ other, other.T @ derivative, Euclidean(Coordinates(n - 1)), radius)
        assert inner.decrease * (1 - 1e-8) <= result.decrease <= best.decrease * (1 + 1e-8)


@pytest.mark.parametrize("name", NORMS)
@given(
    st.integers(2, 25),
    st.sampled_from([0.01, 0.1, 0.5, 0.9, 1.1, 2.0]),
    st.sampled_from([0.5, 0.1, 1e-3]),
    st.integers(0, 1000),
)
def test_steps_are_those_of_conjugate_gradients_or_better(name, n, share, accuracy, seed):
    matrix, derivative = random_model(n, seed, "definite")
    norm = NORMS[name](n)
    radius = share * norm.norm(np.linalg.solve(matrix, derivative))
    first = steihaug(lambda v: matrix @ v, derivative, norm, radius, accuracy, 3 * n)
    second = gltr(lambda v: matrix @ v, derivative, norm, radius, accuracy, 3 * n)
    assert second.decrease >= first.decrease * (1 - 1e-9)
    if share > 1.0:
        assert second.iterations <= first.iterations and not second.boundary and second.multiplier == 0.0
        # Later on conjugate gradients lose their orthogonality.
        if second.iterations < n // 2:
            assert second.step == pytest.approx(first.step, rel=1e-6, abs=1e-9 * radius)


@given(st.floats(-1.0, 1.0), st.sampled_from([0.3, 1e-2, 1e-4]), st.integers(0, 1000))
def test_what_is_left_of_the_derivative_is_as_small_as_asked_for(exponent, accuracy, seed):
    matrix, derivative = random_model(40, seed, "indefinite")
    norm = NORMS["weighted"](40)
    result = gltr(lambda v: matrix @ v, derivative, norm, 10.0**exponent, accuracy, 40)
    length = norm.norm(result.step)
    left = norm.dual_norm(matrix @ result.step + result.multiplier * norm.apply(result.step) + derivative)
    assert result.boundary
    assert left <= accuracy * max(norm.dual_norm(derivative), result.multiplier * length) * (1 + 1e-6)


def test_negative_curvature_that_steihaug_leaves_at_the_boundary_is_used():
    matrix, basis = symmetric(np.concatenate([[-5.0], np.linspace(1.0, 2.0, 29)]))
    derivative = basis @ np.concatenate([[1e-3], np.ones(29)])
    norm = Euclidean(Coordinates(30))
    first = steihaug(lambda v: matrix @ v, derivative, norm, 10.0, 1e-6, 60)
    second = gltr(lambda v: matrix @ v, derivative, norm, 10.0, 1e-6, 60)
    best = more_sorensen(matrix, derivative, norm, 10.0)
    assert second.decrease == pytest.approx(best.decrease, rel=1e-9) and first.decrease < 0.99 * best.decrease


@pytest.mark.parametrize("name", NORMS)
@given(st.integers(4, 25), st.sampled_from([0, 700, 2000]), st.integers(0, 1000))
def test_a_second_pass_finds_the_step_where_vectors_were_not_kept(name, n, memory, seed):
    matrix, derivative = random_model(n, seed, "indefinite")
    norm, products = NORMS[name](n), []

    def hessian(v):
        products.append(1)
        return matrix @ v

    lanczos = Lanczos(hessian, derivative, norm, memory)
    result = truncated(lanczos, 1.0, 1e-6, 1e-6, n)
    assert result.decrease == pytest.approx(promised(matrix, derivative, norm, result.step), rel=1e-7)
    assert norm.norm(result.step) == pytest.approx(1.0, rel=1e-7)
    kept = max(2, memory // (8 * n * (1 if name == "Euclidean" else 2)))
    assert result.iterations == len(products) == lanczos.dim + max(0, lanczos.dim - kept)


def test_another_radius_at_the_same_point_costs_no_product_if_the_space_suffices():
    matrix, derivative = random_model(30, 3, "indefinite")
    norm = NORMS["weighted"](30)
    lanczos = Lanczos(lambda v: matrix @ v, derivative, norm)
    truncated(lanczos, 1.0, 1e-6, 1e-6, 30)
    for radius in (0.5, 0.1, 1e-3):
        again = truncated(lanczos, radius, 1e-6, 1e-6, 30)
        best = more_sorensen(matrix, derivative, norm, radius)
        assert again.iterations == 0 and again.decrease == pytest.approx(best.decrease, rel=1e-8)
    assert truncated(lanczos, 100.0, 1e-12, 1e-12, 30).decrease == pytest.approx(
        more_sorensen(matrix, derivative, norm, 100.0).decrease, rel=1e-9
    )


def test_models_without_derivative_and_products_that_are_not_finite_have_no_step():
    norm = Euclidean(Coordinates(3))
    nothing = gltr(lambda v: v, np.zeros(3), norm, 1.0, 1e-3, 10)
    assert nothing.iterations == 0 and not nothing.step.any() and nothing.decrease == 0.0
    broken = gltr(lambda v: np.nan * v, np.ones(3), norm, 1.0, 1e-3, 10)
    assert not broken.step.any() and broken.decrease == 0.0
    assert not gltr(lambda v: -v, np.ones(3), norm, np.inf, 1e-3, 10).step.any()
    assert gltr(lambda v: np.diag([1.0, 10.0, 100.0]) @ v, np.ones(3), norm, np.inf, 1e-12, 2).iterations == 2


@pytest.mark.parametrize("radius", [0.0, -1.0, np.nan])
def test_a_trust_radius_is_positive_and_a_derivative_finite(radius):
    norm, matrix = Euclidean(Coordinates(3)), np.diag([1.0, 2.0, 3.0])
    for solve in (steihaug, gltr):
        with pytest.raises(ValueError, match="^radius: got .*expected a positive number"):
            solve(lambda v: matrix @ v, np.ones(3), norm, radius, 0.1, 10)
        with pytest.raises(ValueError, match="^derivative: got 2 of 3 numbers that are not finite"):
            solve(lambda v: matrix @ v, np.array([np.nan, 1.0, np.inf]), norm, 1.0, 0.1, 10)
        assert solve(lambda v: matrix @ v, np.ones(3), norm, np.inf, 0.1, 10).step.any()
    with pytest.raises(ValueError, match="^radius: got .*expected a positive number"):
        more_sorensen(matrix, np.ones(3), norm, radius)
    with pytest.raises(ValueError, match="^radius: got infinity, expected a finite number"):
        more_sorensen(matrix, np.ones(3), norm, np.inf)
    with pytest.raises(ValueError, match="^derivative: got 1 of 3"):
        more_sorensen(matrix, np.array([0.0, 0.0, np.nan]), norm, 1.0)
    with pytest.raises(ValueError, match="^matrix: got numbers that are not finite"):
        more_sorensen(np.diag([1.0, np.nan, 1.0]), np.ones(3), norm, 1.0)


# Cubic terms


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("kind", ["definite", "indefinite", "singular"])
@given(st.integers(1, 12), st.floats(-3.0, 3.0), st.integers(0, 1000))
def test_cubic_steps_are_global_minimizers(kind, name, n, exponent, seed):
    matrix, derivative = random_model(n, seed, kind)
    norm, omega = NORMS[name](n), 10.0**exponent
    result = Spectrum.of(matrix, derivative, norm).minimize(Cubic(omega))
    d, length = result.step, norm.norm(result.step)
    # The conditions of Nesterov and Polyak: (H + s M) d = -g and H + s M >= 0 with s = omega |d| / 2.
    assert result.multiplier == pytest.approx(0.5 * omega * length, rel=1e-8)
    scale = np.abs(derivative).max() + np.abs(matrix).max() * length
    assert matrix @ d + result.multiplier * norm.apply(d) == pytest.approx(-derivative, abs=1e-8 * scale)
    lowest = np.linalg.eigvalsh(norm.whiten(norm.whiten(matrix).T))[0]
    assert lowest + result.multiplier >= -1e-9
    assert result.decrease == pytest.approx(promised(matrix, derivative, norm, d), rel=1e-8)
    # It is the step of its own trust radius.
    ball = more_sorensen(matrix, derivative, norm, length)
    assert ball.decrease == pytest.approx(result.decrease, rel=1e-7)


@given(st.integers(2, 8), st.floats(-2.0, 2.0), st.integers(0, 1000))
def test_in_the_hard_case_a_cubic_step_has_a_part_along_the_lowest_eigenvector(n, exponent, seed):
    eigenvalues = np.concatenate([[-2.0], np.linspace(1.0, 3.0, n - 1)])
    matrix, basis = symmetric(eigenvalues, seed)
    load = np.concatenate([[0.0], np.random.default_rng(seed).uniform(0.5, 1.0, n - 1)])
    omega, norm = 10.0**exponent, Euclidean(Coordinates(n))
    derivative = basis @ load
    result = Spectrum.of(matrix, derivative, norm).minimize(Cubic(omega))
    length = norm.norm(result.step)
    assert 0.5 * omega * length >= 2.0 * (1 - 1e-9) and result.negative
    without = np.linalg.norm(load[1:] / (eigenvalues[1:] + 2.0))
    if without < 0.9 * 4.0 / omega:
        assert length == pytest.approx(4.0 / omega, rel=1e-8)
        assert abs(basis[:, 0] @ result.step) == pytest.approx(np.sqrt(length**2 - without**2), rel=1e-6)
    # No other point is better, nor are both signs different.
    random = np.random.default_rng(seed).standard_normal((200, n))
    others = [promised(matrix, derivative, norm, result.step + 0.1 * length * d, omega) for d in random]
    assert max(others) <= promised(matrix, derivative, norm, result.step, omega) * (1 + 1e-9)


def test_a_saddle_without_derivative_is_left_as_far_as_the_cubic_term_allows():
    result = Spectrum.of(np.diag([1.0, -2.0]), np.zeros(2), Euclidean(Coordinates(2))).minimize(Cubic(0.5))
    assert np.abs(result.step) == pytest.approx([0.0, 8.0]) and result.multiplier == pytest.approx(2.0)


@given(st.integers(0, 1000), st.integers(1, 3))
def test_flat_directions_are_left_alone_by_cubic_steps(seed, nullity):
    eigenvalues = np.array([0.0] * nullity + [1.0, 2.0, 3.0])
    matrix, basis = symmetric(eigenvalues, seed)
    derivative = matrix @ np.random.default_rng(seed).standard_normal(len(eigenvalues))
    result = Spectrum.of(matrix, derivative, Euclidean(Coordinates(len(eigenvalues)))).minimize(Cubic(1e-6))
    assert basis[:, :nullity].T @ result.step == pytest.approx(0.0, abs=1e-9)
    assert result.step == pytest.approx(-np.linalg.pinv(matrix, rcond=1e-10) @ derivative, abs=1e-4)


@pytest.mark.parametrize("name", NORMS)
@given(st.integers(1, 25), st.floats(-3.0, 3.0), st.booleans(), st.integers(0, 1000))
def test_cubic_steps_in_krylov_spaces_become_the_dense_ones(name, n, exponent, indefinite, seed):
    matrix, derivative = random_model(n, seed, "indefinite" if indefinite else "definite")
    norm, omega = NORMS[name](n), 10.0**exponent
    best = Spectrum.of(matrix, derivative, norm).minimize(Cubic(omega))
    values = []
    for accuracy in (0.5, 1e-2, 1e-12):
        step, _ = within(Lanczos(lambda v: matrix @ v, derivative, norm), Cubic(omega), accuracy, accuracy, n)
        values.append(promised(matrix, derivative, norm, step.step, omega))
        left = norm.dual_norm(matrix @ step.step + step.multiplier * norm.apply(step.step) + derivative)
        size = max(norm.dual_norm(derivative), step.multiplier * norm.norm(step.step))
        assert left <= max(accuracy, 1e-9) * size * (1 + 1e-6)
    assert values == sorted(values) or values == pytest.approx(sorted(values), rel=1e-9)
    assert values[-1] == pytest.approx(promised(matrix, derivative, norm, best.step, omega), rel=1e-8)


@given(st.integers(2, 12), st.integers(0, 1000))
def test_newtons_promise_is_what_a_full_step_gains(n, seed):
    matrix, derivative = random_model(n, seed, "definite")
    spectrum = Spectrum.of(matrix, derivative, NORMS["weighted"](n))
    assert spectrum.diagonal.promise == pytest.approx(0.5 * derivative @ np.linalg.solve(matrix, derivative), rel=1e-8)
    matrix, derivative = random_model(n, seed, "indefinite")
    negative = np.linalg.eigvalsh(matrix)[0] < 0.0
    assert np.isinf(Spectrum.of(matrix, derivative, NORMS["weighted"](n)).diagonal.promise) == negative


def test_steps_get_shorter_with_omega_and_a_ball_of_that_radius_gives_the_same():
    matrix, derivative = random_model(8, 1, "indefinite")
    spectrum = Spectrum.of(matrix, derivative, Euclidean(Coordinates(8)))
    steps = [spectrum.minimize(Cubic(omega)).step for omega in np.geomspace(1e-4, 1e4, 9)]
    lengths = [np.linalg.norm(step) for step in steps]
    assert (np.diff(lengths) < 0.0).all()
    for step, length in zip(steps, lengths, strict=True):
        assert spectrum.minimize(Ball(length)).step == pytest.approx(step, rel=1e-6, abs=1e-9)
