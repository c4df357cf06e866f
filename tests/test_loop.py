"""The loop as users write it, and the demos."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dnnfem as fem
from dnnfem.norms import weight_decay

ROOT = Path(__file__).parent.parent


def loop(path):
    """Run the loop of the tutorial as it is printed there."""
    random = np.random.default_rng(0)
    points = random.uniform(-1.0, 1.0, (400, 2))
    targets = np.tanh(points @ [2.0, 1.0]) + 0.5 * np.tanh(points @ [1.0, -2.0] + 0.3)

    problem = fem.Regression(points, targets)
    space = fem.FeedforwardSpace(inputs=2, hidden=(8,), outputs=1)
    archive = fem.Archive.open(path, problem, space, space.initial(seed=0))  # creates or resumes
    space, x, state, quadrature, previous = archive.level  # previous: the last estimate, or None

    while True:
        J = problem.on(space, quadrature)
        tolerance = 0.1 * previous.total if previous else fem.relative(1e-2)
        result = fem.gauss_newton(J, x, tolerance=tolerance, state=state, observer=archive)  # solve
        estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, quadrature, seed=0))  # estimate
        print(archive.solved(result, estimate))
        if estimate.total < 1e-9 or space.dim > 2000:
            break
        marked = fem.dorfler(estimate.indicators, theta=0.5)  # mark
        space, P = fem.widen(space, estimate.cells[marked])  # refine
        x, state, previous = P(result.x), result.state, estimate
        archive.refined(marked, space, P)

    return archive, problem.solution(space, result.x), estimate


def test_the_loop_reaches_its_tolerance_and_restarts_without_a_step(tmp_path, capsys):
    archive, u, estimate = loop(tmp_path / "run.h5")
    assert estimate.total < 1e-9
    fresh = np.random.default_rng(1).uniform(-0.95, 0.95, (500, 2))
    exact = np.tanh(fresh @ [2.0, 1.0]) + 0.5 * np.tanh(fresh @ [1.0, -2.0] + 0.3)
    assert np.abs(u(fresh)[:, 0] - exact).max() < 1e-7
    first = capsys.readouterr().out
    again, same, _ = loop(tmp_path / "run.h5")
    # The second run has only the last level to look at, and finds its result in the archive.
    assert capsys.readouterr().out == first.splitlines(keepends=True)[-1]
    assert np.array_equal(same.x, u.x)
    assert [level.space.dim for level in again.levels] == [level.space.dim for level in archive.levels]


def test_the_estimate_of_a_noisy_target_is_its_error_and_not_the_residual():
    random = np.random.default_rng(3)
    points, fresh = random.uniform(-1.0, 1.0, (1500, 2)), random.uniform(-1.0, 1.0, (5000, 2))

    def truth(p):
        return np.exp(-3.0 * np.sum(p**2, axis=1)) * np.cos(2.0 * p[:, 0])

    problem = fem.Regression(points, truth(points) + 0.02 * random.standard_normal(1500))
    space = fem.FeedforwardSpace(2, (4,), 1)
    x, state, previous = space.initial(seed=0), None, None
    ratios = []
    for _ in range(5):
        J = problem.on(space)
        tolerance = 0.1 * previous.total if previous else fem.relative(1e-2)
        result = fem.gauss_newton(J, x, tolerance, state=state, max_steps=30)
        estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, problem.quadrature, seed=0))
        error = np.sqrt(np.mean((problem.solution(space, result.x)(fresh)[:, 0] - truth(fresh)) ** 2))
        ratios.append(problem.rms(estimate.total) / error)
        if error < 0.008:
            break
        space, P = fem.widen(space, estimate.cells[fem.dorfler(estimate.indicators, theta=0.8)])
        x, state, previous = P(result.x), result.state, estimate
    assert len(ratios) >= 3
    assert all(0.3 <= ratio <= 3.0 for ratio in ratios), ratios
    assert problem.rms(estimate.parts["noise"]) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("demo", sorted(path.name for path in (ROOT / "demos").glob("*.py")))
def test_the_demos_run(demo, tmp_path):
    shutil.copy(ROOT / "demos" / demo, tmp_path)
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    run = subprocess.run(
        [sys.executable, "-W", "error", demo, "--quick"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout


def spiral_network(seed, part, most):
    """Return the values of a loop that refines `part`, or what gains most per coefficient if it is None."""
    angle = np.linspace(0.0, 2.0 * np.pi, 150)
    arm = (0.5 + angle / 6.3)[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    problem = fem.Classification(np.vstack([arm, -arm]), np.repeat([0, 1], 150))
    space, tolerance, values, parts = fem.FeedforwardSpace(2, (3,), 2), fem.relative(0.1), [], []
    x = space.initial(seed=seed)
    while True:
        J = fem.Sum(problem.on(space), fem.Tikhonov(space, weight_decay, 1e-4))
        result = fem.trust_region(J, x, tolerance, curvature=True, max_steps=20)
        values.append(result.value)
        candidates = fem.ridge_candidates(space, problem.quadrature, seed=seed, count=50)
        estimates = {
            "width": fem.insertion_sensitivity(J, result.x, candidates),
            "depth": fem.insertion_sensitivity(J, result.x),
        }
        decision = fem.decide(estimates, tolerance=0.0, budget=most - space.dim)
        if decision.stop:
            return values, parts
        parts.append(part or decision.part)
        estimate = estimates[parts[-1]]
        if parts[-1] == "depth":
            space, P = fem.insert_layer(space, estimate.cells[np.argmax(estimate.indicators)])
        else:
            space, P = fem.widen(space, estimate.cells[fem.fixed_fraction(estimate.indicators, 2 / 50)])
        x, tolerance = P(result.x), 0.3 * estimate.total


def test_width_or_depth_by_gain_per_coefficient_beats_either_of_them():
    chosen = [spiral_network(seed, None, 80) for seed in range(3)]
    assert {"width", "depth"} == {part for _, parts in chosen for part in parts}
    reached = np.median([values[-1] for values, _ in chosen])
    for part in ("width", "depth"):
        assert reached < 0.5 * np.median([spiral_network(seed, part, 80)[0][-1] for seed in range(3)])


@pytest.mark.parametrize("hidden", [(4,), (4, 4), (5, 3, 4)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_networks_of_any_depth_grow_and_every_level_improves(hidden, outputs):
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (80, 2))
    wave = np.sin(3.0 * points[:, 0]) + points[:, 1]
    problem = fem.Regression(points, np.column_stack([wave, wave**2])[:, :outputs])
    space = fem.FeedforwardSpace(2, hidden, outputs)
    x, values = space.initial(seed=0), []
    for _ in range(3):
        J = problem.on(space)
        result = fem.gauss_newton(J, x, fem.relative(1e-2), max_steps=8)
        values.append(result.value)
        estimate = fem.hierarchical(J, result.x, fem.ridge_candidates(space, problem.quadrature, seed=0, count=60))
        marked = fem.dorfler(estimate.indicators, theta=0.7)
        if not len(marked):
            break
        space, P = fem.widen(space, estimate.cells[marked])
        assert problem.on(space).value(P(result.x)) == pytest.approx(J.value(result.x), rel=1e-9, abs=1e-20)
        x = P(result.x)
    assert len(values) >= 2 and values == sorted(values, reverse=True)


@pytest.mark.parametrize("case", ["constant target", "constant feature", "duplicated feature", "two samples"])
def test_degenerate_data_simply_work(case):
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (40, 2))
    targets = np.sin(2.0 * points[:, 0])
    if case == "constant target":
        targets = np.full(40, 7.0)
    elif case == "constant feature":
        points = np.column_stack([points, np.ones(40)])
    elif case == "duplicated feature":
        points = np.column_stack([points, points])
    else:
        points, targets = points[:2], targets[:2]
    problem = fem.Regression(points, targets)
    space = fem.FeedforwardSpace(points.shape[1], (4,), 1)
    x = space.initial(seed=0)
    for _ in range(2):
        result = fem.gauss_newton(problem.on(space), x, fem.relative(1e-3), max_steps=20)
        estimate = fem.hierarchical(problem.on(space), result.x, fem.ridge_candidates(space, problem.quadrature))
        x, marked = result.x, fem.dorfler(estimate.indicators)
        if not len(marked):
            break
        space, P = fem.widen(space, estimate.cells[marked])
        x = P(x)
    assert np.isfinite(estimate.total)
    assert (
        np.abs(problem.solution(*((space, x) if len(marked) else (space, result.x)))(points)[:, 0] - targets).max()
        < 0.1
    )
