"""The device backend (torch on a CPU, or on what DNNFEM_DEVICE says) against the reference and the compiled backend."""

import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import test_jets
import test_kernels
import torch
from conftest import DEVICE
from hypothesis import given, settings, strategies as st
from test_jets import COMPONENTS, laplacians, multi_indices
from test_kernels import LAWS, check_parity, close, flow, identity, plain
from test_least_squares import candidates, subset, systems
from torch.utils._python_dispatch import TorchDispatchMode

import dnnfem as fem
from dnnfem import kernels
from dnnfem.functionals.algebra import Composed
from dnnfem.kernels.device import DeviceEvaluator, graphs, linearization, outputs, rows, samples
from dnnfem.kernels.device.least_squares import DeviceLeastSquares
from dnnfem.kernels.device.place import Place, array
from dnnfem.kernels.device.sweeps import second
from dnnfem.kernels.laws import Misfit
from dnnfem.kernels.program import ACTIVATIONS, SMOOTH_ACTIVATIONS, Block, Program, Stage
from dnnfem.norms import Euclidean, Weighted
from dnnfem.quadrature import Quadrature
from dnnfem.spaces import Coordinates, Transfer

PLACE = Place.of(DEVICE, "double")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@dataclass(frozen=True)
class OnHost:
    """A law that was written for NumPy, on a device."""

    law: Any

    def __getattr__(self, name):
        return getattr(self.law, name)

    def linearize(self, points, data, jet):
        return OnHostLinearization(self.law.linearize(*map(array, (points, data, jet))))


@dataclass(frozen=True)
class OnHostLinearization:
    here: Any

    def __getattr__(self, name):
        return PLACE.tensor(getattr(self.here, name))

    def hessian(self, jet):
        return PLACE.tensor(self.here.hessian(array(jet)))

    def curvature(self, jet):
        return PLACE.tensor(self.here.curvature(array(jet)))


def placed(oracle, **options):
    """Place what a reference evaluator has on a device."""
    law = oracle.law if type(oracle.law).__module__.startswith("dnnfem") else OnHost(oracle.law)
    return kernels.load("device").place(
        oracle.program, oracle.quadrature, oracle.ansatz, law, **{"device": DEVICE, **options}
    )


def problem(program, law="misfit", m=150, seed=0, **options):
    """Return evaluators of the reference and of the device, a point and directions."""
    oracle, _, x, v = test_kernels.problem(program, law, m, seed)
    return oracle, placed(oracle, **options), x, v


def jets(program, components, m=150, **options):
    """Do the same for a curved law of a jet."""
    oracle, _, x, v = test_jets.problem(program, components, m)
    return oracle, placed(oracle, **options), x, v


# ---- parity


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_law(activation, law):
    check_parity(*problem(plain((3, 6, 5, 2), activation), law))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("embedded", [False, True])
def test_shared_blocks_carry_and_embedding(embedded, law):
    check_parity(*problem(flow(2, 4, 2, 3, "tanh", embedded), law, m=129))


@settings(max_examples=8)
@given(
    st.lists(st.integers(1, 19), min_size=2, max_size=5),
    st.sampled_from(SMOOTH_ACTIVATIONS),
    st.booleans(),
    st.integers(1, 140),
)
def test_any_widths(widths, activation, bias, m):
    check_parity(*problem(plain(widths, activation, bias), m=m))


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
@pytest.mark.parametrize("name", [name for name in COMPONENTS if name != "fourth"])
def test_every_jet(name, activation):
    check_parity(*jets(plain((2, 6, 5, 2), activation), COMPONENTS[name]))


def test_jets_of_fourth_order():
    check_parity(*jets(plain((2, 4, 3, 2), "tanh"), COMPONENTS["fourth"], m=40))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_laplacian_with_every_activation(activation):
    check_parity(*jets(plain((2, 4, 3, 1), activation), COMPONENTS["Laplacian"], m=40))


@pytest.mark.parametrize("name", ["heat", "second derivatives"])
def test_jets_with_shared_blocks_carry_and_embedding(name):
    check_parity(*jets(flow(2, 4, 2, 2, "tanh"), COMPONENTS[name], m=60))


@settings(max_examples=5)
@given(
    st.lists(st.one_of(multi_indices, laplacians), min_size=1, max_size=3, unique=True).map(tuple),
    st.lists(st.integers(1, 9), min_size=1, max_size=2),
    st.sampled_from(SMOOTH_ACTIVATIONS),
)
def test_any_components(components, hidden, activation):
    check_parity(*jets(plain((3, *hidden, 1), activation), components, m=30))


