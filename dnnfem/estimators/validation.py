"""Cross-validation over the whole growth path: the error at unseen points, and which path to take."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dnnfem.functionals import Integral
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array, Estimate
from dnnfem.spaces import Purpose, generator
from dnnfem.spaces.layout import NetworkSpace

Path = Callable[[Quadrature, Hashable], Iterator[tuple[NetworkSpace, Array]]]
"""The user's loop as a generator: ``path(quadrature, setting)`` yields ``(space, x)`` after every level."""

ENOUGH = 2000
"""Held-out samples with which the standard error of a risk is a few per cent: further folds would add no knowledge."""

CLEAR = 2.0
"""A paired difference of risks above so many standard errors is no accident."""

IMPROVEMENT = 0.005
"""A level has to lower the risk by this part to count as better."""


class Problem(Protocol):
    """What has samples and can be discretized on some of them, such as `dnnfem.Regression`."""

    @property
    def quadrature(self) -> Quadrature:
        """The samples."""
        ...

    def on(self, space: NetworkSpace, quadrature: Quadrature | None = None) -> Integral:
        """Discretize."""
        ...


@dataclass(frozen=True)
class Trial:
    """One setting on one level: the mean loss at held-out samples and its standard error.

    `complete` is false if it was given up before all folds, as it was clearly worse than the best one.
    """

    setting: Hashable
    level: int
    space: NetworkSpace
    risk: float
    deviation: float
    complete: bool


@dataclass(frozen=True)
class Validation:
    """Result of `cross_validation`; printing it gives the table.

    Attributes
    ----------
    setting : hashable
        The chosen one.
    level : int
        The chosen level of its path, counted from 0.
    estimate : Estimate
        Of the root mean square misfit at unseen points; one cell per level of the chosen setting.
    trials : tuple of Trial
        Everything that was tried.
    remarks : tuple of str
        What speaks against trusting the estimate or the choice.
    """

    setting: Hashable
    level: int
    estimate: Estimate
    trials: tuple[Trial, ...]
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{'level':>5} {'setting':>20} {'rms misfit':>11} {'+-':>9}  space"]
        for t in self.trials:
            rms = math.sqrt(2.0 * t.risk)
            mark = " <-" if (t.setting, t.level) == (self.setting, self.level) else ""
            lines.append(f"{t.level:5d} {t.setting!s:>20} {rms:11.4e} {t.deviation / rms:9.1e}  {t.space}{mark}")
        return "\n".join([*lines, *self.remarks])


def cross_validation(
    problem: Problem,
    path: Path,
    settings: Sequence[Hashable],
    *,
    folds: int = 4,
    patience: int = 1,
    max_levels: int = 20,
    seed: int = 0,
) -> Validation:
    """Choose a setting and a level of a growth path, and estimate the error at unseen points.

    The *whole* path is repeated on the samples without each fold, and judged on that fold: a network that was grown on
    all samples has seen them, whatever is done to it later.  Settings race: one that is clearly worse than the best
    trial so far, by the standard error of the paired differences of losses, is given up for good, perhaps before all
    folds are tried.  The race ends when `patience` levels in a row have not lowered the risk.

    Parameters
    ----------
    problem : Problem
        Offers the samples; independent of each other.
    path : callable
        ``path(quadrature, setting)`` is a generator of ``(space, x)``, one per level, that must use no other samples
        than those of the quadrature.  It is only run as far as needed.
    settings : sequence of hashable
        What the paths differ in, e.g. weights of a penalty.
    folds : int
        Number of parts; with many samples not all of them are held out in turn, see `ENOUGH`.
    patience : int
        Levels without improvement before it ends.
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
        If there are fewer samples than folds, no settings, or a limit is not positive.
    """
    samples = problem.quadrature
    if not 2 <= folds <= len(samples):
        raise ValueError(f"folds: got {folds}, expected 2 to {len(samples)} as there are {len(samples)} samples")
    if not settings or len(set(settings)) != len(settings):
        raise ValueError(f"settings: got {list(settings)}, expected at least one, all different")
    if patience < 1 or max_levels < 1:
        raise ValueError(f"patience, max_levels: got {patience}, {max_levels}, expected positive integers")
    place = np.arange(len(samples)) % folds
    generator(seed, len(samples), Purpose.FOLDS).shuffle(place)
    runs = min(folds, math.ceil(ENOUGH * folds / len(samples)))
    splits = [(samples.subset(place != k), samples.subset(place == k)) for k in range(runs)]
    alive = {setting: [path(train, setting) for train, _ in splits] for setting in settings}
    race = _Race(problem, [held for _, held in splits])
    without = 0
    for level in range(max_levels):
        before = race.best
        alive = {setting: paths for setting, paths in alive.items() if race.run(setting, level, paths)}
        if not any(trial.level == level for trial in race.trials):
            break
        better = before is None or (race.best or before).risk < (1.0 - IMPROVEMENT) * before.risk
        without = 0 if better else without + 1
        if without >= patience or not alive:
            break
    if race.best is None:
        raise ValueError("path: got one that yields nothing, expected at least one level")
    return Validation(
        race.best.setting,
        race.best.level,
        _estimate(race.trials, race.best),
        tuple(race.trials),
        _remarks(race.trials, race.best, settings),
    )


