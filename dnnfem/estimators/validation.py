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

IMPROVEMENT = 0.005
"""A level has to lower the risk by this part to count as better."""

ALIVE = 3
"""Settings that go on at most after the first level."""


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
    """One setting on one level: the mean loss at held-out samples and its standard error."""

    setting: Hashable
    level: int
    space: NetworkSpace
    risk: float
    deviation: float


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
    all samples has seen them, whatever is done to it later.  All settings start together; after every level those are
    dropped whose risk is worse than the best one's by more than the standard error of the paired difference.  It ends
    when `patience` levels in a row have not lowered the risk.

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
    trials: list[Trial] = []
    best: Trial | None = None
    without = 0
    for level in range(max_levels):
        losses = {}
        for setting, paths in alive.items():
            outcome = [next(one, None) for one in paths]
            if any(item is None for item in outcome):
                continue
            fields = [item for item in outcome if item is not None]
            losses[setting] = _losses(problem, fields, [held for _, held in splits])
            trials.append(_trial(setting, level, fields[0][0], losses[setting]))
        if not losses:
            break
        here = min((t for t in trials if t.level == level), key=lambda t: t.risk)
        without = 0 if best is None or here.risk < (1.0 - IMPROVEMENT) * best.risk else without + 1
        if best is None or here.risk < best.risk:
            best = here
        if without >= patience:
            break
        alive = {setting: alive[setting] for setting in _survivors(losses)}
    if best is None:
        raise ValueError("path: got one that yields nothing, expected at least one level")
    return Validation(
        best.setting, best.level, _estimate(trials, best), tuple(trials), _remarks(trials, best, settings)
    )


def _losses(problem: Problem, fields: Sequence[tuple[NetworkSpace, Array]], held: Sequence[Quadrature]) -> Array:
    """Return the loss of every held-out sample times its relative weight; a diverged network loses infinitely."""
    losses = []
    for (space, x), quadrature in zip(fields, held, strict=True):
        density = problem.on(space, quadrature).samplewise(x) * len(quadrature) / np.sum(quadrature.weights)
        losses.append(np.where(np.isfinite(density), density, np.inf))
    return np.concatenate(losses)


def _trial(setting: Hashable, level: int, space: NetworkSpace, losses: Array) -> Trial:
    risk = float(np.mean(losses))
    deviation = float(np.std(losses) / math.sqrt(len(losses))) if math.isfinite(risk) else math.inf
    return Trial(setting, level, space, risk, deviation)


def _survivors(losses: dict[Hashable, Array]) -> list[Hashable]:
    """Return the settings that are not worse than the best by more than the noise of the difference, best first."""
    order = sorted(losses, key=lambda setting: float(np.mean(losses[setting])))
    best = losses[order[0]]
    kept = [order[0]]
    for setting in order[1:ALIVE]:
        difference = losses[setting] - best
        if np.mean(difference) <= np.std(difference) / math.sqrt(len(best)):
            kept.append(setting)
    return kept


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
