"""Flows: what the schemes compute and how fast they converge, their derivatives, fields, and the time they take."""

import itertools
import os
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import scipy.sparse as sp
import test_jets
import test_kernels
import torch
from conftest import DEVICE
from hypothesis import given, settings, strategies as st
from scipy.integrate import solve_ivp
from test_kernels import check_parity

import dnnfem as fem
import dnnfem.archive
from dnnfem import kernels
from dnnfem.functionals import Sum, trajectories as states_of_flows
from dnnfem.functionals.trajectories import trajectories
from dnnfem.kernels.reference import evaluate
from dnnfem.spaces import space_from_attributes
from dnnfem.spaces.fields import AffineMap, register_field
from dnnfem.spaces.schemes import SCHEMES
from dnnfem.spaces.unrolling import unrolled
from dnnfem.testing import check_functional, check_space, convergence_order, taylor_test

FIELDS = {
    "single": fem.SingleLayer(),
    "double": fem.DoubleLayer(3, "sin"),
    "antisymmetric": fem.Antisymmetric(0.25),
    "hamiltonian": fem.Hamiltonian(),
    "time steps": fem.TimeSteps(fem.SingleLayer("sigmoid")),
}
ORDERS = {"euler": 1, "heun": 2, "rk4": 4}
MESH = (0.0, 0.3, 1.1, 1.5)
POINTS = np.random.default_rng(8).uniform(-1.0, 1.0, (5, 2))


def scattered(space, seed=0):
    """Return coefficients without any structure."""
    return np.random.default_rng(seed).uniform(-1.0, 1.0, space.dim)


def outputs(space, x, points=POINTS):
    """Return the values of the reference function, shape (m, outputs)."""
    return evaluate(space.program, x, points)[frozenset()][0]


def rate(name, z, theta):
    """Return the field as it is written down, for states z (m, 4) and parameters at one time."""
    square = np.resize(theta[:16], (4, 4))
    if name == "single":
        return np.tanh(z @ square.T + theta[16:])
    if name == "double":
        inner, outer = theta[:12].reshape(3, 4), theta[15:27].reshape(4, 3)
        return np.sin(z @ inner.T + theta[12:15]) @ outer.T + theta[27:]
    if name == "antisymmetric":
        a = np.zeros((4, 4))
        a[0, 1], a[0, 2], a[0, 3], a[1, 2], a[1, 3], a[2, 3] = theta[:6]
        return np.tanh(z @ (a - a.T - 0.25 * np.eye(4)).T + theta[6:])
    if name == "hamiltonian":
        symplectic = np.block([[np.zeros((2, 2)), np.eye(2)], [-np.eye(2), np.zeros((2, 2))]])
        return np.tanh(z @ square.T + theta[16:]) @ square @ symplectic.T
    assert name == "time steps"
    return theta[-1] / (1.0 + np.exp(-(z @ square.T + theta[16:20])))


def theta_at(space, x, cell, t):
    """Return theta at a time in a cell of the weight mesh."""
    theta, (begin, end) = space.theta(x), space.weight_mesh[cell : cell + 2]
    if space.degree == 0:
        return theta[cell]
    return ((end - t) * theta[cell] + (t - begin) * theta[cell + 1]) / (end - begin)


def exact(name, space, x, points=POINTS):
    """Solve the differential equation cell by cell with tight tolerances; return the values of the network."""
    z = np.column_stack([points, np.zeros((len(points), space.width - points.shape[1]))])
    for cell, (begin, end) in enumerate(itertools.pairwise(space.weight_mesh)):

        def slope(t, y, cell=cell):
            return rate(name, y.reshape(-1, space.width), theta_at(space, x, cell, t)).ravel()

        found = solve_ivp(slope, (begin, end), z.ravel(), "DOP853", rtol=1e-13, atol=1e-13)
        z = found.y[:, -1].reshape(z.shape)
    decoder = x[space.theta_stop : -space.outputs].reshape(space.outputs, space.width)
    return z @ decoder.T + x[-space.outputs :]


@dataclass(frozen=True)
class Circulant:
    """``tanh(C z)`` with ``C_ij = theta_{(i - j) mod width}``: a field of one's own, without biases."""

    gain: float = 1.0

    def maps(self, width):
        return (AffineMap(width, width, "tanh", bias=False),)

    def embedding(self, width):
        row, column = np.divmod(np.arange(width * width), width)
        matrix = np.zeros((width * width, width))
        matrix[np.arange(width * width), (row - column) % width] = self.gain
        return sp.csr_array(matrix), np.zeros(width * width)

    def initial(self, width, random):
        return random.standard_normal(width)

    def attributes(self):
        return {"field": "circulant", "gain": self.gain}


register_field("circulant", Circulant)


@st.composite
def meshes(draw, most=4):
    """Draw nodes of an interval from 0 on, with cells of very different lengths."""
    lengths = draw(st.lists(st.floats(0.01, 2.0), min_size=1, max_size=most))
    return (0.0, *np.cumsum(lengths).tolist())


@st.composite
def refined(draw, mesh):
    """Draw a refinement of a mesh."""
    inner = st.lists(st.floats(0.05, 0.95), max_size=2, unique_by=lambda part: round(20.0 * part))
    nodes = [mesh[0]]
    for begin, end in itertools.pairwise(mesh):
        nodes += [begin + part * (end - begin) for part in sorted(draw(inner))]
        nodes.append(end)
    return tuple(nodes)


@st.composite
def flows(draw, width=None):
    """Draw any flow, perhaps of a given width."""
    inputs, count = draw(st.integers(1, 3)), width or draw(st.sampled_from([2, 4]))
    encoders = ["affine", np.random.default_rng(inputs).standard_normal((count, inputs + draw(st.integers(0, 1))))]
    if count >= inputs:
        encoders.append("padding")
    mesh = draw(meshes())
    return fem.FlowSpace(
        inputs,
        count,
        draw(st.integers(1, 2)),
        mesh,
        draw(refined(mesh)),
        draw(st.integers(0, 1)),
        draw(st.sampled_from(list(SCHEMES))),
        draw(st.sampled_from([*FIELDS.values(), Circulant(0.5), fem.TimeSteps(Circulant())])),
        encoders[draw(st.integers(0, len(encoders) - 1))],
    )


