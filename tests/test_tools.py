"""Benchmarks: that their own side runs, and prints what it promises."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
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


def test_preconditioners():
    line = json.loads(run("bench_solvers.py", "--preconditioning", "--quick", "--json").splitlines()[-1])
    for norm in ("kronecker", "pullback"):
        for ending in ("", "_fits", "_equations"):
            assert 0.0 < line[f"geomean_cg_{norm}_vs_euclidean{ending}"] < 0.5
            assert line[f"geomean_time_{norm}_vs_euclidean{ending}"] > 0.0
        assert line[f"worst_cg_{norm}_vs_euclidean"] < 0.5
    both = [line[f"geomean_cg_{norm}_vs_euclidean"] for norm in ("kronecker", "pullback")]
    assert line["geomean_cg_vs_euclidean"] == pytest.approx(math.sqrt(both[0] * both[1]), rel=1e-10)
    assert "geomean_time_vs_euclidean" in line


def test_mesh_independence():
    out = run("bench_mesh_independence.py", "--quick", "--json")
    line = json.loads(out.splitlines()[-1])
    assert set(line) == {
        *(f"{what}_spread" for what in ("newton", "cg", "discrepancy")),
        "euclidean_cg_growth",
        "time_exponent",
    }
    assert line["newton_spread"] <= 1.5 and line["cg_spread"] <= 1.5 and line["euclidean_cg_growth"] > 2.0
    assert "newton_spread" in out and "goal at most 1.5" in out


def test_levels():
    line = json.loads(run("bench_multilevel.py", "regression", "--quick", "--json").splitlines()[-1])
    keys = {"work_ratio", "work_ratio_vs_nested", "work_ratio_vs_watched"}
    quartiles = {f"{quartile}_quartile_{key}" for quartile in ("lower", "upper") for key in keys}
    assert set(line) == keys | quartiles | {f"regression_{key}" for key in keys} | {"work_ratio_vs_fixed"}
    # One number of steps for all is not better than the best one for each.
    assert 0.0 < line["work_ratio_vs_fixed"] <= line["work_ratio_vs_nested"]
    # Thirty-two cells are few: on the finest level alone it takes about as long.
    assert 0.0 < line["work_ratio"] < 1.5


def test_choices():
    line = json.loads(run("bench_choice.py", "--quick", "--json").splitlines()[-1])
    solvers = {key.removeprefix("fit_").removesuffix("_early").removesuffix("_late") for key in line}
    assert {
        "gauss_newton",
        "cubic",
        "trust_region_penalty",
        "trust_region_kronecker",
        "newton",
        "multilevel",
    } <= solvers
    assert all(f"fit_{name}_{when}" in line for name in solvers for when in ("early", "late"))
    # A plain network has no levels; everything else is for it, and one of them is the best.
    assert {name for name in solvers if line[f"fit_{name}_late"] is None} == {"multilevel"}
    late = [line[f"fit_{name}_late"] for name in solvers - {"multilevel"}]
    assert min(late) == 1.0


def test_archives_under_faults():
    line = json.loads(run("fault_test.py", "--kills", "3", "--flips", "20", "--json").splitlines()[-1])
    assert line["kills"] == 3 and line["flips"] == line["flips_detected"] == 20 and line["bitwise_equal"] == 1
    assert not any(line[key] for key in ("lost_levels", "unreadable", "crashes", "leftovers"))
    assert line["full_disk"] == 1 and line["read_only"] in (None, 1)


def test_coverage_of_tables(tmp_path):
    random = np.random.default_rng(0)
    inputs = random.uniform(-1.0, 1.0, (200, 2))
    table = np.column_stack([inputs, inputs[:, 0] + 0.1 * random.standard_normal(200)])
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        np.savetxt(tmp_path / name / "data.csv.gz", table, delimiter=",")
        np.savetxt(tmp_path / name / "test_mask.csv.gz", random.permuted(np.arange(200) % 2)[:, None], delimiter=",")
    options = ("--data", str(tmp_path), "--folds", "1", "--coverage", "--json")
    line = json.loads(run("bench_regression.py", *options).splitlines()[-1])
    assert set(line["quartiles"]) == {"first", "second", "all"} and line["fits"] == 2
    assert line["median_coverage"] == line["quartiles"]["all"][1] and 0.8 < line["median_coverage"] < 0.98
    assert 0.7 < line["median_width_vs_constant"] < 1.4 and 0.7 < line["median_effectivity"] < 1.4
