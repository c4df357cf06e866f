"""The functional majorant: never below the error, equal to it for the exact flux, Friedrichs' constant, errors."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DEVICE

import dnnfem as fem
from dnnfem.problems.fields import Points
from dnnfem.problems.flux import friedrichs
from dnnfem.testing import check_functional

PI = math.pi


@dataclass(frozen=True)
class Material:
    """A conductivity with a lower bound, and the same as matrices (m, d, d)."""

    given: Any
    lowest: float | None = None

    def at(self, points):
        """Return `A` at points (m, d) of torch."""
        d, given = points.shape[1], self.given
        found = given(Points(points, d)) if callable(given) else torch.as_tensor(np.array(given))[..., None]
        found = torch.stack(found) if isinstance(found, list) else found
        if found.ndim < 3:
            return torch.diag_embed(found.reshape(-1, found.shape[-1]).T.expand(len(points), d))
        return found.movedim(-1, 0).expand(len(points), d, d)


def wave(p):
    return 1.0 + 0.5 * torch.sin(3.0 * p.x[0])


def rotated(p):
    """Eigenvalues 1 and 3, whose directions turn with the point."""
    c, s = torch.cos(p.x[0] + p.x[1]), torch.sin(p.x[0] + p.x[1])
    return torch.stack([torch.stack([1.0 + 2.0 * c * c, 2.0 * c * s]), torch.stack([2.0 * c * s, 1.0 + 2.0 * s * s])])


MATERIALS = {
    "one dimension": (1, Material(2.5)),
    "varying in one": (1, Material(wave, 0.5)),
    "number": (2, Material(3.0)),
    "diagonal": (2, Material([0.5, 4.0])),
    "matrix": (2, Material([[2.0, 0.9], [0.9, 0.7]])),
    "varying": (2, Material(wave, 0.5)),
    "varying diagonal": (2, Material(lambda p: [wave(p), 2.0 + p.x[1]], 0.5)),
    "varying matrix": (2, Material(rotated, 1.0)),
    "three dimensions": (3, Material([1.0, 2.0, 0.3])),
}

LOW, HIGH = (-0.4, 0.1, 0.0), (0.9, 2.3, 0.7)


def smooth(points):
    """Return a function of points (m, d) that vanishes nowhere in particular."""
    phase = points @ torch.linspace(1.0, 2.0, points.shape[1], dtype=points.dtype)
    return torch.sin(2.0 * phase) + 0.3 * points[:, 0] ** 3


def slope(function, points):
    """Return the gradients (m, d) of a function of torch."""
    at = points.detach().clone().requires_grad_()
    return torch.autograd.grad(function(at).sum(), at, create_graph=True)[0]


def source_of(function, material):
    """Return ``-div(A grad u)`` as a function of the points of a law."""

    def source(p):
        with torch.enable_grad():
            at = p.coordinates.detach().clone().requires_grad_()
            flux = (material.at(at) @ slope_at(function, at)[..., None])[..., 0]
            columns = [
                torch.autograd.grad(flux[:, k].sum(), at, retain_graph=True)[0][:, k] for k in range(at.shape[1])
            ]
        return -sum(columns).detach()

    return source


def slope_at(function, at):
    return torch.autograd.grad(function(at).sum(), at, create_graph=True)[0]


def energies(function, material, v, mesh):
    """Return the true error of `v` in the energy norm on every cell of a mesh, unsquared, by many Gauss points."""
    rule = replace(mesh, points=12).quadrature()
    points = torch.tensor(np.array(rule.points))
    difference = slope(function, points).detach() - torch.tensor(v.gradient(rule.points)[:, 0])
    density = torch.einsum("mi,mij,mj->m", difference, material.at(points), difference).numpy()
    volume = float(np.prod(mesh.size))
    return np.sqrt(volume * np.bincount(rule.cells, rule.weights * density, mesh.cell_count))


def problem_of(dim, function, hidden=4, low=LOW, high=HIGH):
    """Return Poisson's equation with the boundary values of a function, and a space; what it solves is not asked."""
    box = fem.Box(low[:dim], high[:dim])
    problem = fem.Collocation(lambda p, u: u.laplacian, box, dirichlet=lambda p: function(p.coordinates))
    return problem, fem.FeedforwardSpace(dim, (hidden,), 1)


