"""Evaluations that solvers need for the problems of Moré, Garbow and Hillstrom, against SciPy's.

    python tools/bench_solvers.py --json
    python tools/bench_solvers.py --quick
    python tools/bench_solvers.py --preconditioning --json      see ``preconditioning.py``

The 18 problems of unconstrained minimization (see ``minimization_problems.py``) from their standard starting points and
from ten times these.  All solvers call the same functions, which count: a value, a derivative, a residual, a Jacobian
and a product with the Hessian are one evaluation each, a Hessian as a matrix is as many as there are variables.  A
problem is solved if the value at the end is within 1e-8 of a published minimum, relative to it if that is above one.

dnnfem      `trust_region`, `cubic` with a Hessian from products: the former in Krylov spaces, with a matrix for the
            step that would end the solve, the latter with exact steps; both in Krylov spaces (``_krylov``) or exact
            all the way; `gauss_newton`.  Tolerance 1e-10, which bounds sqrt(2 (J - min J)).
SciPy       `minimize` with ``trust-exact`` (a Hessian as a matrix), ``trust-krylov`` (gtol 1e-8), ``Newton-CG`` (xtol
            1e-10); `least_squares` with ftol and xtol 1e-15 and gtol 1e-12, the least that it accepts being as small.
            With larger tolerances fewer problems are solved, or by chance.

Solvers stop for reasons of their own, some much too late.  Counts are therefore taken twice: up to the end
(``evaluations``), and up to the first value that solves the problem (``solution``), which no criterion has a part in.

solved_standard, solved_ten         problems of 18 that `trust_region` solves from the standard points and from ten
                                    times these; <solver>_solved_standard, <solver>_solved_ten for all
geomean_evaluations_vs_trust_krylov evaluations of `trust_region` up to the end over those of ``trust-krylov``,
                                    geometric mean over the problems that both solve, from the standard points
geomean_solution_vs_trust_krylov    the same up to the first value that solves the problem
..._ten                             the same from ten times the standard points
<solver>_geomean_...                the same for other solvers
geomean_evaluations_vs_least_squares, geomean_solution_vs_least_squares    `gauss_newton` against `least_squares`

Where ``trust-krylov`` goes on for thousands of steps at rounding (Biggs EXP6), or may not take long ones (Brown badly
scaled), counts up to the end flatter whoever is compared with it.

The problems are fixed and nothing is random: there are no seeds, medians or quartiles.  ``--quick`` leaves out ten
times the standard points, and Newton-CG.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import preconditioning
import scipy.optimize
from minimization_problems import Problem, problems

import dnnfem as fem

Array = np.ndarray

TOLERANCE = 1e-10
MOST = 20_000
"""Evaluations after which a solver is stopped."""

MAX_STEPS = 5000

GOALS = {
    "solved_standard": 18,
    "solved_ten": 16,
    "geomean_evaluations_vs_trust_krylov": 0.8,
    "geomean_evaluations_vs_least_squares": 1.0,
}


class Exhausted(Exception):
    """A solver has used all its evaluations."""


class Counted:
    """A problem that counts what it is asked for; `first` is the count at the first value that solves it."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.evaluations, self.first, self.last = 0, None, math.nan

    def _count(self, number: int = 1) -> None:
        self.evaluations += number
        if self.evaluations > MOST:
            raise Exhausted

    def _seen(self, value: float) -> None:
        if self.first is None and self.problem.solved(value):
            self.first = self.evaluations

    def value(self, x: Array) -> float:
        self._count()
        value = self.problem.value(x)
        self._seen(value)
        return value

    def derivative(self, x: Array) -> Array:
        self._count()
        return self.problem.derivative(x)

    def product(self, x: Array, v: Array) -> Array:
        self._count()
        with np.errstate(all="ignore"):
            return self.problem.hessian(x) @ v

    def hessian(self, x: Array) -> Array:
        self._count(x.size)
        return self.problem.hessian(x)

    def residual(self, x: Array) -> Array:
        self._count()
        residual = self.problem.residuals(x)
        with np.errstate(all="ignore"):
            self._seen(float(residual @ residual))
        return residual

    def jacobian(self, x: Array) -> Array:
        self._count()
        return self.problem.jacobian(x)

    def functional(self) -> Any:
        """Return f as a functional."""
        return fem.from_callables(self.problem.dim, self.value, self.derivative, self.product)

    def squares(self) -> Any:
        """Return f/2 as a sum of squares."""
        return fem.from_callables(self.problem.dim, residual=self.residual, jacobian=self.jacobian)


@dataclass(frozen=True)
class Outcome:
    """How a solver did: evaluations up to the end, and up to the first value that solves the problem."""

    solver: str
    problem: str
    solved: bool
    evaluations: int
    first: int | None
    value: float
    words: str


def _ours(
    solve: Callable[..., Any], half: bool = False, **options: Any
) -> Callable[[Counted, Array], tuple[Array, str]]:
    def solved(counted: Counted, x: Array) -> tuple[Array, str]:
        functional = counted.squares() if half else counted.functional()
        result = solve(functional, x, TOLERANCE, max_steps=MAX_STEPS, **options)
        return result.x, f"{result.status.name.lower()}, {result.steps[-1].number} steps"

    return solved


def _minimize(method: str, hessian: str = "hessp", **options: Any) -> Callable[[Counted, Array], tuple[Array, str]]:
    def solved(counted: Counted, x: Array) -> tuple[Array, str]:
        second = {"hess": counted.hessian} if hessian == "hess" else {"hessp": counted.product}
        result = scipy.optimize.minimize(
            counted.value, x, jac=counted.derivative, method=method, options={"maxiter": MAX_STEPS, **options}, **second
        )
        return result.x, f"status {result.status}, {result.nit} steps"

    return solved


