"""A race of growth paths: which settings go on to the next level, judged at held-out samples."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dnnfem.estimators.folds import Problem
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array
from dnnfem.spaces.layout import NetworkSpace

Network = tuple[NetworkSpace, Array]

CLEAR = 2.0
"""A paired difference of risks above so many standard errors is no accident."""

IMPROVEMENT = 0.2
"""The risk has to fall by this part below that of networks that are `SMALLER`: the next ones cost two or three times
as much."""

SMALLER = 0.6
"""Networks of at most this part of the coefficients are smaller: where the width doubles, it is slightly above 1/2."""

LOSSES = 2
"""Levels in succession on which a setting has to lose before it is given up."""


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
        False if not all folds were tried, as another setting was clearly better or the level did not pay.
    """

    setting: Hashable
    level: int
    space: NetworkSpace
    risk: float
    deviation: float
    training: float
    complete: bool


class Level:
    """A level of a path: losses at held-out samples and at those of the training, and networks, fold after fold."""

    def __init__(self) -> None:
        self.held: list[Array] = []
        self.training: list[Array] = []
        self.networks: list[Network] = []

    def __len__(self) -> int:
        return len(self.held)

    def risk(self, folds: int | None = None) -> float:
        """Return the mean loss at held-out samples, of all folds or of the first ones."""
        return float(np.mean(np.concatenate(self.held[:folds])))

    @property
    def dim(self) -> int:
        """Number of coefficients on the first fold."""
        return self.networks[0][0].dim

    def trial(self, setting: Hashable, number: int, complete: bool) -> Trial:
        """Return what is told about it."""
        losses, risk = np.concatenate(self.held), self.risk()
        deviation = float(np.std(losses) / math.sqrt(len(losses))) if math.isfinite(risk) else math.inf
        training = float(np.mean(np.concatenate(self.training)))
        return Trial(setting, number, self.networks[0][0], risk, deviation, training, complete)


class Runner:
    """A setting in the race.

    Attributes
    ----------
    setting, paths
        As given; one path per fold.
    taken : list of int
        Levels that each path has yielded so far.
    levels : dict of int to Level
        Those that were tried on all folds.
    now : Level
        The present one, as far as it was tried.
    lost : float
        By which part the risk is above that of one that is clearly better on the present level; 0 if none is.
    gaps : list of float
        The same for the last levels in succession that were lost.
    end : str
        Why it does not go on: ``"beaten"`` by others, ``"ended"`` by a level that did not pay, ``"exhausted"`` path;
        empty while it does.
    """

    def __init__(self, setting: Hashable, paths: Sequence[Iterator[Network]]) -> None:
        self.setting, self.paths = setting, paths
        self.taken = [0] * len(paths)
        self.levels: dict[int, Level] = {}
        self.now, self.lost = Level(), 0.0
        self.gaps: list[float] = []
        self.end = ""

    @property
    def best(self) -> int | None:
        """Number of the complete level with the lowest risk, the first one of equals."""
        return min(self.levels, key=lambda number: self.levels[number].risk(), default=None)

    def network(self, number: int, fold: int) -> Network | None:
        """Return the network of a level; levels of this fold that were not needed are passed over."""
        found: Network | None = None
        while self.taken[fold] <= number:
            found = next(self.paths[fold], None)
            if found is None:
                return None
            if not isinstance(found, tuple) or len(found) != 2:
                raise ValueError(f"path: yielded {found!r}, expected pairs (space, x)")
            self.taken[fold] += 1
        return found

    def pays(self) -> bool:
        """Return whether the present level is worth going on from; before the last fold, whether it still may be."""
        if self.best is None:
            return True
        hurdles = []
        smaller = [level for level in self.levels.values() if level.dim <= SMALLER * self.now.dim]
        if smaller:
            hurdles.append((min(smaller, key=Level.risk), 1.0 - IMPROVEMENT))
        if self.best != max(self.levels):
            hurdles.append((self.levels[self.best], 1.0))
        folds = len(self.now)
        complete = folds == len(self.paths)
        return all(self.now.risk() < (part if complete else 1.0) * level.risk(folds) for level, part in hurdles)


