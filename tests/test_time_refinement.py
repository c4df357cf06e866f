"""Refinement in time keeps the functional, with its penalties; coarsening and insertion; norms of functions of time."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from test_flow import FIELDS, MESH, ORDERS, Circulant, flows, meshes, outputs, refined, scattered, theta_at

import dnnfem as fem
from dnnfem.functionals import Sum
from dnnfem.refinement.time import merge, prolongation
from dnnfem.spaces import Transfer
from dnnfem.spaces.feedforward import Neuron
from dnnfem.testing import adjoint_test, check_norm, check_refinement, convergence_order

STANDING = {
    "single": fem.SingleLayer("sin"),
    "double": fem.DoubleLayer(3, "softplus"),
    "wide double": fem.DoubleLayer(7),
    "antisymmetric": fem.Antisymmetric(0.0, "gelu"),
    "time steps": fem.TimeSteps(fem.SingleLayer()),
}
SAMPLES = np.random.default_rng(0).uniform(-1.0, 1.0, (2, 9, 2))


def halved(space, times=1):
    """Return a flow with all steps bisected some times."""
    for _ in range(times):
        space, _ = fem.refine_states(space, range(space.steps))
    return space


def penalized(problem, space, seed=5):
    """Return a functional with penalties in all norms that there are, relative to points of the space."""
    norms = (fem.L2, fem.H1)[: 1 + space.degree]
    penalties = [fem.Tikhonov(space, norm, 0.3, scattered(space, seed + k)) for k, norm in enumerate(norms)]
    return Sum(problem.on(space), *penalties)


def at(space, x, t):
    """Return theta at a time, by hand."""
    cell = max(k for k, node in enumerate(space.weight_mesh[:-1]) if node <= t)
    return theta_at(space, x, cell, t)


@st.composite
def marked(draw, count):
    """Draw some cells."""
    return draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count))


@st.composite
def on_common_states(draw):
    """Draw a flow whose state mesh has the midpoints of all cells, and besides what it likes."""
    mesh = draw(meshes(3))
    middles = [0.5 * (a + b) for a, b in itertools.pairwise(mesh)]
    states = draw(refined(tuple(sorted((*mesh, *middles)))))
    field = draw(st.sampled_from([*FIELDS.values(), Circulant()]))
    degree, scheme = draw(st.integers(0, 1)), draw(st.sampled_from(list(ORDERS)))
    return fem.FlowSpace(2, 4, 2, mesh, states, degree, scheme, field, draw(st.sampled_from(["padding", "affine"])))


# ---- bisection


@given(on_common_states(), st.data())
def test_a_prolonged_iterate_has_the_same_functional_with_its_penalties(space, data):
    problem = fem.Regression(*SAMPLES, backend="reference")
    x, cells = scattered(space), data.draw(marked(space.cells))
    fine, transfer = fem.bisect(space, cells)
    assert fine.state_mesh == space.state_mesh and fine.cells == space.cells + len(set(cells))
    coarse = penalized(problem, space)
    there = coarse.on(space=fine, transfer=transfer)
    assert there.value(transfer(x)) == pytest.approx(coarse.value(x), rel=1e-13)


@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize("scheme", ORDERS)
@pytest.mark.parametrize("name", FIELDS)
def test_derivatives_restrict_to_those_of_the_coarse_space(name, scheme, degree, vector_problem):
    space = halved(fem.FlowSpace(2, 4, 2, MESH, (), degree, scheme, FIELDS[name]), 2)
    problem, x = replace(vector_problem, backend="compiled"), scattered(space)
    fine, first = fem.bisect(space, [0, 2])
    fine, second = fem.bisect(fine, range(1, fine.cells))
    transfer, coarse = second.after(first), penalized(problem, space)
    assert fine.state_mesh == space.state_mesh
    check_refinement(space, fine, transfer, x)
    a, b = coarse.linearize(x), coarse.on(space=fine, transfer=transfer).linearize(transfer(x))
    v = scattered(space, 1)
    assert b.value == pytest.approx(a.value, rel=1e-13)
    assert transfer.T @ b.derivative == pytest.approx(a.derivative, rel=1e-11, abs=1e-12)
    assert transfer.T @ b.hessian(transfer @ v) == pytest.approx(a.hessian(v), rel=1e-10, abs=1e-11)


@given(flows(2), st.data())
def test_theta_stays_the_function_of_time_that_it_was(space, data):
    cells = data.draw(marked(space.cells))
    fine, transfer = fem.bisect(space, cells)
    x = scattered(space)
    y = transfer(x)
    for t in np.random.default_rng(0).uniform(0.0, space.end, 20):
        assert at(fine, y, t) == pytest.approx(at(space, x, t), rel=1e-9, abs=1e-11)
    ends = slice(0, space.theta_start), slice(-(space.dim - space.theta_stop), None)
    assert all(np.array_equal(x[part], y[part]) for part in ends)
    adjoint_test(lambda s: transfer @ s, lambda g: transfer.T @ g, transfer.shape)
    assert not transfer.offset.any() and transfer.project(y) == pytest.approx(x, rel=1e-9, abs=1e-9)
    halves = [0.5 * (space.weight_mesh[k] + space.weight_mesh[k + 1]) for k in set(cells)]
    assert sorted((*space.weight_mesh, *halves)) == list(fine.weight_mesh)


@given(flows(2), st.data())
def test_missing_midpoints_refine_the_steps_and_nothing_else(space, data):
    fine, transfer = fem.bisect(space, data.draw(marked(space.cells)))
    assert set(space.state_mesh) <= set(fine.state_mesh)
    x, points = scattered(space), np.random.default_rng(0).uniform(-1.0, 1.0, (4, space.inputs))
    same = replace(space, state_mesh=fine.state_mesh)
    assert outputs(fine, transfer(x), points) == pytest.approx(outputs(same, x, points), rel=1e-11, abs=1e-11)


def test_midpoints_that_are_there_up_to_rounding_are_not_inserted_again():
    mesh = (0.0, 0.1, 0.1 + 0.7 / 3.0)
    middles = 0.1 / 2 * (1 + 1e-15), 0.1 + (mesh[2] - mesh[1]) / 2
    space = fem.FlowSpace(1, 2, 1, mesh, sorted((*mesh, *middles)))
    fine, _ = fem.bisect(space, [0, 1])
    assert fine.steps == fine.cells == 4 and fine.weight_mesh == fine.state_mesh


@pytest.mark.parametrize("scheme", ORDERS)
def test_bisected_equal_meshes_change_the_functional_by_the_order_of_the_scheme(scheme, vector_problem):
    space, changes = fem.FlowSpace(2, 2, 2, MESH, scheme=scheme, field=fem.DoubleLayer(2, "sin")), []
    x = scattered(space)
    for _ in range(5):
        fine, transfer = fem.bisect(space, range(space.cells))
        before, after = vector_problem.on(space).value(x), vector_problem.on(fine).value(transfer(x))
        changes.append(abs(after - before))
        space, x = fine, transfer(x)
    assert convergence_order(0.5 ** np.arange(5), changes)[-1] == pytest.approx(ORDERS[scheme], abs=0.2)


@given(flows(2), st.data())
def test_refined_states_have_the_same_coefficients(space, data):
    steps = data.draw(marked(space.steps))
    fine, transfer = fem.refine_states(space, steps)
    assert fine.dim == space.dim and fine.weight_mesh == space.weight_mesh
    assert fine.steps == space.steps + len(set(steps))
    x = scattered(space)
    assert np.array_equal(transfer(x), x)
    for step in set(steps):
        a, b = space.state_mesh[step : step + 2]
        assert 0.5 * (a + b) in fine.state_mesh


def test_penalties_whose_reference_point_is_not_carried_along_are_refused(vector_problem):
    space = halved(fem.FlowSpace(2, 2, 2, MESH))
    fine, _ = fem.bisect(space, [0])
    with pytest.raises(ValueError, match="^transfer: got None, expected the prolongation"):
        penalized(vector_problem, space).on(space=fine)


# ---- coarsening


@given(flows(2), st.data())
def test_merging_undoes_bisection(space, data):
    cells = sorted(set(data.draw(marked(space.cells))))
    fine, up = fem.bisect(space, cells)
    left = [cell + number for number, cell in enumerate(cells)]
    coarse, down = fem.coarsen(fine, left)
    assert coarse.weight_mesh == space.weight_mesh and coarse.state_mesh == fine.state_mesh
    x = scattered(space)
    assert abs(down.matrix - up.matrix).max() <= 1e-12
    assert down.project(up(x)) == pytest.approx(x, rel=1e-9, abs=1e-9)
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (3, space.inputs))
    assert outputs(coarse, x, points) == pytest.approx(outputs(fine, up(x), points), rel=1e-11, abs=1e-11)


@given(meshes(5), st.integers(0, 100), st.data())
def test_in_L2_merged_cells_get_the_mean_of_what_they_had(mesh, seed, data):
    mesh = (*mesh, mesh[-1] + 0.3)
    space = fem.FlowSpace(1, 2, 1, mesh)
    cell, x = data.draw(st.integers(0, space.cells - 2)), scattered(space, seed)
    coarse, transfer = fem.coarsen(space, [cell])
    y = transfer.project(x, fem.L2(space))
    weights = np.diff(mesh)[cell : cell + 2]
    assert coarse.theta(y)[cell] == pytest.approx(weights @ space.theta(x)[cell : cell + 2] / weights.sum(), rel=1e-10)
    assert np.delete(coarse.theta(y), cell, axis=0) == pytest.approx(
        np.delete(space.theta(x), [cell, cell + 1], axis=0), rel=1e-12
    )
    assert y[coarse.theta_stop :] == pytest.approx(x[space.theta_stop :], rel=1e-12)
    plain = coarse.theta(transfer.project(x))[cell]
    assert plain == pytest.approx(space.theta(x)[cell : cell + 2].mean(axis=0), rel=1e-10)


def test_piecewise_linear_weights_are_projected_orthogonally():
    space = fem.FlowSpace(2, 2, 1, MESH, degree=1)
    x, norm = scattered(space), fem.L2(space)
    _, transfer = fem.coarsen(space, [0, 1])
    miss = x - transfer(transfer.project(x, norm))
    assert norm.norm(miss) > 0.1
    assert transfer.T @ norm.apply(miss) == pytest.approx(np.zeros(transfer.shape[1]), abs=1e-13)


def test_several_neighbours_are_merged_at_once():
    space = fem.FlowSpace(1, 1, 1, (0.0, 1.0, 2.0, 3.0, 4.0, 5.0))
    coarse, transfer = merge(space, [0, 1, 3])
    assert coarse.weight_mesh == (0.0, 3.0, 5.0) and coarse.state_mesh == space.weight_mesh
    assert transfer(np.arange(coarse.dim))[:: space.size][:5].tolist() == [0.0, 0.0, 0.0, 2.0, 2.0]
    assert merge(space, np.array([0, 1, 3]))[0] == coarse == merge(space, [0, 1, 1, 3])[0]


# ---- insertion and removal


@pytest.mark.parametrize("scheme", ORDERS)
@pytest.mark.parametrize("name", STANDING)
def test_an_inserted_cell_keeps_the_function_and_can_be_trained(name, scheme, vector_problem):
    states, field = (0.0, 0.2, 0.3, 1.1, 1.3, 1.5), STANDING[name]
    space = fem.FlowSpace(2, 4, 2, MESH, states, scheme=scheme, field=field, encoder="affine")
    x = scattered(space)
    for position in range(4):
        fine, transfer = fem.insert_layer(space, position)
        check_refinement(space, fine, transfer, x)
        coarse = penalized(vector_problem, space)
        deeper = coarse.on(space=fine, transfer=transfer)
        assert deeper.value(transfer(x)) == pytest.approx(coarse.value(x), rel=1e-13)
        assert fine.end == pytest.approx(2.0) and fine.cells == 4 and fine.steps == 7
        lengths = [0.3, 0.8, 0.4]
        lengths.insert(position, 0.5)
        assert np.diff(fine.weight_mesh) == pytest.approx(lengths)
        derivative = replace(vector_problem, backend="compiled").on(fine).linearize(transfer(x)).derivative
        new = derivative[fine.at(position)]
        # Outer weights see the states, and inner ones that are read by weights that vanish do not matter yet.
        outer = field.maps(4)[0].size if name.endswith("double") else 0
        assert np.abs(new[outer : outer + 4]).min() > 1e-6


@given(flows(4), st.data())
def test_insertion_anywhere_in_any_mesh_keeps_the_function(space, data):
    space = replace(space, degree=0, field=data.draw(st.sampled_from(list(STANDING.values()))))
    position, x = data.draw(st.integers(0, space.cells)), scattered(space)
    fine, transfer = fem.insert_layer(space, position)
    check_refinement(space, fine, transfer, x, rtol=1e-11)
    coarse, back = fem.remove_step(fine, position)
    assert coarse.weight_mesh == pytest.approx(space.weight_mesh, rel=1e-13)
    assert coarse.state_mesh == pytest.approx(space.state_mesh, rel=1e-13)
    assert np.array_equal(back.project(transfer(x)), x) and np.array_equal(back.offset, transfer.offset)


@pytest.mark.parametrize("name", STANDING)
def test_a_removed_step_is_one_that_stood_still(name):
    space = fem.FlowSpace(2, 4, 2, MESH, (0.0, 0.2, 0.3, 1.1, 1.3, 1.5), field=STANDING[name], encoder="affine")
    for cell, left in enumerate(([1.1 - 0.3, 1.5 - 0.3], [0.3, 0.7], [0.3, 1.1])):
        coarse, transfer = fem.remove_step(space, cell)
        check_refinement(coarse, space, transfer, scattered(coarse))
        assert coarse.weight_mesh[1:] == pytest.approx(left)
        x = scattered(space)
        y = transfer.project(x)
        assert np.array_equal(coarse.theta(y), np.delete(space.theta(x), cell, axis=0))
        assert np.array_equal(y[: coarse.theta_start], x[: space.theta_start])
        assert np.array_equal(y[coarse.theta_stop :], x[space.theta_stop :])


def test_a_field_of_ones_own_may_say_where_it_vanishes():
    class Vanishing(Circulant):
        def vanishing(self, width):
            return np.zeros(width)

    space = fem.FlowSpace(2, 4, 1, MESH, field=Vanishing())
    fine, transfer = fem.insert_layer(space, 2)
    check_refinement(space, fine, transfer, scattered(space))


# ---- what refinement refuses


def flow(**change):
    """Return a flow with two cells and four steps."""
    return fem.FlowSpace(**{"inputs": 2, "width": 2, "outputs": 1, "weight_mesh": (0, 1, 2), **change})


SPACE, LINEAR, PLAIN = halved(flow()), halved(flow(degree=1)), fem.FeedforwardSpace(2, (2,), 1)


@pytest.mark.parametrize(
    ("refine", "words"),
    [
        (lambda: fem.bisect(SPACE, [2]), "cells: got 2, expected integers from 0 to 1"),
        (lambda: fem.bisect(SPACE, [-1]), "cells: got -1, expected integers from 0 to 1"),
        (lambda: fem.bisect(SPACE, [0.0]), "cells: got 0.0, expected integers from 0 to 1"),
        (lambda: fem.bisect(SPACE, [True]), "cells: got True, expected integers from 0 to 1"),
        (lambda: fem.bisect(SPACE, [(0, 1)]), r"cells: got \(0, 1\), expected integers from 0 to 1"),
        (lambda: fem.bisect(SPACE, []), "cells: got none, expected at least one; where nothing was marked a loop"),
        (lambda: fem.refine_states(SPACE, [4]), "steps: got 4, expected integers from 0 to 3"),
        (lambda: fem.refine_states(SPACE, []), "steps: got none, expected at least one"),
        (lambda: fem.coarsen(SPACE, [1]), "cells: got 1, expected integers from 0 to 0"),
        (lambda: fem.coarsen(SPACE, [(0, 1)]), r"cells: got \(0, 1\), expected integers from 0 to 0"),
        (lambda: fem.coarsen(SPACE, []), "cells: got none, expected at least one"),
        (
            lambda: fem.coarsen(flow(weight_mesh=(0, 1)), [0]),
            "space: got 2-2-1 .*1 cell .*, expected more than one cell",
        ),
        (lambda: fem.insert_layer(SPACE, 3), "position: got 3, expected 0 to 2 for 2-2-1 single flow"),
        (lambda: fem.insert_layer(SPACE, -1), "position: got -1, expected 0 to 2 for 2-2-1 single flow"),
        (lambda: fem.insert_layer(SPACE, 1.0), "position: got 1.0, expected 0 to 2 for 2-2-1 single flow"),
        (lambda: fem.insert_layer(SPACE, True), "position: got True, expected 0 to 2 for 2-2-1 single flow"),
        (
            lambda: fem.insert_layer(LINEAR, 0),
            "space: got .*linear.*, expected piecewise constant weights: others would",
        ),
        (lambda: fem.insert_layer(flow(field=fem.Hamiltonian()), 0), "field: Hamiltonian.* has no theta with which it"),
        (
            lambda: fem.insert_layer(flow(field=Circulant()), 0),
            "field: Circulant.* has no theta with which it vanishes",
        ),
        (lambda: fem.insert_layer(flow(field=fem.SingleLayer("relu")), 0), "field: .*relu.* does not vanish for zero"),
        (lambda: fem.insert_layer(flow(field=fem.SingleLayer("sigmoid")), 0), "field: .*does not vanish for zero wei"),
        (lambda: fem.insert_layer(flow(field=fem.Antisymmetric(0.1)), 0), "field: .*does not vanish.*expected no damp"),
        (
            lambda: fem.remove_step(flow(field=fem.SingleLayer("sigmoid")), 0),
            "field: SingleLayer.* does not vanish",
        ),
        (lambda: fem.remove_step(SPACE, 2), "cell: got 2, expected integers from 0 to 1"),
        (lambda: fem.remove_step(SPACE, [0]), r"cell: got \[0\], expected integers from 0 to 1"),
        (lambda: fem.remove_step(flow(weight_mesh=(0, 1)), 0), "space: got .*1 cell .* on more than one cell"),
        (lambda: fem.remove_step(LINEAR, 0), "space: got .*linear.*, expected piecewise constant weights on more than"),
        (
            lambda: fem.remove_step(flow(field=fem.Antisymmetric(0.1)), 0),
            "field: .*does not vanish.*expected no damping",
        ),
        (lambda: fem.bisect(PLAIN, [0]), "space: got 2-2-1 tanh, expected a FlowSpace"),
        (lambda: fem.refine_states(PLAIN, [0]), "space: got 2-2-1 tanh, expected a FlowSpace"),
        (lambda: fem.remove_step(PLAIN, 0), "space: got 2-2-1 tanh, expected a FlowSpace"),
        (lambda: fem.widen(SPACE, [Neuron(0, np.ones(2), 0.0)]), "space: got 2-2-1 single flow.*, expected a Feedforw"),
        (lambda: fem.ridge_candidates(SPACE, None), "space: got 2-2-1 single flow.*, expected a FeedforwardSpace"),
        (
            lambda: fem.L2(PLAIN),
            "space: got 2-2-1 tanh, expected a FlowSpace, whose weights",
        ),
        (
            lambda: fem.H1(PLAIN),
            "space: got 2-2-1 tanh, expected a FlowSpace, whose weights",
        ),
        (lambda: fem.H1(SPACE), "space: got .* with piecewise constant weights, expected piecewise linear ones for H1"),
    ],
)
def test_what_cannot_be_refined_is_refused(refine, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        refine()


# ---- norms


@st.composite
def norms(draw):
    """Draw a norm of a flow."""
    space = draw(flows(2))
    return (fem.H1 if space.degree == 1 and draw(st.booleans()) else fem.L2)(space)


@given(norms(), st.integers(0, 1000))
def test_norms_in_time_are_norms(norm, seed):
    check_norm(norm, seed)


@given(norms(), st.integers(0, 1000))
@settings(max_examples=10)
def test_norms_in_time_are_integrals(norm, seed):
    space = norm.space
    x = scattered(space, seed)
    nodes, weights = np.polynomial.legendre.leggauss(3)
    expected = x[: space.theta_start] @ x[: space.theta_start] + x[space.theta_stop :] @ x[space.theta_stop :]
    for cell, (a, b) in enumerate(itertools.pairwise(space.weight_mesh)):
        for s, w in zip(nodes, weights, strict=True):
            value = theta_at(space, x, cell, 0.5 * (a + b) + 0.5 * (b - a) * s)
            expected += 0.5 * (b - a) * w * value @ value
        if norm.derivatives:
            jump = theta_at(space, x, cell, b) - theta_at(space, x, cell, a)
            expected += jump @ jump / (b - a)
    assert norm.inner(x, x) == pytest.approx(expected, rel=1e-11)


@given(norms())
@settings(max_examples=10)
def test_roots_whitening_and_restrictions_match_the_dense_matrix(norm):
    matrix = np.column_stack([norm.apply(e) for e in np.eye(norm.dim)])
    scale = np.abs(matrix).max()
    assert np.array_equal(matrix, matrix.T) and norm.dense() == pytest.approx(matrix, rel=1e-14)
    assert norm.root().T @ norm.root() == pytest.approx(matrix, rel=1e-12, abs=1e-13 * scale)
    several = np.random.default_rng(0).standard_normal((norm.dim, 3))
    assert norm.apply(several) == pytest.approx(matrix @ several, rel=1e-12, abs=1e-13 * scale)
    inverse = np.linalg.inv(norm.root())
    assert norm.whiten(several.T) == pytest.approx(several.T @ inverse, rel=1e-9, abs=1e-11 * np.abs(inverse).max())
    assert norm.unwhiten(several) == pytest.approx(inverse @ several, rel=1e-9, abs=1e-11 * np.abs(inverse).max())
    assert norm.unwhiten(several[:, 0]) == pytest.approx(norm.unwhiten(several)[:, 0], rel=1e-12)
    assert norm.riesz(several) == pytest.approx(np.linalg.solve(matrix, several), rel=1e-8, abs=1e-9)
    columns = np.arange(norm.dim)[::3]
    assert norm.restricted(columns).dense() == pytest.approx(matrix[np.ix_(columns, columns)], rel=1e-14)
    onto = np.eye(norm.dim)
    assert norm.dense(onto, 2.0) is onto and onto == pytest.approx(np.eye(norm.dim) + 2.0 * matrix, rel=1e-13)


@given(norms(), st.data())
def test_norms_in_time_nest(norm, data):
    space = norm.space
    fine, transfer = fem.bisect(space, data.draw(marked(space.cells)))
    P, M = transfer.matrix.toarray(), (fem.L2, fem.H1)[norm.derivatives](fine).dense()
    nested = P.T @ M @ P
    assert nested == pytest.approx(norm.dense(), rel=1e-11, abs=1e-12)


@given(meshes(6), st.data())
def test_norms_in_time_nest_between_any_meshes_of_which_one_refines_the_other(mesh, data):
    fine = data.draw(refined(mesh))
    for degree, rules in ((0, [fem.L2]), (1, [fem.L2, fem.H1])):
        coarse_space, fine_space = (fem.FlowSpace(1, 1, 1, m, fine, degree) for m in (mesh, fine))
        P = prolongation(coarse_space, fine_space).matrix.toarray()
        for rule in rules:
            M = rule(coarse_space).dense()
            assert P.T @ rule(fine_space).dense() @ P == pytest.approx(M, rel=1e-10, abs=1e-12 * np.abs(M).max())


def test_gradients_in_L2_are_functions_of_time_that_do_not_know_the_mesh(vector_problem):
    """The gradient on a graded mesh is near that on a uniform one; the vectors of derivatives are not."""
    fine = tuple(np.linspace(0.0, 2.0, 65))
    graded = (*fine[:9:1], *fine[12:33:4], *fine[40::8])
    point, found, raw = scattered(fem.FlowSpace(2, 2, 2, field=fem.DoubleLayer(2))), [], []
    for mesh in (fine, graded):
        space = fem.FlowSpace(2, 2, 2, mesh, fine, field=fem.DoubleLayer(2))
        x = np.concatenate([np.tile(point[: space.size], space.cells), point[space.size :]])
        derivative = replace(vector_problem, backend="compiled").on(space).linearize(x).derivative
        gradient = fem.L2(space).riesz(derivative)
        times = np.linspace(0.01, 1.99, 30)
        found.append(np.array([at(space, gradient, t) for t in times]))
        raw.append(np.array([at(space, derivative, t) for t in times]))
    assert np.abs(found[0] - found[1]).max() < 0.2 * np.abs(found[0]).max()
    assert np.abs(raw[0] - raw[1]).max() > 2.0 * np.abs(raw[0]).max()


@pytest.mark.parametrize("degree", [0, 1])
def test_the_coarse_gradient_in_L2_is_the_best_approximation_of_the_fine_one(degree, vector_problem):
    """``M_H^-1 P^T M_h g_h = g_H``; so that the dual norm of the derivative does not fall by refinement."""
    space = halved(fem.FlowSpace(2, 2, 2, MESH, degree=degree), 2)
    J = Sum(vector_problem.on(space), fem.Tikhonov(space, fem.L2, 1.0))
    fine, transfer = fem.bisect(space, [0, 1])
    x = scattered(space)
    a = J.linearize(x)
    b = J.on(space=fine, transfer=transfer).linearize(transfer(x))
    gradient = fem.L2(fine).riesz(b.derivative)
    coarse = Transfer(transfer.matrix, np.zeros(fine.dim)).project(gradient, fem.L2(fine))
    assert coarse == pytest.approx(fem.L2(space).riesz(a.derivative), rel=1e-9, abs=1e-10)
    assert fem.L2(fine).dual_norm(b.derivative) >= fem.L2(space).dual_norm(a.derivative) * (1.0 - 1e-12)


@pytest.mark.parametrize("field", [fem.SingleLayer("relu"), fem.Hamiltonian()])
def test_steps_of_fields_that_are_stuck_at_zero_can_be_removed_but_not_inserted(field):
    space = fem.FlowSpace.uniform(2, 4, 1, 3, 6, field=field)
    coarse, transfer = fem.remove_step(space, 1)
    check_refinement(coarse, space, transfer, scattered(coarse), rtol=1e-11)
    with pytest.raises(ValueError, match="^field: "):
        fem.insert_layer(space, 1)


def test_a_cell_that_is_too_short_is_not_bisected():
    space = fem.FlowSpace(2, 2, 1, (0.0, 1.0 - 1e-11, 1.0))
    with pytest.raises(ValueError, match="^cells: got cell 1, from .* to 1: too short to be bisected"):
        fem.bisect(space, [1])
    with pytest.raises(ValueError, match="^cells: got None, expected integers from 0 to 1"):
        fem.bisect(space, 1)


@pytest.mark.parametrize("field", [fem.Hamiltonian(), fem.SingleLayer("sigmoid")])
def test_a_step_of_length_zero_can_be_inserted_for_any_field(field):
    space = fem.FlowSpace.uniform(2, 4, 1, 2, 4, field=fem.TimeSteps(field))
    fine, transfer = fem.insert_layer(space, 1)
    x = scattered(space)
    check_refinement(space, fine, transfer, x, rtol=1e-11)
    assert transfer(x)[fine.at(1)][-1] == 0.0
