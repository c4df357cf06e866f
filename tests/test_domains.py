"""Domains beyond a box: rules on simplices and facets, Gauss' theorem, unions of boxes, meshes, equations on these."""

import math
import pickle
from itertools import count, product

import numpy as np
import pytest
import torch
from conftest import DEVICE
from hypothesis import given, settings, strategies as st
from scipy.spatial import Delaunay

import dnnfem as fem
from dnnfem.problems.domains import Domain
from dnnfem.quadrature import FacetMesh, Quadrature, SimplexMesh, SobolPoints, mesh_from_attributes

PI = math.pi


def reference(k):
    """Return the vertices of the simplex at the origin, and its only cell."""
    return np.vstack([np.zeros(k), np.eye(k)]), [list(range(k + 1))]


def delaunay(dim, points, seed):
    """Return a triangulation of random points in a box, with vertices of cells in any order."""
    vertices = np.random.default_rng(seed).uniform(-1.0, 2.0, (points, dim))
    return vertices, Delaunay(vertices).simplices


def l_shape(scale=1.0):
    """Return the square of side 2 without a quarter, as three boxes."""
    corners = [([-1, -1], [0, 0]), ([0, -1], [1, 0]), ([-1, 0], [0, 1])]
    return [fem.Box(scale * np.array(low), scale * np.array(high)) for low, high in corners]


def triangulated(boxes, n):
    """Return vertices and positively oriented triangles of boxes in the plane that have whole sides in common."""
    vertices, cells = [], []
    for box in boxes:
        axes = [np.linspace(a, b, n + 1) for a, b in zip(box.low, box.high, strict=True)]
        first = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).ravel() + len(vertices) * (n + 1) ** 2
        vertices.append(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2))
        for last in ((n + 1, n + 2), (n + 2, 1)):
            cells.append(np.stack([first, first + last[0], first + last[1]], axis=1))
    unique, numbers = np.unique(np.concatenate(vertices).round(12), axis=0, return_inverse=True)
    return unique, numbers.reshape(-1)[np.concatenate(cells)]


def integral(domain, function, time=None):
    """Return the integral over the domain (times an interval) of what has shape (m,)."""
    rule = domain.mesh(time, count()).quadrature()
    return domain.volume * (1.0 if time is None else time[1] - time[0]) * np.sum(rule.weights * function(rule.points))


def flux(domain, field, names=None, time=None):
    """Return the integral over parts of the boundary (times an interval) of ``field . n``, and of one."""
    names = list(domain.parts) if names is None else names
    rule = domain.facet_mesh(names, time, count()).quadrature()
    measure = sum(np.sum(domain.parts[name].measures) for name in names)
    measure = measure * (1.0 if time is None else time[1] - time[0])
    return measure * np.sum(rule.weights * np.sum(field(rule.points) * rule.data, axis=1)), measure


# ---- rules


def exponents(k, degree):
    return [powers for powers in product(range(degree + 1), repeat=k) if sum(powers) == degree]


def exact(powers):
    """Return the mean of a monomial over the simplex at the origin."""
    k = len(powers)
    return math.prod(map(math.factorial, powers)) * math.factorial(k) / math.factorial(sum(powers) + k)


@pytest.mark.parametrize("points", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_rule_is_exact_up_to_its_degree_and_not_beyond(k, points):
    rule = SimplexMesh(*reference(k), points).quadrature()
    assert len(rule) == points**k and rule.total == pytest.approx(1.0, rel=1e-15)
    errors = [
        max(abs(np.sum(rule.weights * np.prod(rule.points**p, axis=1)) - exact(p)) for p in exponents(k, degree))
        for degree in range(2 * points + 1)
    ]
    assert max(errors[:-1]) < 1e-15
    assert errors[-1] > 1e-6


@pytest.mark.parametrize(("k", "d"), [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)])
def test_facets_have_the_rule_of_their_dimension(k, d):
    corners = np.random.default_rng(d).standard_normal((k + 1, d))
    mesh = SimplexMesh(corners, [list(range(k + 1))], 3)
    rule = mesh.finer().refined([0]).quadrature()
    # A polynomial in the plane of the facet, with barycentric coordinates as variables.
    lambdas = np.linalg.lstsq((corners[1:] - corners[0]).T, (rule.points - corners[0]).T, rcond=None)[0].T
    for degree in range(6):
        for powers in exponents(k, degree):
            mean = np.sum(rule.weights * np.prod(lambdas ** np.array(powers), axis=1))
            assert mean == pytest.approx(exact(powers), abs=1e-14)
    if k:
        edges = corners[1:] - corners[0]
        volume = math.sqrt(np.linalg.det(edges @ edges.T)) / math.factorial(k)
        assert np.sum(mesh.finer().volumes) == pytest.approx(volume, rel=1e-13)


