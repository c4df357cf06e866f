"""What the benchmark of depth solves, compares with, and prints."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad

import dnnfem as fem
from dnnfem.testing import taylor_test

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import bench_depth
import depth_peers
from depth_problems import CENTRE, Localized, T, Teacher, spirals

TOOLS = Path(__file__).parent.parent / "tools"


def test_means_and_variance_of_the_teacher_are_the_integrals():
    teacher, mesh = Teacher(0), np.array([0.0, 0.9, 1.38, 1.41, 1.5, T])
    means, variance = teacher.means(mesh)
    exact = 0.0
    for cell, (low, high) in enumerate(pairwise(mesh)):
        for number in (0, 7):
            integral = quad(lambda t, k=number: teacher.theta(np.array([t]))[0, k], low, high, points=[CENTRE])[0]
            assert means[cell, number] == pytest.approx(integral / (high - low), rel=1e-8)
        own = means[cell]
        exact += quad(lambda t, m=own: np.sum((teacher.theta(np.array([t]))[0] - m) ** 2), low, high, points=[CENTRE])[
            0
        ]
    assert variance == pytest.approx(exact, rel=1e-7)


def test_the_teacher_is_the_solution():
    case = Localized(1)
    assert 0.0 < case.least < 1e-6
    space = case.space(4, 8)
    J, tracking = case.functional(space)
    x = space.initial(0)
    # What is penalized on a mesh, and what it cannot change, is the same on all meshes.
    fine, P = fem.bisect(space, [1, 2])
    _, finer = case.functional(fine)
    assert finer.value(P(x)) + finer.missed == pytest.approx(tracking.value(x) + tracking.missed, rel=1e-10)
    assert taylor_test(J, x, order=3, step=1e-2) > 2.9


def test_spirals_are_divided_without_overlap():
    points, labels, others, right = spirals(3)
    assert len(points) == len(labels) == 450 and len(others) == len(right) == 150
    every = np.vstack([points, others])
    assert len(np.unique(every.round(12), axis=0)) == 600
    assert np.bincount(np.append(labels, right)).tolist() == [300, 300]


def test_layers_are_inserted_by_the_published_rule():
    points, labels, *_ = spirals(0)
    problem = fem.Classification(points, labels)
    space = fem.FlowSpace.uniform(2, 3, 2, 1, scheme="euler", field=fem.DoubleLayer(3))

    def make(space):
        return bench_depth.penalized(problem, space)

    start = space.initial(0)
    solved = fem.trust_region(make(space), start, fem.relative(1e-6), curvature=True, max_steps=200)
    # Where the present layer has nothing to gain, a virtual one has; the network stays the same.
    deep, x = depth_peers.insertion(make, space, solved.x)
    assert deep.cells == 2
    assert problem.on(deep).value(x) == pytest.approx(problem.on(space).value(solved.x), rel=1e-12)
    # Where the present layer has much to gain, it comes first.
    assert depth_peers.insertion(make, space, 3.0 * start) is None
    y = depth_peers.adam(make(space), start, 1e-2, 50)
    assert make(space).value(y) < make(space).value(start)


def test_runs_that_are_not_finite_count_as_wrong():
    points, labels, others, right = spirals(0)
    problem, space = fem.Classification(points, labels), fem.FlowSpace.uniform(2, 2, 2)
    assert bench_depth.wrong(problem, space, np.full(space.dim, np.nan), others, right) == 1.0
    runs = [{"test_error": e, "scratch": 0.0, "dim": 30, "seconds": 1.0, "cells": 1} for e in (0.0, 0.1, 1.0)]
    runs = [{**run, "adam": {0.1: 0.5, 0.2: 0.2}, "sensli": {1.0: 1.0}} for run in runs]
    line = bench_depth.summary("spirals", runs)
    assert line["median_test_error"] == 0.1 and line["diverged"] == 1 and line["sensli_diverged"] == 3
    assert line["adam_rate"] == 0.2 and line["adam_median_test_error"] == 0.2


def test_the_quick_run_prints_its_keys():
    command = [sys.executable, str(TOOLS / "bench_depth.py"), "localized", "--quick", "--json"]
    out = subprocess.run(command, check=True, timeout=200.0, capture_output=True, text=True).stdout
    line = json.loads(out.splitlines()[-1])
    assert line["cells_ratio"] < 0.5 and line["error_ratio_random"] > 1.0
    assert set(bench_depth.GOALS["localized"]) <= set(line)