@pytest.mark.parametrize("name", MATERIALS)
def test_any_flux_bounds_the_error_of_any_function_from_above(name):
    dim, material = MATERIALS[name]
    problem, space = problem_of(dim, smooth)
    fluxes = fem.FeedforwardSpace(dim, (5,), dim)
    random = np.random.default_rng(1)
    for seed in range(1 if dim == 3 else 3):
        v = problem.solution(space, random.uniform(0.0, 3.0) * space.initial(seed=seed))
        flux = fem.Flux(v, source_of(smooth, material), material.given, material.lowest)
        y = random.uniform(0.0, 3.0) * fluxes.initial(seed=seed + 10)
        bound = fem.majorant(flux.on(fluxes), y)
        error = float(np.linalg.norm(energies(smooth, material, v, problem.quadrature.mesh)))
        assert bound.guaranteed and bound.total >= error > 0.0
        # And it is one that can be made smaller: half of the misfit at the beginning, in a few steps.
        result = fem.gauss_newton(flux.on(fluxes), y, 0.0, max_steps=3)
        better = fem.majorant(flux.on(fluxes), result.x)
        assert error <= better.total < bound.total
        assert better.total == pytest.approx(sum(better.parts.values()), rel=1e-14)


@pytest.mark.parametrize("name", ["one dimension", "number", "diagonal", "matrix", "three dimensions"])
def test_the_exact_flux_gives_the_error_itself_cell_by_cell(name):
    # The gradient of a sum of log cosh is a network of tanh; in the box [-1, 1]^d its coordinates are its own.
    dim, material = MATERIALS[name]
    random = np.random.default_rng(2)
    rows, shift, factors = random.uniform(-1.5, 1.5, (3, dim)), random.uniform(-0.5, 0.5, 3), np.array([0.7, -0.4, 1.1])

    def function(points):
        z = points @ torch.tensor(rows.T) + torch.tensor(shift)
        return torch.log(torch.cosh(z)) @ torch.tensor(factors)

    problem, space = problem_of(dim, function, low=(-1.0,) * dim, high=(1.0,) * dim)
    fluxes = fem.FeedforwardSpace(dim, (3,), dim)
    matrix = material.at(torch.zeros((1, dim), dtype=torch.float64))[0].numpy()
    y, (inner, outer) = np.zeros(fluxes.dim), fluxes.blocks
    y[inner.start : inner.bias_start], y[inner.bias_start : inner.stop] = rows.ravel(), shift
    y[outer.start : outer.bias_start] = (matrix @ (factors[:, None] * rows).T).ravel()
    v = problem.solution(space, space.initial(seed=3))
    flux = fem.Flux(v, source_of(function, material), material.given)
    bound = fem.majorant(flux.on(fluxes), y)
    errors = energies(function, material, v, problem.quadrature.mesh)
    assert bound.total == pytest.approx(float(np.linalg.norm(errors)), rel=1e-8)
    assert bound.parts["equilibrium"] < 1e-12 * bound.parts["flux"]
    np.testing.assert_allclose(bound.indicators, errors, rtol=1e-6, atol=1e-9 * bound.total)


def test_a_jump_of_the_conductivity():
    # -(A u')' = 1 with A = 1 and 4 on the two halves: A u' = 0.35 - x, and cells that end at the jump.
    def material(p):
        return torch.where(p.x[0] < 0.5, 1.0, 4.0)

    problem = fem.Collocation(lambda p, u: u.laplacian, fem.Box([0], [1]), dirichlet=0.0)
    space, fluxes = fem.FeedforwardSpace(1, (4,), 1), fem.FeedforwardSpace(1, (3,), 1)
    rule = problem.quadrature
    a = np.where(rule.points[:, 0] < 0.5, 1.0, 4.0)
    for seed in range(3):
        v = problem.solution(space, space.initial(seed=seed))
        difference = (0.35 - rule.points[:, 0]) / a - v.gradient(rule.points)[:, 0, 0]
        error = math.sqrt(float(np.sum(rule.weights * a * difference**2)))
        flux = fem.Flux(v, 1.0, material, lowest=1.0)
        y = fluxes.initial(seed=seed)
        start = fem.majorant(flux.on(fluxes), y)
        assert start.guaranteed and start.total > 1.02 * error
        # The flux is a straight line, which networks are close to: the factor is that of the weight.
        for balance in (1.0, 0.1):
            flux = replace(flux, balance=balance)
            y = fem.gauss_newton(flux.on(fluxes), y, 0.0, max_steps=20).x
            solved = fem.majorant(flux.on(fluxes), y)
            assert solved.guaranteed and error <= solved.total <= 1.001 * math.sqrt(1.0 + balance) * error


