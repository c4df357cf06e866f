"""Local stability: against closed forms and dense algebra, across time slabs, and what weights make of a functional."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import dnnfem as fem
from dnnfem.functionals.sampling import integrals_of
from dnnfem.problems.fields import Points
from dnnfem.problems.weights import Factor
from dnnfem.quadrature import Quadrature
from dnnfem.testing import taylor_test

RATE = 4.0
LINE = np.linspace(-1.0, 1.0, 21)
# At the end, where the growth is largest, there are perturbations on one side only.
RIGHT = LINE[(LINE >= 0.0) & (LINE <= 0.8)]


def growth(time=(0.0, 1.0), **options):
    """Return ``u_t = 4 x u``, which damps on the left and amplifies on the right."""
    return fem.Collocation(
        lambda p, u: u.dt - RATE * p.x[0] * u.value,
        fem.Box([-1.0], [1.0]),
        time=time,
        **{"initial": 1.0, **options},
    )


def solved(problem, width=16, seed=0):
    space = fem.FeedforwardSpace(2, (width,), 1)
    return space, fem.gauss_newton(problem.on(space), space.initial(seed), fem.relative(1e-3), max_steps=100).x


def rich(seed=0, width=64):
    """Return a space with many perturbations; where the equation is linear it does not matter of what solution."""
    space = fem.FeedforwardSpace(2, (width,), 1)
    return space, space.initial(seed)


def carried(x, duration):
    """Return the root mean square over time of ``exp(4 x t)``: what an error of one at the beginning does."""
    a = 2.0 * RATE * x * duration
    return np.sqrt(np.where(np.abs(a) < 1e-9, 1.0, np.expm1(a) / np.where(a == 0.0, 1.0, a)))


def at_beginning(x, time=0.0):
    return np.column_stack([x, np.full_like(x, time)])


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_errors_at_the_beginning_are_amplified_as_the_equation_does_it(exact, seed):
    problem = growth(exact=exact)
    found = fem.stability(problem, *rich(seed))
    np.testing.assert_allclose(found(at_beginning(RIGHT), "initial")[:, 0], carried(RIGHT, 1.0), rtol=0.4)
    # What is damped is smaller, if not as small: a network has no perturbations at one point.
    left = LINE[LINE < -0.3]
    assert (found(at_beginning(left), "initial") < 1.0).all()
    assert found.duration == 1.0
    assert set(found.weights) == ({"law"} if exact else {"law", "initial"})


def test_more_neurons_see_more():
    problem = growth()
    found = [fem.stability(problem, *rich(width=width))(at_beginning(LINE), "initial")[:, 0] for width in (8, 32, 128)]
    errors = [np.mean(np.abs(np.log(values / carried(LINE, 1.0)))) for values in found]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.3


@pytest.mark.parametrize("exact", [True, False])
def test_later_slabs_count(exact):
    first = growth((0.0, 0.5), exact=exact)
    space, x = rich()
    second = fem.next_slab(first, first.solution(space, x), 1.0)
    later = fem.stability(second, *rich(1))
    alone, both = fem.stability(first, space, x), fem.stability(first, space, x, later=later)
    right = at_beginning(RIGHT)
    np.testing.assert_allclose(alone(right, "initial")[:, 0], carried(right[:, 0], 0.5), rtol=0.4)
    np.testing.assert_allclose(both(right, "initial")[:, 0], carried(right[:, 0], 1.0), rtol=0.4)
    assert (alone.duration, later.duration, both.duration) == (0.5, 0.5, 1.0)
    # A residual at the end of the first slab does nothing more there, but all that follows.
    end = np.array([[0.9, 0.5]])
    assert both(end)[0, 0] > 3.0 * alone(end)[0, 0]


def test_it_is_the_quotient_of_the_formula():
    problem = growth(exact=False)
    space, x = rich(width=3)
    finer = problem.quadrature.finer()

    def rows(quadrature):
        # The law is affine, so that the rows of its own system are those of perturbations.
        terms = integrals_of(problem.on(space, quadrature))
        return {term.region or "law": term.linearize(x).system().matrix for _, term in terms}

    step, identity = 1e-6, np.eye(len(x))
    u = [[problem.solution(space, x + s * step * e)(finer.points)[:, 0] for s in (1.0, -1.0)] for e in identity]
    U = np.stack([(above - below) / (2.0 * step) for above, below in u], axis=1)
    H = sum(a.T @ a for a in rows(finer).values())
    M = (U * finer.weights[:, None]).T @ U
    inverse, found = np.linalg.inv(H), fem.stability(problem, space, x)
    spread = problem.quadrature
    for name in ("law", "initial"):
        while len(spread.regions.get(name, spread)) < 1600:
            spread = fem.refine_quadrature(spread, np.arange(spread.cell_count + spread.regions["initial"].cell_count))
        a = rows(spread)[name]
        expected = np.sqrt(np.sum((a @ inverse @ M @ inverse) * a, axis=1) / np.sum((a @ inverse) * a, axis=1))
        points = spread.regions.get(name, spread).points
        fitted = Factor.fitted(points, np.log(expected)[None])
        p = Points(torch.tensor(np.array(points)), 1)
        np.testing.assert_allclose(found(points, name)[:, 0], fitted(p)[0].numpy(), rtol=1e-4)


def test_transport_without_growth_weighs_all_places_alike():
    problem = fem.Collocation(
        lambda p, u: u.dt + u.d(0),
        fem.Box([0.0], [2.0 * math.pi]),
        time=(0.0, 1.0),
        initial=lambda p: torch.sin(p.x[0]),
        periodic=(0,),
    )
    space = fem.FeedforwardSpace(2, (12,), 1, periodic=(0,))
    x = fem.gauss_newton(problem.on(space), space.initial(0), fem.relative(1e-3), max_steps=60).x
    found = fem.stability(problem, space, x)(at_beginning(np.linspace(0.5, 5.5, 11)), "initial")
    assert found.max() < 1.5 * found.min() and 0.7 < found.mean() < 1.3


def test_equations_of_second_order_in_time_have_two_rows_at_the_beginning():
    def wave(time):
        return fem.Collocation(
            lambda p, u: u.dtt - 4.0 * u.laplacian,
            fem.Box([0.0], [1.0]),
            time=time,
            dirichlet=0.0,
            initial=lambda p: torch.sin(math.pi * p.x[0]),
            velocity=0.0,
        )

    problem = wave((0.0, 0.2))
    space, x = solved(problem, 12)
    second = fem.next_slab(problem, problem.solution(space, x), 0.4)
    later = fem.stability(second, *solved(second, 12))
    found = fem.stability(problem, space, x, later=later)
    initial = found(at_beginning(np.linspace(0.1, 0.9, 9)), "initial")
    assert initial.shape == (9, 2) and np.isfinite(initial).all() and (initial > 0.0).all()
    assert set(found.weights) == {"law"} and set(found.factors) == {"law", "initial", "dirichlet"}


def test_stationary_equations_and_their_conditions():
    """Residuals near a boundary where values are prescribed do less than those in the middle."""
    problem = fem.Collocation(lambda p, u: u.laplacian + 1.0, fem.Box([0, 0], [1, 1]), dirichlet=0.0, exact=False)
    space, x = solved(problem, 30)
    found = fem.stability(problem, space, x)
    middle, side = found([[0.5, 0.5]])[0, 0], found([[0.5, 0.02]])[0, 0]
    assert middle > 1.5 * side and found.duration == 1.0 and found.beginning is None
    assert np.isfinite(found([[0.5, 0.0], [1.0, 0.3]], "dirichlet")).all()


def test_the_end_of_an_interval_is_one_point():
    problem = fem.Collocation(lambda p, u: u.laplacian + 1.0, fem.Box([0.0], [1.0]), dirichlet=0.0)
    space = fem.FeedforwardSpace(1, (8,), 1)
    found = fem.stability(problem, space, space.initial(0))
    # Green's function: a residual in the middle does most.
    middle, near = found([[0.5]])[0, 0], found([[0.02]])[0, 0]
    assert middle > 1.5 * near and np.isfinite(found([[0.0], [1.0]], "dirichlet")).all()


def test_conditions_that_stay_residuals_keep_their_size():
    """A Neumann condition beside exact values: its weight belongs to the residual that the problem has."""
    problem = fem.Collocation(
        lambda p, u: u.dt - u.laplacian,
        fem.Box([0.0], [1.0]),
        time=(0.0, 1.0),
        dirichlet={(0, 0): 0.0},
        initial=0.0,
        boundary={(0, 1): lambda p, u: u.normal},
    )
    space = fem.FeedforwardSpace(2, (16,), 1)
    x, places = space.initial(0), [[1.0, 0.3], [1.0, 0.7]]
    soft = replace(problem, exact=False, quadrature=None)
    sizes = [given.laws["boundary"].scale[0] for given in (problem, soft)]
    assert sizes[0] > 1.2 * sizes[1]
    # In the user's units both say the same.
    exact, free = (fem.stability(given, space, x)(places, "boundary")[:, 0] for given in (problem, soft))
    np.testing.assert_allclose(exact / sizes[0], free / sizes[1], rtol=0.2)
    assert set(fem.stability(problem, space, x).weights) == {"law", "boundary"}


@pytest.mark.parametrize("domain", ["boxes", "simplices"])
def test_other_domains_with_parts_of_their_boundary(domain):
    boxes = fem.Boxes([fem.Box([-1, -1], [1, 0]), fem.Box([-1, 0], [0, 1])], parts={"left": lambda m: m[:, 0] == -1})
    points = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    mesh = fem.Simplices(points, [[0, 1, 2], [0, 2, 3]], parts={"left": lambda m: m[:, 0] == -1})
    problem = fem.Collocation(
        lambda p, u: u.laplacian + 1.0,
        boxes if domain == "boxes" else mesh,
        dirichlet={"left": 0.0},
        boundary={"boundary": lambda p, u: u.normal},
    )
    space = fem.FeedforwardSpace(2, (12,), 1)
    found = fem.stability(problem, space, space.initial(0))
    assert set(found.weights) == set(problem.laws)
    J = replace(problem, weight=found.weights).on(space)
    assert math.isfinite(J.value(space.initial(0)))
    # Far from where values are prescribed a residual does more.
    assert found([[0.9, -0.5]])[0, 0] > found([[-0.95, -0.5]])[0, 0]


def test_one_weight_for_several_equations():
    problem = fem.Collocation(
        lambda p, u: [u[0].dt - u[1].value, u[1].dt + u[0].value],
        fem.Box([-1.0], [1.0]),
        time=(0.0, 1.0),
        initial=[1.0, 0.0],
        outputs=2,
    )
    space = fem.FeedforwardSpace(2, (4,), 2)
    x, one = space.initial(0), replace(problem, weight={"law": lambda p: 1.0 + p.t})
    each = replace(problem, weight={"law": lambda p: torch.stack([1.0 + p.t, 1.0 + p.t])})
    assert one.on(space).value(x) == each.on(space).value(x) > problem.on(space).value(x)
    with pytest.raises(ValueError, match="weight of 'law': got 3 rows, expected 2, one per equation, or one for all"):
        replace(problem, weight={"law": lambda p: torch.ones(3, len(p.t))})


def test_weights_multiply_residuals():
    problem, space = growth(exact=False), fem.FeedforwardSpace(2, (5,), 1)
    weighted = replace(problem, weight={"law": lambda p: 2.0 + p.x[0] * p.t, "initial": 3.0})
    x = space.initial(1)
    plain = [t.linearize(x).system().residual for _, t in integrals_of(problem.on(space))]
    found = [t.linearize(x).system().residual for _, t in integrals_of(weighted.on(space))]
    points = problem.quadrature.points
    # Sizes of the equations are measured without weights.
    np.testing.assert_allclose(found[0], (2.0 + points[:, 0] * points[:, 1]) * plain[0], rtol=1e-12)
    np.testing.assert_allclose(found[1], 3.0 * plain[1], rtol=1e-12)
    taylor_test(weighted.on(space), x)
    # The next slab has another beginning, and weights of its own.
    assert fem.next_slab(weighted, weighted.solution(space, x), 2.0).weight is None
    stable = fem.stability(weighted, space, x)
    np.testing.assert_array_equal(stable(points), fem.stability(problem, space, x)(points))


@pytest.mark.parametrize("backend", ["compiled", "device"])
def test_weights_are_the_same_on_all_backends(backend):
    problem, space = growth(exact=False), fem.FeedforwardSpace(2, (5,), 1)
    x = space.initial(1)
    weight = fem.stability(problem, space, x).weights
    reference = replace(problem, weight=weight, backend="reference").on(space).linearize(x)
    other = replace(problem, weight=weight, backend=backend).on(space).linearize(x)
    assert other.value == pytest.approx(reference.value, rel=1e-12)
    np.testing.assert_allclose(other.derivative, reference.derivative, rtol=0, atol=1e-11)
    found = fem.stability(replace(problem, backend=backend), space, x)(problem.quadrature.points)
    np.testing.assert_allclose(found, fem.stability(problem, space, x)(problem.quadrature.points), rtol=1e-6)


def test_several_equations_have_factors_of_their_own():
    """Two decoupled equations, one of which amplifies and one of which damps."""
    problem = fem.Collocation(
        lambda p, u: [u.dt[0] - 3.0 * u[0].value, u.dt[1] + 3.0 * u[1].value],
        fem.Box([-1.0], [1.0]),
        time=(0.0, 1.0),
        initial=[1.0, 1.0],
        outputs=2,
        exact=False,
    )
    space = fem.FeedforwardSpace(2, (64,), 2)
    x = space.initial(0)
    found = fem.stability(problem, space, x)(at_beginning(LINE), "initial")
    assert found.shape == (len(LINE), 2)
    expected = [math.sqrt(math.expm1(6.0) / 6.0), math.sqrt(-math.expm1(-6.0) / 6.0)]
    np.testing.assert_allclose(np.median(found, axis=0), expected, rtol=0.3)
    assert math.isfinite(replace(problem, weight=fem.stability(problem, space, x).weights).on(space).value(x))


def test_errors_get_smaller_with_weights():
    """``u_t = 5 (u - u^3)`` carries on what is wrong where ``u`` is small, and forgets the kinks at 0.8."""
    problem = fem.Collocation(
        lambda p, u: u.dt - 5.0 * (u.value - u.value**3),
        fem.Box([-1.0], [1.0]),
        time=(0.0, 1.0),
        initial=lambda p: 0.5 * p.x[0] ** 2 + 2.0 * torch.relu(p.x[0].abs() - 0.8),
        exact=False,
    )
    points = np.random.default_rng(0).uniform([-1.0, 0.0], [1.0, 1.0], (4000, 2))
    begin = 0.5 * points[:, 0] ** 2 + 2.0 * np.maximum(np.abs(points[:, 0]) - 0.8, 0.0)
    grown = np.exp(5.0 * points[:, 1])
    exact = begin * grown / np.sqrt(1.0 + begin**2 * (grown**2 - 1.0))
    space, ratios = fem.FeedforwardSpace(2, (8, 8), 1), []
    for seed in range(3):
        rough = fem.trust_region(problem.on(space), space.initial(seed), 0.0, max_steps=60, curvature=True).x
        weighted = replace(problem, weight=fem.stability(problem, space, rough).weights)
        found = [
            fem.trust_region(given.on(space), rough, 0.0, max_steps=60, curvature=True) for given in (problem, weighted)
        ]
        errors = [np.sqrt(np.mean((problem.solution(space, r.x)(points)[:, 0] - exact) ** 2)) for r in found]
        # The weighted residual is of the size of the error, the plain one is not.
        estimates = [math.sqrt(2.0 * r.steps[-1].value) / error for r, error in zip(found, errors, strict=True)]
        assert estimates[0] < 0.05 and 0.05 < estimates[1] < 5.0
        ratios.append(errors[1] / errors[0])
    assert np.median(ratios) < 0.4


def test_fitted_factors():
    random = np.random.default_rng(0)
    points = random.uniform([-1.0, 2.0, 5.0], [1.0, 4.0, 5.0], (600, 3))
    logarithms = np.stack([1.0 + points[:, 0] * points[:, 1] ** 2, np.sin(points[:, 0])])
    factor = Factor.fitted(points, logarithms)
    found = factor(Points(torch.tensor(points), 3)).numpy()
    np.testing.assert_allclose(found, np.exp(logarithms), rtol=1e-6)
    # Outside of what was seen nothing gets larger.
    far = factor(Points(torch.tensor([[1e3, -1e3, 0.0]]), 3)).numpy()[:, 0]
    assert (far <= np.exp(logarithms.max(axis=1)) * (1 + 1e-12)).all()
    assert (far >= np.exp(logarithms.min(axis=1)) * (1 - 1e-12)).all()
    # As it is summed up, and as it was fitted.
    p = Points(torch.tensor(points), 3)
    basis = factor.basis(p.coordinates).numpy()
    bounded = np.clip(factor.coefficients @ basis, factor.least[:, None], factor.most[:, None])
    np.testing.assert_allclose(factor(p).numpy(), np.exp(bounded), rtol=1e-12)
    line = Factor.fitted(points[:, :1], logarithms)
    np.testing.assert_allclose(
        line(Points(torch.tensor(points[:, :1]), 1)).numpy()[1], np.exp(logarithms[1]), rtol=1e-6
    )
    many = Factor.fitted(random.uniform(size=(400, 20)), random.standard_normal((1, 400)))
    assert len(many.powers) == 21 and many.powers.sum(axis=1).max() == 1
    # What is not known anywhere is left out.
    holes = np.where(points[:, 0] > 0.9, -np.inf, logarithms)
    np.testing.assert_allclose(Factor.fitted(points, holes)(p).numpy()[0, :9], np.exp(logarithms[0, :9]), rtol=1e-2)
    single = Factor.fitted(points[:1], logarithms[:, :1])
    np.testing.assert_allclose(single(Points(torch.tensor(points), 3)).numpy()[:, 5], np.exp(logarithms[:, 0]))


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        ({"boundary": 1.0}, "weight: got one for 'boundary', expected some of 'law', 'initial'"),
        ({"law": 0.0}, "weight of 'law': got .* at the point .*, expected finite positive numbers"),
        ({"law": lambda p: p.x[0]}, "expected finite positive numbers"),
        ({"law": lambda p: torch.ones(3, 3)}, "weight of 'law': got shape"),
        ({"initial": lambda p: 1.0 / (p.t * 0.0)}, "weight of 'initial': got .*inf"),
        (2.0, "weight: got float, expected a mapping"),
    ],
)
def test_bad_weights(weight, words):
    with pytest.raises(ValueError, match=words):
        growth(exact=False, weight=weight)


def test_bad_input():
    problem, space = growth(exact=False), fem.FeedforwardSpace(2, (4,), 1)
    x = space.initial(0)
    found = fem.stability(problem, space, x)
    with pytest.raises(ValueError, match="later: got the stability of a problem from 0.0 on, expected one from 1.0 on"):
        fem.stability(problem, space, x, later=found)
    with pytest.raises(ValueError, match="later: got dict, expected what stability returned"):
        fem.stability(problem, space, x, later=found.weights)
    with pytest.raises(ValueError, match="x: got"):
        fem.stability(problem, space, x[:-1])
    with pytest.raises(ValueError, match="quadrature: got the regions"):
        fem.stability(problem, space, x, Quadrature.samples([[0.0, 0.5]], [0.0]))
    with pytest.raises(ValueError, match="name: got 'dirichlet', expected one of 'law', 'initial'"):
        found([[0.0, 0.0]], "dirichlet")
    with pytest.raises(ValueError, match=r"points: got shape \(1, 1\), expected \(m, 2\)"):
        found([[0.0]])
    inverse = fem.Collocation(
        lambda p, u, k: u.laplacian + k,
        fem.Box([0.0], [1.0]),
        dirichlet=0.0,
        unknowns={"k": 1.0},
        observations=([[0.5]], [0.1]),
    )
    with pytest.raises(ValueError, match="problem: got one with the unknowns k, expected one without"):
        fem.stability(inverse, fem.FeedforwardSpace(1, (4,), 1, unknowns=1), np.zeros(14))
