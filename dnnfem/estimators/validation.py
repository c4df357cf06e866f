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

IMPROVEMENT = 0.2
"""A level has to lower the risk by this part to count as better: the next one would cost two or three times as much."""


FAR = 0.8
"""An estimate below this part of what was seen at held-out samples is an extrapolation to mention."""


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
    """One setting on one level.

    Attributes
    ----------
    setting, level, space
        What was tried.
    risk, deviation : float
        Mean loss at held-out samples, and its standard error.
    training : float
        Mean loss at the samples that the folds were trained with.
    complete : bool
        False if it was given up before all folds, as it was clearly worse than the best one.
    """

    setting: Hashable
    level: int
    space: NetworkSpace
    risk: float
    deviation: float
    training: float
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
    networks : tuple of (space, x)
        Those of the folds at the chosen level: any of them is a start for the solve on all samples.
    estimate : Estimate
        Of the root mean square misfit at unseen points of a network that is trained on all samples; one cell per level
        of the chosen setting.  Its parts are the standard error, and by how much a fold's network is worse as it has
        fewer samples, see `cross_validation`.
    trials : tuple of Trial
        Everything that was tried.
    remarks : tuple of str
        What speaks against trusting the estimate or the choice.
    """

    setting: Hashable
    level: int
    networks: tuple[tuple[NetworkSpace, Array], ...]
    estimate: Estimate
    trials: tuple[Trial, ...]
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{'level':>5} {'setting':>20} {'rms misfit':>11} {'+-':>9}  space"]
        for t in self.trials:
            rms = math.sqrt(2.0 * t.risk)
            mark = " <-" if (t.setting, t.level) == (self.setting, self.level) else ""
            mark = mark if t.complete else " (given up before all folds)"
            lines.append(f"{t.level:5d} {t.setting!s:>20} {rms:11.4e} {t.deviation / rms:9.1e}  {t.space}{mark}")
        return "\n".join([*lines, *self.remarks])


def cross_validation(
    problem: Problem,
    path: Path,
    settings: Sequence[Hashable],
    *,
    folds: int = 4,
    max_levels: int = 20,
    seed: int = 0,
) -> Validation:
    """Choose a setting and a level of a growth path, and estimate the error at unseen points.

    The *whole* path is repeated on the samples without each fold, and judged on that fold: a network that was grown on
    all samples has seen them, whatever is done to it later.  Settings race: one that is clearly worse than the best
    trial so far, by the standard error of the paired differences of losses, is given up, perhaps before all folds are
    tried.  The path of a setting ends at the level that does not lower its risk by a fifth, or does not lower it at
    all on the first half of the folds: the next level would cost two or three times as much.

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

    Notes
    -----
    A network that is trained on all ``n`` samples is better than those of the folds, trained on ``n'``.  For residual
    laws the effective number ``p`` of coefficients is taken from the gap between the losses at training samples and at
    held-out ones, ``E_held = E_training / (1 - p/n')^2``, the formula of generalized cross-validation, and
    ``E(n) = E_training / ((1 - p/n') (1 - p/n))``, which least squares with Gaussian inputs obey; for loss laws, to
    first order, ``E(n) = E_held - (E_held - E_training) (1 - n'/n) / 2``.

    References
    ----------
    Maron and Moore, Hoeffding races, Advances in Neural Information Processing Systems 6 (1994) 59-66.

    Golub, Heath and Wahba, Technometrics 21 (1979) 215-223.
    """
    samples = problem.quadrature
    if not 2 <= folds <= len(samples):
        raise ValueError(f"folds: got {folds}, expected 2 to {len(samples)} as there are {len(samples)} samples")
    if not settings or len(set(settings)) != len(settings):
        raise ValueError(f"settings: got {list(settings)}, expected at least one, all different")
    if max_levels < 1:
        raise ValueError(f"max_levels: got {max_levels}, expected a positive integer")
    place = np.arange(len(samples)) % folds
    generator(seed, len(samples), Purpose.FOLDS).shuffle(place)
    runs = min(folds, math.ceil(ENOUGH * folds / len(samples)))
    splits = [(samples.subset(place != k), samples.subset(place == k)) for k in range(runs)]
    alive = {setting: [path(train, setting) for train, _ in splits] for setting in settings}
    race = _Race(problem, splits)
    level = 0
    while alive and level < max_levels:
        alive = {setting: paths for setting, paths in alive.items() if race.run(setting, level, paths)}
        level += 1
    best = race.best
    if best is None:
        raise ValueError("path: got one that yields nothing, expected at least one level")
    own = [t for t in race.trials if t.setting == best.setting]
    squares = problem.on(best.space).dispersion is None
    estimate = _estimate(own, best, len(splits[0][0]) / len(samples), squares)
    remarks = _remarks(best, settings, best.setting in alive, estimate)
    return Validation(best.setting, best.level, tuple(race.networks), estimate, tuple(race.trials), remarks)


class _Race:
    """Trials so far, the best one, and the losses that others are compared with."""

    def __init__(self, problem: Problem, splits: Sequence[tuple[Quadrature, Quadrature]]) -> None:
        self.problem, self.splits = problem, splits
        self.trials: list[Trial] = []
        self.best: Trial | None = None
        self.networks: list[tuple[NetworkSpace, Array]] = []
        self.losses: dict[Hashable, list[Array]] = {}

    def run(self, setting: Hashable, level: int, paths: Sequence[Iterator[tuple[NetworkSpace, Array]]]) -> bool:
        """Try one setting on one level, fold after fold; return whether it goes on."""
        losses: list[Array] = []
        training: list[Array] = []
        networks: list[tuple[NetworkSpace, Array]] = []
        before, given_up = self.losses.get(setting), False
        for path, (seen, held) in zip(paths, self.splits, strict=True):
            network = next(path, None)
            if network is None:
                return False
            if not isinstance(network, tuple) or len(network) != 2:
                raise ValueError(f"path: yielded {network!r}, expected pairs (space, x)")
            networks.append(network)
            losses.append(_losses(self.problem, *network, held))
            training.append(_losses(self.problem, *network, seen))
            given_up = self.best is not None and _worse(losses, self.losses[self.best.setting])
            if before is not None and 2 * len(losses) >= len(self.splits):
                given_up |= float(np.mean(_difference(losses, before))) >= 0.0
            if given_up:
                break
        trial = _trial(setting, level, networks[0][0], losses, training, len(losses) == len(self.splits))
        self.trials.append(trial)
        if not trial.complete:
            return False
        pays = before is None or trial.risk < (1.0 - IMPROVEMENT) * float(np.mean(np.concatenate(before)))
        if self.best is None or trial.risk < self.best.risk:
            self.best, self.networks = trial, networks
        self.losses[setting] = losses
        return pays and not given_up


def _losses(problem: Problem, space: NetworkSpace, x: Array, held: Quadrature) -> Array:
    """Return the loss of every held-out sample times its relative weight; a diverged network loses infinitely."""
    density = problem.on(space, held).samplewise(x) * len(held) / np.sum(held.weights)
    return np.where(np.isfinite(density), density, np.inf)


def _worse(losses: Sequence[Array], best: Sequence[Array]) -> bool:
    """Return whether losses on the first folds are clearly above those of the best trial there."""
    difference = _difference(losses, best)
    if not np.isfinite(difference).all():
        return True
    return bool(np.mean(difference) > CLEAR * np.std(difference) / math.sqrt(len(difference)))


def _difference(losses: Sequence[Array], best: Sequence[Array]) -> Array:
    return np.concatenate(losses) - np.concatenate(best[: len(losses)])


def _trial(
    setting: Hashable, level: int, space: NetworkSpace, held: list[Array], training: list[Array], complete: bool
) -> Trial:
    losses = np.concatenate(held)
    risk = float(np.mean(losses))
    deviation = float(np.std(losses) / math.sqrt(len(losses))) if math.isfinite(risk) else math.inf
    return Trial(setting, level, space, risk, deviation, float(np.mean(np.concatenate(training))), complete)


def _on_all_samples(trial: Trial, share: float, squares: bool) -> float:
    """Return the risk after training on all samples, of which the folds had a share; see `cross_validation`."""
    if not trial.training < trial.risk < math.inf:
        return trial.risk
    if not squares:
        return trial.risk - 0.5 * (1.0 - share) * (trial.risk - trial.training)
    # 1 - p/n' = root, 1 - p/n = 1 - share (1 - root)
    root = math.sqrt(trial.training / trial.risk)
    return trial.risk * root / (1.0 - share * (1.0 - root))


def _estimate(own: Sequence[Trial], best: Trial, share: float, squares: bool) -> Estimate:
    totals = {t.level: math.sqrt(2.0 * _on_all_samples(t, share, squares)) for t in own}
    total, held = totals[best.level], math.sqrt(2.0 * best.risk)
    parts = {"standard error": best.deviation / held if held > 0.0 else 0.0, "fewer samples in the folds": held - total}
    indicators = np.array(list(totals.values()))
    return Estimate(
        "root mean square misfit sqrt(2 E L) at unseen points", np.array(list(totals)), indicators, total, parts=parts
    )


def _remarks(best: Trial, settings: Sequence[Hashable], open_end: bool, estimate: Estimate) -> tuple[str, ...]:
    remarks = []
    if open_end:
        remarks.append(f"the risk was still falling at level {best.level}: the path ended too early")
    if len(settings) > 2 and best.setting in (settings[0], settings[-1]):
        remarks.append(f"the chosen setting {best.setting} is at the end of those offered: offer more beyond it")
    if best.deviation > 0.2 * best.risk:
        remarks.append("the risk rests on few samples: its standard error is above a fifth of it")
    if estimate.total < FAR * math.sqrt(2.0 * best.risk):
        remarks.append(
            "the networks of the folds fit their samples much better than others: what all samples will make of it is "
            "extrapolated far"
        )
    return tuple(remarks)