@pytest.mark.parametrize("dim", [2, 3])
def test_refinement_keeps_what_is_exact(dim):
    vertices, cells = delaunay(dim, 12, 5)
    mesh = fem.Simplices.oriented(vertices, cells).mesh(None, count())
    random = np.random.default_rng(0)

    def mean(mesh):
        rule = mesh.quadrature()
        return np.sum(rule.weights * np.prod(rule.points - 0.3, axis=1) ** 2)

    before, total = mean(mesh), np.sum(mesh.volumes)
    for _ in range(6):
        marked = random.choice(mesh.cell_count, mesh.cell_count // 3, replace=False)
        old, mesh = mesh, mesh.refined(marked)
        assert mesh.cell_count == old.cell_count + len(marked)
        assert mean(mesh) == pytest.approx(before, rel=1e-12)
    assert np.sum(mesh.volumes) == pytest.approx(total, rel=1e-12)
    assert mesh.refined([]) is mesh


def owners(mesh, fine, children):
    """Whether points of a finer mesh lie in the cell in whose place they are."""
    rule = fine.quadrature()
    own = np.repeat(np.arange(mesh.cell_count), children)[rule.cells]
    corners = mesh.vertices[mesh.cells[own]]
    lambdas = np.linalg.solve(
        np.swapaxes(corners[:, 1:] - corners[:, :1], 1, 2), (rule.points - corners[:, 0])[..., None]
    )[..., 0]
    return (lambdas > 0.0).all() and (lambdas.sum(axis=1) < 1.0).all()


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_children_take_the_place_of_their_cell(dim):
    vertices, cells = (np.array([[0.0], [2.0], [3.0]]), np.array([[0, 1], [1, 2]])) if dim == 1 else delaunay(dim, 8, 1)
    domain = fem.Simplices.oriented(vertices, cells)
    mesh = SimplexMesh(domain.points, domain.cells, 3)
    fine = mesh.finer()
    assert fine.cell_count == 2**dim * mesh.cell_count
    assert np.allclose(fine.volumes.reshape(-1, 2**dim), mesh.volumes[:, None] / 2**dim, rtol=1e-9)
    assert owners(mesh, fine, np.full(mesh.cell_count, 2**dim))
    # Neighbours share the midpoints of their edges, as only a conforming mesh has the boundary that it had.
    assert np.sum(fem.Simplices(fine.vertices, fine.cells).facets.measures) == pytest.approx(
        np.sum(domain.facets.measures), rel=1e-12
    )
    marked = np.arange(0, mesh.cell_count, 2)
    children = np.ones(mesh.cell_count, dtype=int)
    children[marked] = 2
    assert owners(mesh, mesh.refined(marked), children)
    # New points are none of the old ones.
    old, new = mesh.quadrature().points, fine.quadrature().points
    assert min(np.min(np.linalg.norm(new - point, axis=1)) for point in old) > 1e-4


def test_shapes_do_not_degenerate():
    def quality(mesh):
        """Return the volume over the cube of the longest edge, for the worst cell."""
        corners = mesh.vertices[mesh.cells]
        edges = np.linalg.norm(corners[:, :, None] - corners[:, None], axis=-1).max(axis=(1, 2))
        return np.min(mesh.volumes / edges**mesh.cell_dim)

    for dim in (2, 3):
        mesh = SimplexMesh(*reference(dim), 1)
        once, thrice = mesh.finer(), mesh.finer().finer().finer()
        assert quality(thrice) == pytest.approx(quality(once), rel=1e-9)
        bisected, worst = mesh, quality(mesh)
        for _ in range(20):
            # Towards a corner.
            distance = np.linalg.norm(bisected.vertices[bisected.cells].mean(axis=1) - mesh.vertices[1], axis=1)
            bisected = bisected.refined(np.argsort(distance)[:4])
        assert quality(bisected) > 0.2 * worst


def test_refinement_resolves_a_singular_integrand():
    """The integral of ``r^(-3/2)`` over a triangle with its corner at the origin: cells towards it, not everywhere."""
    mesh = SimplexMesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[0, 1, 2]], 4)
    # In polar coordinates, int_0^(pi/2) 2 R(phi)^(1/2) with R = 1 / (cos + sin).
    nodes, weights = np.polynomial.legendre.leggauss(40)
    phi = PI / 4 * (1.0 + nodes)
    true = PI / 4 * np.sum(weights * 2.0 * (np.cos(phi) + np.sin(phi)) ** -0.5)
    errors = []
    for step in range(61):
        rule = mesh.quadrature()
        radii = np.linalg.norm(rule.points, axis=1)
        if step % 20 == 0:
            errors.append(abs(0.5 * np.sum(rule.weights * radii**-1.5) - true) / true)
        mesh = mesh.refined(np.flatnonzero((mesh.vertices[mesh.cells] == 0.0).all(axis=2).any(axis=1)))
    # Bisections halve the areas of the cells at the corner: r^(1/2) falls by 2^(-1/4).
    rates = np.log2(np.array(errors[:-1]) / errors[1:]) / 20
    assert np.allclose(rates, 0.25, atol=0.05), errors
    assert mesh.cell_count < 200