@pytest.mark.parametrize("law", ["misfit", "cross entropy"])
def test_more_outputs_than_second_derivatives_are_kept_of(law):
    check_parity(*problem(plain((3, 5, 18), "tanh"), law, m=70))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_registers_that_nobody_reads_and_an_output_that_is_activated(activation):
    blocks = (Block(4, 2, 0), Block(3, 4, 12), Block(4, 4, 27), Block(2, 4, 47, False))
    stages = (
        Stage(1, 0, 0, "tanh"),
        Stage(2, 1, 1, activation),
        Stage(3, 1, 2, activation, 0.5, ((1, -0.3),)),
        Stage(4, 3, 3, activation, 2.0),
    )
    check_parity(*problem(Program((2, 4, 3, 4, 2), stages, blocks, *identity(55)), m=70))


def test_columns_that_no_stage_uses():
    embedding = sp.csr_array(np.vstack([np.eye(5)[:, [0, 1, 2, 3, 4, 0]], np.zeros((2, 6))]))
    stages, blocks = plain((1, 2, 1), "tanh").stages, (Block(2, 1, 0, False), Block(1, 2, 2))
    check_parity(*problem(Program((1, 2, 1), stages, blocks, embedding, np.zeros(7)), m=20))
    check_parity(*problem(Program((2, 1), (Stage(1, 0, 0),), (Block(1, 2, 1),), *identity(6)), m=20))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("exact", [True, False])
def test_left_out_samples(law, exact):
    oracle, fast, x, _ = problem(plain((2, 6, 2), "tanh"), law)
    root = np.linalg.cholesky(np.linalg.inv(oracle.linearize(x).gram() + np.eye(x.size)))
    found, expected = (evaluator.left_out(x, root, exact) for evaluator in (fast, oracle))
    for name in ("losses", "leverage", "margin"):
        close(getattr(found, name), getattr(expected, name), 1e-11)


@pytest.mark.parametrize("law", ["misfit", "square"])
def test_mixed_derivatives(law):
    oracle, fast, x, v = problem(flow(2, 5, 2, 3, "gelu"), law)
    here, there = fast.linearize(x), fast.linearize(x + 0.1 * v[:, 0])
    close(here.mixed(there), oracle.linearize(x).mixed(oracle.linearize(x + 0.1 * v[:, 0])))
    close(here.mixed(here), here.derivative)
    assert isinstance(here.residual(), torch.Tensor)
    close(here.system().pull(there.residual()), here.mixed(there))


# ---- numbers of another size, chunks and blocks


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
@pytest.mark.parametrize("law", ["misfit", "cross entropy"])
def test_single_precision(activation, law):
    check_parity(*problem(plain((3, 12, 9, 2), activation), law, precision="single"), 1e-5)


def test_single_precision_of_jets():
    check_parity(*jets(plain((2, 8, 8, 1), "tanh"), COMPONENTS["Laplacian"], precision="single"), 1e-5)


def results(evaluator, x, v):
    here, root = evaluator.linearize(x), 0.1 * np.eye(x.size)
    found = [here.value, here.derivative, here.hessian(v), here.curvature(v), here.hessian(v[:, 0]), here.gram()]
    found += [evaluator.value(x), evaluator.cellwise(x), *here.moments, evaluator.left_out(x, root, True).losses]
    if (system := here.system()) is not None:
        found += [array(system.matrix), array(here.system(np.arange(4)).matrix)]
    return found if here.residual() is None else [*found, array(here.residual()), here.pull(here.residual())]


@pytest.mark.parametrize("program", [plain((2, 20, 9, 2), "tanh"), flow(2, 5, 2, 2, "gelu")], ids=["plain", "flow"])
@pytest.mark.parametrize("law", ["misfit", "cross entropy"])
@pytest.mark.parametrize("precision", ["double", "single"])
def test_memory_does_not_change_a_bit_and_chunks_hardly_one(monkeypatch, program, law, precision):
    oracle, whole, x, v = problem(program, law, m=403, precision=precision)
    expected = results(whole, x, v)
    assert whole.chunks.count == whole.chunks.held == 1
    monkeypatch.setattr(samples, "GPU_CHUNK" if whole.place.is_gpu else "CHUNK", 50 * whole.chunks.bytes)
    several = results(placed(oracle, precision=precision), x, v)
    for found, value in zip(several, expected, strict=True):
        close(found, value, 1e-12 if precision == "double" else 1e-5)
    for memory, held in ((0, 0), (120 * whole.chunks.bytes, 2), (10**9, 9)):
        other = placed(oracle, memory=memory, precision=precision)
        assert other.chunks.count == 9 and other.chunks.held == held
        assert all(np.array_equal(a, b) for a, b in zip(results(other, x, v), several, strict=True))


