"""Spaces of functions that are periodic in some inputs: exactly so, and otherwise networks that read features."""

from itertools import combinations_with_replacement

import h5py
import numpy as np
import pytest
import test_device
import test_jets
import test_kernels
from test_jets import COMPONENTS
from test_kernels import LAWS, check_parity

import dnnfem as fem
from dnnfem import kernels
from dnnfem.archive import read, schema
from dnnfem.functionals import Integral
from dnnfem.kernels.laws import Misfit
from dnnfem.kernels.program import SMOOTH_ACTIVATIONS
from dnnfem.kernels.reference import evaluate
from dnnfem.norms import Frobenius, frobenius, kronecker
from dnnfem.problems.ansatz import AffineAnsatz
from dnnfem.refinement import coarsen, insert_layer, ridge_candidates, widen
from dnnfem.testing import check_functional, check_norm, check_refinement

IN_TIME = fem.FeedforwardSpace(2, (4, 5), 2, periodic=(1,))
DEEP = fem.FeedforwardSpace(2, (3, 3), 2, "gelu", (True, True), (0,))
TORUS = fem.FeedforwardSpace(2, (5,), 2, "softplus", periodic=(0, 1))
SPACES = {"in time": IN_TIME, "residual": DEEP, "torus": TORUS}


def lifted(space, points):
    """Return what the first layer reads, from sines and cosines."""
    periodic = list(space.periodic)
    features = points.copy()
    features[:, periodic] = np.sin(np.pi * points[:, periodic])
    return np.column_stack([features, np.cos(np.pi * points[:, periodic])])


def plain(space):
    """Return the space of the same networks on features."""
    inputs = space.inputs + len(space.periodic)
    return fem.FeedforwardSpace(inputs, space.hidden, space.outputs, space.activation, space.residual)


def functionals(space, count=60, seed=0):
    """Return one functional on a space and on that of the features: the same function of the coefficients."""
    random = np.random.default_rng(seed)
    points, data = random.uniform(-1.0, 1.0, (count, space.inputs)), random.standard_normal((count, space.outputs))
    return [
        Integral(
            s,
            fem.Quadrature.samples(p, data, None),
            AffineAnsatz(np.zeros(s.inputs), np.ones(s.inputs), np.zeros(s.outputs), np.ones(s.outputs)),
            Misfit(),
        )
        for s, p in ((space, points), (plain(space), lifted(space, points)))
    ]


def wave(points):
    """Return a function of period 2."""
    return np.exp(np.sin(np.pi * points[:, 0]))


def circle(hidden, activation="tanh"):
    """Return the regression problem of a wave, and a space for it."""
    points = np.linspace(-1.0, 1.0, 60)[:, None]
    return fem.Regression(points, wave(points)), fem.FeedforwardSpace(1, hidden, 1, activation, periodic=(0,))


# ---- kernels


@pytest.mark.parametrize("backend", ["reference", "compiled", "device"])
@pytest.mark.parametrize("name", SPACES)
def test_values_and_derivatives_to_order_three_have_the_period_two(name, backend):
    space = SPACES[name]
    oracle, *_ = test_kernels.problem(space.program)
    identity = AffineAnsatz(np.zeros(2), np.ones(2), np.zeros(2), np.ones(2))
    evaluator = kernels.load(backend).place(space.program, oracle.quadrature, identity, Misfit())
    x, points = space.initial(0), np.random.default_rng(0).uniform(-1.0, 1.0, (6, 2))
    components = tuple(c for order in range(4) for c in combinations_with_replacement(range(2), order))
    for axis in range(2):
        left, right, beyond = (points.copy() for _ in range(3))
        left[:, axis], right[:, axis] = -1.0, 1.0
        beyond[:, axis] += 2.0
        for a, b in ((left, right), (points, beyond)):
            here, there = (evaluator.jet(x, p, components) for p in (a, b))
            error = np.abs(there - here).max(axis=(1, 2)) / (1.0 + np.abs(here).max(axis=(1, 2)))
            assert (error <= 1e-13).all() if axis in space.periodic else (error[:3] > 1e-2).all()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", SPACES)
def test_backends_agree(name, law):
    check_parity(*test_kernels.problem(SPACES[name].program, law, m=70))
    check_parity(*test_device.problem(SPACES[name].program, law, m=70))


@pytest.mark.parametrize("components", ["value and gradient", "Laplacian", "second derivatives", "third"])
@pytest.mark.parametrize("name", SPACES)
def test_backends_agree_on_jets(name, components):
    check_parity(*test_jets.problem(SPACES[name].program, COMPONENTS[components], m=70))
    check_parity(*test_device.jets(SPACES[name].program, COMPONENTS[components], m=70))


