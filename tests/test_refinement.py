"""Refinement keeps the function; coarsening forgets what no one reads; candidates cross the data."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from dnnfem.estimators import hierarchical
from dnnfem.functionals import Tikhonov
from dnnfem.kernels.reference import evaluate
from dnnfem.norms import Euclidean
from dnnfem.problems import Regression
from dnnfem.quadrature import Quadrature
from dnnfem.refinement import coarsen, insert_layer, ridge_candidates, widen
from dnnfem.refinement.width import cost, readers
from dnnfem.spaces import FeedforwardSpace
from dnnfem.spaces.feedforward import HIDDEN_ACTIVATIONS, Neuron
from dnnfem.testing import check_refinement

MIXED = FeedforwardSpace(2, (3, 3, 2, 2, 2), 2, "softplus", (False, True, False, True, True))


def scattered(space, seed=0):
    """Return coefficients without any structure."""
    return np.random.default_rng(seed).uniform(-1.0, 1.0, space.dim)


def neurons(space, layers, seed=1):
    """Return random neurons for the given layers."""
    random = np.random.default_rng(seed)
    return [Neuron(n, random.standard_normal(space.blocks[n].columns), float(random.standard_normal())) for n in layers]


def outputs(space, x, seed=5):
    """Return values at random points."""
    points = np.random.default_rng(seed).uniform(-1.0, 1.0, (9, space.inputs))
    return evaluate(space.program, x, points)[frozenset()][0]


@st.composite
def spaces(draw):
    """Draw a feedforward space, its first layer plain, perhaps with periodic inputs."""
    widths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    repeats = [draw(st.integers(0, 2)) for _ in widths]
    hidden = [w for w, r in zip(widths, repeats, strict=True) for _ in range(r + 1)]
    residual = [k > 0 for r in repeats for k in range(r + 1)]
    activation = draw(st.sampled_from(HIDDEN_ACTIVATIONS))
    periodic = tuple(i for i in range(2) if draw(st.booleans()))
    return FeedforwardSpace(2, tuple(hidden), draw(st.integers(1, 2)), activation, tuple(residual), periodic)


@given(spaces(), st.integers(0, 1000), st.data())
def test_widening_any_layers_at_once_keeps_the_function(space, seed, data):
    plain = [n for n, r in enumerate(space.residual) if not r]
    layers = data.draw(st.lists(st.sampled_from(plain), min_size=1, max_size=5))
    fine, transfer = widen(space, neurons(space, layers, seed))
    check_refinement(space, fine, transfer, scattered(space, seed), seed)
    assert sum(fine.hidden[n] for n in plain) == sum(space.hidden[n] for n in plain) + len(layers)


@given(spaces(), st.integers(0, 1000), st.data())
def test_inserting_a_layer_anywhere_keeps_the_function(space, seed, data):
    position = data.draw(st.integers(1, len(space.hidden)))
    fine, transfer = insert_layer(space, position)
    check_refinement(space, fine, transfer, scattered(space, seed), seed)
    assert len(fine.hidden) == len(space.hidden) + 1 and fine.residual[position]


@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_layers_before_chains_of_residual_layers_keep_the_function(activation):
    for residual in ((False, True, True), (False, True, False), (False, False, True), (False, False, False)):
        space = FeedforwardSpace(2, (3, 3, 3), 2, activation, residual)
        for position in (1, 2, 3):
            fine, transfer = insert_layer(space, position)
            check_refinement(space, fine, transfer, scattered(space))


def test_refinements_one_after_another_keep_the_function():
    space = FeedforwardSpace(2, (2,), 1, "sigmoid")
    x = scattered(space)
    before = outputs(space, x)
    for step in range(3):
        space, transfer = insert_layer(space, 1 + step)
        x = transfer(x)
        space, transfer = widen(space, neurons(space, [0, 0]))
        x = transfer(x)
    assert space.hidden == (8, 8, 8, 8)
    assert outputs(space, x) == pytest.approx(before, rel=1e-11, abs=1e-12)


def test_new_neurons_are_where_they_were_asked_for():
    space = FeedforwardSpace(2, (2, 3), 1)
    new = neurons(space, [1, 0, 1])
    fine, transfer = widen(space, new)
    assert fine.hidden == (3, 5)
    y = transfer(scattered(space))
    assert y[fine.incoming(0, 2)].tolist() == [*new[1].weights, new[1].bias]
    assert y[fine.incoming(1, 3)].tolist() == [*new[0].weights, 0.0, new[0].bias]
    assert y[fine.incoming(1, 4)].tolist() == [*new[2].weights, 0.0, new[2].bias]
    for layer, neuron in ((0, 2), (1, 3), (1, 4)):
        assert not y[fine.outgoing(layer, neuron)].any()


def test_widening_takes_its_residual_group_along():
    fine, transfer = widen(MIXED, neurons(MIXED, [0, 2, 2]))
    assert fine.hidden == (4, 4, 4, 4, 4) and fine.residual == MIXED.residual
    check_refinement(MIXED, fine, transfer, scattered(MIXED))


@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_an_inserted_layer_can_be_trained(activation):
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (20, 2))
    space = FeedforwardSpace(2, (3,), 1, activation)
    fine, transfer = insert_layer(space, 1)
    derivative = Regression(points, np.sin(points[:, 0])).on(fine).linearize(transfer(scattered(space))).derivative
    new = fine.blocks[1]
    assert np.abs(derivative[new.start : new.stop]).min() > 1e-4


@given(spaces(), st.data())
def test_the_cost_of_a_neuron_is_the_change_of_the_dimension(space, data):
    layer = data.draw(st.sampled_from([n for n, r in enumerate(space.residual) if not r]))
    fine, _ = widen(space, neurons(space, [layer]))
    assert cost(space, layer) == fine.dim - space.dim == -cost(fine, layer, -1)


@given(spaces(), st.integers(0, 100), st.data())
def test_a_neuron_that_nobody_reads_does_not_matter(space, seed, data):
    layer = data.draw(st.sampled_from([n for n, r in enumerate(space.residual) if not r]))
    neuron = data.draw(st.integers(0, space.hidden[layer] - 1))
    x, points = scattered(space, seed), np.random.default_rng(seed).uniform(-1.0, 1.0, (5, 2))
    x[readers(space, layer, neuron)] = 0.0
    other = x.copy()
    other[space.incoming(layer, neuron)] += 1.0
    assert np.array_equal(*[evaluate(space.program, c, points)[frozenset()][0] for c in (x, other)])


def test_refinement_keeps_the_functional(vector_problem, vector_space):
    x = scattered(vector_space)
    coarse = vector_problem.on(vector_space).value(x)
    for fine, transfer in (
        widen(vector_space, neurons(vector_space, [0, 1, 1])),
        insert_layer(vector_space, 1),
        insert_layer(vector_space, 2),
    ):
        assert vector_problem.on(fine).value(transfer(x)) == pytest.approx(coarse, rel=1e-13)


@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_the_restricted_derivative_is_the_coarse_one(activation, vector_problem):
    space = FeedforwardSpace(2, (3,), 2, activation)
    x = scattered(space)
    expected = vector_problem.on(space).linearize(x).derivative
    for fine, transfer in (widen(space, neurons(space, [0])), insert_layer(space, 1)):
        derivative = vector_problem.on(fine).linearize(transfer(x)).derivative
        assert transfer.T @ derivative == pytest.approx(expected, rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("activation", [name for name in HIDDEN_ACTIVATIONS if name != "relu"])
def test_an_inserted_layer_is_no_saddle(activation, scalar_problem):
    space = FeedforwardSpace(2, (3,), 1, activation)
    fine, transfer = insert_layer(space, 1)
    derivative = scalar_problem.on(fine).linearize(transfer(scattered(space))).derivative
    block = fine.blocks[1]
    assert np.abs(derivative[block.start : block.stop]).min() > 1e-6


def test_penalties_nest_under_widening_if_the_reference_point_is_carried_along(scalar_problem, space):
    x, reference = scattered(space), scattered(space, 1)
    penalty = Tikhonov(space, Euclidean, 0.3, reference)
    fine, transfer = widen(space, neurons(space, [0, 0]))
    assert penalty.on(space=fine, transfer=transfer).value(transfer(x)) == pytest.approx(penalty.value(x), rel=1e-13)


@pytest.mark.parametrize(
    "neuron", [Neuron(2, np.ones(3), 0.0), Neuron(-1, np.ones(3), 0.0), Neuron(0, np.ones(3), 0.0)]
)
def test_widening_refuses_neurons_that_do_not_fit(neuron):
    with pytest.raises(ValueError, match="^(layer|weights): got.*"):
        widen(FeedforwardSpace(2, (2, 3), 1), [neuron])


def test_residual_layers_are_not_widened_alone():
    with pytest.raises(ValueError, match="^layer: got 1, a residual layer"):
        widen(MIXED, [Neuron(1, np.ones(3), 0.0)])


@pytest.mark.parametrize("position", [0, 6, -1])
def test_layers_are_inserted_between_hidden_layers_or_before_the_output(position):
    with pytest.raises(ValueError, match=f"^position: got {position}, expected 1 to 5"):
        insert_layer(MIXED, position)


@given(spaces(), st.integers(0, 1000), st.data())
def test_coarsening_keeps_the_function_with_the_removed_neurons_silenced(space, seed, data):
    plain = [n for n, r in enumerate(space.residual) if not r and space.hidden[n] > 1]
    cells = [(n, data.draw(st.integers(0, space.hidden[n] - 1))) for n in plain]
    coarse, transfer = coarsen(space, cells)
    assert transfer.shape == (space.dim, coarse.dim) and not transfer.offset.any()
    x = scattered(space, seed)
    silenced = x.copy()
    for layer, neuron in cells:
        member = layer
        silenced[space.outgoing(member, neuron)] = 0.0
        while member + 1 < len(space.hidden) and space.residual[member + 1]:
            member += 1
            silenced[space.outgoing(member, neuron)] = 0.0
    assert outputs(coarse, transfer.project(x)) == pytest.approx(outputs(space, silenced), rel=1e-12, abs=1e-12)
    assert np.array_equal(transfer.project(transfer(scattered(coarse))), scattered(coarse))


@given(spaces(), st.data())
def test_coarsening_undoes_widening(space, data):
    plain = [n for n, r in enumerate(space.residual) if not r]
    layers = data.draw(st.lists(st.sampled_from(plain), min_size=1, max_size=4))
    fine, up = widen(space, neurons(space, layers))
    cells = [(n, k) for n in plain for k in range(space.hidden[n], fine.hidden[n])]
    coarse, down = coarsen(fine, np.array(cells))
    assert coarse == space
    assert np.array_equal(down.project(up(scattered(space))), scattered(space))


def test_removing_nothing_or_one_neuron_twice_is_no_error():
    coarse, transfer = coarsen(MIXED, [])
    assert coarse == MIXED and np.array_equal(transfer.project(scattered(MIXED)), scattered(MIXED))
    assert coarsen(MIXED, [(0, 1), (0, 1)])[0] == coarsen(MIXED, [(0, 1)])[0]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([(0, 3)], "^cells: got neuron 3 of layer 0"),
        ([(0, -1)], "^cells: got neuron -1"),
        ([(5, 0)], "^layer: got 5"),
        ([(1, 0)], "^layer: got 1, a residual layer"),
        ([(0, 1.5)], r"^cells: got \(0, 1.5\), expected integers"),
        ([(0.0, 1)], "^cells: got .* expected integers"),
        ([(0, np.nan)], "^cells: got .* expected integers"),
        ([(0, True)], "^cells: got .* expected integers"),
        (np.array([[0.0, 1.0]]), "^cells: got .* expected integers"),
        ([(0, 0), (0, 1), (0, 2)], "^cells: got all neurons of layer 0"),
    ],
)
def test_coarsening_refuses_what_cannot_go(cells, words):
    with pytest.raises(ValueError, match=words):
        coarsen(MIXED, cells)


def test_candidates_depend_on_seed_and_dimension_alone(scalar_problem):
    space = FeedforwardSpace(2, (4, 3), 1)

    def weights(space, seed, count=6):
        rule = ridge_candidates(space, scalar_problem.quadrature, seed=seed, count=count)
        return np.concatenate([n.weights for n in rule.draw(scalar_problem.ansatz.reference, space.initial(0))])

    first = weights(space, 3)
    weights(space, 9)
    assert np.array_equal(first, weights(space, 3))
    assert not np.array_equal(first, weights(space, 4))
    other = FeedforwardSpace(2, (4, 4), 1)
    assert not np.array_equal(first[:12], weights(other, 3)[:12])


def test_every_candidate_is_a_ridge_through_the_image_of_a_sample():
    random = np.random.default_rng(0)
    problem = Regression(random.uniform(50.0, 60.0, (15, 2)), random.standard_normal(15), backend="reference")
    space = FeedforwardSpace(2, (4, 4, 3), 1, "gelu", (False, True, False))
    x = scattered(space)
    pool = ridge_candidates(space, problem.quadrature, seed=1, count=20).draw(problem.ansatz.reference, x)
    assert [n.layer for n in pool] == [0] * 20 + [2] * 20
    reference = problem.ansatz.reference(problem.inputs)
    read = {0: reference, 2: evaluate(space.program.truncated(2), x, reference)[frozenset()][0]}
    for neuron in pool:
        assert neuron.weights.shape == (space.blocks[neuron.layer].columns,)
        assert 0.5 * (1 - 1e-12) <= np.linalg.norm(neuron.weights) <= 4.0 * (1 + 1e-12)
        assert np.abs(read[neuron.layer] @ neuron.weights + neuron.bias).min() <= 1e-13


def test_sparse_candidates_read_few_inputs():
    """k of five inputs with probability 2^-k, all of them equally often; deeper layers have no coordinates."""
    random = np.random.default_rng(0)
    problem = Regression(random.uniform(-1.0, 1.0, (50, 5)), random.standard_normal(50), backend="reference")
    space = FeedforwardSpace(5, (6, 3), 1)
    rule = ridge_candidates(space, problem.quadrature, count=4000, directions="sparse")
    pool = rule.draw(problem.ansatz.reference, space.initial(0))
    active = np.array([neuron.weights != 0.0 for neuron in pool if neuron.layer == 0])
    shares = np.bincount(active.sum(axis=1), minlength=6) / len(active)
    assert np.abs(shares - [0.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16]).max() < 0.03
    assert np.abs(active[active.sum(axis=1) == 1].mean(axis=0) - 0.2).max() < 0.03
    assert all((neuron.weights != 0.0).all() for neuron in pool if neuron.layer == 1)
    lengths = [np.linalg.norm(neuron.weights) for neuron in pool if neuron.layer == 0]
    assert 1.0 - 1e-12 < min(lengths) < 1.01 and 2.97 < max(lengths) < 3.0 + 1e-12
    with pytest.raises(ValueError, match="^directions: got 'axes', expected .*sparse"):
        ridge_candidates(space, problem.quadrature, directions="axes")


def test_candidates_are_drawn_for_the_layers_asked_for(scalar_problem):
    space = FeedforwardSpace(2, (4, 3), 1)
    rule = ridge_candidates(space, scalar_problem.quadrature, count=5, layers=[1])
    assert [n.layer for n in rule.draw(scalar_problem.ansatz.reference, space.initial(0))] == [1] * 5


def test_candidates_of_another_space_are_refused_with_both_named(scalar_problem):
    small, large = FeedforwardSpace(2, (2,), 1), FeedforwardSpace(2, (4,), 1)
    rule = ridge_candidates(small, scalar_problem.quadrature, count=5)
    for use in (
        lambda: rule.draw(scalar_problem.ansatz.reference, large.initial(0)),
        lambda: hierarchical(scalar_problem.on(large), large.initial(0), rule),
    ):
        words = r"^candidates: got a rule for 2-2-1 tanh.*, expected one .*(shape \(17,\)|2-4-1 tanh)"
        with pytest.raises(ValueError, match=words):
            use()
    with pytest.raises(ValueError, match="^x: got NaN or infinity"):
        rule.draw(scalar_problem.ansatz.reference, np.full(9, np.nan))


def test_candidates_refuse_what_does_not_fit(scalar_problem):
    quadrature = scalar_problem.quadrature
    with pytest.raises(ValueError, match="^quadrature: got points of dimension 1, expected 2"):
        ridge_candidates(MIXED, Quadrature([[1.0]], [1.0]))
    with pytest.raises(ValueError, match="^count: got 0"):
        ridge_candidates(MIXED, quadrature, count=0)
    with pytest.raises(ValueError, match="^layer: got 1, a residual layer"):
        ridge_candidates(MIXED, quadrature, layers=[1])
    with pytest.raises(ValueError, match="^seed: got -1"):
        ridge_candidates(MIXED, quadrature, seed=-1).draw(lambda p: p, scattered(MIXED))