def test_directions_and_rows_in_blocks(monkeypatch):
    oracle, fast, x, _ = problem(plain((2, 7, 6, 2), "tanh"), m=90)
    v = np.random.default_rng(0).standard_normal((x.size, 11))
    monkeypatch.setattr(linearization, "DIRECTIONS", 3 * 90 * fast.chunks.bytes)
    monkeypatch.setattr(rows, "GPU_ENTRIES" if fast.place.is_gpu else "ENTRIES", 1)
    close(fast.linearize(x).hessian(v), oracle.linearize(x).hessian(v))
    close(fast.linearize(x).gram(), oracle.linearize(x).gram())
    close(fast.linearize(x).system().matrix, oracle.linearize(x).system().matrix)


def test_a_linearization_does_not_follow_its_argument():
    _, fast, x, _ = problem(plain((2, 8, 1), "tanh"))
    expected, here = fast.value(x), fast.linearize(x)
    x += 1.0
    assert here.value == expected


@pytest.mark.parametrize("setting", ["high", "medium"])
@pytest.mark.parametrize("precision", ["double", "single"])
def test_a_user_who_allows_reduced_precision_changes_nothing(setting, precision):
    _, fast, x, v = problem(plain((10, 96, 96, 2), "tanh"), m=300, precision=precision)
    oracle, _, y, _ = problem(plain((10, 96, 8, 2), "tanh"), m=300)

    def results(evaluator, x, v):
        here = evaluator.linearize(x)
        products = [here.hessian(v), here.curvature(v[:, 0]), array(here.system(np.arange(5)).matrix)]
        # What an evaluator remembers would hide a difference.
        rough = placed(oracle, precision=precision).linearize(y).gram(single=True)
        return [here.value, here.derivative, *products, rough]

    expected = results(fast, x, v)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(setting)
        assert all(np.array_equal(a, b) for a, b in zip(results(fast, x, v), expected, strict=True))
        assert torch.get_float32_matmul_precision() == setting
        with pytest.raises(KeyError), Place.of("cpu", precision).arithmetic():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            raise KeyError
        assert torch.get_float32_matmul_precision() == setting
    finally:
        torch.set_float32_matmul_precision(before)


def test_older_versions_of_torch_have_one_setting_for_all(monkeypatch):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        older = SimpleNamespace(cuda=SimpleNamespace(matmul=SimpleNamespace()))
        with monkeypatch.context() as patch:
            patch.setattr(torch, "backends", older)
            with pytest.raises(KeyError), Place.of("cpu", "single").arithmetic():
                assert torch.get_float32_matmul_precision() == "highest"
                raise KeyError
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


# ---- least squares


def here(system):
    """Return a system of NumPy on a device."""
    return DeviceLeastSquares(PLACE, PLACE.tensor(system.matrix), PLACE.tensor(system.residual), None, system.penalties)


@given(systems(), st.data())
def test_solutions_and_eliminations_are_those_of_numpy(system, data):
    columns, device = subset(data.draw, system.shape[1]), here(system)
    (correction, after), (expected, moved) = device.solve(columns), system.solve(columns)
    # Which of two equal columns is left out is a matter of rounding; how many are, and what the others give, is not.
    assert np.count_nonzero(correction) == np.count_nonzero(expected)
    a = system.matrix[:, columns]
    length, scale = np.linalg.norm(a, axis=0), 1.0 + np.abs(system.residual).max()
    assert a @ correction == pytest.approx(a @ expected, rel=1e-7, abs=1e-9 * scale)
    assert (np.abs(correction) * length).max(initial=0.0) < 1e6 * scale
    dual = a.T @ np.linspace(-1.0, 1.0, len(a))
    z = device.normal_solve(columns, dual)
    assert len(a) < len(columns) or a.T @ (a @ z) == pytest.approx(dual, rel=1e-7, abs=1e-8 * max([0.0, *length]))
    assert after.value == pytest.approx(moved.value, rel=1e-9, abs=1e-12)
    ours, theirs = device.condensed(columns), system.condensed(columns)
    size = 1e-9 * (1.0 + np.abs(system.matrix).max() ** 2)
    assert ours.value == pytest.approx(theirs.value, rel=1e-9, abs=1e-12)
    assert ours.derivative == pytest.approx(theirs.derivative, rel=1e-8, abs=size)
    v = np.eye(ours.shape[1])
    assert ours.curvature(v) == pytest.approx(theirs.curvature(v), rel=1e-8, abs=size)
    assert ours.pull(device.residual) == pytest.approx(theirs.pull(system.residual), rel=1e-8, abs=size)
    assert device.leverage() == pytest.approx(system.leverage(), rel=1e-8, abs=1e-10)