# ---- the space


@given(flows(), st.integers(0, 2**63))
def test_every_flow_is_what_the_library_relies_on(space, seed):
    check_space(space, seed)
    assert hash(space) == hash(space_from_attributes(space.attributes()))


@given(flows(), st.integers(0, 1000))
def test_coefficients_are_stored_in_the_order_of_time(space, seed):
    x = scattered(space, seed)
    places = [space.at(k) for k in range(space.cells + space.degree)]
    everything = [np.arange(space.theta_start), *places, np.arange(space.theta_stop, space.dim)]
    assert np.array_equal(np.concatenate(everything), np.arange(space.dim))
    assert np.array_equal(space.theta(x), np.stack([x[place] for place in places]))
    space.theta(x)[:] = 7.0
    assert (x[np.concatenate(places)] == 7.0).all()
    before = outputs(space, scattered(space, seed), np.zeros((1, space.inputs)))
    for k, columns in enumerate(space.condensable):
        moved = scattered(space, seed)
        moved[columns[-1]] += 1.0
        assert outputs(space, moved, np.zeros((1, space.inputs))) - before == pytest.approx(
            np.eye(space.outputs)[k][None], abs=1e-12
        )


def test_a_residual_network_is_the_one_written_down_layer_by_layer():
    space = fem.FlowSpace.residual_network(2, 1, 4, 3, "softplus")
    x = scattered(space)
    z = np.column_stack([POINTS, np.zeros(5)])
    for weights in x[:48].reshape(4, 12):
        z = z + np.log1p(np.exp(z @ weights[:9].reshape(3, 3).T + weights[9:]))
    assert space.dim == 52 and space.steps == space.cells == 4 and space.end == 4.0
    assert outputs(space, x)[:, 0] == pytest.approx(z @ x[48:51] + x[51], rel=1e-13)


@pytest.mark.parametrize("bias", [False, True])
def test_encoders_are_affine_maps_of_the_inputs(bias):
    matrix = np.random.default_rng(0).standard_normal((4, 3))
    fixed = fem.FlowSpace.uniform(2, 4, 1, 2, 2, encoder=matrix if bias else matrix[:, :2])
    trained, padded = replace(fixed, encoder="affine"), replace(fixed, encoder="padding")
    shift = matrix[:, 2] if bias else np.zeros(4)
    x = scattered(fixed)
    y = np.concatenate([matrix[:, :2].ravel(), shift, x])
    assert trained.dim == fixed.dim + 12 and padded.dim == fixed.dim
    assert outputs(trained, y) == pytest.approx(outputs(fixed, x), rel=1e-14)
    for space, point in ((fixed, x), (trained, y)):
        assert trajectories(space, point, POINTS)[0] == pytest.approx(POINTS @ matrix[:, :2].T + shift, rel=1e-14)
    assert np.array_equal(trajectories(padded, x, POINTS)[0], np.column_stack([POINTS, np.zeros((5, 2))]))
    with pytest.raises(ValueError, match="^encoder: got shape"):
        replace(fixed, encoder=matrix.T)


def test_starting_points_are_the_same_at_all_times_and_depend_on_the_seed():
    space = fem.FlowSpace.uniform(3, 50, 20, 4, encoder="affine", field=fem.TimeSteps(fem.SingleLayer()))
    x = space.initial(3)
    assert np.array_equal(x, space.initial(3)) and not np.isclose(x, space.initial(4))[:100].any()
    assert np.array_equal(space.theta(x), np.tile(space.theta(x)[0], (4, 1)))
    assert (space.theta(x)[:, -1] == 1.0).all()
    sizes = (x[:150], 1 / 3), (space.theta(x)[0, :2500], 1 / 50), (x[space.theta_stop : -20], 1 / 50)
    for weights, variance in sizes:
        assert np.mean(weights**2) == pytest.approx(variance, rel=0.25)
    assert not x[150:200].any() and not x[-20:].any()


def test_flows_are_values_and_say_what_they_are():
    space = fem.FlowSpace(2, np.int64(4), 1, np.array([0.0, 1.0, 3.0]), degree=np.int64(1), scheme="heun")
    same = fem.FlowSpace(2, 4, 1, [0, 1, 3], (0, 1, 3), 1, "heun", fem.SingleLayer("tanh"))
    assert space == same and hash(space) == hash(same)
    assert space != replace(space, weight_mesh=(0, 3)) and space != replace(space, degree=0)
    assert str(space) == "2-4-1 single flow, 2 cells (linear), 2 heun steps"
    assert str(fem.FlowSpace.uniform(1, 2, 1, 1, 8)) == "1-2-1 single flow, 1 cell (constant), 8 rk4 steps"
    assert fem.FlowSpace(2, 4, 1, (0, 2), None).state_mesh == fem.FlowSpace(2, 4, 1, (0, 2), []).state_mesh == (0, 2)
    assert fem.FlowSpace.uniform(2, 4, 1, 3, 6, T=6).weight_mesh == (0.0, 2.0, 4.0, 6.0)


def test_the_activation_of_a_flow_is_the_one_that_decides_on_its_smoothness():
    for field, name in (
        (fem.SingleLayer("sin"), "sin"),
        (fem.DoubleLayer(2, "relu"), "relu"),
        (fem.TimeSteps(fem.Hamiltonian("gelu")), "gelu"),
    ):
        assert fem.FlowSpace.uniform(2, 2, 1, field=field).activation == name
    rough = fem.FlowSpace.uniform(1, 2, 1, field=fem.SingleLayer("relu"))
    with pytest.raises(ValueError, match="^space: got .*expected a smooth activation"):
        fem.Collocation(lambda p, u: u.laplacian - 1.0, fem.Box([0.0], [1.0]), dirichlet=0.0).on(rough)


