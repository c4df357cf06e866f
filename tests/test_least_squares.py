"""Dense least squares against `numpy.linalg.lstsq` and dense formulas, on systems of every shape and rank."""

from unittest import mock

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, strategies as st

from dnnfem.kernels import spectral
from dnnfem.kernels.bidiagonal import Bidiagonal
from dnnfem.kernels.least_squares import DenseLeastSquares, Elimination
from dnnfem.norms import Euclidean, Weighted
from dnnfem.spaces import Coordinates


@st.composite
def systems(draw, columns=(1, 6), rows=(1, 9)):
    """Draw a system, perhaps with more columns than rows, equal columns, zero columns or bad scaling."""
    n, m = draw(st.integers(*columns)), draw(st.integers(*rows))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    matrix = random.standard_normal((m, n))
    kind = draw(st.sampled_from(["full", "full", "scaled", "equal", "zero column", "zero", "rank one"]))
    if kind == "scaled":
        matrix *= np.geomspace(1e-4, 1e4, n)
    elif kind == "equal":
        matrix[:, -1] = matrix[:, 0]
    elif kind == "zero column":
        matrix[:, -1] = 0.0
    elif kind == "zero":
        matrix[:] = 0.0
    elif kind == "rank one":
        matrix = np.outer(matrix[:, 0], matrix[0])
    return DenseLeastSquares(matrix, random.standard_normal(m))


def subset(draw, n):
    """Draw some columns in any order."""
    return np.array(draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n)), dtype=np.int64)


def moved(system, d):
    """Return the system after a correction."""
    return DenseLeastSquares(system.matrix, system.residual + system.matrix @ d)


def best(matrix, residual):
    """Return ``min |r + A d|^2 / 2`` by a dense solve with scaled columns."""
    if matrix.shape[1] == 0:
        return 0.5 * np.sum(residual**2)
    length = np.linalg.norm(matrix, axis=0)
    scaled = matrix / np.where(length > 0, length, 1.0)
    d = np.linalg.lstsq(scaled, -residual, rcond=1e-12)[0]
    return 0.5 * np.sum((residual + scaled @ d) ** 2)


@given(systems())
def test_value_derivative_and_curvature_are_those_of_half_the_square(system):
    a, r = system.matrix, system.residual
    assert system.shape == a.shape
    assert system.value == pytest.approx(0.5 * r @ r)
    assert system.derivative == pytest.approx(a.T @ r)
    v = np.eye(a.shape[1])
    assert system.curvature(v) == pytest.approx(a.T @ a)
    assert system.curvature(v[0]) == pytest.approx((a.T @ a)[:, 0])


@given(systems(), st.data())
def test_a_solve_reaches_the_minimum_over_its_columns(system, data):
    columns = subset(data.draw, system.shape[1])
    correction, after = system.solve(columns)
    assert correction.shape == columns.shape
    d = np.zeros(system.shape[1])
    d[columns] = correction
    assert after.value == pytest.approx(moved(system, d).value, rel=1e-12)
    assert after.value == pytest.approx(best(system.matrix[:, columns], system.residual), rel=1e-9, abs=1e-12)


def test_a_solve_of_full_rank_is_that_of_lstsq():
    random = np.random.default_rng(0)
    a, r = random.standard_normal((9, 4)), random.standard_normal(9)
    d = DenseLeastSquares(a, r).solve(np.arange(4))[0]
    assert d == pytest.approx(np.linalg.lstsq(a, -r, rcond=None)[0], rel=1e-12)


def test_dependent_columns_do_not_get_large_coefficients():
    random = np.random.default_rng(0)
    a = random.standard_normal((9, 4))
    a[:, 1] = a[:, 0] * (1 + 1e-16)
    a[:, 2] = a[:, 0] + a[:, 3]
    d = DenseLeastSquares(a, random.standard_normal(9)).solve(np.arange(4))[0]
    assert np.count_nonzero(d) == 2 and np.abs(d).max() < 10.0


