"""Norms: Riesz maps, roots, and what a pulled-back norm does not see."""

import bisect
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, strategies as st

from dnnfem.functionals import Scaled, Sum, Tikhonov, condense, from_callables
from dnnfem.norms import (
    Blocks,
    Euclidean,
    Norm,
    Pullback,
    Weighted,
    frobenius,
    jacobi,
    kronecker,
    pulled_back,
    weight_decay,
)
from dnnfem.problems import Box, Collocation, Energy, Regression
from dnnfem.quadrature import Quadrature
from dnnfem.refinement import widen
from dnnfem.solvers import composite_step, cubic, gauss_newton, multilevel, newton, nlscon, trust_region
from dnnfem.solvers.krylov import steihaug
from dnnfem.spaces import Coordinates, FeedforwardSpace
from dnnfem.spaces.feedforward import Neuron
from dnnfem.testing import check_norm

RANDOM = np.random.default_rng(4)
INPUTS = RANDOM.uniform(-1.0, 1.0, (30, 2))
TARGETS = np.sin(INPUTS[:, 0]) + INPUTS[:, 1] ** 2
SPACE = FeedforwardSpace(2, (3,), 1)


@dataclass(frozen=True, eq=False)
class Chain(Norm):
    """``sum (v_{i+1} - v_i)^2 + v_0^2``: a norm of one's own, as the guide tells users to write it."""

    dim: int = 6

    def apply(self, v):
        w = np.diff(v, prepend=0.0)
        return w - np.append(w[1:], 0.0)

    def riesz(self, g):
        return np.cumsum(np.cumsum(g[::-1])[::-1])


def linearization(x=None, inputs=INPUTS, targets=TARGETS, space=SPACE):
    """Return the functional at a point."""
    return Regression(inputs, targets, backend="reference").on(space).linearize(space.initial(0) if x is None else x)


def norms():
    """Return one norm of each kind."""
    weights = np.geomspace(1e-3, 1e3, SPACE.dim)
    return {
        "Euclidean": Euclidean(SPACE),
        "weighted": Weighted(SPACE, weights),
        "pulled back": Pullback(SPACE, linearization(), 1e-3),
        "pulled back, weighted": Pullback(SPACE, linearization(), 1e-3, Weighted(SPACE, weights)),
        "diagonal of the curvature": jacobi(SPACE, linearization()),
        "weight decay": weight_decay(SPACE),
        "a user's": Chain(),
    }


@pytest.mark.parametrize("name", list(norms()))
def test_every_norm_is_one(name):
    check_norm(norms()[name])


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6), st.integers(0, 100))
def test_weighted_norms_are_the_diagonal_matrix(weights, seed):
    norm = Weighted(Coordinates(len(weights)), np.array(weights))
    check_norm(norm, seed)
    v = np.random.default_rng(seed).standard_normal(len(weights))
    assert norm.norm(v) == pytest.approx(np.sqrt(np.sum(np.array(weights) * v**2)), rel=1e-13)


def test_a_weighted_norm_with_equal_weights_is_a_multiple_of_the_euclidean_one():
    weighted, plain = Weighted(SPACE, np.full(SPACE.dim, 4.0)), Euclidean(SPACE)
    v = SPACE.initial(0)
    assert weighted.norm(v) == pytest.approx(2.0 * plain.norm(v))
    assert weighted.dual_norm(v) == pytest.approx(0.5 * plain.dual_norm(v))


@pytest.mark.parametrize("name", list(norms()))
def test_roots_and_whitening_match_the_dense_matrix(name):
    norm = norms()[name]
    matrix = np.column_stack([norm.apply(e) for e in np.eye(norm.dim)])
    scale = np.abs(matrix).max()
    assert norm.root().T @ norm.root() == pytest.approx(matrix, rel=1e-10, abs=1e-12 * scale)
    rows = np.random.default_rng(0).standard_normal((4, norm.dim))
    white = norm.whiten(rows)
    assert white.shape == rows.shape
    assert np.einsum("kd,kd->k", white, white) == pytest.approx([norm.dual_norm(g) ** 2 for g in rows], rel=1e-8)
    several = norm.unwhiten(rows.T)
    assert several[:, 2] == pytest.approx(norm.unwhiten(rows[2]), rel=1e-12, abs=1e-12)
    assert [norm.norm(v) for v in several.T] == pytest.approx(np.linalg.norm(rows, axis=1), rel=1e-8)


