"""Collocation: a network, a lift and a factor written by hand, exact conditions, sizes of equations, convergence."""

import dataclasses
import gc
import math
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import DEVICE
from test_kernels import check_parity, on_host

import dnnfem as fem
from dnnfem.functionals import Sum
from dnnfem.kernels.components import Laplacian, order, order_in
from dnnfem.problems import lift
from dnnfem.problems.fields import Points
from dnnfem.quadrature import BoxMesh, Quadrature, SobolPoints, UnionMesh
from dnnfem.testing import check_functional

BACKENDS = {"reference": {"backend": "reference"}, "compiled": {}, "device": {"device": DEVICE}}

PI = math.pi


def few(low, high, count=32):
    """Return some points, and none on the boundary."""
    return SobolPoints(low, high, count, seed=3).quadrature()


def sides(quadrature, *names):
    """Return a quadrature with regions on sides of the unit box, ``x0 = 0``, ``x0 = 1``, or at its beginning.

    A name says which side, or is one of a pair with that.
    """
    regions = {}
    for given in names:
        name, place = given if isinstance(given, tuple) else (given, given)
        low, high = np.zeros(quadrature.inputs), np.ones(quadrature.inputs)
        axis = quadrature.inputs - 1 if name == "initial" else int(place.split("x")[-1][0])
        low[axis] = high[axis] = 0.0 if name == "initial" else float(place.split("= ")[1])
        regions[name] = BoxMesh.uniform(low, high, 2, 2).quadrature()
    return Quadrature(
        quadrature.points, quadrature.weights, quadrature.data, quadrature.cells, quadrature.mesh, regions
    )


def gradient(rows, points):
    """Return the derivatives of rows (k, m) that depend on points (m, d), shape (k, m, d)."""
    return torch.stack(
        [
            torch.autograd.grad(row.sum(), points, create_graph=True, allow_unused=True, materialize_grads=True)[0]
            for row in rows
        ]
    )


def derivative(function, points, *axes):
    """Return a derivative of a function (m, d) -> (outputs, m) by repeated reverse differentiation."""
    at = torch.tensor(points, requires_grad=True)
    rows = function(at)
    for axis in axes:
        rows = gradient(rows, at)[..., axis] if rows.requires_grad else torch.zeros_like(rows)
    return rows.detach().numpy()


# ---- an oracle


@dataclass(frozen=True)
class Case:
    """A problem whose conditions are the values of one function ``g`` of the coordinates."""

    low: tuple
    high: tuple
    where: tuple
    outputs: int = 1
    timed: bool = False
    velocity: bool = False
    periodic: tuple = ()
    hidden: tuple = (5,)

    @property
    def space(self):
        """Number of coordinates in space."""
        return len(self.low) - self.timed

    def g(self, points):
        """Return values (outputs, m) at points (m, d): with the period of the box, if there is one."""
        z = [(c - a) / (b - a) for c, a, b in zip(points.T, self.low, self.high, strict=True)]
        z = [torch.sin(2 * PI * c) if i in self.periodic else c for i, c in enumerate(z)]
        mixed = sum((i + 1.3) * c for i, c in enumerate(z))
        return torch.stack([torch.sin(mixed + k) + math.prod(1.0 + k + c * c for c in z) for k in range(self.outputs)])

    def start(self, p):
        return self.g(p.coordinates)

    def speed(self, p):
        with torch.enable_grad():
            at = p.coordinates if p.coordinates.requires_grad else p.coordinates.clone().requires_grad_()
            return gradient(self.g(at), at)[..., -1]

    def problem(self, law, **options):
        """Return the problem on few points."""
        velocity = self.speed if self.velocity else None
        return fem.Collocation(
            law,
            fem.Box(self.low[: self.space], self.high[: self.space]),
            time=(self.low[-1], self.high[-1]) if self.timed else None,
            dirichlet=dict.fromkeys((s for s in self.where if s[0] < self.space), self.start) or None,
            initial=self.start if self.timed and (self.space, 0) in self.where else None,
            velocity=velocity,
            periodic=self.periodic,
            outputs=self.outputs,
            **{"quadrature": few(self.low, self.high), **options},
        )

    @property
    def network(self):
        return fem.FeedforwardSpace(len(self.low), self.hidden, self.outputs, periodic=self.periodic)

    def u(self, x):
        """Return the solution with coefficients x as a function of torch: ``g - (I - P_1) ... (I - P_d) g + f N``."""
        low, high = torch.tensor(self.low, dtype=torch.float64), torch.tensor(self.high, dtype=torch.float64)

        def replaced(points, axis, value):
            return torch.stack([torch.full_like(c, value) if i == axis else c for i, c in enumerate(points.T)], dim=1)

        def minus(f, axis):
            ends = [end for end in (0, 1) if (axis, end) in self.where]

            def remainder(points):
                s = (points[:, axis] - low[axis]) / (high[axis] - low[axis])
                left, right = (replaced(points, axis, float(c[axis])) for c in (low, high))
                if ends == [0, 1]:
                    return f(points) - (1 - s) * f(left) - s * f(right)
                if axis == self.space and self.velocity:
                    return f(points) - f(left) - (points[:, axis] - low[axis]) * gradient(self.g(left), left)[..., axis]
                return f(points) - f(right if ends == [1] else left)

            return remainder

        def total(points):
            rest = self.g
            # Time comes first, as the velocity is taken of g itself.
            for axis in sorted({axis for axis, _ in self.where}, reverse=True):
                rest = minus(rest, axis)
            z = 2 * (points - low) / (high - low) - 1
            waves = [torch.cos(PI * z[:, i]) for i in self.periodic]
            y = [torch.sin(PI * c) if i in self.periodic else c for i, c in enumerate(z.T)] + waves
            y, start, widths = torch.stack(y), 0, (*self.hidden, self.outputs)
            for number, width in enumerate(widths):
                count = len(y) * width
                matrix, bias = torch.tensor(x[start : start + count]), torch.tensor(x[start + count :][:width])
                y, start = matrix.reshape(width, -1) @ y + bias[:, None], start + count + width
                y = y if number == len(widths) - 1 else torch.tanh(y)
            factor = 1.0
            for axis in range(len(self.low)):
                s = (z[:, axis] + 1) / 2
                for end in (0, 1):
                    factor = factor * ((2 - 2 * s if end else 2 * s) if (axis, end) in self.where else 1)
                ends = [end for end in (0, 1) if (axis, end) in self.where]
                # One factor alone is s or 1 - s; with the velocity it is s^2.
                factor = factor / 2 if len(ends) == 1 else factor
                factor = factor * s if axis == self.space and ends and self.velocity else factor
            return (self.g(points) - rest(points) if self.where else 0) + factor * y

        return total


def both(*axes):
    return tuple((axis, end) for axis in axes for end in (0, 1))


CASES = {
    "interval": Case((-0.5,), (1.5,), both(0)),
    "one end": Case((2.0,), (2.7,), ((0, 1),)),
    "square": Case((0.0, -1.0), (1.0, 1.5), both(0, 1), hidden=(4, 3)),
    "a side is missing": Case((0.0, -1.0), (1.0, 1.5), (*both(0), (1, 1)), outputs=2),
    "no conditions": Case((0.0, 0.0), (2.0, 1.0), ()),
    "cube": Case((0.0, 0.0, 1.0), (1.0, 0.5, 2.0), (*both(0, 2), (1, 0))),
    "heat": Case((0.0, 0.1), (1.0, 0.6), (*both(0), (1, 0)), timed=True),
    "wave": Case((0.0, -1.0, 0.1), (2.0, 0.0, 0.6), (*both(0), (1, 1), (2, 0)), 2, timed=True, velocity=True),
    "start alone": Case((0.0, 0.0), (1.0, 2.0), ((1, 0),), timed=True, velocity=True),
    "periodic": Case((0.0, 0.0, 0.0), (2.0, 1.0, 1.0), (*both(1), (2, 0)), timed=True, periodic=(0,)),
}


def derivatives(case):
    """Return multi-indices up to order 2, and some of higher order unless the lift is a derivative itself."""
    d = len(case.low)
    found = [(), *((i,) for i in range(d)), *((i, j) for i in range(d) for j in range(i, d))]
    return found if case.velocity else [*found, (0, 0, 0), (0, 0, d - 1, d - 1)]