@given(systems(), st.data())
def test_elimination_is_minimization_over_the_eliminated_columns(system, data):
    n = system.shape[1]
    columns = subset(data.draw, n)
    rest = np.setdiff1d(np.arange(n), columns)
    reduced = system.condensed(columns)
    assert reduced.shape[1] == len(rest)
    for seed in range(3):
        d = np.random.default_rng(seed).standard_normal(len(rest))
        full = np.zeros(n)
        full[rest] = d
        expected = best(system.matrix[:, columns], system.residual + system.matrix @ full)
        scale = 1.0 + 0.5 * np.sum((system.matrix @ full) ** 2)
        assert moved(reduced, d).value == pytest.approx(expected, rel=1e-9, abs=1e-11 * scale)


@given(systems(), st.data())
def test_residuals_of_the_original_rows_are_pulled_back_through_an_elimination(system, data):
    columns = subset(data.draw, system.shape[1])
    rest = np.setdiff1d(np.arange(system.shape[1]), columns)
    reduced = system.condensed(columns)
    scale = 1e-11 * (1.0 + np.abs(system.matrix).max())
    assert reduced.pull(system.residual) == pytest.approx(reduced.derivative, rel=1e-9, abs=scale)
    assert system.pull(system.residual) == pytest.approx(system.derivative)
    if columns.size == 0:
        assert reduced.pull(np.ones(system.shape[0])) == pytest.approx(
            system.matrix[:, rest].sum(axis=0), rel=1e-9, abs=scale
        )


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1000))
def test_groups_that_repeat_a_matrix_are_eliminated_with_one_factorization(features, groups, others, seed):
    random = np.random.default_rng(seed)
    m = features + 2
    block = random.standard_normal((m, features))
    rest = random.standard_normal((groups * m + 2, others))
    matrix = np.zeros((groups * m + 2, groups * features + others))
    place = np.arange(groups * features).reshape(groups, features)
    for k in range(groups):
        matrix[k * m : (k + 1) * m, place[k]] = block
    matrix[:, groups * features :] = rest
    system = DenseLeastSquares(matrix, random.standard_normal(len(matrix)))
    assert len(Elimination.of(matrix, place).rows) == groups
    together, flat = system.condensed(place), system.condensed(place.ravel())
    eye = np.eye(others)
    assert together.value == pytest.approx(flat.value, rel=1e-10, abs=1e-13)
    assert together.derivative == pytest.approx(flat.derivative, rel=1e-9, abs=1e-11)
    assert together.curvature(eye) == pytest.approx(flat.curvature(eye), rel=1e-9, abs=1e-11)
    assert system.solve(place)[0].ravel() == pytest.approx(system.solve(place.ravel())[0], rel=1e-8, abs=1e-10)


def test_groups_that_share_rows_or_differ_are_eliminated_together():
    random = np.random.default_rng(1)
    for matrix in (
        random.standard_normal((8, 4)),
        np.kron(np.eye(2), np.ones((4, 2))) * random.standard_normal((8, 4)),
    ):
        place = np.array([[0, 1], [2, 3]])
        assert len(Elimination.of(matrix, place).rows) == 1
        system = DenseLeastSquares(matrix, random.standard_normal(8))
        assert system.condensed(place).value == pytest.approx(best(matrix, system.residual), rel=1e-12)
        assert system.solve(place)[1].value == pytest.approx(best(matrix, system.residual), rel=1e-12)


@given(systems(rows=(6, 9)), st.data())
def test_normal_equations_are_solved_for_every_dual_vector_in_the_range(system, data):
    columns = subset(data.draw, system.shape[1])
    a = system.matrix[:, columns]
    dual = a.T @ np.linspace(-1.0, 1.0, len(a))
    z = system.normal_solve(columns, dual)
    length = np.linalg.norm(a, axis=0)
    assert a.T @ (a @ z) == pytest.approx(dual, rel=1e-8, abs=1e-8 * max([0.0, *length]) or 1e-300)