@given(systems(), st.floats(-3.0, 3.0))
def test_steps_are_those_of_numpy(system, exponent):
    norm = Weighted(Coordinates(system.shape[1]), np.geomspace(0.1, 10.0, system.shape[1]))
    ours, theirs = here(system).steps(norm), system.steps(norm)
    radius = 10.0**exponent * (theirs.full.length or 1.0)
    a, b = ours(radius), theirs(radius)
    size = 1e-7 * (1.0 + np.abs(b.step).max())
    assert a.step == pytest.approx(b.step, rel=1e-5, abs=size)
    assert a.decrease == pytest.approx(b.decrease, rel=1e-7, abs=1e-12)
    # Where the step is just as long as the radius, rounding decides.
    assert a.interior == b.interior or theirs.full.length == pytest.approx(radius, rel=1e-12)
    assert ours.solve(0.5, system.derivative) == pytest.approx(
        theirs.solve(0.5, system.derivative), rel=1e-6, abs=1e-8 * (1.0 + np.abs(system.derivative).max())
    )


@pytest.mark.parametrize("kind", ["generic", "zero", "twice", "scaled"])
@pytest.mark.parametrize("width", [1, 2])
@given(seed=st.integers(0, 10**6))
def test_candidates_are_those_of_numpy(kind, width, seed):
    system, place = candidates(seed, kind, groups=4, width=width)
    system = system.ridge(np.arange(system.shape[1]), 0.1, np.zeros(system.shape[1]))
    ours, theirs = here(system).candidates(place), system.candidates(place)
    assert ours.score() == pytest.approx(theirs.score(), rel=1e-6, abs=1e-10)
    (order, gains), (expected, sizes) = ours.select(3), theirs.select(3)
    assert gains == pytest.approx(sizes, rel=1e-6, abs=1e-10)
    assert kind == "twice" or order.tolist() == expected.tolist()
    a, b = ours.joint(), theirs.joint()
    for name in ("present", "gain", "remaining", "freedom"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-6, abs=1e-9), name


def test_groups_share_a_factorization_and_systems_are_combined_like_those_of_numpy():
    oracle, _, x, _ = problem(plain((2, 5, 2), "tanh"))
    oracle = replace(oracle, ansatz=oracle.ansatz.inputs_only)
    fast = placed(oracle)
    system, device = oracle.linearize(x).system(), fast.linearize(x).system()
    outer = np.array([[15, 16, 17, 18, 19, 25], [20, 21, 22, 23, 24, 26]])
    ours, theirs = device.ridge(outer.ravel(), 1e-6, np.zeros(12)), system.ridge(outer.ravel(), 1e-6, np.zeros(12))
    assert len(ours.condensed(outer).elimination.rows) == 2 == len(theirs.condensed(outer).elimination.rows)
    close(ours.condensed(outer).derivative, theirs.condensed(outer).derivative, 1e-10)
    close(ours.solve(outer)[0], theirs.solve(outer)[0], 1e-9)
    transfer = sp.csr_array(np.random.default_rng(0).standard_normal((27, 4)))
    for a, b in (
        (device + device, system + system),
        (device + system, system + system),
        (system + device, system + system),
        (2.0 * device, 2.0 * system),
        (device @ transfer, system @ transfer),
        (device @ transfer.toarray(), system @ transfer),
        (device[np.arange(3, 9)], system[np.arange(3, 9)]),
        (ours, theirs),
    ):
        assert isinstance(a, DeviceLeastSquares)
        close(a.matrix, b.matrix)
        close(a.residual, b.residual)
        close(a.lengths, b.lengths)
        assert a.value == pytest.approx(b.value, rel=1e-12) and a.samples == b.samples
    groups = [np.array([0, 10]), np.array([3, 4, 12])]
    for a, b in zip(device.schur_roots(groups, 1e-10), system.schur_roots(groups, 1e-10), strict=True):
        close(a.T @ a, b.T @ b, 1e-8)


