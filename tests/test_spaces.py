"""Spaces, transfers and hierarchies: layout, algebra, and randomness without a state."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, strategies as st

from dnnfem.kernels.activations import derivatives
from dnnfem.kernels.reference import evaluate
from dnnfem.norms import Weighted
from dnnfem.spaces import (
    Coordinates,
    FeedforwardSpace,
    Hierarchy,
    Purpose,
    Transfer,
    generator,
    space_from_attributes,
)
from dnnfem.spaces.feedforward import HIDDEN_ACTIVATIONS, ridges
from dnnfem.spaces.layout import check_coefficients
from dnnfem.testing import adjoint_test, check_space


def outputs(space, x, points):
    """Return the values of the reference function, shape (m, outputs)."""
    return evaluate(space.program, x, np.asarray(points, dtype=np.float64))[frozenset()][0]


@st.composite
def spaces(draw):
    """Draw a feedforward space of any depth, with skip connections where the width allows them."""
    inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    hidden = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    periodic = tuple(i for i in range(inputs) if draw(st.booleans()))
    widths = (inputs + len(periodic), *hidden)
    flags = tuple(a == b and draw(st.booleans()) for a, b in zip(widths, hidden, strict=False))
    return FeedforwardSpace(inputs, hidden, outputs, draw(st.sampled_from(HIDDEN_ACTIVATIONS)), flags, periodic)


@given(spaces(), st.integers(0, 2**63))
def test_every_space_is_what_the_library_relies_on(space, seed):
    check_space(space, seed)


@given(spaces(), st.integers(0, 1000))
def test_the_function_is_the_one_written_down_layer_by_layer(space, seed):
    random = np.random.default_rng(seed)
    x, points = random.standard_normal(space.dim), random.uniform(-1, 1, (5, space.inputs))
    y, start, periodic = points.copy(), 0, list(space.periodic)
    y[:, periodic] = np.sin(np.pi * points[:, periodic])
    y = np.column_stack([y, np.cos(np.pi * points[:, periodic])])
    for width, skip in zip((*space.hidden, space.outputs), (*space.residual, False), strict=True):
        matrix = x[start : start + width * y.shape[1]].reshape(width, y.shape[1])
        bias = x[start + matrix.size : start + matrix.size + width]
        start += matrix.size + width
        z = y @ matrix.T + bias
        if start < space.dim:
            z = derivatives(space.activation, z, 0)[0]
        y = y + z if skip else z
    assert start == space.dim
    assert outputs(space, x, points) == pytest.approx(y, rel=1e-12, abs=1e-13)


def test_coefficients_of_a_small_network_by_hand():
    space = FeedforwardSpace(2, (2,), 1)
    x = np.array([1.0, 2.0, 3.0, 4.0, 0.5, -0.5, 7.0, 8.0, 9.0])
    assert space.dim == 9
    expected = 7.0 * np.tanh(0.1 + 2.0 * 0.2 + 0.5) + 8.0 * np.tanh(0.3 + 4.0 * 0.2 - 0.5) + 9.0
    assert outputs(space, x, [[0.1, 0.2]])[0, 0] == pytest.approx(expected, rel=1e-15)


@given(spaces(), st.data())
def test_incoming_and_outgoing_coefficients_are_those_of_the_neuron(space, data):
    layer = data.draw(st.integers(0, len(space.hidden) - 1))
    neuron = data.draw(st.integers(0, space.hidden[layer] - 1))
    numbers = np.arange(space.dim)
    block, following = space.blocks[layer], space.blocks[layer + 1]
    matrix = numbers[block.start : block.bias_start].reshape(block.rows, block.columns)
    assert space.incoming(layer, neuron).tolist() == [*matrix[neuron], block.bias_start + neuron]
    matrix = numbers[following.start : following.bias_start].reshape(following.rows, following.columns)
    assert space.outgoing(layer, neuron).tolist() == matrix[:, neuron].tolist()


@given(spaces())
def test_row_k_of_the_condensable_coefficients_acts_on_output_k_alone(space):
    x = space.initial(0)
    points = np.random.default_rng(0).uniform(-1, 1, (3, space.inputs))
    before = outputs(space, x, points)
    assert space.condensable.shape == (space.outputs, space.hidden[-1] + 1)
    assert np.array_equal(np.sort(space.condensable.ravel()), np.arange(space.blocks[-1].start, space.dim))
    for k, columns in enumerate(space.condensable):
        moved = x.copy()
        moved[columns[-1]] += 1.0
        change = outputs(space, moved, points) - before
        assert change == pytest.approx(np.tile(np.eye(space.outputs)[k], (3, 1)), abs=1e-12)


def test_starting_points_depend_on_the_seed_and_on_nothing_else():
    space = FeedforwardSpace(2, (5, 5), 1, residual=(False, True))
    first = space.initial(3)
    np.random.default_rng(0).standard_normal(1000)
    FeedforwardSpace(2, (9,), 1).initial(3)
    assert np.array_equal(first, space.initial(3)) and np.array_equal(first, space.initial(np.int64(3)))
    assert not np.isclose(first, space.initial(4)).all()
    first[:] = 0.0
    assert space.initial(3).any()


def test_ridges_of_a_starting_point_cross_the_reference_box():
    for seed in range(20):
        space = FeedforwardSpace(3, (6,), 1)
        x = space.initial(seed)
        weights, bias = x[:18].reshape(6, 3), x[18:24]
        assert (np.abs(bias) <= np.abs(weights).sum(axis=1)).all()
        lengths = np.linalg.norm(weights, axis=1)
        assert (lengths >= 0.5 * (1 - 1e-12)).all() and (lengths <= 4.0 * (1 + 1e-12)).all()


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 100))
def test_ridges_pass_through_their_points(count, dimension, seed):
    random = np.random.default_rng(seed)
    points = random.uniform(-5, 5, (count, dimension))
    weights, bias = ridges(random, points)
    assert np.einsum("md,md->m", weights, points) + bias == pytest.approx(np.zeros(count), abs=1e-12)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"inputs": 0}, "inputs"),
        ({"outputs": -1}, "outputs"),
        ({"outputs": 1.5}, "outputs"),
        ({"inputs": True}, "inputs"),
        ({"hidden": ()}, "hidden"),
        ({"hidden": (3, 0)}, "hidden"),
        ({"hidden": (3.0,)}, "hidden"),
        ({"hidden": 0}, "hidden"),
        ({"activation": "step"}, "activation"),
        ({"activation": "identity"}, "activation"),
        ({"residual": (True, False)}, "residual"),
        ({"hidden": (3, 4), "residual": (False, True)}, "residual"),
        ({"hidden": (3,), "residual": (True,)}, "residual"),
        ({"hidden": (2,), "residual": (True,), "periodic": (0,)}, "residual"),
        ({"periodic": (2,)}, "periodic"),
        ({"periodic": (-1,)}, "periodic"),
        ({"periodic": (1, 1)}, "periodic"),
        ({"periodic": (0.0,)}, "periodic"),
        ({"periodic": (True,)}, "periodic"),
        ({"periodic": 0}, "periodic"),
        ({"periodic": None}, "periodic"),
        ({"periodic": "0"}, "periodic"),
    ],
)
def test_spaces_refuse_what_is_no_network(change, name):
    with pytest.raises(ValueError, match=f"^{name}: .*"):
        FeedforwardSpace(**{"inputs": 2, "hidden": (3,), "outputs": 1, **change})


@pytest.mark.parametrize("seed", [-1, 1.0, True, None, "1"])
def test_a_seed_is_a_non_negative_integer(seed):
    with pytest.raises(ValueError, match="^seed: got.*expected a non-negative integer"):
        FeedforwardSpace(1, (1,), 1).initial(seed)


def test_spaces_are_values():
    space = FeedforwardSpace(np.int32(2), [np.int64(3), 3], 1, residual=[0, 1])
    assert space == FeedforwardSpace(2, (3, 3), 1, "tanh", (False, True))
    assert hash(space) == hash(FeedforwardSpace(2, (3, 3), 1, "tanh", (False, True)))
    assert FeedforwardSpace(2, 3, 1) == FeedforwardSpace(2, (3,), 1)
    assert space != FeedforwardSpace(2, (3, 3), 1)
    assert str(space) == "2-3-3r-1 tanh"
    assert FeedforwardSpace(3, 2, 1, periodic=np.array([2, 0])) == FeedforwardSpace(3, 2, 1, periodic=(0, 2))
    assert FeedforwardSpace(3, 2, 1, periodic=[1]) != FeedforwardSpace(3, 2, 1)
    assert str(FeedforwardSpace(3, 2, 1, periodic=[2, 0])) == "3-2-1 tanh, periodic in 0, 2"


@given(spaces())
def test_spaces_are_rebuilt_from_their_attributes(space):
    assert space_from_attributes(space.attributes()) == space
    assert ("periodic" in space.attributes()) == (space.periodic != ())


def test_unknown_kinds_of_spaces_are_refused():
    for attributes in ({"kind": "spline"}, {}):
        with pytest.raises(ValueError, match="^kind: got .*expected one of feedforward"):
            space_from_attributes(attributes)


def test_generators_have_no_state():
    first, second = generator(1, 10, Purpose.INITIAL), generator(1, 10, Purpose.INITIAL)
    generator(1, 10, Purpose.CANDIDATES).random(100)
    assert np.array_equal(first.random(5), second.random(5))
    keys = [
        (1, 10, Purpose.INITIAL),
        (2, 10, Purpose.INITIAL),
        (1, 11, Purpose.INITIAL),
        (1, 10, Purpose.PROBE),
    ]
    assert len({generator(*key).random() for key in keys}) == len(keys)


def test_coefficient_vectors_are_copied_and_checked():
    space = Coordinates(2)
    x = np.zeros(2)
    vector = check_coefficients(space, x)
    x[0] = 1.0
    assert vector.tolist() == [0.0, 0.0]
    assert check_coefficients(space, [1, 2]).dtype == np.float64
    for bad in ([1.0], [[1.0, 2.0]], [1j, 2.0], ["1", "2"], [None, 1.0]):
        with pytest.raises(ValueError, match="^start: got.*expected"):
            check_coefficients(space, bad, "start")


@st.composite
def transfers(draw, coarse=None):
    """Draw a transfer of full column rank."""
    columns = draw(st.integers(1, 4)) if coarse is None else coarse
    rows = columns + draw(st.integers(0, 3))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    matrix = random.uniform(-1, 1, (rows, columns)) * (random.random((rows, columns)) < 0.5)
    matrix[:columns] += 4.0 * np.eye(columns)
    return Transfer(sp.csr_array(matrix), random.standard_normal(rows))


@given(st.data())
def test_transfers_compose_like_the_maps_they_are(data):
    first = data.draw(transfers())
    second = data.draw(transfers(first.shape[0]))
    third = data.draw(transfers(second.shape[0]))
    random = np.random.default_rng(0)
    x = random.standard_normal(first.shape[1])
    both = second.after(first)
    assert both.shape == (second.shape[0], first.shape[1])
    assert both(x) == pytest.approx(second(first(x)), rel=1e-12, abs=1e-12)
    assert both @ x == pytest.approx(second @ (first @ x), rel=1e-12, abs=1e-12)
    left, right = third.after(both), third.after(second).after(first)
    assert left(x) == pytest.approx(right(x), rel=1e-12, abs=1e-12)


@given(transfers())
def test_restriction_is_the_transpose_of_prolongation(transfer):
    adjoint_test(lambda s: transfer @ s, lambda g: transfer.T @ g, transfer.shape)
    several = np.random.default_rng(0).standard_normal((transfer.shape[1], 3))
    assert transfer @ several == pytest.approx(np.column_stack([transfer @ s for s in several.T]), abs=1e-14)


@given(transfers())
def test_corrections_are_differences_of_prolonged_iterates(transfer):
    x, s = np.random.default_rng(0).standard_normal((2, transfer.shape[1]))
    assert transfer(x + s) - transfer(x) == pytest.approx(transfer @ s, rel=1e-12, abs=1e-12)
    assert transfer(np.zeros_like(x)) == pytest.approx(transfer.offset, abs=0)


@given(transfers(), st.booleans())
def test_projection_is_the_nearest_point_of_the_coarse_space(transfer, weighted):
    fine, coarse = transfer.shape
    random = np.random.default_rng(0)
    weights = random.uniform(0.1, 10.0, fine)
    norm = Weighted(Coordinates(fine), weights) if weighted else None
    x, y = random.standard_normal(coarse), random.standard_normal(fine)
    assert transfer.project(transfer(x), norm) == pytest.approx(x, rel=1e-9, abs=1e-10)
    miss = transfer(transfer.project(y, norm)) - y
    assert transfer.T @ (miss * weights if weighted else miss) == pytest.approx(np.zeros(coarse), abs=1e-8)


def test_the_identity_transfers_nothing():
    identity = Transfer.identity(3)
    x = np.array([1.0, 2.0, 3.0])
    assert np.array_equal(identity(x), x) and np.array_equal(identity.project(x), x)
    assert repr(identity) == "Transfer(3 -> 3, 3 entries)"


def test_transfers_refuse_vectors_of_another_space():
    transfer = Transfer(sp.csr_array(np.ones((3, 2))), np.zeros(3))
    for use in (transfer, lambda x: transfer @ x):
        with pytest.raises(ValueError, match=r"^vector: got shape \(3,\), expected \(2,\)"):
            use(np.zeros(3))
    with pytest.raises(ValueError, match=r"^vector: got shape \(2,\), expected \(3,\)"):
        transfer.project(np.zeros(2))
    with pytest.raises(ValueError, match=r"^offset: got shape \(2,\), expected \(3,\)"):
        Transfer(sp.csr_array(np.ones((3, 2))), np.zeros(2))
    with pytest.raises(ValueError, match="^vector: got shape"):
        transfer.after(Transfer.identity(3))


@pytest.mark.parametrize(
    "vector",
    [
        np.array([1j, 2.0]),
        np.array([True, False]),
        ["1", "2"],
        np.array([1.0, 2.0], dtype=object),
        [None, 1.0],
        np.array(["2020-01-01", "2020-01-02"], dtype="M8[D]"),
    ],
)
def test_transfers_refuse_what_is_no_real_number(vector):
    transfer = Transfer.identity(2)
    for use in (transfer, lambda x: transfer @ x, transfer.project):
        with pytest.raises(ValueError, match="^vector: got dtype .*, expected real numbers"):
            use(vector)


def test_transfers_take_lists_integers_and_several_vectors():
    transfer = Transfer(sp.csr_array([[1.0, 2.0], [0.0, 3.0], [4.0, 0.0]]), np.array([0.5, 0.0, -0.5]))
    assert transfer([1, 2]).tolist() == transfer(np.array([1, 2])).tolist() == [5.5, 6.0, 3.5]
    assert (transfer @ np.array([1, 2], dtype=np.float32)).tolist() == [5.0, 6.0, 4.0]
    assert transfer.project([5.5, 6, 3.5]) == pytest.approx([1.0, 2.0])
    several = np.array([[1, 0, 3], [2, 1, 4]])
    for use in (transfer, lambda x: transfer @ x):
        assert use(several) == pytest.approx(np.column_stack([use(column) for column in several.T]), rel=1e-15)
        with pytest.raises(ValueError, match=r"^vector: got shape \(2, 3, 1\), expected \(2,\)"):
            use(several[:, :, None])
    with pytest.raises(ValueError, match=r"^vector: got shape \(3, 3\), expected \(3,\)"):
        transfer.project(np.ones((3, 3)))


def chain():
    """Return three levels with transfers between them."""
    levels = tuple(FeedforwardSpace(1, (w,), 1) for w in (1, 2, 3))
    random = np.random.default_rng(0)
    steps = tuple(
        Transfer(sp.csr_array(random.standard_normal((b.dim, a.dim))), random.standard_normal(b.dim))
        for a, b in itertools.pairwise(levels)
    )
    return levels, steps


def test_a_hierarchy_composes_its_transfers():
    levels, steps = chain()
    hierarchy = Hierarchy(levels[:1]).refined(levels[1], steps[0]).refined(levels[2], steps[1])
    assert len(hierarchy) == 3 and hierarchy.finest == levels[2]
    x = levels[0].initial(0)
    assert hierarchy.prolongation(0, 2)(x) == pytest.approx(steps[1](steps[0](x)), rel=1e-13)
    assert np.array_equal(hierarchy.prolongation(1, 1)(levels[1].initial(0)), levels[1].initial(0))


def test_refining_a_hierarchy_leaves_the_old_one_alone():
    levels, steps = chain()
    hierarchy = Hierarchy(levels[:2], steps[:1])
    hierarchy.refined(levels[2], steps[1])
    assert len(hierarchy) == 2


def test_the_table_of_a_hierarchy_has_a_line_per_level():
    levels, steps = chain()
    lines = repr(Hierarchy(levels, steps)).splitlines()
    assert lines[0].split() == ["level", "dim", "growth", "space"]
    assert lines[1].split() == ["0", "4", "1-1-1", "tanh"]
    assert lines[3].split() == ["2", "10", "1.43", "1-3-1", "tanh"]


def test_hierarchies_refuse_transfers_that_do_not_fit():
    levels, steps = chain()
    with pytest.raises(ValueError, match="^transfers: got 1 for 3 spaces"):
        Hierarchy(levels, steps[:1])
    with pytest.raises(ValueError, match="^transfers: number 1 has shape"):
        Hierarchy(levels, (steps[0], steps[0]))
    for pair in ((1, 0), (0, 3), (-1, 1)):
        with pytest.raises(ValueError, match="^levels: got"):
            Hierarchy(levels, steps).prolongation(*pair)


def test_there_is_no_prolongation_through_a_coarsened_level():
    levels, steps = chain()
    back = Hierarchy((levels[0], levels[1], levels[0]), (steps[0], steps[0]))
    assert back.prolongation(0, 1).shape == (levels[1].dim, levels[0].dim)
    with pytest.raises(ValueError, match="level 2 was reached by coarsening"):
        back.prolongation(0, 2)