@given(systems(columns=(3, 3)), systems(columns=(3, 3)), st.floats(0.0, 10.0))
def test_systems_are_stacked_scaled_transformed_and_moved_like_the_sums_of_squares_they_are(first, second, factor):
    d = np.array([0.3, -1.0, 0.5])

    def value(system, d=d):
        return 0.5 * np.sum((system.residual + system.matrix @ d) ** 2)

    both = first + factor * second
    assert moved(both, d).value == pytest.approx(value(first) + factor * value(second), rel=1e-12, abs=1e-14)
    transfer = np.array([[1.0, 2.0], [0.0, -1.0], [3.0, 0.5]])
    e = np.array([0.7, -0.2])
    for form in (transfer, sp.csr_array(transfer)):
        assert moved(first @ form, e).value == pytest.approx(value(first, transfer @ e), rel=1e-10, abs=1e-13)
    assert np.array_equal(first[np.array([2, 0])].matrix, first.matrix[:, [2, 0]])
    ridged = first.ridge(np.array([2, 0]), factor, np.array([1.0, -2.0]))
    penalty = 0.5 * factor * ((1.0 + d[2]) ** 2 + (-2.0 + d[0]) ** 2)
    assert moved(ridged, d).value == pytest.approx(value(first) + penalty, rel=1e-12, abs=1e-14)
    assert first.lengths == pytest.approx(np.sqrt(np.sum(first.matrix**2, axis=0)))
    assert first.value == pytest.approx(0.5 * np.sum(first.residual**2))


NORMS = {
    "Euclidean": lambda n: Euclidean(Coordinates(n)),
    "weighted": lambda n: Weighted(Coordinates(n), np.geomspace(0.1, 10.0, n)),
}


FACTORIZATIONS = {"singular vectors": 1000, "bidiagonal": 1}


def steps_of(system, norm, factorization):
    """Return the steps of a system from one of the factorizations, however small it is."""
    with mock.patch.object(spectral, "LEAST", FACTORIZATIONS[factorization]):
        return system.steps(norm)


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@pytest.mark.parametrize("name", NORMS)
@given(system=systems(), exponent=st.floats(-4.0, 4.0))
def test_trust_region_steps_satisfy_the_optimality_conditions(name, factorization, system, exponent):
    norm = NORMS[name](system.shape[1])
    a, r = system.matrix, system.residual
    gradient = norm.dual_norm(system.derivative)
    steps = steps_of(system, norm, factorization)
    full = steps.full
    radius = 10.0**exponent * (full.length or 1.0)
    model = steps(radius)
    d = model.step
    curvature = norm.dual_norm(system.curvature(norm.riesz(system.derivative))) / gradient if gradient else 1.0
    assert norm.norm(d) <= radius * (1 + 1e-9)
    assert model.length == pytest.approx(norm.norm(d), rel=1e-8, abs=1e-12 * radius)
    stationarity = a.T @ (r + a @ d) + model.multiplier * norm.apply(d)
    assert norm.dual_norm(stationarity) <= 1e-8 * gradient + 1e-10 * curvature * norm.norm(d)
    assert model.multiplier >= 0.0
    if model.interior:
        assert model.multiplier == 0.0
    else:
        assert norm.norm(d) == pytest.approx(radius, rel=1e-8)
        assert model.multiplier > 0.0 or radius > 0.999 * full.length
    assert model.decrease == pytest.approx(system.value - moved(system, d).value, rel=1e-7, abs=1e-12 * system.value)
    assert model.decrease >= 0.0


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@given(system=systems())
def test_larger_trust_regions_promise_more(factorization, system):
    steps = steps_of(system, Euclidean(Coordinates(system.shape[1])), factorization)
    radii = (steps.full.length or 1.0) * 3.0 ** np.arange(-6, 3)
    models = [steps(radius) for radius in radii]
    decreases = np.array([m.decrease for m in models])
    assert (np.diff(decreases) >= -1e-12 * decreases[-1]).all()
    assert (np.diff([m.length for m in models]) >= -1e-9 * radii[:-1]).all()
    assert (
        decreases[-1]
        == pytest.approx(steps.full.decrease)
        == pytest.approx(system.value - best(system.matrix, system.residual), rel=1e-9, abs=1e-12)
    )


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@given(system=systems())
def test_the_full_step_is_the_shortest_minimizer(factorization, system):
    n = system.shape[1]
    scaled = system.matrix / max(np.abs(system.matrix).max(), 1e-300)
    full = steps_of(DenseLeastSquares(scaled, system.residual), Euclidean(Coordinates(n)), factorization).full
    expected = np.linalg.lstsq(scaled, -system.residual, rcond=1e-13)[0]
    assert full.step == pytest.approx(expected, rel=1e-5, abs=1e-7 * (1.0 + np.abs(expected).max()))


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@given(system=systems(), multiplier=st.floats(1e-3, 1e3))
def test_one_factorization_solves_shifted_normal_equations(factorization, system, multiplier):
    n = system.shape[1]
    norm = NORMS["weighted"](n)
    matrix = system.matrix.T @ system.matrix + multiplier * np.diag(norm.weights)
    expected = -np.linalg.solve(matrix, system.derivative)
    got = steps_of(system, norm, factorization).solve(multiplier, system.derivative)
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-9 * (1.0 + np.abs(expected).max()))