def test_systems_that_are_compressed(monkeypatch):
    _, fast, x, v = problem(plain((2, 6, 2), "tanh"), m=300)
    whole, columns = fast.linearize(x).system(), np.arange(18, 32)
    for name, value in (("DENSE", 100), ("ENTRIES", 1000)):
        monkeypatch.setattr(rows, f"GPU_{name}" if fast.place.is_gpu else name, value)
    here, there = fast.linearize(x), fast.linearize(x + 1e-2 * v[:, 0])
    system = here.system()
    assert system.shape == (33, 32) and system.samples == 600 and here.system(columns).shape == (15, 14)
    close(system.value, here.value)
    close(system.derivative, here.derivative)
    close(system.curvature(np.eye(32)), here.gram(), 1e-11)
    close(here.system(columns).derivative, here.derivative[columns])
    norm = Euclidean(Coordinates(32))
    close(system.steps(norm)(0.1).step, whole.steps(norm)(0.1).step, 1e-8)
    reduced = system.condensed(columns)
    assert reduced.pull(there.residual()) == pytest.approx(whole.condensed(columns).pull(there.residual()), rel=1e-6)
    ridged = system.ridge(columns, 0.1, np.ones(14))
    residual = torch.cat([there.residual(), PLACE.tensor(np.ones(14))])
    assert ridged.samples == 600 and ridged.pull(residual).shape == (32,)
    with pytest.raises(ValueError, match="leverage: got a system whose 600 rows were compressed"):
        system.leverage()


def test_systems_without_rows_or_columns_have_nothing_to_offer():
    for count in (3, 0):
        system = DeviceLeastSquares(PLACE, PLACE.tensor(np.zeros((count, 2))), PLACE.tensor(np.ones(count)))
        columns = np.arange(2)
        assert system.steps(Euclidean(Coordinates(2)))(1.0).step.tolist() == [0.0, 0.0]
        assert not system.solve(columns)[0].any() and not system.candidates(columns).score().any()
        assert system.candidates(columns).select(2)[0].size == 0
        assert not system.normal_solve(columns, np.ones(2)).any()
        assert system.leverage().tolist() == [0.0] * count
        assert system.condensed(columns[:1]).value == system.value


# ---- what a product does, and graphs


