"""Do intervals of `AdaptiveRegressor` cover what they should?  See ``bench_regression.py --data DIR --coverage``.

Every set comes with fixed test masks.  A regressor with its defaults is fitted to the training samples, and the
interval of the mean plus and minus 1.645 standard deviations should hold nine tenths of the test targets.  Very wide
intervals cover everything: so their mean width is given relative to that of the intervals of *constant* width about the
same predictions that hold nine tenths of the *test* targets, which nobody could have known.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numba
import numpy as np
from threadpoolctl import threadpool_limits

import dnnfem as fem

LEVEL, QUANTILE = 0.9, 1.645


@dataclass(frozen=True)
class Row:
    """One set and fold: share of test targets in the intervals, mean width, error, its estimate, seconds."""

    name: str
    fold: int
    coverage: float
    width: float
    error: float
    estimate: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.name:9s} fold {self.fold}: {100.0 * self.coverage:5.1f} % covered, width {self.width:.2f}; rmse "
            f"{self.error:.4g} (estimate {self.estimate:.4g}), {self.seconds:.1f} s"
        )


def run(folder: Path, fold: int) -> Row:
    """Fit one set on one fold."""
    table = np.loadtxt(folder / "data.csv.gz", delimiter=",")
    test = np.loadtxt(folder / "test_mask.csv.gz", delimiter=",", ndmin=2)[:, fold] == 1
    began = time.perf_counter()
    model = fem.learn.AdaptiveRegressor().fit(table[~test, :-1], table[~test, -1])
    seconds = time.perf_counter() - began
    mean, std = model.predict(table[test, :-1], return_std=True)
    errors = np.abs(mean - table[test, -1])
    return Row(
        folder.name,
        fold,
        float(np.mean(errors <= QUANTILE * std)),
        float(QUANTILE * np.mean(std) / np.quantile(errors, LEVEL)),
        float(np.sqrt(np.mean(errors**2))),
        model.score_estimate_,
        seconds,
    )


def report(rows: list[Row]) -> dict[str, object]:
    """Print the table and return the keys of the JSON line."""
    print(f"\nquartiles over the folds of each set\n{'set':10s}{'coverage':>24s}{'width':>24s}{'estimate/error':>24s}")
    columns = {
        "coverage": [row.coverage for row in rows],
        "width": [row.width for row in rows],
        "effectivity": [row.estimate / row.error for row in rows],
    }
    names, quartiles = np.array([row.name for row in rows]), {}
    for name in (*dict.fromkeys(names.tolist()), "all"):
        own = (names == name) | (name == "all")
        values = {label: np.quantile(np.array(column)[own], (0.25, 0.5, 0.75)) for label, column in columns.items()}
        print(f"{name:10s}" + "".join("".join(f"{value:8.3f}" for value in three) for three in values.values()))
        quartiles[name] = values["coverage"].tolist()
    return {
        "median_coverage": quartiles["all"][1],
        "quartiles": quartiles,
        "median_width_vs_constant": float(np.median(columns["width"])),
        "median_effectivity": float(np.median(columns["effectivity"])),
        "fits": len(rows),
    }


def prepare() -> None:
    """Use one thread from now on; load kernels."""
    numba.set_num_threads(1)
    threadpool_limits(limits=1)
    inputs = np.random.default_rng(0).uniform(-1.0, 1.0, (50, 2))
    fem.learn.AdaptiveRegressor().fit(inputs, inputs[:, 0] * inputs[:, 1])


def main(data: Path, names: list[str] | None, folds: int, jobs: int, as_json: bool) -> None:
    """Run all sets in a folder, in so many processes, the smallest ones first."""
    folders = [folder for folder in data.iterdir() if (folder / "data.csv.gz").exists()]
    chosen = sorted(
        (folder for folder in folders if names is None or folder.name in names),
        key=lambda folder: (folder / "data.csv.gz").stat().st_size,
    )
    tasks = [folder for folder in chosen for _ in range(folds)], [*range(folds)] * len(chosen)
    rows = []
    with ProcessPoolExecutor(jobs, get_context("spawn"), prepare) as pool:
        for row in pool.map(run, *tasks):
            rows.append(row)
            print(row, flush=True)
    line = report(rows)
    if as_json:
        print(json.dumps(line))