def test_small_and_large_meshes_do_not_overflow():
    vertices, cells = delaunay(3, 8, 0)
    domain = fem.Simplices.oriented(vertices, cells)
    for scale in (1e-120, 1e120):
        mesh = SimplexMesh(scale * domain.points, domain.cells, 2)
        weights = mesh.refined([0]).quadrature().weights
        assert np.allclose(weights, SimplexMesh(vertices, domain.cells, 2).refined([0]).quadrature().weights, rtol=1e-9)


# ---- domains: volumes, boundaries, normals


def random_boxes(dim, seed, cuts=4):
    """Return some of the boxes that a box is cut into at random, so that neighbours share parts of sides."""
    random = np.random.default_rng(seed)
    boxes = [(np.zeros(dim), np.array([1.0, 2.0, 0.7][:dim]))]
    for _ in range(cuts):
        low, high = boxes.pop(0)
        axis, share = random.integers(dim), random.uniform(0.3, 0.7)
        middle = low[axis] + share * (high[axis] - low[axis])
        for end in (0, 1):
            corners = [low.copy(), high.copy()]
            corners[1 - end][axis] = middle
            boxes.append(tuple(corners))
    keep = max(2, len(boxes) - 1)
    return [fem.Box(*boxes[k]) for k in random.permutation(len(boxes))[:keep]]


def random_domain(kind, dim, seed):
    if kind == "boxes":
        return fem.Boxes(random_boxes(dim, seed))
    vertices, cells = delaunay(dim, 6 + seed % 7, seed) if dim > 1 else ([[0.0], [1.0], [3.0]], [[1, 0], [1, 2]])
    return fem.Simplices.oriented(vertices, cells)


DOMAINS = [(kind, dim) for kind in ("boxes", "simplices") for dim in (1, 2, 3)]


def polynomial(dim, seed, degree=6):
    """Return a random vector field of some degree in all variables together, (m, d) -> (m, d), and its divergence."""
    random = np.random.default_rng(seed)
    terms = [(axis, random.integers(0, 3, dim), random.standard_normal()) for axis in range(dim) for _ in range(4)]
    terms = [(axis, powers, c) for axis, powers, c in terms if sum(powers) <= degree]

    def field(points):
        found = np.zeros((len(points), dim))
        for axis, powers, c in terms:
            found[:, axis] += c * np.prod(points[:, :dim] ** powers, axis=1)
        return found

    def divergence(points):
        found = np.zeros(len(points))
        for axis, powers, c in terms:
            if powers[axis]:
                lower = powers - np.eye(dim, dtype=int)[axis]
                found += c * powers[axis] * np.prod(points[:, :dim] ** lower, axis=1)
        return found

    return field, divergence


