"""Rounding errors of the compiled backend on small networks, against the same operations with 50 digits.

An error may be at most 1e-14 times the *condition* of the number it is in: the sum of what the number changes by, to
first order and in units of eps, if each number that goes in, each product and each activation changes by a factor
``1 + eps``; of a derivative of an activation, the change is eps times its largest value.  Sums do not count: the
condition does not grow with the number of terms but with their size.
"""

from dataclasses import dataclass
from itertools import combinations

import mpmath
import numpy as np
import pytest
from mpmath import mpf
from test_activations import exact, exact_derivatives
from test_kernels import plain

from dnnfem import kernels
from dnnfem.kernels.activations import derivatives
from dnnfem.kernels.components import Laplacian
from dnnfem.kernels.laws import Misfit
from dnnfem.problems.ansatz import AffineAnsatz
from dnnfem.quadrature import Quadrature

DIGITS = 50
TOLERANCE = 1e-15
"""A tenth of what is asked for; what is found is 2e-16."""
WIDTHS = ((2, 5, 1), (2, 8, 3, 2), (1, 4, 4, 3, 1))


def size(value):
    return np.asarray(np.abs(value), dtype=float)


@dataclass(frozen=True)
class Number:
    """Arrays of exact numbers and of their conditions."""

    value: np.ndarray
    change: np.ndarray

    @classmethod
    def given(cls, value):
        return cls(np.vectorize(mpf, otypes=[object])(value), np.abs(value))

    def __add__(self, other):
        return Number(self.value + other.value, self.change + other.change)

    def __sub__(self, other):
        return Number(self.value - other.value, self.change + other.change)

    def _times(self, other, product):
        a, b = size(self.value), size(other.value)
        change = product(a, other.change) + product(self.change, b) + product(a, b)
        return Number(product(self.value, other.value), change)

    def __mul__(self, other):
        return self._times(other, np.multiply)

    def __matmul__(self, other):
        return self._times(other, np.matmul)

    def sum(self):
        return Number(self.value.sum(), self.change.sum())


def subsets(s):
    return [frozenset(part) for n in range(len(s) + 1) for part in combinations(sorted(s), n)]


def partitions(s):
    """Return all partitions of a set."""
    if not s:
        return [[]]
    first = min(s)
    return [[part | {first}, *rest] for part in subsets(s - {first}) for rest in partitions(s - part - {first})]


def product(a, b, operation):
    """Multiply numbers with infinitesimal parts, dictionaries from sets of infinitesimals to their factors."""
    out = {}
    for s, left in a.items():
        for t, right in b.items():
            if not s & t:
                term = operation(left, right)
                out[s | t] = out[s | t] + term if s | t in out else term
    return out


LARGEST = {
    name: [np.abs(d).max() for d in derivatives(name, np.linspace(-20, 20, 20001), 6)]
    for name in ("tanh", "sin", "softplus", "gelu", "sigmoid")
}


def activated(name, z):
    """Apply an activation by the formula of Faà di Bruno."""
    origin = z[frozenset()]
    everything = frozenset().union(*z)
    rows = [[exact(name, t), *exact_derivatives(name, t)] for t in origin.value.flat]
    sigma = np.array(rows, dtype=object).T.reshape(-1, *origin.value.shape)
    slopes = [
        Number(sigma[k], size(sigma[k + 1]) * origin.change + (LARGEST[name][k] if k else size(sigma[0])))
        for k in range(len(everything) + 1)
    ]
    out = {frozenset(): slopes[0]}
    for s in subsets(everything)[1:]:
        for partition in partitions(s):
            if all(part in z for part in partition):
                term = slopes[len(partition)]
                for part in partition:
                    term = term * z[part]
                out[s] = out[s] + term if s in out else term
    return out


def network(program, weights, points):
    """Return the outputs (outputs, m), for weights and points with infinitesimal parts."""
    r = points
    for stage in program.stages:
        block = program.blocks[stage.block]
        matrix, bias = {}, {}
        for s, w in weights.items():
            for target, begin, end, shape in (
                (matrix, block.start, block.bias_start, (block.rows, block.columns)),
                (bias, block.bias_start, block.stop, (block.rows, 1)),
            ):
                target[s] = Number(w.value[begin:end].reshape(shape), w.change[begin:end].reshape(shape))
        z = product(matrix, r, Number.__matmul__)
        z = {s: z[s] + bias[s] if s in bias else z[s] for s in z}
        r = z if stage.activation == "identity" else activated(stage.activation, z)
    return r


