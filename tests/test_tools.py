"""Benchmarks: that their own side runs, and prints what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / "tools"


def run(script, *options, requests=""):
    command = [sys.executable, str(TOOLS / script), *options]
    return subprocess.run(command, input=requests, check=True, timeout=200.0, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("options", "products"), [((), {"derivative", "hessian", "curvature"}), (("--jets",), {"rows", "Gram"})]
)
def test_a_worker_answers(options, products):
    number = "1\n" if options else "0\n"
    out = run("bench_kernels.py", *options, "--worker", "dnnfem", "--threads", "1", requests=number + "time\n")
    answers, times = map(json.loads, out.splitlines())
    assert {product for _, product, _, _ in answers} == products
    assert {product for _, product, _ in times} == products | {"rate"} and all(value > 0.0 for *_, value in times)


def test_growth_of_time(tmp_path):
    line = json.loads(run("bench_scaling.py", "--quick", "--json").splitlines()[-1])
    assert set(line) == {"samples_exponent", "width_exponent", "depth_exponent", "peak_over_data"}


def test_differential_equations():
    line = json.loads(run("bench_pinn.py", "poisson2d", "--seeds", "1", "--seconds", "2", "--json").splitlines()[-1])
    errors = {"median_rel_l2", "median_rms", "upper_quartile_rms"}
    ablations = {"random_features_rms", "uniform_rms", "scratch_rms"}
    others = {"problem", "median_seconds", "median_dim", "goal_seconds", "goal_rms", "dim_ratio_at_best_ablation"}
    assert set(line) == others | errors | ablations
    assert all(0.0 < line[key] < 1e-2 for key in errors | ablations)


def test_the_majorant():
    line = json.loads(run("bench_majorant.py", "--quick", "--json").splitlines()[-1])
    assert set(line) == {"lowest_index", "highest_index", "smallest_error", "verified"}
    assert 1.0 <= line["lowest_index"] <= line["highest_index"] <= 1.5
    assert line["smallest_error"] < 1e-5 and line["verified"]


def test_estimates_of_differential_equations():
    line = json.loads(run("bench_estimates.py", "poisson2d", "--seconds", "2", "--json").splitlines()[-1])
    assert 0.8 <= line["residual_low"] <= line["residual_high"] <= 1.25
    assert 0.3 <= line["hierarchical_low"] <= line["hierarchical_high"] <= 3.0


def test_inverse_problems():
    line = json.loads(
        run("bench_pinn.py", "inverse_burgers", "--seeds", "1", "--seconds", "4", "--json").splitlines()[-1]
    )
    assert line["goal_parameter_error"] == 0.01 and line["interval_covers"] in (0, 1)
    assert 0.0 < line["parameter_error"] < 100.0 and "goal_rms" not in line