def test_the_jacobi_norm_is_the_diagonal_with_a_floor():
    here = linearization()
    diagonal = np.diagonal(here.curvature(np.eye(SPACE.dim)))
    weights = np.array([jacobi(SPACE, here).apply(e) @ e for e in np.eye(SPACE.dim)])
    assert weights == pytest.approx(np.maximum(diagonal, 0.1 * diagonal.mean()), rel=1e-12)
    assert (weights > diagonal).any() and (weights == diagonal).any()
    nothing = from_callables(2, residual=lambda x: np.zeros(3), jacobian=lambda x: np.zeros((3, 2)))
    check_norm(jacobi(nothing.space, nothing.linearize(np.zeros(2))))


WIDE = FeedforwardSpace(2, (14, 14), 1)


def bent(p, u):
    return u.laplacian + u.value**2 - p.x[0]


def wide_functionals():
    """Return functionals whose Kronecker norms have leading directions."""
    values, equation = Regression(INPUTS, TARGETS), Collocation(bent, Box([0.0, 0.0], [1.0, 1.0]), dirichlet=0.0)
    few = equation.quadrature.subset(slice(200))
    penalty = Tikhonov(WIDE, Euclidean, 1e-6)
    return {
        "fit": Sum(values.on(WIDE), penalty),
        "three fits, weights that decay": Sum(Scaled(values.on(WIDE), 3.0), Tikhonov(WIDE, weight_decay, 1e-3)),
        "equation": Sum(equation.on(WIDE, few), penalty),
        "no penalty": equation.on(WIDE, few),
    }


@pytest.mark.parametrize("name", list(wide_functionals()))
def test_the_kronecker_norm_is_the_curvature_in_its_leading_directions(name):
    J = wide_functionals()[name]
    here = J.linearize(WIDE.initial(3))
    norm = kronecker(J)(WIDE, here)
    check_norm(norm)
    assert WIDE.dim == 267 and norm.leading.size == 128
    starts = np.cumsum([0, *(layer.size for layer in norm.layers)])
    basis = np.zeros((WIDE.dim, WIDE.dim))
    for layer, start in zip(norm.layers, starts, strict=False):
        for k, unit in enumerate(np.eye(layer.size)):
            layer.write(unit, layer.primal, basis[:, start + k])
    # All layers are among them, and the basis is one.
    assert np.unique(np.searchsorted(starts, norm.leading, "right")).size == 3
    assert np.linalg.matrix_rank(basis) == WIDE.dim
    own, whole = basis.T @ norm.dense() @ basis, basis.T @ here.gram() @ basis
    lead, rest = norm.leading, np.setdiff1d(np.arange(WIDE.dim), norm.leading)
    floor = (own - whole)[np.ix_(lead, lead)]
    assert np.allclose(floor, floor[0, 0] * np.eye(128), atol=1e-10 * own.max())
    assert 0.0 < floor[0, 0] < 1e-2 * np.trace(whole) / 10.0
    # Elsewhere it is diagonal, and bounded from below by the same.
    assert np.allclose(own[np.ix_(rest, lead)], 0.0, atol=1e-10 * own.max())
    outside = own[np.ix_(rest, rest)]
    assert np.allclose(outside, np.diag(np.diagonal(outside)), atol=1e-10 * own.max())
    assert np.diagonal(outside).min() >= 0.99 * floor[0, 0]


def iterations(here, norm):
    """Return the iterations of conjugate gradients until the model has a hundredth of its decrease left."""
    matrix, g = here.gram(), here.derivative
    least = 0.99 * 0.5 * g @ np.linalg.solve(matrix, g)

    def enough(count):
        return steihaug(lambda v: matrix @ v, g, norm, np.inf, 0.0, count).decrease >= least

    return bisect.bisect_left(range(2000), True, key=enough)