@pytest.mark.parametrize("sides", [(0.7,), (1.0, 1.0), (0.3, 2.0), (1.0, 2.0, 0.5)])
def test_the_constant_is_that_of_the_least_eigenvalue(sides):
    # Polynomials that vanish at the ends, (1 - s^2) times Legendre's.
    nodes, weights = np.polynomial.legendre.leggauss(16)
    bubble = np.polynomial.Polynomial([1.0, 0.0, -1.0])
    basis = [bubble * np.polynomial.Legendre.basis(k).convert(kind=np.polynomial.Polynomial) for k in range(7)]
    values = np.array([f(nodes) for f in basis])
    slopes = np.array([f.deriv()(nodes) for f in basis])
    mass, stiffness = ((array * weights) @ array.T for array in (values, slopes))
    full, total = np.eye(1), np.zeros((1, 1))
    for side in sides:
        here, there = 0.5 * side * mass, 2.0 / side * stiffness
        total = np.kron(total, here) + np.kron(full, there)
        full = np.kron(full, here)
    root = np.linalg.inv(np.linalg.cholesky(full))
    least = np.linalg.eigvalsh(root @ total @ root.T)[0]
    assert friedrichs(sides) == pytest.approx(1.0 / math.sqrt(least), rel=1e-8)


def test_the_constant_of_the_unit_square():
    problem, space = problem_of(2, smooth, low=(0.0, 0.0), high=(1.0, 1.0))
    v = problem.solution(space, space.initial(seed=0))
    assert fem.Flux(v, 0.0).constant == pytest.approx(1.0 / (PI * math.sqrt(2.0)), rel=1e-14)
    assert fem.Flux(v, 0.0, [4.0, 9.0]).constant == pytest.approx(0.5 / (PI * math.sqrt(2.0)), rel=1e-14)
    assert fem.Flux(v, 0.0, wave, 0.25).constant == pytest.approx(2.0 / (PI * math.sqrt(2.0)), rel=1e-14)


@pytest.fixture
def poisson():
    """Return a problem of two dimensions with a function of its space, the flux problem, a space for fluxes and one."""
    problem, space = problem_of(2, smooth)
    material = Material(1.0)
    v = problem.solution(space, space.initial(seed=3))
    fluxes = fem.FeedforwardSpace(2, (8,), 2)
    return v, fem.Flux(v, source_of(smooth, material)), fluxes, fluxes.initial(seed=1)


def test_the_functional_is_one_and_the_backends_agree(poisson):
    _, flux, fluxes, y = poisson
    check_functional(flux.on(fluxes), y)
    value = flux.on(fluxes).value(y)
    for backend in ({"backend": "reference"}, {"device": DEVICE}):
        assert replace(flux, **backend).on(fluxes).value(y) == pytest.approx(value, rel=1e-12)
    assert flux.on(fluxes).condensable is not None
    single = fem.majorant(replace(flux, device=DEVICE, precision="single").on(fluxes), y)
    assert not single.guaranteed and "single precision" in single.remarks[0]
    assert single.total == pytest.approx(fem.majorant(flux.on(fluxes), y).total, rel=1e-5)


def test_the_best_weight_makes_the_functional_the_bound(poisson):
    _, flux, fluxes, y = poisson
    bound = fem.majorant(flux.on(fluxes), y)
    best = flux.balanced(bound)
    assert math.sqrt(2.0 * best.on(fluxes).value(y)) == pytest.approx(bound.total, rel=1e-3)
    for factor in (0.5, 0.9, 1.1, 2.0):
        other = replace(best, balance=factor * best.balance)
        assert other.on(fluxes).value(y) > best.on(fluxes).value(y)
        # What the flux was computed with does not matter for the bound.
        assert fem.majorant(other.on(fluxes), y).total == bound.total


def test_solves_and_weights_in_turn_lower_the_bound(poisson):
    _, flux, fluxes, y = poisson
    totals = []
    for _ in range(4):
        y = fem.gauss_newton(flux.on(fluxes), y, 0.0, max_steps=10).x
        bound = fem.majorant(flux.on(fluxes), y)
        totals.append(bound.total)
        flux = flux.balanced(bound)
    assert all(after < 1.001 * before for before, after in pairwise(totals))
    assert totals[-1] < 0.9 * totals[0]