@pytest.mark.parametrize(("kind", "dim"), DOMAINS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_divergence_theorem(kind, dim, seed):
    domain = random_domain(kind, dim, seed)
    field, divergence = polynomial(dim, seed)
    inside = integral(domain, divergence)
    through, _ = flux(domain, field)
    size = integral(domain, lambda p: np.linalg.norm(field(p), axis=1)) + abs(inside) + 1.0
    assert through == pytest.approx(inside, abs=1e-11 * size)
    # So is it for the facets themselves, with the field at their midpoints, if it is affine.
    whole = domain.parts["boundary"]
    affine = whole.midpoints @ np.arange(1.0, 1.0 + dim**2).reshape(dim, dim).T
    trace = np.trace(np.arange(1.0, 1.0 + dim**2).reshape(dim, dim))
    assert np.sum(whole.measures * np.sum(affine * whole.normals, axis=1)) == pytest.approx(
        domain.volume * trace, rel=1e-10
    )
    assert np.allclose(np.linalg.norm(whole.normals, axis=1), 1.0, atol=1e-14)
    # Facets are flat: their corners lie in a plane that is orthogonal to the normal.
    across = np.einsum("mcd,md->mc", whole.corners - whole.midpoints[:, None], whole.normals)
    assert np.max(np.abs(across)) < 1e-12


@pytest.mark.parametrize(("kind", "dim"), [(kind, dim) for kind, dim in DOMAINS if dim < 3])
def test_the_divergence_theorem_in_space_and_time(kind, dim):
    time = (0.5, 0.8)
    for seed in range(4):
        domain = random_domain(kind, dim, seed)
        field, divergence = polynomial(dim, seed)
        moving = lambda p: field(p) * p[:, -1:] ** 2  # noqa: E731, B023
        inside = integral(domain, lambda p: divergence(p) * p[:, -1] ** 2, time)  # noqa: B023
        through, measure = flux(domain, moving, time=time)
        assert through == pytest.approx(inside, abs=1e-11 * (1.0 + abs(inside) + measure))
        assert inside == pytest.approx(integral(domain, divergence) * (0.8**3 - 0.5**3) / 3, abs=1e-11)
        begin = domain.mesh((0.5, 0.5), count()).quadrature()
        assert np.allclose(begin.points[:, -1], 0.5, rtol=0.0, atol=1e-15)
        assert domain.volume * np.sum(begin.weights * divergence(begin.points)) == pytest.approx(
            integral(domain, divergence), abs=1e-11
        )


@pytest.mark.parametrize(
    ("domain", "volume", "measure"),
    [
        (fem.Boxes(l_shape()), 3.0, 8.0),
        (fem.Simplices(*triangulated(l_shape(), 3)), 3.0, 8.0),
        (fem.Boxes([fem.Box([0] * 3, [2] * 3), fem.Box([2, 0.5, 0.5], [3, 1.5, 1.5])]), 9.0, 24.0 + 4.0),
        (fem.Boxes([fem.Box([0], [1]), fem.Box([2], [4])]), 3.0, 4.0),
        # A frame, and a tower that touches its ground with its corner only.
        (
            fem.Boxes([fem.Box(*c) for c in (([0, 0], [3, 1]), ([0, 2], [3, 3]), ([0, 1], [1, 2]), ([2, 1], [3, 2]))]),
            8.0,
            16.0,
        ),
        (fem.Boxes([fem.Box([0, 0], [1, 1]), fem.Box([1, 1], [2, 2])]), 2.0, 8.0),
        (fem.Boxes([fem.Box([0] * 4, [1] * 4), fem.Box([1, 0, 0, 0], [2, 1, 1, 1])]), 2.0, 14.0),
        (fem.Box([0, 0, 0], [1, 2, 3]), 6.0, 22.0),
    ],
)
def test_volumes_and_measures(domain, volume, measure):
    assert domain.volume == pytest.approx(volume, rel=1e-14)
    assert np.sum(domain.parts["boundary"].measures) == pytest.approx(measure, rel=1e-14)
    assert isinstance(domain, Domain)
    assert isinstance(pickle.loads(pickle.dumps(domain)), Domain)


def test_voxels_have_the_faces_that_differ():
    voxels = np.random.default_rng(3).random((5, 4, 3)) < 0.5
    domain = fem.Boxes([fem.Box(0.1 * low, 0.1 * (low + 1)) for low in np.argwhere(voxels)])
    padded = np.pad(voxels, 1).astype(int)
    assert len(domain.faces.measures) == sum(np.sum(np.abs(np.diff(padded, axis=axis))) for axis in range(3))
    assert domain.volume == pytest.approx(1e-3 * voxels.sum(), rel=1e-12)


def test_coordinates_that_differ_by_rounding_are_the_same():
    third = [fem.Box([0.0, 0.0], [0.3, 1.0]), fem.Box([0.1 * 3, 0.0], [1.0, 1.0])]
    for boxes in (third, third[::-1]):
        domain = fem.Boxes(boxes)
        assert np.sum(domain.faces.measures) == pytest.approx(4.0, rel=1e-14)
        assert domain.volume == pytest.approx(1.0, rel=1e-14)


def test_a_union_of_one_box_is_the_box():
    box = fem.Box([0.0, -1.0], [2.0, 5.0])
    one = fem.Boxes([box])
    law = {"law": lambda p, u: u.laplacian + 1.0, "dirichlet": 0.0, "exact": False}
    problems = [fem.Collocation(domain=domain, **law) for domain in (box, one)]
    assert np.array_equal(*[problem.quadrature.points for problem in problems])
    assert (box.low, box.high, box.volume, box.dim) == (one.low, one.high, one.volume, one.dim)
    # Along a boundary all points have the same density, while sides of a box have the same weight.
    lengths = [
        np.sum(p.quadrature.regions["dirichlet"].weights[p.quadrature.regions["dirichlet"].points[:, 0] == 0])
        for p in problems
    ]
    assert lengths == [pytest.approx(0.25), pytest.approx(6.0 / 16.0)]


def test_cells_are_about_as_many_as_those_of_a_box():
    boxes, mesh = fem.Boxes(l_shape()), fem.Simplices(*triangulated(l_shape(), 1))
    for domain in (boxes, mesh):
        inside, boundary = domain.mesh(None, count()), domain.facet_mesh(["boundary"], None, count())
        assert 64 <= inside.cell_count <= 128
        assert 32 <= boundary.cell_count <= 64
    # A fine mesh stays what it is, with fewer points in its cells.
    points, cells = triangulated(l_shape(), 60)
    fine = fem.Simplices(points, cells).mesh(None, count())
    assert fine.cell_count == len(cells) and fine.points == 2


def test_parts_take_facets_one_after_the_other():
    parts = {"left": lambda m: m[:, 0] < -0.99, "below": lambda m: m[:, 1] < -0.99, "all": lambda m: m[:, 0] > -9.0}
    for domain in (fem.Boxes(l_shape(), parts), fem.Simplices(*triangulated(l_shape(), 4), parts)):
        measures = {name: np.sum(part.measures) for name, part in domain.parts.items()}
        assert measures == {"left": pytest.approx(2.0), "below": pytest.approx(2.0), "all": pytest.approx(4.0)}
        assert np.allclose(domain.parts["left"].normals, [-1.0, 0.0])
        left, below = (domain.facet_mesh([name], None, count()).quadrature() for name in ("left", "below"))
        assert np.allclose(left.points[:, 0], -1.0) and np.allclose(below.points[:, 1], -1.0)
        both = domain.facet_mesh(["left", "below"], None, count()).quadrature()
        assert len(both) == len(left) + len(below)
        # One unnamed part is left.
        some = type(domain)(
            *((domain.boxes,) if hasattr(domain, "boxes") else (domain.points, domain.cells)),
            dict([*parts.items()][:2]),
        )
        assert list(some.parts) == ["left", "below", "boundary"]


# ---- what is refused

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fem.Simplices(SQUARE, [[0, 1, 2], [0, 3, 2]]), "cell 1 is inverted, .*vertices .0, 3, 2. at"),
        (lambda: fem.SimplexMesh(SQUARE, [[0, 1, 2], [0, 2, 2]]), "cell 1 is flat"),
        (lambda: fem.SimplexMesh([[0.1, 0.1], [0.2, 0.2], [0.7, 0.7]], [[0, 1, 2]]), "cell 0 is flat"),
        (lambda: fem.SimplexMesh([[1.0], [0.0]], [[0, 1]]), "cell 0 is inverted"),
        (lambda: fem.Simplices(SQUARE.T, np.array([[0, 1, 2], [0, 2, 3]]).T), "look transposed"),
        (lambda: fem.Simplices(np.zeros((3, 9)), np.arange(20).reshape(4, 5) % 9), "look transposed"),
        (lambda: fem.Simplices(np.c_[SQUARE, np.zeros(4)], [[0, 1, 2]]), "3 coordinates, .*pass points"),
        (
            lambda: fem.Simplices(SQUARE, [[0, 1, 4]]),
            "cell 0 with the vertices .0, 1, 4., expected numbers from 0 to 3",
        ),
        (lambda: fem.Simplices(SQUARE, [[0.0, 1.0, 2.0]]), "expected integers"),
        (lambda: fem.Simplices(SQUARE, np.empty((0, 3), dtype=int)), "at least one row"),
        (lambda: fem.Simplices([[0.0, np.nan]] * 3, [[0, 1, 2]]), "NaN"),
        (
            lambda: fem.Simplices(SQUARE, [[0, 1, 2], [0, 1, 3]]),
            "cell 0 and cell 1 on the same side of the facet .0, 1.",
        ),
        (lambda: fem.Simplices.oriented(SQUARE, [[0, 1, 2], [0, 1, 3]]), "on the same side"),
        (lambda: fem.Simplices.oriented(*reference(4)), "at most 3"),
        (lambda: fem.SimplexMesh(*reference(2), 0), "points: got 0"),
        (lambda: FacetMesh(fem.SimplexMesh(SQUARE, [[0, 1]]), [[0.0, 2.0]]), "normals: got length 2.0 in cell 0"),
        (lambda: FacetMesh(fem.SimplexMesh(SQUARE, [[0, 1]]), np.eye(2)), "normals: got 2, expected 1"),
        (lambda: fem.UnionMesh((SimplexMesh(*reference(2)),), [-1.0]), "shares: got"),
        (lambda: fem.Boxes([]), "boxes: got none"),
        (lambda: fem.Boxes([(0, 1)]), "boxes: got tuple"),
        (lambda: fem.Boxes([fem.Box([0], [1]), fem.Box([0, 0], [1, 1])]), "2 coordinates in box 1, expected 1"),
        (
            lambda: fem.Boxes([fem.Box([0, 0], [1, 1]), fem.Box([5, 5], [6, 6]), fem.Box([0.9, 0.9], [2, 2])]),
            r"box 0, \[0, 1\] x \[0, 1\], and box 2, .* overlap",
        ),
        (lambda: fem.Boxes([fem.Box([0, 0], [1, 1])] * 2), "overlap"),
        (lambda: fem.Boxes([fem.Box([0, 0], [1, 1]), fem.Box([1, 0], [1 + 1e-14, 1])]), "thicker"),
        (lambda: fem.Boxes(l_shape(), {"none": lambda m: m[:, 0] > 9}), "'none' without facets.*no facet has"),
        (lambda: fem.Boxes(l_shape(), dict.fromkeys("ab", lambda m: m[:, 0] > 0)), "'b' without facets.*parts before"),
        (lambda: fem.Boxes(l_shape(), {"x": lambda m: m[:, 0]}), "shape .8,. of float64 from 'x', expected a mask"),
        (lambda: fem.Boxes(l_shape(), {"x": lambda m: True}), "expected a mask of shape .8,."),
        (lambda: fem.Boxes(l_shape(), {"x": 1}), "int for 'x'"),
        (lambda: fem.Boxes(l_shape(), {"boundary": lambda m: m[:, 0] > 0}), "got the name 'boundary'"),
        (lambda: fem.Boxes(l_shape(), [1]), "parts: got list"),
    ],
)
def test_wrong_domains_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_three_cells_do_not_meet_in_an_edge():
    # The third one is folded back beside the second one, and is found as that.
    vertices = np.vstack([SQUARE, [[0.2, 0.9]]])
    with pytest.raises(ValueError, match="got cell|got the facet"):
        fem.Simplices.oriented(vertices, [[0, 1, 2], [0, 2, 3], [0, 2, 4]])


