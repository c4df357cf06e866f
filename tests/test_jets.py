"""Derivatives with respect to the inputs: the compiled backend against the reference, formulas against calculus."""

import math
from dataclasses import dataclass

import numba
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from test_kernels import branched, check_parity, close, flow, plain, results

from dnnfem import kernels
from dnnfem.kernels.compiled import CompiledEvaluator, drivers
from dnnfem.kernels.components import Laplacian, check, closure, places, terms
from dnnfem.kernels.program import ACTIVATIONS, SMOOTH_ACTIVATIONS
from dnnfem.problems.ansatz import AffineAnsatz
from dnnfem.quadrature import Quadrature
from dnnfem.testing import convergence_order

COMPONENTS = {
    "value and gradient": ((), (0,), (1,)),
    "Laplacian": ((), Laplacian((0, 1), (1.0, 2.0))),
    "heat": (Laplacian((1,), (0.3,)), (0,), ()),
    "second derivatives": ((0, 1), (1, 1), (0,)),
    "third": ((0, 0, 0), (1,)),
    "fourth": ((0, 0, 0, 0), (0, 0, 1, 1)),
    "one component twice": ((0, 1), (), (1, 0), ()),
    "without weight": (Laplacian((0, 1), (0.0, 1.0)), (0,)),
}


class QuadraticLinearization:
    """``r = A u + u^T B u / 2 - 1`` with all numbers of the jet ``u`` at a point."""

    def __init__(self, jet):
        self.shape, u = jet.shape, jet.reshape(-1, jet.shape[-1])
        random = np.random.default_rng(3)
        linear, bend = random.standard_normal((2, len(u))), random.standard_normal((2, len(u), len(u)))
        self.bend = bend + np.swapaxes(bend, 1, 2)
        self.residual = linear @ u + 0.5 * np.einsum("rij,im,jm->rm", self.bend, u, u) - 1.0
        slopes = linear[:, :, None] + np.einsum("rij,jm->rim", self.bend, u)
        self.slopes = slopes.reshape(2, *jet.shape)
        self.density = 0.5 * np.sum(self.residual**2, axis=0)
        self.derivative = np.einsum("rm,rcom->com", self.residual, self.slopes)

    def curvature(self, jet):
        return np.einsum("rm,rcom->com", np.einsum("rcom,com->rm", self.slopes, jet), self.slopes)

    def hessian(self, jet):
        bent = np.einsum("rm,rij,jm->im", self.residual, self.bend, jet.reshape(-1, jet.shape[-1]))
        return self.curvature(jet) + bent.reshape(jet.shape)


@dataclass(frozen=True)
class Quadratic:
    """A curved law of any jet."""

    components: tuple
    kind: str = "residual"
    affine: bool = False

    def linearize(self, points, data, jet):
        return QuadraticLinearization(jet)


def problem(program, components, m=150, seed=0):
    """Place a program with both backends; return them, a point and directions."""
    random = np.random.default_rng(seed)
    d, outputs = program.inputs, program.outputs
    weights, cells = random.uniform(0.1, 1.0, m) / m, random.integers(0, 9, m)
    quadrature = Quadrature(random.uniform(-2, 2, (m, d)), weights, random.standard_normal((m, 1)), cells)
    shifts, scales = random.standard_normal((2, max(d, outputs))), 0.5 + random.random((2, max(d, outputs)))
    ansatz = AffineAnsatz(shifts[0, :d], 0.5 + scales[0, :d], shifts[1, :outputs], scales[1, :outputs])
    law = Quadratic(components)
    both = [kernels.load(name).place(program, quadrature, ansatz, law) for name in ("reference", "compiled")]
    return *both, 0.6 * random.standard_normal(program.dim), random.standard_normal((program.dim, 3))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", COMPONENTS)
def test_every_activation_and_jet(name, activation):
    check_parity(*problem(plain((2, 6, 5, 2), activation), COMPONENTS[name]))


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("name", COMPONENTS)
def test_shared_blocks_carry_and_embedding(name, embedded):
    check_parity(*problem(flow(2, 4, 2, 2, "tanh", embedded), COMPONENTS[name], m=129))


@pytest.mark.parametrize("name", COMPONENTS)
def test_registers_that_nobody_reads_and_an_output_that_is_activated(name):
    check_parity(*problem(branched("tanh"), COMPONENTS[name], m=70))


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_network_without_hidden_layers(name):
    check_parity(*problem(plain((2, 2), "tanh"), COMPONENTS[name], m=70))


multi_indices = st.lists(st.integers(0, 2), max_size=4).map(tuple)
laplacians = st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True).map(
    lambda axes: Laplacian(tuple(axes), tuple(1.0 + 0.5 * k for k in range(len(axes))))
)


@settings(max_examples=12)
@given(
    st.lists(st.one_of(multi_indices, laplacians), min_size=1, max_size=3, unique=True).map(tuple),
    st.lists(st.integers(1, 9), min_size=1, max_size=2),
    st.sampled_from(SMOOTH_ACTIVATIONS),
    st.integers(1, 70),
)
def test_any_components_and_widths(components, hidden, activation, m):
    check_parity(*problem(plain((3, *hidden, 1), activation), components, m=m))


@pytest.mark.parametrize("name", COMPONENTS)
def test_threads_and_memory_do_not_change_a_bit(monkeypatch, name):
    program = plain((2, 9, 7, 1), "gelu")
    _, fast, x, v = problem(program, COMPONENTS[name], m=64 * 20 + 3)
    monkeypatch.setattr(drivers, "SMALL", 0)
    expected = results(fast, x, v)
    threads = numba.get_num_threads()
    try:
        for count in {1, min(2, numba.config.NUMBA_NUM_THREADS)}:
            numba.set_num_threads(count)
            for budget in (fast.memory, 0, 2**20):
                other = CompiledEvaluator(program, fast.quadrature, fast.ansatz, fast.law, budget)
                assert all(np.array_equal(a, b) for a, b in zip(results(other, x, v), expected, strict=True))
    finally:
        numba.set_num_threads(threads)