def test_the_bound_does_not_depend_on_the_quadrature_that_it_begins_with(poisson):
    _, flux, fluxes, y = poisson
    meshes = [fem.BoxMesh.uniform(LOW[:2], HIGH[:2], cells, points) for cells, points in ((1, 2), (3, 3), (16, 5))]
    coarse, middle, fine = (fem.majorant(flux.on(fluxes, mesh.quadrature()), 3.0 * y) for mesh in meshes)
    assert coarse.guaranteed and middle.guaranteed and fine.guaranteed
    assert fine.parts["quadrature"] < 1e-9 * fine.total
    assert 1e-9 * coarse.total < coarse.parts["quadrature"] <= 0.01 * coarse.total
    for other in (coarse, middle):
        # The change that was added covers what a much finer rule would still change.
        assert fine.total <= other.total <= 1.01 * fine.total
    known = flux.balanced(fine).on(fluxes, meshes[0].quadrature()).value(3.0 * y)
    assert abs(np.sum(coarse.signed)) == pytest.approx(abs(fine.total**2 - 2.0 * known), rel=0.05)


def test_a_quadrature_that_misses_something_is_no_guarantee(poisson):
    _, flux, fluxes, y = poisson
    # Steps between the points.
    sharp = np.where(np.arange(len(y)) < fluxes.blocks[0].stop, 100.0, 1.0) * y
    few = fem.BoxMesh.uniform(LOW[:2], HIGH[:2], 2, 2).quadrature()
    coarse = fem.majorant(flux.on(fluxes, few), sharp, most_points=2000)
    assert not coarse.guaranteed
    assert "not under control" in coarse.remarks[0] and "abs(signed)" in str(coarse)
    assert coarse.parts["quadrature"] > 0.01 * coarse.total
    quadrature = flux.quadrature
    marked = fem.dorfler(np.abs(fem.majorant(flux.on(fluxes), sharp, most_points=1).signed) ** 0.5, theta=0.5)
    assert len(fem.refine_quadrature(quadrature, marked)) > len(quadrature)


def test_a_flux_that_grows_makes_the_bound_sharp():
    """Poisson's equation; what the bound is for a sequence of solutions is a benchmark, and tested there."""

    def function(points):
        return torch.sin(PI * points[:, 0]) * torch.sin(PI * points[:, 1])

    def source(p):
        return 2.0 * PI**2 * function(p.coordinates)

    problem = fem.Collocation(lambda p, u: u.laplacian + source(p), fem.Box([0, 0], [1, 1]), dirichlet=0.0)
    space, fluxes = fem.FeedforwardSpace(2, (8,), 1), fem.FeedforwardSpace(2, (12,), 2)
    v = problem.solution(space, fem.gauss_newton(problem.on(space), space.initial(seed=0), 0.0, max_steps=20).x)
    error = float(np.linalg.norm(energies(function, Material(1.0), v, problem.quadrature.mesh)))
    flux, y, indices = fem.Flux(v, source), fluxes.initial(seed=0), [math.inf]
    while flux.balance > 0.3:
        y = fem.gauss_newton(flux.on(fluxes), y, 0.0, max_steps=15).x
        bound = fem.majorant(flux.on(fluxes), y)
        indices.append(bound.total / error)
        assert bound.guaranteed and 1.0 <= indices[-1] < indices[-2]
        flux = flux.balanced(bound)
        estimate = fem.hierarchical(flux.on(fluxes), y, fem.ridge_candidates(fluxes, flux.quadrature, seed=0))
        fluxes, P = fem.widen(fluxes, estimate.cells[fem.dorfler(estimate.indicators, theta=0.95)])
        y = P(y)
    assert error < 1e-3 and indices[1] > 2.0 and indices[-1] <= 1.5