def everything(case):
    """Return a law that reads all of it."""
    d, timed = case.space, case.timed

    def law(p, u):
        m = p.x.shape[1]
        parts = [u.d(*("t" if timed and axis == d else axis for axis in axes)) for axes in derivatives(case)]
        parts += [u.value, u.grad, u.hess, u.laplacian] + ([u.dt, u.dtt, u.d(0, "t")] if timed else [])
        return torch.cat([part.reshape(-1, m) for part in parts])

    return law


def by_hand(case, x, points):
    """Return what the law of `everything` has to return."""
    u, d = case.u(x), case.space
    wanted = [*derivatives(case), (), *((i,) for i in range(d)), *((i, j) for i in range(d) for j in range(d))]
    found = [derivative(u, points, *axes) for axes in wanted]
    found.append(sum(derivative(u, points, i, i) for i in range(d)))
    if case.timed:
        found += [derivative(u, points, *axes) for axes in ((d,), (d, d), (0, d))]
    return found


@pytest.mark.parametrize("name", CASES)
def test_what_a_law_reads_is_what_autograd_finds_of_a_network_by_hand(name):
    case = CASES[name]
    space = case.network
    x = np.random.default_rng(1).standard_normal(space.dim)
    points = few(case.low, case.high).points
    expected = by_hand(case, x, points)
    for options in BACKENDS.values():
        problem = case.problem(everything(case), **options)
        assert problem.laws["law"].affine
        rows = on_host(problem.on(space).linearize(x).residual()).reshape(-1, len(points)) * math.sqrt(len(points))
        rows *= problem.laws["law"].scale[:, None]
        # `grad` of several outputs runs over coordinates first.
        start = 0
        for part in expected:
            found = rows[start : start + len(part)]
            assert np.abs(found - part).max() <= 1e-11 * (1.0 + np.abs(part).max())
            start += len(part)
        assert start == len(rows)


def test_the_normal_points_outward_and_is_what_u_is_differentiated_along():
    case = Case((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (), outputs=2, timed=True)
    parts = [sides(few(case.low, case.high), f"x{axis} = {end}").regions for axis, end in both(0, 1)]
    meshes = [part.mesh for regions in parts for part in regions.values()]
    quadrature = dataclasses.replace(
        few(case.low, case.high), regions={"boundary": UnionMesh(tuple(meshes)).quadrature()}
    )

    def flux(p, u):
        along = sum(n * g for n, g in zip(p.normal, u.grad, strict=True))
        return torch.cat([u.normal, along, p.normal + u[0].value])

    problem = case.problem(lambda p, u: u.value, boundary=flux, quadrature=quadrature)
    x = np.random.default_rng(1).standard_normal(case.network.dim)
    term = problem.on(case.network).terms[1]
    assert term.region == "boundary"
    whole = np.asarray(term.linearize(x).residual()).reshape(-1, len(term.quadrature))
    whole *= term.law.scale[:, None] / np.sqrt(term.quadrature.weights)
    for rows, points, (axis, end) in zip(
        np.split(whole, 4, axis=1), np.split(term.quadrature.points, 4), both(0, 1), strict=True
    ):
        assert (points[:, axis] == end).all()
        outward = (2 * end - 1) * derivative(case.u(x), points, axis)
        assert np.allclose(rows[:2], outward, rtol=1e-11, atol=1e-11) and np.allclose(rows[2:4], outward, atol=1e-11)
        normal = np.zeros((2, len(points)))
        normal[axis] = 2 * end - 1
        assert np.allclose(rows[4:] - derivative(case.u(x), points)[0], normal, atol=1e-12)
    for law in (lambda p, u: u.normal, lambda p, u: u.value + p.normal[0]):
        with pytest.raises(ValueError, match="p.normal: got a point inside .*, expected one on its boundary"):
            case.problem(law)


# ---- exactness


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.where])
def test_conditions_hold_whatever_the_coefficients_are(name):
    case = CASES[name]
    problem, random = case.problem(lambda p, u: u.value), np.random.default_rng(2)
    for _ in range(3):
        solution = problem.solution(case.network, 10.0 * random.standard_normal(case.network.dim))
        for axis, end in case.where:
            points = random.uniform(case.low, case.high, (40, len(case.low)))
            points[:, axis] = (case.low, case.high)[end][axis]
            expected = case.g(torch.tensor(points)).numpy().T
            scale = np.abs(solution(random.uniform(case.low, case.high, (40, len(case.low))))).max()
            assert np.abs(solution(points) - expected).max() <= 1e-14 * max(scale, 10.0)
            if axis == case.space and case.velocity:
                speed = derivative(case.g, points, axis).T
                assert np.abs(solution.gradient(points)[:, :, axis] - speed).max() <= 1e-13 * max(scale, 10.0)


@pytest.mark.parametrize("far", [1e3, 1e6])
def test_far_from_the_origin_nothing_is_lost_in_rounding(far):
    near, there = (
        fem.Collocation(
            lambda p, u: u.laplacian + u,
            fem.Box([offset], [offset + 1.0]),
            time=(offset, offset + 2.0),
            dirichlet=0.0,
            initial=0.0,
            velocity=lambda p, c=offset: torch.sin(PI * (p.x[0] - c)) ** 3,
            quadrature=few((offset, offset), (offset + 1.0, offset + 2.0)),
        )
        for offset in (0.0, far)
    )
    space = fem.FeedforwardSpace(2, (6,), 1)
    x = space.initial(0)
    # The coordinates themselves have an error of that size.
    rounding = 100.0 * np.finfo(float).eps * far
    a, b = (np.asarray(problem.on(space).linearize(x).residual()) for problem in (near, there))
    assert np.abs(a - b).max() <= rounding * np.abs(a).max()
    # On the sides the values are exact nevertheless.
    points = np.array([[far, far + 1.3], [far + 1.0, far + 0.4], [far + 0.3, far]])
    assert np.abs(there.solution(space, x)(points)).max() <= 1e-15


@pytest.mark.parametrize("name", ["interval", "square", "a side is missing", "cube", "heat"])
def test_what_g_is_inside_the_domain_changes_no_bit(name):
    case = CASES[name]

    class Bubble(Case):
        def start(self, p):
            # Zero on the sides, exactly; and no number inside.
            inside = math.prod((p.coordinates[:, axis] - (self.low, self.high)[end][axis]) for axis, end in self.where)
            return self.g(p.coordinates) + torch.where(inside == 0.0, 0.0 * inside, math.nan)

    other = Bubble(**vars(case))
    x = case.network.initial(0)
    a, b = (c.problem(lambda p, u: u.laplacian + u).on(case.network).linearize(x) for c in (case, other))
    assert a.value == b.value and np.array_equal(a.derivative, b.derivative)


def test_a_lift_is_differentiated_some_points_at_a_time(monkeypatch):
    conditions = fem.Collocation(
        lambda p, u: u.laplacian, fem.Box([0.0] * 3, [1.0] * 3), dirichlet=lambda p: torch.exp(p.x[0] * p.x[1]) - p.x[2]
    ).ansatz.conditions
    points = torch.as_tensor(np.random.default_rng(0).uniform(size=(50, 3)))
    components = ((), (1,), (0, 1), (2, 2))
    whole, sizes = lift.function_jet(conditions.lift, points, components), []

    def counted(points):
        sizes.append(len(points))
        return conditions.lift(points)

    monkeypatch.setattr(lift, "GRAPH", 27 * 20)
    blocks = lift.function_jet(counted, points, components)
    assert sizes == [20, 20, 10]
    torch.testing.assert_close(blocks, whole, rtol=1e-14, atol=1e-14)


