"""Regression of tables against scikit-learn's tuned networks and boosted trees; see ``bench_regression.py --data``.

Every set comes with fixed test masks.  dnnfem runs the loop of `AdaptiveRegressor`, which grows a network with two
hidden layers: the weight of the penalty is re-estimated by the evidence while the network is solved, and
cross-validation over the whole growth path says how wide it becomes and how large its error is at unseen samples.
Nothing is chosen per set, and no test sample is looked at.

Ablations have the final architecture, or as many coefficients: untrained random features, growth with candidates as
they are drawn, and a solve from scratch with as many steps as the path and the last solve may take together.  All end
with a solve on all samples.  What they do not have: dnnfem takes the best, by its functional, of the networks of three
folds, they have one start.  `dim_ratio_at_best_ablation` is the size of the smallest network of the growth path on all
samples, relative to the chosen one, that with the same last solve reaches the best of the three; null if none does.

The peers are `MLPRegressor` (standardized inputs and targets, L-BFGS), chosen by a search with 5 folds among the
hidden layers (20), (50), (50, 50) and the penalties 1e-3, 1e-1, 1, 10, and `HistGradientBoostingRegressor` with its
defaults.  On each set and fold they run one after another, on one core; with `--jobs`, several folds at a time.
Times do not include imports, nor what kernels take to be loaded.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numba
import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import dnnfem as fem
from dnnfem.learn.growth import FIRST_STEPS, LEVEL_STEPS, Fit, Outcome
from dnnfem.learn.regression import fitted, path, scratch, solved
from dnnfem.spaces.feedforward import ridges

Array = np.ndarray

ALPHA = 1e-3
"""Weight of the penalty that everything begins with; `AdaptiveRegressor` lets two of them race."""


def regression(inputs: Array, targets: Array) -> tuple[fem.Regression, Outcome]:
    """Fit a table: cross-validation over the growth path, then the best network of the folds on all samples."""
    order = np.random.default_rng(0).permutation(len(targets))
    problem = fem.Regression(inputs[order], targets[order])
    return problem, fitted(problem, alphas=[ALPHA])


def from_scratch(problem: fem.Regression, fit: Fit, levels: int) -> Fit:
    """Solve on the final architecture from a random start, with the steps of so many levels and of the last solve."""
    return solved(problem, problem.quadrature, scratch(fit.space, ALPHA), FIRST_STEPS + levels * LEVEL_STEPS)


def uniform(problem: fem.Regression, fit: Fit) -> Fit:
    """Grow to the final architecture with candidates as they are drawn."""
    levels = path(problem, problem.quadrature, ALPHA, adaptive=False)
    return solved(problem, problem.quadrature, next(f for f in levels if f.space.dim >= fit.space.dim))


def smaller(problem: fem.Regression, fit: Fit) -> Iterator[Fit]:
    """Yield the networks of the growth path that are smaller than the chosen one, with the last solve, and that one."""
    for level in path(problem, problem.quadrature, ALPHA):
        if level.space.dim >= fit.space.dim:
            break
        yield solved(problem, problem.quadrature, level)
    yield fit


def random_features(problem: fem.Regression, fit: Fit, inputs: Array) -> Array:
    """Return predictions of as many frozen and free coefficients: best of three scales and of 13 ridges by GCV."""
    d, best = problem.quadrature.inputs, (math.inf, np.zeros(len(inputs)))
    points, ansatz = problem.ansatz.reference(problem.inputs), problem.ansatz
    targets = (problem.targets[:, 0] - ansatz.output_shift[0]) / ansatz.output_scale[0]
    count = (fit.space.dim - 1) // (d + 2)
    for scales in ((0.5, 1.5), (1.0, 3.0), (2.0, 6.0)):
        random = np.random.default_rng(1)
        weights, bias = ridges(random, points[random.integers(len(points), size=count)], scales)
        features = np.tanh(points @ weights.T + bias)
        mean = features.mean(axis=0)
        u, s, vt = np.linalg.svd(features - mean, full_matrices=False)
        load = u.T @ targets
        for alpha in np.geomspace(1e-9, 1e3, 13) * len(targets):
            shrink = s**2 / (s**2 + alpha)
            left = np.sum(targets**2) - np.sum((2.0 - shrink) * shrink * load**2)
            score = left / (len(targets) - 1.0 - shrink.sum()) ** 2
            if score < best[0]:
                weight = vt.T @ (s / (s**2 + alpha) * load)
                seen = np.tanh(ansatz.reference(inputs) @ weights.T + bias) - mean
                best = score, seen @ weight * ansatz.output_scale[0] + ansatz.output_shift[0]
    return best[1]


def mlp_search() -> GridSearchCV:
    """Return scikit-learn's tuned network."""
    network = make_pipeline(StandardScaler(), MLPRegressor(solver="lbfgs", random_state=0))
    scaled = TransformedTargetRegressor(network, transformer=StandardScaler())
    prefix = "regressor__mlpregressor__"
    grid = {prefix + "hidden_layer_sizes": [(20,), (50,), (50, 50)], prefix + "alpha": [1e-3, 1e-1, 1.0, 10.0]}
    return GridSearchCV(scaled, grid, cv=KFold(5, shuffle=True, random_state=0), scoring="neg_mean_squared_error")