def test_random_points_are_no_guarantee():
    problem, space = problem_of(4, smooth, low=(0.0,) * 4, high=(1.0,) * 4)
    v = problem.solution(space, space.initial(seed=0))
    fluxes = fem.FeedforwardSpace(4, (3,), 4)
    points = fem.SobolPoints([0.0] * 4, [1.0] * 4, 256, seed=1).quadrature()
    flux = fem.Flux(v, source_of(smooth, Material(1.0)), quadrature=points)
    bound = fem.majorant(flux.on(fluxes), fluxes.initial(seed=0))
    difference = slope(smooth, torch.tensor(np.array(points.points))).detach().numpy() - v.gradient(points.points)[:, 0]
    assert bound.total > math.sqrt(float(np.mean(np.sum(difference**2, axis=1))))
    assert not bound.guaranteed and "random" in bound.remarks[0]


def test_data_at_the_points_follow_their_refinement(poisson):
    v, flux, fluxes, y = poisson
    random = np.random.default_rng(0)
    for _ in range(2):
        marked = random.integers(0, flux.quadrature.cell_count, 5)
        quadrature = fem.refine_quadrature(flux.quadrature, marked)
        np.testing.assert_array_equal(quadrature.data, flux.given(quadrature.points))
        np.testing.assert_allclose(quadrature.data[:, :2], v.gradient(quadrature.points)[:, 0], rtol=1e-14)
        flux = replace(flux, quadrature=quadrature)
    # Points of the flux of one solution serve that of another one, with its own data.
    other = fem.Collocation(lambda p, u: u.laplacian, fem.Box(LOW[:2], HIGH[:2]), dirichlet=1.0)
    w = other.solution(v.space, 2.0 * v.x)
    mine = fem.Flux(w, 0.0, quadrature=flux.quadrature)
    assert mine.quadrature.mesh.mesh is flux.quadrature.mesh.mesh
    np.testing.assert_allclose(mine.quadrature.data[:, :2], w.gradient(mine.quadrature.points)[:, 0], rtol=1e-14)
    fresh = mine.on(fluxes, mine.quadrature.mesh.mesh.quadrature())
    assert mine.on(fluxes, flux.quadrature).value(y) == mine.on(fluxes).value(y) == fresh.value(y)
    with pytest.raises(ValueError, match="without data"):
        mine.on(fluxes).on(quadrature=flux.quadrature.mesh.mesh.quadrature()).value(y)


def test_solutions_of_inverse_problems_have_a_flux():
    """Unknowns are no part of the function whose error is bounded."""
    box, space = fem.Box([0, 0], [1, 1]), fem.FeedforwardSpace(2, (3,), 1, unknowns=1)
    inverse = fem.Collocation(
        lambda p, u, k: u.laplacian + k, box, dirichlet=0.0, unknowns={"k": 1.0}, observations=([[0.5, 0.5]], [0.1])
    )
    plain = fem.Collocation(lambda p, u: u.laplacian + 1.0, box, dirichlet=0.0)
    x = space.initial(seed=0)
    v, w = inverse.solution(space, x), plain.solution(fem.FeedforwardSpace(2, (3,), 1), x[:-1])
    np.testing.assert_array_equal(fem.Flux(v, 1.0).quadrature.data, fem.Flux(w, 1.0).quadrature.data)


def test_both_terms_share_the_cells_of_their_points(poisson):
    """Estimates of the quadrature error name every cell once, with what both terms change there."""
    _, flux, fluxes, y = poisson
    J = flux.on(fluxes)
    estimate, parts = fem.quadrature_error(J, y), [fem.quadrature_error(term, y) for term in J.terms]
    np.testing.assert_array_equal(estimate.cells, np.arange(flux.quadrature.cell_count))
    np.testing.assert_allclose(estimate.signed, parts[0].signed + parts[1].signed, rtol=1e-6, atol=1e-12)


# ---- bad input


def test_solutions_that_are_refused():
    box, law = fem.Box([0, 0], [1, 1]), lambda p, u: u.laplacian
    space = fem.FeedforwardSpace(2, (3,), 1)

    def refused(pattern, outputs=1, time=None, law=law, **options):
        problem = fem.Collocation(law, fem.Box([0], [1]) if time else box, time, outputs=outputs, **options)
        space = fem.FeedforwardSpace(2, (3,), outputs, periodic=options.get("periodic", ()))
        with pytest.raises(ValueError, match=pattern):
            fem.Flux(problem.solution(space, space.initial(seed=0)), 0.0)

    refused("without exact conditions", dirichlet=0.0, exact=False)
    refused("without exact conditions")
    refused(r"on the sides \[\(1, 1\)\]", dirichlet={(0, 0): 0.0, (0, 1): 0.0, (1, 0): 0.0})
    refused(r"on the sides \[\(0, 0\), \(0, 1\)\]", dirichlet=0.0, periodic=(0,))
    refused("depends on time", time=(0.0, 1.0), dirichlet=0.0, initial=0.0)
    refused("2 outputs", outputs=2, dirichlet=0.0)
    with pytest.raises(ValueError, match="expected a Solution"):
        fem.Flux(space, 0.0)