@pytest.mark.parametrize("equation", [False, True])
def test_leading_directions_are_what_layers_have_in_common(monkeypatch, equation):
    """Exact blocks of the layers would not do: deep networks undo in one layer what another one does."""
    random = np.random.default_rng(0)
    points = random.uniform(-1.0, 1.0, (600, 2))
    if equation:
        space, problem = FeedforwardSpace(2, (20, 20), 1), Collocation(bent, Box([0.0, 0.0], [1.0, 1.0]), dirichlet=0.0)
    else:
        space, problem = FeedforwardSpace(2, (12,) * 4, 1), Regression(points, np.abs(points[:, 0] - points[:, 1]))
    J = Sum(problem.on(space), Tikhonov(space, Euclidean, 1e-6))
    here = J.linearize(trust_region(J, space.initial(0), 0.0, curvature=True, max_steps=5).x)
    coupled, plain = iterations(here, kronecker(J)(space, here)), iterations(here, Euclidean(space))
    monkeypatch.setattr(sys.modules["dnnfem.norms.kronecker"], "LEADING", 0)
    layers = iterations(here, kronecker(J)(space, here))
    assert coupled < 0.5 * plain and coupled < 0.5 * layers


def test_weight_decay_hardly_counts_biases():
    norm = weight_decay(SPACE)
    weights, biases = np.ones(SPACE.dim), np.zeros(SPACE.dim)
    for block in SPACE.blocks:
        weights[block.bias_start : block.stop] = 0.0
    biases = 1.0 - weights
    assert norm.norm(weights) ** 2 == pytest.approx(weights.sum())
    assert norm.norm(biases) ** 2 == pytest.approx(1e-3 * biases.sum())
    assert biases.sum() == 3 + 1


@given(st.integers(0, 1000))
def test_primal_and_dual_norms_are_dual(seed):
    random = np.random.default_rng(seed)
    for norm in norms().values():
        g = random.standard_normal(norm.dim)
        best = norm.riesz(g)
        assert g @ best / norm.norm(best) == pytest.approx(norm.dual_norm(g), rel=1e-8)
        v = random.standard_normal(norm.dim)
        assert g @ v <= norm.dual_norm(g) * norm.norm(v) * (1 + 1e-8)


@pytest.mark.parametrize("weights", [np.zeros(13), -np.ones(13), np.full(13, np.nan), np.full(13, np.inf)])
def test_weights_are_positive_and_finite(weights):
    with pytest.raises(ValueError, match="^weights: got values down to.*expected positive finite numbers"):
        Weighted(SPACE, weights)


def test_weights_fit_the_space():
    with pytest.raises(ValueError, match=r"^weights: got shape \(3,\), expected \(13,\)"):
        Weighted(SPACE, np.ones(3))


@pytest.mark.parametrize("delta", [0.0, -1.0, np.nan])
def test_a_pulled_back_norm_needs_a_regularization(delta):
    with pytest.raises(ValueError, match="^delta: got.*expected a positive number"):
        Pullback(SPACE, linearization(), delta)


def test_a_pulled_back_length_is_the_mean_square_change_of_the_function():
    x, step = SPACE.initial(0), 1e-6 * np.cos(np.arange(SPACE.dim))
    problem = Regression(INPUTS, TARGETS, backend="reference")
    change = (
        problem.solution(SPACE, x + step)(INPUTS) - problem.solution(SPACE, x)(INPUTS)
    ) / problem.ansatz.output_scale
    length = Pullback(SPACE, linearization(x), 1e-12).norm(step)
    assert length == pytest.approx(np.sqrt(np.mean(change**2)), rel=1e-4)


def test_a_pulled_back_norm_where_nothing_is_curved_is_its_regularization():
    flat = from_callables(3, lambda x: 0.0, lambda x: np.zeros(3), lambda x, v: np.zeros(3))
    norm = Pullback(Coordinates(3), flat.linearize(np.zeros(3)), 1e-2)
    check_norm(norm)
    assert norm.norm(np.array([3.0, 0.0, 4.0])) == pytest.approx(0.5)


def test_the_sample_given_twice_changes_no_pulled_back_length():
    once, twice = linearization(), linearization(inputs=np.tile(INPUTS, (2, 1)), targets=np.tile(TARGETS, 2))
    v = np.cos(np.arange(SPACE.dim))
    left, right = Pullback(SPACE, once), Pullback(SPACE, twice)
    assert left.norm(v) == pytest.approx(right.norm(v), rel=1e-11)
    assert left.dual_norm(once.derivative) == pytest.approx(right.dual_norm(twice.derivative), rel=1e-6)


