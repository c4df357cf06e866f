"""What users hand over: anything gives the right result or a ValueError in words, of whatever type, shape and scale."""

import math

import h5py
import numpy as np
import pandas
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

import dnnfem as fem

RANDOM = np.random.default_rng(0)
POINTS = RANDOM.uniform(-1.0, 1.0, (40, 2))
TARGETS = np.sin(3.0 * POINTS[:, 0]) + POINTS[:, 1]
SPACE = fem.FeedforwardSpace(2, (4,), 1)
START = SPACE.initial(seed=0)
PROBLEM = fem.Regression(POINTS, TARGETS)

# ---- the same numbers in other containers


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


CONTAINERS = {
    "list": lambda a: a.tolist(),
    "nested tuples": lambda a: tuple(tuple(row) if np.ndim(row) else row for row in a.tolist()),
    "read-only": read_only,
    "columns first": np.asfortranarray,
    "every second row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "big endian": lambda a: a.astype(">f8"),
    "long double": lambda a: a.astype(np.longdouble),
    "matrix of pandas": lambda a: pandas.DataFrame(a) if a.ndim == 2 else pandas.Series(a),
    "torch": torch.tensor,
    "torch with gradient": lambda a: torch.tensor(a, requires_grad=True),
    "masked": np.ma.masked_array,
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_numbers_may_come_in_any_container(kind):
    convert = CONTAINERS[kind]
    problem = fem.Regression(convert(POINTS), convert(TARGETS), convert(np.full(40, 0.5)))
    expected = fem.Regression(POINTS, TARGETS, np.full(40, 0.5))
    assert problem.identity.keys() == expected.identity.keys()
    assert all(np.array_equal(a, b) for a, b in zip(problem.identity.values(), expected.identity.values(), strict=True))
    J, x = problem.on(SPACE), convert(START)
    found, result = fem.gauss_newton(J, x, 0.0, max_steps=2), fem.gauss_newton(J, START, 0.0, max_steps=2)
    assert np.array_equal(found.x, result.x)
    u = problem.solution(SPACE, x)
    assert np.array_equal(u(convert(POINTS)), expected.solution(SPACE, START)(POINTS))
    indicators = convert(np.array([3.0, 1.0, 2.0]))
    for rule in (fem.dorfler, fem.maximum, fem.fixed_fraction):
        assert rule(indicators, 0.5).tolist() == rule(np.array([3.0, 1.0, 2.0]), 0.5).tolist()


def test_objects_are_no_numbers():
    for points in (POINTS.astype(object), pandas.DataFrame(POINTS).astype("Float64"), np.ma.masked_less(POINTS, 0.0)):
        with pytest.raises(ValueError, match=r"inputs: got (dtype object|masked entries), expected real numbers"):
            fem.Regression(points, TARGETS)


def test_small_and_large_integers_are_numbers():
    for dtype in (np.int8, np.uint64, np.int64, bool, np.float16, np.float32):
        points = (POINTS > 0.0).astype(dtype)
        assert fem.Regression(points, TARGETS).on(SPACE).value(START) == pytest.approx(
            fem.Regression(points.astype(float), TARGETS).on(SPACE).value(START), rel=1e-7
        )


# ---- anything else

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
NUMBERS = st.one_of(st.floats(-10.0, 10.0), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e308, 5e-324]))


@st.composite
def arrays(draw):
    """Arrays of any shape, with numbers, words, nothing, or what is no number among them."""
    shape = draw(SHAPES)
    size = math.prod(shape)
    kind = draw(st.sampled_from(["numbers", "ordinary", "words", "objects", "complex", "dates"]))
    if kind == "ordinary":
        return draw(st.integers(0, 9)) + np.linspace(-1.0, 1.0, size).reshape(shape)
    if kind == "numbers":
        return np.array(draw(st.lists(NUMBERS, min_size=size, max_size=size)), dtype=float).reshape(shape)
    if kind == "words":
        return np.full(shape, "word")
    if kind == "complex":
        return np.full(shape, 1.0 + 2.0j)
    if kind == "dates":
        return np.full(shape, np.datetime64("2020-01-01"))
    array = np.empty(shape, dtype=object)
    array.fill(draw(st.sampled_from([None, 1.0, "1.0", (1, 2), 10**400])))
    return array


THINGS = st.one_of(
    arrays(),
    NUMBERS,
    st.integers(-3, 5),
    st.booleans(),
    st.text(max_size=3),
    st.none(),
    st.lists(st.one_of(NUMBERS, st.text(max_size=2), st.lists(NUMBERS, max_size=2)), max_size=3),
    st.builds(dict, a=NUMBERS),
    st.sampled_from([object(), len, torch.tensor([1.0]), pandas.DataFrame({"a": [1.0, None]}), h5py, slice(2)]),
)