def rmse(prediction: Array, targets: Array) -> float:
    """Return the root mean square error; a diverged prediction counts as infinite."""
    error = float(np.sqrt(np.mean((prediction - targets) ** 2)))
    return error if math.isfinite(error) else math.inf


@dataclass(frozen=True)
class Row:
    """One set and fold: errors at the test samples, seconds, coefficients."""

    name: str
    fold: int
    space: str
    error: float
    estimate: float
    seconds: float
    dim: int
    mlp: float
    mlp_seconds: float
    mlp_dim: int
    hgb: float
    random: float
    uniform: float
    scratch: float
    ratio: float

    def __str__(self) -> str:
        return (
            f"{self.name:9s} fold {self.fold}: {self.space}, {self.dim} coefficients, rmse {self.error:.4g} (estimate "
            f"{self.estimate:.4g}), {self.seconds:.2f} s; network {self.mlp:.4g} ({self.mlp_dim}, "
            f"{self.mlp_seconds:.1f} s), trees {self.hgb:.4g}; random {self.random:.4g}, uniform {self.uniform:.4g}, "
            f"scratch {self.scratch:.4g}, their best reached with {self.ratio:.2f} of the coefficients"
        )


def run(folder: Path, fold: int) -> Row:
    """Fit one set on one fold with everything."""
    table = np.loadtxt(folder / "data.csv.gz", delimiter=",")
    test = np.loadtxt(folder / "test_mask.csv.gz", delimiter=",")[:, fold] == 1
    inputs, targets = table[~test, :-1], table[~test, -1]
    unseen, wanted = table[test, :-1], table[test, -1]
    began = time.perf_counter()
    problem, outcome = regression(inputs, targets)
    seconds = time.perf_counter() - began
    fit, validation = outcome.fit, outcome.validation

    def tested(other: Fit) -> float:
        return rmse(problem.solution(other.space, other.x)(unseen)[:, 0], wanted)

    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = mlp_search().fit(inputs, targets)
    mlp_seconds = time.perf_counter() - began
    network = search.best_estimator_.regressor_[-1]
    trees = HistGradientBoostingRegressor(random_state=0).fit(inputs, targets)
    random = rmse(random_features(problem, fit, unseen), wanted)
    others = random, tested(uniform(problem, fit)), tested(from_scratch(problem, fit, validation.level + 1))
    reached = (other.space.dim for other in smaller(problem, fit) if tested(other) <= min(others))
    return Row(
        folder.name,
        fold,
        str(fit.space),
        tested(fit),
        problem.rms(validation.estimate.total),
        seconds,
        fit.space.dim,
        rmse(search.predict(unseen), wanted),
        mlp_seconds,
        sum(a.size for a in (*network.coefs_, *network.intercepts_)),
        rmse(trees.predict(unseen), wanted),
        *others,
        next(reached, math.inf) / fit.space.dim,
    )