@pytest.mark.parametrize("name", ["Laplacian", "fourth"])
@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
def test_taylor_orders(activation, name):
    _, fast, x, v = problem(plain((2, 5, 4, 2), activation), COMPONENTS[name], m=70)
    s = v[:, 0] / np.linalg.norm(v[:, 0])
    here, steps = fast.linearize(x), 0.05 * 0.5 ** np.arange(6)
    change = np.array([fast.value(x + t * s) - here.value for t in steps])
    linear = change - steps * (here.derivative @ s)
    quadratic = linear - 0.5 * steps**2 * (s @ here.hessian(s))
    assert np.median(convergence_order(steps, abs(linear))) == pytest.approx(2.0, abs=0.25)
    assert np.median(convergence_order(steps, abs(quadratic))) > 2.7


@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
def test_jets_are_derivatives(activation):
    """Central differences of a component of one order less."""
    _, fast, x, _ = problem(flow(2, 4, 2, 2, activation), ((),))
    points, h = np.random.default_rng(2).uniform(-1, 1, (5, 2)), 1e-5
    for component in ((0,), (0, 1), (1, 1), (0, 1, 1), (0, 1, 1, 1)):
        axis, lower = component[-1], component[:-1]
        shift = h * np.eye(2)[axis]
        plus, minus = (fast.jet(x, points + s, (lower,))[0] for s in (shift, -shift))
        found = fast.jet(x, points, (component,))[0]
        assert np.allclose((plus - minus) / (2 * h), found, rtol=1e-6, atol=1e-7)


def test_a_laplacian_is_the_sum_of_second_derivatives():
    _, fast, x, _ = problem(plain((3, 6, 5, 2), "tanh"), ((),))
    points = np.random.default_rng(2).uniform(-1, 1, (80, 3))
    whole, first, last = fast.jet(x, points, (Laplacian((0, 2), (1.5, -2.0)), (0, 0), (2, 2)))
    close(whole, 1.5 * first - 2.0 * last, 1e-13)


def test_the_laplacian_of_one_neuron():
    """``Delta (c sin(a x + b)) = -|a|^2 c sin(a x + b)``."""
    a, b, c = np.array([1.3, -0.4]), 0.3, 0.7
    quadrature = Quadrature(np.zeros((1, 2)), np.ones(1), np.zeros((1, 1)))
    ansatz = AffineAnsatz(np.zeros(2), np.ones(2), np.zeros(1), np.ones(1))
    fast = kernels.load("compiled").place(plain((2, 1, 1), "sin"), quadrature, ansatz, Quadratic(((),)))
    points = np.random.default_rng(0).uniform(-2, 2, (90, 2))
    found = fast.jet(np.array([*a, b, c, 0.0]), points, (Laplacian((0, 1), (1.0, 1.0)),))[0, 0]
    close(found, -np.sum(a**2) * c * np.sin(points @ a + b), 1e-13)


def bell(n):
    return sum(math.comb(n - 1, k) * bell(k) for k in range(n)) if n else 1


@pytest.mark.parametrize("n", range(5))
def test_there_are_as_many_terms_as_partitions(n):
    assert sum(terms(tuple(range(n))).values()) == bell(n)
    assert sum(terms((0,) * n).values()) == bell(n)


def test_closure_has_all_parts_and_nothing_else():
    assert closure(((),)) == ((),)
    assert closure(((1, 0),)) == ((), (0,), (1,), (0, 1))
    assert closure(((0, 0, 0),)) == ((), (0,), (0, 0), (0, 0, 0))
    laplacian = Laplacian((0, 1), (1.0, 1.0))
    assert closure((laplacian,)) == ((), (0,), (1,), laplacian)
    assert places(((1, 0), ())) == [3, 0]


@pytest.mark.parametrize("component", [(2,), (-1,), (0, 0, 0, 0, 0), Laplacian((0, 3), (1.0, 1.0))])
def test_what_cannot_be_had_is_named(component):
    with pytest.raises(ValueError, match="order at most 4 with respect to inputs 0 to 1"):
        check((component,), 2)
    _, fast, x, _ = problem(plain((2, 3, 1), "tanh"), ((),))
    with pytest.raises(ValueError, match="components: got"):
        fast.jet(x, np.zeros((3, 2)), (component,))
    with pytest.raises(ValueError, match="components: got"):
        kernels.load("compiled").place(fast.program, fast.quadrature, fast.ansatz, Quadratic((component,)))


def test_a_laplacian_needs_one_weight_per_axis():
    with pytest.raises(ValueError, match="one weight per axis"):
        Laplacian((0, 1), (1.0,))
    with pytest.raises(ValueError, match="one weight per axis"):
        Laplacian((0, 0), (1.0, 1.0))
    with pytest.raises(ValueError, match="one weight per axis"):
        Laplacian((), ())
    with pytest.raises(ValueError, match="finite"):
        Laplacian((0,), (np.nan,))


def test_boxes_of_the_same_shape_have_the_same_components():
    wide, narrow = (AffineAnsatz(np.zeros(2), c * np.array([1.0, 2.0]), np.zeros(1), np.ones(1)) for c in (3.0, 0.1))
    laplacian = (Laplacian((0, 1), (1.0, 1.0)),)
    assert wide.reads(laplacian) == narrow.reads(laplacian) == (Laplacian((0, 1), (1.0, 0.25)),)