def on_l(**options):
    return fem.Collocation(lambda p, u: u.laplacian, fem.Boxes(l_shape(), {"in": lambda m: m[:, 0] < -0.99}), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: on_l(dirichlet={"out": 0.0}), "dirichlet: .*'out', expected some of in, boundary"),
        (
            lambda: on_l(boundary={(0, 1): lambda p, u: u.normal}),
            r"boundary: .*\(0, 1\), expected some of in, boundary",
        ),
        (lambda: on_l(periodic=(0,)), "periodic: got .0,., expected none, as only boxes are periodic"),
        (lambda: on_l(time=(0, 1), dirichlet=1.0, initial=0.0), "dirichlet, initial: got values .1.0. and .0.0. at"),
        (
            lambda: on_l(
                boundary=lambda p, u: u.normal,
                quadrature=Quadrature(
                    np.zeros((1, 2)), np.ones(1), regions={"boundary": Quadrature(np.zeros((1, 2)), np.ones(1))}
                ),
            ),
            "p.normal: got points without normals",
        ),
        (
            lambda: fem.Collocation(lambda p, u: u.dt, fem.Simplices(*reference(3)), time=(0, 1)),
            "time: got an interval for simplices in 3 dimensions",
        ),
    ],
)
def test_wrong_conditions_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- equations


