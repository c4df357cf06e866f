"""Multilevel trust regions against the trust region on the finest level, and against nested iteration.

    python tools/bench_multilevel.py --json
    python tools/bench_multilevel.py localized --seeds 3 --json

localized   The flow of width 4 of ``bench_depth.py`` whose weights change within four per cent of the time, with a
            tenth of its penalty on the distance to its weights; P0, RK4.
regression  exp(-0.1 (x^2 + y^2)) sin x cos y at 150 points of [-3, 3]^2; width 4, P1, Heun's method, T = 2, and the
            penalty 5e-4 |theta|^2 in H1.
spirals     Two spirals, 450 points, logistic loss; width 4, P0, Heun's method, T = 2, and the penalty 5e-4 |theta|^2 in
            L2.
width       exp(-0.1 (x^2 + y^2)) sin x cos y at 500 points of [-5, 5]^2 by a network with two layers of 32 neurons and
            the penalty 5e-7 |x|^2; levels with 8, 16 and 32 neurons, new ones have random incoming weights.

Flows have 4, 8, ..., 256 cells of their weights and as many steps, all levels begin with the same weights, constant in
time, and steps have conjugate gradients in the norm of the penalty.  They have the curvature, or, for the spirals, the
Hessian, with which the trust region on the finest level needs a third of the work.  The single level takes steps until
the dual norm has fallen to a thousandth, or to its budget of work; the others are stopped where they have reached its
last value.

`multilevel` begins on the coarsest level (``nested=True``), and looks at the finest one during long solves, too
(``watch=True``).  Nested iteration takes trust-region steps on every level, until the dual norm has fallen to a tenth
(on the coarsest to a hundredth), at most 5, 10 or 30 steps on the levels between; the best of these three counts, for
each seed, which nobody knows beforehand.  After every level both look at the finest one, and may end.
In width steps are those of Levenberg and Marquardt, and the single level begins with the start of the coarsest,
prolonged, or with weights of its own, whichever is better.

Work is counted in gradients of the finest level: a product with the curvature is two, a dense matrix of it too, as in
all tables of steps.  A run that does not reach the value within twice the budget counts with infinite work; where
nested iteration does not, with twice the budget.

work_ratio            work of `multilevel` over that of the single level; median over the seeds of the flow for which it
                      is largest
work_ratio_vs_nested  over that of nested iteration, likewise
work_ratio_vs_fixed   over that of nested iteration with one number of steps for all flows and seeds, likewise; of the
                      three the one for which it is largest
work_ratio_vs_watched over that of nested iteration that looks at the finest level as `multilevel` does, the best of
                      three for each seed again
width_work_ratio      over that of the single level, in width
lower_quartile_..., upper_quartile_..., and the first three for each flow, <problem>_work_ratio, ...
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from depth_problems import Localized, sincos, spirals

import dnnfem as fem
from dnnfem.functionals import gradient_work
from dnnfem.solvers.trust_region import VALUE_WORK
from dnnfem.spaces.feedforward import Neuron

Array = np.ndarray

COARSEST, FINEST, QUICK = 4, 256, 32
BUDGET, STEPS = 3000.0, (5, 10, 30)
"""Work of the single level, and steps of nested iteration between the coarsest and the finest level."""

ALPHA, WEAK = 1e-3, 1e-6
WIDTHS = (8, 16, 32)
FLOWS = ("localized", "regression", "spirals")
GOALS = {"work_ratio": 0.1, "work_ratio_vs_nested": 0.8, "width_work_ratio": 0.5}


@dataclass(frozen=True)
class Hierarchy:
    """Functionals from coarse to fine, transfers between them, the starts of the coarsest, and of the finest alone."""

    functionals: list[Any]
    transfers: list[fem.Transfer]
    start: Array
    alone: list[Array]
    norms: list[Any]
    dense: bool
    curvature: bool = True

    @property
    def costs(self) -> list[float]:
        """Work of gradients, in those of the finest level."""
        work = [gradient_work(J) for J in self.functionals]
        return [cost / work[-1] for cost in work]


def flow(name: str, seed: int, finest: int) -> Hierarchy:
    """Return a hierarchy of flows."""
    space: Callable[[int], fem.FlowSpace]
    functional: Callable[[fem.FlowSpace], Any]
    rule = fem.H1 if name == "regression" else fem.L2
    if name == "localized":
        case = Localized(seed, ALPHA)
        space = lambda cells: case.space(cells, cells)  # noqa: E731
        functional = lambda space: case.functional(space)[0]  # noqa: E731
    else:
        if name == "regression":
            points = np.random.default_rng(seed).uniform(-3.0, 3.0, (150, 2))
            problem: Any = fem.Regression(points, sincos(points))
        else:
            points, labels, *_ = spirals(seed)
            problem = fem.Classification(points, labels)
        more = {"T": 2.0, "degree": int(rule is fem.H1), "scheme": "heun"}
        space = lambda cells: fem.FlowSpace.uniform(2, 4, 1 if name == "regression" else 2, cells, **more)  # noqa: E731
        functional = lambda space: fem.Sum(problem.on(space), fem.Tikhonov(space, rule, ALPHA))  # noqa: E731
    spaces = [space(COARSEST * 2**k) for k in range(round(math.log2(finest / COARSEST)) + 1)]
    transfers = [fem.prolongation(*pair) for pair in pairwise(spaces)]
    one = replace(space(1), degree=0)
    drawn, start = one.initial(seed), np.empty(spaces[0].dim)
    spaces[0].theta(start)[:] = one.theta(drawn)[0]
    start[spaces[0].theta_stop :] = drawn[one.theta_stop :]
    alone = prolonged(transfers, start)
    functionals, norms = [functional(s) for s in spaces], [rule(s) for s in spaces]
    return Hierarchy(functionals, transfers, start, [alone], norms, False, name != "spirals")


def widths(seed: int, quick: bool) -> Hierarchy:
    """Return a hierarchy of networks with more and more neurons."""
    random = np.random.default_rng([seed, 5])
    points = random.uniform(-5.0, 5.0, (500, 2))
    problem = fem.Regression(points, sincos(points))
    spaces, transfers = [fem.FeedforwardSpace(2, (WIDTHS[0],) * 2, 1)], []
    for width in WIDTHS[1 : 2 if quick else None]:
        new = []
        for layer, fan_in in enumerate((2, spaces[-1].hidden[0])):
            scale = 1.0 / math.sqrt(fan_in)
            for _ in range(width - spaces[-1].hidden[layer]):
                new.append(Neuron(layer, scale * random.standard_normal(fan_in), random.uniform(-1.0, 1.0)))
        space, P = fem.widen(spaces[-1], new)
        spaces.append(space)
        transfers.append(P)
    functionals = [fem.Sum(problem.on(s), fem.Tikhonov(s, fem.Euclidean, WEAK)) for s in spaces]
    start = spaces[0].initial(seed)
    alone = [prolonged(transfers, start), spaces[-1].initial(seed)]
    return Hierarchy(functionals, transfers, start, alone, [None] * len(spaces), True)


def prolonged(transfers: Sequence[fem.Transfer], x: Array) -> Array:
    """Return an iterate of the coarsest space in the finest."""
    for transfer in transfers:
        x = transfer(x)
    return x


class Reached(Exception):
    """The value is reached, or the work used up."""


@dataclass(frozen=True)
class Meter:
    """An observer that stops a solver at a value or at a work; rows are (work, value)."""

    rows: list[tuple[float, float]]
    spent: float
    value: float
    budget: float

    def __call__(self, snapshot: fem.Snapshot) -> None:
        """Append a row."""
        self.rows.append((self.spent + snapshot.step.work, snapshot.step.value))
        if self.rows[-1][1] <= self.value or self.rows[-1][0] >= self.budget:
            raise Reached

    @property
    def work(self) -> float:
        """Work at which the value was reached; infinity if it was not."""
        return self.rows[-1][0] if self.rows and self.rows[-1][1] <= self.value else math.inf


def options(case: Hierarchy, level: int) -> dict[str, Any]:
    """Return what all solvers are told on a level."""
    return {"norm": case.norms[level], "dense": case.dense, "curvature": case.curvature}


def single(case: Hierarchy) -> list[tuple[float, float]]:
    """Return work and value of the steps on the finest level, of the better start."""
    runs = []
    for x in case.alone:
        meter = Meter([], 0.0, -math.inf, BUDGET)
        with suppress(Reached):
            fem.trust_region(case.functionals[-1], x, fem.relative(1e-3), observer=meter, **options(case, -1))
        runs.append(meter.rows)
    return min(runs, key=lambda rows: rows[-1][1])


def multilevel(case: Hierarchy, value: float) -> float:
    """Return the work of `dnnfem.multilevel` to a value."""
    meter = Meter([], 0.0, value, 2.0 * BUDGET)
    with suppress(Reached):
        fem.multilevel(
            case.functionals,
            case.transfers,
            case.start,
            0.0,
            nested=True,
            watch=True,
            observer=meter,
            **options(case, -1),
        )
    return meter.work


@dataclass
class Looks:
    """An observer on a coarse level that asks the finest one for its value when `multilevel` would.

    It counts what was `spent`; `last` is what had been at the last look, and `seen` the number of the row then.
    """

    case: Hierarchy
    level: int
    value: float
    spent: float
    last: float
    seen: int
    own: float = 0.0
    now: int = 0

    def __call__(self, snapshot: fem.Snapshot) -> None:
        """Look, if it is time and the row is a new one; looks are paid for."""
        cost, self.now = self.case.costs[self.level], snapshot.step.number
        self.spent, self.own = self.spent + (snapshot.step.work - self.own) * cost, snapshot.step.work
        if self.now != self.seen and (self.spent - self.last) ** 2 >= 2.0 * VALUE_WORK * self.spent:
            self.spent += VALUE_WORK
            self.last, self.seen = self.spent, self.now
            progress = snapshot.state.progress
            assert progress is not None
            if self.case.functionals[-1].value(prolonged(self.case.transfers[self.level :], progress.x)) <= self.value:
                raise Reached


def nested(case: Hierarchy, value: float, most: int, watch: bool) -> float:
    """Return the work of nested iteration to a value, with looks at the ends of levels or, to `watch`, in between."""
    x, state, spent = case.start, None, 0.0
    for level, J in enumerate(case.functionals[:-1]):
        tolerance, steps = fem.relative(0.1 if level else 1e-2), most if level else 1000
        # The start of a level is the end of the one before, which was seen.
        looks = Looks(case, level, value, spent, spent, 0 if level else -1) if watch else None
        try:
            result = fem.trust_region(
                J, x, tolerance, state=state, max_steps=steps, observer=looks, **options(case, level)
            )
        except Reached:
            assert looks is not None
            return looks.spent
        x, state = case.transfers[level](result.x), result.state
        spent = looks.spent if looks is not None else spent + result.steps[-1].work * case.costs[level]
        # What `multilevel` asks of the finest level after every other one this does as well; what it has seen is free.
        price = VALUE_WORK if looks is None or looks.now != looks.seen else 0.0
        if case.functionals[-1].value(prolonged(case.transfers[level + 1 :], x)) <= value:
            return spent + price
        # The first row on the finest level pays for what was seen last.
        spent += price if level < len(case.functionals) - 2 else price - VALUE_WORK
    meter = Meter([], spent, value, 2.0 * BUDGET)
    with suppress(Reached):
        fem.trust_region(case.functionals[-1], x, 0.0, state=state, observer=meter, **options(case, -1))
    return meter.work


def compared(case: Hierarchy) -> dict[str, float]:
    """Return the work of all methods."""
    rows = single(case)
    value = rows[-1][1]
    alone = min(work for work, reached in rows if reached <= value)
    found = {"value": value, "single": alone, "multilevel": multilevel(case, value)}
    fixed = {most: min(nested(case, value, most, False), 2.0 * BUDGET) for most in STEPS}
    found["nested"] = min(fixed.values())
    found["watched"] = min(nested(case, value, most, True) for most in STEPS)
    ratios = {f"work_ratio_vs_{most}": found["multilevel"] / work for most, work in fixed.items()}
    ratios["work_ratio_vs_watched"] = found["multilevel"] / min(found["watched"], 2.0 * BUDGET)
    return found | {
        "work_ratio": found["multilevel"] / found["single"],
        "work_ratio_vs_nested": found["multilevel"] / found["nested"],
        **ratios,
    }


def quantile(values: Sequence[float], level: float = 0.5) -> float | None:
    """Return a quantile; None, as JSON has no infinity, if it is not finite."""
    found = float(np.quantile(values, level, method="higher"))
    return found if math.isfinite(found) else None


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, float | None]:
    """Return medians with quartiles: those of the flow with the largest median, and that of the networks."""
    line: dict[str, float | None] = {}
    flows = [name for name in runs if name != "width"]
    if flows:
        fixed = [quantile([run[f"work_ratio_vs_{most}"] for run in runs[name]]) for name in flows for most in STEPS]
        line["work_ratio_vs_fixed"] = None if None in fixed else max(fixed)
    for key in ("work_ratio", "work_ratio_vs_nested", "work_ratio_vs_watched"):
        if not flows:
            continue
        worst = max(flows, key=lambda name: float(np.median([run[key] for run in runs[name]])))
        line |= _quartiles(key, [run[key] for run in runs[worst]])
        line |= {f"{name}_{key}": quantile([run[key] for run in runs[name]]) for name in flows}
    if "width" in runs:
        line |= _quartiles("width_work_ratio", [run["work_ratio"] for run in runs["width"]])
        line["width_work_ratio_vs_nested"] = quantile([run["work_ratio_vs_nested"] for run in runs["width"]])
    return line


def _quartiles(key: str, values: list[float]) -> dict[str, float | None]:
    return {
        key: quantile(values),
        f"lower_quartile_{key}": quantile(values, 0.25),
        f"upper_quartile_{key}": quantile(values, 0.75),
    }


def main() -> None:
    """Run the chosen problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=[*FLOWS, "width", "all"], nargs="?", default="all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one seed, flows with 32 cells, two widths")
    parser.add_argument("--json", action="store_true", help="print one line of JSON at the end")
    arguments = parser.parse_args()
    numba.set_num_threads(1)
    runs: dict[str, list[dict[str, float]]] = {}
    for name in (*FLOWS, "width") if arguments.problem == "all" else (arguments.problem,):
        runs[name] = []
        for seed in range(1 if arguments.quick else arguments.seeds):
            quick = arguments.quick
            case = widths(seed, quick) if name == "width" else flow(name, seed, QUICK if quick else FINEST)
            runs[name].append(compared(case))
            print(f"{name}, seed {seed}: " + ", ".join(f"{k} {v:.4g}" for k, v in runs[name][-1].items()), flush=True)
    line = summary(runs)
    for key, goal in GOALS.items():
        if key in line:
            print(f"{key} {'none' if line[key] is None else f'{line[key]:.3g}'}, goal {goal:g}")
    if arguments.json:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
