"""Functionals: Taylor orders, nesting, static condensation, and the doors to other software."""

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from dnnfem.functionals import (
    Composed,
    Scaled,
    Shifted,
    Sum,
    Tikhonov,
    as_scipy,
    condense,
    from_callables,
)
from dnnfem.kernels.least_squares import Elimination
from dnnfem.norms import Euclidean, Pullback, Weighted
from dnnfem.problems import Regression
from dnnfem.refinement import widen
from dnnfem.spaces import Coordinates, FeedforwardSpace, Transfer
from dnnfem.spaces.feedforward import HIDDEN_ACTIVATIONS, Neuron
from dnnfem.testing import check_functional, taylor_test


def graded(space):
    """Return a norm whose weights grow."""
    return Weighted(space, np.linspace(0.5, 2.0, space.dim))


def subspace(dim, count, seed=0):
    """Return an affine map from `count` coordinates."""
    random = np.random.default_rng(seed)
    return Transfer(sp.csr_array(random.standard_normal((dim, count))), random.standard_normal(dim))


def dense_condensed(functional, y):
    """Eliminate by a dense least-squares solve: value and full coefficients."""
    reduced = condense(functional)
    start = reduced.merge(np.zeros(reduced.outer.size), y)
    system = functional.linearize(start).system()
    outer = reduced.outer.ravel()
    c, *_ = np.linalg.lstsq(system.matrix[:, outer], -system.residual, rcond=1e-12)
    x = reduced.merge(c, y)
    return functional.value(x), x


def everything(problem, space):
    """Return one functional of each kind, and a point for it."""
    x = space.initial(2)
    j = problem.on(space)
    penalty = Tikhonov(space, graded, 0.1, 0.3 * x)
    return {
        "integral": (j, x),
        "sum": (Sum(j, penalty), x),
        "scaled": (Scaled(j, 2.5), x),
        "shifted": (Shifted(j, np.linspace(-1, 1, space.dim)), x),
        "penalty": (penalty, x),
        "composed": (Composed(j, subspace(space.dim, 3)), np.array([0.1, -0.2, 0.3])),
        "condensed": (condense(j), x[condense(j).inner]),
        "condensed sum": (condense(Sum(j, penalty)), x[condense(j).inner]),
        "all at once": (
            Scaled(Sum(Shifted(j, np.ones(space.dim)), Scaled(penalty, 3.0), penalty), 0.5),
            x,
        ),
    }