def test_sides_with_the_value_zero_cost_nothing():
    calls = []

    def g(p):
        calls.append(1)
        return torch.sin(PI * p.x[0]) * torch.sin(PI * p.x[1]) * torch.sin(PI * p.x[2])

    problem = fem.Collocation(
        lambda p, u: u.dt - u.laplacian,
        fem.Box([0.0] * 3, [1.0] * 3),
        time=(0.0, 1.0),
        dirichlet=0.0,
        initial=g,
        quadrature=few([0.0] * 4, [1.0] * 4),
    )
    calls.clear()
    points = torch.rand((7, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lift = problem.ansatz.conditions.lift(points)
    start = points.clone()
    start[:, 3] = 0.0
    assert len(calls) == 1 and torch.allclose(lift, g(Points(start, 3)), atol=1e-15)


# ---- backends


def burgers(p, u):
    return u.dt + u * u.grad[0] - 0.1 * u.laplacian


def system(p, u):
    a, b = u
    return [a.dt - b.grad[0] + torch.sin(p.x[0]), b.dt - 4.0 * a.grad[0] * (1.0 + p.t)]


def coupled(p, u):
    a, b = u
    return [a.dt - a.laplacian + a * b**2, b.dt - torch.exp(0.1 * a) * b.laplacian - p.t]


LAWS = {
    "affine": ("heat", lambda p, u: u.dt - p.x[0] * u.laplacian + p.t),
    "Burgers": ("heat", burgers),
    "system": ("start alone", None),
    "curved system": ("wave", coupled),
    "periodic": ("periodic", lambda p, u: u.dt + torch.sin(u) * u.d(0) - u.d(1, 1)),
}


@pytest.mark.parametrize("name", LAWS)
def test_backends_agree(name):
    case, law = CASES[LAWS[name][0]], LAWS[name][1] or system
    if law is system:
        case = Case(case.low, case.high, case.where, 2, True)
    random = np.random.default_rng(4)
    x, v = random.standard_normal(case.network.dim), random.standard_normal((case.network.dim, 3))
    quadrature = few(case.low, case.high, 128)
    functionals = {
        key: case.problem(law, quadrature=quadrature, **options).on(case.network) for key, options in BACKENDS.items()
    }
    for key in ("compiled", "device"):
        check_parity(functionals["reference"].evaluator, functionals[key].evaluator, x, v, 2e-12)
    assert functionals["compiled"].law.affine == (name in ("affine", "system"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("law", [burgers, lambda p, u: u.dt - u.laplacian + p.x[0]], ids=["Burgers", "heat"])
def test_functionals_are_what_they_promise(law, exact, backend):
    case = CASES["heat"]
    problem = fem.Collocation(
        law,
        fem.Box([0.0], [1.0]),
        time=(0.0, 1.0),
        dirichlet={(0, 0): 0.0},
        initial=lambda p: torch.sin(p.x[0]),
        velocity=0.0,
        boundary={(0, 1): lambda p, u: u.normal + u**2 - torch.cos(p.t)},
        exact=exact,
        quadrature=sides(
            few([0.0, 0.0], [1.0, 1.0]),
            *([] if exact else [("dirichlet", "x0 = 0"), "initial"]),
            ("boundary", "x0 = 1"),
        ),
        **BACKENDS[backend],
    )
    J = problem.on(case.network)
    assert isinstance(J, Sum) and len(J.terms) == (2 if exact else 4)
    check_functional(J, case.network.initial(1))


def chunked(p, u):
    return torch.exp(p.x[0] ** 1.7) * u.laplacian + torch.sin(u) ** 3 * torch.pow(1.0 + p.x[1], 0.3)


def test_neither_memory_nor_threads_of_python_change_a_bit():
    space = fem.FeedforwardSpace(2, (6,), 1)
    domain = fem.Box([0.0, 0.0], [1.0, 1.0])
    random = np.random.default_rng(0)
    quadrature = Quadrature(random.uniform(size=(64 * 40 + 3, 2)), 1.0 / 2563)
    x, v = space.initial(0), random.standard_normal(space.dim)

    def results(memory):
        g = lambda p: torch.sin(p.x[0]) * torch.exp(p.x[1])  # noqa: E731
        J = fem.Collocation(chunked, domain, dirichlet=g, quadrature=quadrature, memory=memory).on(space)
        return lambda _=0: [(at := J.linearize(x)).value, at.derivative, at.hessian(v), at.residual(), at.gram()]

    expected = results(None)()
    for memory in (0, 10**5, 10**6):
        assert all(map(np.array_equal, results(memory)(), expected))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(results(None), range(20)):
            assert all(map(np.array_equal, found, expected))


def test_nothing_that_was_differentiated_is_kept():
    case = CASES["heat"]
    J, x = case.problem(burgers).on(case.network), case.network.initial(0)

    def tensors():
        here = J.linearize(x)
        assert np.isfinite(here.hessian(here.derivative)).all() and here.gram().shape == (len(x), len(x))
        del here
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    first = tensors()
    assert [tensors() for _ in range(3)] == [first] * 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_where_the_network_is_infinite_the_value_is_infinite_and_no_NaN(backend):
    # As many points as fill tiles: those that are added for that have the weight zero, and there is no 0 * infinity.
    case = CASES["square"]
    problem = case.problem(lambda p, u: u.value, quadrature=few(case.low, case.high, 64), **BACKENDS[backend])
    space = fem.FeedforwardSpace(2, (3,), 1)
    x = space.initial(0)
    x[-4:] = 1e308
    x[:-4] = 0.0
    x[6:9] = 30.0
    J = problem.on(space)
    with np.errstate(over="ignore"):
        assert J.value(x) == math.inf
        assert math.isinf(np.asarray(problem.solution(space, x)([[0.5, 0.5]]))[0, 0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_default_type_of_torch_does_not_matter(dtype):
    case, before = CASES["wave"], torch.get_default_dtype()
    x = case.network.initial(0)
    expected = case.problem(coupled).on(case.network).linearize(x)
    try:
        torch.set_default_dtype(dtype)
        found = case.problem(coupled).on(case.network).linearize(x)
        assert found.value == expected.value and np.array_equal(found.derivative, expected.derivative)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_points_may_be_in_single_precision(backend):
    case = CASES["heat"]
    single = few(case.low, case.high).points.astype(np.float32)
    problems = [
        case.problem(burgers, quadrature=Quadrature(p, 1 / 32), **BACKENDS[backend])
        for p in (single, single.astype(float))
    ]
    x = case.network.initial(0)
    a, b = (problem.on(case.network).linearize(x) for problem in problems)
    assert a.value == b.value and np.array_equal(a.derivative, b.derivative)
    assert problems[0].quadrature.points.dtype == np.float32


# ---- what is read of a law


def recorded(law, **options):
    quadrature = few([0.2, 0.2], [1.0, 1.0])
    options = {"quadrature": quadrature, **options}
    return fem.Collocation(law, fem.Box([0.2, 0.2], [1.0, 1.0]), **options).laws["law"]


LAPLACIAN = Laplacian((0, 1), (1.0, 1.0))


@pytest.mark.parametrize(
    "law, affine, components",
    [
        (lambda p, u: u.laplacian, True, {LAPLACIAN}),
        (lambda p, u: u.hess[0, 0] + u.hess[1, 1], True, {(0, 0), (0, 1), (1, 1)}),
        (lambda p, u: u.d(1, 0) + u.d(0, 1), True, {(0, 1)}),
        (lambda p, u: torch.exp(p.x[0]) * u.grad[0] - 3.0 / p.x[1] * u, True, {(0,), (1,), ()}),
        (lambda p, u: 2.0 - u, True, {()}),
        (lambda p, u: torch.where(p.x[0] > 0.5, u.value, u.d(0)), True, {(), (0,)}),
        (lambda p, u: torch.where(p.x[0] > 0.5, 1.0, 1e8) * u, True, {()}),
        (lambda p, u: 1e12 * torch.exp(p.x[0]) + u, True, {()}),
        (lambda p, u: u**2, False, {()}),
        (lambda p, u: 1.0 / u, False, {()}),
        (lambda p, u: torch.where(u > 0, u.value, 2.0 * u), False, {()}),
        (lambda p, u: abs(u), False, {()}),
        (lambda p, u: torch.abs(u.d(0)) + u, False, {(0,), ()}),
        (lambda p, u: u.laplacian + 1e-6 * u**2, False, {LAPLACIAN, ()}),
        (lambda p, u: 1e8 * u.laplacian + 1e-8 * u**2, False, {LAPLACIAN, ()}),
        (lambda p, u: 1e12 + u + 1e-9 * u**3, False, {()}),
        (lambda p, u: u * u.d(0), False, {(), (0,)}),
        (lambda p, u: u + u.value.detach() ** 2, False, {()}),
        (lambda p, u: torch.log(u.value), False, {()}),
        (lambda p, u: torch.sqrt(u.d(0)) * torch.log(-u.d(1)), False, {(0,), (1,)}),
        (lambda p, u: torch.nn.functional.relu(u.value - 50.0) + u, False, {()}),
    ],
)
def test_what_a_law_reads_and_whether_it_is_affine(law, affine, components):
    found = recorded(law)
    assert found.affine == affine and set(found.components) == components


def test_u_is_its_value_in_arithmetic():
    def law(p, u):
        v = u.value
        pairs = [
            (u + 1, v + 1), (1 + u, v + 1), (u - 1, v - 1), (1 - u, 1 - v), (2 * u, 2 * v), (u / 3, v / 3),
            (2 / u, 2 / v), (u**2, v**2), (2**u, 2**v), (-u, -v), (abs(u), v.abs()), (u * u, v * v), (u + u, 2 * v),
            (torch.sin(u), v.sin()), (torch.maximum(u, p.x[0] * u), torch.maximum(v, p.x[0] * v)),
            (torch.stack([u, u]), torch.stack([v, v])), (torch.where(u > 0, u, -u), v.abs()),
            (torch.where(u < 0.5, 1.0, 0.0), (v < 0.5).double()), (torch.where(u >= 0, 1.0, 0.0), (v >= 0).double()),
            (torch.where(u <= p.x[0], 1.0, 0.0), (v <= p.x[0]).double()),
        ]  # fmt: skip
        assert all(torch.equal(a, b) for a, b in pairs)
        return u

    assert recorded(law).affine


def test_outputs_are_numbered_as_sequences_are():
    seen = []

    def law(p, u):
        seen.append(len(u))
        for wrong in (len(u), -len(u) - 1):
            with pytest.raises(IndexError, match=f"u: got output {wrong}, expected one of {len(u)}"):
                u[wrong]
        with pytest.raises(IndexError):
            u[0][0]
        assert torch.equal(u[-1].value, u[len(u) - 1].value)
        return [part.d(0) for part in u]

    for outputs in (1, 3):
        assert len(recorded(law, outputs=outputs).scale) == outputs
    assert set(seen) == {1, 3}


def test_orders_in_one_coordinate():
    for component, orders in {
        (): (0, 0),
        (0, 0, 1): (2, 1),
        LAPLACIAN: (2, 2),
        Laplacian((1,), (1.0,)): (0, 2),
    }.items():
        assert (order_in(0, component), order_in(1, component)) == orders
    assert order(LAPLACIAN) == 2


# ---- sizes


@pytest.mark.parametrize("factor", [1e6, 1e-6, 1e200, 1e-200])
@pytest.mark.parametrize("law", [burgers, lambda p, u: u.dt - u.laplacian + p.x[0]], ids=["Burgers", "heat"])
def test_the_unit_of_an_equation_does_not_matter(law, factor):
    case = CASES["heat"]
    x = case.network.initial(0)
    problems = case.problem(law), case.problem(lambda p, u: factor * law(p, u))
    a, b = (problem.on(case.network).linearize(x) for problem in problems)
    assert abs(a.value - b.value) <= 1e-13 * a.value
    assert np.allclose(a.derivative, b.derivative, rtol=1e-11, atol=1e-12 * np.abs(a.derivative).max())
    # In the units of u: the residual of a function of size one has the size one.
    assert 1e-2 < math.sqrt(2.0 * a.value) < 1e2


def test_scales_do_not_depend_on_the_backend_or_on_how_many_points_there_are():
    found = [CASES["wave"].problem(coupled, **options).laws["law"].scale for options in BACKENDS.values()]
    assert all(np.array_equal(scale, found[0]) for scale in found)
    case = CASES["heat"]
    small, large = (
        case.problem(burgers, quadrature=few(case.low, case.high, n)).laws["law"].scale for n in (64, 16384)
    )
    assert abs(small / large - 1.0) < 0.1


def test_an_equation_that_has_no_value_at_zero_has_a_size():
    small, large = (recorded(lambda p, u, f=f: f * torch.log(u.value)).scale for f in (1.0, 1e9))
    assert abs(large / small / 1e9 - 1.0) <= 1e-12 and 0.1 < small < 10.0


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_beside_terms_for_values_the_laplacian_is_as_large_as_its_stability(dim):
    """On a unit cube ``|Lap v| >= dim pi^2 |v|`` where v is zero on the boundary."""
    options = {"law": lambda p, u: 7.0 * u.laplacian, "domain": fem.Box([0.0] * dim, [1.0] * dim), "dirichlet": 1.0}
    soft, exact = (fem.Collocation(**options, exact=exact).laws for exact in (False, True))
    constant = 7.0 * dim * math.pi**2
    assert constant <= soft["law"].scale[0] <= (1.0 + 2.5 / dim) * constant
    assert soft["dirichlet"].scale[0] == pytest.approx(1.0, abs=0.2)
    # Conditions that hold are in the ansatz, whose factor differs only by its normalization.
    assert exact["law"].scale[0] == pytest.approx(soft["law"].scale[0], rel=0.05)


def test_beside_terms_for_initial_values_a_law_is_as_large_as_on_functions_that_begin_with_zero():
    def sizes(velocity, **more):
        law = (lambda p, u: u.dtt) if velocity else (lambda p, u: u.dt)
        options = {"time": (1.0, 1.5), "initial": 1.0, "periodic": (0,), "velocity": 0.0 if velocity else None}
        return fem.Collocation(law, fem.Box([0.0], [1.0]), **options, **more).laws["law"].scale[0]

    # The least of |v_t| / |v| with v = 0 at the beginning is pi / (2 T), with T = 0.5; that of v = t is sqrt(3) / T.
    assert math.pi <= sizes(False, exact=False) <= 2.0 * math.sqrt(3.0) * 1.5
    assert sizes(True, exact=False) > 10.0
    for velocity in (False, True):
        assert sizes(velocity, exact=False) == pytest.approx(sizes(velocity, exact=True), rel=0.05)


@pytest.mark.parametrize(
    ("law", "values"),
    [
        (lambda p, u: u.laplacian - 1.0 / u.value, 1.0),
        (lambda p, u: u.laplacian - u.value**3, 100.0),
        (lambda p, u: [u[0].laplacian - u[1].value ** 3, u[1].d(0, 0) + 0.1 * u[0].value ** 3], [1.0, 20.0]),
    ],
)
def test_where_values_are_constant_a_law_has_the_same_size_with_both_kinds_of_conditions(law, values):
    options = {"outputs": np.size(values), "dirichlet": values}
    soft, exact = (fem.Collocation(law, fem.Box([0.0] * 2, [3.0] * 2), exact=e, **options) for e in (False, True))
    assert soft.laws["law"].scale == pytest.approx(exact.laws["law"].scale, rel=1e-9)
    around = fem.Collocation(
        law, fem.Box([0.0] * 2, [3.0] * 2), exact=False, outputs=np.size(values),
        dirichlet=lambda p: torch.stack([v * (1.0 + 0.01 * torch.sin(p.x[0])) for v in np.atleast_1d(values)]),
    )  # fmt: skip
    # Where one of the functions comes near to zero the reciprocal is what it is there.
    near = 0.1 if np.max(values) > 1.0 else 10.0
    assert around.laws["law"].scale == pytest.approx(exact.laws["law"].scale, rel=near)


@pytest.mark.parametrize("domain", ["boxes", "triangles"])
def test_sizes_know_the_boundary_of_other_domains(domain):
    square = fem.Boxes([fem.Box([0.0, 0.0], [0.5, 1.0]), fem.Box([0.5, 0.0], [1.0, 1.0])])
    if domain == "triangles":
        square = fem.Simplices(
            np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), np.array([[0, 1, 2], [0, 2, 3]])
        )
    found = fem.Collocation(lambda p, u: u.laplacian, square, dirichlet=0.0).laws["law"].scale[0]
    assert 2.0 * math.pi**2 <= found <= 8.0 * math.pi**2


def test_equations_of_different_size_are_balanced():
    def law(p, u):
        return [1e8 * (u[0].laplacian - u[1]), 1e-8 * (u[1].d(0) + u[0])]

    problem = recorded(law, outputs=2)
    case = Case((0.2, 0.2), (1.0, 1.0), (), 2)
    J = case.problem(law, quadrature=few([0.2, 0.2], [1.0, 1.0])).on(case.network)
    assert problem.scale[0] > 1e14 * problem.scale[1]
    parts = [np.linalg.norm(J.linearize(case.network.initial(s)).residual().reshape(2, -1), axis=1) for s in range(9)]
    ratio = np.median([a / b for a, b in parts])
    assert 0.1 < ratio < 10.0


def test_units_of_coordinates_do_not_matter():
    def problem(length):
        def law(p, u):
            return (
                length**2 * u.laplacian + torch.exp(p.x[0] / length) * length * u.d(0) - torch.sin(3 * p.x[0] / length)
            )

        return fem.Collocation(law, fem.Box([0.0], [length]), dirichlet={(0, 0): 0.0, (0, 1): 1.0})

    space = fem.FeedforwardSpace(1, (5,), 1)
    points = np.linspace(0.0, 1.0, 50)[:, None]
    values = []
    for length in (1.0, 1000.0):
        result = fem.gauss_newton(problem(length).on(space), space.initial(0), 1e-7, max_steps=60)
        assert result.status.converged
        values.append(problem(length).solution(space, result.x)(length * points))
    assert np.abs(values[0] - values[1]).max() <= 1e-6


# ---- convergence


def error(problem, space, x, exact):
    """Return the largest error at random points."""
    low, high = problem._bounds
    points = np.random.default_rng(0).uniform(low, high, (400, len(low)))
    expected = np.atleast_2d(exact(*points.T))
    return float(np.abs(problem.solution(space, x)(points).T - expected).max())


def poisson(p, u):
    return u.laplacian + 2 * PI**2 * torch.sin(PI * p.x[0]) * torch.sin(PI * p.x[1])


def advection(p, u):
    return u.dt + 0.5 * u.d(0)


MANUFACTURED = {
    "interval": (
        lambda: fem.Collocation(
            lambda p, u: u.d(0, 0) - u + 2 * torch.sin(p.x[0]),
            fem.Box([0], [2]),
            dirichlet={(0, 0): 0.0, (0, 1): math.sin(2.0)},
        ),
        (6,),
        np.sin,
        1e-8,
    ),
    "Neumann and Robin": (
        lambda: fem.Collocation(
            lambda p, u: u.d(0, 0) - u + 2 * torch.sin(p.x[0]),
            fem.Box([0], [2]),
            boundary={
                (0, 0): lambda p, u: u.normal + 1.0,
                (0, 1): lambda p, u: u.normal + 2.0 * u - math.cos(2.0) - 2.0 * math.sin(2.0),
            },
        ),
        (6,),
        np.sin,
        1e-7,
    ),
    "square": (
        lambda: fem.Collocation(
            poisson,
            fem.Box([0, 0], [1, 1]),
            dirichlet=0.0,
            quadrature=BoxMesh.uniform([0, 0], [1, 1], 5, 4).quadrature(),
        ),
        (40,),
        lambda x, y: np.sin(PI * x) * np.sin(PI * y),
        1e-8,
    ),
    "soft": (
        lambda: fem.Collocation(
            lambda p, u: u.d(0, 0) - u + 2 * torch.sin(p.x[0]),
            fem.Box([0], [2]),
            dirichlet=lambda p: torch.sin(p.x[0]),
            exact=False,
        ),
        (6,),
        np.sin,
        1e-7,
    ),
    "periodic advection": (
        lambda: fem.Collocation(
            advection,
            fem.Box([0.0], [2.0]),
            time=(0.0, 1.0),
            initial=lambda p: torch.sin(PI * p.x[0]),
            periodic=(0,),
            quadrature=BoxMesh.uniform([0, 0], [2, 1], 4, 4).quadrature(),
        ),
        (16,),
        lambda x, t: np.sin(PI * (x - 0.5 * t)),
        1e-4,
    ),
    "wave": (
        lambda: fem.Collocation(
            lambda p, u: u.dtt - u.d(0, 0),
            fem.Box([0.0], [1.0]),
            time=(0.0, 0.7),
            dirichlet=0.0,
            initial=0.0,
            velocity=lambda p: PI * torch.sin(PI * p.x[0]),
            quadrature=BoxMesh.uniform([0, 0], [1, 0.7], 4, 4).quadrature(),
        ),
        (20,),
        lambda x, t: np.sin(PI * x) * np.sin(PI * t),
        1e-5,
    ),
}


@pytest.mark.parametrize("name", MANUFACTURED)
def test_manufactured_solutions(name):
    build, hidden, exact, tolerance = MANUFACTURED[name]
    problem = build()
    space = fem.FeedforwardSpace(len(problem._bounds[0]), hidden, 1, periodic=problem.periodic)
    errors, steps = [], 120 if name == "square" else 60
    for seed in range(3):
        result = fem.gauss_newton(problem.on(space), space.initial(seed), 1e-10, max_steps=steps)
        errors.append(error(problem, space, result.x, exact))
    assert np.median(errors) <= tolerance, errors


def test_a_nonlinear_equation():
    problem = fem.Collocation(lambda p, u: u.d(0) - u * (1.0 - u), fem.Box([0.0], [2.0]), dirichlet={(0, 0): 0.2})
    space, errors = fem.FeedforwardSpace(1, (4,), 1), []
    for seed in range(3):
        result = fem.trust_region(problem.on(space), space.initial(seed), 1e-9, curvature=True, max_steps=200)
        errors.append(error(problem, space, result.x, lambda x: 1.0 / (1.0 + 4.0 * np.exp(-x))))
    assert np.median(errors) <= 1e-7, errors


# ---- residual estimate


def bump(place, width=0.02):
    return lambda p, u: u.value - torch.exp(-(((p.x[0] - place) / width) ** 2))


def line(law, cells=4, points=2, **options):
    quadrature = BoxMesh.uniform([0.0], [1.0], cells, points).quadrature()
    return fem.Collocation(law, fem.Box([0.0], [1.0]), **{"quadrature": quadrature, **options})


LINE = fem.FeedforwardSpace(1, (4,), 1)


def test_the_residual_is_that_of_a_much_finer_quadrature():
    for seed in range(3):
        problem = line(
            lambda p, u: u.laplacian + 10.0 * torch.exp(-20.0 * (p.x[0] - 0.3) ** 2) + u**3, 3, 2, dirichlet=0.0
        )
        J = problem.on(LINE)
        x = fem.gauss_newton(J, LINE.initial(seed), 1e-9, max_steps=20).x
        finest = problem.quadrature
        for _ in range(4):
            finest = finest.finer()
        truth = math.sqrt(2.0 * J.on(quadrature=finest).value(x))
        found = fem.residual(J, x)
        assert 0.8 <= found.total / truth <= 1.25
        assert 0.8 <= math.hypot(found.parts["known"], found.parts["points"]) / truth <= 1.25
        assert abs(found.parts["known"] ** 2 - 2.0 * J.value(x)) <= 1e-14
        assert abs(found.total**2 - found.parts["known"] ** 2 - np.sum(found.signed)) <= 1e-14 * (1.0 + found.total**2)
        assert abs(np.sum(found.indicators**2) - found.total**2) <= 1e-14 * (1.0 + found.total**2)


@pytest.mark.parametrize("cell", range(4))
def test_a_bump_between_the_points_is_seen_and_marked(cell):
    quadrature = BoxMesh.uniform([0.0], [1.0], 4, 2).quadrature()
    # A point that only the finer quadrature has.
    place = float(quadrature.finer().points[4 * cell + 1, 0])
    J = line(bump(place)).on(LINE)
    found = fem.residual(J, np.zeros(LINE.dim))
    assert found.parts["known"] <= 1e-2 * found.total
    marked = fem.dorfler(np.abs(found.signed) ** 0.5, theta=0.5)
    assert found.cells[marked].tolist() == [cell] == [int(np.argmax(found.indicators))]
    finer = J.on(quadrature=fem.refine_quadrature(J.quadrature, found.cells[marked]))
    assert len(finer.quadrature) == 10 and fem.residual(finer, np.zeros(LINE.dim)).parts["known"] > 0.5 * found.total


@pytest.mark.parametrize(
    "names", [("boundary on x0 = 0", "boundary on x0 = 1"), ("boundary on x0 = 1", "boundary on x0 = 0")]
)
@pytest.mark.parametrize("interior", [True, False], ids=["with mesh", "without mesh"])
def test_cells_of_regions_are_numbered_as_refinement_takes_them(names, interior):
    quadrature = sides(BoxMesh.uniform([0.0, 0.0], [1.0, 1.0], 2, 2).quadrature(), *names)
    if not interior:
        quadrature = Quadrature(
            quadrature.points, quadrature.weights, cells=quadrature.cells, regions=quadrature.regions
        )
    place = float(quadrature.regions[names[0]].finer().points[1, 1])
    problem = fem.Collocation(
        lambda p, u: u.value,
        fem.Box([0.0, 0.0], [1.0, 1.0]),
        boundary={
            (0, 0): lambda p, u: u.value,
            (0, 1): lambda p, u: u.value - torch.exp(-(((p.x[1] - place) / 0.01) ** 2)),
        },
        quadrature=quadrature,
    )
    space = fem.FeedforwardSpace(2, (3,), 1)
    J = problem.on(space)
    assert [term.region for term in J.terms] == [None, *names]
    found = fem.residual(J, np.zeros(space.dim))
    (marked,) = found.cells[fem.dorfler(found.indicators, theta=0.9)]
    # Another term in front, of points without a mesh, does not change the numbers.
    data = unit(d=2, quadrature=Quadrature([[0.1, 0.2], [0.6, 0.3]], 0.5)).on(space)
    assert np.array_equal(fem.residual(Sum(data, J), np.zeros(space.dim)).cells, found.cells)
    assert marked == quadrature.cell_count + 2 * names.index("boundary on x0 = 1")
    finer = fem.refine_quadrature(quadrature, [marked])
    sizes = {name: len(region) for name, region in finer.regions.items()}
    assert sizes == {"boundary on x0 = 0": 4, "boundary on x0 = 1": 6} and len(finer) == len(quadrature)
    assert fem.residual(J.on(quadrature=finer), np.zeros(space.dim)).parts["known"] > 0.5 * found.total
    assert J.on(quadrature=finer).value(np.zeros(space.dim)) == problem.on(space, finer).value(np.zeros(space.dim))


def test_sequences_of_points_are_one_cell_and_points_alone_are_an_error():
    sobol = line(bump(0.5, 0.2), quadrature=SobolPoints([0.0], [1.0], 64).quadrature()).on(LINE)
    found = fem.residual(sobol, LINE.initial(0))
    assert found.cells.tolist() == [0] and 0.8 <= found.parts["known"] / found.total <= 1.25
    assert len(fem.refine_quadrature(sobol.quadrature, found.cells)) == 128
    plain = line(bump(0.5), quadrature=Quadrature([[0.1], [0.6]], 0.5)).on(LINE)
    with pytest.raises(ValueError, match="functional: got no integral over a mesh, expected one such as"):
        fem.residual(plain, LINE.initial(0))
    with pytest.raises(ValueError, match="x: got"):
        fem.residual(sobol, LINE.initial(0)[:-1])


# ---- bad input


def unit(law=lambda p, u: u.value, d=1, **options):
    return fem.Collocation(law, fem.Box([0.0] * d, [1.0] * d), **options)


def timed(law=lambda p, u: u.dt, **options):
    return fem.Collocation(law, fem.Box([0.0], [1.0]), **{"time": (0.0, 1.0), **options})


def at(point):
    """Return a quadrature with one point where a law is singular, at 0.25."""
    return Quadrature(np.array([[0.75], point]), 0.5)


KINKS = {
    "absolute value": lambda p, u: u.laplacian + u.value.abs(),
    "root": lambda p, u: u.laplacian * torch.sqrt(u.value),
    "quotient": lambda p, u: u.laplacian / u.value,
    "large numbers": lambda p, u: u.laplacian + 1e12,
    "exponential": lambda p, u: u.laplacian - torch.exp(u.value),
    "maximum": lambda p, u: torch.maximum(u.laplacian, u.value),
}


@pytest.mark.parametrize("name", KINKS)
def test_laws_with_kinks_and_singularities_are_taken(name):
    assert unit(KINKS[name]).laws["law"].affine == (name == "large numbers")


WRONG = {
    "shape": (lambda: unit(lambda p, u: u.value[:-1]), r"law: got shape \(63,\), expected \(64,\) at 64 points"),
    "sum over the points": (lambda: unit(lambda p, u: u.grad.sum()), "law: got one number for all points together"),
    "no function": (lambda: unit(lambda p, u: u.value, boundary=3.0), "boundary: got float, expected a function"),
    "three axes": (lambda: unit(lambda p, u: u.hess, d=2), "law: got shape .*, expected"),
    "nothing in a list": (lambda: unit(lambda p, u: []), "law: got an empty list, expected at least one tensor"),
    "NumPy": (lambda: unit(lambda p, u: u.value.detach().numpy()), "law: got ndarray, expected a floating tensor"),
    "nothing": (lambda: unit(lambda p, u: None), "law: got NoneType, expected a floating tensor"),
    "integers": (
        lambda: unit(lambda p, u: u.value.long()),
        "law: got a tensor of torch.int64, expected a floating tensor",
    ),
    "not differentiable": (
        lambda: unit(lambda p, u: [u.value, torch.round(u.value.detach())]),
        "law: got a residual 1 without a derivative in u, expected one that depends on u",
    ),
    "a mean over the points": (
        lambda: unit(lambda p, u: u.laplacian + u.value.mean()),
        "law: got a residual 0 that depends on other points than its own, expected functions of p and u at each point",
    ),
    "neighbours": (
        lambda: unit(lambda p, u: [u.value, u.value.flip(0)]),
        "law: got a residual 1 that depends on other points",
    ),
    "an axis too many": (
        lambda: unit(lambda p, u: u.laplacian[:, None] + p.x[0], d=2),
        r"law: got shape \((\d+), \1\) at \1 points, expected \(\1,\)",
    ),
    "other tensors": (
        lambda: unit(lambda p, u: u.value + torch.ones(7)),
        "law: failed with 'The size of tensor a .*', expected operations of torch on all points at once",
    ),
    "NumPy of what has a graph": (
        lambda: unit(lambda p, u: np.sin(u.grad)),
        "law: failed with .*, expected operations",
    ),
    "NaN in the derivative": (
        lambda: unit(lambda p, u: torch.where(p.x[0] < 0.5, u.value, torch.sqrt((0.0 * u.value) ** 2) + u.value)),
        r"law: got a derivative in u that is NaN or infinite at the point \[0.0\d*\], expected finite numbers",
    ),
    "u is not read": (lambda: unit(lambda p, u: p.x[0]), "law: got residuals that do not read u, expected ones that"),
    "NaN": (
        lambda: unit(lambda p, u: u / (p.x[0] - 0.25), quadrature=at([0.25])),
        r"law: got NaN or infinity at the point \[0.25\], expected finite",
    ),
    "no law": (lambda: unit(3.0), "law: got float, expected a function"),
    "two sides at a corner": (
        lambda: unit(d=2, dirichlet={(0, 0): 0.0, (1, 1): lambda p: 1.0 + p.x[0]}),
        r"dirichlet, dirichlet: got values \[0.0\] and \[1.0\] at \[0.0, 1.0\], where two sides meet, expected equal",
    ),
    "beginning and side": (
        lambda: timed(dirichlet=0.0, initial=1.0),
        r"dirichlet, initial: got values \[0.0\] and \[1.0\] at \[0.0, 0.0\], where two sides meet, expected equal",
    ),
    "velocity and side": (
        lambda: timed(dirichlet=lambda p: 3.0 * p.t, initial=0.0, velocity=1.0),
        r"dirichlet, initial: got derivatives in time \[3.0\] and \[1.0\] at .*, expected equal",
    ),
    "no such side": (
        lambda: unit(dirichlet={(1, 0): 0.0}),
        r"dirichlet: got .* side \(1, 0\), expected some of \(0, 0\)",
    ),
    "no such side of the boundary": (lambda: unit(boundary={0: 0.0}), "boundary: got .* the side 0, expected some of"),
    "periodic side": (
        lambda: unit(dirichlet={(0, 0): 0.0}, periodic=(0,)),
        "dirichlet: got a condition on the side .*, expected some of none, as the problem is periodic",
    ),
    "a jump": (
        lambda: timed(initial=lambda p: p.x[0], periodic=(0,)),
        r"initial: got values \[0.0\] at \[0.0, 0.0\] and \[1.0\] at the other end, expected equal .*exact=False",
    ),
    "a kink": (
        lambda: timed(lambda p, u: u.dt - u.laplacian, initial=lambda p: p.x[0] * (1.0 - p.x[0]), periodic=(0,)),
        r"initial: got derivatives of order 1 in coordinate 0 \[1.0\] at .* and \[-1.0\] at the other end",
    ),
    "a kink and sides": (
        lambda: fem.Collocation(
            lambda p, u: u.dt - u.laplacian,
            fem.Box([0.0, 0.0], [1.0, 1.0]),
            time=(0.0, 1.0),
            periodic=(0,),
            dirichlet=0.0,
            initial=lambda p: p.x[0] * p.x[1] * (1.0 - p.x[1]),
        ),
        r"initial: got values .* at the other end, expected equal",
    ),
    "a jump of the velocity": (
        lambda: timed(lambda p, u: u.dtt, initial=0.0, velocity=lambda p: p.x[0], periodic=(0,)),
        r"initial: got values \[0.0\] at .* and \[1.0\] at the other end, expected equal",
    ),
    "initial without time": (
        lambda: unit(initial=0.0),
        "initial: got a condition for a problem without time, expected",
    ),
    "three initial values": (lambda: timed(initial=(0.0, 0.0, 0.0)), "initial: got 3 rows, expected 1"),
    "velocity alone": (lambda: timed(velocity=0.0), "velocity: got first derivatives in time without initial values"),
    "time backwards": (lambda: timed(time=(1.0, 0.0)), r"time: got \(1.0, 0.0\), expected beginning and end"),
    "time stands still": (lambda: timed(time=(1.0, 1.0)), "time: got .*, expected beginning and end"),
    "one time": (lambda: timed(time=1.0), "time: got 1.0, expected beginning and end"),
    "no domain": (lambda: fem.Collocation(burgers, [0, 1]), "domain: got list, expected a Box"),
    "empty box": (lambda: fem.Box([0, 1], [1, 1]), "high: got 1.0 in coordinate 1, expected more than 1.0"),
    "inverted box": (lambda: fem.Box([0], [-1]), "high: got -1.0 in coordinate 0, expected more than 0.0"),
    "NaN in the box": (lambda: fem.Box([math.nan], [1]), r"low: got \[nan\], expected one finite number"),
    "corners": (lambda: fem.Box([0], [1, 2]), "high: got 2 coordinates, expected 1 as low has"),
    "words": (lambda: fem.Box(["a"], [1]), r"low: got \['a'\], expected one number per coordinate"),
    "outputs": (lambda: unit(outputs=0), "outputs: got 0, expected a positive integer"),
    "period in time": (lambda: timed(periodic=(1,)), r"periodic: got \(1,\), expected different coordinates in space"),
    "one period": (lambda: timed(periodic=0), "periodic: got 0, expected different coordinates in space"),
    "dimension": (lambda: unit(d=2, quadrature=at([0.2])), "quadrature: got points with 1 coordinates, expected 2"),
    "regions": (
        lambda: unit(boundary=lambda p, u: u.normal, quadrature=at([0.2])),
        r"quadrature: got the regions \[\], expected \['boundary'\]",
    ),
    "regions nobody reads": (
        lambda: unit(quadrature=sides(at([0.2]), ("boundary", "x0 = 0"))),
        r"quadrature: got the regions \['boundary'\], expected \[\]",
    ),
    "inputs": (lambda: unit().on(fem.FeedforwardSpace(2, (3,), 1)), "space: got 2 inputs .*, expected 1"),
    "outputs of the space": (
        lambda: unit().on(fem.FeedforwardSpace(1, (3,), 2)),
        "space: got 2 outputs .*, expected 1",
    ),
    "period of the space": (
        lambda: unit(periodic=(0,)).on(fem.FeedforwardSpace(1, (3,), 1)),
        r"space: got .*, periodic in \(\), expected one that is in \(0,\)",
    ),
    "relu": (
        lambda: unit(lambda p, u: u.laplacian).on(fem.FeedforwardSpace(1, (3,), 1, "relu")),
        "space: got .*, expected a smooth activation for derivatives of order 2",
    ),
    "no time": (lambda: unit(lambda p, u: u.d("t")), "u.d: got 't', expected the number of a coordinate, 0 to 0$"),
    "no time in points": (lambda: unit(lambda p, u: u * p.t), "p.t: got a problem without time, expected one with"),
    "no such coordinate": (lambda: timed(lambda p, u: u.d(2)), "u.d: got 2, expected the number of a coordinate"),
    "order 5": (
        lambda: unit(lambda p, u: u.d(0, 0, 0, 0, 0)),
        "components: got .*, expected derivatives of order at most 4",
    ),
    "g of NumPy": (
        lambda: unit(dirichlet=lambda p: p.x[0].detach().numpy()),
        "dirichlet: got ndarray, expected a floating tensor",
    ),
    "g with two rows": (
        lambda: unit(dirichlet=lambda p: torch.stack([p.x[0], p.x[0]])),
        "dirichlet: got 2 rows, expected 1, one per output",
    ),
    "constants": (lambda: unit(dirichlet=[1.0, 2.0], outputs=3), "dirichlet: got 2 rows, expected 3, one per output"),
    "NaN on a side": (
        lambda: unit(dirichlet=lambda p: torch.log(p.x[0] - 0.5)),
        r"dirichlet: got NaN or infinity at the point \[0.0\], expected finite",
    ),
    "None on a side": (lambda: unit(dirichlet={(0, 0): None}), "dirichlet: got NoneType, expected"),
    "many axes": (
        lambda: unit(d=7, dirichlet=lambda p: p.x[0], quadrature=few([0.0] * 7, [1.0] * 7)),
        "dirichlet: got conditions in 7 coordinates, expected at most 6 .*exact=False",
    ),
    "memory": (lambda: unit(memory=-1).on(LINE), "memory: got -1, expected a number of bytes"),
    "backend": (lambda: unit(backend="numpy"), "backend: got 'numpy', expected one of"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_named(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_law_that_reads_something_else_later_is_an_error():
    calls = []

    def law(p, u):
        calls.append(1)
        return u.d(0) if len(calls) > 100 else u.value

    problem = unit(law)
    calls += [1] * 100
    with pytest.raises(ValueError, match=r"law: reads \(0,\), which it did not when it was recorded; expected"):
        problem.on(LINE).value(LINE.initial(0))


def test_data_that_are_not_smooth_across_the_period_are_for_soft_conditions():
    def problem(law, **options):
        return timed(law, initial=lambda p: p.x[0] * (1.0 - p.x[0]), periodic=(0,), **options)

    # The lift has a kink there, which an equation of first order does not differentiate.
    assert problem(lambda p, u: u.dt + u.d(0)).laws["law"].affine
    heat = problem(lambda p, u: u.dt - u.laplacian, exact=False)
    assert list(heat.laws) == ["law", "initial"]


def test_opposite_sides_have_different_names():
    low, high = 1e7, 1e7 + 1.0
    problem = fem.Collocation(
        lambda p, u: u.value, fem.Box([low], [high]), boundary={(0, 0): lambda p, u: u.normal, (0, 1): robin}
    )
    assert [list(region.points[0]) for region in problem.quadrature.regions.values()] == [[low], [high]]
    assert list(problem.laws)[1:] == ["boundary on x0 = 1e+07", "boundary on x0 = 10000001.0"]


def test_sides_with_the_same_condition_are_one_term():
    def one(p):
        return torch.ones_like(p.x[0])

    def problem(**options):
        return fem.Collocation(lambda p, u: u.laplacian, fem.Box([0.0, 0.0], [1.0, 2.0]), exact=False, **options)

    names = {
        "one": (problem(dirichlet=1.0, boundary=robin), ["dirichlet", "boundary"]),
        "some": (problem(dirichlet={(0, 0): 1.0, (1, 1): 1}), ["dirichlet"]),
        "different": (
            problem(dirichlet={(0, 0): 0.0, (0, 1): one, (1, 0): one}),
            ["dirichlet on x0 = 0", "dirichlet on x0 = 1, x1 = 0"],
        ),
    }
    for found, expected in names.values():
        assert list(found.quadrature.regions) == expected == list(found.laws)[1:]
    union = names["different"][0].quadrature.regions[expected[1]]
    assert set(union.points[union.points[:, 0] != 1.0][:, 1]) == {0.0} and union.total == pytest.approx(1.0)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_solutions_in_torch_are_the_same_functions(case):
    problem = case.problem(lambda p, u: u.value)
    solution = problem.solution(case.network, case.network.initial(2))
    points = few(case.low, case.high).points
    at = torch.tensor(points, requires_grad=True)
    values = solution.to_torch()(at)
    assert np.allclose(values.detach().numpy(), solution(points), rtol=1e-12, atol=1e-12)
    gradients = torch.stack([torch.autograd.grad(v.sum(), at, retain_graph=True)[0] for v in values.T], dim=1)
    assert np.allclose(gradients.numpy(), solution.gradient(points), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", fem.spaces.feedforward.HIDDEN_ACTIVATIONS)
def test_all_activations_are_the_same_in_torch(activation):
    inputs = np.random.default_rng(0).uniform(-1.0, 1.0, (30, 2))
    space = fem.FeedforwardSpace(2, (5, 5), 1, activation, residual=(False, True))
    solution = fem.Regression(inputs, inputs[:, 0] ** 2).solution(space, space.initial(1))
    assert np.allclose(solution.to_torch()(torch.tensor(inputs)).numpy(), solution(inputs), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("moving", [False, True])
def test_a_time_slab_begins_where_the_one_before_ends(moving):
    wave = timed(
        lambda p, u: u.dtt - u.laplacian if moving else u.dt - u.laplacian,
        dirichlet=lambda p: 0.0 * p.t,
        initial=lambda p: torch.sin(PI * p.x[0]),
        velocity=(lambda p: torch.sin(PI * p.x[0]) ** 2) if moving else None,
    )
    space = fem.FeedforwardSpace(2, (4,), 1)
    problem, solutions = wave, []
    for number in range(3):
        solutions.append(problem.solution(space, space.initial(number)))
        problem = fem.next_slab(problem, solutions[-1], problem.time[1] + 0.5)
    for before, after, time in zip(solutions, solutions[1:], (1.0, 1.5), strict=False):
        at = np.column_stack([np.linspace(0.0, 1.0, 9), np.full(9, time)])
        assert np.allclose(before(at), after(at), atol=1e-13)
        if moving:
            assert np.allclose(before.gradient(at)[:, 0, 1], after.gradient(at)[:, 0, 1], atol=1e-12)
    for options in ({}, {"exact": False}):
        parts = [
            dataclasses.replace(problem, quadrature=few((0.0, 2.5), (1.0, 3.0)), **options, **backend)
            if not options
            else dataclasses.replace(problem, quadrature=None, **options, **backend)
            for backend in BACKENDS.values()
        ]
        a, b, c = (part.on(space).value(space.initial(1)) for part in parts)
        assert a == pytest.approx(b, rel=1e-12) and a == pytest.approx(c, rel=1e-12)
    # Other initial values count, also beside velocities that are those of a solution.
    other = dataclasses.replace(problem, initial=lambda p: torch.sin(PI * p.x[0]), quadrature=None)
    at = np.column_stack([np.linspace(0.0, 1.0, 9), np.full(9, 2.0)])
    assert np.allclose(other.solution(space, space.initial(0))(at)[:, 0], np.sin(PI * at[:, 0]), atol=1e-13)
    with pytest.raises(ValueError, match="^end: got 2.5, expected a time after 2.5"):
        fem.next_slab(problem, solutions[-1], 2.5)
    with pytest.raises(ValueError, match="^problem: got one without time"):
        fem.next_slab(line(bump(0.5)), solutions[-1], 1.0)


# ---- archives, other processes


class Killed(Exception):
    pass


def loop(path, law=None, value=0.0, kill=None):
    """Run two levels, with finer points and a wider network on the second one; return its coefficients."""
    problem = line(law or bumpy, 4, 3, dirichlet={(0, 0): value, (0, 1): 0.0})
    first = fem.FeedforwardSpace(1, (3,), 1)
    archive = fem.Archive.open(path, problem, first, first.initial(0))
    space, x, state, quadrature, _ = archive.level
    while True:
        level = len(archive.levels) - 1

        def observer(snapshot, level=level):
            archive(snapshot)
            if (level, snapshot.step.number) == kill:
                raise Killed

        J = problem.on(space, quadrature)
        result = fem.gauss_newton(J, x, 1e-12, state=state, observer=observer, max_steps=6)
        estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, quadrature, seed=0))
        archive.solved(result, estimate)
        if level == 1:
            return result.x, quadrature
        points = fem.residual(J, result.x)
        quadrature = fem.refine_quadrature(quadrature, points.cells[fem.dorfler(points.indicators, theta=0.5)])
        marked = fem.dorfler(estimate.indicators, theta=0.3)
        space, P = fem.widen(space, estimate.cells[marked])
        x, state = P(result.x), result.state
        archive.refined(marked, space, P, quadrature)


def bumpy(p, u):
    return u.laplacian + 100.0 * torch.exp(-300.0 * (p.x[0] - 0.4) ** 2)


def louder(p, u):
    return u.laplacian + 101.0 * torch.exp(-300.0 * (p.x[0] - 0.4) ** 2)


def steeper(p, u):
    return u.d(0) + 100.0 * torch.exp(-300.0 * (p.x[0] - 0.4) ** 2)


@pytest.mark.parametrize("kill", [(0, 3), (1, 2)])
def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path, kill):
    expected, points = loop(tmp_path / "quiet.h5")
    with pytest.raises(Killed):
        loop(tmp_path / "killed.h5", kill=kill)
    found, quadrature = loop(tmp_path / "killed.h5")
    assert np.array_equal(found, expected) and quadrature.hash == points.hash and len(quadrature) > 12


@pytest.mark.parametrize(
    "other, message",
    [
        ({"law": louder}, "run.h5: the problem gives .*, the archive has"),
        # The equation does not see a boundary value whose lift is harmonic.
        ({"value": 0.1}, "run.h5: belongs to another problem, different in conditions"),
        ({"law": steeper}, "run.h5: belongs to another problem, different in laws"),
    ],
    ids=["law", "boundary value", "order"],
)
def test_another_problem_is_refused(tmp_path, other, message):
    loop(tmp_path / "run.h5")
    with pytest.raises(fem.ArchiveError, match=message):
        loop(tmp_path / "run.h5", **other)


def sine(p):
    return torch.sin(p.x[0]) + p.t


def robin(p, u):
    return u.normal + u


@pytest.mark.parametrize("backend", BACKENDS)
def test_functionals_and_solutions_are_pickled(backend):
    problem = timed(
        burgers, dirichlet={(0, 0): sine}, initial=sine, velocity=1.0, boundary={(0, 1): robin}, **BACKENDS[backend]
    )
    space = fem.FeedforwardSpace(2, (3,), 1)
    x, J = space.initial(0), problem.on(space)
    value, points = J.value(x), np.random.default_rng(0).uniform(size=(5, 2))
    assert pickle.loads(pickle.dumps(J)).value(x) == value
    solution = problem.solution(space, x)
    assert np.array_equal(pickle.loads(pickle.dumps(solution))(points), solution(points))
    again = pickle.loads(pickle.dumps(problem))
    assert again.on(space).value(x) == value and again.quadrature.hash == problem.quadrature.hash


def test_torch_is_imported_by_those_who_need_it():
    script = "import sys, dnnfem; dnnfem.Classification; dnnfem.Box([0], [1]); assert 'torch' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", script + "dnnfem.Collocation; assert 'torch' in sys.modules"], check=True)
