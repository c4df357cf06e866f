"""Observers: called in order, and silent when they should be."""

import functools

import numpy as np
import pytest
import tqdm

from dnnfem.observers import observe, progress
from dnnfem.records import Progress, Snapshot, State, Status, Step, Steps
from dnnfem.solvers import gauss_newton


@pytest.fixture
def eager(monkeypatch):
    """Make bars show every change, however fast it comes."""
    monkeypatch.setattr("dnnfem.observers.tqdm", functools.partial(tqdm.tqdm, mininterval=0.0))


def snapshot(number, status=None):
    """Return a snapshot of a step."""
    step = Step(number, 1.0 / (number + 1), algebraic=0.1)
    return Snapshot(step, State(1.0, Progress(np.zeros(1), Steps((step,)), status)))


def test_a_chain_calls_its_parts_in_the_order_given():
    calls = []
    chain = observe(lambda s: calls.append(("first", s)), lambda s: calls.append(("second", s)))
    shown = [snapshot(0), snapshot(1)]
    for s in shown:
        chain(s)
    assert calls == [("first", shown[0]), ("second", shown[0]), ("first", shown[1]), ("second", shown[1])]
    observe()(shown[0])


def test_solvers_are_silent_without_an_observer(capfd, scalar_problem, space):
    gauss_newton(scalar_problem.on(space), space.initial(0), max_steps=3)
    assert capfd.readouterr() == ("", "")


def test_progress_is_silent_when_disabled_or_not_on_a_terminal(capfd, scalar_problem, space):
    for disable in (True, None):
        gauss_newton(scalar_problem.on(space), space.initial(0), max_steps=3, observer=progress(disable=disable))
    assert capfd.readouterr() == ("", "")


def test_progress_shows_steps_and_value_and_closes_at_the_end(capfd, eager):
    show = progress("level 3", disable=False)
    for s in (snapshot(0), snapshot(2), snapshot(7, Status.CONVERGED)):
        show(s)
    out, err = capfd.readouterr()
    assert out == "" and "level 3" in err and "7 steps" in err and "J = 1.250e-01" in err


def test_progress_serves_one_solve_after_another(capfd, eager):
    show = progress("solve", disable=False)
    for number in (2, 4):
        show(snapshot(0))
        show(snapshot(number, Status.CONVERGED))
    assert "4 steps" in capfd.readouterr().err


def test_an_observer_changes_nothing(scalar_problem, space):
    j = scalar_problem.on(space)
    plain = gauss_newton(j, space.initial(0), max_steps=4)
    watched = gauss_newton(j, space.initial(0), max_steps=4, observer=progress(disable=True))
    assert np.array_equal(plain.x, watched.x)