@pytest.mark.parametrize("name", SPACES)
def test_the_features_alone_do_not_depend_on_the_coefficients(name):
    program = SPACES[name].program
    assert program.fixed == set(range(SPACES[name].reads(0) + 1))
    assert program.is_inclusion and not program.is_identity
    assert plain(SPACES[name]).program.fixed == {0} and plain(SPACES[name]).program.is_identity


@pytest.mark.parametrize("name", SPACES)
def test_layers_read_what_the_program_says(name):
    space = SPACES[name]
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (5, 2))
    for layer in range(len(space.hidden) + 1):
        periodic, features = (
            evaluate(s.program.truncated(s.reads(layer)), space.initial(0), p)[frozenset()][0]
            for s, p in ((space, points), (plain(space), lifted(space, points)))
        )
        assert periodic == pytest.approx(features, rel=1e-13, abs=1e-14)
        assert periodic.shape[1] == space.blocks[layer].columns


# ---- functionals, norms and estimators: those of the network on features


@pytest.mark.parametrize("name", SPACES)
def test_functionals_are_those_of_the_network_on_features(name):
    periodic, features = functionals(SPACES[name])
    x = SPACES[name].initial(1)
    here, there = periodic.linearize(x), features.linearize(x)
    assert here.value == pytest.approx(there.value, rel=1e-13)
    assert here.derivative == pytest.approx(there.derivative, rel=1e-11, abs=1e-13)
    for a, b in ((here.gram(), there.gram()), (here.hessian(np.eye(x.size)), there.hessian(np.eye(x.size)))):
        assert a == pytest.approx(b, rel=1e-10, abs=1e-12)
    columns = np.array([5, 0, 9])
    assert here.system(columns).matrix == pytest.approx(there.system(columns).matrix, rel=1e-11, abs=1e-13)
    check_functional(periodic, x)


@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
def test_taylor_orders(activation):
    space = fem.FeedforwardSpace(2, (4, 3), 1, activation, periodic=(0,))
    check_functional(functionals(space)[0], space.initial(2))


@pytest.mark.parametrize("rule", [kronecker, frobenius])
@pytest.mark.parametrize("name", SPACES)
def test_norms_of_layers_are_those_of_the_network_on_features(name, rule):
    x = SPACES[name].initial(1)
    norms = [rule(functional)(functional.space, functional.linearize(x)) for functional in functionals(SPACES[name])]
    check_norm(norms[0])
    v = np.cos(np.arange(x.size))
    assert norms[0].apply(v) == pytest.approx(norms[1].apply(v), rel=1e-10, abs=1e-12)
    assert norms[0].riesz(v) == pytest.approx(norms[1].riesz(v), rel=1e-8)


def test_stochastic_steps_use_the_norm_of_the_layers(monkeypatch):
    functional, _ = functionals(IN_TIME, 400)
    seen = []
    monkeypatch.setattr(Frobenius, "riesz", lambda norm, g: seen.append(norm.space) or 0.1 * g)
    fem.stochastic(functional, IN_TIME.initial(0), max_steps=1)
    assert seen and seen[0] == IN_TIME


@pytest.mark.parametrize("directions", ["sphere", "pairs"])
@pytest.mark.parametrize("name", ["in time", "torus"])
def test_candidates_are_those_of_the_network_on_features(name, directions):
    space = SPACES[name]
    pools = [
        ridge_candidates(f.space, f.quadrature, count=7, directions=directions).draw(lambda p: p, space.initial(0))
        for f in functionals(space)
    ]
    for a, b in zip(*pools, strict=True):
        assert a.layer == b.layer and a.weights == pytest.approx(b.weights, rel=1e-9, abs=1e-12)
        assert a.bias == pytest.approx(b.bias, rel=1e-9, abs=1e-12)
        assert a.weights.shape == (space.blocks[a.layer].columns,)


@pytest.mark.parametrize("name", ["in time", "torus"])
def test_estimates_are_those_of_the_network_on_features(name):
    space, both = SPACES[name], functionals(SPACES[name])
    x = space.initial(3)
    pool = ridge_candidates(space, both[0].quadrature, count=6).draw(lambda p: p, x)
    for estimator in (
        lambda J: fem.insertion_sensitivity(J, x, pool),
        lambda J: fem.insertion_sensitivity(J, x),
        lambda J: fem.removal(J, x),
        lambda J: fem.hierarchical(J, x, pool, polish=0),
    ):
        periodic, features = (estimator(functional) for functional in both)
        assert periodic.indicators == pytest.approx(features.indicators, rel=1e-5)
        assert periodic.total == pytest.approx(features.total, rel=1e-5)
        assert periodic.cost.tolist() == features.cost.tolist()
    for neuron in pool:
        cost = fem.insertion_sensitivity(both[0], x, [neuron]).cost
        assert cost.tolist() == [widen(space, [neuron])[0].dim - space.dim]


# ---- refinement


