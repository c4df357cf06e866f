"""Marking: formulas against exhaustive search and sorting, properties on random indicators, ties, errors."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from dnnfem.marking import dorfler, equidistribution, fixed_fraction, gain_per_cost, maximum

# Squares and sums of these are exact in double precision, and so are products with dyadic fractions.
whole = st.lists(st.integers(0, 1000), max_size=40)
few = st.lists(st.integers(0, 6), max_size=9)
dyadic = st.integers(1, 16).map(lambda k: k / 16)
wild = st.lists(st.floats(0.0, 1e300, allow_subnormal=False).filter(lambda v: v == 0.0 or v > 1e-300), max_size=40)
RULES = {
    "dorfler": dorfler,
    "maximum": maximum,
    "equidistribution": lambda eta: equidistribution(eta, tolerance=1e-3),
    "fixed_fraction": lambda eta: fixed_fraction(eta, 0.3),
    "gain_per_cost": lambda eta: gain_per_cost(eta, np.ones(np.shape(eta))),
    "gain_per_cost, budget": lambda eta: gain_per_cost(eta, np.ones(np.shape(eta)), budget=2.0),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())


def by_sorting(eta, theta):
    """Dörfler marking by a stable sort, in exact integer arithmetic."""
    squares = [int(v) ** 2 for v in eta]
    order = sorted(range(len(eta)), key=lambda i: (-squares[i], i))
    marked, gain, goal = [], 0, theta * sum(squares)
    for i in order:
        if gain >= goal:
            break
        marked.append(i)
        gain += squares[i]
    return sorted(marked)


@every_rule
@given(eta=wild)
def test_every_rule_returns_ascending_cells_with_positive_indicators(rule, eta):
    marked = rule(eta)
    assert marked.dtype == np.int64 and marked.ndim == 1
    assert np.all(np.diff(marked) > 0)
    assert np.all(np.asarray(eta)[marked] > 0) if marked.size else True


@every_rule
@pytest.mark.parametrize("size", [0, 1, 5])
def test_zero_indicators_mark_nothing(rule, size):
    assert rule(np.zeros(size)).size == 0


@every_rule
def test_the_argument_is_left_alone(rule):
    eta = np.array([3.0, 0.0, 1.0, 2.0])
    eta.setflags(write=False)
    rule(eta)


@given(eta=wild, power=st.integers(-20, 20), theta=dyadic)
def test_the_unit_does_not_matter(eta, power, theta):
    scaled = [v * 2.0**power for v in eta if 1e-290 < v < 1e290]
    eta = [v for v in eta if 1e-290 < v < 1e290]
    cost = 1.0 + np.arange(len(eta))
    assert np.array_equal(dorfler(eta, theta), dorfler(scaled, theta))
    assert np.array_equal(maximum(eta, theta), maximum(scaled, theta))
    assert np.array_equal(fixed_fraction(eta, theta), fixed_fraction(scaled, theta))
    assert np.array_equal(equidistribution(eta, 1.0, theta), equidistribution(scaled, 2.0**power, theta))
    assert np.array_equal(gain_per_cost(eta, cost), gain_per_cost(scaled, cost * 2.0**power))
    assert np.array_equal(gain_per_cost(eta, cost, 7.0), gain_per_cost(scaled, cost, 7.0))


def test_the_order_of_the_cells_does_not_matter_without_ties():
    random = np.random.default_rng(3)
    eta, cost, order = random.exponential(size=300), random.uniform(1, 2, 300), random.permutation(300)
    for rule in (
        dorfler,
        maximum,
        lambda v: equidistribution(v, 10.0),
        lambda v: fixed_fraction(v, 0.2),
    ):
        assert np.array_equal(np.sort(order[rule(eta[order])]), rule(eta))
    assert np.array_equal(np.sort(order[gain_per_cost(eta[order], cost[order], 20.0)]), gain_per_cost(eta, cost, 20.0))


# ---- Dörfler


@given(eta=few, theta=dyadic)
def test_dorfler_has_minimal_cardinality(eta, theta):
    squares = np.square(eta, dtype=float)
    marked = dorfler(eta, theta)
    assert squares[marked].sum() >= theta * squares.sum()
    smaller = itertools.combinations(range(len(eta)), marked.size - 1) if marked.size else ()
    assert all(squares[list(subset)].sum() < theta * squares.sum() for subset in smaller)


@given(eta=whole, theta=dyadic)
def test_dorfler_agrees_with_sorting(eta, theta):
    assert dorfler(eta, theta).tolist() == by_sorting(eta, theta)


@pytest.mark.parametrize("theta", [1 / 8, 1 / 2, 15 / 16])
def test_dorfler_agrees_with_sorting_on_many_cells(theta):
    eta = np.random.default_rng(0).integers(0, 2000, 200_000)
    assert dorfler(eta, theta).tolist() == by_sorting(eta, theta)


@given(eta=wild, theta=st.floats(0.01, 0.99))
def test_dorfler_marks_the_bulk_and_no_cell_too_many(eta, theta):
    squares = (np.asarray(eta, dtype=float) / max([*eta, 1e-300])) ** 2
    marked = dorfler(eta, theta)
    slack = 1e-13 * squares.sum()
    assert squares[marked].sum() >= theta * squares.sum() - slack
    if marked.size:
        assert squares[marked].sum() - squares[marked].min() <= theta * squares.sum() + slack


@given(eta=whole, one=dyadic, other=dyadic)
def test_dorfler_sets_are_nested(eta, one, other):
    assert set(dorfler(eta, min(one, other))) <= set(dorfler(eta, max(one, other)))


@given(eta=wild)
def test_dorfler_with_theta_one_marks_all_that_is_not_zero(eta):
    assert dorfler(eta, 1.0).tolist() == np.flatnonzero(eta).tolist()


def test_ties_go_to_the_smaller_index():
    eta = [1.0, 2.0, 1.0, 1.0, 2.0, 1.0]
    assert dorfler(eta, 0.7).tolist() == [0, 1, 4]
    assert dorfler(np.ones(8), 0.5).tolist() == [0, 1, 2, 3]
    assert fixed_fraction(eta, 0.5).tolist() == [0, 1, 4]
    assert gain_per_cost(np.ones(8), np.ones(8)).tolist() == [0, 1, 2, 3]
    assert gain_per_cost(np.ones(8), np.full(8, 2.0), budget=5.0).tolist() == [0, 1]


# ---- the other rules


def test_maximum():
    assert maximum([4.0, 1.0, 2.0, 0.0, 1.9], 0.5).tolist() == [0, 2]
    assert maximum([4.0, 1.0, 4.0], 1.0).tolist() == [0, 2]
    assert maximum([1e-320, 0.0], 0.1).tolist() == [0]


@given(eta=wild, theta=st.floats(0.01, 1.0))
def test_maximum_marks_the_largest(eta, theta):
    marked = maximum(eta, theta)
    assert marked.size == 0 if not any(eta) else int(np.argmax(eta)) in marked


@given(eta=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=30), theta=st.floats(0.01, 1.0))
def test_equidistribution_is_silent_only_below_the_tolerance(eta, theta):
    tolerance = 5.0
    marked = equidistribution(eta, tolerance, theta)
    assert marked.tolist() == [i for i, v in enumerate(eta) if v > theta * tolerance / math.sqrt(len(eta))]
    if marked.size == 0:
        assert np.linalg.norm(eta) <= theta * tolerance * (1 + 1e-14)


@given(eta=st.lists(st.integers(0, 9), max_size=30), percent=st.integers(1, 100))
def test_fixed_fraction_takes_the_largest(eta, percent):
    count = -(-percent * len(eta) // 100)
    order = sorted(range(len(eta)), key=lambda i: (-eta[i], i))
    expected = sorted(i for i in order[:count] if eta[i] > 0)
    assert fixed_fraction(eta, percent / 100).tolist() == expected


@given(
    eta=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    prices=st.lists(st.integers(1, 5), min_size=8, max_size=8),
    budget=st.integers(1, 15),
)
def test_gain_per_cost_reaches_half_of_the_best_within_the_budget(eta, prices, budget):
    gains, cost = np.square(eta, dtype=float), np.array(prices[: len(eta)], dtype=float)
    marked = gain_per_cost(eta, cost, budget)
    assert cost[marked].sum() <= budget
    subsets = itertools.product([False, True], repeat=len(eta))
    best = max(gains[list(s)].sum() for s in subsets if cost[list(s)].sum() <= budget)
    assert gains[marked].sum() >= best / 2
    left = np.setdiff1d(np.flatnonzero(eta), marked)
    if marked.size > 1 and left.size:
        assert cost[marked].sum() + cost[left].min() > budget


def test_gain_per_cost_prefers_a_single_cell_that_is_worth_more():
    assert gain_per_cost([1.0, 9.0], [0.01, 100.0], budget=100.0).tolist() == [1]
    assert gain_per_cost([1.0, 9.0], [0.01, 100.0], budget=99.0).tolist() == [0]
    assert gain_per_cost([1.0, 9.0], [2.0, 3.0], budget=1.0).size == 0


@given(eta=whole, theta=dyadic)
def test_gain_per_cost_is_dorfler_when_all_cells_cost_the_same(eta, theta):
    assert gain_per_cost(eta, np.ones(len(eta)), theta=theta).tolist() == dorfler(eta, theta).tolist()


def test_gain_per_cost_looks_at_the_quotient():
    assert gain_per_cost([2.0, 3.0, 1.0], [1.0, 10.0, 1.0], theta=0.3).tolist() == [0, 2]


# ---- errors


@every_rule
@pytest.mark.parametrize(
    ("indicators", "message"),
    [
        ([1.0, math.nan], r"indicators: got nan in cell 1, expected finite numbers >= 0"),
        ([math.inf, 1.0], r"indicators: got inf in cell 0, expected finite"),
        ([1.0, 2.0, -1.0], r"indicators: got -1\.0 in cell 2, expected finite numbers >= 0"),
        (np.ones((2, 3)), r"indicators: got shape \(2, 3\), expected one axis"),
        (1.0, r"indicators: got shape \(\), expected one axis"),
        ([1j, 2.0], r"indicators: got dtype complex128, expected real numbers"),
        (["a", "b"], r"indicators: got dtype <U1, expected real numbers"),
    ],
)
def test_wrong_indicators(rule, indicators, message):
    with pytest.raises(ValueError, match=message):
        rule(indicators)


@pytest.mark.parametrize("theta", [0.0, -0.1, 1.1, math.nan])
def test_wrong_fractions(theta):
    eta = np.ones(3)
    for call in (
        lambda: dorfler(eta, theta),
        lambda: maximum(eta, theta),
        lambda: equidistribution(eta, 1.0, theta),
        lambda: gain_per_cost(eta, eta, theta=theta),
    ):
        with pytest.raises(ValueError, match=rf"theta: got {theta}, expected a number in \(0, 1\]"):
            call()
    with pytest.raises(ValueError, match=rf"fraction: got {theta}, expected"):
        fixed_fraction(eta, theta)


def test_wrong_tolerances_costs_and_budgets():
    eta = np.ones(3)
    with pytest.raises(ValueError, match=r"tolerance: got 0.0, expected a finite number > 0"):
        equidistribution(eta, 0.0)
    with pytest.raises(ValueError, match=r"cost: got shape \(2,\), expected \(3,\)"):
        gain_per_cost(eta, np.ones(2))
    with pytest.raises(ValueError, match=r"cost: got 0.0 in cell 1, expected finite numbers > 0"):
        gain_per_cost(eta, [1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match=r"budget: got -1, expected a finite number > 0"):
        gain_per_cost(eta, eta, budget=-1)