def wave(x, y):
    return torch.sin(2.0 * x + y) * torch.exp(0.5 * y)


def poisson(p, u):
    x, y = p.x
    source = torch.exp(0.5 * y) * (torch.cos(2.0 * x + y) - 4.75 * torch.sin(2.0 * x + y))
    return u.laplacian - source


def error(problem, neurons, true=wave):
    """Return the root mean square error of a network with one layer, on the points of a finer quadrature."""
    space = fem.FeedforwardSpace(problem.quadrature.inputs, (neurons,), 1)
    result = fem.gauss_newton(problem.on(space), space.initial(0), tolerance=fem.relative(1e-4), max_steps=50)
    rule = problem.quadrature.finer()
    wanted = true(*torch.tensor(rule.points.T)).numpy()
    return math.sqrt(np.sum(rule.weights * (problem.solution(space, result.x)(rule.points)[:, 0] - wanted) ** 2))


def test_boxes_and_triangles_of_an_l_have_the_same_solution():
    errors = {}
    for name, domain in (("boxes", fem.Boxes(l_shape())), ("triangles", fem.Simplices(*triangulated(l_shape(), 2)))):
        problem = fem.Collocation(poisson, domain, dirichlet=lambda p: wave(*p.x))
        assert list(problem.laws) == ["law", "dirichlet"]
        errors[name] = [error(problem, neurons) for neurons in (20, 40)]
        assert errors[name][0] < 1e-4 and errors[name][1] < 1.5e-6, errors
        assert errors[name][1] < 0.1 * errors[name][0], errors
    assert 0.1 < errors["boxes"][1] / errors["triangles"][1] < 10.0, errors


def gradient(x, y):
    return torch.stack(
        [
            2.0 * torch.cos(2.0 * x + y) * torch.exp(0.5 * y),
            (torch.cos(2.0 * x + y) + 0.5 * torch.sin(2.0 * x + y)) * torch.exp(0.5 * y),
        ]
    )


@pytest.mark.parametrize("kind", ["boxes", "triangles"])
def test_conditions_with_the_normal_on_parts_of_the_boundary(kind):
    parts = {"left": lambda m: m[:, 0] < -0.99, "below": lambda m: m[:, 1] < -0.99}
    # Turned and sheared, so that normals are not along axes.
    points, cells = triangulated(l_shape(), 2)
    turned = points @ np.array([[1.0, 0.3], [-0.2, 0.8]])
    plain = fem.Simplices(points, cells, parts)
    domain = fem.Boxes(l_shape(), parts)
    if kind == "triangles":
        own = {
            name: (
                lambda m, k=name: np.isin(
                    np.round(m, 9),
                    np.round(plain.parts[k].midpoints @ np.linalg.lstsq(points, turned, rcond=None)[0], 9),
                ).all(axis=1)
            )
            for name in parts
        }
        domain = fem.Simplices(turned, cells, own)
    problem = fem.Collocation(
        poisson,
        domain,
        dirichlet={"left": lambda p: wave(*p.x)},
        boundary={
            "below": lambda p, u: u.normal - (p.normal * gradient(*p.x)).sum(dim=0),
            "boundary": lambda p, u: u.normal + u - (p.normal * gradient(*p.x)).sum(dim=0) - wave(*p.x),
        },
    )
    assert list(problem.laws) == ["law", "dirichlet", "boundary on below", "boundary on boundary"]
    assert error(problem, 80) < 2e-4