KINDS = (
    "integral",
    "sum",
    "scaled",
    "shifted",
    "penalty",
    "composed",
    "condensed",
    "condensed sum",
    "all at once",
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_functional_is_consistent_with_one_output(kind, scalar_problem, space):
    check_functional(*everything(scalar_problem, space)[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_functional_is_consistent_with_two_outputs(kind, vector_problem, vector_space):
    check_functional(*everything(vector_problem, vector_space)[kind])


@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_condensation_is_consistent_for_every_activation(activation, vector_problem):
    space = FeedforwardSpace(2, (2, 2), 2, activation, (False, True))
    x = np.random.default_rng(0).uniform(-1, 1, space.dim)
    functional = condense(vector_problem.on(space))
    check_functional(functional, x[functional.inner], smooth=activation != "relu")


def test_the_backends_agree_on_a_condensed_functional(backend, vector_problem, vector_space):
    reference = condense(vector_problem.on(vector_space))
    other = condense(Regression(vector_problem.inputs, vector_problem.targets, backend=backend).on(vector_space))
    y = vector_space.initial(0)[reference.inner]
    left, right = reference.linearize(y), other.linearize(y)
    assert right.value == pytest.approx(left.value, rel=1e-12)
    assert right.derivative == pytest.approx(left.derivative, rel=1e-9, abs=1e-12)
    assert other.expand(y) == pytest.approx(reference.expand(y), rel=1e-8)


def test_linearizations_do_not_follow_later_changes_of_the_point(scalar_problem, space):
    for functional, x in everything(scalar_problem, space).values():
        expected = functional.linearize(x.copy()).derivative
        moving = x.copy()
        linearization = functional.linearize(moving)
        moving[:] = 0.0
        assert np.array_equal(linearization.derivative, expected)


def test_sums_and_multiples_are_linear(scalar_problem, space):
    j, penalty = scalar_problem.on(space), Tikhonov(space, graded, 0.7)
    x, v = space.initial(1), np.linspace(-1, 1, space.dim)
    left, right = Sum(Scaled(j, 2.0), penalty).linearize(x), (j.linearize(x), penalty.linearize(x))
    assert left.value == pytest.approx(2.0 * right[0].value + right[1].value, rel=1e-14)
    assert left.derivative == pytest.approx(2.0 * right[0].derivative + right[1].derivative, rel=1e-13)
    for name in ("hessian", "curvature"):
        expected = 2.0 * getattr(right[0], name)(v) + getattr(right[1], name)(v)
        assert getattr(left, name)(v) == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_a_shift_turns_a_coarse_model_into_one_of_first_order(scalar_problem, space):
    fine, transfer = widen(space, [Neuron(0, np.ones(2), 0.1)])
    x = space.initial(0)
    g_fine = scalar_problem.on(fine).linearize(transfer(x) + 0.01).derivative
    j = scalar_problem.on(space)
    model = Shifted(j, transfer.T @ g_fine - j.linearize(x).derivative)
    assert model.linearize(x).derivative == pytest.approx(transfer.T @ g_fine, rel=1e-12, abs=1e-14)
    v = np.ones(space.dim)
    assert np.array_equal(model.linearize(x).hessian(v), j.linearize(x).hessian(v))


def test_what_is_no_sum_of_squares_says_so(scalar_problem, space):
    j = scalar_problem.on(space)
    x = space.initial(0)
    for functional in (
        Shifted(j, np.ones(space.dim)),
        Scaled(j, -1.0),
        Sum(j, Shifted(j, np.ones(space.dim))),
    ):
        assert functional.linearize(x).system() is None
        assert functional.condensable is None
        with pytest.raises(ValueError, match="^functional: got one without condensable coefficients"):
            condense(functional)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_penalty_yields_where_coefficients_have_to_be_large(noise):
    """Two neurons that are nearly the same have a derivative as their difference, which takes large coefficients."""
    z, step = np.linspace(-1.0, 1.0, 60)[:, None], 1e-4
    target = z[:, 0] / np.cosh(2.0 * z[:, 0]) ** 2 + noise * np.random.default_rng(0).standard_normal(60)
    space = FeedforwardSpace(1, (2,), 1)
    reduced = condense(Regression(z, target, backend="reference").on(space))
    y = np.array([2.0 - step, 2.0 + step, 0.0, 0.0])
    strict = reduced.linearize(y)
    fit = strict.relaxed()
    ridge = fit.condensed.ridge
    if noise:
        # What is left is far above the penalty, and nothing yields.
        assert fit is strict and fit.penalty < 1e-2 * fit.value
    else:
        assert ridge < reduced.ridge and fit.value < 1e-3 * strict.value
        assert np.abs(fit.full.x[reduced.outer]).max() > 1e4
        # With the weight that it has at first the penalty alone would be a thousand times as much as the value is now.
        assert reduced.ridge / ridge * fit.penalty > 1e3 * fit.value and fit.value < 1e-11
        assert fit.relaxed() is fit and reduced.value(y) == strict.value
    assert taylor_test(fit.condensed, y, np.array([0.3, -0.2, 0.5, 0.1]), step=1e-6) > 1.8


@pytest.mark.parametrize("ridge", [-1.0, -1e-300, np.nan, np.inf])
def test_a_ridge_that_is_negative_or_not_finite_is_refused(ridge, scalar_problem, space):
    with pytest.raises(ValueError, match="^ridge: got .*, expected a finite number that is not negative"):
        condense(scalar_problem.on(space), ridge)


def test_a_sum_condenses_only_what_all_its_terms_allow(scalar_problem, space):
    j = scalar_problem.on(space)
    whole = Transfer.identity(space.dim)
    some, others = Composed(j, whole, np.array([[12, 13]])), Composed(j, whole, np.array([[14, 15]]))
    assert Sum(some, some).condensable.tolist() == [[12, 13]]
    assert Sum(some, others).condensable is None
    assert Sum(some, Composed(j, whole)).condensable is None


def test_terms_of_different_dimension_are_refused(scalar_problem, space, vector_problem, vector_space):
    with pytest.raises(ValueError, match=r"^terms: got functionals in \[17, 29\] coefficients"):
        Sum(scalar_problem.on(space), vector_problem.on(vector_space))
    with pytest.raises(ValueError, match="^terms: got none"):
        Sum()
    with pytest.raises(ValueError, match=r"^shift: got shape \(3,\), expected \(17,\)"):
        Shifted(scalar_problem.on(space), np.ones(3))
    with pytest.raises(ValueError, match=r"^x_ref: got shape \(3,\), expected \(17,\)"):
        Tikhonov(space, Euclidean, 1.0, np.ones(3))
    for alpha in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="^alpha: got"):
            Tikhonov(space, Euclidean, alpha)


def test_terms_on_different_spaces_of_one_dimension_are_refused(scalar_problem, space):
    other = FeedforwardSpace(2, (4,), 1, "sin")
    assert other.dim == space.dim
    j, penalty = scalar_problem.on(space), Tikhonov(other, Euclidean, 0.1)
    for terms in ((j, scalar_problem.on(other)), (j, penalty), (own(space.dim), j, penalty), (Scaled(j, 2.0), penalty)):
        with pytest.raises(ValueError, match="^terms: got functionals on 2-4-1 tanh and on 2-4-1 sin, expected one"):
            Sum(*terms)


def own(dim):
    """Return a user's functional."""
    return from_callables(dim, lambda x: 0.5 * float(x @ x), lambda x: x, lambda x, v: v)


def test_a_functional_of_ones_own_may_be_added_to_one_on_a_network(scalar_problem, space):
    j, x = scalar_problem.on(space), space.initial(0)
    same = Tikhonov(FeedforwardSpace(2, [4], 1), Euclidean, 0.1)
    for terms in ((j, own(space.dim), same), (own(space.dim), j)):
        assert Sum(*terms).value(x) == pytest.approx(sum(term.value(x) for term in terms), rel=1e-15)


def test_a_norm_in_place_of_a_rule_is_refused(space):
    for norm, name in ((Euclidean(space), "Euclidean"), (graded(space), "Weighted")):
        words = rf"^rule: got an object {name}\(...\), expected the class {name} or a rule space -> norm"
        with pytest.raises(ValueError, match=words):
            Tikhonov(space, norm, 0.1)
    assert Tikhonov(space, rule=Euclidean, alpha=0.1).rule is Euclidean


@pytest.mark.parametrize("kind", KINDS)
def test_points_of_another_space_are_refused(kind, scalar_problem, space):
    functional, x = everything(scalar_problem, space)[kind]
    for bad in (x[:-1], x[:1], np.append(x, 1.0), x[:, None]):
        for use in (functional.value, functional.linearize, lambda b: functional.linearize(b).value):
            with pytest.raises(ValueError, match="got shape"):
                use(bad)


def test_a_penalty_with_its_reference_point_nests(scalar_problem, space):
    x = space.initial(0)
    reference = 0.5 * x
    functional = Sum(scalar_problem.on(space), Tikhonov(space, Euclidean, 0.2, reference))
    fine, transfer = widen(space, [Neuron(0, np.array([1.0, -2.0]), 0.3), Neuron(0, np.array([0.5, 2.0]), -0.1)])
    nested = functional.on(space=fine, transfer=transfer)
    assert nested.space == fine
    assert nested.value(transfer(x)) == pytest.approx(functional.value(x), rel=1e-13)
    restricted = transfer.T @ nested.linearize(transfer(x)).derivative
    assert restricted == pytest.approx(functional.linearize(x).derivative, rel=1e-11, abs=1e-13)
    with pytest.raises(ValueError, match="^transfer: got None, expected the prolongation"):
        functional.on(space=fine)


def test_a_penalty_stays_as_it_is_on_another_quadrature(scalar_problem, space):
    penalty = Tikhonov(space, Euclidean, 0.2, space.initial(0))
    assert penalty.on(quadrature=scalar_problem.quadrature) is penalty
    bare = Tikhonov(space, Euclidean, 0.2).on(space=FeedforwardSpace(2, (7,), 1))
    assert bare.norm.dim == 29 and bare.value(np.ones(29)) == pytest.approx(0.1 * 29)


def test_the_quadrature_of_every_kind_can_be_exchanged(scalar_problem, space):
    part = scalar_problem.quadrature.subset(slice(0, 20))
    small = everything(scalar_problem, space)
    for name, (functional, x) in small.items():
        moved = functional.on(quadrature=part)
        if name == "penalty":
            assert moved.value(x) == functional.value(x)
        else:
            assert abs(moved.value(x) - functional.value(x)) > 1e-8
        assert moved.on(quadrature=scalar_problem.quadrature).value(x) == functional.value(x)


def test_dual_vectors_and_subspaces_do_not_move_to_another_space(scalar_problem, space):
    j = scalar_problem.on(space)
    wide = FeedforwardSpace(2, (5,), 1)
    for functional in (Shifted(j, np.ones(space.dim)), Composed(j, subspace(space.dim, 2))):
        with pytest.raises(ValueError, match="^space: got another space"):
            functional.on(space=wide)


def test_a_composition_is_the_functional_at_the_image(scalar_problem, space):
    j, transfer = scalar_problem.on(space), subspace(space.dim, 3)
    y = np.array([0.3, -0.1, 0.2])
    composed = Composed(j, transfer)
    assert composed.value(y) == j.value(transfer(y))
    here, there = composed.linearize(y), j.linearize(transfer(y))
    assert here.system().matrix == pytest.approx(
        there.system().matrix @ transfer.matrix.toarray(), rel=1e-12, abs=1e-14
    )
    columns = np.array([2, 0])
    assert here.system(columns).matrix == pytest.approx(here.system().matrix[:, columns], rel=1e-12, abs=1e-14)


def test_systems_of_some_columns_are_columns_of_the_system(vector_problem, vector_space):
    for functional, x in everything(vector_problem, vector_space).values():
        system = functional.linearize(x).system()
        if system is None:
            continue
        columns = np.array([2, 0, 1])
        part = functional.linearize(x).system(columns)
        assert part.value == pytest.approx(system.value, rel=1e-12)
        assert part.derivative == pytest.approx(system.derivative[columns], rel=1e-11, abs=1e-13)
        assert part.curvature(np.eye(3)) == pytest.approx(system[columns].curvature(np.eye(3)), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("penalty", [0.0, 1e-3])
def test_condensation_minimizes_over_the_output_layer(penalty, vector_problem, vector_space):
    functional = vector_problem.on(vector_space)
    if penalty:
        functional = Sum(functional, Tikhonov(vector_space, graded, penalty, np.ones(vector_space.dim)))
    reduced = condense(functional)
    y = vector_space.initial(3)[reduced.inner]
    value, x = dense_condensed(functional, y)
    assert reduced.value(y) == pytest.approx(value, rel=1e-12)
    assert reduced.expand(y) == pytest.approx(x, rel=1e-7, abs=1e-9)
    assert functional.value(reduced.expand(y)) == pytest.approx(value, rel=1e-12)
    outer = functional.linearize(reduced.expand(y)).derivative[reduced.outer.ravel()]
    assert np.abs(outer).max() <= 1e-13


def test_the_condensed_derivative_is_the_inner_part_of_the_full_one(vector_problem, vector_space):
    functional = Sum(vector_problem.on(vector_space), Tikhonov(vector_space, Euclidean, 1e-3))
    reduced = condense(functional)
    here = reduced.linearize(vector_space.initial(0)[reduced.inner])
    full = functional.linearize(reduced.expand(here.x))
    assert here.derivative == pytest.approx(full.derivative[reduced.inner], rel=1e-9, abs=1e-14)


def test_the_condensed_hessian_is_the_schur_complement(vector_problem, vector_space):
    functional = Sum(vector_problem.on(vector_space), Tikhonov(vector_space, Euclidean, 1e-2))
    reduced = condense(functional)
    here = reduced.linearize(vector_space.initial(0)[reduced.inner])
    matrix = functional.linearize(reduced.expand(here.x)).hessian(np.eye(vector_space.dim))
    y, c = reduced.inner, reduced.outer.ravel()
    schur = matrix[np.ix_(y, y)] - matrix[np.ix_(y, c)] @ np.linalg.solve(matrix[np.ix_(c, c)], matrix[np.ix_(c, y)])
    assert here.hessian(np.eye(len(y))) == pytest.approx(schur, rel=1e-8, abs=1e-11)


def test_the_condensed_system_is_the_projected_one(vector_problem, vector_space):
    reduced = condense(vector_problem.on(vector_space))
    here = reduced.linearize(vector_space.initial(0)[reduced.inner])
    full = here.full.system()
    basis, _ = np.linalg.qr(full.matrix[:, reduced.outer.ravel()])
    rest = full.matrix[:, reduced.inner]
    projected = rest - basis @ (basis.T @ rest)
    v = np.eye(len(reduced.inner))
    assert here.curvature(v) == pytest.approx(projected.T @ projected, rel=1e-9, abs=1e-13)
    assert here.system().value == pytest.approx(here.value, rel=1e-12)


def test_outputs_share_one_factorization_and_the_result_is_that_of_dense_elimination(vector_problem, vector_space):
    for functional in (
        vector_problem.on(vector_space),
        Sum(vector_problem.on(vector_space), Tikhonov(vector_space, Euclidean, 1e-2)),
    ):
        reduced = condense(functional)
        system = functional.linearize(vector_space.initial(0)).system()
        shared = Elimination.of(system.matrix, reduced.outer)
        assert len(shared.rows) == 2 and shared.factor.rank == 4
        groups, flat = system.condensed(reduced.outer), system.condensed(reduced.outer.ravel())
        assert groups.curvature(np.eye(21)) == pytest.approx(flat.curvature(np.eye(21)), rel=1e-10, abs=1e-13)
        assert groups.derivative == pytest.approx(flat.derivative, rel=1e-10, abs=1e-13)
        assert groups.value == pytest.approx(flat.value, rel=1e-12)


def test_a_penalty_that_couples_the_outputs_is_eliminated_all_the_same(vector_problem, vector_space):
    at = vector_problem.on(vector_space).linearize(vector_space.initial(0))
    coupled = Tikhonov(vector_space, lambda space: Pullback(space, at, 1e-2), 0.3)
    functional = Sum(vector_problem.on(vector_space), coupled)
    reduced = condense(functional)
    y = vector_space.initial(1)[reduced.inner]
    assert len(Elimination.of(functional.linearize(vector_space.initial(0)).system().matrix, reduced.outer).rows) == 1
    assert reduced.value(y) == pytest.approx(dense_condensed(functional, y)[0], rel=1e-12)
    taylor_test(reduced, y, order=3, step=1e-2)


def test_duplicate_neurons_are_condensed_without_trouble(vector_problem):
    space = FeedforwardSpace(2, (4,), 2)
    x = space.initial(0)
    for neuron in (1, 2):
        x[space.incoming(0, neuron)] = x[space.incoming(0, 0)]
    x[space.incoming(0, 3)] = 0.0
    functional = vector_problem.on(space)
    reduced = condense(functional)
    y = x[reduced.inner]
    value, _ = dense_condensed(functional, y)
    here = reduced.linearize(y)
    assert here.value == pytest.approx(value, rel=1e-12)
    expanded = reduced.expand(y)
    assert np.isfinite(expanded).all() and np.abs(expanded).max() < 100.0
    assert functional.value(expanded) == pytest.approx(value, rel=1e-12)
    full = functional.linearize(expanded).derivative
    assert here.derivative == pytest.approx(full[reduced.inner], rel=1e-9, abs=1e-13)
    assert np.isfinite(here.hessian(np.ones(len(y)))).all()


def test_more_features_than_samples_are_interpolated():
    random = np.random.default_rng(0)
    problem = Regression(random.uniform(-1, 1, (5, 2)), random.standard_normal((5, 2)), backend="reference")
    space = FeedforwardSpace(2, (9,), 2)
    reduced = condense(problem.on(space))
    here = reduced.linearize(space.initial(0)[reduced.inner])
    assert here.value <= 1e-12
    assert np.isfinite(here.derivative).all() and np.isfinite(here.full.x).all()


def test_merge_and_expand_put_both_parts_in_their_places(vector_problem, vector_space):
    reduced = condense(vector_problem.on(vector_space))
    x = vector_space.initial(0)
    assert np.array_equal(reduced.merge(x[reduced.outer], x[reduced.inner]), x)
    assert np.array_equal(reduced.expand(x[reduced.inner])[reduced.inner], x[reduced.inner])


def test_condensation_follows_to_another_space(scalar_problem, space):
    reduced = condense(scalar_problem.on(space))
    fine, transfer = widen(space, [Neuron(0, np.ones(2), 0.1)])
    wide = reduced.on(space=fine)
    y = space.initial(0)[reduced.inner]
    prolonged = transfer(reduced.expand(y))[wide.inner]
    assert wide.value(prolonged) <= reduced.value(y) * (1 + 1e-12)


def test_scipy_minimizes_with_value_gradient_and_hessian_products(scalar_problem):
    space = FeedforwardSpace(2, (2,), 1)
    functional = Sum(scalar_problem.on(space), Tikhonov(space, Euclidean, 1e-2))
    with np.errstate(invalid="ignore"):  # SciPy's own arithmetic with infinities
        result = scipy.optimize.minimize(
            x0=space.initial(0), method="trust-krylov", options={"gtol": 1e-6}, **as_scipy(functional)
        )
    assert result.success
    assert np.abs(functional.linearize(result.x).derivative).max() < 1e-6


def test_scipy_linearizes_once_per_point():
    calls = []
    functional = from_callables(1, lambda x: calls.append(1) or float(x @ x), lambda x: 2 * x, lambda x, v: 2 * v)
    door = as_scipy(functional)
    x = np.array([3.0])
    assert (door["fun"](x), door["jac"](x).tolist(), door["hessp"](x, [1]).tolist(), door["fun"](x)) == (
        9.0,
        [6.0],
        [2.0],
        9.0,
    )
    assert len(calls) == 1
    x[0] = 1.0
    assert door["fun"](x) == 1.0 and len(calls) == 2


def cubic():
    """Return a smooth functional of two variables given by its formulas."""
    return from_callables(
        2,
        lambda x: x[0] ** 4 + x[0] * x[1] ** 2,
        lambda x: np.array([4 * x[0] ** 3 + x[1] ** 2, 2 * x[0] * x[1]]),
        lambda x, v: np.array([12 * x[0] ** 2 * v[0] + 2 * x[1] * v[1], 2 * x[1] * v[0] + 2 * x[0] * v[1]]),
    )


def test_a_functional_of_ones_own_is_as_good_as_any():
    check_functional(cubic(), np.array([1.0, 0.3]))
    residual = from_callables(
        2,
        residual=lambda x: np.array([x[0] - 1.0, x[0] * x[1], np.sin(x[1])]),
        jacobian=lambda x: np.array([[1.0, 0.0], [x[1], x[0]], [0.0, np.cos(x[1])]]),
        hessian=lambda x, v: np.array(
            [
                (1 + x[1] ** 2) * v[0] + 2 * x[0] * x[1] * v[1],
                2 * x[0] * x[1] * v[0] + (x[0] ** 2 + np.cos(2 * x[1])) * v[1],
            ]
        ),
    )
    check_functional(residual, np.array([0.4, 0.7]))
    assert residual.linearize([0.4, 0.7]).system(np.array([1])).shape == (3, 1)


def test_a_functional_of_ones_own_needs_value_and_derivative_or_residual_and_jacobian():
    def zero(x):
        return 0.0

    for incomplete in ({}, {"value": zero}, {"derivative": zero}, {"residual": zero}, {"jacobian": zero}):
        with pytest.raises(
            ValueError, match="^from_callables: expected value and derivative, or residual and jacobian"
        ):
            from_callables(2, **incomplete)
    for half in ({"residual": zero}, {"jacobian": zero}):
        with pytest.raises(ValueError, match="^from_callables: got only one of residual and jacobian"):
            from_callables(2, value=zero, derivative=zero, **half)


@pytest.mark.parametrize("dim", [-1, 0, 2.5, 2.0, True, "2", None, np.nan])
def test_a_functional_of_ones_own_has_a_positive_number_of_coefficients(dim):
    with pytest.raises(ValueError, match="^dim: got .*, expected a positive integer"):
        from_callables(dim, lambda x: 0.0, lambda x: x)
    assert from_callables(np.int64(2), lambda x: 0.0, lambda x: x).space == Coordinates(2)


def test_a_functional_of_ones_own_that_returns_a_wrong_shape_is_named():
    x, v = np.zeros(2), np.ones(2)
    cases = [
        ("value", {"value": lambda x: x, "derivative": lambda x: x}, lambda lin: lin.value),
        ("derivative", {"value": lambda x: 0.0, "derivative": lambda x: 0.0}, lambda lin: lin.derivative),
        ("jacobian", {"residual": lambda x: x, "jacobian": lambda x: x}, lambda lin: lin.derivative),
        (
            "hessian",
            {"value": lambda x: 0.0, "derivative": lambda x: x, "hessian": lambda x, v: np.eye(2)},
            lambda lin: lin.hessian(v),
        ),
    ]
    for name, functions, use in cases:
        with pytest.raises(ValueError, match=f"^{name}: returned shape .*expected"):
            use(from_callables(2, **functions).linearize(x))
    with pytest.raises(ValueError, match="^hessian: got None, expected a callable"):
        from_callables(2, lambda x: 0.0, lambda x: x).linearize(x).hessian(v)


def test_a_functional_of_ones_own_stays_where_it_is():
    assert cubic().space == Coordinates(2)
    for change in ({"space": Coordinates(3)}, {"quadrature": None}):
        with pytest.raises(ValueError, match="^on: got a functional made from callables"):
            cubic().on(**change)
