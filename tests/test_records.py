"""Records are frozen, printable and tell what they are."""

import dataclasses
import math
import xml.etree.ElementTree

import numpy as np
import pytest

import dnnfem as fem
from dnnfem.records import (
    FORMATS,
    STEP_FIELDS,
    TITLES,
    Estimate,
    Progress,
    Relative,
    Result,
    Snapshot,
    State,
    Status,
    Step,
    Steps,
    relative,
)

STEPS = Steps() + Step(0, 2.0, dual_norm=1.0) + Step(1, 0.5, length=0.1, inner=3)


def test_steps_are_a_table():
    assert len(STEPS) == 2 and STEPS[-1].value == 0.5 and [s.number for s in STEPS] == [0, 1]
    assert STEPS.column("value").tolist() == [2.0, 0.5]
    assert STEPS.column("inner").dtype == np.float64
    lines = str(STEPS).splitlines()
    assert len(lines) == 3 and lines[0].split()[:2] == ["step", "value"]
    assert len({len(line) for line in lines}) == 1


def test_the_table_has_every_column_that_has_a_number():
    row = Step(**{name: 1 if name in ("number", "inner") else 1.0 for name in STEP_FIELDS})
    assert set(FORMATS) == set(STEP_FIELDS)
    assert str(Steps((row,))).splitlines()[0].split() == " ".join(TITLES.get(name, name) for name in FORMATS).split()
    assert "multiplier" not in str(STEPS) and "2.50e-01" in str(Steps((Step(0, 1.0, multiplier=0.25),)))


def test_columns_have_names():
    with pytest.raises(ValueError, match="^name: got 'loss', expected one of number, value"):
        STEPS.column("loss")
    assert all(STEPS.column(name).shape == (2,) for name in STEP_FIELDS)


def test_adding_a_step_leaves_the_old_table_alone():
    assert len(STEPS + Step(2, 0.1)) == 3 and len(STEPS) == 2


def test_every_status_is_a_sentence_and_no_failure_is_convergence():
    sentences = [status.value for status in Status]
    assert len(set(sentences)) == len(sentences)
    for status in Status:
        assert status.value.split(":")[0] in ("converged", "stopped", "failed")
        assert status.final or not status.converged
        assert status.converged or not status.value.startswith("converged")
    for status in (Status.STEP_LIMIT, Status.TIME_LIMIT, Status.INTERRUPTED):
        assert not status.final
    assert Status.STAGNATED.final and Status.NOT_FINITE.final and not Status.NOT_FINITE.converged


def test_records_are_frozen():
    estimate = Estimate("error", np.arange(2), np.ones(2), 1.5)
    snapshot = Snapshot(STEPS[-1], State(1.0, Progress(np.zeros(2), STEPS)))
    for record, name in (
        (STEPS[0], "value"),
        (STEPS, "rows"),
        (estimate, "total"),
        (snapshot, "step"),
        (State(), "radius"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, None)


def test_results_and_estimates_print_one_line():
    result = Result(np.zeros(2), Status.CONVERGED, STEPS, State(), 1e-3)
    assert result.value == 0.5
    assert str(result).startswith(Status.CONVERGED.value) and "1 steps" in str(result) and "1.00e-03" in str(result)
    estimate = Estimate("error", np.arange(2), np.ones(2), 1.5, parts={"width": 1.0})
    assert str(estimate) == "error: 1.5000e+00 (2 cells, width 1)"


def test_what_speaks_against_an_estimate_is_printed_below_it():
    estimate = Estimate("error", np.arange(2), np.ones(2), 1.5, remarks=("it is not stationary", "it is singular"))
    assert str(estimate).splitlines() == ["error: 1.5000e+00 (2 cells)", "it is not stationary", "it is singular"]


@pytest.mark.parametrize("name", ["cells", "signed", "cost"])
def test_an_estimate_has_as_many_of_everything_as_indicators(name):
    lengths = {"cells": 2, "signed": 2, "cost": 2} | {name: 3}
    cells, signed, cost = (np.zeros(lengths[key]) for key in ("cells", "signed", "cost"))
    with pytest.raises(ValueError, match=f"^{name}: got 3, expected 2, one per indicator"):
        Estimate("error", cells, np.ones(2), 1.5, signed, cost=cost)


def test_a_snapshot_shows_the_iterate():
    x = np.array([1.0, 2.0])
    assert Snapshot(STEPS[-1], State(None, Progress(x, STEPS))).x is x


def test_default_records_do_not_share_anything():
    first, second = (Estimate("error", np.arange(1), np.ones(1), 1.0) for _ in range(2))
    assert first.parts == {} and first.parts is not second.parts
    assert State() == State(None, None) and math.isnan(Step(0, 1.0).radius)


@pytest.mark.parametrize("factor", [0.0, 1.0, -0.1, 2.0, math.nan, math.inf])
def test_a_relative_tolerance_lies_between_zero_and_one(factor):
    with pytest.raises(ValueError, match="^factor: got.*expected a number between 0 and 1"):
        relative(factor)
    assert relative(0.5) == Relative(0.5)


def test_notebooks_show_tables():
    points = np.linspace(-1.0, 1.0, 30)
    problem, space = fem.Regression(points, np.sin(3.0 * points)), fem.FeedforwardSpace(1, (3,), 1)
    J = problem.on(space)
    result = fem.gauss_newton(J, space.initial(seed=0), 0.0, max_steps=3)
    estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, problem.quadrature, seed=0))
    wide, P = fem.widen(space, estimate.cells[:2])
    hierarchy = fem.Hierarchy((space, wide), (P,))
    for shown, rows in ((result.steps, 4), (result, 4), (estimate, len(estimate.parts)), (hierarchy, 2)):
        html = xml.etree.ElementTree.fromstring(f"<div>{shown._repr_html_()}</div>")
        lines = html.findall("table/tbody/tr")
        assert len(lines) == rows and {len(line) for line in lines} == {len(html.findall("table/thead/tr/th"))}
    assert result.status.value in result._repr_html_() and f"{estimate.total:.4e}" in estimate._repr_html_()
    assert repr(problem.solution(space, result.x)) == "Solution(1-3-1 tanh, 10 coefficients)"
