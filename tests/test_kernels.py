"""Kernels: the compiled backend against the reference, the reference against calculus."""

import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special

from dnnfem import kernels
from dnnfem.kernels import reference
from dnnfem.kernels.compiled import CompiledEvaluator, drivers, flattening
from dnnfem.kernels.compiled.tables import TILES
from dnnfem.kernels.laws import CrossEntropy, Misfit
from dnnfem.kernels.program import ACTIVATIONS, SMOOTH_ACTIVATIONS, Block, Program, Stage
from dnnfem.problems.ansatz import AffineAnsatz
from dnnfem.quadrature import Quadrature
from dnnfem.solvers.trust_region import SINGLE
from dnnfem.testing import convergence_order

VALUES = ((),)


class SquareLinearization:
    """``r = (u_0^2 - y_0, sin u_0 + u_1 y_1, u_0 u_1)``: curved, with more residuals than outputs."""

    def __init__(self, data, jet):
        u, v = jet[0]
        y, z = data.T
        one, zero = np.ones_like(u), np.zeros_like(u)
        self.residual = np.stack([u * u - y, np.sin(u) + v * z, u * v])
        self.slopes = np.stack([[[2 * u, zero]], [[np.cos(u), z * one]], [[v, u]]])
        self.bends = np.zeros((3, 2, 2, u.size))
        self.bends[0, 0, 0], self.bends[1, 0, 0] = 2.0, -np.sin(u)
        self.bends[2, 0, 1] = self.bends[2, 1, 0] = 1.0
        self.density = 0.5 * np.sum(self.residual**2, axis=0)
        self.derivative = np.einsum("rm,rcom->com", self.residual, self.slopes)

    def curvature(self, jet):
        return np.einsum("rm,rcom->com", np.einsum("rcom,com->rm", self.slopes, jet), self.slopes)

    def hessian(self, jet):
        return self.curvature(jet) + np.einsum("rm,ropm,pm->om", self.residual, self.bends, jet[0])[None]


class Square:
    kind, components, affine = "residual", VALUES, False

    def linearize(self, points, data, jet):
        return SquareLinearization(data, jet)


LAWS = {"misfit": Misfit, "square": Square, "cross entropy": CrossEntropy}


def identity(dim):
    return sp.csr_array(sp.eye_array(dim)), np.zeros(dim)


def plain(widths, activation, bias=True):
    """A feedforward program with a linear output."""
    blocks, stages, start = [], [], 0
    for n, (fan_in, fan_out) in enumerate(pairwise(widths)):
        blocks.append(Block(fan_out, fan_in, start, bias))
        start = blocks[-1].stop
        stages.append(Stage(n + 1, n, n, activation if n + 2 < len(widths) else "identity"))
    return Program(tuple(widths), tuple(stages), tuple(blocks), *identity(start))