def report(rows: list[Row]) -> dict[str, float | None]:
    """Print the table and return the keys of the JSON line."""
    names = list(dict.fromkeys(row.name for row in rows))
    ratios = {
        "vs network": lambda r: r.error / r.mlp,
        "vs trees": lambda r: r.error / r.hgb,
        "time vs search": lambda r: r.seconds / r.mlp_seconds,
        "dim vs network": lambda r: r.dim / r.mlp_dim,
        "estimate/error": lambda r: r.estimate / r.error,
        "vs random": lambda r: r.error / r.random,
        "vs uniform": lambda r: r.error / r.uniform,
        "vs scratch": lambda r: r.error / r.scratch,
    }
    columns = {label: np.array([ratio(row) for row in rows]) for label, ratio in ratios.items()}
    print("\nmedian over the folds of each set; errors are root mean squares at the test samples")
    print(f"{'set':10s}" + "".join(f"{label:>15s}" for label in columns))
    for name in names:
        own = [number for number, row in enumerate(rows) if row.name == name]
        print(f"{name:10s}" + "".join(f"{np.median(values[own]):15.3f}" for values in columns.values()))
    for label, level in (("lower", 0.25), ("median", 0.5), ("upper", 0.75)):
        print(f"{label:10s}" + "".join(f"{np.quantile(values, level):15.3f}" for values in columns.values()))
    # The worse of two values, not something between them: one of them may be infinite.
    reached = float(np.quantile([row.ratio for row in rows], 0.5, method="higher"))
    print(f"coefficients, relative, with which the best of the ablations is reached: median {reached:.3f} (inf: not)")
    means = {label: float(np.exp(np.mean(np.log(values)))) for label, values in columns.items()}
    print(f"{'geomean':10s}" + "".join(f"{value:15.3f}" for value in means.values()))
    return {
        "geomean_rmse_vs_mlp": means["vs network"],
        "geomean_rmse_vs_hgb": means["vs trees"],
        "geomean_time_vs_mlp_search": means["time vs search"],
        "median_dim_vs_mlp": float(np.median(columns["dim vs network"])),
        "effectivity_lower": float(np.quantile(columns["estimate/error"], 0.25)),
        "effectivity_upper": float(np.quantile(columns["estimate/error"], 0.75)),
        "geomean_rmse_vs_random_features": means["vs random"],
        "geomean_rmse_vs_uniform": means["vs uniform"],
        "geomean_rmse_vs_scratch": means["vs scratch"],
        "dim_ratio_at_best_ablation": reached if math.isfinite(reached) else None,
    }


def prepare() -> None:
    """Use one thread from now on, as with matrices of this size more would only wait for each other; load kernels."""
    numba.set_num_threads(1)
    threadpool_limits(limits=1)
    inputs = np.random.default_rng(0).uniform(-1.0, 1.0, (300, 2))
    regression(inputs, inputs[:, 0] * inputs[:, 1])


def main(data: Path, names: list[str] | None, folds: int, jobs: int, as_json: bool) -> None:
    """Run all sets in a folder, in so many processes."""
    folders = sorted(folder for folder in data.iterdir() if (folder / "data.csv.gz").exists())
    chosen = [folder for folder in folders if names is None or folder.name in names]
    tasks = [folder for folder in chosen for _ in range(folds)], [*range(folds)] * len(chosen)
    rows = []
    with ProcessPoolExecutor(jobs, get_context("spawn"), prepare) as pool:
        for row in pool.map(run, *tasks):
            rows.append(row)
            print(row, flush=True)
    line = report(rows)
    if as_json:
        print(json.dumps(line))