class _Race:
    """Trials so far, the best one, and its losses, which all others are compared with."""

    def __init__(self, problem: Problem, held: Sequence[Quadrature]) -> None:
        self.problem, self.held = problem, held
        self.trials: list[Trial] = []
        self.best: Trial | None = None
        self.losses: list[Array] = []

    def run(self, setting: Hashable, level: int, paths: Sequence[Iterator[tuple[NetworkSpace, Array]]]) -> bool:
        """Try one setting on one level, fold after fold; return whether it goes on."""
        losses: list[Array] = []
        space: NetworkSpace | None = None
        worse = False
        for path, held in zip(paths, self.held, strict=True):
            field = next(path, None)
            if field is None:
                return False
            space = field[0]
            losses.append(_losses(self.problem, *field, held))
            worse = self.best is not None and _worse(losses, self.losses)
            if worse:
                break
        assert space is not None
        complete = len(losses) == len(self.held)
        trial = _trial(setting, level, space, np.concatenate(losses), complete)
        self.trials.append(trial)
        if complete and (self.best is None or trial.risk < self.best.risk):
            self.best, self.losses = trial, losses
        return not worse


def _losses(problem: Problem, space: NetworkSpace, x: Array, held: Quadrature) -> Array:
    """Return the loss of every held-out sample times its relative weight; a diverged network loses infinitely."""
    density = problem.on(space, held).samplewise(x) * len(held) / np.sum(held.weights)
    return np.where(np.isfinite(density), density, np.inf)


def _worse(losses: Sequence[Array], best: Sequence[Array]) -> bool:
    """Return whether losses on the first folds are clearly above those of the best trial there."""
    mine, other = np.concatenate(losses), np.concatenate(best[: len(losses)])
    if not np.isfinite(mine).all():
        return True
    difference = mine - other
    return bool(np.mean(difference) > CLEAR * np.std(difference) / math.sqrt(len(difference)))


def _trial(setting: Hashable, level: int, space: NetworkSpace, losses: Array, complete: bool) -> Trial:
    risk = float(np.mean(losses))
    deviation = float(np.std(losses) / math.sqrt(len(losses))) if math.isfinite(risk) else math.inf
    return Trial(setting, level, space, risk, deviation, complete)


def _estimate(trials: Sequence[Trial], best: Trial) -> Estimate:
    own = [t for t in trials if t.setting == best.setting]
    total = math.sqrt(2.0 * best.risk)
    return Estimate(
        "root mean square misfit sqrt(2 E L) at unseen points",
        np.array([t.level for t in own]),
        np.array([math.sqrt(2.0 * t.risk) for t in own]),
        total,
        parts={"standard error": best.deviation / total if total > 0.0 else 0.0},
    )


def _remarks(trials: Sequence[Trial], best: Trial, settings: Sequence[Hashable]) -> tuple[str, ...]:
    remarks = []
    last = max(t.level for t in trials)
    if best.level == last:
        remarks.append(f"the risk was still falling at the last level {last}: the path ended too early")
    if len(settings) > 2 and best.setting in (settings[0], settings[-1]):
        remarks.append(f"the chosen setting {best.setting} is at the end of those offered: offer more beyond it")
    if best.deviation > 0.2 * best.risk:
        remarks.append("the risk rests on few samples: its standard error is above a fifth of it")
    return tuple(remarks)