@pytest.mark.parametrize("kind", ["boxes", "triangles"])
@pytest.mark.parametrize("exact", [True, False])
def test_heat_on_an_l(kind, exact):
    """``u_t = Lap u``: initial values hold exactly, and are asked for where the domain is only."""
    boxes = l_shape(0.5)

    def start(p):
        x, y = p.x
        assert not ((x > 1e-9) & (y > 1e-9)).any(), "outside of the domain"
        return torch.sin(x) * torch.cos(y)

    def decay(x, y, t):
        return torch.exp(-2.0 * t) * torch.sin(x) * torch.cos(y)

    domain = fem.Boxes(boxes) if kind == "boxes" else fem.Simplices(*triangulated(boxes, 1))
    problem = fem.Collocation(
        lambda p, u: u.dt - u.laplacian,
        domain,
        time=(0.0, 0.5),
        dirichlet=lambda p: decay(*p.x, p.t),
        initial=start,
        exact=exact,
    )
    assert list(problem.laws) == ["law", "dirichlet", *([] if exact else ["initial"])]
    assert error(problem, 20, decay) < 3e-3
    assert len(problem.identity["conditions"]) == (problem.ansatz.conditions.fingerprint.size if exact else 0)
    space = fem.FeedforwardSpace(3, (5,), 1)
    solution = problem.solution(space, space.initial(0))
    later = fem.next_slab(problem, solution, 1.0)
    begin = np.column_stack(
        [domain.mesh(None, count()).quadrature().points, np.full(len(domain.mesh(None, count()).quadrature()), 0.5)]
    )
    if exact:
        assert np.allclose(later.solution(space, space.initial(1))(begin), solution(begin), atol=1e-13)


def test_boxes_above_three_dimensions_have_sequences_with_shares_of_the_volume():
    domain = fem.Boxes([fem.Box([0] * 4, [1] * 4), fem.Box([1, 0, 0, 0], [4, 1, 1, 1])])
    problem = fem.Collocation(
        lambda p, u: u.laplacian, domain, dirichlet=lambda p: p.x[0], boundary=lambda p, u: u.normal - p.normal[0]
    )
    rule, sides = problem.quadrature, problem.quadrature.regions["boundary"]
    assert [type(part) for part in rule.mesh.parts] == [SobolPoints] * 2
    first = rule.points[:, 0] < 1.0
    assert np.sum(rule.weights[first]) == pytest.approx(0.25, rel=1e-14)
    assert np.sum(rule.weights * rule.points[:, 0]) == pytest.approx(2.0, rel=1e-3)
    # The ends have measure 1 each, the other faces 6 and 18.
    ends = np.abs(sides.data[:, 0]) == 1.0
    assert np.sum(sides.weights[ends]) == pytest.approx(2.0 / 26.0, rel=1e-14)
    fine = problem.quadrature.refined([0, 3]).finer()
    assert len(fine) > 4 * len(rule) and fine.regions["boundary"].data.shape[1] == 4
    space = fem.FeedforwardSpace(4, (5,), 1)
    J = problem.on(space)
    assert np.isfinite(fem.residual(J, space.initial(0)).total)


@pytest.mark.parametrize("kind", ["boxes", "triangles"])
def test_refinement_and_estimates_of_parts_with_normals(kind):
    domain = fem.Boxes(l_shape()) if kind == "boxes" else fem.Simplices(*triangulated(l_shape(), 1))
    problem = fem.Collocation(poisson, domain, boundary=lambda p, u: u.normal + u + p.normal[0] * p.x[1])
    space = fem.FeedforwardSpace(2, (6,), 1)
    x = space.initial(0)
    J = problem.on(space)
    estimate = fem.residual(J, x)
    region = problem.quadrature.regions["boundary"]
    assert len(estimate.indicators) == problem.quadrature.cell_count + region.cell_count
    assert estimate.total == pytest.approx(math.sqrt(2.0 * J.value(x)), rel=1e-3)
    marked = np.arange(0, len(estimate.cells), 3)
    finer = fem.refine_quadrature(problem.quadrature, marked)
    new = finer.regions["boundary"]
    assert finer.cell_count + new.cell_count == len(estimate.cells) + len(marked)
    # Normals are those of where the points are.
    for rule in (new, new.finer()):
        distance = np.linalg.norm(rule.points[:, None] - region.points, axis=2)
        assert np.array_equal(rule.data, region.data[np.argmin(distance, axis=1)])
    assert problem.on(space, finer).value(x) == pytest.approx(J.value(x), rel=1e-3)


def test_backends_agree_on_normals():
    problem = {
        "law": poisson,
        "domain": fem.Simplices(*triangulated(l_shape(), 1)),
        "boundary": lambda p, u: u.normal * u - p.normal[0] * p.x[1],
    }
    space = fem.FeedforwardSpace(2, (6,), 1)
    x = space.initial(0)
    found = [
        fem.Collocation(**problem, **options).on(space).linearize(x)
        for options in ({"backend": "reference"}, {}, {"device": DEVICE})
    ]
    for other in found[1:]:
        assert other.value == pytest.approx(found[0].value, rel=1e-12)
        assert np.allclose(other.derivative, found[0].derivative, rtol=1e-10, atol=1e-12)