def case(widths, activation, scaled, m=5):
    """Return a program, an evaluator, coefficients and a direction; scaled: with factors 1e-3, 1 and 1e3."""
    random = np.random.default_rng(sum(widths))
    program = plain(widths, activation)
    d, outputs = program.inputs, program.outputs
    points, data = random.uniform(-2, 2, (m, d)), random.standard_normal((m, outputs))
    quadrature = Quadrature(points, random.uniform(0.1, 1.0, m) / m, data)
    ansatz = AffineAnsatz(np.zeros(d), np.ones(d), np.zeros(outputs), np.ones(outputs))
    fast = kernels.load("compiled").place(program, quadrature, ansatz, Misfit())
    x = 0.6 * random.standard_normal(program.dim)
    if scaled:
        x *= 10.0 ** random.choice([-3.0, 0.0, 3.0], x.size, p=[0.2, 0.6, 0.2])
    return program, fast, x, random.standard_normal(program.dim)


def conditioned(found, expected):
    """Return the largest error in units of the condition."""
    with mpmath.workdps(DIGITS):
        error = size(np.vectorize(mpf, otypes=[object])(found) - expected.value)
    assert np.isfinite(error).all() and error.shape == expected.change.shape
    return np.max(error / np.maximum(expected.change, 1e-300))


def check(found, expected, scaled):
    assert conditioned(found, expected) <= TOLERANCE
    # Otherwise the bound would say nothing.  Uneven weights make some numbers vanish that nothing else does.
    assert scaled or expected.change.sum() < 1e3 * size(expected.value).sum()


def stacked(numbers):
    return Number(np.array([n.value for n in numbers]), np.array([n.change for n in numbers]))


NOTHING, UNIT, V = frozenset(), frozenset("i"), frozenset("v")


def operations(program, fast, x, v):
    """Return value, derivative, curvature, Hessian and Gram matrix, found and expected."""
    quadrature = fast.quadrature
    points = {NOTHING: Number.given(quadrature.points.T)}
    weights, data = Number.given(quadrature.weights), Number.given(quadrature.data.T)
    parts, half = [], Number.given(np.full((1, 1), 0.5))
    for unit in np.eye(x.size):
        u = network(program, {NOTHING: Number.given(x), UNIT: Number.given(unit), V: Number.given(v)}, points)
        parts.append({**u, NOTHING: u[NOTHING] - data})
    r = parts[0][NOTHING]
    here = fast.linearize(x)
    value = (weights * (half * (r * r))).sum()
    yield here.value, Number(np.array(value.value), np.array(value.change))
    yield here.derivative, stacked([(weights * (r * part[UNIT])).sum() for part in parts])
    yield here.curvature(v), stacked([(weights * (part[UNIT] * part[V])).sum() for part in parts])
    yield here.hessian(v), stacked([(weights * (part[UNIT] * part[V] + r * part[UNIT | V])).sum() for part in parts])
    yield here.gram(), stacked([stacked([(weights * (a[UNIT] * b[UNIT])).sum() for b in parts]) for a in parts])


@pytest.mark.parametrize("scaled", [False, True], ids=["even", "uneven"])
@pytest.mark.parametrize("activation", ["tanh", "sin", "gelu"])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_products_with_derivatives(widths, activation, scaled):
    with mpmath.workdps(DIGITS):
        for found, expected in operations(*case(widths, activation, scaled)):
            check(found, expected, scaled)


COMPONENTS = (
    ((0,), (1,)),
    (Laplacian((0, 1), (1.0, 1.0)),),
    ((0, 0, 1, 1), (1, 1, 1, 1)),
)


def jets(program, fast, x, components):
    """Return the jet at the points, found and expected: each derivative has an infinitesimal of its own."""
    points = fast.quadrature.points
    weights, expected = {NOTHING: Number.given(x)}, []
    for component in components:
        total = None
        for axes in [(i, i) for i in component.axes] if isinstance(component, Laplacian) else [component]:
            part = {frozenset({n}): Number.given(np.eye(2)[[axis] * len(points)].T) for n, axis in enumerate(axes)}
            u = network(program, weights, {NOTHING: Number.given(points.T), **part})[frozenset(range(len(axes)))]
            total = u if total is None else total + u
        expected.append(total)
    return fast.jet(x, points, components), stacked(expected)


@pytest.mark.parametrize("scaled", [False, True], ids=["even", "uneven"])
@pytest.mark.parametrize("activation", ["tanh", "sin", "gelu"])
@pytest.mark.parametrize("widths", [(2, 5, 1), (2, 8, 3, 2)], ids=str)
def test_jets(widths, activation, scaled):
    with mpmath.workdps(DIGITS):
        for components in COMPONENTS:
            check(*jets(*case(widths, activation, scaled)[:3], components), scaled)