@pytest.mark.parametrize("least", [1e-3, 1e-9, 0.0])
def test_singular_vectors_and_a_bidiagonal_matrix_give_the_same_steps(least):
    """Also where directions are cut off: the last of the matrices repeats columns."""
    random, n = np.random.default_rng(7), 130
    matrix = random.standard_normal((300, n)) @ np.diag(np.geomspace(1.0, max(least, 1e-3), n))
    matrix = matrix @ np.linalg.qr(random.standard_normal((n, n)))[0]
    if least == 0.0:
        matrix[:, 100:] = matrix[:, 70:100]
    elif least < 1e-3:
        matrix = matrix @ np.diag(np.geomspace(1.0, least, n))
    system = DenseLeastSquares(matrix, random.standard_normal(300))
    norm = Weighted(Coordinates(n), np.geomspace(0.1, 10.0, n))
    one, other = (steps_of(system, norm, factorization) for factorization in FACTORIZATIONS)
    assert [type(steps.factors).__name__ for steps in (one, other)] == ["SingularVectors", "DampedBidiagonal"]
    for radius in (*np.geomspace(1e-6, 0.9, 9) * one.full.length, 2.0 * one.full.length):
        a, b = one(radius), other(radius)
        assert a.interior == b.interior and b.multiplier == pytest.approx(a.multiplier, rel=1e-6)
        assert b.decrease == pytest.approx(a.decrease, rel=1e-11)
        assert norm.norm(a.step - b.step) <= 1e-8 * a.length
        bends = [steps.solve(a.multiplier, system.derivative) for steps in (one, other)]
        assert norm.norm(bends[0] - bends[1]) <= 1e-6 * norm.norm(bends[0])


@pytest.mark.parametrize("least", [3e-14, 1e-16, 0.0])
@pytest.mark.parametrize("decay", [1e-3, 1e-6, 1e-9, 1e-12])
def test_steps_stay_within_the_radius_where_columns_nearly_depend(decay, least):
    random, n = np.random.default_rng(11), 130
    values = np.append(np.geomspace(1.0, decay, n - 30), np.full(30, least))
    left, right = (np.linalg.qr(random.standard_normal((rows, n)))[0] for rows in (200, n))
    system = DenseLeastSquares(left * values @ right.T, random.standard_normal(200))
    steps = steps_of(system, Euclidean(Coordinates(n)), "bidiagonal")
    plain = steps_of(system, Euclidean(Coordinates(n)), "singular vectors")
    for radius in np.geomspace(1e-9, 1.0, 10) * steps.full.length:
        model = steps(radius)
        # Singular values themselves are known up to rounding.
        assert np.linalg.norm(model.step) <= radius * (1.0 + max(1e-6, 1e-16 / decay))
        assert np.linalg.norm(model.step) == pytest.approx(model.length, rel=max(1e-6, 1e-16 / decay))
        assert model.decrease == pytest.approx(plain(radius).decrease, rel=max(1e-7, 1e-15 / decay))


def test_a_bidiagonalization_has_the_factors_that_it_names():
    random = np.random.default_rng(3)
    for rows, n in ((1, 1), (4, 1), (5, 5), (40, 7)):
        matrix, load = random.standard_normal((rows, n)), random.standard_normal(n)
        factors = Bidiagonal.of(matrix)
        B = np.diag(factors.diagonal) + np.diag(factors.above, 1)
        P = np.column_stack([factors.from_right(e) for e in np.eye(n)])
        assert np.allclose(P.T @ P, np.eye(n), atol=1e-14)
        assert np.allclose(factors.inside(matrix), B @ P.T, atol=1e-13)
        assert np.allclose(factors.to_right(load), P.T @ load, atol=1e-14)
        values, turned = factors.singular(load[:, None])
        assert np.allclose(values, np.linalg.svd(matrix)[1], atol=1e-13)
        assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(load))
        y = factors.damped(0.3, load, load[::-1])
        expected = np.linalg.solve(B.T @ B + 0.09 * np.eye(n), B.T @ load + 0.3 * load[::-1])
        assert np.allclose(y, expected, atol=1e-12)
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        Bidiagonal.of(np.zeros((3, 2))).damped(0.0, np.ones(2), np.ones(2))