# ---- archives


@pytest.mark.parametrize("kind", ["boxes", "triangles", "sequences"])
def test_meshes_and_normals_come_back_from_an_archive(kind, tmp_path):
    domain = {
        "boxes": lambda: fem.Boxes(l_shape()),
        "triangles": lambda: fem.Simplices(*triangulated(l_shape(), 1)),
        "sequences": lambda: fem.Boxes([fem.Box([0] * 4, [1] * 4), fem.Box([1, 0, 0, 0], [2, 1, 1, 1])]),
    }[kind]()
    problem = fem.Collocation(lambda p, u: u.laplacian, domain, boundary=lambda p, u: u.normal - p.normal[0])
    space = fem.FeedforwardSpace(domain.dim, (4,), 1)
    path = tmp_path / "run.h5"
    archive = fem.Archive.open(path, problem, space, space.initial(seed=0))
    J = problem.on(space)
    result = fem.gauss_newton(J, archive.level.x, tolerance=fem.relative(0.5), observer=archive, max_steps=5)
    estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, problem.quadrature, seed=0))
    archive.solved(result, estimate)
    wider, transfer = fem.widen(space, estimate.cells[:1])
    quadrature = problem.quadrature.refined([0, problem.quadrature.cell_count])
    archive.refined([0], wider, transfer, quadrature)
    again = fem.Archive.open(path, problem, space, space.initial(seed=0)).level
    assert again.quadrature.hash == quadrature.hash
    for stored, made in (
        (again.quadrature, quadrature),
        (again.quadrature.regions["boundary"], quadrature.regions["boundary"]),
    ):
        rebuilt = mesh_from_attributes(stored.mesh.attributes(), stored.mesh.arrays()).refined([0]).quadrature()
        wanted = made.mesh.refined([0]).quadrature()
        assert rebuilt.hash == wanted.hash
        copy = pickle.loads(pickle.dumps(made))
        assert copy.hash == made.hash and not copy.points.flags.writeable
    assert problem.on(wider, again.quadrature).value(again.x) == problem.on(wider, quadrature).value(again.x)


# ---- domains of one's own


class Disc:
    """The unit disc, with points in polar coordinates: what `Domain` asks for, and nothing else."""

    low, high, dim, volume = (-1.0, -1.0), (1.0, 1.0), 2, PI
    parts = {"boundary": None}  # noqa: RUF012

    def mesh(self, time, seeds):
        angles = np.linspace(0.0, 2.0 * PI, 33)[:-1]
        rim = np.column_stack([np.cos(angles), np.sin(angles)])
        cells = [[0, k + 1, (k + 1) % 32 + 1] for k in range(32)]
        return SimplexMesh(np.vstack([[0.0, 0.0], rim]), cells)

    def facet_mesh(self, names, time, seeds):
        angles = np.linspace(0.0, 2.0 * PI, 129)[:-1]
        rim = np.column_stack([np.cos(angles), np.sin(angles)])
        return FacetMesh(SimplexMesh(rim, np.arange(128)[:, None]), rim)


def test_a_domain_of_ones_own():
    problem = fem.Collocation(lambda p, u: u.laplacian + 4.0, Disc(), dirichlet=0.0)
    assert error(problem, 20, lambda x, y: 1.0 - x**2 - y**2) < 1e-3


def test_initial_values_and_velocities_hold_exactly_on_a_union():
    problem = fem.Collocation(
        lambda p, u: u.dtt - u.laplacian,
        fem.Boxes(l_shape()),
        time=(0.5, 1.0),
        initial=lambda p: torch.sin(p.x[0]),
        velocity=lambda p: p.x[1],
        boundary=lambda p, u: u.normal - p.normal[0] * p.t,
    )
    space = fem.FeedforwardSpace(3, (4,), 1)
    u = problem.solution(space, 10.0 * np.random.default_rng(0).standard_normal(space.dim))
    points = np.column_stack([np.random.default_rng(1).uniform(-1.0, 0.0, (9, 2)), np.full(9, 0.5)])
    assert np.allclose(u(points)[:, 0], np.sin(points[:, 0]), atol=1e-13)
    assert np.allclose(u.gradient(points)[:, 0, 2], points[:, 1], atol=1e-12)


def test_the_order_of_vertices_does_not_matter_where_it_means_nothing():
    vertices, cells = triangulated(l_shape(), 2)
    plain, turned = fem.Simplices(vertices, cells), fem.Simplices.oriented(vertices, np.sort(cells, axis=1))
    assert turned.volume == pytest.approx(plain.volume, rel=1e-14)
    # Facets are numbered by their cells and by the vertices opposite to them, which have been exchanged.
    order, other = (np.lexsort(domain.facets.midpoints.T) for domain in (plain, turned))
    for name in ("midpoints", "normals", "measures"):
        assert np.allclose(getattr(plain.facets, name)[order], getattr(turned.facets, name)[other], atol=1e-14)