def _least_squares(counted: Counted, x: Array) -> tuple[Array, str]:
    result = scipy.optimize.least_squares(
        counted.residual, x, counted.jacobian, ftol=1e-15, xtol=1e-15, gtol=1e-12, max_nfev=MAX_STEPS
    )
    return result.x, f"status {result.status}, {result.njev} steps"


SOLVERS = {
    "trust_region": _ours(fem.trust_region),
    "trust_region_krylov": _ours(fem.trust_region, dense=False),
    "trust_region_exact": _ours(fem.trust_region, dense=True),
    "cubic": _ours(fem.cubic),
    "cubic_krylov": _ours(fem.cubic, dense=False),
    "gauss_newton": _ours(fem.gauss_newton, half=True),
    "trust_exact": _minimize("trust-exact", "hess", gtol=1e-8),
    "trust_krylov": _minimize("trust-krylov", gtol=1e-8),
    "newton_cg": _minimize("Newton-CG", xtol=1e-10),
    "least_squares": _least_squares,
}

PEERS = {
    "trust_region": "trust_krylov",
    "trust_region_krylov": "trust_krylov",
    "trust_region_exact": "trust_krylov",
    "cubic": "trust_krylov",
    "cubic_krylov": "trust_krylov",
    "trust_exact": "trust_krylov",
    "newton_cg": "trust_krylov",
    "gauss_newton": "least_squares",
}
"""Whom a solver is compared with."""

UNNAMED = ("trust_region", "gauss_newton")
"""Solvers whose keys have no prefix."""


def run(solver: str, problem: Problem, start: Array) -> Outcome:
    """Solve one problem; what fails, or runs out of evaluations, is not solved."""
    counted = Counted(problem)
    try:
        with warnings.catch_warnings():
            # What SciPy says of its own steps, and overflow in trial points.
            warnings.simplefilter("ignore")
            x, words = SOLVERS[solver](counted, start.copy())
        value = problem.value(x)
    except Exhausted:
        value, words = math.nan, f"stopped after {MOST} evaluations"
    except (np.linalg.LinAlgError, ValueError, OverflowError, ZeroDivisionError) as error:
        value, words = math.nan, f"{type(error).__name__}: {error}"
    return Outcome(solver, problem.name, problem.solved(value), counted.evaluations, counted.first, value, words)


def geomean(ours: dict[str, Outcome], theirs: dict[str, Outcome], count: Callable[[Outcome], Any]) -> float:
    """Return the geometric mean of the ratios of counts over the problems that both solve."""
    both = [name for name in ours if ours[name].solved and theirs[name].solved]
    return float(np.exp(np.mean([math.log(count(ours[name]) / count(theirs[name])) for name in both])))


def report(outcomes: dict[tuple[str, bool], dict[str, Outcome]], far: bool) -> dict[str, float]:
    """Print a table of the counts from one kind of starting points, and return its keys."""
    solvers = [solver for solver, other in outcomes if other == far]
    suffix = "ten" if far else "standard"
    print(f"\nevaluations from {'ten times ' if far else ''}the standard points, and those up to the first solution")
    print(f"{'problem':30s}" + "".join(f"{solver:>20s}" for solver in solvers))
    for name in problems():
        cells = []
        for solver in solvers:
            outcome = outcomes[solver, far][name]
            cells.append(f"{outcome.evaluations}/{outcome.first}" if outcome.solved else "not solved")
        print(f"{name:30s}" + "".join(f"{cell:>20s}" for cell in cells))
    line: dict[str, float] = {}
    for solver in solvers:
        own = outcomes[solver, far]
        line[f"{solver}_solved_{suffix}"] = sum(outcome.solved for outcome in own.values())
        if solver not in PEERS:
            continue
        peer = PEERS[solver]
        prefix, ending = "" if solver in UNNAMED else f"{solver}_", "_ten" if far else ""
        counts = {"evaluations": lambda o: o.evaluations, "solution": lambda o: o.first}
        for what, count in counts.items():
            line[f"{prefix}geomean_{what}_vs_{peer}{ending}"] = geomean(own, outcomes[peer, far], count)
    line[f"solved_{suffix}"] = line[f"trust_region_solved_{suffix}"]
    return line


def main() -> None:
    """Run all solvers on all problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="standard starting points only")
    parser.add_argument("--preconditioning", action="store_true", help="norms as preconditioners instead")
    parser.add_argument("--seeds", type=int, default=3, help="of preconditioning")
    parser.add_argument("--json", action="store_true", help="print one line of JSON at the end")
    options = parser.parse_args()
    if options.preconditioning:
        keys = preconditioning.report(options.seeds, options.quick)
        for key, value in keys.items():
            goal = f", goal {preconditioning.GOALS[key]:g}" if key in preconditioning.GOALS else ""
            print(f"{key} {value:.3g}{goal}")
        if options.json:
            print(json.dumps(keys))
        return
    chosen = [solver for solver in SOLVERS if not (options.quick and solver == "newton_cg")]
    line: dict[str, float] = {}
    for far in (False,) if options.quick else (False, True):
        outcomes = {}
        for solver in chosen:
            outcomes[solver, far] = {
                name: run(solver, problem, problem.far_start() if far else problem.start)
                for name, problem in problems().items()
            }
        line |= report(outcomes, far)
        for (solver, _), own in outcomes.items():
            for outcome in own.values():
                if not outcome.solved:
                    print(f"not solved by {solver}: {outcome.problem}, value {outcome.value:.6g}, {outcome.words}")
    print()
    for key, value in line.items():
        goal = f", goal {GOALS[key]:g}" if key in GOALS else ""
        print(f"{key} {value:.3g}{goal}")
    if options.json:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