@pytest.mark.parametrize("radius", [0.0, -1.0, np.nan])
def test_a_radius_is_positive(radius):
    steps = DenseLeastSquares(np.eye(2), np.ones(2)).steps(Euclidean(Coordinates(2)))
    with pytest.raises(ValueError, match="^radius: got.*expected a positive number"):
        steps(radius)


def test_a_zero_matrix_and_a_system_without_rows_have_nothing_to_offer(capfd):
    for rows in (3, 0):
        system = DenseLeastSquares(np.zeros((rows, 2)), np.ones(rows))
        columns = np.arange(2)
        assert system.steps(Euclidean(Coordinates(2)))(1.0).step.tolist() == [0.0, 0.0]
        assert not system.solve(columns)[0].any() and not system.candidates(columns).score().any()
        assert system.candidates(columns).select(2)[0].size == 0
        assert not system.normal_solve(columns, np.ones(2)).any()
        assert system.leverage().tolist() == [0.0] * rows
        assert system.condensed(columns[:1]).value == system.value
    assert "illegal" not in "".join(capfd.readouterr())


def candidates(seed, kind, groups=3, width=1, others=3, rows=12):
    """Return a system with candidate columns of one kind after the first `others` columns."""
    random = np.random.default_rng(seed)
    matrix = random.standard_normal((rows, others + groups * width))
    place = others + random.permutation(groups * width).reshape(groups, width)
    if kind == "in the span":
        matrix[:, place[0, 0]] = matrix[:, :others] @ random.standard_normal(others)
    elif kind == "zero":
        matrix[:, place[0, -1]] = 0.0
    elif kind == "twice":
        matrix[:, place[0, -1]] = matrix[:, place[-1, 0]]
    elif kind == "scaled":
        matrix[:, place[0]] *= 1e-8
    return DenseLeastSquares(matrix, random.standard_normal(rows)), place


KINDS = ("generic", "in the span", "zero", "twice", "scaled")


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10**6))
def test_scores_are_what_re_solving_with_each_candidate_gains(kind, width, seed):
    system, place = candidates(seed, kind, width=width)
    old = np.arange(3)
    before = best(system.matrix[:, old], system.residual)
    expected = [before - best(system.matrix[:, [*old, *group]], system.residual) for group in place]
    assert system.candidates(place).score() == pytest.approx(expected, rel=1e-6, abs=1e-10)
    if width == 1:
        assert system.candidates(place.ravel()).score() == pytest.approx(expected, rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10**6))
def test_selection_is_greedy_re_solving(kind, width, seed):
    system, place = candidates(seed, kind, groups=4, width=width)
    order, gains = system.candidates(place).select(4)
    chosen = list(range(3))
    for k, gain in zip(order, gains, strict=True):
        before = best(system.matrix[:, chosen], system.residual)
        trials = [before - best(system.matrix[:, [*chosen, *group]], system.residual) for group in place]
        assert gain == pytest.approx(max(trials), rel=1e-6, abs=1e-10)
        assert gain == pytest.approx(trials[k], rel=1e-6, abs=1e-10)
        chosen += place[k].tolist()
    assert len(set(order.tolist())) == len(order)
    left = best(system.matrix[:, chosen], system.residual)
    assert left == pytest.approx(best(system.matrix, system.residual), rel=1e-9, abs=1e-10)


def test_selection_stops_at_the_count():
    system, place = candidates(0, "generic", groups=5)
    order, gains = system.candidates(place).select(2)
    assert len(order) == len(gains) == 2
    assert np.array_equal(order, system.candidates(place).select(5)[0][:2])
    assert system.candidates(place).select(0)[0].size == 0


@given(systems())
def test_leverage_is_the_diagonal_of_the_hat_matrix(system):
    length = np.linalg.norm(system.matrix, axis=0)
    scaled = system.matrix / np.where(length > 0, length, 1.0)
    hat = scaled @ np.linalg.pinv(scaled, rcond=1e-12)
    assert system.leverage() == pytest.approx(np.diag(hat), rel=1e-8, abs=1e-10)


