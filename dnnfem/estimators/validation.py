"""Cross-validation over the whole growth path: the error at unseen points, and which path to take."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnnfem.estimators.folds import Copies, Problem, division
from dnnfem.estimators.race import Network, Race, Runner, Trial
from dnnfem.quadrature import Quadrature
from dnnfem.records import Estimate, Index

Path = Callable[[Quadrature, Hashable], Iterator[Network]]
"""The user's loop as a generator: ``path(quadrature, setting)`` yields ``(space, x)`` after every level."""

ENOUGH = 2000
"""Held-out samples with which the standard error of a risk is a few per cent: further folds would add no knowledge."""

LEAST = 0.5
"""Least root of losses at training samples over those at held-out ones that is believed: with more than half as many
coefficients as samples a network nearly interpolates, and the formula for all samples has nothing to start from."""

CLOSER = 0.7
"""A setting that loses by less than this part of what it lost by one level before is catching up."""

MISFIT = "root mean square misfit sqrt(2 E L) at unseen points"
LOSS = "root of twice the mean loss sqrt(2 E L) at unseen points"


@dataclass(frozen=True)
class Validation:
    """Result of `cross_validation`; printing it gives the table.

    Attributes
    ----------
    setting : hashable
        The chosen one.
    level : int
        The chosen level of its path, counted from 0.
    networks : tuple of (space, x)
        Those of the folds at the chosen level: any of them is a start for the solve on all samples.
    held : tuple of int arrays, shapes (k,)
        For each of these networks the numbers of the samples that it has not seen, e.g. for `dnnfem.calibrated`.
    estimate : Estimate
        Of ``sqrt(2 E L)`` at unseen points, for residuals the root mean square misfit, of a network that is trained on
        all samples; one cell per level of the chosen setting.  Its parts are the standard error, and by how much a
        fold's network is worse as it has fewer samples, see `cross_validation`.
    trials : tuple of Trial
        Everything that was tried.
    remarks : tuple of str
        What speaks against trusting the estimate or the choice.
    """

    setting: Hashable
    level: int
    networks: tuple[Network, ...]
    held: tuple[Index, ...]
    estimate: Estimate
    trials: tuple[Trial, ...]
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"held-out samples: {self.estimate.quantity}"]
        lines.append(f"{'level':>5} {'setting':>20} {'sqrt(2 E L)':>11} {'+-':>9}  space")
        for t in self.trials:
            size = math.sqrt(2.0 * t.risk)
            mark = " <-" if (t.setting, t.level) == (self.setting, self.level) else ""
            mark = mark if t.complete else " (not on all folds)"
            deviation = _relative(t.deviation, size)
            lines.append(f"{t.level:5d} {t.setting!s:>20} {size:11.4e} {deviation:9.1e}  {t.space}{mark}")
        return "\n".join([*lines, *self.remarks])


def cross_validation(
    problem: Problem,
    path: Path,
    settings: Iterable[Hashable],
    *,
    folds: int = 4,
    max_levels: int = 20,
    seed: int = 0,
) -> Validation:
    """Choose a setting and a level of a growth path, and estimate the error at unseen points.

    The *whole* path is repeated on the samples without each fold, and judged on that fold: a network that was grown on
    all samples has seen them, whatever is done to it later.  Copies of a point are in the same fold, and for
    classification every fold has its part of each class.

    Settings race.  After every fold of a level, those stop on this level that are clearly worse than the best one on
    the same level, by the standard error of the paired differences of losses; settings whose paths are at an end take
    part with their best level.  What loses on one level may win on the next one; a setting that loses on two levels in
    succession is given up.  The path of a setting ends at a level whose risk is not a fifth below that of its networks
    with at most six tenths of the coefficients (the next ones would cost two or three times as much), or not below it
    at all on the first half of the folds, and at the second level in succession that does not lower its risk at all.

    Parameters
    ----------
    problem : Problem
        Offers the samples; independent of each other.
    path : callable
        ``path(quadrature, setting)`` is a generator of ``(space, x)``, one per level, that must use no other samples
        than those of the quadrature.  It is only run as far as needed.
    settings : iterable of hashable
        What the paths differ in, e.g. weights of a penalty, in their order.
    folds : int
        Number of parts; with many samples not all of them are held out in turn, see `ENOUGH`.
    max_levels : int
        Limit on the levels.
    seed : int
        Of the division into folds.

    Returns
    -------
    Validation

    Raises
    ------
    ValueError
        If there are fewer different points than folds, no settings, a limit is no positive integer, or the path is no
        generator of pairs.

    Notes
    -----
    A network that is trained on all ``n`` samples is better than those of the folds, trained on ``n'``.  For residual
    laws the effective number ``p`` of coefficients is taken from the gap between the losses at training samples and at
    held-out ones, ``E_held = E_training / (1 - p/n')^2``, the formula of generalized cross-validation, and
    ``E(n) = E_training / ((1 - p/n') (1 - p/n))``, which least squares with Gaussian inputs obey.  It says nothing
    about networks that interpolate their samples, so that no more than ``p/n' = 1/2`` is believed; a remark says where
    that is so.  For loss laws, to first order, ``E(n) = E_held - (E_held - E_training) (1 - n'/n) / 2``.

    References
    ----------
    Maron and Moore, Hoeffding races, Advances in Neural Information Processing Systems 6 (1994) 59-66.

    Golub, Heath and Wahba, Technometrics 21 (1979) 215-223.
    """
    samples, offered = problem.quadrature, _settings(settings)
    folds, max_levels = _integer("folds", folds, 2, len(samples)), _integer("max_levels", max_levels, 1)
    if not callable(path):
        raise ValueError(f"path: got {path!r}, expected a function of a quadrature and a setting")
    copies = Copies.of(samples.points)
    place = division(problem, copies, folds, seed)
    runs = min(folds, math.ceil(ENOUGH * folds / len(samples)))
    held = tuple(np.flatnonzero(place == k) for k in range(runs))
    splits = [(samples.subset(place != k), samples.subset(held[k])) for k in range(runs)]
    runners = [Runner(s, [_started(path, train, s) for train, _ in splits]) for s in offered]
    race = Race(problem, splits, runners)
    for level in range(max_levels):
        if not race.run(level):
            break
    complete = [trial for trial in race.trials if trial.complete]
    if not complete:
        raise ValueError("path: got one that yields nothing, expected at least one level on every fold")
    best = min(complete, key=lambda trial: trial.risk)
    winner = runners[offered.index(best.setting)]
    share = float(np.mean([len(train) for train, _ in splits])) / len(samples)
    capped, estimate = _estimate(
        [t for t in race.trials if t.setting == best.setting], best, share, _squares(problem, best)
    )
    remarks = [*_on_choice(best, runners, winner), *_on_estimate(best, capped)]
    if len(copies.first) < len(samples):
        remarks.append(f"{copies}; each point is held out with all of its copies")
    networks = tuple(winner.levels[best.level].networks)
    return Validation(best.setting, best.level, networks, held, estimate, tuple(race.trials), tuple(remarks))