CALLS = {
    "Regression": fem.Regression,
    "Regression of sound points": lambda a, b: fem.Regression(POINTS, a, b),
    "Classification": fem.Classification,
    "Classification of sound points": lambda a, b: fem.Classification(POINTS, a, b),
    "FeedforwardSpace": lambda a, b: fem.FeedforwardSpace(2, a, b),
    "FeedforwardSpace of inputs": lambda a, b: fem.FeedforwardSpace(a, (2,), 1, periodic=b),
    "FlowSpace": lambda a, b: fem.FlowSpace.uniform(2, a, 1, cells=b, steps=4),
    "Box": fem.Box,
    "Simplices": fem.Simplices,
    "Quadrature": fem.Quadrature,
    "Estimate": lambda a, b: fem.Estimate("q", np.arange(3), a, b),
    "dorfler": fem.dorfler,
    "maximum": fem.maximum,
    "equidistribution": fem.equidistribution,
    "fixed_fraction": fem.fixed_fraction,
    "gain_per_cost": lambda a, b: fem.gain_per_cost(a, b, 0.5),
    "value": lambda a, b: PROBLEM.on(SPACE).value(a),
    "linearize": lambda a, b: PROBLEM.on(SPACE).linearize(a).value,
    "hessian": lambda a, b: PROBLEM.on(SPACE).linearize(START).hessian(a),
    "solution": lambda a, b: PROBLEM.solution(SPACE, a),
    "values": lambda a, b: PROBLEM.solution(SPACE, START)(a),
    "gradient": lambda a, b: PROBLEM.solution(SPACE, START).gradient(a),
    "gauss_newton": lambda a, b: fem.gauss_newton(PROBLEM.on(SPACE), a, b, max_steps=1),
    "trust_region": lambda a, b: fem.trust_region(PROBLEM.on(SPACE), a, b, max_steps=1),
    "steps": lambda a, b: fem.trust_region(PROBLEM.on(SPACE), START, max_steps=a, max_seconds=b),
    "cubic": lambda a, b: fem.cubic(PROBLEM.on(SPACE), a, b, max_steps=1),
    "stochastic": lambda a, b: fem.stochastic(PROBLEM.on(SPACE), a, b, max_steps=1),
    "relative": lambda a, b: fem.relative(a),
    "Tikhonov": lambda a, b: fem.Tikhonov(SPACE, fem.Euclidean, a),
    "Scaled": lambda a, b: fem.Scaled(PROBLEM.on(SPACE), a),
    "condense": lambda a, b: fem.condense(PROBLEM.on(SPACE), a),
    "widen": lambda a, b: fem.widen(SPACE, a),
    "coarsen": lambda a, b: fem.coarsen(SPACE, a),
    "bisect": lambda a, b: fem.bisect(fem.FlowSpace.uniform(2, 3, 1, cells=2, steps=4), a),
    "insert_layer": lambda a, b: fem.insert_layer(SPACE, a),
    "seed": lambda a, b: SPACE.initial(seed=a),
    "Weighted": lambda a, b: fem.Weighted(SPACE, a),
    "load": fem.load,
}


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(first=THINGS, second=THINGS)
def test_anything_works_or_is_refused_in_words(name, first, second):
    if name == "load" and isinstance(first, str):
        return
    try:
        CALLS[name](first, second)
    except ValueError as error:
        assert str(error).strip()


# ---- units


def fitted(inputs, targets):
    """The loop of the quick start over three levels, a function."""
    problem = fem.Regression(inputs, targets)
    space = fem.FeedforwardSpace(2, (3,), 1)
    x, tolerance = space.initial(seed=0), fem.relative(1e-2)
    for _ in range(2):
        J = problem.on(space)
        x = fem.gauss_newton(J, x, tolerance, max_steps=10).x
        estimate = fem.hierarchical(J, x, fem.ridge_candidates(space, problem.quadrature, seed=0))
        space, P = fem.widen(space, estimate.cells[fem.dorfler(estimate.indicators, 0.5)])
        x, tolerance = P(x), 0.1 * estimate.total
    return problem.solution(space, fem.trust_region(problem.on(space), x, tolerance, curvature=True, max_steps=10).x)


@pytest.mark.parametrize(("inputs", "targets"), [(1, 0), (0, 3), (-40, 25), (300, -300), (-300, 500)])
def test_powers_of_two_give_the_same_fit_bit_for_bit(inputs, targets):
    u = fitted(POINTS, TARGETS)
    v = fitted(np.ldexp(POINTS, inputs), np.ldexp(TARGETS, targets))
    assert np.array_equal(u.x, v.x)
    assert np.array_equal(v(np.ldexp(POINTS, inputs)), np.ldexp(u(POINTS), targets))


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1e6, 1e12])
def test_other_units_give_the_same_error(factor):
    u = fitted(POINTS, TARGETS)
    errors = [np.linalg.norm(u(POINTS)[:, 0] - TARGETS)]
    for inputs, targets in ((factor, 1.0), (1.0, factor), (factor, 1.0 / factor)):
        v = fitted(inputs * POINTS, targets * TARGETS)
        errors.append(np.linalg.norm(v(inputs * POINTS)[:, 0] / targets - TARGETS))
    assert max(errors) <= 1.1 * min(errors)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_lengths_and_heights_of_an_equation_may_have_any_units(factor):
    def error(length, height):
        """Heat in a rod of some length that is heated so that its middle has some height."""
        law = fem.Collocation(
            lambda p, u: u.laplacian + math.pi**2 / length**2 * height * torch.sin(math.pi / length * p.x[0]),
            fem.Box([0.0], [length]),
            dirichlet=0.0,
        )
        space = fem.FeedforwardSpace(1, (5,), 1)
        x = fem.gauss_newton(law.on(space), space.initial(seed=0), fem.relative(1e-6), max_steps=15).x
        points = np.linspace(0.0, 1.0, 50)
        u = law.solution(space, x)(length * points)[:, 0] / height
        return np.linalg.norm(u - np.sin(math.pi * points))

    errors = [error(1.0, 1.0), error(factor, 1.0), error(1.0, factor), error(factor, factor)]
    assert max(errors) <= 1.1 * min(errors)