def test_leverage_gives_the_leave_one_out_residuals():
    random = np.random.default_rng(0)
    a, r = random.standard_normal((8, 3)), random.standard_normal(8)
    system = DenseLeastSquares(a, r)
    fitted = r + a @ system.solve(np.arange(3))[0]
    for k in range(8):
        keep = np.arange(8) != k
        without = np.linalg.lstsq(a[keep], -r[keep], rcond=None)[0]
        assert fitted[k] / (1.0 - system.leverage()[k]) == pytest.approx(r[k] + a[k] @ without, rel=1e-10)


def test_a_system_keeps_what_it_was_made_of():
    random = np.random.default_rng(0)
    a, r = random.standard_normal((8, 5)), random.standard_normal(8)
    system = DenseLeastSquares(a.copy(), r.copy())
    columns = np.arange(3, 5)
    for use in (
        system.condensed,
        system.solve,
        lambda c: system.candidates(c).score(),
        lambda c: system.candidates(c).select(2),
        system.solve,
    ):
        use(columns)
    system.steps(Euclidean(Coordinates(5)))(0.1)
    system.leverage()
    assert np.array_equal(system.matrix, a) and np.array_equal(system.residual, r)


@given(systems(rows=(8, 12), columns=(5, 5)), st.floats(1e-2, 10.0))
def test_degrees_of_freedom_are_traces_of_hat_matrices_over_the_data(system, weight):
    penalized = system.ridge(np.arange(5), weight, np.zeros(5))
    assert penalized.samples == system.samples == system.shape[0]

    def trace(columns):
        a = system.matrix[:, columns]
        return np.trace(a @ np.linalg.solve(a.T @ a + weight * np.eye(len(columns)), a.T))

    base, added = penalized.candidates(np.array([3, 4])).joint().freedom
    assert base == pytest.approx(trace(np.arange(3)), rel=1e-8, abs=1e-9)
    assert base + added == pytest.approx(trace(np.arange(5)), rel=1e-8, abs=1e-9)


def test_schur_roots_are_the_curvature_when_all_others_react():
    random = np.random.default_rng(0)
    a = random.standard_normal((12, 6)) * np.geomspace(1e-3, 1e3, 6)
    groups = [np.array([0]), np.array([1, 4]), np.array([5, 2, 3])]
    roots = DenseLeastSquares(a, random.standard_normal(12)).schur_roots(groups, 1e-20)
    hessian = a.T @ a
    for group, root in zip(groups, roots, strict=True):
        rest = np.setdiff1d(np.arange(6), group)
        coupling = hessian[np.ix_(group, rest)]
        expected = hessian[np.ix_(group, group)] - coupling @ np.linalg.solve(hessian[np.ix_(rest, rest)], coupling.T)
        scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        assert (root.T @ root / scale) == pytest.approx(expected / scale, rel=1e-8, abs=1e-8)


def test_candidates_are_chosen_by_their_directions_whatever_their_lengths():
    for seed in range(20):
        random = np.random.default_rng(seed)
        matrix, residual = random.standard_normal((60, 30)), random.standard_normal(60)
        order, gains = DenseLeastSquares(matrix, residual).candidates(np.arange(5, 30)).select(20)
        for scale in (1e7, 1e-7):
            again, same = DenseLeastSquares(scale * matrix, residual).candidates(np.arange(5, 30)).select(20)
            assert np.array_equal(again, order) and same == pytest.approx(gains, rel=1e-9)

        def left(columns, matrix=matrix, residual=residual):
            basis, _ = np.linalg.qr(matrix[:, columns])
            return 0.5 * np.sum((residual - basis @ (basis.T @ residual)) ** 2)

        # Each is the best one for what those before have left.
        chosen = [*range(5)]
        for number, gain in zip(order, gains, strict=True):
            others = [k for k in range(5, 30) if k not in chosen]
            after = [left([*chosen, k]) for k in others]
            assert others[int(np.argmin(after))] == 5 + number
            assert gain == pytest.approx(left(chosen) - min(after), rel=1e-8)
            chosen.append(5 + number)