class Race:
    """Settings that start together and are compared after every fold of every level.

    Parameters
    ----------
    problem : Problem
    splits : sequence of (samples for the training, held-out samples)
    runners : sequence of Runner
    """

    def __init__(
        self, problem: Problem, splits: Sequence[tuple[Quadrature, Quadrature]], runners: Sequence[Runner]
    ) -> None:
        self.problem, self.splits, self.runners = problem, splits, runners
        self.trials: list[Trial] = []

    def run(self, number: int) -> bool:
        """Try a level with all settings that go on; return whether any goes on from there."""
        alive = [runner for runner in self.runners if not runner.end]
        for runner in alive:
            runner.now, runner.lost = Level(), 0.0
        self._compete(alive, number)
        for runner in alive:
            if len(runner.now) and runner.end != "exhausted":
                self._conclude(runner, number)
        return any(not runner.end for runner in self.runners)

    def _compete(self, alive: Sequence[Runner], number: int) -> None:
        """Try fold after fold; after each of them those stop that are clearly worse."""
        for fold in range(len(self.splits)):
            for runner in alive:
                if not runner.end and not runner.lost and len(runner.now) == fold:
                    self._advance(runner, number, fold)
            rivals = [runner for runner in alive if len(runner.now) and not runner.end and not runner.lost]
            for runner in rivals:
                runner.lost = self._behind(runner, rivals)
        complete = [runner for runner in alive if len(runner.now) == len(self.splits)]
        beaten = [runner for runner in alive if runner.lost and math.isfinite(runner.now.risk())]
        if beaten and complete and not any(math.isfinite(runner.now.risk()) for runner in complete):
            # The better ones have diverged on a later fold.
            for runner in beaten:
                runner.lost = 0.0
            self._compete(beaten, number)

    def _advance(self, runner: Runner, number: int, fold: int) -> None:
        network = runner.network(number, fold)
        if network is None:
            runner.end = "exhausted"
            return
        seen, held = self.splits[fold]
        runner.now.networks.append(network)
        runner.now.held.append(losses_at(self.problem, *network, held))
        runner.now.training.append(losses_at(self.problem, *network, seen))
        if len(self.splits) <= 2 * (fold + 1) < 2 * len(self.splits) and not runner.pays():
            runner.end = "ended"

    def _behind(self, runner: Runner, rivals: Sequence[Runner]) -> float:
        """Return by which part the risk is above the best one on this level, 0 unless this is clear.

        Settings whose paths are at an end take part with their best level.
        """
        levels = [other.now for other in rivals if other is not runner]
        levels += [other.levels[other.best] for other in self.runners if other.end and other.best is not None]
        folds = len(runner.now)
        best = min(levels, key=lambda level: level.risk(folds), default=None)
        if best is None or not clearly_worse(runner.now, best):
            return 0.0
        return runner.now.risk() / best.risk(folds) - 1.0 if best.risk(folds) > 0.0 else math.inf

    def _conclude(self, runner: Runner, number: int) -> None:
        """Record a level, and decide whether the setting goes on."""
        complete = len(runner.now) == len(self.splits)
        self.trials.append(runner.now.trial(runner.setting, number, complete))
        if complete:
            runner.end = "" if runner.pays() else "ended"
            runner.levels[number] = runner.now
        runner.gaps = [*runner.gaps, runner.lost] if runner.lost else []
        if len(runner.gaps) >= LOSSES and not runner.end:
            runner.end = "beaten"


def losses_at(problem: Problem, space: NetworkSpace, x: Array, samples: Quadrature) -> Array:
    """Return the loss of every sample times its relative weight; a diverged network loses infinitely."""
    density = problem.on(space, samples).samplewise(x) * len(samples) / samples.total
    return np.where(np.isfinite(density), density, np.inf)


def clearly_worse(level: Level, rival: Level) -> bool:
    """Return whether the losses are above those of another one on the folds that both have, which is no accident."""
    folds = min(len(level), len(rival))
    if not math.isfinite(rival.risk(folds)):
        return False
    if not math.isfinite(level.risk(folds)):
        return True
    difference = np.concatenate(level.held[:folds]) - np.concatenate(rival.held[:folds])
    return bool(np.mean(difference) > CLEAR * np.std(difference) / math.sqrt(len(difference)))