@given(meshes(), st.data())
def test_nodes_that_differ_by_rounding_are_the_same(mesh, data):
    states = data.draw(refined(mesh))
    random = np.random.default_rng(0)
    moved = np.array(states) * (1.0 + 1e-15 * random.integers(-2, 3, len(states)))
    space = fem.FlowSpace(1, 2, 1, mesh, moved)
    assert set(mesh) <= set(space.state_mesh) and space.steps == len(states) - 1
    assert space.parents.tolist() == [
        max(k for k, node in enumerate(mesh) if node <= 0.5 * (a + b)) for a, b in itertools.pairwise(states)
    ]


@given(meshes(), st.integers(0, 3))
def test_a_state_mesh_without_a_node_of_the_weight_mesh_is_refused(mesh, number):
    if len(mesh) == 2:
        mesh = (*mesh, mesh[-1] + 1.0)
    missing = 1 + number % (len(mesh) - 2)
    states = np.delete(mesh, missing)
    for wrong in (states, np.insert(states, missing, mesh[missing] + 1e-4 * (mesh[missing + 1] - mesh[missing]))):
        with pytest.raises(ValueError, match="^state_mesh: got .*expected a refinement of it"):
            fem.FlowSpace(1, 2, 1, mesh, wrong)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": 0}, "inputs: got 0, expected a positive integer"),
        ({"width": 2.0}, "width: got 2.0, expected a positive integer"),
        ({"outputs": True}, "outputs: got True, expected a positive integer"),
        ({"width": 1}, "width: got 1, expected at least the 2 inputs to be padded"),
        ({"weight_mesh": (0.0,)}, "weight_mesh: got (0.0,), expected at least two finite numbers, from 0 to T"),
        ({"weight_mesh": None}, "weight_mesh: got None, expected at least two finite numbers, from 0 to T"),
        ({"weight_mesh": (0.0, np.inf)}, "weight_mesh: got (0.0, inf), expected at least two finite numbers"),
        ({"weight_mesh": ("a", "b")}, "weight_mesh: got ('a', 'b'), expected at least two finite numbers"),
        ({"weight_mesh": (0.1, 1.0)}, "weight_mesh: got a mesh that begins at 0.1, expected 0"),
        ({"weight_mesh": (0.0, -1.0)}, "weight_mesh: got 0 before -1 (number 1), expected increasing nodes"),
        ({"weight_mesh": (0.0, 0.5, 0.5, 1.0)}, "weight_mesh: got 0.5 before 0.5 (number 2), expected increasing"),
        ({"weight_mesh": (0.0, 0.7, 0.5, 1.0)}, "weight_mesh: got 0.7 before 0.5 (number 2), expected increasing"),
        ({"state_mesh": (0.0, 1.0, 0.5, 2.0)}, "state_mesh: got 1 before 0.5 (number 2), expected increasing nodes"),
        ({"state_mesh": (0.0, 2.0)}, "state_mesh: got 1 cells without all nodes of the weight mesh 0, 1, 2"),
        ({"state_mesh": (0.0, 1.0)}, "state_mesh: got one that ends at 1, expected 2"),
        ({"state_mesh": (0.0, 1.0, 2.0, 3.0)}, "state_mesh: got one that ends at 3, expected 2"),
        ({"state_mesh": 2.0}, "state_mesh: got 2.0, expected at least two finite numbers"),
        ({"degree": 2}, "degree: got 2, expected 0 (piecewise constant) or 1 (piecewise linear)"),
        ({"degree": 1.0}, "degree: got 1.0, expected 0"),
        ({"degree": False}, "degree: got False, expected 0"),
        ({"scheme": "midpoint"}, "scheme: got 'midpoint', expected one of euler, heun, rk4"),
        ({"scheme": ["rk4"]}, "scheme: got ['rk4'], expected one of euler, heun, rk4"),
        ({"field": "single"}, "field: got 'single', expected a field, e.g. SingleLayer('tanh')"),
        ({"field": fem.SingleLayer}, "field: got <class"),
        ({"field": fem.Hamiltonian(), "width": 3}, "width: got 3, expected an even number for a Hamiltonian field"),
        ({"encoder": "zeros"}, "encoder: got 'zeros', expected padding or affine, or an array"),
        ({"encoder": np.ones((2, 2))}, "encoder: got shape (2, 2), expected finite numbers of shape (4, 2), or with"),
        ({"encoder": np.ones((4, 4))}, "encoder: got shape (4, 4), expected finite numbers of shape (4, 2), or with"),
        ({"encoder": np.full((4, 2), np.nan)}, "encoder: got shape (4, 2), expected finite numbers"),
        ({"encoder": [[1.0, 2.0], [3.0]]}, "encoder: got [[1.0, 2.0], [3.0]], expected padding or affine, or an array"),
    ],
)
def test_flows_refuse_what_makes_no_sense(change, words):
    with pytest.raises(ValueError) as caught:
        fem.FlowSpace(**{"inputs": 2, "width": 4, "outputs": 1, "weight_mesh": (0.0, 1.0, 2.0), **change})
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fem.FlowSpace.uniform(2, 2, 1, 2, T=0.0), "T: got 0.0, expected a positive number"),
        (lambda: fem.FlowSpace.uniform(2, 2, 1, 2, T=-1), "T: got -1, expected a positive number"),
        (lambda: fem.FlowSpace.uniform(2, 2, 1, 2, T=np.nan), "T: got nan, expected a positive number"),
        (lambda: fem.FlowSpace.uniform(2, 2, 1, 2, T="1"), "T: got '1', expected a positive number"),
        (lambda: fem.FlowSpace.uniform(2, 2, 1, 0), "cells: got 0, expected a positive integer"),
        (lambda: fem.FlowSpace.uniform(2, 2, 1, 1.5), "cells: got 1.5, expected a positive integer"),
        (lambda: fem.FlowSpace.uniform(2, 2, 1, 2, 0), "steps: got 0, expected a positive integer"),
        (lambda: fem.FlowSpace.uniform(2, 2, 1, 2, 3), "state_mesh: got 3 cells without all nodes of the weight mesh"),
        (lambda: fem.FlowSpace.residual_network(2, 1, 0, 2), "depth: got 0, expected a positive integer"),
        (lambda: fem.SingleLayer("step"), "activation: got 'step', expected one of tanh, sin"),
        (lambda: fem.DoubleLayer(3, "identity"), "activation: got 'identity', expected one of tanh"),
        (lambda: fem.DoubleLayer(0), "inner: got 0, expected a positive integer"),
        (lambda: fem.DoubleLayer(2.0), "inner: got 2.0, expected a positive integer"),
        (lambda: fem.Antisymmetric(-0.1), "damping: got -0.1, expected a finite number that is not negative"),
        (lambda: fem.Antisymmetric(np.inf), "damping: got inf, expected a finite number that is not negative"),
        (lambda: fem.Antisymmetric("sin"), "damping: got 'sin', expected a finite number that is not negative"),
        (lambda: fem.Antisymmetric(0.0, "step"), "activation: got 'step', expected one of tanh"),
        (lambda: fem.Hamiltonian("identity"), "activation: got 'identity', expected one of tanh"),
        (lambda: fem.TimeSteps("single"), "field: got 'single', expected a field"),
        (lambda: fem.TimeSteps(fem.TimeSteps(fem.SingleLayer())), "field: got TimeSteps(field=SingleLayer(activation="),
    ],
)
def test_what_flows_are_made_of_is_checked_where_it_is_made(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(words)


def test_fields_that_do_not_fit_are_refused_with_both_sizes_named():
    class Narrowing(Circulant):
        def maps(self, width):
            return (AffineMap(width - 1, width, "tanh", bias=False),)

    class Broken(Circulant):
        def maps(self, width):
            return AffineMap(3, width, "tanh"), AffineMap(width, 2, "tanh")

    class Short(Circulant):
        def embedding(self, width):
            matrix, offset = super().embedding(width)
            return matrix[1:], offset[1:]

    class Empty(Circulant):
        def maps(self, width):
            return ()

    for field, words in (
        (Narrowing(), "field: .*returns 3 components, expected 4 as it reads"),
        (Broken(), "field: map 1 of .*reads 2 components, expected 3"),
        (Short(), r"field: the embedding of .*has shapes \(15, 4\) and \(15,\), expected 16 weights"),
        (Empty(), "field: "),
    ):
        with pytest.raises(ValueError, match=f"^{words}"):
            fem.FlowSpace.uniform(2, 4, 1, field=field)


# ---- fields


@pytest.mark.parametrize("name", FIELDS)
def test_the_rate_of_a_state_is_the_formula_of_its_field(name):
    space = fem.FlowSpace.uniform(2, 4, 1, T=0.5, scheme="euler", field=FIELDS[name])
    for seed in range(3):
        x = scattered(space, seed)
        begin, end = trajectories(space, x, POINTS)
        assert (end - begin) / 0.5 == pytest.approx(rate(name, begin, space.theta(x)[0]), rel=1e-13, abs=1e-14)


@given(st.integers(1, 6), st.floats(0.0, 2.0), st.integers(0, 100))
def test_antisymmetric_matrices_have_imaginary_eigenvalues_but_for_the_damping(width, damping, seed):
    matrix, offset = fem.Antisymmetric(damping).embedding(width)
    theta = np.random.default_rng(seed).standard_normal(matrix.shape[1])
    weights = matrix @ theta + offset
    square = weights[: width**2].reshape(width, width)
    assert square + square.T == pytest.approx(-2.0 * damping * np.eye(width), abs=1e-14)
    assert np.linalg.eigvals(square).real == pytest.approx(np.full(width, -damping), abs=1e-12)
    assert np.array_equal(weights[width**2 :], theta[-width:])
    assert len(theta) == width * (width - 1) // 2 + width


@pytest.mark.parametrize(
    ("activation", "primitive"), [("tanh", lambda y: np.log(np.cosh(y))), ("sin", lambda y: -np.cos(y))]
)
def test_a_hamiltonian_flow_conserves_its_energy_to_the_order_of_the_scheme(activation, primitive):
    steps, drifts = np.array([8, 16, 32, 64]), []
    for count in steps:
        space = fem.FlowSpace.uniform(2, 4, 1, 1, count, T=4.0, field=fem.Hamiltonian(activation))
        theta = space.theta(scattered(space))[0]
        states = trajectories(space, scattered(space), POINTS)
        energy = np.sum(primitive(states @ theta[:16].reshape(4, 4).T + theta[16:]), axis=2)
        assert np.abs(states[-1] - states[0]).max() > 0.5
        drifts.append(np.abs(energy - energy[0]).max())
    assert convergence_order(1.0 / steps, drifts)[-1] > 3.7
    assert drifts[-1] < 1e-5


def test_trainable_steps_of_two_are_twice_the_interval():
    short = fem.FlowSpace(2, 3, 1, MESH, scheme="heun", field=fem.TimeSteps(fem.SingleLayer()))
    long = replace(short, weight_mesh=tuple(2.0 * t for t in MESH), state_mesh=(), field=fem.SingleLayer())
    y = scattered(long)
    x = np.concatenate([np.column_stack([long.theta(y), np.full(3, 2.0)]).ravel(), y[long.theta_stop :]])
    assert outputs(short, x) == pytest.approx(outputs(long, y), rel=1e-13)
    short.theta(x)[1, -1] = 0.0
    states = trajectories(short, x, POINTS)
    assert np.array_equal(states[1], states[2]) and not np.isclose(states[2], states[3]).any()


def test_a_field_of_ones_own_needs_no_more_than_its_maps_and_their_embedding():
    space = fem.FlowSpace(2, 4, 1, MESH, scheme="euler", field=Circulant(0.5))
    check_space(space)
    x, z = scattered(space), np.column_stack([POINTS, np.zeros((5, 2))])
    for theta, h in zip(space.theta(x), np.diff(MESH), strict=True):
        matrix = 0.5 * np.array([[theta[(i - j) % 4] for j in range(4)] for i in range(4)])
        z = z + h * np.tanh(z @ matrix.T)
    assert outputs(space, x)[:, 0] == pytest.approx(z @ x[-5:-1] + x[-1], rel=1e-13)
    assert str(space).startswith("2-4-1 circulant flow")


def test_the_name_of_a_field_is_given_once():
    register_field("circulant", Circulant)
    with pytest.raises(ValueError, match="^name: got 'single', which is that of another field; names so far: single"):
        register_field("single", Circulant)
    attributes = fem.FlowSpace.uniform(2, 2, 1).attributes() | {"field": "spline"}
    with pytest.raises(ValueError, match="^field: got 'spline', expected one of .*circulant.*; see register_field"):
        space_from_attributes(attributes)


# ---- schemes


@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize("name", FIELDS)
def test_a_flow_is_the_solution_of_its_differential_equation(name, degree):
    states = np.concatenate([np.linspace(a, b, 65)[:-1] for a, b in itertools.pairwise(MESH)])
    space = fem.FlowSpace(2, 4, 2, MESH, np.append(states, MESH[-1]), degree, field=FIELDS[name])
    x = scattered(space)
    assert outputs(space, x) == pytest.approx(exact(name, space, x), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize("scheme", ORDERS)
def test_schemes_have_their_order_in_the_state_mesh(scheme, degree):
    space = fem.FlowSpace(2, 4, 2, MESH, (0.0, 0.3, 0.4, 1.1, 1.5), degree, scheme, fem.DoubleLayer(3, "sin"))
    x = 1.5 * scattered(space)
    truth, errors = exact("double", space, x), []
    for _ in range(6):
        space, _ = fem.refine_states(space, range(space.steps))
        errors.append(np.abs(outputs(space, x) - truth).max())
    found = convergence_order(0.5 ** np.arange(6), errors)[-2:]
    assert found == pytest.approx(np.full(2, ORDERS[scheme]), abs=0.15)
    assert SCHEMES[scheme].order == ORDERS[scheme]


def test_euler_reads_linear_weights_at_midpoints_and_no_stage_reads_those_of_another_cell():
    space = fem.FlowSpace(1, 1, 1, (0.0, 1.0, 3.0), degree=1, scheme="euler")
    x = np.array([0.2, 0.1, 0.4, -0.3, 0.8, 0.5, 2.0, -1.0])
    z = 0.7 + np.tanh(0.3 * 0.7 - 0.1)
    z = z + 2.0 * np.tanh(0.6 * z + 0.1)
    assert outputs(space, x, np.array([[0.7]]))[0, 0] == pytest.approx(2.0 * z - 1.0, rel=1e-15)
    for scheme in SCHEMES:
        jump = fem.FlowSpace(1, 1, 1, (0.0, 1.0, 3.0), scheme=scheme)
        y = np.array([0.2, 0.1, 1e3, -1e3, 1.0, 0.0])
        still = y.copy()
        still[2:4] = 0.0
        near = trajectories(jump, y, np.array([[0.7]]))[1], trajectories(jump, still, np.array([[0.7]]))[1]
        assert np.array_equal(*near)


@pytest.mark.parametrize("degree", [0, 1])
def test_weights_that_are_used_again_are_placed_once(degree):
    space = fem.FlowSpace.uniform(2, 2, 1, 3, 12, degree=degree)
    # Piecewise constant: one block per cell.  Linear: all nodes and midpoints of steps.
    assert len(space.program.blocks) == 2 + (25 if degree else 3)
    assert len(space.program.stages) == 2 + 4 * 12


# ---- derivatives


def adjoint(space, x, v, points, targets, weights):
    """Return value, derivative and Hessian product of Euler steps of single layers with tanh, as the theory says it."""
    n, m = space.width, len(points)
    h, cells = np.diff(space.state_mesh), [max(k for k, s in enumerate(MESH) if s <= t) for t in space.state_mesh[:-1]]

    def split(y):
        theta = space.theta(y)
        decoder = y[space.theta_stop : -space.outputs].reshape(space.outputs, n)
        return theta[:, : n * n].reshape(-1, n, n), theta[:, n * n :], decoder, y[-space.outputs :]

    (W, b, D, d), (V, c, dD, dd) = split(x), split(v)
    z, dz = [np.column_stack([points, np.zeros((m, n - points.shape[1]))])], [np.zeros((m, n))]
    slopes, bends, moves = [], [], []
    for k, cell in enumerate(cells):
        value = np.tanh(z[k] @ W[cell].T + b[cell])
        slopes.append(1.0 - value**2)
        bends.append(-2.0 * value * slopes[k])
        moves.append(dz[k] @ W[cell].T + z[k] @ V[cell].T + c[cell])
        z.append(z[k] + h[k] * value)
        dz.append(dz[k] + h[k] * slopes[k] * moves[k])
    residual = z[-1] @ D.T + d - targets
    J = 0.5 * np.sum(weights[:, None] * residual**2)
    dual = weights[:, None] * residual
    bent = weights[:, None] * (dz[-1] @ D.T + z[-1] @ dD.T + dd)
    first, second = np.zeros(space.dim), np.zeros(space.dim)
    for result, parts in (
        (first, (dual.T @ z[-1], dual.sum(axis=0))),
        (second, (bent.T @ z[-1] + dual.T @ dz[-1], bent.sum(axis=0))),
    ):
        result[space.theta_stop :] = np.concatenate([part.ravel() for part in parts])
    lam, mu = dual @ D, bent @ D + dual @ dD
    for k, cell in reversed(list(enumerate(cells))):
        p = h[k] * slopes[k] * lam
        q = h[k] * (slopes[k] * mu + bends[k] * moves[k] * lam)
        space.theta(first)[cell] += np.append(p.T @ z[k], p.sum(axis=0))
        space.theta(second)[cell] += np.append(q.T @ z[k] + p.T @ dz[k], q.sum(axis=0))
        lam, mu = lam + p @ W[cell], mu + q @ W[cell] + p @ V[cell]
    return J, first, second


def test_derivative_and_hessian_are_those_of_the_second_order_adjoint(vector_problem, backend):
    space = fem.FlowSpace(2, 3, 2, MESH, (0.0, 0.3, 0.5, 1.1, 1.2, 1.5), scheme="euler")
    x, v = scattered(space), scattered(space, 1)
    problem = replace(vector_problem, backend=backend)
    ansatz, quadrature = problem.ansatz, problem.quadrature
    targets = (problem.targets - ansatz.output_shift) / ansatz.output_scale
    J, first, second = adjoint(space, x, v, ansatz.reference(problem.inputs), targets, quadrature.weights)
    here = problem.on(space).linearize(x)
    assert here.value == pytest.approx(J, rel=1e-14)
    assert here.derivative == pytest.approx(first, rel=1e-12, abs=1e-14)
    assert here.hessian(v) == pytest.approx(second, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize("scheme", ORDERS)
def test_functionals_of_flows_have_the_derivatives_that_they_say(scheme, degree, vector_problem):
    space = fem.FlowSpace(2, 2, 2, MESH, (0.0, 0.1, 0.3, 1.1, 1.5), degree, scheme, encoder="affine")
    x = scattered(space)
    penalties = [fem.Tikhonov(space, norm, 0.1, scattered(space, 1)) for norm in (fem.L2, fem.H1)[: 1 + degree]]
    check_functional(Sum(vector_problem.on(space), *penalties), x)


@pytest.mark.parametrize("name", FIELDS)
def test_taylor_remainders_are_of_second_and_third_order_with_every_field(name, vector_problem):
    functional = vector_problem.on(fem.FlowSpace(2, 4, 2, MESH, field=FIELDS[name]))
    x = scattered(functional.space)
    assert taylor_test(functional, x, order=2) == pytest.approx(2.0, abs=0.3)
    assert taylor_test(functional, x, order=3) == pytest.approx(3.0, abs=0.3)


PROGRAMS = {
    "euler, affine encoder": fem.FlowSpace(2, 3, 2, MESH, scheme="euler", encoder="affine"),
    "heun, linear": fem.FlowSpace(2, 4, 2, MESH, scheme="heun", degree=1, field=fem.Hamiltonian("sin")),
    "rk4, two maps": fem.FlowSpace(2, 4, 2, (0.0, 1.0), (0.0, 0.4, 1.0), field=fem.DoubleLayer(3)),
    "rk4, linear, trainable steps": fem.FlowSpace(
        2, 2, 2, (0.0, 1.0), (0.0, 0.4, 1.0), 1, field=fem.TimeSteps(fem.Antisymmetric(0.1)), encoder=np.ones((2, 3))
    ),
}


def on_device(oracle):
    """Place what a reference evaluator has on the device backend."""
    return kernels.load("device").place(oracle.program, oracle.quadrature, oracle.ansatz, oracle.law, device=DEVICE)


@pytest.mark.parametrize("name", PROGRAMS)
def test_backends_agree_on_values(name):
    oracle, compiled, x, v = test_kernels.problem(PROGRAMS[name].program, m=70)
    for fast in (compiled, on_device(oracle)):
        check_parity(oracle, fast, x, v)


@pytest.mark.parametrize("jet", ["Laplacian", "second derivatives"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_backends_agree_on_jets(name, jet):
    check_parity(*test_jets.problem(PROGRAMS[name].program, test_jets.COMPONENTS[jet], m=20))


def poisson(p, u):
    """Return the residual of Poisson's equation with a right-hand side that is not constant."""
    return u.laplacian + 1.0 + p.x[0] * torch.exp(p.x[1])


def test_backends_agree_on_a_differential_equation():
    space = fem.FlowSpace(2, 3, 1, (0.0, 0.4, 1.0), degree=1, scheme="heun", encoder="affine")
    few, random = fem.BoxMesh.uniform([0.0, 0.0], [1.0, 2.0], 2, 2).quadrature(), np.random.default_rng(0)
    x, v = random.standard_normal(space.dim), random.standard_normal((space.dim, 2))
    found = []
    for where in ({"backend": "reference"}, {}, {"device": DEVICE}):
        domain = fem.Box([0.0, 0.0], [1.0, 2.0])
        problem = fem.Collocation(poisson, domain, dirichlet=0.0, quadrature=few, **where)
        here, u = problem.on(space).linearize(x), problem.solution(space, x)
        system = here.system()
        found.append(
            (
                here.value,
                here.derivative,
                here.hessian(v),
                here.curvature(v),
                here.gram(),
                test_kernels.on_host(here.residual()),
                system.derivative,
                system.curvature(v),
                u(POINTS),
                u.gradient(POINTS),
            )
        )
        if "backend" in where:
            check_functional(problem.on(space), x)
    for fast in found[1:]:
        for one, other in zip(fast, found[0], strict=True):
            assert one == pytest.approx(other, rel=1e-11, abs=1e-12 * np.abs(other).max())


def test_gradients_of_solutions_are_those_of_automatic_differentiation(scalar_problem):
    space = fem.FlowSpace(2, 4, 1, MESH, degree=1, field=fem.Hamiltonian())
    u = scalar_problem.solution(space, scattered(space))
    points = torch.tensor(POINTS, requires_grad=True)
    values = u.to_torch()(points)
    (gradient,) = torch.autograd.grad(values.sum(), points)
    assert u(POINTS) == pytest.approx(values.detach().numpy(), rel=1e-13)
    assert u.gradient(POINTS)[:, 0] == pytest.approx(gradient.numpy(), rel=1e-12, abs=1e-13)


def test_programs_are_unrolled_in_a_time_proportional_to_their_length():
    def calls(steps):
        count = 0

        def profile(frame, event, argument):
            nonlocal count
            count += 1

        space = fem.FlowSpace.uniform(1, 1, 1, 2, steps, scheme="euler", degree=1)
        sys.setprofile(profile)
        try:
            code = unrolled(space)
        finally:
            sys.setprofile(None)
        assert len(code.states) == steps + 1 and len(code.program.blocks) == steps + 2
        return count

    assert calls(512) < 2.1 * calls(256)


# ---- trajectories and solutions


@pytest.mark.parametrize("scheme", ORDERS)
@given(space=flows())
@settings(max_examples=10)
def test_trajectories_lead_from_the_inputs_to_the_solution(scheme, space):
    space = replace(space, scheme=scheme)
    random = np.random.default_rng(0)
    inputs = random.uniform(3.0, 7.0, (6, space.inputs))
    problem = fem.Regression(inputs, random.uniform(-9.0, 5.0, (6, space.outputs)), backend="reference")
    x = 0.5 * scattered(space)
    u = problem.solution(space, x)
    states = u.trajectories(inputs)
    assert states.shape == (space.steps + 1, 6, space.width)
    reference = problem.ansatz.reference(inputs)
    if space.encoder == "padding":
        assert states[0] == pytest.approx(np.pad(reference, ((0, 0), (0, space.width - space.inputs))), abs=1e-15)
    weights = x[space.condensable]
    decoded = states[-1] @ weights[:, :-1].T + weights[:, -1]
    assert u(inputs) == pytest.approx(decoded * problem.ansatz.output_scale + problem.ansatz.output_shift, rel=1e-11)


def test_states_do_not_depend_on_what_comes_later():
    space = fem.FlowSpace(2, 4, 1, MESH, (0.0, 0.3, 0.7, 1.1, 1.5))
    x = scattered(space)
    states = trajectories(space, x, POINTS)
    shorter = replace(space, weight_mesh=MESH[:3], state_mesh=(0.0, 0.3, 0.7, 1.1))
    y = np.concatenate([space.theta(x)[:2].ravel(), x[space.theta_stop :]])
    assert np.array_equal(trajectories(shorter, y, POINTS), states[:4])


def test_a_flow_that_blows_up_names_the_step(scalar_problem):
    # One neuron: z' = 1e200 z, so that the state is of size 1e200 after a step, and infinite after two.
    space = fem.FlowSpace(
        2, 2, 1, (0.0, 0.5, 2.0), (0.0, 0.5, 1.5, 2.0), scheme="euler", field=fem.DoubleLayer(1, "relu")
    )
    x = np.zeros(space.dim)
    space.theta(x)[:, 0] = 1.0
    space.theta(x)[:, 2] = 0.5
    space.theta(x)[:, 3] = 1e200
    x[space.theta_stop] = 1.0
    u = replace(scalar_problem, backend="compiled").solution(space, x)
    words = "^x: the flow is not finite from step 2 of 3 on, t = 1.5; expected smaller weights, or a finer state mesh"
    for look in (u, u.trajectories, u.gradient):
        with pytest.raises(ValueError, match=words):
            look(POINTS)


@pytest.mark.parametrize("solve", [fem.gauss_newton, fem.trust_region, fem.stochastic])
def test_a_solver_names_the_step_at_which_its_start_blows_up(solve, scalar_problem, monkeypatch):
    space = fem.FlowSpace(2, 2, 1, (0.0, 0.5, 2.0), scheme="euler", field=fem.DoubleLayer(1, "softplus"))
    x = np.zeros(space.dim)
    space.theta(x)[:, 0] = 1.0
    space.theta(x)[:, 3] = 1e200
    J = replace(scalar_problem, backend="compiled").on(space)
    words = "the flow is not finite from step 2 of 2 on, t = 2; expected smaller weights, or a finer state mesh"
    for tile in (states_of_flows.TILE, 7):
        monkeypatch.setattr(states_of_flows, "TILE", tile)
        result = solve(J, x)
        assert result.status is fem.Status.NOT_FINITE and result.remarks == (words,)
        assert str(result).splitlines()[1:] == [words]
    assert states_of_flows.why_not_finite(J, 0.0 * x) == (
        "the network, or what a law makes of it, is not finite; expected smaller weights"
    )


def test_trajectories_are_those_of_a_flow_at_points_that_fit(scalar_problem, space):
    with pytest.raises(ValueError, match="^space: got 2-4-1 tanh, expected a FlowSpace: only a flow has trajectories"):
        scalar_problem.solution(space, space.initial(0)).trajectories(POINTS)
    flow = fem.FlowSpace.uniform(2, 2, 1)
    u = scalar_problem.solution(flow, flow.initial(0))
    for look in (u, u.trajectories):
        with pytest.raises(ValueError, match=r"^points: got shape \(5, 1\), expected \(m, 2\)"):
            look(POINTS[:, :1])
        with pytest.raises(ValueError, match="^points: got NaN"):
            look(np.full((2, 2), np.nan))
    assert u.trajectories(np.empty((0, 2))).shape == (2, 0, 2) and u(np.empty((0, 2))).shape == (0, 1)


# ---- archives


@pytest.fixture
def eager(monkeypatch):
    """Let archives write every snapshot, and let the disk take its time."""
    monkeypatch.setattr(dnnfem.archive, "WRITE_SHARE", 1e12)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Killed(Exception):
    """The run ends here."""


def run(path, problem, kill=None):
    """Solve and bisect on three levels; raise `Killed` before the event number `kill`."""
    events = itertools.count()

    def event():
        if next(events) == kill:
            raise Killed

    start = fem.FlowSpace(2, 4, 1, (0.0, 0.7, 2.0), scheme="heun", degree=1, field=fem.TimeSteps(Circulant()))
    archive = fem.Archive.open(path, problem, start, start.initial(0))

    def observer(snapshot):
        event()
        archive(snapshot)

    while True:
        space, x, state, quadrature, _ = archive.level
        J = problem.on(space, quadrature)
        result = fem.gauss_newton(J, x, 0.0, state=state, observer=observer, max_steps=3)
        estimate = fem.hierarchical(J, result.x)
        event()
        archive.solved(result, estimate)
        if len(archive.levels) == 3:
            return archive
        marked = fem.dorfler(estimate.indicators, 0.5)
        fine, transfer = fem.bisect(space, estimate.cells[marked])
        event()
        archive.refined(marked, fine, transfer)


def test_a_run_with_flows_goes_on_bit_for_bit_where_it_was_killed(scalar_problem, tmp_path, eager):
    whole = run(tmp_path / "whole.h5", scalar_problem)
    for kill in (2, 5, 9):
        path = tmp_path / f"{kill}.h5"
        with pytest.raises(Killed):
            run(path, scalar_problem, kill)
        resumed = run(path, scalar_problem)
        for a, b in zip(resumed.levels, whole.levels, strict=True):
            assert a.space == b.space and np.array_equal(a.x, b.x)
    levels = fem.read(tmp_path / "whole.h5")
    assert [level.space for level in levels] == [level.space for level in whole.levels]
    assert levels[-1].space.field == fem.TimeSteps(Circulant()) and levels[-1].space.cells > 2


@pytest.mark.parametrize(
    "space",
    [
        fem.FlowSpace.uniform(2, 2, 1, 2, 4, field=fem.DoubleLayer(np.int64(3)), encoder=np.arange(6.0).reshape(2, 3)),
        # Too many for an attribute of HDF5.
        fem.FlowSpace.uniform(2, 2, 1, 1, 9000, scheme="euler"),
    ],
    ids=["fixed encoder", "many nodes"],
)
def test_flows_come_back_from_archives(space, scalar_problem, tmp_path):
    problem, x = replace(scalar_problem, backend="compiled"), space.initial(0)
    fem.Archive.open(tmp_path / "run.h5", problem, space, x)
    again = fem.Archive.open(tmp_path / "run.h5", problem, space, x).level
    assert again.space == space and np.array_equal(again.x, x)


def test_a_field_that_could_not_be_read_again_is_refused_before_there_is_a_file(scalar_problem, tmp_path):
    class Unknown(Circulant):
        def attributes(self):
            return {"field": "unknown"}

    space = fem.FlowSpace.uniform(2, 2, 1, field=Unknown())
    with pytest.raises(ValueError, match="^field: got 'unknown', expected one of .*; see register_field"):
        fem.Archive.open(tmp_path / "run.h5", scalar_problem, space, space.initial(0))
    assert not list(tmp_path.iterdir())


# ---- the time that a flow takes


@pytest.mark.parametrize("degree", [0, 1])
def test_the_penalty_of_the_time_is_half_the_square_of_its_distance(degree):
    space = fem.FlowSpace(2, 2, 1, MESH, degree=degree, field=fem.TimeSteps(fem.SingleLayer()))
    x = scattered(space)
    tau = space.theta(x)[:, -1]
    h = np.diff(MESH)
    taken = h @ tau if degree == 0 else np.trapezoid(tau, MESH)
    for time, target in ((None, 1.5), (0.8, 0.8)):
        penalty = fem.TimeHorizon(space, 3.0, time)
        assert penalty.value(x) == pytest.approx(1.5 * (taken - target) ** 2, rel=1e-13)
        check_functional(penalty, x)
    ones = space.initial(0)
    assert fem.TimeHorizon(space, 3.0).value(ones) == pytest.approx(0.0, abs=1e-28)
    columns = np.array([space.at(1)[-1], 0, space.dim - 1])
    whole, part = penalty.linearize(x).system(), penalty.linearize(x).system(columns)
    assert np.array_equal(part.matrix, whole.matrix[:, columns]) and whole.shape == (1, space.dim)
    assert whole.value == pytest.approx(penalty.value(x), rel=1e-14)
    assert whole.derivative == pytest.approx(penalty.linearize(x).derivative, rel=1e-14)
    assert np.array_equal(penalty.condensable, space.condensable)


@pytest.mark.parametrize("degree", [0, 1])
def test_the_penalty_of_the_time_nests_with_the_functional(degree, scalar_problem):
    space = fem.FlowSpace(2, 2, 1, MESH, degree=degree, field=fem.TimeSteps(fem.SingleLayer()))
    space, _ = fem.refine_states(space, range(3))
    x = scattered(space)
    J = Sum(scalar_problem.on(space), fem.TimeHorizon(space, 0.7, 1.2))
    fine, transfer = fem.bisect(space, [0, 2])
    K = J.on(space=fine, transfer=transfer)
    assert K.terms[1].time == 1.2
    assert K.value(transfer(x)) == pytest.approx(J.value(x), rel=1e-13)
    assert transfer.T @ K.linearize(transfer(x)).derivative == pytest.approx(J.linearize(x).derivative, rel=1e-12)
    check_functional(J, x)


def test_a_network_takes_as_much_time_as_it_is_asked_to(scalar_problem):
    space = fem.FlowSpace.uniform(2, 3, 1, 2, 4, field=fem.TimeSteps(fem.SingleLayer()))
    J = Sum(scalar_problem.on(space), fem.TimeHorizon(space, 1e6, 0.25))
    x = fem.trust_region(J, space.initial(0), 1e-3, curvature=True, max_steps=50).x
    assert np.diff(space.weight_mesh) @ space.theta(x)[:, -1] == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            (fem.FlowSpace.uniform(2, 2, 1), 1.0),
            "space: got 2-2-1 single flow.*, expected a FlowSpace with a field Time",
        ),
        ((fem.FeedforwardSpace(2, (2,), 1), 1.0), "space: got 2-2-1 tanh, expected a FlowSpace with a field TimeSteps"),
        ((None, -1.0), "beta: got -1.0, expected a finite number that is not negative"),
        ((None, np.nan), "beta: got nan, expected a finite number that is not negative"),
        ((None, 1.0, 0.0), "time: got 0.0, expected a positive number"),
        ((None, 1.0, np.inf), "time: got inf, expected a positive number"),
    ],
)
def test_the_penalty_of_the_time_needs_trainable_steps_and_a_time(arguments, words):
    space, *rest = arguments
    if space is None:
        space = fem.FlowSpace.uniform(2, 2, 1, field=fem.TimeSteps(fem.SingleLayer()))
    with pytest.raises(ValueError, match=f"^{words}"):
        fem.TimeHorizon(space, *rest)