@pytest.mark.parametrize("factor", [0.1, 3.0, 100.0])
def test_pulled_back_norms_do_not_see_how_a_relu_network_is_scaled(factor):
    space = FeedforwardSpace(2, (4,), 1, "relu")
    x = space.initial(1)
    outer = space.condensable[0, :-1]
    first = np.arange(space.blocks[0].stop)
    scale = np.ones(space.dim)
    scale[first], scale[outer] = factor, 1.0 / factor
    here, there = linearization(x, space=space), linearization(scale * x, space=space)
    assert there.value == pytest.approx(here.value, rel=1e-12)
    delta, carried = 1e-4, Weighted(space, scale**-2.0)
    # The regularization is relative to the mean diagonal; it is carried along in absolute size.
    diagonals = [np.trace(part.curvature(np.eye(space.dim))) for part in (here, there)]
    moved = delta * diagonals[0] / space.dim * np.sum(scale**-2.0) / diagonals[1]
    left, right = Pullback(space, here, delta), Pullback(space, there, moved, carried)
    v = np.cos(np.arange(space.dim))
    assert right.norm(scale * v) == pytest.approx(left.norm(v), rel=1e-9)
    assert right.dual_norm(there.derivative) == pytest.approx(left.dual_norm(here.derivative), rel=1e-7)

    def layers(part):
        return np.linalg.norm(part.derivative[first]), np.linalg.norm(part.derivative[outer])

    ratios = np.array(layers(there)) / np.array(layers(here))
    assert ratios == pytest.approx([1.0 / factor, factor], rel=1e-9)
    assert abs(Euclidean(space).dual_norm(there.derivative) / Euclidean(space).dual_norm(here.derivative) - 1.0) > 0.1


def test_solvers_take_a_norm_a_metric_and_a_norm_of_ones_own():
    functional = Regression(INPUTS, TARGETS, backend="reference").on(SPACE)
    reduced = condense(functional)
    x = SPACE.initial(0)
    for norm in (Weighted(reduced.space, np.linspace(1, 2, 9)), Pullback, Chain(9)):
        result = gauss_newton(functional, x, norm=norm, max_steps=5)
        assert result.value < result.steps[0].value
    for norm in (Weighted(SPACE, np.linspace(1, 2, 13)), Pullback, Chain(13)):
        result = trust_region(functional, x, norm=norm, max_steps=5)
        assert result.value < result.steps[0].value


@pytest.mark.parametrize("norm", [Euclidean(SPACE), Chain(4)])
def test_a_norm_of_another_dimension_is_refused(norm):
    functional = Regression(INPUTS, TARGETS, backend="reference").on(SPACE)
    with pytest.raises(ValueError, match=rf"^norm: got a norm on {norm.dim} coefficients, expected 9"):
        gauss_newton(functional, SPACE.initial(0), norm=norm)


# ---- products, and norms of functions


def test_the_norm_of_a_product_is_that_of_its_blocks():
    index = [np.array([4, 0, 2]), np.array([1, 5, 3, 6])]
    parts = [(index[0], Weighted(Coordinates(3), np.array([1.0, 2.0, 3.0]))), (index[1], Chain(4))]
    product = Blocks(parts)
    check_norm(product)
    v = np.random.default_rng(0).standard_normal(7)
    assert product.dim == 7
    assert product.norm(v) ** 2 == pytest.approx(sum(norm.norm(v[at]) ** 2 for at, norm in parts), rel=1e-14)
    part = product.restricted(index[1])
    assert part.norm(v[index[1]]) == pytest.approx(parts[1][1].norm(v[index[1]]), rel=1e-12)
    # Derivatives that see one block have their gradient there.
    g = np.zeros(7)
    g[index[0]] = 1.0
    assert not product.riesz(g)[index[1]].any()


def test_blocks_that_do_not_fit_are_named():
    two, three = Euclidean(Coordinates(2)), Euclidean(Coordinates(3))
    with pytest.raises(ValueError, match=r"^parts: got a norm of 2 coefficients for block 1 of shape \(3,\)"):
        Blocks([(np.arange(3), three), (np.arange(3), two)])
    for wrong in ([], [(np.arange(2), two), (np.arange(1, 4), three)], [(np.array([0, 2]), two)]):
        with pytest.raises(ValueError, match="^parts: got blocks with . numbers, expected each of 0, 1, ... once"):
            Blocks(wrong)