@pytest.mark.parametrize(
    ("conductivity", "lowest", "pattern"),
    [
        (-1.0, None, "positive definite"),
        (math.nan, None, "expected a positive number"),
        ("copper", None, "expected a positive number"),
        ([1.0, 2.0, 3.0], None, "expected a positive number"),
        ([[1.0, 0.2], [0.1, 1.0]], None, "not symmetric"),
        ([[1.0, 2.0], [2.0, 1.0]], None, "positive definite"),
        (2.0, 3.0, "least eigenvalue 2.0"),
        (2.0, 0.0, "lowest: got 0.0"),
        (2.0, True, "lowest: got True"),
        (wave, None, "lowest: got None"),
        (wave, 0.9, r"conductivity: got the least eigenvalue 0\.\d+ at \["),
        (rotated, 1.1, r"conductivity: got the least eigenvalue 1.* at \["),
        (lambda p: p.x[:, :3], 0.1, "conductivity: got shape"),
        (lambda p: torch.stack([wave(p)] * 3), 0.1, "conductivity: got shape"),
        (lambda p: math.nan * p.x[0], 0.1, "least eigenvalue nan"),
        (
            lambda p: torch.stack([torch.stack([wave(p), wave(p)]), torch.stack([0 * wave(p), wave(p)])]),
            0.1,
            "symmetric",
        ),
    ],
)
def test_conductivities_that_are_refused(poisson, conductivity, lowest, pattern):
    with pytest.raises(ValueError, match=pattern):
        fem.Flux(poisson[0], 0.0, conductivity, lowest)


def test_other_input_that_is_refused(poisson):
    v, flux, fluxes, y = poisson
    for options, pattern in (
        ({"source": math.inf}, "source: got NaN or infinity"),
        ({"source": lambda p: p.x}, "source"),
        ({"balance": 0.0}, "balance: got 0.0"),
        ({"quadrature": fem.BoxMesh.uniform([0], [1], 2).quadrature()}, "1 coordinates, expected 2"),
        ({"quadrature": fem.BoxMesh.uniform(LOW[:2], [0.5, 1.0], 2).quadrature()}, "cells that fill 0.2"),
        ({"quadrature": fem.SobolPoints(LOW[:2], [0.5, 1.0], 64).quadrature()}, "cells that fill 0.2"),
        ({"quadrature": fem.SimplexMesh(np.eye(3, 2), [[2, 0, 1]]).quadrature()}, "cells that fill"),
        ({"quadrature": fem.UnionMesh((flux.quadrature.mesh.mesh,)).quadrature()}, "quadrature: got a UnionMesh"),
        ({"quadrature": replace(flux.quadrature, weights=2.0 * flux.quadrature.weights)}, "with the sum 2.0"),
    ):
        with pytest.raises(ValueError, match=pattern):
            replace(flux, **options)
    for space, pattern in (
        (fem.FeedforwardSpace(2, (3,), 1), "1 outputs"),
        (fem.FeedforwardSpace(2, (3,), 2, activation="relu"), "smooth activation"),
        (fem.FeedforwardSpace(2, (3,), 2, periodic=(0,)), "not periodic"),
        (fem.FeedforwardSpace(2, (3,), 2, unknowns=1), "expected one with unknowns=0"),
    ):
        with pytest.raises(ValueError, match=pattern):
            flux.on(space)
    with pytest.raises(ValueError, match="tolerance: got 1.5"):
        fem.majorant(flux.on(fluxes), y, tolerance=1.5)
    with pytest.raises(ValueError, match=r"expected \('flux', 'equilibrium'\)"):
        fem.majorant(problem_of(2, smooth)[0].on(v.space), v.x)
    plain = flux.quadrature.subset(slice(None))
    with pytest.raises(ValueError, match="without a mesh"):
        fem.majorant(flux.on(fluxes, plain), y)
    with pytest.raises(ValueError, match="expected those of dnnfem.majorant"):
        flux.balanced(fem.algebraic(flux.on(fluxes), y))