class Launches(TorchDispatchMode):
    """Counts the operations of matrix products, and refuses what waits for the device or brings it something."""

    WAITS = ("_local_scalar_dense", "lift_fresh", "nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.operations = 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in self.WAITS, f"{name} inside of a product"
        result = function(*args, **(kwargs or {}))
        if name.strip("_") in ("mm", "addmm"):
            self.operations += 2.0 * result.numel() * args[-1].shape[0]
        return result


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("law", ["misfit", "cross entropy"])
@pytest.mark.parametrize("count", [2, 18])
def test_a_product_does_not_wait_for_the_device(law, count, exact):
    for program in (plain((3, 6, count), "tanh"), flow(2, 5, count, 2, "gelu")):
        _, fast, x, v = problem(program, law)
        tape = next(fast.linearize(x).tapes())
        direction = PLACE.tensor(program.directions(v).T)
        expected = tape.product(direction, exact)
        with Launches():
            found = tape.product(direction, exact)
        assert torch.equal(found, expected)
    with pytest.raises(AssertionError, match="inside of a product"), Launches():
        float(direction[0, 0])


def test_a_jet_does_not_wait_for_the_device():
    program = plain((2, 6, 5, 2), "sin")
    _, fast, x, v = jets(program, COMPONENTS["heat"])
    tape = next(fast.linearize(x).tapes())
    direction = PLACE.tensor(program.directions(v[:, :1]).T)
    expected = tape.product(direction, True)
    with Launches():
        found = tape.product(direction, True)
    assert torch.equal(found, expected)


def test_a_hessian_product_takes_twice_the_operations_of_a_derivative():
    """Six products of matrices per layer, against one forwards and two backwards; two against two in the first."""
    widths, m = (2, 64, 64, 64, 1), 100
    _, fast, x, v = problem(plain(widths, "tanh"), m=m)
    products = [2.0 * m * a * b for a, b in pairwise(widths)]
    tape, direction = next(fast.linearize(x).tapes()), PLACE.tensor(v[:, :1].T)
    expected = tape.product(direction, True)
    with Launches() as hessian:
        found = tape.product(direction, True)
    assert torch.equal(found, expected)
    here = fast.linearize(x)
    with Launches() as derivative:
        _ = next(here.tapes()).recorded
    assert hessian.operations == 2 * products[0] + 6 * sum(products[1:])
    assert derivative.operations == 2 * products[0] + 3 * sum(products[1:])


@dataclass(frozen=True, eq=False)
class Again:
    """Stands for a graph: replays a function on tensors that it was given once."""

    function: Any
    state: Any
    direction: Any
    result: Any

    def replay(self):
        self.result.copy_(self.function(self.state, self.direction))


@pytest.mark.parametrize("exact", [True, False])
def test_a_graph_serves_linearizations_in_turn(exact):
    """What a graph owns is all that a product reads, and it is copied when another linearization asks."""
    _, fast, x, v = problem(flow(2, 5, 2, 3, "gelu"), "cross entropy")

    def function(state, direction):
        return second(fast.code, state, direction, exact, outputs.seeded(fast.code, state.bend))

    tapes = [next(fast.linearize(point).tapes()) for point in (x, x + 0.3)]
    directions = [PLACE.tensor(fast.program.directions(v[:, k : k + 1]).T) for k in range(3)]
    expected = [[tape.product(direction, exact) for direction in directions] for tape in tapes]
    state = graphs._copied(tapes[0].state(exact))
    assert len(graphs.leaves(state)) == len(graphs.leaves(tapes[1].state(exact)))
    for leaf in graphs.leaves(state):
        leaf.zero_()
    place = directions[0].clone(), expected[0][0].clone()
    captured = graphs.Captured(Again(function, state, *place), state, *place)
    found = []
    for n, k in ((0, 0), (1, 1), (1, 2), (0, 1)):
        found.append((captured(tapes[n], tapes[n].state(exact), directions[k]), expected[n][k]))
    assert all(torch.equal(product, value) for product, value in found)


@GPU
@pytest.mark.parametrize("law", ["misfit", "cross entropy"])
@pytest.mark.parametrize("precision", ["double", "single"])
def test_graphs_change_nothing(monkeypatch, law, precision):
    monkeypatch.setattr(graphs, "FIRST", 0)
    oracle, fast, x, v = problem(flow(2, 5, 2, 3, "gelu"), law, device="cuda", precision=precision)
    plainly = DeviceEvaluator(oracle.program, oracle.quadrature, oracle.ansatz, oracle.law, fast.place, capture=False)
    tolerance = 1e-13 if precision == "double" else 1e-6
    here, there = fast.linearize(x), fast.linearize(x + 0.1)
    for k in (0, 1, 2):
        for evaluated, point in ((here, x), (there, x + 0.1), (here, x)):
            expected = plainly.linearize(point)
            close(evaluated.hessian(v[:, k]), expected.hessian(v[:, k]), tolerance)
            close(evaluated.curvature(v[:, k]), expected.curvature(v[:, k]), tolerance)
    assert set(fast.graphs.found) == {True, False} and not plainly.graphs.found


@GPU
@pytest.mark.parametrize("law", ["misfit", "cross entropy"])
@pytest.mark.parametrize(("precision", "tolerance"), [("double", 1e-12), ("single", 1e-5)])
def test_parity_on_a_gpu(law, precision, tolerance):
    oracle, fast, x, v = problem(plain((3, 6, 5, 2), "tanh"), law, device="cuda", precision=precision)
    a, b = oracle.linearize(x), fast.linearize(x)
    close(b.value, a.value, tolerance)
    close(b.derivative, a.derivative, tolerance)
    close(b.hessian(v), a.hessian(v), tolerance)
    close(b.gram(), a.gram(), tolerance)
    close(array(b.system().matrix), a.system().matrix, tolerance)


# ---- problems


def wave(count=400):
    random = np.random.default_rng(3)
    points = random.uniform(-1.0, 1.0, (count, 2))
    return points, np.column_stack([np.sin(3.0 * points[:, 0]) * points[:, 1], np.exp(-np.sum(points**2, axis=1))])


def both(kind, *arguments, **options):
    """Return a problem in the compiled backend and on a device."""
    return [kind(*arguments, device=device, **options) for device in (None, DEVICE)]


def test_regression_by_gauss_newton_is_that_of_the_compiled_backend():
    space, found = fem.FeedforwardSpace(2, (6, 6), 2), []
    for problem in both(fem.Regression, *wave()):
        J = problem.on(space)
        found.append((J, fem.gauss_newton(J, space.initial(seed=0), tolerance=1e-4, max_steps=8), problem))
    (J, ours, problem), (K, theirs, other) = found[1], found[0]
    assert isinstance(J.evaluator, DeviceEvaluator) and not isinstance(K.evaluator, DeviceEvaluator)
    assert len(ours.steps) == len(theirs.steps) and ours.status == theirs.status
    assert ours.x == pytest.approx(theirs.x, rel=1e-6, abs=1e-8)
    points = wave(20)[0]
    assert problem.solution(space, ours.x)(points) == pytest.approx(other.solution(space, ours.x)(points), abs=1e-13)
    assert problem.solution(space, ours.x).gradient(points) == pytest.approx(
        other.solution(space, ours.x).gradient(points), abs=1e-12
    )
    assert problem.identity.keys() == other.identity.keys()
    assert problem.identity["data"] == other.identity["data"]


def test_classification_by_trust_regions_is_that_of_the_compiled_backend():
    points, targets = wave()
    space, found = fem.FeedforwardSpace(2, (6,), 3), []
    for problem in both(fem.Classification, points, np.digitize(targets[:, 0], [-0.2, 0.2])):
        J = fem.Sum(problem.on(space), fem.Tikhonov(space, Euclidean, 1e-3))
        found.append(fem.trust_region(J, space.initial(seed=0), tolerance=1e-6))
    assert len(found[0].steps) == len(found[1].steps)
    assert found[1].x == pytest.approx(found[0].x, rel=1e-6, abs=1e-7)


def test_estimates_are_those_of_the_compiled_backend():
    space, found = fem.FeedforwardSpace(2, (5,), 2), []
    for problem in both(fem.Regression, *wave()):
        J = problem.on(space)
        x = fem.gauss_newton(J, space.initial(seed=0), max_steps=3).x
        pool = fem.ridge_candidates(space, problem.quadrature, seed=0)
        found.append([fem.hierarchical(J, x, pool), fem.algebraic(J, x), fem.removal(J, x)])
    for theirs, ours in zip(*found, strict=True):
        assert ours.total == pytest.approx(theirs.total, rel=1e-7)
        assert ours.indicators == pytest.approx(theirs.indicators, rel=1e-5, abs=1e-10)


def test_estimates_at_unseen_samples_are_those_of_the_compiled_backend():
    points, targets = wave(150)
    space, found = fem.FeedforwardSpace(2, (4,), 2), []
    for problem in both(fem.Classification, points, targets[:, 0] > 0.1):
        J = fem.Sum(problem.on(space), fem.Tikhonov(space, Euclidean, 1e-2))
        x = fem.trust_region(J, space.initial(seed=0), tolerance=1e-9).x
        found.append([fem.leave_one_out(J, x), fem.insertion_sensitivity(J, x)])
    for theirs, ours in zip(*found, strict=True):
        assert ours.total == pytest.approx(theirs.total, rel=1e-6)
        assert ours.indicators == pytest.approx(theirs.indicators, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("kind", [fem.Regression, fem.Classification])
def test_functionals_of_a_device_keep_their_contract(kind):
    points, targets = wave(60)
    space = fem.FeedforwardSpace(2, (4, 3), 2)
    J = kind(points, targets if kind is fem.Regression else targets[:, 0] > 0.1, device=DEVICE).on(space)
    fem.testing.check_functional(J, space.initial(seed=0))


def test_stochastic_steps_are_those_of_the_compiled_backend():
    points, targets = wave(4000)
    space, found = fem.FeedforwardSpace(2, (6,), 2), []
    for problem in both(fem.Classification, points, targets[:, 0] > 0.1):
        found.append(fem.stochastic(problem.on(space), space.initial(seed=0), max_steps=6))
    assert len(found[0].steps) == len(found[1].steps)
    assert found[1].x == pytest.approx(found[0].x, rel=1e-6, abs=1e-8)


def test_functionals_of_a_device_combine_with_others():
    space = fem.FeedforwardSpace(2, (5,), 2)
    x = space.initial(seed=0)
    freeze = Transfer(sp.eye_array(space.dim).tocsr()[:, 3:], np.where(np.arange(space.dim) < 3, x, 0.0))
    values = []
    for problem in both(fem.Regression, *wave()):
        integral, penalty = problem.on(space), fem.Tikhonov(space, Euclidean, 1e-3)
        for J in (
            fem.Sum(integral, penalty),
            fem.Sum(penalty, integral),
            fem.Scaled(integral, 2.0),
            fem.condense(integral),
            fem.condense(fem.Sum(penalty, integral)),
            Composed(integral, freeze),
        ):
            at = x[-J.space.dim :] if isinstance(J, Composed) else x[: J.space.dim]
            here, there = J.linearize(at), J.linearize(1.01 * at)
            system = here.system()
            values.append([here.value, here.derivative, here.mixed(there), here.hessian(at), system.derivative])
            values[-1] += [system.pull(there.residual()), system.value]
    for theirs, ours in zip(values[:6], values[6:], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            close(a, b, 1e-9)


def test_a_run_goes_on_with_another_backend(tmp_path):
    compiled, device = both(fem.Regression, *wave(100))
    space = fem.FeedforwardSpace(2, (3,), 2)
    archive = fem.Archive.open(tmp_path / "run.h5", compiled, space, space.initial(seed=0))
    result = fem.gauss_newton(compiled.on(space), space.initial(seed=0), max_steps=2, observer=archive)
    again = fem.Archive.open(tmp_path / "run.h5", device, space, space.initial(seed=0))
    assert np.array_equal(again.level.state.progress.x, result.x)


def test_single_precision_reaches_its_own_rounding():
    problem = fem.Regression(*wave(), device=DEVICE, precision="single")
    space = fem.FeedforwardSpace(2, (8, 8), 2)
    J = problem.on(space)
    x = fem.gauss_newton(J, space.initial(seed=0), max_steps=12).x
    exact = fem.Regression(*wave()).on(space)
    assert J.evaluator.place.dtype == torch.float32
    assert J.value(x) == pytest.approx(exact.value(x), rel=1e-4) and exact.value(x) < 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "gpu"}, "device: got 'gpu', expected cpu, cuda"),
        ({"device": "cuda:x"}, "device: got 'cuda:x', expected cpu, cuda"),
        ({"device": torch.device("cpu")}, "device: got device.*expected cpu, cuda"),
        ({"device": "cpu", "backend": "reference"}, "device: got 'cpu' for the backend reference"),
        ({"device": "cpu", "precision": "half"}, "precision: got 'half', expected one of double, single"),
        ({"precision": "single"}, "precision: got 'single' for the backend compiled"),
        ({"backend": "cuda"}, "backend: got 'cuda', expected one of reference, compiled, device"),
    ],
)
def test_what_there_is_not_is_named(options, words):
    points, targets = wave(20)
    with pytest.raises(ValueError, match=words):
        fem.Regression(points, targets, **options)
    with pytest.raises(ValueError, match=words):
        fem.Classification(points, targets[:, 0] > 0.0, **options)


