"""What the benchmark of differential equations makes of its runs."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import bench_pinn
import pinn_march
import pinn_peer
from equations import CASES
from pinn_march import Moment


def test_when_an_error_was_reached():
    slabs = [
        [Moment(10, 1.0, 0.3), Moment(20, 2.0, 0.1), Moment(30, 3.0, 0.2)],
        [Moment(15, 1.5, 0.2), Moment(25, 2.5, 0.02)],
    ]
    assert pinn_march.reached(slabs, 0.3) == (25.0, 2.5)
    assert pinn_march.reached(slabs, 0.1) == (45.0, 4.5)
    assert pinn_march.reached(slabs, 0.05) == (math.inf, math.inf)
    assert pinn_march.reached(slabs[1:], 0.05) == (25.0, 2.5)


def test_coefficients_at_the_best_ablation():
    case = CASES["poisson2d"]

    def keys(final, **ablations):
        history = [[Moment(40, 1.0, 1e-3), Moment(80, 2.0, 1e-5), Moment(160, 3.0, final)]]
        found = {"rel_l2": 1.0, "rms": final, "seconds": 3.0, "dim": 160.0, **ablations}
        return bench_pinn.summary("poisson2d", case, [(found, history)])

    others = {"random_features_rms": 0.1, "uniform_rms": 2e-5, "scratch_rms": math.inf}
    assert keys(1e-7, **others)["dim_ratio_at_best_ablation"] == 0.5
    assert keys(1e-7, **others)["scratch_rms"] is None
    assert keys(1e-7, **{**others, "uniform_rms": 1e-8})["dim_ratio_at_best_ablation"] is None
    assert keys(1e-7)["dim_ratio_at_best_ablation"] is None


def test_longer_times_have_goals_of_their_own():
    longer = {name: case.longer for name, case in CASES.items() if case.long_seconds}
    assert {"burgers", "allen_cahn"} <= set(longer)
    for name, case in longer.items():
        assert case.seconds > CASES[name].seconds
        assert (case.rms or case.relative) < (CASES[name].rms or CASES[name].relative)


def test_time_slabs_have_ablations_too():
    case = replace(CASES["heat1d"], slabs=3)
    problem, histories = case.make(), []
    found = bench_pinn.adaptive(case, problem, 0, 6.0, histories)
    assert len(found.levels) == len(histories) == 3
    assert [part.time[0] for part in found.problems] == pytest.approx([0.0, 1 / 3, 2 / 3])
    relative, rms = pinn_march.error(case, problem, found)
    assert rms < relative < 1e-2
    # The errors in the slabs, after their last solve, are those of the whole.
    slabs = pinn_march.moments(case, problem, found, histories)
    numbers = np.bincount(found.owner(pinn_march.unseen_points(problem)))
    whole = sum(n * slab[-1].rms ** 2 for n, slab in zip(numbers, slabs, strict=True)) / numbers.sum()
    assert math.sqrt(whole) == pytest.approx(rms, rel=1e-9)
    assert [slab[-1].dim for slab in slabs] == [level.space.dim for level in found.levels]
    assert all(set(part.weight) == {"law"} for part in found.problems)
    others = bench_pinn.ablations(case, problem, 0, 3.0, found)
    assert set(others) == set(bench_pinn.ABLATIONS) and all(0.0 < value < 1.0 for value in others.values())


def test_the_peer_answers_at_our_points():
    if not pinn_peer.available():
        pytest.skip("the environment of peers is not installed")
    places = np.array([[0.3, 0.5], [-0.2, 1.0], [1.0, 0.0]])
    seconds, values = pinn_peer.deepxde(places, 0, 1, 1, 0)
    assert seconds > 0.0 and values.shape == (3,) and np.isfinite(values).all()