def _integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    fits = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not fits or value < least or (most is not None and value > most):
        end = "" if most is None else f" to {most}, the number of samples"
        raise ValueError(f"{name}: got {value!r}, expected an integer from {least}{end or ' on'}")
    return int(value)


def _settings(settings: Any) -> tuple[Hashable, ...]:
    try:
        if isinstance(settings, str | bytes):
            raise TypeError
        given = tuple(settings)
        different = len(set(given))
    except TypeError:
        raise ValueError(f"settings: got {settings!r}, expected a sequence of hashable ones") from None
    if not given or different != len(given):
        raise ValueError(f"settings: got {list(given)}, expected at least one, all different")
    return given


def _started(path: Path, quadrature: Quadrature, setting: Hashable) -> Iterator[Network]:
    levels = path(quadrature, setting)
    if not isinstance(levels, Iterator):
        kind = type(levels).__name__
        raise ValueError(f"path: got one that returns a {kind}, expected a generator that yields pairs (space, x)")
    return levels


def _squares(problem: Problem, trial: Trial) -> bool:
    """Return whether the law is half the square of a residual."""
    return problem.on(trial.space).dispersion is None


def _on_all_samples(trial: Trial, share: float, squares: bool) -> tuple[float, bool]:
    """Return the risk after training on all samples, of which the folds had a share, and whether `LEAST` decided."""
    if not trial.training < trial.risk < math.inf:
        return trial.risk, False
    if not squares:
        return trial.risk - 0.5 * (1.0 - share) * (trial.risk - trial.training), False
    # 1 - p/n' = root, 1 - p/n = 1 - share (1 - root)
    seen = math.sqrt(trial.training / trial.risk)
    root = max(seen, LEAST)
    return trial.risk * root / (1.0 - share * (1.0 - root)), seen < LEAST


def _relative(deviation: float, size: float) -> float:
    """Return the standard error of ``sqrt(2 E)``, given that of ``E``."""
    return deviation / size if 0.0 < size < math.inf else size


def _estimate(own: Sequence[Trial], best: Trial, share: float, squares: bool) -> tuple[bool, Estimate]:
    risks = {t.level: _on_all_samples(t, share, squares) for t in own}
    indicators = np.sqrt([2.0 * risk for risk, _ in risks.values()])
    total, held = math.sqrt(2.0 * risks[best.level][0]), math.sqrt(2.0 * best.risk)
    parts = {
        "standard error": _relative(best.deviation, held),
        "fewer samples in the folds": held - total if math.isfinite(held) else 0.0,
    }
    quantity = MISFIT if squares else LOSS
    return risks[best.level][1], Estimate(quantity, np.array(list(risks)), indicators, total, parts=parts)


def _on_choice(best: Trial, runners: Sequence[Runner], winner: Runner) -> list[str]:
    """Return what speaks against the choice."""
    remarks = []
    before = [level.risk() for number, level in winner.levels.items() if number < best.level]
    if best.level == max(winner.levels):
        if not winner.end or (winner.end == "exhausted" and before):
            remarks.append(f"the risk was still falling at level {best.level}, the last one: the path ended too early")
        elif winner.end == "ended" and before and best.risk < 0.99 * min(before):
            gain = 100.0 * (1.0 - best.risk / min(before))
            remarks.append(f"the path ended at level {best.level}, which still lowered the risk by {gain:.0f} %")
    if len(runners) > 2 and winner in (runners[0], runners[-1]):
        remarks.append(f"the chosen setting {best.setting} is at the end of those offered: offer more beyond it")
    for runner in runners:
        if runner.end == "beaten" and runner.gaps[-1] < CLOSER * runner.gaps[-2]:
            remarks.append(f"setting {runner.setting} was given up while it was catching up: try it alone")
    return remarks


def _on_estimate(best: Trial, capped: bool) -> list[str]:
    """Return what speaks against the estimate."""
    remarks = []
    if not math.isfinite(best.risk):
        remarks.append("every network diverged: nothing is known about the error")
    elif best.deviation > 0.2 * best.risk:
        remarks.append("the risk rests on few samples: its standard error is above a fifth of it")
    if capped:
        remarks.append(
            "the networks of the folds nearly interpolate their samples: how much more all samples will teach is not "
            "known, and assumed to be what it is for half as many coefficients as samples"
        )
    return remarks