def test_a_device_that_torch_does_not_find_is_named():
    count = torch.cuda.device_count()
    problem = fem.Regression(*wave(20), device=f"cuda:{count}")
    with pytest.raises(ValueError, match=rf"device: got 'cuda:{count}', expected .*cpu"):
        problem.on(fem.FeedforwardSpace(2, (3,), 2)).value(np.zeros(17))
    with pytest.raises(ValueError, match="precision: got 'half'"):
        Place.of("cpu", "half")


def test_wrong_shapes_are_named():
    _, fast, x, _ = problem(plain((2, 3, 1), "tanh"))
    with pytest.raises(ValueError, match=r"\(3,\).*\(13,\)"):
        fast.value(np.zeros(3))
    with pytest.raises(ValueError, match=r"\(3,\).*\(13,\)"):
        fast.linearize(x).hessian(np.zeros(3))
    with pytest.raises(ValueError, match=r"quadrature: got points of shape \(4, 3\)"):
        quadrature = Quadrature(np.zeros((4, 3)), np.ones(4), np.zeros((4, 1)))
        kernels.load("device").place(fast.program, quadrature, fast.ansatz, Misfit())
    with pytest.raises(ValueError, match="components: got"):
        fast.jet(x, np.zeros((3, 2)), ((2,),))
    assert fast.jet(x, np.zeros((0, 2)), ((),)).shape == (1, 1, 0)
    assert fast.linearize(x).hessian(np.zeros((13, 0))).shape == (13, 0)


def test_the_compiled_backend_does_without_torch():
    code = """
import sys, numpy, dnnfem
space = dnnfem.FeedforwardSpace(1, (2,), 2)
points = numpy.linspace(0.0, 1.0, 9)
J = dnnfem.Classification(points, points > 0.3).on(space)
J.linearize(space.initial(seed=0)).derivative
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120.0)
