"""Decisions are pure functions of estimates."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from dnnfem.control import decide
from dnnfem.records import Decision, Estimate


def estimate(total, cells=1, cost=None, quantity="error"):
    """Return an estimate with a total, to which all cells contribute alike, and a cost per cell."""
    return Estimate(quantity, np.arange(cells), np.full(cells, total / np.sqrt(cells)), total, cost=cost)


def test_the_part_with_the_largest_gain_per_coefficient_is_refined():
    parts = {
        "width": estimate(1.0, 2, np.array([10.0, 10.0])),
        "depth": estimate(0.9, 1, np.array([4.0])),
    }
    decision = decide(parts, tolerance=1e-3)
    assert decision.part == "depth" and not decision.stop
    assert decision.reason.startswith("refine depth: it could remove 9.00e-01 of 1.00e+00")
    assert str(decision) == decision.reason


def test_without_costs_every_cell_costs_one():
    assert decide({"a": estimate(1.0, 100), "b": estimate(0.5, 2)}, tolerance=0.0).part == "b"


def test_where_gains_do_not_add_up_the_work_is_that_of_the_best_cell():
    single = np.array([0.2, 0.8, 0.7])
    neurons = Estimate("error", np.arange(3), single, 0.8, cost=np.array([9.0, 4.0, 2.0]))
    for cost, part in ((3.0, "depth"), (3.2, "width")):
        layer = Estimate("error", np.arange(1), np.array([0.7]), 0.7, cost=np.array([cost]))
        decision = decide({"width": neurons, "depth": layer}, tolerance=0.0)
        assert decision.part == part
    assert f"{0.64 / 4.0:.2e} per unit of cost" in decision.reason


def test_the_order_of_the_parts_does_not_matter():
    parts = {"a": estimate(1.0, 4), "b": estimate(0.7, 1), "c": estimate(0.1, 1)}
    for order in (["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"]):
        assert decide({k: parts[k] for k in order}, tolerance=0.0) == decide(parts, tolerance=0.0)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=4), st.floats(-3, 3))
def test_decisions_do_not_depend_on_units(totals, exponent):
    scale = 10.0**exponent
    plain = {str(k): estimate(t, k + 1) for k, t in enumerate(totals)}
    scaled = {str(k): estimate(scale * t, k + 1) for k, t in enumerate(totals)}
    assert decide(plain, tolerance=1e-2).part == decide(scaled, tolerance=scale * 1e-2).part


def test_below_the_tolerance_the_loop_stops():
    decision = decide({"width": estimate(1e-3), "depth": estimate(1e-4)}, tolerance=1e-3)
    assert decision.stop and decision.part is None and "not above the tolerance" in decision.reason
    assert not decide({"width": estimate(1.1e-3), "depth": estimate(1e-4)}, tolerance=1e-3).stop


def test_an_algebraic_error_that_is_not_small_is_solved_for_first():
    parts = {"width": estimate(1.0)}
    assert decide(parts, tolerance=1e-3, algebraic=0.5).part == "solve"
    assert decide(parts, tolerance=1e-3, algebraic=0.1).part == "width"
    assert decide({"width": estimate(1e-5)}, tolerance=1e-3, algebraic=5e-4).stop


@pytest.mark.parametrize("budget", [0.0, -3.0])
def test_an_empty_budget_stops_the_loop(budget):
    decision = decide({"width": estimate(1.0)}, tolerance=1e-3, budget=budget)
    assert decision.stop and "budget" in decision.reason
    assert decide({"width": estimate(1.0)}, tolerance=1e-3, budget=1).part == "width"


def test_refinement_that_does_not_pay_twice_running_stops_the_loop():
    parts = {"width": estimate(1.0)}
    good, poor, lucky = (1.0, 0.5), (1.0, 0.05), (1.0, 20.0)
    for achieved in ([], [poor], [poor, good], [good, poor], [poor, poor, good], [(0.0, 0.0), (0.0, 1.0)]):
        assert not decide(parts, tolerance=1e-3, achieved=achieved).stop
    for achieved in ([poor, poor], [good, poor, poor], [poor, lucky], [lucky, lucky], [poor, (1.0, -1.0)]):
        decision = decide(parts, tolerance=1e-3, achieved=achieved)
        assert decision.stop and "does not pay" in decision.reason


def test_decisions_change_nothing_they_are_given():
    parts = {"width": estimate(1.0, 2, np.array([1.0, 2.0]))}
    achieved = [(1.0, 0.5)]
    assert decide(parts, tolerance=0.1, achieved=achieved) == decide(parts, tolerance=0.1, achieved=achieved)
    assert parts["width"].cost.tolist() == [1.0, 2.0] and achieved == [(1.0, 0.5)]


@pytest.mark.parametrize(
    ("parts", "tolerance", "words"),
    [
        ({}, 1.0, "^estimates: got none"),
        (
            {"a": estimate(1.0), "b": estimate(1.0, quantity="other")},
            1.0,
            "^estimates: got different quantities",
        ),
        ({"a": estimate(np.nan)}, 1.0, "^estimates: the total of 'a' is nan"),
        ({"a": estimate(np.inf)}, 1.0, "^estimates: the total of 'a' is inf"),
        ({"a": estimate(1.0)}, -1.0, "^tolerance: got -1.0"),
        ({"a": estimate(1.0)}, np.nan, "^tolerance: got nan"),
    ],
)
def test_what_cannot_be_compared_is_refused(parts, tolerance, words):
    with pytest.raises(ValueError, match=words):
        decide(parts, tolerance=tolerance)


@pytest.mark.parametrize("name", ["tolerance", "budget", "algebraic"])
def test_a_number_that_is_nan_is_refused_by_name(name):
    for total in (1.0, 0.0):
        with pytest.raises(ValueError, match=f"^{name}: got nan, expected"):
            decide({"width": estimate(total)}, **{"tolerance": 0.1, name: np.nan})


def test_a_negative_algebraic_error_is_refused_and_an_unknown_one_is_solved_for():
    with pytest.raises(ValueError, match="^algebraic: got -1.0, expected a non-negative number"):
        decide({"width": estimate(1.0)}, tolerance=0.1, algebraic=-1.0)
    assert decide({"width": estimate(1.0)}, tolerance=0.1, algebraic=np.inf).part == "solve"


def test_a_decision_without_a_part_is_to_stop():
    assert Decision(None, "enough").stop and not Decision("width", "more").stop


def test_a_part_that_cannot_change_the_total_is_not_refined():
    noisy = Estimate("error", np.arange(3), np.ones(3), 1.0, parts={"width": 0.2, "sampling": 0.98})
    decision = decide({"width": noisy}, tolerance=0.1)
    assert decision.stop and "does not pay" in decision.reason
    assert decide({"width": Estimate("error", np.arange(3), np.ones(3), 1.0, parts={"width": 0.4})}, tolerance=0.1).part


def test_the_algebraic_part_of_an_estimate_is_solved_for_first():
    unsolved = Estimate("error", np.arange(3), np.ones(3), 1.0, parts={"width": 0.9, "algebraic": 0.4})
    assert decide({"width": unsolved}, tolerance=0.1).part == "solve"
    assert decide({"width": unsolved}, tolerance=0.1, algebraic=0.0).part == "width"


def test_a_solver_that_is_done_has_no_share_in_what_refinement_is_compared_with():
    parts = {"width": 0.28, "algebraic": 0.96}
    slow = Estimate("error", np.arange(3), np.ones(3), 1.0, parts=parts)
    assert decide({"width": slow}, tolerance=0.1).part == "solve"
    decision = decide({"width": slow}, tolerance=0.1, algebraic=0.0)
    assert decision.part == "width" and "it could remove 2.80e-01 of 2.80e-01" in decision.reason
    # The same estimate, of which refinement could remove less than the solver has left.
    assert decide({"width": slow}, tolerance=0.9, algebraic=0.899).stop
    # Sampling has no share in what can be removed, but in what is compared.
    noisy = replace(slow, parts={"width": 0.1, "algebraic": 0.6})
    assert decide({"width": noisy}, tolerance=0.1, algebraic=0.0).stop


def test_points_come_first():
    """What is not seen between the points makes all other estimates worthless, that of the solver too."""
    width = Estimate("error", np.arange(1), np.array([1.0]), 1.0, parts={"algebraic": 0.9})
    for missed, part in ((0.19, "solve"), (0.21, "points")):
        decision = decide({"width": width, "points": estimate(missed)}, tolerance=0.0)
        assert decision.part == part
    assert "was not seen" in decision.reason
    # Of an estimate with other parts only its own counts; alone it is measured by its total.
    residual = Estimate("error", np.arange(1), np.array([1.0]), 1.0, parts={"points": 0.1})
    assert decide({"width": width, "points": residual}, tolerance=0.0).part == "solve"
    assert decide({"points": estimate(1.0)}, tolerance=0.0).part == "points"
    assert decide({"points": estimate(1.0)}, tolerance=2.0).stop