def test_norms_of_functions_are_pulled_back():
    points = RANDOM.uniform(-1.0, 1.0, (50, 2))
    problem, x = Regression(points, np.zeros(50), backend="reference"), SPACE.initial(0)
    v = RANDOM.standard_normal(SPACE.dim)
    norm = pulled_back(problem.on(SPACE), 1e-12)(SPACE, linearization(x))
    check_norm(norm)
    step = 1e-6
    ends = [problem.solution(SPACE, x + sign * step * v)(points)[:, 0] for sign in (1.0, -1.0)]
    slope = (ends[0] - ends[1]) / (2.0 * step)
    assert norm.norm(v) == pytest.approx(np.sqrt(np.mean(slope**2)), rel=1e-6)


def test_the_seminorm_of_h1_is_pulled_back():
    problem = Energy(lambda p, u: 0.5 * (u.grad**2).sum(dim=0), Box([0, 0], [1, 1]))
    x, v = SPACE.initial(0), RANDOM.standard_normal(SPACE.dim)
    norm = pulled_back(problem.on(SPACE), 1e-12)(SPACE, problem.on(SPACE).linearize(x))
    points, step = problem.quadrature.points, 1e-5
    ends = [problem.solution(SPACE, x + sign * step * v).gradient(points)[:, 0] for sign in (1.0, -1.0)]
    square = np.sum(((ends[0] - ends[1]) / (2.0 * step)) ** 2, axis=1)
    weights = problem.quadrature.weights
    assert norm.norm(v) ** 2 == pytest.approx(weights @ square / weights.sum(), rel=1e-5)
    # Neither depends on the point of the minimized functional alone: Newton's method in it converges.
    J = Sum(Regression(INPUTS, TARGETS).on(SPACE), Tikhonov(SPACE, Euclidean, 1e-4))
    result = trust_region(J, x, 1e-6, norm=pulled_back(problem.on(SPACE), 1e-4), max_steps=200)
    assert result.status.converged


def test_metrics_of_all_coefficients_are_restricted_where_some_are_eliminated():
    J = Regression(INPUTS, TARGETS, backend="reference").on(SPACE)
    reduced = condense(J)
    here = reduced.linearize(SPACE.initial(0)[reduced.inner])
    for metric in (frobenius(J), kronecker(J), pulled_back(J, 1e-2)):
        norm, whole = metric(reduced.space, here), metric(SPACE, J.linearize(reduced.expand_at(here)))
        v = RANDOM.standard_normal(9)
        check_norm(norm)
        assert norm.norm(v) == pytest.approx(whole.norm(reduced.merge(np.zeros(reduced.outer.size), v)), rel=1e-12)


@pytest.mark.parametrize("rule", [frobenius, kronecker, pulled_back])
def test_a_metric_of_another_space_is_refused(rule):
    metric = rule(Regression(INPUTS, TARGETS, backend="reference").on(FeedforwardSpace(2, (2,), 1)))
    J = Regression(INPUTS, TARGETS, backend="reference").on(SPACE)
    for call in (lambda: metric(SPACE, linearization()), lambda: gauss_newton(J, SPACE.initial(0), norm=metric)):
        with pytest.raises(ValueError, match="^functional: got one of 9 coefficients for a space of 13, expected as"):
            call()


def test_what_is_pulled_back_has_to_fit():
    functional = Regression(INPUTS, TARGETS, backend="reference").on(FeedforwardSpace(2, (2,), 1))
    with pytest.raises(ValueError, match="^functional: got one of 9 coefficients for a space of 13, expected as many"):
        pulled_back(functional)(SPACE, linearization())
    with pytest.raises(ValueError, match="^delta: got 0.0, expected a positive number"):
        pulled_back(functional, 0.0)


# ---- every norm in every solver

COARSE = FeedforwardSpace(2, (2,), 1)
FINE, PROLONGED = widen(COARSE, [Neuron(0, np.array([1.0, -0.5]), 0.2)])


