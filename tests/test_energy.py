"""Energies: densities convex in the jet, systems with a linear term, factors that vanish on boundaries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import DEVICE
from scipy.spatial import ConvexHull, Delaunay

import dnnfem as fem
from dnnfem.functionals import Sum
from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.problems.vanishing import Vanishing
from dnnfem.spaces import Coordinates
from dnnfem.testing import convergence_order, taylor_test

PI = np.pi
CORNERS = np.array([[0, 0], [1, 0], [1, 1], [-1, 1], [-1, -1], [0, -1.0]])
L_SHAPE = fem.Boxes([fem.Box([-1, -1], [0, 0]), fem.Box([-1, 0], [0, 1]), fem.Box([0, 0], [1, 1])])
TORSION = 0.2140758036
"""``int |grad u|^2`` of ``-Lap u = 1`` on the L of area 3."""


def dirichlet_energy(p, u):
    return 0.5 * (u.grad**2).sum(dim=0) - u.value


def bent(p, u):
    """A density that is not quadratic: that of a minimal surface, with a reaction."""
    return torch.sqrt(1.0 + (u.grad**2).sum(dim=0)) + 0.25 * u.value**4 - p.x[0] * u.value


def square(density=dirichlet_energy, **options):
    return fem.Energy(density, fem.Box([0, 0], [1, 1]), **options)


SPACE = fem.FeedforwardSpace(2, (5, 4), 1)


@pytest.mark.parametrize("density", [dirichlet_energy, bent])
def test_taylor(density):
    """Derivatives of energies, with a density on the boundary too."""
    J = square(density, dirichlet={(0, 0): 0.5}, boundary={(1, 1): lambda p, u: 0.5 * u.value**2 - u.value}).on(SPACE)
    for order in (2, 3):
        assert taylor_test(J, SPACE.initial(0), order=order, step=1e-2) > order - 0.1


@pytest.mark.parametrize("density", [dirichlet_energy, bent])
def test_backends_agree(density):
    """Values and all products are those of the reference, on every backend."""
    x, v = SPACE.initial(1), np.random.default_rng(0).standard_normal((SPACE.dim, 2))
    columns = np.array([0, 3, 17, SPACE.dim - 1])

    def numbers(**where):
        J = square(density, dirichlet=0.0, boundary=lambda p, u: -0.3 * u.value, **where).on(SPACE)
        at = J.linearize(x)
        whole, some = at.system(), at.system(columns)
        found = [at.value, at.derivative, at.hessian(v), at.curvature(v), at.gram(), whole.derivative]
        return [*found, whole.curvature(v), some.derivative, some.curvature(v[:4])]

    reference = numbers(backend="reference")
    for where in ({"backend": "compiled"}, {"device": DEVICE}):
        for expected, found in zip(reference, numbers(**where), strict=True):
            assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()


def test_curvature_of_a_quadratic_energy_is_its_hessian_in_the_output_layer():
    """``J`` is quadratic in the coefficients of an affine output layer: one Newton step there minimizes."""
    J = square(dirichlet=0.0).on(SPACE)
    x = SPACE.initial(0)
    outer = SPACE.condensable.ravel()
    correction, _ = J.linearize(x).system(outer).solve(np.arange(len(outer)))
    x[outer] += correction
    assert np.abs(J.linearize(x).derivative[outer]).max() < 1e-12
    others = [x + 1e-2 * d for d in np.random.default_rng(0).standard_normal((5, len(x)))]
    for other in others:
        other[np.setdiff1d(np.arange(len(x)), outer)] = x[np.setdiff1d(np.arange(len(x)), outer)]
        assert J.value(other) > J.value(x)


def test_linear_terms_go_with_systems():
    """Sums, multiples, columns and transfers of systems with a linear term are those of their quadratic functions."""
    random = np.random.default_rng(0)
    a, b = (
        DenseLeastSquares(random.standard_normal((9, 4)), random.standard_normal(9), linear=linear)
        for linear in (random.standard_normal(4), None)
    )
    d, transfer = random.standard_normal(4), random.standard_normal((4, 3))

    def model(system, d):
        linear = 0.0 if system.linear is None else system.linear @ d
        return 0.5 * np.sum((system.residual + system.matrix @ d) ** 2) + linear

    total, image, part = 3.0 * a + b, transfer @ d[:3], np.array([2, 0])
    spread = np.zeros(4)
    spread[part] = d[:2]
    assert np.isclose(model(total, d), 3.0 * model(a, d) + model(b, d))
    assert np.isclose(model(a @ transfer, d[:3]), model(a, image))
    assert np.isclose(model(a[part], d[:2]), model(a, spread))
    assert np.allclose(total.absorbed.derivative, total.derivative)
    step = total.steps(fem.Euclidean(Coordinates(4))).full.step
    assert np.allclose(step, -np.linalg.solve(total.matrix.T @ total.matrix, total.derivative))
    joint = total.candidates(np.array([3])).joint()
    exact = 0.5 * total.derivative @ np.linalg.solve(total.matrix.T @ total.matrix, total.derivative)
    assert np.isclose(joint.present + joint.gain, exact)


@pytest.mark.parametrize("where", [{}, {"backend": "device", "device": DEVICE}], ids=["compiled", "device"])
def test_linear_terms_beside_residuals(where):
    """What belongs to all rows is not lost where those of an energy meet those of samples."""
    points = np.random.default_rng(0).uniform(0.0, 1.0, (30, 2))
    samples, energy = fem.Regression(points, points[:, 0], **where).on(SPACE), square(**where).on(SPACE)
    x = SPACE.initial(0)
    for J in (Sum(samples, energy), Sum(energy, samples)):
        at = J.linearize(x)
        np.testing.assert_allclose(at.system().derivative, at.derivative, atol=1e-12)


def test_poisson_on_a_square():
    """The minimum is found from above, and the estimate tells how far it is."""
    problem = square(
        lambda p, u: (
            dirichlet_energy(p, u) - (2 * PI**2 * torch.sin(PI * p.x[0]) * torch.sin(PI * p.x[1]) - 1) * u.value
        ),
        dirichlet=0.0,
    )
    quadrature = problem.quadrature.finer().finer()
    space, errors = fem.FeedforwardSpace(2, (4,), 1), []
    x, state = space.initial(0), None
    for _ in range(3):
        J = problem.on(space, quadrature)
        result = fem.trust_region(J, x, 0.0, curvature=True, max_steps=60)
        estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, quadrature, seed=0, count=60))
        error = np.sqrt(2.0 * (result.steps[-1].value + PI**2 / 4.0))
        errors.append(error)
        assert result.steps[-1].value > -(PI**2) / 4.0
        assert 0.5 <= estimate.total / error <= 1.2
        space, P = fem.widen(space, estimate.cells)
        x, state = P(result.x), result.state
    assert errors[2] < 0.1 * errors[0] and state is not None


def test_conditions_of_neumann_and_robin():
    """``u = x^2`` from densities on the boundary alone: ``-u'' = -2``, ``u'(0) = 0``, ``u'(1) + u(1) = 3``."""
    problem = fem.Energy(
        lambda p, u: 0.5 * (u.grad**2).sum(dim=0) + 2.0 * u.value,
        fem.Box([0], [1]),
        boundary={(0, 1): lambda p, u: 0.5 * u.value**2 - 3.0 * u.value},
    )
    space = fem.FeedforwardSpace(1, (8,), 1)
    result = fem.trust_region(problem.on(space), space.initial(0), 1e-9, curvature=True, max_steps=400)
    places = np.linspace(0, 1, 11)[:, None]
    assert np.abs(problem.solution(space, result.x)(places) - places**2).max() < 1e-5


def test_units_are_those_of_the_user():
    """Integrals over boxes of any size, and over sides of them."""
    problem = fem.Energy(
        lambda p, u: 0.5 * u.value**2, fem.Box([0, 1], [2, 4]), boundary={(0, 1): lambda p, u: p.normal[0] * u.value}
    )
    space = fem.FeedforwardSpace(2, (3,), 1)
    x = np.zeros(space.dim)
    x[-1] = 2.0
    # 6 * 2^2 / 2 inside, and 3 * 2 on a side of length 3.
    assert np.isclose(problem.on(space).value(x), 12.0 + 6.0)
    domain = fem.Boxes(L_SHAPE.boxes, parts={"floor": lambda p: p[:, 1] < -0.99})
    problem = fem.Energy(lambda p, u: 0.5 * u.value**2, domain, boundary={"floor": lambda p, u: p.normal[1] * u.value})
    assert np.isclose(problem.on(space).value(x), 6.0 - 2.0)


def test_networks_do_not_depend_on_the_unit_of_length():
    """The same coefficients have the same energy on a domain in millimetres: the factor has no unit."""
    found = []
    for h in (1.0, 1e-3, 1e4):
        boxes = [fem.Box(h * np.array(box.low), h * np.array(box.high)) for box in L_SHAPE.boxes]
        source = lambda p, u, h=h: 0.5 * (u.grad**2).sum(dim=0) - u.value / h**2  # noqa: E731
        problem = fem.Energy(source, fem.Boxes(boxes), dirichlet=0.0)
        found.append(problem.on(SPACE).value(SPACE.initial(0)))
    np.testing.assert_allclose(found, found[0], rtol=1e-9)


def test_l_shape():
    """The corner is found: the energy of the torsion of an L."""
    problem = fem.Energy(dirichlet_energy, L_SHAPE, dirichlet=0.0)
    space = fem.FeedforwardSpace(2, (8, 8), 1)
    x, state, quadrature, found = space.initial(0), None, problem.quadrature.finer().finer(), []
    for _ in range(3):
        J = problem.on(space, quadrature)
        result = fem.trust_region(J, x, 0.0, state=state, curvature=True, max_steps=40)
        x, state = result.x, result.state
        error = fem.quadrature_error(J, x)
        found.append(TORSION + 2.0 * problem.on(space, quadrature.finer()).value(x))
        quadrature = fem.refine_quadrature(quadrature, fem.dorfler(error.indicators, theta=0.8))
    assert 0.0 < found[-1] < 5e-4 and found[-1] < found[0]
    u = problem.solution(space, x)
    assert np.abs(u(CORNERS)).max() < 1e-12
    assert np.isclose(u(np.array([[-0.5, 0.5]])), 0.1, atol=0.05)


def test_rotated_meshes_have_the_same_energy():
    """Triangles in any position and numbering: factor, points and measures see the domain alone."""
    points = np.concatenate([np.random.default_rng(0).uniform(-1, 1, (30, 2)), [[-1, -1], [1, -1], [1, 1], [-1, 1]]])
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    cells = Delaunay(points).simplices
    space = fem.FeedforwardSpace(2, (6,), 1)
    x, values = space.initial(0), []
    for place in (points, 3.0 + points @ turn.T):
        problem = fem.Energy(lambda p, u: u.value**2, fem.Simplices(place, cells), dirichlet=0.0)
        J = problem.on(space)
        # What the network is depends on the box around the domain: the factor is what is compared.
        ones = np.zeros(space.dim)
        ones[-1] = 1.0
        values.append(J.value(ones))
        assert np.isfinite(J.value(x))
    assert np.isclose(*values, rtol=1e-9)


# The factor.


def pieces(corners):
    return np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)


def cube():
    return fem.Boxes([fem.Box([0, 0, 0], [1, 1, 1])]).parts["boundary"].corners


def hull(dim):
    points = np.random.default_rng(dim).standard_normal((12, dim))
    found = ConvexHull(points)
    return points[found.simplices], found


@pytest.mark.parametrize("dim", [2, 3])
def test_factor_is_its_integral(dim):
    """``1 / factor`` is the integral of ``|x - y|^-d`` over the boundary."""
    facets, _ = hull(dim)
    inside = facets.mean(axis=(0, 1))
    unit = {2: [[0.0], [1.0]], 3: [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]}[dim]
    mesh = fem.SimplexMesh(np.array(unit), np.arange(dim)[None], points=50)
    rule, total = mesh.quadrature(), 0.0
    for corners in facets:
        sides = corners[1:] - corners[0]
        measure = np.sqrt(np.linalg.det(sides @ sides.T)) / (1 if dim == 2 else 2)
        places = corners[0] + rule.points @ sides
        total += measure * np.sum(rule.weights / np.linalg.norm(places - inside, axis=1) ** dim)
    found = Vanishing(facets, (0.0,)).factor(torch.tensor(inside[None]))
    assert np.isclose(float(found), (PI if dim == 2 else 2 * PI) / total, rtol=1e-6)


@pytest.mark.parametrize("dim", [2, 3])
def test_factor_is_the_distance_near_the_boundary(dim):
    """To first order, from inside each facet."""
    facets, found = hull(dim)
    middle, normal = facets.mean(axis=1), found.equations[:, :-1]
    factor = Vanishing(facets, (0.0,))
    steps = np.array([1e-2, 1e-3, 1e-4])
    errors = [np.abs(factor.factor(torch.tensor(middle - h * normal)).numpy() / h - 1.0).max() for h in steps]
    assert convergence_order(steps, errors).min() > 0.8


def test_factor_does_not_see_how_a_boundary_is_cut():
    """Halved facets have the same factor, and derivatives are continuous across the lines of other facets."""
    facets = pieces(CORNERS)
    middle = facets.mean(axis=1, keepdims=True)
    halves = np.concatenate([np.concatenate([facets[:, :1], middle], 1), np.concatenate([middle, facets[:, 1:]], 1)])
    # The line of the side from (0, 0) to (1, 0) goes on inside the domain.
    places = np.array([[-0.5, 0.0], [-0.5, 1e-9], [-0.5, -1e-4], [-0.5, 1e-4], [0.3, 0.6]])
    wanted = [(), (0,), (1,), (0, 1), (1, 1)]
    whole, cut = (np.array(Vanishing(part, (0.0,)).factors(places, wanted)) for part in (facets, halves))
    assert np.abs(whole - cut).max() < 1e-9
    assert np.abs(whole[:, 0] - whole[:, 1]).max() < 1e-7
    middle_of_both = 0.5 * (whole[:, 2] + whole[:, 3])
    assert np.abs(middle_of_both - whole[:, 0]).max() < 1e-6


def test_factor_and_its_gradient_on_the_boundary():
    """Both are finite there: solutions are evaluated on boundaries."""
    factor = Vanishing(pieces(CORNERS), (0.0,))
    value, dx, dy = factor.factors(np.array([[0.5, 0.0], [-1.0, 0.2], [-0.3, 1.0]]), [(), (0,), (1,)])
    assert np.abs(value).max() < 1e-12
    assert np.allclose(np.stack([dx, dy], axis=1), [[0, 1], [1, 0], [0, -1]], atol=1e-10)


def test_cube_of_rectangles():
    """Rectangles in space are cut into triangles: by symmetry the gradient vanishes in the middle."""
    problem = fem.Energy(
        lambda p, u: 0.5 * (u.grad**2).sum(dim=0) - u.value, fem.Boxes([fem.Box([0, 0, 0], [1, 1, 1])]), dirichlet=1.0
    )
    conditions = problem.ansatz.conditions
    value, *slope = conditions.factors(np.array([[0.5, 0.5, 0.5]]), [(), (0,), (1,), (2,)])
    assert cube().shape == (6, 4, 3) and np.isclose(value, 0.25) and np.abs(slope).max() < 1e-14
    space = fem.FeedforwardSpace(3, (4,), 1)
    u = problem.solution(space, space.initial(0))
    assert np.abs(u(np.array([[0.3, 0.2, 0.0], [1.0, 0.4, 0.9]])) - 1.0).max() < 1e-12


def test_restart(tmp_path):
    """Archives take energies."""
    problem = fem.Energy(dirichlet_energy, L_SHAPE, dirichlet=0.0)
    space = fem.FeedforwardSpace(2, (4,), 1)
    archive = fem.Archive.open(tmp_path / "energy.h5", problem, space, space.initial(0))
    result = fem.trust_region(problem.on(space), space.initial(0), 0.0, curvature=True, max_steps=5, observer=archive)
    archive.solved(result, fem.quadrature_error(problem.on(space), result.x))
    again = fem.Archive.open(tmp_path / "energy.h5", problem, space, space.initial(0))
    assert np.array_equal(again.levels[-1].x, result.x)
    other = fem.Energy(dirichlet_energy, L_SHAPE, dirichlet=1.0)
    with pytest.raises(fem.ArchiveError, match="conditions"):
        fem.Archive.open(tmp_path / "energy.h5", other, space, space.initial(0))


def test_estimates_of_residuals_refuse_energies():
    """The least value of an energy is not zero, so that its root and what is left of it mean nothing."""
    problem, x = square(dirichlet=0.0), SPACE.initial(0)
    J = problem.on(SPACE)
    with pytest.raises(ValueError, match="law of kind 'energy', expected residuals; see quadrature_error"):
        fem.residual(J, x)
    pool = fem.ridge_candidates(SPACE, problem.quadrature, layers=[1], count=3)
    with pytest.raises(ValueError, match="law of kind 'energy', expected residuals; see hierarchical"):
        fem.enriched(J, x, pool)


WRONG = {
    "no function": (lambda: square(1.0), "density: got float, expected a function"),
    "several rows": (lambda: square(lambda p, u: u.grad), "density: got 2 rows, expected one density"),
    "sum over the points": (lambda: square(lambda p, u: (u.grad**2).sum()), "density: got one number for all points"),
    "no dependence": (lambda: square(lambda p, u: 0.0 * u.value), "density: got a density without a derivative in u"),
    "not convex": (lambda: square(lambda p, u: u.value**2 - u.d(0) ** 2), "density: got a density that is not convex"),
    "product": (lambda: square(lambda p, u: u.value * u.d(0)), "density: got a density that is not convex"),
    "not finite": (
        lambda: square(lambda p, u: u.value**2 + torch.log(p.x[0] - 0.5)),
        "density: got NaN or infinity at the point",
    ),
    "no domain": (lambda: fem.Energy(dirichlet_energy, [0, 1]), "domain: got list, expected a Box"),
    "function on a polygon": (
        lambda: fem.Energy(dirichlet_energy, L_SHAPE, dirichlet=lambda p: p.x[0]),
        "dirichlet: got a function on 'boundary'",
    ),
    "different values": (
        lambda: fem.Energy(
            dirichlet_energy,
            fem.Boxes(L_SHAPE.boxes, parts={"floor": lambda p: p[:, 1] < -0.99}),
            dirichlet={"floor": 1.0, "boundary": 0.0},
        ),
        "dirichlet: got 2 different values",
    ),
    "another dimension": (
        lambda: fem.Energy(lambda p, u: u.value**2, fem.Boxes([fem.Box([0], [1])]), dirichlet=0.0),
        "dirichlet: got values on the boundary of Boxes with 1 coordinates, expected two or three",
    ),
    "not a number": (
        lambda: fem.Energy(dirichlet_energy, L_SHAPE, dirichlet=float("nan")),
        "dirichlet: got nan on 'boundary', expected a finite number",
    ),
    "a word": (
        lambda: fem.Energy(dirichlet_energy, L_SHAPE, dirichlet="cold"),
        "dirichlet: got 'cold' on 'boundary', expected a finite number",
    ),
    "too many numbers": (
        lambda: fem.Energy(dirichlet_energy, L_SHAPE, dirichlet=[0.0, 1.0]),
        r"dirichlet: got \[0.0, 1.0\] on 'boundary', expected a finite number",
    ),
    "detached": (lambda: square(lambda p, u: u.value.detach()), "density: got a density without a derivative in u"),
    "no function on the boundary": (lambda: square(boundary=3.0), "boundary on x0 = 0: got float, expected a function"),
    "weights": (
        lambda: square().on(SPACE, fem.Quadrature([[0.5, 0.5]], [2.0])),
        "quadrature: got weights with the sum 2.0, expected one",
    ),
    "outputs": (lambda: square(outputs=0), "outputs: got 0, expected a positive integer"),
    "space": (lambda: square().on(fem.FeedforwardSpace(2, (3,), 2)), "space: got 2 outputs"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(case):
    """Mistakes are named before anything is solved."""
    build, words = WRONG[case]
    with pytest.raises(ValueError, match=words):
        build()