@pytest.mark.parametrize("name", SPACES)
def test_refinement_keeps_the_function_and_its_period(name):
    space = SPACES[name]
    for position in range(1, len(space.hidden) + 1):
        fine, transfer = insert_layer(space, position)
        assert fine.periodic == space.periodic
        check_refinement(space, fine, transfer, space.initial(0))
    if space.residual[0]:
        return
    pool = ridge_candidates(space, functionals(space)[0].quadrature, count=2).draw(lambda p: p, space.initial(0))
    fine, transfer = widen(space, pool)
    assert fine.periodic == space.periodic
    check_refinement(space, fine, transfer, space.initial(0))
    cells = [(n, k) for n, width in enumerate(space.hidden) for k in range(width, fine.hidden[n])]
    coarse, back = coarsen(fine, cells)
    assert coarse == space and np.array_equal(back.project(transfer(space.initial(0))), space.initial(0))


@pytest.mark.parametrize("periodic", [(0,), (1, 2), (0, 1, 2)])
def test_neurons_of_a_starting_point_have_their_transition_inside(periodic):
    for seed in range(10):
        space = fem.FeedforwardSpace(3, (6,), 1, periodic=periodic)
        x = space.initial(seed)
        for weights, bias in ((x[place[:-1]], x[place[-1]]) for place in (space.incoming(0, k) for k in range(6))):
            # The range of ``w . y`` over the box.
            waves = np.hypot(weights[list(periodic)], weights[3:]).sum()
            others = np.abs(np.delete(weights[:3], periodic)).sum()
            assert abs(bias) <= (waves + others) * (1.0 + 1e-12)
            assert 1.0 - 1e-12 <= np.linalg.norm(weights) <= 3.0 * (1.0 + 1e-12)


# ---- solvers


def test_a_wave_is_fitted_beyond_the_samples():
    problem, space = circle((12,), "sin")
    result = fem.gauss_newton(problem.on(space), space.initial(0), 1e-10, max_steps=300)
    u = problem.solution(space, result.x)
    inside = np.random.default_rng(1).uniform(-1.0, 1.0, (200, 1))
    assert np.sqrt(2.0 * result.value) < 1e-8
    assert np.abs(u(inside)[:, 0] - wave(inside)).max() < 1e-7
    assert u(inside + 2.0) == pytest.approx(u(inside), rel=1e-12)


def test_a_network_grows_until_a_wave_is_fitted():
    problem, space = circle((2,))
    x, errors = space.initial(0), [1.0]
    # What the penalty of the condensation leaves is 3e-9 times the coefficients.
    for _ in range(6):
        functional = problem.on(space)
        result = fem.gauss_newton(functional, x, 1e-9, max_steps=100)
        errors.append(np.sqrt(2.0 * result.value))
        estimate = fem.hierarchical(functional, result.x, ridge_candidates(space, problem.quadrature, count=60))
        if errors[-1] < 5e-8:
            break
        assert 0.2 * errors[-1] < estimate.total < 5.0 * errors[-1]
        space, transfer = widen(space, estimate.cells)
        x = transfer(result.x)
    assert errors[-1] < 5e-8 and space.periodic == (0,) and errors == sorted(errors, reverse=True)


def test_all_solvers_take_a_periodic_space():
    problem, space = circle((4,))
    functional = problem.on(space)
    start = functional.value(space.initial(0))
    for result in (
        fem.trust_region(functional, space.initial(0), max_steps=30),
        fem.trust_region(functional, space.initial(0), max_steps=30, dense=False, norm=kronecker(functional)),
        fem.stochastic(functional, space.initial(0), max_work=40.0),
    ):
        assert result.value < 0.2 * start


# ---- archive


@pytest.mark.parametrize("name", SPACES)
def test_spaces_are_read_back_from_a_file(name, tmp_path):
    with h5py.File(tmp_path / "space.h5", "w") as file:
        schema.write_space(file, SPACES[name])
        assert schema.read_space(file) == SPACES[name]
        # As files of the first versions are.
        schema.write_space(file.create_group("plain"), plain(SPACES[name]))
        assert "periodic" not in file["plain"].attrs and schema.read_space(file["plain"]) == plain(SPACES[name])


def test_a_run_is_resumed(tmp_path):
    problem, space = circle((3,))
    path = tmp_path / "run.h5"
    for _ in range(2):
        archive = fem.Archive.open(path, problem, space, space.initial(0))
        assert archive.level.space == space
        result = fem.gauss_newton(problem.on(space), archive.level.x, max_steps=5, observer=archive)
    estimate = fem.hierarchical(problem.on(space), result.x, ridge_candidates(space, problem.quadrature, count=9))
    archive.solved(result, estimate)
    fine, transfer = widen(space, estimate.cells)
    archive.refined(np.arange(len(estimate.cells)), fine, transfer)
    assert [level.space for level in read(path)] == [space, fine]
    assert np.array_equal(fem.Archive.open(path, problem, space, space.initial(0)).level.x, transfer(result.x))