def flow(inputs, width, outputs, steps, activation, embedded=True, seed=0):
    """Heun steps with one block per pair of steps, a decoder without bias, and shared coefficients."""
    blocks = [Block(width, inputs, 0)]
    for _ in range((steps + 1) // 2):
        blocks.append(Block(width, width, blocks[-1].stop))
    blocks.append(Block(outputs, width, blocks[-1].stop, False))
    stages = [Stage(1, 0, 0, activation, 0.7)]
    for n in range(steps):
        z, k, h = 2 * n + 1, n // 2 + 1, 0.8 / steps
        stages.append(Stage(z + 1, z, k, activation, h, ((z, 1.0),)))
        stages.append(Stage(z + 2, z + 1, k, activation, 0.5 * h, ((z, 0.5), (z + 1, 0.5))))
    stages.append(Stage(2 * steps + 2, 2 * steps + 1, len(blocks) - 1))
    count = blocks[-1].stop
    random = np.random.default_rng(seed)
    embedding, offset = identity(count)
    if embedded:
        embedding = sp.random_array((count, count // 2), density=0.2, rng=random, data_sampler=random.standard_normal)
        embedding, offset = embedding.tocsr(), random.standard_normal(count)
    widths = (inputs, *[width] * (2 * steps + 1), outputs)
    return Program(widths, tuple(stages), tuple(blocks), embedding, offset)


def branched(activation):
    """A register that nobody reads, a carry term, and an output that is activated."""
    blocks = (Block(4, 2, 0), Block(3, 4, 12), Block(4, 4, 27), Block(2, 4, 47, False))
    stages = (
        Stage(1, 0, 0, "tanh"),
        Stage(2, 1, 1, activation),
        Stage(3, 1, 2, activation, 0.5, ((1, -0.3),)),
        Stage(4, 3, 3, activation, 2.0),
    )
    return Program((2, 4, 3, 4, 2), stages, blocks, *identity(55))


def problem(program, law="misfit", m=150, seed=0):
    """Place a program with both backends; return them, a point and directions."""
    random = np.random.default_rng(seed)
    d, outputs = program.inputs, program.outputs
    data = random.integers(0, outputs, (m, 1)) if law == "cross entropy" else random.standard_normal((m, outputs))
    cells = random.integers(0, 9, m)
    quadrature = Quadrature(random.uniform(-2, 2, (m, d)), random.uniform(0.1, 1.0, m) / m, data, cells)
    ansatz = AffineAnsatz(
        random.standard_normal(d),
        1.0 + random.random(d),
        random.standard_normal(outputs),
        0.5 + random.random(outputs),
    )
    both = [kernels.load(name).place(program, quadrature, ansatz, LAWS[law]()) for name in ("reference", "compiled")]
    return *both, 0.6 * random.standard_normal(program.dim), random.standard_normal((program.dim, 3))


def on_host(a):
    """Return a tensor, wherever it is, or anything else as an array."""
    return np.asarray(a.cpu() if hasattr(a, "cpu") else a)


def agree(a, b, tolerance):
    a, b = on_host(a), on_host(b)
    assert a.shape == b.shape and a.dtype == b.dtype
    assert np.abs(a - b).max(initial=0.0) <= tolerance * max(np.abs(b).max(initial=0.0), 1e-300)


def close(a, b, tolerance=1e-12):
    agree(a, b, tolerance)


def rank_one(program):
    """Return directions of rank one of the stages with weights and biases of their own."""
    random, found, used = np.random.default_rng(2), {}, [stage.block for stage in program.stages]
    for number, stage in enumerate(program.stages):
        block = program.blocks[stage.block]
        own = program.is_inclusion and block.stop <= program.dim and block.bias and block.map is None
        if own and used.count(stage.block) == 1:
            count = number % 3 + 1
            found[number] = (
                random.standard_normal((block.rows, count)),
                random.standard_normal((block.columns + 1, count)),
            )
    return found


def check_parity(oracle, fast, x, v, tolerance=1e-12):
    """Compare every operation of two evaluators."""
    close = partial(agree, tolerance=tolerance)
    a, b = oracle.linearize(x), fast.linearize(x)
    close(fast.value(x), oracle.value(x))
    close(b.value, a.value)
    close(b.derivative, a.derivative)
    for name in ("hessian", "curvature"):
        close(getattr(b, name)(v), getattr(a, name)(v))
        close(getattr(b, name)(v[:, 0]), getattr(a, name)(v[:, 0]))
    close(b.gram(), a.gram())
    close(a.gram(), a.curvature(np.eye(x.size)))
    roots = np.sqrt(np.diagonal(a.gram()))
    error = np.abs(b.gram(single=True) - a.gram())
    assert np.all(error <= 5e-6 * np.outer(roots, roots) + tolerance * roots.max() ** 2)
    close(fast.cellwise(x), oracle.cellwise(x))
    close(fast.samplewise(x), oracle.samplewise(x))
    close(np.bincount(oracle.quadrature.cells, weights=fast.samplewise(x)), fast.cellwise(x))
    points = np.random.default_rng(5).uniform(-3, 3, (70, oracle.program.inputs))
    close(fast.jet(x, points, VALUES), oracle.jet(x, points, VALUES))
    for fast_moments, moments in zip(b.moments, a.moments, strict=True):
        close(fast_moments, moments)
    if along := rank_one(oracle.program):
        expected, found = a.curvature_along(along), b.curvature_along(along)
        close(found, expected, tolerance=10 * tolerance)
    if oracle.law.kind == "loss":
        assert b.residual() is None and a.residual() is None
    else:
        close(b.residual(), a.residual())
    n = x.size
    for columns in (
        None,
        np.arange(n // 2),
        np.arange(n - n // 3, n),
        np.random.default_rng(1).permutation(n)[:3],
    ):
        s, t = a.system(columns), b.system(columns)
        close(t.matrix, s.matrix)
        close(t.residual, s.residual)
        part = slice(None) if columns is None else columns
        close(t.derivative, b.derivative[part], tolerance=10 * tolerance)
        close(t.curvature(np.eye(t.shape[1])), b.gram()[part][:, part], tolerance=10 * tolerance)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_law(activation, law):
    check_parity(*problem(plain((3, 6, 5, 2), activation), law))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("embedded", [False, True])
def test_shared_blocks_carry_and_embedding(embedded, law):
    check_parity(*problem(flow(2, 4, 2, 3, "tanh", embedded), law, m=129))


@settings(max_examples=12)
@given(
    st.lists(st.integers(1, 19), min_size=2, max_size=5),
    st.sampled_from(SMOOTH_ACTIVATIONS),
    st.booleans(),
    st.integers(1, 140),
)
def test_any_widths(widths, activation, bias, m):
    check_parity(*problem(plain(widths, activation, bias), m=m))


@settings(max_examples=8)
@given(
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(0, 4),
    st.booleans(),
    st.integers(0, 9),
)
def test_any_flow(inputs, width, outputs, steps, embedded, seed):
    check_parity(*problem(flow(inputs, width, outputs, steps, "softplus", embedded, seed), m=67, seed=seed))


@pytest.mark.parametrize("law", ["misfit", "cross entropy"])
@pytest.mark.parametrize("widths", [(3, 34, 2, 18), (34, 2, 3), (2, 2, 34, 1)])
def test_widths_beyond_a_panel_and_outputs_beyond_matrices(widths, law):
    check_parity(*problem(plain(widths, "tanh"), law, m=70))


@pytest.fixture
def large(monkeypatch):
    """Every network counts as large, for the choice of its tiles."""
    monkeypatch.setattr(flattening, "LARGE", 0)
    flattening.flattened.cache_clear()
    yield
    flattening.flattened.cache_clear()


@pytest.mark.parametrize("program", [plain((3, 34, 2, 18), "tanh"), flow(2, 5, 2, 2, "gelu")], ids=["plain", "flow"])
def test_tiles_of_large_networks(large, program):
    oracle, fast, x, v = problem(program, m=150)
    assert fast.code.tile == TILES[1]
    check_parity(oracle, fast, x, v)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_registers_that_nobody_reads_and_an_output_that_is_activated(activation):
    check_parity(*problem(branched(activation), m=70))


def test_columns_that_no_stage_uses():
    embedding = sp.csr_array(np.vstack([np.eye(5)[:, [0, 1, 2, 3, 4, 0]], np.zeros((2, 6))]))
    program = Program(
        (1, 2, 1),
        plain((1, 2, 1), "tanh").stages,
        (Block(2, 1, 0, False), Block(1, 2, 2)),
        embedding,
        np.zeros(7),
    )
    check_parity(*problem(program, m=20))
    unused = Program((2, 1), (Stage(1, 0, 0),), (Block(1, 2, 1),), *identity(6))
    check_parity(*problem(unused, m=20))


def results(evaluator, x, v):
    here = evaluator.linearize(x)
    out = [
        here.value,
        here.derivative,
        here.hessian(v),
        here.curvature(v),
        evaluator.value(x),
        evaluator.cellwise(x),
    ]
    if (system := here.system()) is not None:
        out += [system.matrix, system.residual, here.system(np.arange(4)).matrix]
    return out


@pytest.mark.parametrize("program", [plain((2, 20, 9, 2), "tanh"), flow(2, 5, 2, 2, "gelu")], ids=["plain", "flow"])
@pytest.mark.parametrize("law", LAWS)
def test_threads_and_memory_do_not_change_a_bit(monkeypatch, program, law):
    unchanged_bits(monkeypatch, program, law)


def test_threads_and_memory_do_not_change_a_bit_of_large_networks(monkeypatch, large):
    unchanged_bits(monkeypatch, flow(2, 5, 2, 2, "gelu"), "misfit")


def unchanged_bits(monkeypatch, program, law):
    """Compare results for all numbers of threads and some budgets."""
    _, fast, x, v = problem(program, law, m=64 * 40 + 3)
    # Otherwise one thread would do what is as small as this.
    monkeypatch.setattr(drivers, "SMALL", 0)
    expected = results(fast, x, v)
    memory = 4 * 8 * 64 * sum(program.widths)
    threads = numba.get_num_threads()
    try:
        for count in {1, min(2, numba.config.NUMBA_NUM_THREADS)}:
            numba.set_num_threads(count)
            for budget in (fast.memory, 0, 7 * memory, 35 * memory):
                other = CompiledEvaluator(program, fast.quadrature, fast.ansatz, fast.law, budget)
                for a, b in zip(results(other, x, v), expected, strict=True):
                    assert np.array_equal(a, b)
    finally:
        numba.set_num_threads(threads)
    assert expected[0] == expected[4]


def test_several_python_threads_may_ask_the_same_evaluator(monkeypatch):
    _, fast, x, v = problem(plain((2, 20, 9, 2), "tanh"), m=64 * 20)
    monkeypatch.setattr(drivers, "SMALL", 0)
    expected, interval = results(fast, x, v), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _: results(fast, x, v), range(100)):
                assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
            for _ in range(50):
                here, product = fast.linearize(x), fast.linearize(x).hessian(v)
                assert all(np.array_equal(found, product) for found in pool.map(here.hessian, [v] * 4))
    finally:
        sys.setswitchinterval(interval)


def test_compilation_is_announced_once(tmp_path):
    script = "import numba, numpy\nfrom dnnfem.kernels.compiled import drivers\n"
    script += "numba.njit(lambda x: x)(1)\nprint('quiet', flush=True)\n"
    script += "drivers.mirror(numpy.eye(2)); drivers.mirror(numpy.eye(2, dtype=numpy.float32))"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for lines in (1, 0):
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, check=True, timeout=120.0, env=environment, capture_output=True, text=True)
        assert done.stdout == "quiet\n" and len(done.stderr.splitlines()) == lines, done.stderr
        assert lines == 0 or "dnnfem compiles its kernels" in done.stderr


FORKED = """
import multiprocessing, warnings
import numpy as np
import dnnfem
from dnnfem.kernels.compiled import drivers

def product(queue):
    queue.put(functional.linearize(x).hessian(x))

warnings.simplefilter("ignore", DeprecationWarning)
drivers.SMALL = 0
points = np.random.default_rng(0).uniform(-1.0, 1.0, (500, 2))
space = dnnfem.FeedforwardSpace(2, (20, 20), 1)
functional, x = dnnfem.Regression(points, points[:, 0]).on(space), space.initial()
expected = functional.linearize(x).hessian(x)
context = multiprocessing.get_context("fork")
queue = context.Queue()
child = context.Process(target=product, args=(queue,))
child.start()
assert np.array_equal(queue.get(timeout=60.0), expected)
child.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_has_threads_of_its_own():
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=120.0, env=environment)


SPAWNED = """
import multiprocessing, sys
import numpy as np
import dnnfem

def product(functional, x, queue):
    queue.put((functional.value(x), functional.linearize(x).hessian(x)))

if __name__ == "__main__":
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (100, 2))
    space = dnnfem.FeedforwardSpace(2, (5,), 1)
    functional, x = dnnfem.Regression(points, points[:, 0], backend=sys.argv[1]).on(space), space.initial()
    expected = functional.value(x), functional.linearize(x).hessian(x)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=product, args=(functional, x, queue))
    child.start()
    found = queue.get(timeout=60.0)
    child.join()
    assert found[0] == expected[0] and np.array_equal(found[1], expected[1])
"""


@pytest.mark.parametrize("backend", ["compiled", "device"])
def test_a_functional_goes_to_another_process(tmp_path, backend):
    script = tmp_path / "spawned.py"
    script.write_text(SPAWNED)
    subprocess.run([sys.executable, str(script), backend], check=True, timeout=120.0)


@pytest.mark.parametrize("backend", ["compiled", "device"])
def test_columns_are_told_apart_by_what_they_choose(backend):
    _, fast, x, _ = problem(plain((2, 2, 1), "tanh"))
    placed = kernels.place(fast.program, fast.quadrature, fast.ansatz, fast.law, backend=backend)
    here = placed.linearize(x)
    mask = np.zeros(9, dtype=bool)
    mask[0] = True
    for columns in (np.array([1]), np.array([1, 0], dtype=np.int32), mask, slice(2, 4), slice(0, 1)):
        expected = on_host(here.system().matrix)[:, np.arange(9)[columns]]
        close(here.system(columns).matrix, expected)


@pytest.mark.parametrize("backend", ["compiled", "device"])
def test_the_matrix_of_the_last_point_is_remembered(backend):
    program, random = plain((2, 5, 1), "tanh"), np.random.default_rng(0)
    quadrature = Quadrature.samples(random.standard_normal((30, 2)), random.standard_normal((30, 1)))
    ansatz = AffineAnsatz(np.zeros(2), np.ones(2), np.zeros(1), np.ones(1))
    evaluator = kernels.load(backend).place(program, quadrature, ansatz, Misfit())
    x = random.standard_normal(program.dim)
    single = evaluator.linearize(x).gram(single=True)
    first = evaluator.linearize(x).gram()
    assert evaluator.linearize(x.copy()).gram() is first and evaluator.linearize(x).gram(single=True) is single
    assert not np.array_equal(first, single)
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 0.0
    for factor in (2.0, 3.0):
        assert not np.allclose(evaluator.linearize(factor * x).gram(), first)
    again = evaluator.linearize(x).gram()
    assert again is not first and np.array_equal(again, first)


@pytest.mark.parametrize("m", [200, 2000, 20000])
def test_entries_in_single_precision_have_the_error_that_steps_reckon_with(m):
    _, fast, x, _ = problem(plain((2, 9, 8, 1), "tanh"), m=m)
    exact = fast.linearize(x).gram()
    roots = np.sqrt(np.diagonal(exact))
    error = (fast.linearize(x).gram(single=True) - exact) / np.outer(roots, roots)
    assert 0.01 * SINGLE <= np.sqrt(np.mean(error**2)) <= SINGLE


@pytest.mark.parametrize("backend", ["compiled", "device"])
@pytest.mark.parametrize("unit", [1e-20, 1e20])
def test_what_single_precision_cannot_hold_is_summed_up_in_double(backend, unit):
    oracle, _, x, _ = problem(plain((2, 5, 1), "tanh"))
    ansatz = AffineAnsatz(np.zeros(2), np.ones(2), np.zeros(1), np.full(1, unit))
    evaluator = kernels.load(backend).place(oracle.program, oracle.quadrature, ansatz, oracle.law)
    assert np.array_equal(evaluator.linearize(x).gram(single=True), evaluator.linearize(x).gram())


def test_linearizations_do_not_share_memory():
    _, fast, x, v = problem(plain((2, 8, 1), "tanh"))
    alone = results(fast, x, v)
    here = fast.linearize(x)
    assert here.value == alone[0]
    for k in range(4):
        there = fast.linearize(x + 0.1 * k)
        there.hessian(v)
        fast.value(x - 1.0)
        del there
        gc.collect()
    assert np.array_equal(here.hessian(v), alone[2]) and np.array_equal(here.derivative, alone[1])


def test_a_linearization_does_not_follow_its_argument():
    _, fast, x, _ = problem(plain((2, 8, 1), "tanh"))
    expected, here = fast.value(x), fast.linearize(x)
    x += 1.0
    assert here.value == expected


@pytest.mark.parametrize("backend", ["reference", "compiled"])
@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
@pytest.mark.parametrize("law", LAWS)
def test_taylor_orders(backend, activation, law):
    oracle, fast, x, v = problem(plain((2, 5, 4, 2), activation), law, m=70)
    evaluator = oracle if backend == "reference" else fast
    s = v[:, 0] / np.linalg.norm(v[:, 0])
    here, steps = evaluator.linearize(x), 0.2 * 0.5 ** np.arange(6)
    change = np.array([evaluator.value(x + t * s) - here.value for t in steps])
    linear = change - steps * (here.derivative @ s)
    quadratic = linear - 0.5 * steps**2 * (s @ here.hessian(s))
    assert np.median(convergence_order(steps, abs(linear))) == pytest.approx(2.0, abs=0.25)
    assert np.median(convergence_order(steps, abs(quadratic))) > 2.7


@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
def test_reference_jets_are_derivatives(activation):
    oracle, _, x, _ = problem(flow(2, 4, 2, 2, activation))
    points, h = np.random.default_rng(2).uniform(-1, 1, (5, 2)), 1e-5
    components = ((), (0,), (1,), (0, 1), (1, 1), (0, 1, 1), (1, 1, 1, 0))
    jet = dict(zip(components, oracle.jet(x, points, components), strict=True))
    for component in components[1:]:
        axis, lower = component[-1], component[:-1]
        shift = h * np.eye(2)[axis]
        plus, minus = (oracle.jet(x, points + s, (lower,))[0] for s in (shift, -shift))
        lower_sorted = jet[component]
        assert np.allclose((plus - minus) / (2 * h), lower_sorted, rtol=1e-6, atol=1e-7)


def test_reference_jet_of_one_neuron():
    """``u = c sin(a x + b)``, whose derivatives are known to any order."""
    a, b, c = 1.3, -0.4, 0.7
    program = plain((1, 1, 1), "sin")
    quadrature = Quadrature(np.zeros((1, 1)), np.ones(1), np.zeros((1, 1)))
    ansatz = AffineAnsatz(np.zeros(1), np.ones(1), np.zeros(1), np.ones(1))
    points = np.linspace(-2, 2, 9)[:, None]
    jet = reference.place(program, quadrature, ansatz, Misfit()).jet(
        np.array([a, b, c, 0.0]), points, tuple((0,) * n for n in range(5))
    )
    for n in range(5):
        close(jet[n, 0], c * a**n * np.sin(a * points[:, 0] + b + n * np.pi / 2), 1e-14)


@pytest.mark.parametrize("law", LAWS)
def test_curvature_is_positive_semidefinite(law):
    _, fast, x, _ = problem(plain((2, 4, 2), "tanh"), law)
    matrix = fast.linearize(x).curvature(np.eye(x.size))
    close(matrix, matrix.T)
    assert np.linalg.eigvalsh(0.5 * (matrix + matrix.T)).min() > -1e-13 * np.abs(matrix).max()


def test_linear_regression_hessian():
    """``H = X^T X / m``."""
    random = np.random.default_rng(3)
    points, targets = random.standard_normal((200, 4)), random.standard_normal((200, 1))
    ansatz = AffineAnsatz(np.zeros(4), np.ones(4), np.zeros(1), np.ones(1))
    fast = kernels.load("compiled").place(plain((4, 1), "tanh"), Quadrature.samples(points, targets), ansatz, Misfit())
    here = fast.linearize(random.standard_normal(5))
    design = np.column_stack([points, np.ones(200)])
    close(here.hessian(np.eye(5)), design.T @ design / 200)
    close(here.curvature(np.eye(5)), design.T @ design / 200)


def test_softmax_hessian():
    """``H = (1/m) sum (diag p - p p^T) x (x x^T)``."""
    random = np.random.default_rng(4)
    points, labels = random.standard_normal((200, 3)), random.integers(0, 4, (200, 1))
    ansatz = AffineAnsatz(np.zeros(3), np.ones(3), np.zeros(4), np.ones(4))
    quadrature = Quadrature.samples(points, labels)
    fast = kernels.load("compiled").place(plain((3, 4), "tanh", False), quadrature, ansatz, CrossEntropy())
    x = random.standard_normal(12)
    u = points @ x.reshape(4, 3).T
    p = np.exp(u) / np.exp(u).sum(axis=1, keepdims=True)
    inner = np.einsum("mi,ij->mij", p, np.eye(4)) - np.einsum("mi,mj->mij", p, p)
    expected = np.einsum("mij,ma,mb->iajb", inner, points, points).reshape(12, 12) / 200
    close(fast.linearize(x).hessian(np.eye(12)), expected)
    close(fast.linearize(x).curvature(np.eye(12)), expected)


logits = arrays(np.float64, st.tuples(st.integers(2, 6), st.integers(1, 5)), elements=st.floats(-300.0, 300.0))


@given(logits, st.integers(0, 2**16))
def test_cross_entropy_roots(u, seed):
    """``S^T S = diag p - p p^T`` and ``S^T r = p - e_y``, also where probabilities vanish."""
    k, m = u.shape
    labels = np.random.default_rng(seed).integers(0, k, m)
    law = CrossEntropy().linearize(np.zeros((m, 1)), labels[:, None].astype(float), u[None])
    p, root, r = law.probabilities, law.slopes[:, 0], law.residual
    onehot = np.arange(k)[:, None] == labels
    exact = np.einsum("im,ij->ijm", p, np.eye(k)) - np.einsum("im,jm->ijm", p, p)
    assert np.allclose(np.einsum("rim,rjm->ijm", root, root), exact, rtol=0.0, atol=4 * k * np.finfo(float).eps)
    assert np.allclose(np.einsum("rim,rm->im", root, r), p - onehot, rtol=0.0, atol=1e-15 * k)
    assert np.allclose(p.sum(axis=0), 1.0) and np.isfinite(r).all()
    assert np.allclose(law.density, special.logsumexp(u, axis=0) - u[labels, np.arange(m)], rtol=1e-13, atol=1e-12)


@given(logits, st.floats(-100.0, 100.0))
def test_cross_entropy_does_not_see_a_constant(u, constant):
    data = np.zeros((u.shape[1], 1))
    one, two = (CrossEntropy().linearize(np.zeros_like(data), data, v[None]) for v in (u, u + constant))
    assert np.allclose(one.density, two.density, rtol=1e-12, atol=1e-12)
    assert np.allclose(one.derivative.sum(axis=1), 0.0, atol=1e-15)
    assert np.abs(one.hessian(np.ones((1, *u.shape)))).max() < 1e-15


def test_cross_entropy_keeps_its_digits():
    """A sample that is almost certain has the derivative of the small probabilities, not of their rounding."""
    law = CrossEntropy().linearize(np.zeros((1, 1)), np.zeros((1, 1)), np.array([[[0.0], [-40.0], [-50.0]]]))
    assert law.derivative[0, 0, 0] == pytest.approx(-np.exp(-40.0) - np.exp(-50.0), rel=1e-14)
    far = CrossEntropy().linearize(np.zeros((1, 1)), np.zeros((1, 1)), np.array([[[-5000.0], [0.0]]]))
    assert far.density[0] == 5000.0 and np.array_equal(far.derivative[0, :, 0], [-1.0, 1.0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_coefficient_that_is_not_finite_shows(activation, bad):
    _, fast, x, _ = problem(plain((2, 5, 3, 1), activation))
    x[-1] = bad
    assert not np.isfinite(fast.value(x)) and not np.isfinite(fast.linearize(x).value)
    if np.isnan(bad):
        x[-1], x[2] = 0.0, bad
        assert np.isnan(fast.value(x)) and np.isnan(fast.linearize(x).derivative).any()


def test_what_the_backend_does_not_do():
    _, fast, x, _ = problem(plain((2, 3, 1), "tanh"))
    with pytest.raises(ValueError, match=r"\(3,\).*\(13,\)"):
        fast.value(np.zeros(3))
    with pytest.raises(ValueError, match=r"\(3,\).*\(13,\)"):
        fast.linearize(x).hessian(np.zeros(3))
    assert fast.jet(x, np.zeros((0, 2)), VALUES).shape == (1, 1, 0)
    assert fast.linearize(x).hessian(np.zeros((13, 0))).shape == (13, 0)


def test_kernels_older_than_their_sources_are_discarded(tmp_path):
    script = "from dnnfem.kernels.compiled import drivers\nimport numpy\ndrivers.mirror(numpy.eye(2))\n"
    script += "print(sum(drivers.mirror.stats.cache_hits.values()), drivers.mirror.stats.cache_path)"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def hits():
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, check=True, timeout=120.0, env=environment, capture_output=True, text=True)
        count, path = done.stdout.split(maxsplit=1)
        return int(count), Path(path.strip())

    assert hits()[0] == 0
    count, path = hits()
    assert count == 1
    (index,) = path.glob("drivers.mirror-*.nbi")
    other = path / "foreign.function-1.py311.nbi"
    other.touch()
    for file in (index, other):
        os.utime(file, (0, 0))
    assert hits()[0] == 0 and other.exists()
    assert hits()[0] == 1