START = COARSE.initial(0)


def penalized(space):
    """Return a functional that is nearly convex: the penalty refers to a point."""
    reference = START if space == COARSE else PROLONGED(START)
    penalty = Tikhonov(space, Euclidean, 0.3, reference)
    return Sum(Regression(INPUTS, TARGETS, backend="reference").on(space), penalty)


def blocks(J):
    """Return a product over the layers."""
    parts = [np.arange(block.start, block.stop) for block in J.space.blocks]
    kinds = [lambda n: Weighted(Coordinates(n), np.linspace(1.0, 2.0, n)), Chain]
    return Blocks([(part, kind(len(part))) for part, kind in zip(parts, kinds, strict=True)])


EVERY = {
    "Euclidean": lambda J: Euclidean(J.space),
    "weight decay": lambda J: weight_decay(J.space),
    "a user's": lambda J: Chain(J.space.dim),
    "blocks": blocks,
    "diagonal of the curvature": lambda J: jacobi,
    "pulled back": lambda J: lambda space, here: Pullback(space, here, 1e-2),
    "pulled back from another functional": lambda J: pulled_back(
        Regression(INPUTS[::2], np.zeros(15), backend="reference").on(J.space), 1e-2
    ),
    "Frobenius": frobenius,
    "Frobenius, what layers read": lambda J: frobenius(J, outputs=False),
    "Kronecker": kronecker,
}


def constrained(J, x, norm):
    """Let the network take a value exactly."""
    held = J.terms[0].on(quadrature=Quadrature(INPUTS[:1], np.ones(1), TARGETS[:1, None]))
    return composite_step(J, held, x, 1e-5, norm=norm(J), max_steps=300)


def on_levels(J, x, norm, **options):
    """Begin on the coarse level, or at its start on the fine one."""
    start = START if options.get("nested") else x
    return multilevel([penalized(COARSE), J], [PROLONGED], start, 1e-7, norm=norm(J), **options)


def condensed(J, x, norm):
    """Hand norms of the inner coefficients over as such, and metrics as they are."""
    found, inner = norm(J), condense(J).inner
    return gauss_newton(J, x, 1e-7, norm=found.restricted(inner) if isinstance(found, Norm) else found)


SOLVERS = {
    "trust_region": lambda J, x, norm: trust_region(J, x, 1e-7, norm=norm(J)),
    "trust_region, Krylov": lambda J, x, norm: trust_region(J, x, 1e-7, norm=norm(J), dense=False),
    "trust_region, curvature": lambda J, x, norm: trust_region(J, x, 1e-7, norm=norm(J), curvature=True),
    "cubic": lambda J, x, norm: cubic(J, x, 1e-7, norm=norm(J)),
    "cubic, Krylov": lambda J, x, norm: cubic(J, x, 1e-7, norm=norm(J), dense=False),
    "newton, exact": lambda J, x, norm: newton(J, x, 1e-7, norm=norm(J), curvature=True),
    "newton, inexact": lambda J, x, norm: newton(J, x, 1e-7, norm=norm(J), curvature=True, dense=False),
    "nlscon": lambda J, x, norm: nlscon(J, x, 1e-7, norm=norm(J)),
    "gauss_newton": lambda J, x, norm: gauss_newton(J, x, 1e-7, norm=norm(J), condensed=False),
    "gauss_newton, condensed": condensed,
    "composite_step": constrained,
    "multilevel": on_levels,
    "multilevel, Krylov": lambda J, x, norm: on_levels(J, x, norm, dense=False, curvature=True),
    "multilevel, nested": lambda J, x, norm: on_levels(J, x, norm, nested=True),
    "multilevel, nested, Krylov": lambda J, x, norm: on_levels(
        J, x, norm, nested=True, dense=False, curvature=True, cycle="F"
    ),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("norm", EVERY)
def test_the_minimum_does_not_depend_on_the_norm(solver, norm):
    J = penalized(FINE)
    x = PROLONGED(START)
    least, result = (SOLVERS[solver](J, x, EVERY[name]) for name in ("Euclidean", norm))
    assert result.status.converged and least.status.converged
    assert result.value == pytest.approx(least.value, rel=1e-8)
    assert result.x == pytest.approx(least.x, abs=1e-4)
